# SPDX-License-Identifier: Apache-2.0
"""Router packs: checked against the model at hand, and named."""

from __future__ import annotations

import logging
import re
from typing import Any

LOG = logging.getLogger("sla2")
SUFFIX = ".sla2.safetensors"
NONE = "none"


def geometry(diffusion_model: Any) -> dict[str, int]:
    """layers, heads and head_dim of a Wan-like model. Raises ValueError for another kind."""
    blocks, heads, dim = (getattr(diffusion_model, name, None) for name in ("blocks", "num_heads", "dim"))
    if blocks is None or not heads or not dim:
        raise ValueError(
            f"{type(diffusion_model).__name__} has no list of blocks with a number of heads; router packs are for Wan models: "
            "choose the pack 'none'"
        )
    return {"layers": len(blocks), "heads": int(heads), "head_dim": int(dim) // int(heads)}


def fingerprints(sla2: Any, diffusion_model: Any) -> dict[str, str]:
    """base_shapes and base_weights of the model; empty where its weights are of a kind that cannot be read."""
    from sla2.packs import fingerprints as read

    try:
        shapes, weights = read(diffusion_model.state_dict())
    except Exception as error:  # quantised or offloaded weights of some other pack
        LOG.info("SLA2: the model's weights could not be read for a fingerprint (%s)", error)
        return {}
    return {"base_shapes": shapes, "base_weights": weights}


def check(sla2: Any, pack: Any, diffusion_model: Any) -> Any:
    """The pack, if it fits the model; warnings go to the console. Raises the wheel's ModelMismatchError with both geometries."""
    size = geometry(diffusion_model)
    pack.check(**size)
    for warning in pack.check(**size, **fingerprints(sla2, diffusion_model)):
        LOG.warning("SLA2: %s", warning)
    return pack


def file_name(name: str) -> str:
    """A plain file name with the suffix. Raises ValueError for anything that could leave the folder."""
    stem = name.strip().removesuffix(SUFFIX).removesuffix(".safetensors")
    if not re.fullmatch(r"[\w][\w .+-]{0,99}", stem):
        raise ValueError(f"name is {name!r}; expected letters, digits, spaces and . + - _, without folders")
    return stem + SUFFIX
