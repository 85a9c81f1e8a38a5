# SPDX-License-Identifier: Apache-2.0
"""The student beside its full-attention teacher on fixed held-out samples, and the error of attention layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sla2.training import arms, shard
from sla2.training.data import Batch
from sla2.training.models import velocity

Run = Callable[[nn.Module, Batch], Tensor]  # a model's velocity for a batch, under the run's autocast


@torch.no_grad()
def velocities(model: nn.Module, batch: Batch, micro: int, run: Run) -> Tensor:
    """[n, C, F, H, W]: the model's velocity for every held-out sample."""
    return torch.cat([run(model, batch.part(i, i + micro)) for i in range(0, len(batch.sigma), micro)])


def compare(student: Tensor, teacher: Tensor, batch: Batch, levels: list[float]) -> dict[str, Any]:
    """velocity_error ‖u − u_teacher‖² / ‖u_teacher‖² over all samples, as mean squares per sample and per level; flow_loss against the data."""
    difference = (student - teacher).square().flatten(1).mean(1)  # [n]
    size = teacher.square().flatten(1).mean(1)
    flow = (student - (batch.noise - batch.clean)).square().flatten(1).mean(1)
    by_level = (difference.view(-1, len(levels)).sum(0) / size.view(-1, len(levels)).sum(0)).tolist()
    return {
        "velocity_error": float(difference.sum() / size.sum()),
        "velocity_mse": float(difference.mean()),
        "flow_loss": float(flow.mean()),
        "velocity_error_by_level": [float(f"{x:.6g}") for x in by_level],
        "velocity_mse_per_sample": [float(f"{x:.6g}") for x in difference.tolist()],
        "flow_loss_per_sample": [float(f"{x:.6g}") for x in flow.tolist()],
    }


@torch.no_grad()
def attention_errors(model: nn.Module, batch: Batch, micro: int, run: Run) -> dict[str, Any]:
    """Relative error ‖O − O_full‖ / ‖O_full‖ of each layer on its own queries, keys and values, with the mask that it uses."""
    sums: dict[int, Tensor] = {}
    sparsity: dict[int, list[float]] = {}
    handles = []

    def watch(i: int) -> Callable[..., None]:
        def after(module: Any, args: tuple[Tensor, ...], out: Tensor) -> None:
            q, k, v = (x.float().transpose(1, 2) for x in args)
            full = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
            found = torch.stack([(out.float() - full).square().sum(), full.square().sum()]).double()
            sums[i] = sums.get(i, torch.zeros(2, dtype=torch.float64, device=found.device)) + found
            sparsity.setdefault(i, []).append(module.achieved_sparsity)

        return after

    own = arms.modules(model)
    for i, module in own.items():
        module.watch = True
        handles.append(module.register_forward_hook(watch(i)))
    try:
        velocities(model, batch, micro, run)
    finally:
        for handle in handles:
            handle.remove()
        for module in own.values():
            module.watch = False
    if not own:
        return {"attention_error": 0.0, "sparsity": 0.0}
    by_layer = {i: float((x[0] / x[1]).sqrt()) for i, x in sums.items()}
    achieved = {i: sum(x) / len(x) for i, x in sparsity.items()}
    return {
        "attention_error": sum(by_layer.values()) / len(by_layer),
        "sparsity": sum(achieved.values()) / len(achieved),
        "attention_error_by_layer": {str(i): float(f"{x:.6g}") for i, x in by_layer.items()},
        "sparsity_by_layer": {str(i): round(x, 6) for i, x in achieved.items()},
    }


def alpha_facts(model: nn.Module) -> dict[str, float]:
    """Mean, least and greatest of the mixing numbers; proj_l's size where there is one. Collective where weights are shards."""
    alphas = [shard.whole(module.alpha).float() for module in arms.modules(model).values() if hasattr(module, "alpha")]
    found: dict[str, float] = {}
    if alphas and alphas[0].ndim == 2 and alphas[0].shape[1] == 2:
        scale, bias = (torch.cat([x[:, i] for x in alphas]) for i in (0, 1))
        found |= {"alpha_scale": float(scale.mean()), "alpha_bias": float(bias.mean()), "alpha_bias_least": float(bias.min()), "alpha_bias_most": float(bias.max())}  # fmt: skip
    elif alphas:
        a = torch.sigmoid(torch.cat([x.flatten() for x in alphas]))
        found |= {"alpha": float(a.mean()), "alpha_least": float(a.min()), "alpha_most": float(a.max())}
    projections = [shard.whole(m.proj_l.weight) for m in arms.modules(model).values() if hasattr(m, "proj_l")]
    if projections:
        found["proj_l_norm"] = float(torch.stack([x.norm() for x in projections]).mean())
    return found


@torch.no_grad()
def first_bad(model: nn.Module, batch: Batch, run: Run) -> str:
    """Where NaN or infinity first appears when the batch runs again: a weight, or a module of the forward pass."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(shard.whole(parameter)).all():
            return f"the weight {name}"
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def after(_module: nn.Module, _args: Any, out: Any) -> None:
            tensors = out if isinstance(out, tuple) else (out,)
            if not found and any(isinstance(x, Tensor) and x.is_floating_point() and not torch.isfinite(x).all() for x in tensors):
                found.append(name)

        return after

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return f"the output of {found[0]}" if found else "the loss alone (the target?)"


def run_plain(model: nn.Module, batch: Batch) -> Tensor:
    """A model's velocity without autocast."""
    return velocity(model, batch.noisy, batch.sigma, batch.context)
