# SPDX-License-Identifier: Apache-2.0
"""The student's attention: a module for each layer as the configuration says, installed in the transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sla2 import schedule
from sla2.diffusers import Attachment, attach, find_layers
from sla2.errors import ArgumentError
from sla2.nn import SparseAttention
from sla2.packs import RouterPack
from sla2.schedule import MODES
from sla2.training.config import Config


@dataclass(frozen=True)
class LayerMode:
    """What one layer runs."""

    mode: str
    sparsity: float


def parse_mode(text: str, sparsity: float) -> LayerMode:
    """`sla2@0.9` or `full`. Raises ArgumentError."""
    rules = schedule.parse(text)
    if len(rules) != 1 or rules[0].layers or rules[0].steps:
        raise ArgumentError(f"{text!r} is no attention; expected one of {', '.join(MODES)}, with @SPARSITY if wanted, as sla2@0.9")
    return LayerMode(rules[0].mode, sparsity if rules[0].sparsity is None else rules[0].sparsity)


def layer_modes(config: Config, layers: int) -> list[LayerMode]:
    """Mode and sparsity of each layer: attention.mode, then the rules of attention.schedule in turn."""
    own = config.attention
    modes = [LayerMode(own.mode, own.sparsity)] * layers
    for rule in schedule.parse(own.schedule):
        if rule.steps is not None:
            raise ArgumentError(
                f"attention.schedule: rule {rule.text.strip()!r} speaks of steps; training sees all noise levels at random: only layers can differ"
            )
        for i in range(layers):
            if rule.fits(0, 1, i, layers):
                modes[i] = LayerMode(rule.mode, own.sparsity if rule.sparsity is None else rule.sparsity)
    return modes


def make_layer(config: Config, one: LayerMode, heads: int, head_dim: int, width: int, grid: tuple[int, int, int]) -> SparseAttention:
    """The module of one layer; `width` is the model's, `grid` the training size's tokens (alpha_mode block)."""
    own = config.attention
    options: dict[str, Any] = {"smooth_k": own.smooth_k, "qat_backward": own.qat_backward}
    if own.products:
        options["products"] = own.products
    if own.bits == 8 and own.fp8_values:
        options["fp8_values"] = True
    if one.mode == "sla1":
        options |= {"scope": own.linear_scope, "negligible": own.negligible}
    if own.router == "sparge":
        options |= {"rule": own.rule, "theta": own.theta, "top_p": own.top_p}
    if own.router == "vmoba":
        options["top_p"] = own.top_p
    tokens = grid[0] * grid[1] * grid[2]
    learned = False if one.mode in ("full", "linear_only") else own.learned_router
    return SparseAttention(
        heads, head_dim, mode=one.mode, router=own.router, sparsity=one.sparsity, bits=own.bits, alpha_mode=own.alpha_mode,
        query_blocks=-(-tokens // own.block_q), learned_router=learned,
        shared_router=own.shared_router, gate_dim=width if own.router == "vsa" and own.gate and one.mode != "full" else None,
        layout="BNHD", token_order=own.token_order, block_q=own.block_q, block_k=own.block_k, **options,
    )  # fmt: skip


def install(model: nn.Module, config: Config, grid: tuple[int, int, int]) -> Attachment:
    """Give the model its student's attention; layers in mode full keep what they have. Raises where the pack does not fit."""
    layers = [layer for layer in find_layers(model) if not layer.extra]
    modes = layer_modes(config, len(layers))

    def make(i: int, heads: int, head_dim: int) -> SparseAttention | None:
        if i >= len(layers) or modes[i].mode == "full":
            return None
        width = int(layers[i].module.to_q.in_features)  # type: ignore[union-attr, arg-type]
        return make_layer(config, modes[i], heads, head_dim, width, grid)

    attachment = attach(model, make)
    for layer in attachment.layers:
        module = layer.module.sla2
        assert isinstance(module, SparseAttention)
        if hasattr(module, "gate"):
            layer.module.register_forward_pre_hook(_hand_over)
    if config.attention.pack:
        load_pack(model, config, RouterPack.load(config.attention.pack), grid)
    return attachment


def _hand_over(module: nn.Module, args: tuple[Any, ...]) -> None:
    """The layer's input for its gate."""
    module.sla2.hidden = args[0]  # type: ignore[union-attr]


def modules(model: nn.Module) -> dict[int, SparseAttention]:
    """The sparse layers of a model, by layer."""
    found = ((layer.index, getattr(layer.module, "sla2", None)) for layer in find_layers(model))
    return {i: module for i, module in found if isinstance(module, SparseAttention)}


@torch.no_grad()
def load_pack(model: nn.Module, config: Config, pack: RouterPack, grid: tuple[int, int, int]) -> None:
    """Copy a pack's numbers into the model's sparse layers. Raises ModelMismatchError, ArgumentError (a setting that contradicts it)."""
    layers = [layer for layer in find_layers(model) if not layer.extra]
    pack.check(layers=len(layers), heads=layers[0].heads, head_dim=layers[0].head_dim, grid=grid)
    own = config.attention
    said = {"mode": own.mode, "router": own.router, "block_q": own.block_q, "block_k": own.block_k, "token_order": own.token_order}
    said |= {"alpha_mode": own.alpha_mode} if own.mode == "sla2" else {}
    for name, value in said.items():
        if getattr(pack, name) != value:
            raise ArgumentError(f"{own.pack}: was made with {name} {getattr(pack, name)}, attention.{name} is {value}; make them the same")
    names = {"router_q": "proj_q", "router_k": "proj_k", "mix_values": "alpha", "proj": "proj_l.weight", "proj_bias": "proj_l.bias"}
    for i, module in modules(model).items():
        if module.mode != pack.mode:
            continue
        parameters = dict(module.named_parameters())
        for key, value in pack.layer(i, own.sparsity).items():
            parameter = parameters.get(names[key])
            if parameter is None:
                raise ArgumentError(
                    f"{own.pack}: layer {i} holds {names[key]}, which attention.* has no place for; set attention.learned_router"
                )
            if value.shape[0] == 1 and parameter.shape[0] > 1:
                value = value.repeat(parameter.shape[0], 0)
            if tuple(parameter.shape) != value.shape:
                raise ArgumentError(
                    f"{own.pack}: {names[key]} of layer {i} has shape {list(value.shape)}, attention.* wants {list(parameter.shape)}"
                )
            parameter.copy_(torch.from_numpy(value.copy()))


def own_names(model: nn.Module) -> list[str]:
    """Names of the parameters that attention brought: alpha, routers, proj_l, gates."""
    return [name for name, _ in model.named_parameters() if ".sla2." in name]


def set_sparsity(model: nn.Module, config: Config, sparsity: float | None) -> None:
    """Run every layer at most this sparse; None: as configured."""
    planned = layer_modes(config, len(find_layers(model)))
    for i, module in modules(model).items():
        module.sparsity = planned[i].sparsity if sparsity is None else min(sparsity, planned[i].sparsity)
