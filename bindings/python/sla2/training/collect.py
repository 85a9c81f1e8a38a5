# SPDX-License-Identifier: Apache-2.0
"""Queries, keys and values of a model's self-attention, kept on disk: a file for each layer, clip and noise level."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sla2.diffusers import attach
from sla2.errors import FileFormatError
from sla2.training import files
from sla2.training.data import Batch, Samples, held_out
from sla2.training.models import velocity


def path_of(folder: Path, split: str, clip: int, level: float, layer: int) -> Path:
    return folder / f"{split}_{clip:04d}_{round(1e4 * level):05d}" / f"layer_{layer:03d}.safetensors"


def read(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [1, H, N, D] in float32."""
    try:
        with safe_open(path, "pt") as file:
            q, k, v = (file.get_tensor(name).float()[None] for name in ("q", "k", "v"))
    except (SafetensorError, OSError) as error:
        raise FileFormatError(f"{path}: cannot be read: {error}; remove the file and run again") from error
    return q, k, v


@torch.no_grad()
def collect(
    model: nn.Module, samples: Samples, count: int, levels: list[float], layers: list[int], folder: Path, device: torch.device
) -> None:
    """Run the first `count` clips at each level and keep q, k, v [H,N,D] (bfloat16) of the layers. Files that exist are kept."""
    batch = held_out(samples, count, levels).to(device)
    clips = [(i, level) for i in range(min(count, len(samples))) for level in levels]
    for at, (clip, level) in enumerate(clips):
        paths = {layer: path_of(folder, samples.split, clip, level, layer) for layer in layers}
        if all(path.is_file() for path in paths.values()):
            continue
        attachment = attach(model, _recorders(paths))
        try:
            _forward(model, batch.part(at, at + 1))
        finally:
            attachment.detach()
        print(f"kept {samples.split} clip {clip} at level {level:g}: {len(paths)} layers", flush=True)


def _recorders(paths: dict[int, Path]) -> Callable[[int, int, int], Callable[..., None] | None]:
    def make(layer: int, heads: int, head_dim: int) -> Callable[..., None] | None:
        if layer not in paths:
            return None

        def record(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> None:
            """Write and return None: the model then computes full attention itself."""
            found = {name: x[0].transpose(0, 1).bfloat16() for name, x in (("q", q), ("k", k), ("v", v))}
            files.save(paths[layer], found, remedy="check the free space, or fit fewer layers at a time (fit.layers)")

        return record

    return make


def _forward(model: nn.Module, batch: Batch) -> None:
    velocity(model, batch.noisy, batch.sigma, batch.context)
