# SPDX-License-Identifier: Apache-2.0
"""Random Wan checkpoints small enough for a test: 2 layers, 2 heads of 128, in the original naming."""

from __future__ import annotations

from typing import Any

import torch

DIM, FFN, LAYERS, TEXT_DIM = 256, 512, 2, 4096


def state_dict(kind: str = "t2v", seed: int = 0) -> dict[str, Any]:
    """kind: t2v, i2v, vace, ref (reference latents). Every parameter is random; trivial norms would hide mistakes."""
    import comfy.ldm.wan.model as wan
    import comfy.ops

    words: dict[str, Any] = dict(dim=DIM, ffn_dim=FFN, num_heads=DIM // 128, num_layers=LAYERS, text_dim=TEXT_DIM, in_dim=16, out_dim=16)
    words |= dict(operations=comfy.ops.disable_weight_init, device="cpu", dtype=torch.float32)
    if kind == "vace":
        model = wan.VaceWanModel(vace_layers=1, vace_in_dim=96, **words)
    elif kind == "i2v":
        model = wan.WanModel(model_type="i2v", **words | {"in_dim": 36})
    elif kind == "ref":
        model = wan.WanModel(model_type="t2v", in_dim_ref_conv=16, **words)
    else:
        model = wan.WanModel(model_type="t2v", **words)
    source = torch.Generator().manual_seed(seed)
    weights = {}
    for name, value in model.state_dict().items():
        random = torch.randn(value.shape, generator=source)
        fan = value[0].numel() if value.dim() > 1 else 1
        weights[name] = 1 + 0.2 * random if "norm" in name and name.endswith("weight") else random / max(4.0, fan**0.5)
    return weights


def load(kind: str = "t2v", seed: int = 0) -> Any:
    """A ModelPatcher, through core's own detection."""
    import comfy.sd

    model = comfy.sd.load_diffusion_model_state_dict(state_dict(kind, seed))
    assert model is not None, f"core did not detect the {kind} checkpoint"
    return model
