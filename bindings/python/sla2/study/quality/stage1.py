# SPDX-License-Identifier: Apache-2.0
"""The first stage on the teacher's queries, keys and values: router by KL and SoftTop-k, then the mixing on the hard mask.

Per head, what has the least hard-mask error on validation clips is kept; the identity router stands among the candidates.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...diffusers import attach
from ...nn import SparseAttention
from . import clips, pool, teacher
from .arms import BLOCKS
from .pool import Pair, velocity


class Sample(NamedTuple):
    """One call of one layer: q, k, v and full output [1, N, H, D] in bfloat16; the softmax mass of each block [H, T_m, T_n]."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    mass: Tensor


def full(q: Tensor, k: Tensor, v: Tensor, blocks: tuple[int, int] = (BLOCKS["block_q"], BLOCKS["block_k"])) -> tuple[Tensor, Tensor]:
    """Return full attention's output [1, N, H, D] in float32, and each block's mean mass per query [H, T_m, T_n]."""
    with torch.autocast("cpu", enabled=False):
        q, k, v = (x[0].transpose(0, 1).float() for x in (q, k, v))
        weights = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1)
        heads, tokens = weights.shape[:2]
        mass = weights.view(heads, tokens // blocks[0], blocks[0], -1, blocks[1]).sum(-1).mean(2)
        return (weights @ v).transpose(0, 1)[None], mass


@torch.no_grad()
def capture(model, pairs: list[Pair]) -> list[list[Sample]]:
    """Return samples [layer][pair] of a model with full attention."""
    seen: list[list[Sample]] = []

    def make(layer: int, heads: int, head_dim: int):
        seen.append([])

        def look(q: Tensor, k: Tensor, v: Tensor, **_) -> None:
            out, mass = full(q, k, v)
            seen[layer].append(Sample(*(x.bfloat16() for x in (q, k, v, out)), mass))

        return look

    attachment = attach(model, make)
    for pair in pairs:
        velocity(model, pair)
    attachment.detach()
    return seen


def apply(module: SparseAttention, sample: Sample) -> Tensor:
    """Return the module's output for a sample, [1, N, H, D]."""
    return module(sample.q, sample.k, sample.v, grid=clips.LARGE.grid)


def head_errors(out: Tensor, wanted: Tensor) -> Tensor:
    """Return ‖out - wanted‖ / ‖wanted‖ per head, [H], of [1, N, H, D]."""
    gap = (out.float() - wanted.float()).square().sum((0, 1, 3))
    return (gap / wanted.float().square().sum((0, 1, 3))).sqrt()


def pooled(x: Tensor, block: int) -> Tensor:
    """Return block means [H, blocks, D] of [1, N, H, D]."""
    return x[0].float().unflatten(0, (-1, block)).mean(1).transpose(0, 1)


def kept(module: SparseAttention, sample: Sample) -> Tensor:
    """Return the hard mask [H, T_m, T_n] (bool) of a module with a learned router or the identity, rows' largest logits."""
    qp, kp = pooled(sample.q, module.options["block_q"]), pooled(sample.k, module.options["block_k"])
    logits = (qp @ module.proj_q) @ (kp @ module.proj_k).mT
    count = max(1, round((1 - module.sparsity) * logits.shape[-1]))
    return torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, logits.topk(count, -1).indices, True)


def recall(mask: Tensor, mass: Tensor) -> Tensor:
    """Return the mean true mass on the kept blocks per head, [H]."""
    return (mask * mass).sum(-1).mean(-1)


def fit_kl(module: SparseAttention, samples: list[Sample], steps: int, rate: float = 5e-3) -> None:
    """Move the router towards the true block mass: cross entropy of softmax(R) with it. Costs next to nothing."""
    qp = torch.stack([pooled(s.q, module.options["block_q"]) for s in samples])
    kp = torch.stack([pooled(s.k - s.k.mean(1, keepdim=True), module.options["block_k"]) for s in samples])
    mass = torch.stack([s.mass for s in samples])
    opt = torch.optim.Adam([module.proj_q, module.proj_k], lr=rate)
    for _ in range(steps):
        logits = (qp @ module.proj_q) @ (kp @ module.proj_k).mT * qp.shape[-1] ** -0.5
        loss = -(mass * logits.log_softmax(-1)).sum(-1).mean() * logits.shape[2]
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()


