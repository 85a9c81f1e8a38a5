# SPDX-License-Identifier: Apache-2.0
"""Nodes that only tests use: random conditioning, latents to a file, and an independent SLA2 in the place of the real one."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

sys.path.insert(0, os.environ["SLA2_TESTS"])
from reference import sla2 as reference


class Conditioning:
    """[1, length, 4096] of noise; with `image`, what an image-to-video model is given besides."""

    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"seed": ("INT", {}), "length": ("INT", {}), "image": ("BOOLEAN", {}), "latent": ("LATENT",)}}
    )
    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "make", "test"

    def make(self, seed: int, length: int, image: bool, latent: Any) -> Any:
        source = torch.Generator().manual_seed(seed)
        words: dict[str, Any] = {}
        if image:
            shape = latent["samples"].shape
            words["concat_latent_image"] = torch.randn(shape, generator=source)
            words["concat_mask"] = torch.ones(1, 1, *shape[2:])
            words["clip_vision_output"] = SimpleNamespace(penultimate_hidden_states=torch.randn(1, 257, 1280, generator=source))
        return ([[torch.randn(1, length, 4096, generator=source), words]],)


class SaveLatent:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"latent": ("LATENT",), "path": ("STRING", {})}})
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "save", "test", True

    def save(self, latent: Any, path: str) -> Any:
        np.save(path, latent["samples"].cpu().numpy())
        return {}


class Reference:
    """SLA2 in fp64 on the same hook, for models whose texts differ in length from the video."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",), "keep_percent": ("FLOAT", {})}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "test"

    def patch(self, model: Any, keep_percent: float) -> Any:
        def override(func: Any, q: Any, k: Any, v: Any, heads: int, *args: Any, **kwargs: Any) -> Any:
            if q.shape != k.shape:
                return func(q, k, v, heads, *args, **kwargs)
            split = [t.unflatten(-1, (heads, -1)) for t in (q, k, v)]
            return reference(*split, 1 - keep_percent / 100).float().flatten(2)

        clone = model.clone()
        clone.model_options["transformer_options"]["optimized_attention_override"] = override
        return (clone,)


NODE_CLASS_MAPPINGS = {"TestConditioning": Conditioning, "TestSaveLatent": SaveLatent, "TestReference": Reference}
