# SPDX-License-Identifier: Apache-2.0
"""Facts that hold for one pass through the diffusion model: the video grid, the step, the lengths of the texts."""

from __future__ import annotations

import math
from typing import Any

KEY = "sla2_forward"


class Forward:
    """Made by the wrapper around the diffusion model, read by the attention hook, gone afterwards."""

    __slots__ = (
        "begun",
        "block",
        "calls_in_block",
        "grid",
        "inside",
        "last_block",
        "prefix",
        "seen",
        "sigma",
        "step",
        "steps",
        "text_tokens",
        "told_block",
        "total_blocks",
        "wan",
    )

    def __init__(self) -> None:
        self.begun = False  # made from the arguments of a diffusion model
        self.wan = False  # of the Wan family, which has reference tokens before and all others after the video
        self.grid: tuple[int, int, int] | None = None
        self.prefix = False  # tokens beyond the grid come before the video, not after it
        self.text_tokens: frozenset[int] = frozenset()
        self.sigma: float | None = None
        self.step: int | None = None
        self.steps: int | None = None
        self.total_blocks: int | None = None
        self.block: int | None = None  # told by our own hooks where the core does not tell
        self.last_block: int | None = None
        self.calls_in_block = 0  # calls within the block that look like self-attention
        self.told_block = False  # the core put block_index into transformer_options
        self.seen = 0  # calls of the hook
        self.inside = False  # a declined call is on its way down the chain

    def enter_call(self, options: dict[str, Any]) -> int | None:
        """The block of this call, where anybody knows it."""
        told = options.get("block_index")
        block = self.block if told is None else int(told)
        self.told_block |= told is not None
        if block != self.last_block:
            self.last_block, self.calls_in_block = block, 0
        if self.total_blocks is None and options.get("total_blocks") is not None:
            self.total_blocks = int(options["total_blocks"])
        sizes = options.get("grid_sizes")
        if sizes is not None and len(sizes) == 3:
            self.grid = tuple(int(size) for size in sizes)  # type: ignore[assignment]
        return block

    @property
    def video_tokens(self) -> int | None:
        return math.prod(self.grid) if self.grid else None


def begin(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]) -> Forward:
    """Read the arguments of a diffusion model: (x [B,C,T,H,W], timestep, context [B,L,C], clip_fea, time_dim_concat, …)."""
    forward = Forward()
    forward.begun, forward.wan = True, any("Wan" in kind.__name__ for kind in type(model).__mro__)
    x = _argument(args, kwargs, 0, "x")
    patch = getattr(model, "patch_size", None)
    if _rank(x) == 5 and patch is not None and len(patch) == 3:
        extra = _argument(args, kwargs, 4, "time_dim_concat")
        frames = int(x.shape[2]) + (int(extra.shape[2]) if _rank(extra) == 5 else 0)
        sizes = (frames, int(x.shape[3]), int(x.shape[4]))
        forward.grid = tuple(-(-size // step) for size, step in zip(sizes, patch))  # type: ignore[assignment]
    context, clip = _argument(args, kwargs, 2, "context"), _argument(args, kwargs, 3, "clip_fea")
    forward.text_tokens = frozenset(int(t.shape[-2]) for t in (context, clip) if _rank(t) >= 2)
    forward.prefix = getattr(model, "ref_conv", None) is not None and kwargs.get("reference_latent") is not None
    blocks = getattr(model, "blocks", None)
    forward.total_blocks = len(blocks) if blocks is not None else None
    _read_step(forward, options)
    return forward


def _read_step(forward: Forward, options: dict[str, Any]) -> None:
    """One read from the device per pass, rather than one per attention call."""
    sigmas, schedule = options.get("sigmas"), options.get("sample_sigmas")
    if sigmas is None or len(sigmas) == 0:
        return
    forward.sigma = sigma = float(sigmas[0])
    if schedule is None or len(schedule) < 2:
        return
    values = [float(value) for value in schedule]
    forward.steps = len(values) - 1
    # A sampler may ask between two sigmas of the schedule: that is still the step of the greater one.
    passed = [index for index, value in enumerate(values[:-1]) if value >= sigma * (1 - 1e-5)]
    forward.step = passed[-1] if passed else 0


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str) -> Any:
    return args[place] if place < len(args) else kwargs.get(name)


def _rank(tensor: Any) -> int:
    return len(tensor.shape) if hasattr(tensor, "shape") else 0
