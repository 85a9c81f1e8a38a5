# SPDX-License-Identifier: Apache-2.0
"""Sparse attention for a whole pipeline: settings resolved, each layer given an attention that keeps books, and taken back again."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sla2 import _attention, autograd, packs
from sla2 import policy as policies
from sla2.diffusers.attachment import Attachment, AttentionLayer, Call, Grid, _features, attach, find_layers
from sla2.diffusers.reports import LayerReport, Report
from sla2.diffusers.steps import StepInfo
from sla2.errors import ArgumentError
from sla2.packs import RouterPack
from sla2.policy import Choice, Policy

_log = logging.getLogger("sla2.diffusers")
_STATE = "_sla2_applied"  #: attribute of a transformer that holds what apply did to it
_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_LEARNED = ("router_q", "router_k", "mix_values", "proj", "proj_bias")


class _Applied:
    """What `apply` did to one transformer: one policy, shared by the layers, and their books."""

    def __init__(self, policy: Policy, probe: float, threads: int) -> None:
        self.policy, self.probe, self.threads = policy, probe, threads
        self.attachment: Attachment | None = None
        self.rows: list[LayerReport] = []
        self.notes = list(policy.notes)
        self._said: set[str] = set()
        self._orders: dict[Grid, tuple[Tensor, Tensor]] = {}

    def fall_back(self, row: LayerReport, reason: str) -> None:
        row.add_fallback(reason)
        if reason not in self._said:
            self._said.add(reason)
            _log.warning("%s: full attention instead of sparse: %s (said once; sla2.diffusers.report() counts)", row.name, reason)

    def order(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """Order of tokens of a grid, and its inverse."""
        if grid not in self._orders:
            order = torch.from_numpy(_attention.token_order(self.policy.token_order, grid)).long()  # type: ignore[arg-type]
            self._orders[grid] = order, order.argsort()
        return self._orders[grid]


class _LayerAttention:
    """Attention of one layer, as `attach` wants it."""

    def __init__(self, applied: _Applied, layer: AttentionLayer, row: LayerReport) -> None:
        self.applied, self.layer, self.row = applied, layer, row
        self.choice = policies.FULL
        self._arguments: dict[Choice, tuple[dict[str, Any], dict[str, Any]]] = {}

    def decide(self, call: Call) -> bool:
        """Is this call computed sparsely? Every call is booked: here, where it is not, else in __call__."""
        policy, step = self.applied.policy, call.step_info
        if policy.needs_step and (step.index is None or (policy.needs_total and step.total is None)):
            unknown = "step" if step.index is None else "number of steps"
            self.applied.fall_back(self.row, f"the {unknown} is unknown, and the schedule asks for it")
            return False
        self.choice = policy.at(step.index or 0, step.total or 1, self.layer.index)
        if self.choice == policies.FULL:
            self.row.add_full()
            return False
        reason = call.reason or self._obstacle(call)
        if reason is not None:
            self.applied.fall_back(self.row, reason)
            return False
        return True

    def _obstacle(self, call: Call) -> str | None:
        """Why the library cannot serve the call, or should not."""
        policy, choice, dim = self.applied.policy, self.choice, self.layer.head_dim
        if call.device.type not in ("cpu", "cuda"):
            return f"tensors on {call.device.type}; expected the CPU or a CUDA device"
        if call.dtype not in _TYPES:
            return f"element type {call.dtype}; expected float32, bfloat16 or float16"
        if not 32 <= dim <= 256 or dim % 8:
            return f"{dim} channels per head; expected 32 to 256 in steps of 8"
        if call.tokens < policy.min_tokens:
            return f"{call.tokens} tokens, fewer than min_tokens = {policy.min_tokens}"
        blocks = -(-call.tokens // policy.block_k)
        if choice.mode in ("sla2", "sparse_only", "pooled") and int((1 - choice.sparsity) * blocks + 0.5) >= blocks:
            return f"too few tokens: of {call.tokens} in {blocks} blocks, sparsity {choice.sparsity:g} skips none"
        if policy.token_order != "raster" and call.grid is None:
            return f"token_order {policy.token_order} needs the video's size, and the transformer was not called as a whole"
        if not policy.holds(self.layer.index, choice):
            return "mode sla1 without learned numbers for this block"
        if call.device.type == "cuda":
            options, _ = self._split(call.dtype)
            return _attention.gpu_refusal(call.device.index or 0, self.layer.heads, dim, call.tokens, options)
        return None

    def _split(self, dtype: torch.dtype) -> tuple[dict[str, Any], dict[str, Any]]:
        """Options and learned arrays of the current choice."""
        if self.choice not in self._arguments:
            every = self.applied.policy.arguments(self.layer.index, self.choice)
            learned = {name: every.pop(name) for name in _LEARNED if name in every}
            self._arguments[self.choice] = every, learned
        options, learned = self._arguments[self.choice]
        return options | {"threads": self.applied.threads}, learned

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, grid: Grid | None, step_info: StepInfo) -> Tensor:
        policy = self.applied.policy
        if policy.pack is not None and grid is not None and self.choice.mode == "sla2":
            _check_grid(policy.pack, grid)
        inverse = None
        if policy.token_order != "raster" and grid is not None:
            order, inverse = (x.to(q.device) for x in self.applied.order(grid))
            q, k, v = (x.index_select(1, order) for x in (q, k, v))
        started = time.perf_counter()
        if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
            out, sparsity, probed = self._with_gradients(q, k, v), None, None
        else:
            options, learned = self._split(q.dtype)
            out, info = _attention.attention(
                q.detach(), k.detach(), v.detach(), layout="BNHD", return_info=True, probe=self.applied.probe, **options, **learned
            )
            sparsity, probed = info["sparsity"], info.get("probe_relative_l1") if self.applied.probe > 0 else None
        self.row.add_sparse(time.perf_counter() - started, sparsity, probed)
        return out if inverse is None else out.index_select(1, inverse)

    def _with_gradients(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        options, learned = self._split(q.dtype)
        options.pop("threads")
        options["mix_mode"] = options.pop("mix", "head_affine_lse")
        tensors: dict[str, Any] = {
            ("mix" if name == "mix_values" else name): torch.from_numpy(np.ascontiguousarray(x)).to(q.device) for name, x in learned.items()
        }
        return autograd.attention(q, k, v, layout="BNHD", **options, **tensors)


def _check_grid(pack: RouterPack, grid: Grid) -> None:
    pack.check(layers=pack.layers, heads=pack.heads, head_dim=pack.head_dim, grid=grid)


def transformers_of(pipe: Any) -> tuple[Any, list[nn.Module]]:
    """(pipeline or None, its transformers). Raises ArgumentError for anything without one."""
    if isinstance(pipe, nn.Module):
        return None, [pipe]
    found = [getattr(pipe, name, None) for name in ("transformer", "transformer_2")]
    several = [x for x in found if isinstance(x, nn.Module)]
    if not several:
        raise ArgumentError(f"{type(pipe).__name__}: has no transformer; expected a Wan pipeline of diffusers or its transformer")
    return pipe, several


def fingerprints_of(layers: list[AttentionLayer]) -> tuple[str, str | None]:
    """base_shapes and, where the weight can be read here, base_weights of a model's main blocks."""
    modules: list[Any] = [layer.module for layer in layers if not layer.extra]
    shapes = packs.hash_shapes([(_features(m.to_q)[::-1], _features(m.to_k)[::-1]) for m in modules])
    weight = getattr(modules[0].to_q, "base_layer", modules[0].to_q).weight
    readable = weight.dtype in _TYPES and not weight.is_meta and tuple(weight.shape) == _features(modules[0].to_q)[::-1]
    return shapes, packs.hash_weight(weight) if readable else None


