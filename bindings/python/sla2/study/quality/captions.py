# SPDX-License-Identifier: Apache-2.0
"""Do clips of the shipped model still show what their captions say with its router packs? Python sampler, detectors of the small world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ...diffusers import attach
from ...nn import SparseAttention
from ...packs import RouterPack
from ..detect import accuracy, detect
from ..measure import half_width, tasks
from ..sample import Pipeline


def layer_of(pack: RouterPack, index: int) -> SparseAttention:
    """Return a layer's attention as the pack says."""
    module = SparseAttention(
        pack.heads, pack.head_dim, mode=pack.mode, sparsity=1 - pack.kappa[0], bits=pack.bits, alpha_mode=pack.alpha_mode, layout="BNHD",
        block_q=pack.block_q, block_k=pack.block_k, token_order=pack.token_order, smooth_k=pack.smooth_k,
    )  # fmt: skip
    learned = pack.layer(index)
    with torch.no_grad():
        for name, key in (("proj_q", "router_q"), ("proj_k", "router_k"), ("alpha", "mix_values")):
            getattr(module, name).copy_(torch.from_numpy(learned[key].copy()))
    return module.requires_grad_(False)


def measure(model: Path, packs: dict[str, Path | None], count: int, seed: int = 0) -> dict[str, Any]:
    """Return the accuracy per attribute of each arm over the same held-out prompts and noises; None: full attention."""
    pipeline, work = Pipeline(model), tasks(count, seed)
    found: dict[str, Any] = {}
    for name, path in packs.items():
        attachment = None
        if path is not None:
            pack = RouterPack.load(path)
            attachment = attach(pipeline.dit, lambda i, heads, dim, pack=pack: layer_of(pack, i))
        pairs = []
        for i in range(0, count, 4):
            part = work[i : i + 4]
            clips = pipeline([p for _, p, _ in part], [s for _, _, s in part])
            pairs += [(scene, detect(clip)) for (scene, _, _), clip in zip(part, clips)]
        if attachment is not None:
            attachment.detach()
        shares = accuracy(pairs)
        found[name] = {"count": count, "accuracy": shares, "half_width_95": {k: round(half_width(v, count), 4) for k, v in shares.items()}}
        print(name, found[name], flush=True)
    return found


def write(model: Path, folder: Path, count: int, path: Path) -> None:
    """Measure full attention and every pack of ``folder``."""
    packs = {p.name.split(".")[0]: p for p in sorted(folder.glob("*.sla2.safetensors"))}
    path.write_text(json.dumps(measure(model, {"full": None, **packs}, count), indent=1) + "\n")
