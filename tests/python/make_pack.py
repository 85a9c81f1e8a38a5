# SPDX-License-Identifier: Apache-2.0
"""Router packs with random tensors for the random models of make_tiny_model.py, written from libsla2/docs/router_pack.md alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def base_of(dit: Path) -> tuple[str, str]:
    """base_shapes and base_weights of a DiT file with diffusers' names."""
    import torch
    from safetensors.torch import load_file

    state = load_file(dit)
    lines, layer = "", 0
    while f"blocks.{layer}.attn1.to_q.weight" in state:
        for which in "qk":
            rows, columns = state[f"blocks.{layer}.attn1.to_{which}.weight"].shape
            lines += f"blocks.{layer}.self_attn.{which}.weight:{rows}x{columns}\n"
        layer += 1
    weight = state["blocks.0.attn1.to_q.weight"].to(torch.bfloat16).contiguous()
    return hashlib.sha256(lines.encode()).hexdigest(), hashlib.sha256(weight.view(torch.uint8).numpy().tobytes()).hexdigest()


def random_tensors(layers, *, mode="sla2", alpha_mode="head_affine_lse", kappa="0.25", heads=2, dim=32, router="head", blocks=0, seed=0):
    """{name: tensor} for these layers. router: head, shared, low_rank or none; `blocks`: T_m of alpha_mode block."""
    import torch

    g = torch.Generator().manual_seed(seed)

    def matrix(*shape):
        return torch.randn(shape, generator=g)

    tensors = {}
    for layer in layers:
        head = f"blocks.{layer}.self_attn.sla2."
        for which in ("proj_q", "proj_k"):
            if router == "low_rank":
                tensors[f"{head}{which}.down"] = 0.3 * matrix(heads, 3, dim)
                tensors[f"{head}{which}.up"] = 0.3 * matrix(heads, dim, 3)
            elif router != "none":
                tensors[f"{head}{which}"] = matrix(heads if router == "head" else 1, dim, dim) / dim**0.5 + torch.eye(dim)
        kappas = kappa.split(",")
        shape = {"head_affine_lse": (heads, 2), "head_scalar": (heads,), "block": (heads, blocks)}.get(alpha_mode)
        if mode == "sla2" and shape:
            for one in kappas:
                name = "alpha" if len(kappas) == 1 else f"alpha.k{round(float(one) * 1e4):04d}"
                tensors[head + name] = matrix(*shape)
        if mode == "sla1":
            tensors[head + "proj_l.weight"] = matrix(dim, dim) / dim**0.5
            tensors[head + "proj_l.bias"] = 0.3 * matrix(dim)
    return tensors


def write_pack(path: Path, model: Path, tensors: dict, **metadata) -> Path:
    """A pack for the model in a folder of make_tiny_model; metadata given here wins, None leaves a key out."""
    from safetensors.torch import save_file

    shapes, weights = base_of(model / "dit.safetensors")
    values = {
        "format": "libsla2.router_pack",
        "version": "1",
        "layers": "2",
        "heads": "2",
        "head_dim": "32",
        "block_q": "32",
        "block_k": "16",
        "kappa": "0.25",
        "base": "tiny_random",
        "base_shapes": shapes,
        "base_weights": weights,
        "errors": json.dumps({"relative_l1": 0.125}),
        **metadata,
    }
    save_file(tensors, path, metadata={key: str(value) for key, value in values.items() if value is not None})
    return path
