# SPDX-License-Identifier: Apache-2.0
"""Fixed (clip, caption, noise, level) tuples with the teacher's velocities: every arm sees the very same ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import world
from ..dit_train import HELD_OUT_SHIFT, noise_levels
from ..optim import fast_products, save
from ..text import Encoder
from . import clips, teacher

BINS = 5
FIRST_TEST = 16  # held-out clips before this one served the teacher's own training and the first stage


@dataclass
class Pair:
    """One question to the model: latents, text rows, noise, level, and what the teacher answers."""

    prompt: int
    bin: int
    sigma: float
    x0: Tensor
    noise: Tensor
    context: Tensor
    teacher: Tensor | None = None

    @property
    def noisy(self) -> Tensor:
        """The model's input."""
        return (1 - self.sigma) * self.x0 + self.sigma * self.noise


def velocity(model, pair: Pair) -> Tensor:
    """Return the model's velocity for a pair, float32 [1, 16, t, h, w]."""
    with fast_products():
        return model(pair.noisy, torch.tensor([1000 * pair.sigma]), pair.context, return_dict=False)[0].float()


def _pairs(work: Path, which: str, plan: list[tuple[int, int, float, int, int]], mean: Tensor, std: Tensor) -> list[Pair]:
    """Build pairs of (clip, bin, level, noise seed, caption seed)."""
    raw, scenes = clips.read(work, which)
    text, out = Encoder(work / "text.pt"), []
    with torch.no_grad():
        for clip, number, sigma, noise_seed, words in plan:
            x0 = (raw[clip : clip + 1] - mean) / std
            noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(noise_seed))
            out.append(Pair(clip, number, sigma, x0, noise, text([world.caption(scenes[clip], words)]).clone()))
    return out


@cache
def training(work: Path, seed: int, count: int, batch: int, answers: bool = True) -> list[Pair]:
    """Return the tuples of a training seed, in order; levels are stratified in each batch. Teacher velocities are cached."""
    model, mean, std = teacher.load(work)
    rng, plan = np.random.default_rng((seed, 4)), []
    available = len(clips.read(work, "train")[0])
    for first in range(0, count, batch):
        for i, sigma in enumerate(noise_levels(rng, batch, HELD_OUT_SHIFT).tolist()):
            plan.append(
                (int(rng.integers(available)), int(sigma * BINS), sigma, 1_000_000 * (seed + 1) + first + i, int(rng.integers(1 << 30)))
            )
    pairs = _pairs(work, "train", plan[:count], mean, std)
    return _answer(work / "quality" / f"pool_{seed}_{count}_{batch}.pt", model, pairs) if answers else pairs


@cache
def held_out(work: Path, prompts: int) -> list[Pair]:
    """Return the evaluation's tuples: held-out combinations, two levels a prompt, each bin equally often."""
    model, mean, std = teacher.load(work)
    rng, plan = np.random.default_rng(6), []
    for i in range(prompts):
        for j in range(2):
            number = (i + 2 * j) % BINS
            plan.append((FIRST_TEST + i, number, (number + float(rng.uniform(0.1, 0.9))) / BINS, 77_000_000 + 2 * i + j, i))
    return _answer(work / "quality" / f"held_out_{prompts}.pt", model, _pairs(work, "test", plan, mean, std))


@torch.no_grad()
def _answer(path: Path, model, pairs: list[Pair]) -> list[Pair]:
    """Fill in the teacher's velocities, from the cache where it is there."""
    if not path.exists():
        save(path, {"teacher": torch.cat([velocity(model, p) for p in pairs])})
    for pair, u in zip(pairs, torch.load(path)["teacher"]):
        pair.teacher = u[None]
    return pairs
