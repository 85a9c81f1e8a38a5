# SPDX-License-Identifier: Apache-2.0
"""Put a callable where a Wan transformer's self-attention computes softmax(QKᵀ)V, layer by layer, and take it out again.

Layers are found by what they are (self-attention, keys from the same tokens, a processor to exchange), not by class name; whether
the call is one of self-attention with rotary embedding is seen again at each call. Nothing outside the given transformer is touched.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sla2.diffusers.steps import StepInfo, StepTracker
from sla2.errors import ArgumentError, StateError

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class AttentionLayer:
    """A self-attention module: `index` counts those of the main list of blocks from 0; those of other lists (VACE) come after."""

    index: int
    name: str
    module: nn.Module
    heads: int
    head_dim: int
    extra: bool  #: not of the main list of blocks


@dataclass(frozen=True)
class Call:
    """What is known of a call before queries and keys are computed; `decide(call)` of a callable may refuse it."""

    tokens: int
    batch: int
    dtype: torch.dtype
    device: torch.device
    grid: Grid | None
    step_info: StepInfo
    masked: bool
    reason: str | None  #: why this call is not plain self-attention; it is never handed on then


def _is_self_attention(module: nn.Module) -> bool:
    parts = all(hasattr(module, name) for name in ("processor", "heads", "to_q", "to_k", "to_v", "to_out", "norm_q", "norm_k"))
    if not parts or getattr(module, "is_cross_attention", False) or getattr(module, "cross_attention_dim_head", None) is not None:
        return False
    if getattr(module, "add_k_proj", None) is not None:
        return False
    return bool(_features(module.to_q)[0] == _features(module.to_k)[0])


def _features(linear: Any) -> tuple[int, int]:
    linear = getattr(linear, "base_layer", linear)  # under a LoRA
    return int(linear.in_features), int(linear.out_features)


def find_layers(transformer: nn.Module) -> list[AttentionLayer]:
    """The self-attention layers, main list of blocks first. Raises ArgumentError where there is none, or two in one block."""
    found: dict[str, dict[int, list[tuple[str, nn.Module]]]] = {}
    for name, module in transformer.named_modules():
        place = re.fullmatch(r"((?:.*\.)?\w*blocks)\.(\d+)\.(.*)", name)
        if place and _is_self_attention(module):
            found.setdefault(place[1], {}).setdefault(int(place[2]), []).append((name, module))
    if not found:
        raise ArgumentError(
            f"{type(transformer).__name__}: no self-attention layer was found; expected a Wan transformer of diffusers: modules under"
            " blocks.N with to_q, to_k, to_v, norm_q, norm_k and a processor"
        )
    layers: list[AttentionLayer] = []
    for blocks in sorted(found, key=lambda name: name.rpartition(".")[2] != "blocks"):  # a stable sort: "blocks" first
        for number in sorted(found[blocks]):
            several = found[blocks][number]
            chosen = [x for x in several if x[0].endswith((".attn1", ".self_attn"))] if len(several) > 1 else several
            if len(chosen) != 1:
                raise ArgumentError(f"{blocks}.{number}: {', '.join(x[0] for x in several)} all look like self-attention; expected one")
            name, module = chosen[0]
            heads = int(module.heads)  # type: ignore[arg-type]
            layers.append(AttentionLayer(len(layers), name, module, heads, _features(module.to_q)[1] // heads, not _is_main(blocks, found)))
    return layers


def _is_main(blocks: str, found: dict[str, Any]) -> bool:
    return blocks == min(found, key=lambda name: name.rpartition(".")[2] != "blocks")


def _project(attn: Any, hidden_states: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [B,N,H,D] after norm and rotary embedding: what the model's own processor hands to attention, bit for bit."""
    if getattr(attn, "fused_projections", False):
        q, k, v = attn.to_qkv(hidden_states).chunk(3, dim=-1)
    else:
        q, k, v = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
    q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (attn.norm_q(q), attn.norm_k(k), v))
    return _rotate(q, *rotary), _rotate(k, *rotary), v


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn channel pairs (2i, 2i+1) of x [B,N,H,D]; cosine and sine [1,N,1,D] hold each angle twice."""
    even, odd = x[..., 0::2], x[..., 1::2]
    c, s = cosine[..., 0::2], sine[..., 1::2]
    return torch.stack((even * c - odd * s, even * s + odd * c), dim=-1).flatten(-2).type_as(x)


class _Processor:
    """Stands in for a layer's processor; hands every call it may not serve to the one before."""

    def __init__(self, attachment: Attachment, layer: AttentionLayer, inner: Any, compute: Callable[..., Tensor | None] | None) -> None:
        self.attachment, self.layer_name, self.inner = attachment, layer.name, inner
        self.compute = compute  # None: the module's own submodule `sla2`, so that there is one owner of its parameters

    # diffusers sets these two on processors; they belong to the one that computes full attention.
    @property
    def _attention_backend(self) -> Any:
        return getattr(self.inner, "_attention_backend", None)

    @_attention_backend.setter
    def _attention_backend(self, value: Any) -> None:
        self.inner._attention_backend = value

    @property
    def _parallel_config(self) -> Any:
        return getattr(self.inner, "_parallel_config", None)

    @_parallel_config.setter
    def _parallel_config(self, value: Any) -> None:
        self.inner._parallel_config = value

    def _call(self, hidden_states: Tensor, encoder: Tensor | None, mask: Tensor | None, rotary: Any, more: dict[str, Any]) -> Call:
        reason = None
        if encoder is not None:
            reason = "keys come from other tokens"
        elif mask is not None:
            reason = "an attention mask is given"
        elif not (isinstance(rotary, tuple) and len(rotary) == 2 and all(isinstance(x, Tensor) for x in rotary)):
            reason = "no rotary embedding" if rotary is None else "a rotary embedding of another form"
        elif more:
            reason = f"further arguments: {', '.join(more)}"
        elif self._parallel_config is not None:
            reason = "tokens are spread over several devices"
        grid, tokens = self.attachment.grid, int(hidden_states.shape[1])
        if grid is not None and math.prod(grid) != tokens:
            grid = None
        return Call(
            tokens,
            int(hidden_states.shape[0]),
            hidden_states.dtype,
            hidden_states.device,
            grid,
            self.attachment.steps.info,
            mask is not None,
            reason,
        )

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
        **more: Any,
    ) -> Any:
        compute = attn.sla2 if self.compute is None else self.compute
        call = self._call(hidden_states, encoder_hidden_states, attention_mask, rotary_emb, more)
        decide = getattr(compute, "decide", None)
        wanted = bool(decide(call)) if decide is not None else True  # asked even where it cannot be: it keeps the books
        out = None
        if wanted and call.reason is None:
            q, k, v = _project(attn, hidden_states, rotary_emb)
            out = compute(q, k, v, grid=call.grid, step_info=call.step_info)
        if out is None:
            return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb, **more)
        out = out.flatten(2, 3).type_as(q)
        for step in attn.to_out:
            out = step(out)
        return out