def _resolve(transformer: nn.Module, known_total: bool, pack: RouterPack | None, settings: dict[str, Any]) -> Policy:
    layers = find_layers(transformer)
    main = [layer for layer in layers if not layer.extra]
    sizes: dict[str, Any] = {"layers": len(main), "heads": main[0].heads, "head_dim": main[0].head_dim, "extra": len(layers) - len(main)}
    policy = policies.resolve(**sizes, pack=pack, **settings)
    if policy.needs_total and not known_total:
        raise ArgumentError(
            "the schedule counts from the end of the run or in percent, and a transformer alone does not know how many steps there are;"
            " give the pipeline instead, or steps="
        )
    if pack is not None:
        shapes, weights = fingerprints_of(layers)
        for text in pack.check(
            layers=sizes["layers"], heads=sizes["heads"], head_dim=sizes["head_dim"], base_shapes=shapes, base_weights=weights
        ):
            _log.warning("%s", text)
            policy = Policy(**{**vars(policy), "notes": (*policy.notes, text)})
    return policy


def apply(
    pipe: Any,
    *,
    preset: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    sparsity: float | None = None,
    pack: RouterPack | str | os.PathLike[str] | None = None,
    mode: str | None = None,
    bits: int | None = None,
    schedule: str | None = None,
    min_tokens: int | None = None,
    token_order: str | None = None,
    block_q: int | None = None,
    block_k: int | None = None,
    dense_steps_first: int | None = None,
    dense_steps_last: int | None = None,
    dense_layers_first: int | None = None,
    dense_layers_last: int | None = None,
    steps: int | None = None,
    probe: float = 0.0,
    threads: int = 0,
) -> None:
    """Sparse self-attention in a Wan pipeline of diffusers (text-to-video, image-to-video, VACE, two transformers) or a transformer.

    preset      a name ("balanced"), a file or a mapping: its attention part; keywords beside it win
    sparsity    fraction of key blocks skipped, 0.9 where nothing says; 0 or mode="off": the model's own attention, bit for bit
    pack        a router pack or its file; block sizes, order, mode and router are then the pack's
    mode        sla2, sla1, sparse_only, linear_only, l_plus_s, pooled, or full
    bits        16, or 8: queries and keys multiplied as bytes
    schedule    rules by layer and step, as "sla2@0.9; layers 0,-1: full; steps 0-20%: full"; layers marked full keep the model's own
    min_tokens  calls with fewer tokens stay full
    token_order raster, tiles (4x4x4) or hilbert
    dense_…     first and last steps and layers that stay full
    steps       steps of the run, where a transformer alone is given and the schedule needs them
    probe       compare this fraction of the query blocks with full attention, see `report`
    threads     0: all CPUs

    Text and image cross-attention stay as they are. Calls that cannot be served (a mask, a GPU tensor, too few tokens …) are computed as
    before; the reason is logged once and counted in `report`. A second apply replaces the first. On an error nothing has changed.
    Raises ArgumentError (a wrong or contradicting setting, an unknown layer), ModelMismatchError (a pack for another model), and what
    reading the preset or the pack raises.
    """
    pipeline, transformers = transformers_of(pipe)
    settings: dict[str, Any] = {"preset": preset, "sparsity": sparsity, "mode": mode, "bits": bits, "schedule": schedule}
    settings |= {"min_tokens": min_tokens, "token_order": token_order, "block_q": block_q, "block_k": block_k}
    settings |= {"dense_steps_first": dense_steps_first, "dense_steps_last": dense_steps_last}
    settings |= {"dense_layers_first": dense_layers_first, "dense_layers_last": dense_layers_last}
    if not 0 <= probe <= 1:
        raise ArgumentError(f"probe is {probe!r}; expected the fraction of query blocks to compare, from 0 to 1")
    loaded = pack if pack is None or isinstance(pack, RouterPack) else RouterPack.load(os.fspath(pack))
    resolved = [_resolve(x, pipeline is not None or steps is not None, loaded, settings) for x in transformers]
    restore(pipe)
    for transformer, policy in zip(transformers, resolved, strict=True):
        _install(transformer, _Applied(policy, probe, threads), pipeline, steps)


