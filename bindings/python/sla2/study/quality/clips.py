# SPDX-License-Identifier: Apache-2.0
"""Latents of larger and longer clips of the small world: 256 x 256 pixels, 29 frames, 2,048 tokens.

Sparsity means something only where a row has many key blocks; the shipped size has 320 tokens.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .. import latents, world
from ..optim import fast_products, save
from ..vae_train import encode_keyframes, load, to_tensor

SHARD = 16


class Size(NamedTuple):
    """Pixels a side, frames, and the token grid (frames, rows, columns) they make."""

    pixels: int
    frames: int

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens per axis: the VAE halves time twice and space thrice, the patch space once more."""
        return (self.frames + 3) // 4, self.pixels // 16, self.pixels // 16

    @property
    def tokens(self) -> int:
        """Tokens of a clip."""
        frames, rows, columns = self.grid
        return frames * rows * columns


LARGE = Size(256, 29)


@torch.no_grad()
def write(work: Path, size: Size, train: int, test: int) -> None:
    """Encode clips shard by shard to ``work``/latents; shards that exist are kept. Test scenes are held-out combinations."""
    vae = load(work / "vae.pt")
    for which, count in (("test", test), ("train", train)):
        for shard in range(count // SHARD):
            path, start = work / "large" / f"{which}_{shard:04d}.pt", time.time()
            if path.exists():
                continue
            out, scenes = [], []
            for i in range(shard * SHARD, (shard + 1) * SHARD):
                scene, seed = latents.plan(which, i)
                key = world.render(scene, seed, size.pixels, range(0, size.frames, 4), size.frames)
                with fast_products():
                    out.append(encode_keyframes(vae, to_tensor(key[None])).half())
                scenes.append(tuple(scene))
            save(path, {"latents": torch.cat(out), "scenes": scenes})
            print(f"{path.name} {(time.time() - start) / SHARD:.3f} s a clip", flush=True)


@functools.cache
def read(work: Path, which: str) -> tuple[Tensor, list[world.Scene]]:
    """Return latents [n, 16, t, h, w] as the VAE gives them, float32, and their scenes."""
    parts = [torch.load(p, weights_only=False) for p in sorted((work / "large").glob(f"{which}_*.pt"))]
    if not parts:
        raise FileNotFoundError(f"no {which} latents in {work / 'large'}: run `python -m sla2.study.quality clips` first")
    return torch.cat([p["latents"] for p in parts]).float(), [world.Scene(*s) for p in parts for s in p["scenes"]]