def fit_soft(module: SparseAttention, samples: list[Sample], steps: int, rate: float = 1e-3) -> None:
    """The paper's first stage: the soft mask's output towards full attention's, tau falling from 0.3 to 0.1."""
    opt = torch.optim.Adam([module.proj_q, module.proj_k, module.alpha], lr=rate)
    for step in range(steps):
        module.tau = 0.3 - 0.2 * step / max(1, steps - 1)
        sample = samples[step % len(samples)]
        loss = head_errors(apply(module, sample), sample.out).square().sum()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
    module.tau = 0.0


def fit_alpha(module: SparseAttention, samples: list[Sample], steps: int, rate: float = 0.15) -> None:
    """Fit the mixing numbers on the hard mask by least squares."""
    opt = torch.optim.Adam([module.alpha], lr=rate)
    for step in range(steps):
        for group in opt.param_groups:
            group["lr"] = rate * (1 - step / steps)
        sample = samples[step % len(samples)]
        loss = head_errors(apply(module, sample), sample.out).square().sum()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()


@torch.no_grad()
def fit_projection(module: SparseAttention, samples: list[Sample], ridge: float = 1e-3) -> None:
    """Start SLA's projection from the least squares of O_full - O_s on O_l, over all heads."""
    size = module.head_dim
    gram, right = torch.zeros(size + 1, size + 1), torch.zeros(size + 1, size)
    for s in samples:
        module.proj_l.weight.zero_()
        alone = apply(module, s).float()
        module.proj_l.weight.copy_(torch.eye(size))
        linear = (apply(module, s).float() - alone).reshape(-1, size)
        x = torch.cat([linear, torch.ones(len(linear), 1)], 1)
        gram += x.T @ x
        right += x.T @ (s.out.float() - alone).reshape(-1, size)
    solved = torch.linalg.solve(gram + ridge * gram.diagonal().mean() * torch.eye(size + 1), right)
    module.proj_l.weight.copy_(solved[:-1].T)
    module.proj_l.bias.copy_(solved[-1])


@torch.no_grad()
def errors(module: SparseAttention, samples: list[Sample]) -> Tensor:
    """Return the mean relative error per head, [H]."""
    return torch.stack([head_errors(apply(module, s), s.out) for s in samples]).mean(0)


def fit_layer(module: SparseAttention, train: list[Sample], check: list[Sample], steps: dict[str, int]) -> dict[str, Tensor]:
    """Run the first stage for one layer in place. Returns the candidates' validation errors [H]."""
    candidates: dict[str, SparseAttention] = {"identity": module}
    candidates["kl"] = copy.deepcopy(module)
    fit_kl(candidates["kl"], train, steps["kl"])
    if steps["soft"]:
        candidates["soft"] = copy.deepcopy(candidates["kl"])
        fit_soft(candidates["soft"], train, steps["soft"])
        candidates["soft"].alpha = nn.Parameter(module.alpha.detach().clone())
    for candidate in candidates.values():
        fit_alpha(candidate, train, steps["alpha"])
    found = {name: errors(candidate, check) for name, candidate in candidates.items()}
    best = torch.stack(list(found.values())).argmin(0).tolist()
    with torch.no_grad():
        states = [c.state_dict() for c in candidates.values()]
        merged = {name: torch.stack([states[best[h]][name][h] for h in range(module.heads)]) for name in states[0]}
    module.load_state_dict(merged)
    return found


STEPS = {"kl": 120, "soft": 6, "alpha": 12}
TRAIN, CHECK = 16, 4
SEED = 100  # of the tuples that the first stage sees; no training seed of the second


@functools.cache
def capture_all(work: Path) -> tuple[list[list[Sample]], list[list[Sample]]]:
    """Return the teacher's samples for fitting and for choosing among candidates; both of training clips."""
    model, _, _ = teacher.load(work)
    seen = capture(model, pool.training(work, SEED, TRAIN + CHECK, 1, answers=False))
    return [s[:TRAIN] for s in seen], [s[TRAIN:] for s in seen]
