# SPDX-License-Identifier: Apache-2.0
"""One layer's router and mixing numbers while they are fitted: soft loss, hard error, closed refit."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sla2 import mixing
from sla2.autograd import attention, attention_and_blocks
from sla2.training import collect
from sla2.training.config import Config

_FAR = 40.0  # a logit that leaves one branch alone


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

    def logits(self, q: Tensor, k: Tensor, identity: bool = False) -> Tensor:
        """R [H, T_m, T_n] of the rows q [1,H,n,D] and all keys."""
        own = self.config.attention
        q_mean, k_mean = _means(q[0], own.block_q), _means((k - k.mean(2, keepdim=True))[0], own.block_k)
        if not identity:
            q_mean, k_mean = q_mean @ self.proj_q, k_mean @ self.proj_k
        logits: Tensor = q_mean @ k_mean.mT * q.shape[-1] ** -0.5
        return logits

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
        own = self.config.attention
        with torch.no_grad():
            mass = []  # [H, T_n] of each query block: the share of full attention that its keys take
            for rows in torch.split(q, own.block_q, 2):
                share = torch.softmax(rows[0] @ k[0].mT * q.shape[-1] ** -0.5, -1).mean(1)
                mass.append(torch.stack([part.sum(-1) for part in torch.split(share, own.block_k, -1)], -1))
            true = torch.stack(mass, 1)
        return F.kl_div(torch.log_softmax(self.logits(q, k), -1), true, reduction="sum") / true[..., 0].numel()

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
        """alpha anew, in closed form under the hard mask (sla2.mixing)."""
        if self.alpha is None:
            return
        own, rows = self.config.attention, []
        by_block = own.alpha_mode == "block"
        for piece in pieces:
            blocks = tuple(range(piece._count())) if by_block else piece.spread(self.config.fit.query_blocks)
            rows.append(self._statistics(piece, blocks))
        if by_block:  # every piece has the same rows
            numerator, denominator = (torch.stack([r[i] for r in rows]).sum(0).numpy() for i in (0, 1))
            self._by_block = torch.from_numpy(mixing.blocks(numerator, denominator, own.block_q))
            return
        numerator, denominator, contrast = (torch.cat([r[i] for r in rows], -1).numpy() for i in range(3))
        self.alpha.copy_(torch.from_numpy(mixing.fit(own.alpha_mode, numerator, denominator, contrast)))

    def _statistics(self, piece: Piece, blocks: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Of every row: ⟨F − O_l, O_s − O_l⟩, ‖O_s − O_l‖² and L − L_rest, [H, n] in float64."""
        own = self.config.attention
        q, k, v = piece.qkv()
        q, full = piece.rows(q, blocks), piece.full(blocks, keep=own.alpha_mode != "block")
        branches = []
        for logit in (_FAR, -_FAR):
            out, lse, index, count = attention_and_blocks(
                q, k, v, mix=torch.full((self.heads,), logit), mix_mode="head_scalar", **self._options()
            )
            branches.append(out[0].numpy())
        numerator, denominator = mixing.statistics(branches[0], branches[1], full[0].numpy())
        contrast = self._contrast(q, k, lse[0], index[0].long(), count[0])
        return torch.from_numpy(numerator), torch.from_numpy(denominator), contrast

    def _contrast(self, q: Tensor, k: Tensor, lse: Tensor, index: Tensor, count: Tensor) -> Tensor:
        """L − L_rest, both on keys minus their mean, [H, n]."""
        own, scale = self.config.attention, q.shape[-1] ** -0.5
        pooled = self.logits(q, k, identity=True).double()  # [H, T_m, T_n]
        lengths = torch.tensor([len(part) for part in torch.split(torch.arange(k.shape[2]), own.block_k)], dtype=torch.float64)
        kept = torch.zeros_like(pooled, dtype=torch.bool)
        valid = torch.arange(index.shape[-1]) < count[..., None]
        kept.scatter_(-1, index.where(valid, index[..., :1]), True)
        rest = torch.logsumexp((pooled + lengths.log()).masked_fill(kept, -torch.inf), -1)  # [H, T_m]
        centred = lse.double() - scale * (q[0].double() @ k[0].double().mean(1)[..., None])[..., 0]
        contrast: Tensor = centred - rest.repeat_interleave(own.block_q, -1)[:, : q.shape[2]]
        return contrast

    def state(self) -> dict[str, Tensor]:
        """Copies under a pack's names."""
        found = {"proj_q": self.proj_q, "proj_k": self.proj_k}
        if self.alpha is not None:
            found["alpha"] = self.alpha if self._by_block is None else self._by_block
        return {name: value.detach().clone() for name, value in found.items()}


def _means(x: Tensor, size: int) -> Tensor:
    """Means of consecutive groups of rows [..., n, D], the last one as long as it is."""
    return torch.stack([part.mean(-2) for part in torch.split(x, size, -2)], -2)