@dataclass
class Attachment:
    """What `attach` did. `layers` are those that were given a callable."""

    transformer: nn.Module
    steps: StepTracker
    layers: list[AttentionLayer] = field(default_factory=list)
    grid: Grid | None = None  #: tokens of the current call as frames, height, width
    _processors: list[_Processor] = field(default_factory=list)
    _hook: Any = None

    def detach(self) -> None:
        """Give each layer its earlier processor back, the very object, and remove submodules. A second call does nothing.

        Raises StateError where somebody exchanged processors after this attachment: undo that first.
        """
        for layer, processor in zip(self.layers, self._processors, strict=True):
            present: Any = layer.module.processor
            if present is not processor:
                raise StateError(
                    f"{layer.name}: its processor was exchanged after this attachment (it is {type(present).__name__});"
                    " undo the later change first"
                )
        for layer, processor in zip(self.layers, self._processors, strict=True):
            layer.module.processor = processor.inner
            if processor.compute is None:
                del layer.module.sla2
        self.layers, self._processors = [], []
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _before(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the transformer: sizes and timestep of this call."""
        latent = kwargs.get("hidden_states", args[0] if args else None)
        patch = getattr(getattr(self.transformer, "config", None), "patch_size", (1, 2, 2))
        self.grid = None
        if isinstance(latent, Tensor) and latent.ndim == 5:
            f, h, w = (int(n) // int(p) for n, p in zip(latent.shape[2:], patch, strict=True))
            self.grid = f, h, w
        self.steps.observe(kwargs.get("timestep", args[1] if len(args) > 1 else None))


def attach(
    transformer: nn.Module,
    make: Callable[[int, int, int], Callable[..., Tensor | None] | None],
    *,
    pipeline: Any = None,
    steps: int | None = None,
) -> Attachment:
    """Replace the attention of each self-attention layer of `transformer` until `Attachment.detach()`.

    make(layer, heads, head_dim) -> None to leave the layer alone, or a callable (q, k, v, *, grid, step_info) -> out, where
        q, k, v, out   [B, N, H, D] after norm and rotary embedding
        grid           (frames, height, width) of the N tokens; None where the transformer was not called as a whole
        step_info      a StepInfo
      It may return None: the call is then computed as before. A `decide(call: Call) -> bool` of it is asked before q, k and v are
      computed; calls with a mask, text keys or no rotary embedding (call.reason says so) are computed as before whatever it says.
      An nn.Module becomes the submodule `sla2` of the attention module and so `blocks.{i}.attn1.sla2.*` of the state dict.
    pipeline, steps    what StepInfo knows the number of steps from; the pipeline is held weakly

    Layers beyond the main blocks (VACE) have indices after the last block's and callables of their own. Raises ArgumentError where
    no layer is found, StateError where one has a submodule `sla2` already.
    """
    layers = find_layers(transformer)
    made = [(layer, make(layer.index, layer.heads, layer.head_dim)) for layer in layers]
    for layer, compute in made:
        if isinstance(compute, nn.Module) and hasattr(layer.module, "sla2"):
            raise StateError(f"{layer.name}: a submodule sla2 is attached already; detach it first")
    attachment = Attachment(transformer, StepTracker(pipeline, steps))
    for layer, compute in made:
        if compute is None:
            continue
        module = isinstance(compute, nn.Module)
        if isinstance(compute, nn.Module):
            layer.module.add_module("sla2", compute)
        processor = _Processor(attachment, layer, layer.module.processor, None if module else compute)
        layer.module.processor = processor  # type: ignore[assignment]
        attachment.layers.append(layer)
        attachment._processors.append(processor)
    attachment._hook = transformer.register_forward_pre_hook(attachment._before, with_kwargs=True)
    return attachment
