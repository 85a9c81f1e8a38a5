# SPDX-License-Identifier: Apache-2.0
"""train.shard: parameters, gradients and the optimiser's state split over the processes (torch's FSDP2), a group for each block and one
for the rest.

Weights come together for a block's forward and backward pass and are dropped behind it. Sums over the processes and whole tensors are
collective: every process has to ask for them, in the same order. Checkpoints hold whole tensors, so they do not know of shards.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sla2.errors import ArgumentError
from sla2.training.config import Config


def check(config: Config) -> None:
    """Raise ArgumentError where the configuration asks for what shards cannot do."""
    if config.train.shard == "fsdp2" and config.train.optimizer == "muon":
        raise ArgumentError("train.optimizer muon makes whole matrices orthogonal, and train.shard fsdp2 leaves each process rows of them; set train.optimizer to adamw, or train.shard to none")  # fmt: skip


def split(model: nn.Module, device: torch.device) -> nn.Module:
    """Split a model that is whole in every process, in place; what stays goes to the device block by block. Needs a process group."""
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
    except ImportError as error:
        raise ArgumentError(f"train.shard is fsdp2, which torch {torch.__version__} lacks; install torch 2.6 or newer") from error
    # A mesh of the device's own kind: the default one is the accelerator's wherever torch sees one, with train.device cpu as well.
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    blocks: Iterable[nn.Module] = model.blocks  # type: ignore[assignment]
    # The root's weights, too, are dropped after a forward pass: else those of an evaluation with averaged weights would outlive it.
    model.register_forward_hook(_unviewed)
    for part in (*blocks, model):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
    return model


def _unviewed(_module: nn.Module, _args: Any, out: Any) -> Any:
    """The model's output in memory of its own: backward passes begin at a hook on it, which a write into a view would drop."""
    return tuple(x.clone() if isinstance(x, Tensor) else x for x in out) if isinstance(out, tuple) else out


def _is_shard(tensor: Tensor) -> bool:
    """Whether it is a DTensor, without importing what torch 2.4 lacks and nobody needs who does not split."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of a shard, in every process (collective); others as they are. Detached."""
    found: Any = tensor.detach()
    return found.full_tensor() if _is_shard(found) else found  # type: ignore[no-any-return]


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, sharing its memory."""
    found: Any = tensor
    return found.to_local() if _is_shard(found) else found  # type: ignore[no-any-return]


def like(tensor: Tensor, full: Tensor) -> Tensor:
    """A full tensor, which every process has, in the form of `tensor`: this process's part of it, or itself. Not collective."""
    if not _is_shard(tensor):
        return full
    from torch.distributed.tensor import distribute_tensor

    own: Any = tensor
    # A copy: a view would keep the whole tensor in memory; torch 2.13 copies by itself, which it does not promise.
    return distribute_tensor(full.to(own.device), own.device_mesh, own.placements, src_data_rank=None).clone()


def norm(gradients: Iterable[Tensor]) -> float:
    """The norm of all gradients together, the same in every process (collective where they are shards)."""
    found = list(gradients)
    if not found:
        return 0.0
    total = torch.stack([local(x).detach().float().square().sum() for x in found]).sum()
    if _is_shard(found[0]):
        torch.distributed.all_reduce(total)
    return float(total.sqrt())


def gather(optimizer: torch.optim.Optimizer, keep: bool) -> dict[str, Any]:
    """The optimiser's state_dict with whole tensors on the CPU (collective); empty states where it is not to be kept."""
    found = optimizer.state_dict()
    states = {}
    for index, state in found["state"].items():
        values = {name: whole(value) if isinstance(value, Tensor) else value for name, value in state.items()}
        if keep:
            states[index] = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in values.items()}
    return {"state": states, "param_groups": found["param_groups"]}


def scatter(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load what `gather` returned, whatever the number of processes was then."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states = {}
    for index, state in saved["state"].items():
        own: Tensor = parameters[index]
        states[index] = {
            name: like(own, value) if isinstance(value, Tensor) and value.shape == own.shape else value for name, value in state.items()
        }
    optimizer.load_state_dict({"state": states, "param_groups": saved["param_groups"]})
