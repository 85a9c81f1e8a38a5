# SPDX-License-Identifier: Apache-2.0
"""Router matrices for one layer: W = I + up·down per head, so that logits of block means rank blocks by their true share.

First by KL divergence from the true shares, on few numbers that were kept; then, if asked, by the attention's own error through a soft
mask (SoftTop-k). Both are judged by what a hard choice would catch on calls that were held out, head by head: no better, no change.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sla2 import autograd
from sla2.calibration.measure import Blocks, Routing

_KL_STEPS, _KL_RATE = 120, 2e-3
_SOFT_STEPS, _SOFT_RATE = 6, 2e-3  #: steps a call


class LowRank:
    """up [H,D,r] and down [H,r,D] of W_q and W_k; identity at first."""

    def __init__(self, heads: int, dim: int, rank: int, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        self.up = [torch.zeros(heads, dim, rank) for _ in range(2)]
        self.down = [torch.randn(heads, rank, dim, generator=random) / dim**0.5 for _ in range(2)]

    def matrices(self) -> tuple[Tensor, Tensor]:
        """W_q, W_k [H,D,D]."""
        eye = torch.eye(self.up[0].shape[1])
        w_q, w_k = (eye + up @ down for up, down in zip(self.up, self.down, strict=True))
        return w_q, w_k

    def state(self) -> list[Tensor]:
        return [x.detach().clone() for x in (*self.up, *self.down)]

    def load(self, state: list[Tensor], heads: Tensor | None = None) -> None:
        """Take a state, of those heads [H] that are true, or of all."""
        for mine, theirs in zip((*self.up, *self.down), state, strict=True):
            with torch.no_grad():
                mine.copy_(theirs if heads is None else torch.where(heads[:, None, None], theirs, mine))

    def requires_grad_(self, wanted: bool) -> list[Tensor]:
        for x in (*self.up, *self.down):
            x.requires_grad_(wanted)
        return [*self.up, *self.down]


def _logits(data: Routing, w_q: Tensor, w_k: Tensor) -> Tensor:
    q, k = data.q.float() @ w_q, data.k.float() @ w_k
    out: Tensor = q.shape[-1] ** -0.5 * q @ k.transpose(-1, -2)
    return out


def caught(data: list[Routing], w_q: Tensor, w_k: Tensor, sparsity: float) -> Tensor:
    """Mean true share [H] of the blocks that a hard choice by these matrices keeps, of what the best choice would."""
    total = []
    for one in data:
        keep = max(1, int((1 - sparsity) * one.share.shape[-1] + 0.5))
        share = one.share.float()
        mine = share.gather(-1, _logits(one, w_q, w_k).topk(keep, -1).indices).sum(-1)
        total.append((mine / share.topk(keep, -1).values.sum(-1)).mean(-1))
    return torch.stack(total).mean(0)


def fit_kl(router: LowRank, seen: list[Routing], held_out: list[Routing], sparsity: float) -> None:
    """Bring softmax over block logits close to the true shares of `seen`; keep, head by head, the best state on `held_out`."""
    judged = held_out or seen
    best, best_state = caught(judged, *router.matrices(), sparsity), router.state()
    parameters = router.requires_grad_(True)
    optimiser = torch.optim.Adam(parameters, lr=_KL_RATE)
    for step in range(1, _KL_STEPS + 1):
        optimiser.zero_grad()
        w_q, w_k = router.matrices()
        loss = torch.stack(
            [-(x.share.float() * (_logits(x, w_q, w_k) + x.lengths.log()).log_softmax(-1)).sum(-1).mean() for x in seen]
        ).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % 20 == 0:
            with torch.no_grad():
                now = caught(judged, *router.matrices(), sparsity)
            better = now > best
            best = torch.where(better, now, best)
            best_state = [torch.where(better[:, None, None], new, old) for new, old in zip(router.state(), best_state, strict=True)]
    router.requires_grad_(False)
    router.load(best_state)


class SoftRefiner:
    """Steps of Adam on |attention through a soft mask − full attention|² of the calls that pass by."""

    def __init__(self, router: LowRank, blocks: Blocks, sparsity: float) -> None:
        self.router, self.blocks, self.sparsity = router, blocks, sparsity
        self.before = router.state()
        self._optimiser = torch.optim.Adam(router.requires_grad_(True), lr=_SOFT_RATE)
        router.requires_grad_(False)

    def see(self, q: Tensor, k: Tensor, v: Tensor, full: Tensor, tau: float) -> None:
        """A few steps on q [B,H,n,D] in whole blocks over all k, v [B,H,N,D]."""
        for _ in range(_SOFT_STEPS):
            self._step(q, k, v, full, tau)

    def _step(self, q: Tensor, k: Tensor, v: Tensor, full: Tensor, tau: float) -> None:
        with torch.enable_grad():
            self.router.requires_grad_(True)
            w_q, w_k = self.router.matrices()
            out = autograd.attention(q, k, v, sparsity=self.sparsity, tau=tau, router_q=w_q, router_k=w_k, **self.blocks.options)
            self._optimiser.zero_grad()
            (F.mse_loss(out, full, reduction="sum") / full.square().sum().clamp_min(1e-12)).backward()  # type: ignore[no-untyped-call]
            self._optimiser.step()
            self.router.requires_grad_(False)

    def finish(self, held_out: list[Routing]) -> None:
        """Keep the new state of those heads that catch more with it on `held_out`, the earlier one of the others."""
        if not held_out:
            return
        after = caught(held_out, *self.router.matrices(), self.sparsity)
        state = self.router.state()
        self.router.load(self.before)
        self.router.load(state, after > caught(held_out, *self.router.matrices(), self.sparsity))
