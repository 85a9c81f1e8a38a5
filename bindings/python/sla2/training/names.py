# SPDX-License-Identifier: Apache-2.0
"""Names of a Wan transformer's weights: diffusers, original, and ComfyUI (the original ones behind `diffusion_model.`)."""

from __future__ import annotations

import re
from collections.abc import Iterable

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.", "transformer.")
NAMINGS = ("original", "comfyui", "diffusers")
_TO_ORIGINAL = (
    (r"^condition_embedder\.text_embedder\.linear_1", "text_embedding.0"),
    (r"^condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
    (r"^condition_embedder\.time_embedder\.linear_1", "time_embedding.0"),
    (r"^condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
    (r"^condition_embedder\.time_proj", "time_projection.1"),
    (r"^scale_shift_table", "head.modulation"),
    (r"^proj_out", "head.head"),
    (r"\.scale_shift_table", ".modulation"),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_out\.0", ".o"),
    (r"\.to_([qkv])\b", r".\1"),
    (r"\.norm2\.", ".norm3."),
    (r"\.ffn\.net\.0\.proj", ".ffn.0"),
    (r"\.ffn\.net\.2", ".ffn.2"),
)


def original(name: str) -> str:
    """The original name of a weight that diffusers has under `name`."""
    for pattern, new in _TO_ORIGINAL:
        name = re.sub(pattern, new, name)
    return name


def named(name: str, naming: str) -> str:
    """A diffusers name in another naming."""
    if naming == "diffusers":
        return name
    return ("diffusion_model." if naming == "comfyui" else "") + original(name)


def find(wanted: Iterable[str], there: Iterable[str]) -> dict[str, str]:
    """Which of the names `there`, whatever their naming and prefix, holds each wanted diffusers name."""
    plain: dict[str, str] = {}
    for name in there:
        for prefix in PREFIXES:
            if name.startswith(prefix):
                plain[name[len(prefix) :]] = name
                break
        else:
            plain[name] = name
    return {name: plain[key] for name in wanted for key in (name, original(name)) if key in plain}
