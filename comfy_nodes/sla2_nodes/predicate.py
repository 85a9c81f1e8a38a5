# SPDX-License-Identifier: Apache-2.0
"""Which calls are self-attention of the video, and which of those stay dense. The reasons are for people to read."""

from __future__ import annotations

from .call import Call
from .forward import Forward
from .settings import Settings

_USUAL_TEXTS = frozenset({77, 226, 256, 257, 512, 514})  # where nobody tells the lengths of the texts


def is_self_attention(call: Call, forward: Forward) -> bool:
    """Same tokens on both sides. Equal shapes are not enough: a short clip can have as many tokens as the text, so where the
    number is that of a text only the first such call of a block counts, which in every Wan block is its self-attention."""
    if not call.well_formed or not tuple(call.q.shape) == tuple(call.k.shape) == tuple(call.v.shape):
        return False
    if call.kwargs.get("low_precision_attention") is False:  # core's mark on the image part of cross-attention
        return False
    first = forward.calls_in_block == 0
    forward.calls_in_block += 1
    video = forward.video_tokens
    if video is not None and call.tokens < video:
        return False
    texts = forward.text_tokens or (frozenset() if video else _USUAL_TEXTS)
    if call.tokens not in texts:
        return True
    return video is not None and first and forward.last_block is not None


def dense_by_tensors(call: Call) -> str | None:
    """Why these tensors stay dense whatever the settings are."""
    if call.mask is not None:
        return "a mask is present"
    if call.strange:
        return f"unknown arguments: {', '.join(call.strange)}"
    if not 32 <= call.head_dim <= 256 or call.head_dim % 8:
        return f"head size {call.head_dim}; the library takes 32 to 256 in steps of 8"
    if not call.q.dtype == call.k.dtype == call.v.dtype:
        return f"mixed element types {call.q.dtype}, {call.k.dtype}, {call.v.dtype}"
    return None


def dense_by_place(call: Call, forward: Forward) -> str | None:
    """Why tokens stay dense whose place in the video nobody tells."""
    if not forward.begun:  # the hook was called outside of a diffusion model
        return None
    if forward.video_tokens is None:
        return "the video grid of this model is not known"
    if call.tokens > forward.video_tokens and not forward.wan:
        return "tokens beside the video, and this is no Wan model that would tell where they are"
    return None


def dense_by_settings(settings: Settings, forward: Forward, tokens: int, block: int | None, window: tuple[float, float]) -> str | None:
    """Why the user's settings keep this call dense. window: greatest and least sigma of the sparse part."""
    if settings.keep_percent >= 100:
        return "keep_percent 100 keeps every key block"
    if tokens < settings.min_tokens:
        return f"fewer than min_tokens {settings.min_tokens} tokens"
    if forward.sigma is not None:
        if forward.sigma > window[0] * (1 + 1e-6):
            return "before start_percent"
        if forward.sigma < window[1] * (1 - 1e-6):
            return "after end_percent"
    if forward.step is not None and forward.steps is not None:
        if forward.step < settings.dense_first_steps:
            return "dense_first_steps"
        if forward.step >= forward.steps - settings.dense_last_steps:
            return "dense_last_steps"
    if settings.names_blocks:
        if block is None:
            return "dense_blocks is set and this model does not tell its blocks"
        if settings.block_is_dense(block, forward.total_blocks):
            return "dense_blocks"
    return None
