# SPDX-License-Identifier: Apache-2.0
"""Low-rank additions to Linears: y = W x + b + (alpha / rank)·B A x. The Linears keep their class's place and their names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sla2.errors import ArgumentError


class LoraLinear(nn.Linear):
    """A Linear with lora_A [rank, in] and lora_B [out, rank]; `weight` and `bias` stay what they were."""

    lora_A: nn.Parameter
    lora_B: nn.Parameter
    lora_scale: float

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.lora_scale * F.linear(F.linear(x, self.lora_A), self.lora_B)


def add(model: nn.Module, rank: int, alpha: float, targets: list[str], seed: int) -> list[str]:
    """Turn the Linears whose names end in a target into LoraLinears, in place; returns their names. B is zero at first."""
    random = torch.Generator().manual_seed(seed)
    found = []
    for name, module in model.named_modules():
        if type(module) is nn.Linear and any(name == end or name.endswith("." + end) for end in targets):
            module.__class__ = LoraLinear
            assert isinstance(module, LoraLinear)
            bound = module.in_features**-0.5
            device = module.weight.device
            start = (torch.rand(rank, module.in_features, generator=random) * 2 - 1) * bound
            module.lora_A = nn.Parameter(start.to(device))
            module.lora_B = nn.Parameter(torch.zeros(module.out_features, rank, device=device))
            module.lora_scale = alpha / rank
            found.append(name)
    missing = [end for end in targets if not any(name == end or name.endswith("." + end) for name in found)]
    if missing:
        linears = sorted(
            {".".join(n.split(".")[2:]) for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.startswith("blocks.")}
        )
        raise ArgumentError(f"lora.targets: no layer's name ends in {', '.join(missing)}; the blocks have {', '.join(linears)}")
    return found


def is_lora(name: str) -> bool:
    return name.endswith((".lora_A", ".lora_B"))


def pairs(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Name of each Linear with its A and B, the scale folded into B."""
    return {
        name: (module.lora_A.detach(), module.lora_scale * module.lora_B.detach())
        for name, module in model.named_modules()
        if isinstance(module, LoraLinear)
    }
