# SPDX-License-Identifier: Apache-2.0
"""One layer's router and mixing numbers while they are fitted: soft loss, hard error, closed refit."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sla2.autograd import attention
from sla2.calibration import fit as mixing
from sla2.calibration import measure
from sla2.training import collect
from sla2.training.config import Config


@lru_cache(maxsize=8)
def _read(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    return collect.read(path)


class Piece:
    """q, k, v [1, H, N, D] of one layer, clip and noise level, in the order that attention sees."""

    def __init__(self, source: Path | tuple[Tensor, Tensor, Tensor], order: Tensor | None, block_q: int) -> None:
        self.source, self.order, self.block_q = source, order, block_q
        self._full: dict[tuple[int, ...], Tensor] = {}

    def qkv(self) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = _read(self.source) if isinstance(self.source, Path) else self.source
        return (q, k, v) if self.order is None else (q[:, :, self.order], k[:, :, self.order], v[:, :, self.order])

    def _count(self) -> int:
        return -(-self.qkv()[0].shape[2] // self.block_q)

    def some(self, most: int, random: torch.Generator) -> tuple[int, ...]:
        """Up to `most` query blocks, ascending."""
        return tuple(sorted(torch.randperm(self._count(), generator=random)[:most].tolist()))

    def spread(self, most: int) -> tuple[int, ...]:
        """Up to `most` query blocks, evenly spread, always the same."""
        count = self._count()
        return tuple(sorted({i * count // min(most, count) for i in range(min(most, count))}))

    def rows(self, q: Tensor, blocks: tuple[int, ...]) -> Tensor:
        return torch.cat([q[:, :, i * self.block_q : (i + 1) * self.block_q] for i in blocks], 2)

    def full(self, blocks: tuple[int, ...], keep: bool = False) -> Tensor:
        """Full attention of these query blocks, [1, H, n, D]."""
        if blocks not in self._full:
            q, k, v = self.qkv()
            out = F.scaled_dot_product_attention(self.rows(q, blocks), k, v)
            if not keep:
                return out
            self._full[blocks] = out
        return self._full[blocks]


class LayerRouter:
    """proj_q, proj_k [1 or H, D, D] and alpha, on pieces."""

    def __init__(self, config: Config, heads: int, head_dim: int) -> None:
        own = config.attention
        self.config, self.heads = config, heads
        self.blocks = measure.Blocks(own.block_q, own.block_k, own.smooth_k)
        routers = 1 if own.shared_router else heads
        self.proj_q, self.proj_k = (torch.eye(head_dim).repeat(routers, 1, 1).requires_grad_() for _ in range(2))
        self.alpha: Tensor | None = None
        if own.mode == "sla2":
            start = torch.tensor(mixing.DEFAULT).repeat(heads, 1) if own.alpha_mode == "head_affine_lse" else torch.full((heads,), 0.85)
            self.alpha = start.requires_grad_()
        self._by_block: Tensor | None = None  # [H, T_m], of alpha_mode block; one number a head trains in its stead

    def _options(self, sparsity: bool = True) -> dict[str, Any]:
        own = self.config.attention
        found: dict[str, Any] = {"mode": own.mode, "block_q": own.block_q, "block_k": own.block_k, "smooth_k": own.smooth_k}
        return found | {"router_q": self.proj_q, "router_k": self.proj_k} | ({"sparsity": own.sparsity} if sparsity else {})

    def _mix(self, blocks: tuple[int, ...] | None = None) -> dict[str, Any]:
        if self.alpha is None:
            return {}
        if self._by_block is not None and blocks is not None:
            return {"mix": self._by_block[:, list(blocks)].contiguous(), "mix_mode": "block"}
        return {"mix": self.alpha, "mix_mode": "head_affine_lse" if self.alpha.ndim == 2 else "head_scalar"}

    def loss(self, piece: Piece, blocks: tuple[int, ...], tau: float, straight_through: bool) -> Tensor:
        """Squared error relative to full attention, a mean over heads; tau 0: divergence from the true mass of the blocks instead."""
        q, k, v = piece.qkv()
        q = piece.rows(q, blocks)
        if tau == 0:
            return self._divergence(q, k)
        out = attention(q, k, v, tau=tau, **self._options(), **self._mix())
        if straight_through:
            hard = attention(q, k, v, **self._options(), **self._mix())
            out = out + (hard - out).detach()
        full = piece.full(blocks)
        return ((out - full).square().sum((0, 2, 3)) / full.square().sum((0, 2, 3)).clamp_min(1e-20)).mean()

    def _divergence(self, q: Tensor, k: Tensor) -> Tensor:
        """Of softmax over block logits from the share of full attention that each key block truly takes."""
        with torch.no_grad():
            seen = measure.routing(q, k, self.blocks)[0]
        logits = (seen.q.float() @ self.proj_q) @ (seen.k.float() @ self.proj_k).mT * q.shape[-1] ** -0.5 + seen.lengths.log()
        divergence: Tensor = -(seen.share.float() * logits.log_softmax(-1)).sum(-1).mean()
        return divergence

    @torch.no_grad()
    def hard_error(self, pieces: list[Piece]) -> Tensor:
        """[H]: ‖O − O_full‖ / ‖O_full‖ of the hard mask over fixed query blocks of all pieces."""
        sums = torch.zeros(2, self.heads, dtype=torch.float64)
        for piece in pieces:
            q, k, v = piece.qkv()
            blocks = piece.spread(self.config.fit.query_blocks)
            out = attention(piece.rows(q, blocks), k, v, **self._options(), **self._mix(blocks))
            full = piece.full(blocks, keep=True)
            sums += torch.stack([x.double().square().sum((0, 2, 3)) for x in (out - full, full)])
        return (sums[0] / sums[1].clamp_min(1e-30)).sqrt()

    @torch.no_grad()
    def refit(self, pieces: list[Piece]) -> None:
        """alpha anew, in closed form under the hard mask (sla2.calibration.fit)."""
        if self.alpha is None:
            return
        own, found = self.config.attention, []
        by_block = own.alpha_mode == "block"
        learned = {"router_q": self.proj_q.detach(), "router_k": self.proj_k.detach()}
        for piece in pieces:
            q, k, v = piece.qkv()
            rows = q if by_block else piece.rows(q, piece.spread(self.config.fit.query_blocks))
            numbers = measure.mixing_rows(rows, k, v, own.sparsity, self.blocks, learned, torch.get_num_threads())
            if numbers is None:
                return  # every block is kept: nothing is mixed
            found.append(numbers.astype(np.float64))
        if by_block:  # every piece has the same rows [H, N, 6]
            parts = np.split(np.stack(found, 1), range(own.block_q, found[0].shape[1], own.block_q), axis=2)
            self._by_block = torch.from_numpy(np.stack([mixing.fit(part.reshape(self.heads, -1, mixing.COLUMNS), "head_scalar") for part in parts], 1))  # fmt: skip
        else:
            self.alpha.copy_(torch.from_numpy(mixing.fit(np.concatenate(found, 1), own.alpha_mode)))

    def state(self) -> dict[str, Tensor]:
        """Copies under a pack's names."""
        found = {"proj_q": self.proj_q, "proj_k": self.proj_k}
        if self.alpha is not None:
            found["alpha"] = self.alpha if self._by_block is None else self._by_block
        return {name: value.detach().clone() for name, value in found.items()}
