# SPDX-License-Identifier: Apache-2.0
"""What a call of one layer says about mixing and routing: some of its query blocks, computed fully and sparsely, kept as few numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sla2 import _attention

_NEVER = -60.0  #: a logit at which a, the softmax branch's share, is below float32's rounding


@dataclass(frozen=True)
class Blocks:
    """Sizes of routed blocks, and how keys enter the feature map."""

    q: int
    k: int
    smooth_k: bool = True

    @property
    def options(self) -> dict[str, Any]:
        return {"block_q": self.q, "block_k": self.k, "smooth_k": self.smooth_k}


def block_means(x: Tensor, size: int) -> Tensor:
    """Means of consecutive tokens [..., T, D]; a ragged last block divides by its own length."""
    whole = x.shape[-2] // size * size
    parts = [x[..., :whole, :].reshape(*x.shape[:-2], -1, size, x.shape[-1]).mean(-2)] if whole else []
    if whole < x.shape[-2]:
        parts.append(x[..., whole:, :].mean(-2, keepdim=True))
    return torch.cat(parts, -2)


def lengths(tokens: int, size: int) -> Tensor:
    """Keys in each block [T]."""
    return torch.tensor([min(size, tokens - begin) for begin in range(0, tokens, size)], dtype=torch.float32)


def choose(q: Tensor, blocks: Blocks, count: int, random: np.random.Generator) -> Tensor:
    """Some whole query blocks of q [B,H,N,D], one after the other; all of q where it has no whole block."""
    whole = q.shape[2] // blocks.q
    if whole == 0:
        return q
    chosen = np.sort(random.choice(whole, min(count, whole), replace=False))
    return torch.cat([q[:, :, i * blocks.q : (i + 1) * blocks.q] for i in chosen], 2).contiguous()


def mixing_rows(
    q: Tensor, k: Tensor, v: Tensor, sparsity: float, blocks: Blocks, learned: dict[str, Any], threads: int
) -> NDArray[np.float32] | None:
    """The six numbers of each row, [H, B·n, 6], of q [B,H,n,D] in whole blocks over all keys and values [B,H,N,D].

    learned: router_q, router_k, or nothing. None where this sparsity skips no block.
    """
    common: dict[str, Any] = {"threads": threads, **blocks.options}
    sparse, info = _attention.attention(q, k, v, mode="sparse_only", sparsity=sparsity, return_info=True, **learned, **common)
    if info["mode_used"] == "full":
        return None
    index, count = info["blocks"]
    given: dict[str, Any] = {"router": "given", "blocks": (index, count), "sparsity": sparsity, **common}
    linear = _attention.attention(q, k, v, mode="sla2", mix="const", mix_bias=_NEVER, **given)
    pooled = _attention.attention(q, k, v, mode="pooled", **given)
    full = _attention.attention(q, k, v, mode="full", threads=threads)
    e, d, delta = full - linear, sparse - linear, _delta(q, k, torch.from_numpy(info["lse"]), index, count, blocks)
    columns = [delta, (e * d).sum(-1), (d * d).sum(-1), (e * e).sum(-1), (full * full).sum(-1), (pooled - full).square().sum(-1)]
    rows: NDArray[np.float32] = torch.stack(columns, -1).transpose(0, 1).flatten(1, 2).numpy()
    return rows


def _delta(q: Tensor, k: Tensor, lse: Tensor, index: NDArray[np.int32], count: NDArray[np.int32], blocks: Blocks) -> Tensor:
    """L − L_rest [B,H,n]: log-sum-exp over the kept keys minus the pooled estimate of the others, both on keys minus their mean."""
    scale, mean = q.shape[-1] ** -0.5, k.mean(2, keepdim=True)
    pooled = scale * block_means(q, blocks.q) @ (block_means(k, blocks.k) - mean).transpose(-1, -2)
    kept = torch.zeros(pooled.shape, dtype=torch.bool)
    valid = torch.arange(index.shape[-1]) < torch.from_numpy(count)[..., None]
    kept.scatter_(-1, torch.where(valid, torch.from_numpy(index), torch.from_numpy(index[..., :1])).long(), True)
    weighted = pooled + lengths(k.shape[2], blocks.k).log()
    rest = weighted.masked_fill(kept, -math.inf).logsumexp(-1)
    rows = rest.repeat_interleave(blocks.q, -1)[..., : q.shape[2]]
    delta: Tensor = lse - scale * (q * mean).sum(-1) - rows
    return delta


@dataclass(frozen=True)
class Routing:
    """What a router sees, and what it should say: means of queries and keys, and the true share of each key block, heads first."""

    q: Tensor  #: [H, n, D] float16
    k: Tensor  #: [H, T, D] float16, minus their mean
    share: Tensor  #: [H, n, T] float16, rows add up to 1
    lengths: Tensor  #: [T]


def routing(q: Tensor, k: Tensor, blocks: Blocks) -> list[Routing]:
    """One per batch row, from q [B,H,n,D] in whole blocks over all keys [B,H,N,D]."""
    sizes = lengths(k.shape[2], blocks.k)
    found = []
    for one_q, one_k in zip(q, k, strict=True):
        mean = one_k.mean(1, keepdim=True)
        shares = []
        for part in one_q.split(blocks.q, 1):  # a block of rows at a time: [H, rows, N] is the most that is held
            weights = (q.shape[-1] ** -0.5 * part @ one_k.transpose(-1, -2)).softmax(-1).mean(1)
            shares.append(torch.stack([x.sum(-1) for x in weights.split(blocks.k, -1)], -1))
        found.append(
            Routing(
                block_means(one_q, blocks.q).half(),
                (block_means(one_k, blocks.k) - mean).half(),
                torch.stack(shares, 1).half(),
                sizes,
            )
        )
    return found
