# SPDX-License-Identifier: Apache-2.0
"""Prompts in the server's format."""

from __future__ import annotations

from typing import Any

SPARSE: dict[str, Any] = dict(
    preset="custom", keep_percent=25.0, bits="16", mode="auto", router_pack="none", start_percent=0.0, end_percent=1.0,
    dense_first_steps=0, dense_last_steps=0, dense_blocks="", min_tokens=0, token_order="auto", probe_percent=0.0, verbose=True,
)  # fmt: skip


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def video(
    path: str, *, checkpoint: str = "t2v.safetensors", image: bool = False, seed: int = 1, frames: int = 9, cfg: float = 3.0, steps: int = 3
) -> dict[str, Any]:
    """Text or image to video, latent only, saved to a file. The sampler's model is node 1."""
    return {
        "1": node("UNETLoader", unet_name=checkpoint, weight_dtype="default"),
        "2": node("EmptyHunyuanLatentVideo", width=256, height=128, length=frames, batch_size=1),
        "3": node("TestConditioning", seed=11, length=512, image=image, latent=["2", 0]),
        "4": node("TestConditioning", seed=12, length=512, image=image, latent=["2", 0]),
        "5": node("KSampler", model=["1", 0], seed=seed, steps=steps, cfg=cfg, sampler_name="euler", scheduler="simple",
                  positive=["3", 0], negative=["4", 0], latent_image=["2", 0], denoise=1.0),
        "6": node("TestSaveLatent", latent=["5", 0], path=path),
    }  # fmt: skip


def sparse(graph: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """The same with SLA2 Attention before the sampler and SLA2 Report after it."""
    graph = dict(graph)
    graph["20"] = node("SLA2Attention", model=["1", 0], **SPARSE | settings)
    graph["5"] = {**graph["5"], "inputs": {**graph["5"]["inputs"], "model": ["20", 0]}}
    graph["21"] = node("SLA2Report", model=["20", 0], after=["5", 0])
    return graph


def referenced(graph: dict[str, Any], keep_percent: float) -> dict[str, Any]:
    """The same with the independent SLA2 of the tests."""
    graph = dict(graph)
    graph["20"] = node("TestReference", model=["1", 0], keep_percent=keep_percent)
    graph["5"] = {**graph["5"], "inputs": {**graph["5"]["inputs"], "model": ["20", 0]}}
    return graph
