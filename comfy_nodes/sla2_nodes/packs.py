# SPDX-License-Identifier: Apache-2.0
"""Router packs: opened by the wheel, checked against the model at hand."""

from __future__ import annotations

import logging
from typing import Any

LOG = logging.getLogger("sla2")
SUFFIX = ".safetensors"
NONE = "none"


def geometry(diffusion_model: Any) -> tuple[int, int, int]:
    """Layers, heads and head size of a Wan-like model. Raises ValueError for another kind."""
    blocks, heads, dim = (getattr(diffusion_model, name, None) for name in ("blocks", "num_heads", "dim"))
    if blocks is None or not heads or not dim:
        raise ValueError(
            f"{type(diffusion_model).__name__} has no list of blocks with a number of heads; router packs are for Wan models: "
            "choose the pack 'none'"
        )
    return len(blocks), int(heads), int(dim) // int(heads)


def check(pack: Any, diffusion_model: Any) -> Any:
    """The pack, if it fits the model; warnings go to the console. Raises the wheel's ModelMismatchError with both geometries."""
    layers, heads, head_dim = geometry(diffusion_model)
    for warning in pack.check(layers=layers, heads=heads, head_dim=head_dim):
        LOG.warning("SLA2: %s", warning)
    return pack