def _install(transformer: nn.Module, applied: _Applied, pipeline: Any, steps: int | None) -> None:
    layers = {layer.index: layer for layer in find_layers(transformer)}

    def make(index: int, heads: int, head_dim: int) -> Callable[..., Tensor | None]:
        row = LayerReport(index, layers[index].name)
        applied.rows.append(row)
        return _LayerAttention(applied, layers[index], row)

    applied.attachment = attach(transformer, make, pipeline=pipeline, steps=steps)
    setattr(transformer, _STATE, applied)


def restore(pipe: Any) -> None:
    """Undo `apply`: every layer gets the very processor it had. Nothing happens where nothing was applied."""
    for transformer in transformers_of(pipe)[1]:
        applied: _Applied | None = getattr(transformer, _STATE, None)
        if applied is not None and applied.attachment is not None:
            applied.attachment.detach()
            delattr(transformer, _STATE)


def report(pipe: Any) -> Report:
    """What happened since `apply`, layer by layer. Raises ArgumentError where nothing was applied."""
    rows: list[LayerReport] = []
    notes: list[str] = []
    transformers = transformers_of(pipe)[1]
    for number, transformer in enumerate(transformers):
        applied: _Applied | None = getattr(transformer, _STATE, None)
        if applied is None:
            continue
        for row in applied.rows:
            name = row.name if number == 0 else f"transformer_2.{row.name}"
            rows.append(LayerReport(**{**row.to_dict(), "fallbacks": dict(row.fallbacks), "name": name}))
        notes += [note for note in applied.notes if note not in notes]
    if not rows:
        raise ArgumentError("nothing is applied to this pipeline; call sla2.diffusers.apply(pipe, …) first")
    return Report(rows, notes)
