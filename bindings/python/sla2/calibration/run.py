# SPDX-License-Identifier: Apache-2.0
"""Calibrate a transformer of diffusers with any callable that runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from sla2.calibration.calibrator import Calibrator
from sla2.diffusers.applied import fingerprints_of
from sla2.diffusers.attachment import Grid, attach, find_layers
from sla2.diffusers.steps import StepInfo
from sla2.packs import RouterPack


def calibrate(
    transformer: nn.Module,
    run: Callable[[], None],
    *,
    held_out: Callable[[], None] | None = None,
    progress: Callable[[str], None] | None = None,
    **settings: Any,
) -> RouterPack:
    """A router pack for `transformer` from what its attention sees while `run()` runs it; the model computes as it always does.

    run         runs the model over the prompts to fit on; called once a pass (settings router="none": one pass)
    held_out    runs it over others, on which errors are measured; None: each third call of a layer is held out of `run` instead
    settings    of Calibrator: sparsity, block_q, block_k, token_order, alpha_mode, router, rank, max_error, start, seed …

    Blocks beside the main ones (VACE) are not calibrated. Raises what Calibrator raises; the transformer is always left as it was.
    """
    layers = find_layers(transformer)
    main = [layer for layer in layers if not layer.extra]
    shapes, weights = fingerprints_of(layers)
    settings = {"base_shapes": shapes, "base_weights": weights or "", **settings}
    calibrator = Calibrator(layers=len(main), heads=main[0].heads, head_dim=main[0].head_dim, progress=progress, **settings)
    aside: list[bool | None] = [None if held_out is None else False]

    def make(index: int, heads: int, head_dim: int) -> Callable[..., Tensor | None] | None:
        if index >= len(main):
            return None

        def watch(q: Tensor, k: Tensor, v: Tensor, *, grid: Grid | None, step_info: StepInfo) -> Tensor | None:
            calibrator.observe(index, q, k, v, grid, held_out=aside[0])
            return None

        return watch

    attachment = attach(transformer, make)
    try:
        for number in range(calibrator.passes):
            if progress:
                progress(f"pass {number + 1} of {calibrator.passes}")
            run()
            if held_out is not None:
                aside[0] = True
                held_out()
                aside[0] = False
            calibrator.end_pass()
    finally:
        attachment.detach()
    return calibrator.finish()
