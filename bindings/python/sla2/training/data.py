# SPDX-License-Identifier: Apache-2.0
"""Training data: safetensors shards of latents and text contexts, and which samples a step takes.

A folder holds `train_*.safetensors` and `test_*.safetensors`. Each shard has

    latents  [n, C, F, H, W]  as the transformer sees them (normalised), any floating type
    context  [n, L, D]        rows of the text encoder, zero past the prompt's end
    empty    [L, D]           optional: the empty prompt's rows, for guidance

All shards of a folder have the same C, F, H, W and L, D. `write_shard` writes one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sla2.errors import FileFormatError, FileMissingError
from sla2.training import files

_SEED = 1_000_003  # keeps the generators of a step's samples apart


def write_shard(path: str | Path, latents: Tensor, context: Tensor, empty: Tensor | None = None) -> None:
    """Write a shard so that `path` is always a whole file. latents [n,C,F,H,W], context [n,L,D], empty [L,D]."""
    tensors = {"latents": latents, "context": context} | ({} if empty is None else {"empty": empty})
    files.save(path, tensors, {"format": "sla2.training_shard", "version": "1"})


@dataclass(frozen=True)
class _Shard:
    path: Path
    count: int


class Samples:
    """The samples of one split, read one at a time."""

    def __init__(self, folder: str | Path, split: str) -> None:
        self.folder, self.split = Path(folder), split
        paths = sorted(self.folder.glob(f"{split}_*.safetensors"))
        if not str(folder) or not paths:
            raise FileMissingError(
                f"data.path {str(self.folder)!r}: holds no {split}_*.safetensors; expected shards as docs/training.md describes"
            )
        self.empty: Tensor | None = None
        self.shards: list[_Shard] = []
        self.shape: tuple[int, ...] = ()
        self.context_shape: tuple[int, ...] = ()
        for path in paths:
            self._add(path)
        self.where = [(shard, i) for shard in self.shards for i in range(shard.count)]

    def _add(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
                empty = file.get_tensor("empty").float() if "empty" in shapes else None
        except (SafetensorError, OSError) as error:
            raise FileFormatError(f"{path}: the shard cannot be read: {error}; write it again") from error
        latents, context = shapes.get("latents", ()), shapes.get("context", ())
        if len(latents) != 5 or len(context) != 3 or latents[0] != context[0] or not latents[0]:
            raise FileFormatError(
                f"{path}: latents {list(latents)} and context {list(context)}; expected [n,C,F,H,W] and [n,L,D]: write it again"
            )
        if self.shards and (latents[1:], context[1:]) != (self.shape, self.context_shape):
            raise FileFormatError(f"{path}: samples are {list(latents[1:])} with {list(context[1:])}; the other shards have {list(self.shape)} with {list(self.context_shape)}: give each size a folder of its own")  # fmt: skip
        self.shape, self.context_shape = latents[1:], context[1:]
        self.empty = empty if empty is not None else self.empty
        self.shards.append(_Shard(path, latents[0]))

    def __len__(self) -> int:
        return len(self.where)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Latents [C,F,H,W] and context [L,D] of a sample, float32. Raises FileFormatError for NaN and unreadable shards."""
        shard, i = self.where[index]
        try:
            with safe_open(shard.path, "pt") as file:
                found = file.get_slice("latents")[i].float(), file.get_slice("context")[i].float()
        except (SafetensorError, OSError) as error:
            raise FileFormatError(f"{shard.path}: sample {i} cannot be read: {error}; write the shard again") from error
        if not all(torch.isfinite(x).all() for x in found):
            raise FileFormatError(f"{shard.path}: sample {i} holds NaN or infinity; write the shard again")
        return found


def generator(*numbers: int) -> torch.Generator:
    """A generator of its own for (seed, step, place, …): nothing of it needs saving, and no process changes another's numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * _SEED + number + 1) % (1 << 62)
    return torch.Generator().manual_seed(seed)


def order(count: int, first: int, many: int, seed: int) -> list[int]:
    """Samples `first` … `first + many − 1` of an endless walk over `count` samples, shuffled anew each time round."""
    found: list[int] = []
    rounds: dict[int, list[int]] = {}
    for i in range(first, first + many):
        lap = i // count
        if lap not in rounds:
            rounds[lap] = torch.randperm(count, generator=generator(seed, 7, lap)).tolist()
        found.append(rounds[lap][i % count])
    return found


def shifted(u: Tensor, shift: float) -> Tensor:
    """Noise levels of u in (0, 1): shift·u / (1 + (shift − 1)·u)."""
    return shift * u / (1 + (shift - 1) * u)


@dataclass
class Batch:
    """clean [B,C,F,H,W], noise of that shape, sigma [B], context [B,L,D]."""

    clean: Tensor
    noise: Tensor
    sigma: Tensor
    context: Tensor

    @property
    def noisy(self) -> Tensor:
        sigma = self.sigma.view(-1, 1, 1, 1, 1)
        return (1 - sigma) * self.clean + sigma * self.noise

    def part(self, start: int, end: int) -> Batch:
        return Batch(*(x[start:end] for x in (self.clean, self.noise, self.sigma, self.context)))

    def to(self, device: torch.device) -> Batch:
        return Batch(*(x.to(device) for x in (self.clean, self.noise, self.sigma, self.context)))


def draw(samples: Samples, step: int, batch: int, places: range, *, seed: int, shift: float, drop_context: float) -> Batch:
    """The samples at these places of the global batch of a step. Levels are stratified over the whole batch."""
    picked = order(len(samples), step * batch, batch, seed)
    strata = torch.randperm(batch, generator=generator(seed, 11, step))
    clean, noise, sigma, context = [], [], [], []
    for place in places:
        random = generator(seed, 13, step, place)
        latents, rows = samples.read(picked[place])
        u = (strata[place] + torch.rand((), generator=random)) / batch
        if samples.empty is not None and torch.rand((), generator=random) < drop_context:
            rows = samples.empty
        clean.append(latents)
        noise.append(torch.randn(latents.shape, generator=random))
        sigma.append(shifted(u, shift))
        context.append(rows)
    return Batch(*(torch.stack(x) for x in (clean, noise, sigma, context)))


def held_out(samples: Samples, count: int, levels: list[float]) -> Batch:
    """Fixed samples, noises and levels: each of the first `count` at every level, levels fastest."""
    clean, noise, sigma, context = [], [], [], []
    for i in range(min(count, len(samples))):
        latents, rows = samples.read(i)
        for level in levels:
            clean.append(latents)
            noise.append(torch.randn(latents.shape, generator=generator(5, i, round(1e4 * level))))
            sigma.append(torch.tensor(level))
            context.append(rows)
    return Batch(*(torch.stack(x) for x in (clean, noise, sigma, context)))
