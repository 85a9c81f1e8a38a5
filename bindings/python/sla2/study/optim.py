# SPDX-License-Identifier: Apache-2.0
"""Optimisation helpers: Muon with AdamW, weight averages, schedules and atomic checkpoints."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor, nn


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """Return the approximate polar factor of each matrix of ``g`` [n, rows, cols].

    Quintic Newton-Schulz iteration (Jordan et al., 2024); singular values end in about [0.7, 1.2].
    """
    x = g / (g.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    flip = x.shape[1] > x.shape[2]
    if flip:
        x = x.mT
    # All iterates are q x with q a polynomial of x x^T, so only small squares need iterating.
    gram, eye = x @ x.mT, torch.eye(x.shape[1])
    q = eye.expand_as(gram)
    for _ in range(steps):
        p = 3.4445 * eye + gram @ (2.0315 * gram - 4.7750 * eye)
        q, gram = p @ q, p @ gram @ p
    x = q @ x
    return x.mT if flip else x


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the parameters in ``matrices``, AdamW for those in ``others``.

    Muon updates are scaled by 0.2 * sqrt(max(rows, cols)), which gives them AdamW's usual size, so
    one learning rate serves both; ``adam_scale`` scales it for the others where they want less.
    Convolution weights are seen as [out, in * kernel] matrices.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        others: list[nn.Parameter],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        adam_scale: float = 1.0,
    ) -> None:
        groups = [{"params": p, "muon": m, "scale": s} for p, m, s in ((matrices, True, 1.0), (others, False, adam_scale)) if p]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "betas": betas, "decay": weight_decay})

    def set_rate(self, lr: float) -> None:
        """Set the learning rate of all groups."""
        for group in self.param_groups:
            group["lr"] = lr * group["scale"]

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """Apply one update."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            (self._muon if group["muon"] else self._adam)(group, params)

    def _muon(self, group: dict, params: list[nn.Parameter]) -> None:
        shapes = defaultdict(list)
        for p in params:
            state = self.state[p]
            if not state:
                state["m"] = torch.zeros_like(p)
            state["m"].lerp_(p.grad, 1 - group["momentum"])
            shapes[(p.shape[0], p[0].numel())].append(p)
        for (rows, cols), same in shapes.items():
            g = torch.stack([p.grad.lerp(self.state[p]["m"], group["momentum"]).reshape(rows, cols) for p in same])
            update = orthogonalise(g) * (0.2 * math.sqrt(max(rows, cols)) * group["lr"])
            for p, u in zip(same, update):
                p.mul_(1 - group["lr"] * group["decay"]).sub_(u.view_as(p))

    def _adam(self, group: dict, params: list[nn.Parameter]) -> None:
        b1, b2 = group["betas"]
        for p in params:
            state = self.state[p]
            if not state:
                state.update(m=torch.zeros_like(p), v=torch.zeros_like(p), n=0)
            state["n"] += 1
            state["m"].lerp_(p.grad, 1 - b1)
            state["v"].lerp_(p.grad.square(), 1 - b2)
            size = group["lr"] / (1 - b1 ** state["n"])
            scale = (state["v"] / (1 - b2 ** state["n"])).sqrt_().add_(1e-8)
            p.addcdiv_(state["m"], scale, value=-size)


class Ema:
    """An exponential average of a model's weights, faster at the start of training."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.count = decay, 0
        self.shadow = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's weights."""
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        for name, value in model.state_dict().items():
            self.shadow[name].lerp_(value, 1 - decay)

    def state_dict(self) -> dict:
        """Return the average and its age."""
        return {"count": self.count, "shadow": self.shadow}

    def load_state_dict(self, state: dict) -> None:
        """Restore what ``state_dict`` returned."""
        self.count, self.shadow = state["count"], state["shadow"]


def fast_products() -> torch.autocast:
    """Return a context of bfloat16 products, empty where the CPU lacks them: there they are slower than float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())


def schedule(progress: float, step: int, warmup: int = 50, floor: float = 0.02) -> float:
    """Return the factor on the learning rate: linear warm-up, then cosine decay in ``progress``."""
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(max(progress, 0.0), 1.0))
    return min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * cosine)


def save(path: Path, state: dict) -> None:
    """Write a checkpoint so that ``path`` is always a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def resume(path: Path, model: nn.Module, opt: torch.optim.Optimizer, ema: Ema) -> dict:
    """Load a checkpoint into model, optimiser and average; return it, or a fresh start's counters if there is none.

    A restored model (see ``restore``) has no optimiser state; the optimiser then starts afresh. Learning rates
    and other settings are the caller's, not the checkpoint's.
    """
    if not path.exists():
        return {"step": 0, "spent": 0.0, "log": []}
    state = torch.load(path, weights_only=False)
    model.load_state_dict(state["model"])
    if state["opt"]:
        opt.load_state_dict({"state": state["opt"]["state"], "param_groups": opt.state_dict()["param_groups"]})
    ema.load_state_dict(state["ema"])
    return state
