# SPDX-License-Identifier: Apache-2.0
"""What learns, the optimiser, the learning rate, and averaged weights."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sla2.errors import ArgumentError
from sla2.training import lora, shard
from sla2.training.config import Config


def choose(model: nn.Module, config: Config) -> dict[str, nn.Parameter]:
    """Set requires_grad as train.what says and return what learns, by name. Routers rest: a hard choice gives them no gradient."""
    what = config.train.what
    if what == "lora":
        lora.add(model, config.lora.rank, config.lora.alpha, config.lora.targets, config.train.seed)
    chosen = {}
    for name, parameter in model.named_parameters():
        own = ".sla2." in name
        wanted = (own and not name.endswith((".proj_q", ".proj_k"))) or (what == "full" and not own) or lora.is_lora(name)
        parameter.requires_grad_(wanted)
        if wanted:
            chosen[name] = parameter
    if not chosen and config.train.steps:
        raise ArgumentError(
            f"train.what is {what}, but attention.mode {config.attention.mode} brings nothing that learns; set train.what to full or lora"
        )
    return chosen


def build(chosen: dict[str, nn.Parameter], config: Config) -> torch.optim.Optimizer:
    """AdamW, or Muon for the blocks' matrices. Attention's own numbers have their own rate and no decay."""
    own = config.train
    weights = {name: p for name, p in chosen.items() if ".sla2." not in name or name.endswith("gate.weight")}
    others = [p for name, p in chosen.items() if name not in weights]
    betas = (own.betas[0], own.betas[1])
    if own.optimizer == "muon":
        try:
            build_muon = importlib.import_module("sla2.study.optim").MuonAdamW
        except ImportError as error:
            raise ArgumentError("train.optimizer muon is part of sla2.study, which this installation lacks; set adamw") from error
        matrices = [p for name, p in weights.items() if p.ndim == 2 and name.startswith("blocks.")]
        kept = {id(p) for p in matrices}
        rest = [p for p in weights.values() if id(p) not in kept]
        muon: torch.optim.Optimizer = build_muon(matrices, rest, lr=own.lr, betas=betas, weight_decay=own.weight_decay)
        if others:
            muon.add_param_group({"params": others, "muon": False, "scale": own.attention_lr / own.lr, "decay": 0.0})
        for group in muon.param_groups:
            group["first_lr"] = own.lr * group["scale"]
        return muon
    decayed = [p for p in weights.values() if p.ndim >= 2]
    flat = [p for p in weights.values() if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "first_lr": own.lr, "weight_decay": own.weight_decay},
        {"params": flat, "first_lr": own.lr, "weight_decay": 0.0},
        {"params": others, "first_lr": own.attention_lr, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]] or [{"params": [torch.zeros(1)]}], lr=own.lr, betas=betas)


def rate(step: int, config: Config) -> float:
    """Factor on the learning rates at a step from 0: warm-up, then constant or a cosine to zero."""
    own = config.train
    warm = min(1.0, (step + 1) / own.warmup) if own.warmup else 1.0
    if own.decay == "constant":
        return warm
    return warm * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / max(1, own.steps))))


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group.get("first_lr", 0.0) * factor


class Ema:
    """Averages of what learns, in float32; faster at the start. `swapped()` runs a block of code with them in place."""

    def __init__(self, chosen: dict[str, nn.Parameter], decay: float) -> None:
        self.decay, self.count, self.chosen = decay, 0, chosen
        self.shadow = {name: p.detach().float().clone() for name, p in chosen.items()} if decay else {}

    @torch.no_grad()
    def update(self) -> None:
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        for name, value in self.shadow.items():
            value.lerp_(self.chosen[name].detach().float(), 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange averages and weights; a second call undoes the first."""
        for name, value in self.shadow.items():
            present = self.chosen[name].detach().float().clone()
            self.chosen[name].copy_(value)
            value.copy_(present)

    def __enter__(self) -> Ema:
        self.swap()
        return self

    def __exit__(self, *_: object) -> None:
        self.swap()


def norms(parameters: Iterable[Tensor]) -> float:
    """The norm of all gradients together, over all processes that hold a share of them."""
    return shard.norm(p.grad for p in parameters if p.grad is not None)


@torch.no_grad()
def clip(parameters: Iterable[Tensor], norm: float, most: float) -> None:
    """Scale gradients of this norm down to `most`."""
    for p in parameters:
        if p.grad is not None:
            shard.local(p.grad).mul_(most / (norm + 1e-6))
