# SPDX-License-Identifier: Apache-2.0
"""A sampler run inside a node, with somebody looking on."""

from __future__ import annotations

from typing import Any

import comfy.sample
import comfy.samplers
import torch

from ..sla2_nodes import attend
from ..sla2_nodes.engine import Plan
from . import patching


def watched(model: Any, sla2: Any, plan: Plan, observe: Any, name: str) -> Any:
    """The MODEL with dense attention and an observer of it, in place of an SLA2 node that may be on it."""
    active = attend.Attend(sla2, plan, name=name)
    active.observe = observe
    return patching.apply(model, active)


def run(model: Any, positive: Any, negative: Any, latent: Any, sigmas: Any, *, cfg: float, seed: int, callback: Any = None) -> Any:
    """Euler over the given sigmas, from the latent noised to the first of them."""
    image = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    noise = comfy.sample.prepare_noise(image, seed)
    sampler = comfy.samplers.sampler_object("euler")
    sigmas = torch.as_tensor(sigmas, dtype=torch.float32)
    return comfy.sample.sample_custom(
        model, noise, cfg, sampler, sigmas, positive, negative, image, callback=callback, disable_pbar=True, seed=seed
    )
