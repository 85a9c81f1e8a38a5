# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the parts of ComfyUI that the nodes touch, written from the documented signatures: the attention hook, wrappers
around a diffusion model, and a Wan-like model of two blocks that calls attention as the real one does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sla2_nodes import attend, chain, wrapper
from sla2_nodes.engine import Plan
from sla2_nodes.settings import Settings

HEADS, HEAD_DIM = 2, 64


def backend(
    q: Any, k: Any, v: Any, heads: int, mask: Any = None, skip_reshape: bool = False, skip_output_reshape: bool = False, **_: Any
) -> Any:
    """Core's dense attention: [B, N, H*D], or [B, H, N, D] with skip_reshape."""
    if not skip_reshape:
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


def optimized_attention(*args: Any, **kwargs: Any) -> Any:
    """The hook: an override gets the backend and everything else, once."""
    options = kwargs.get("transformer_options") or {}
    if "_inside_attn_wrapper" not in kwargs and chain.HOOK in options:
        return options[chain.HOOK](backend, *args, **kwargs, _inside_attn_wrapper=True)
    return backend(*args, **kwargs)


class Executor:
    """Wrappers around a method of an object, each calling the next."""

    def __init__(self, original: Callable[..., Any], class_obj: Any, wrappers: list[Any]) -> None:
        self.original, self.class_obj, self.wrappers = original, class_obj, wrappers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.wrappers:
            return self.original(*args, **kwargs)
        return self.wrappers[0](Executor(self.original, self.class_obj, self.wrappers[1:]), *args, **kwargs)


class Block(torch.nn.Module):
    """Self-attention of the video and cross-attention with the text, plus a second image part where `image` is given."""

    def forward(self, x: Any, context: Any, options: dict[str, Any], image: Any = None) -> Any:
        x = x + optimized_attention(x, 0.9 * x, x.flip(1), heads=HEADS, transformer_options=options)
        x = x + optimized_attention(x, context, context, heads=HEADS, transformer_options=options)
        if image is not None:
            x = x + optimized_attention(x, image, image, heads=HEADS, transformer_options=options, low_precision_attention=False)
        return x


class Wan(torch.nn.Module):
    """x [B, H*D, T, height, width] with patches of one; `tells`: does this core put block_index into transformer_options."""

    patch_size = (1, 1, 1)

    def __init__(self, *, tells: bool = True, vace: bool = False, reference: int = 0, suffix: int = 0) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([Block(), Block()])
        self.vace_block = Block() if vace else None
        self.tells, self.reference, self.suffix = tells, reference, suffix
        self.ref_conv = True if reference else None
        self.num_heads, self.dim = HEADS, HEADS * HEAD_DIM

    def inner(
        self,
        x: Any,
        timestep: Any,
        context: Any,
        clip_fea: Any = None,
        time_dim_concat: Any = None,
        transformer_options: Any = None,
        **kwargs: Any,
    ) -> Any:
        options = transformer_options
        tokens = x.flatten(2).transpose(1, 2)
        extra = torch.ones(x.shape[0], max(self.reference, self.suffix), tokens.shape[2])
        tokens = torch.cat((extra, tokens) if self.reference else (tokens, extra), 1)
        for number, block in enumerate(self.blocks):
            if self.tells:
                options["block_index"], options["total_blocks"] = number, len(self.blocks)
            tokens = block(tokens, context, options, clip_fea)
            if self.vace_block is not None:
                tokens = tokens + self.vace_block(tokens, context, options)
        return tokens

    def forward(
        self,
        x: Any,
        timestep: Any,
        context: Any,
        clip_fea: Any,
        options: dict[str, Any],
        wrappers: Any = (wrapper.around_model,),
        **kwargs: Any,
    ) -> Any:
        return Executor(self.inner, self, list(wrappers))(x, timestep, context, clip_fea, None, options, **kwargs)


class World:
    """A model with SLA2 on it, and one pass through it."""

    def __init__(self, model: Wan | None = None, *, pack: Any = None, previous: Any = None, sla2: Any = None, **settings: Any) -> None:
        import sla2 as wheel

        self.model = model or Wan()
        words = {"keep_percent": 25.0, "start_percent": 0.0, "min_tokens": 0} | settings
        self.active = attend.Attend(wheel if sla2 is None else sla2 or None, Plan(Settings(**words), pack))
        self.options: dict[str, Any] = {} if previous is None else {chain.HOOK: previous}
        chain.install(self.options, self.active)

    def run(
        self, grid: tuple[int, int, int] = (5, 8, 10), text: int = 7, batch: int = 1, image: int = 0, seed: int = 0, **kwargs: Any
    ) -> Any:
        source = torch.Generator().manual_seed(seed)
        dim = HEADS * HEAD_DIM
        x = torch.randn(batch, dim, *grid, generator=source)
        context = torch.randn(batch, text, dim, generator=source)
        clip = torch.randn(batch, image, dim, generator=source) if image else None
        if self.model.reference:
            kwargs["reference_latent"] = x
        return self.model(x, None, context, clip, self.options, **kwargs)

    def dense(self, **words: Any) -> Any:
        """The same pass without SLA2."""
        kept, self.options = self.options, {}
        try:
            return self.run(**words)
        finally:
            self.options = kept

    @property
    def total(self) -> dict[str, Any]:
        return self.active.report.to_dict()["total"]

    @property
    def layers(self) -> dict[str, Any]:
        return {row["layer"]: row for row in self.active.report.to_dict()["layers"]}
