# SPDX-License-Identifier: Apache-2.0
"""Where a sampling run stands, read from the timestep that the transformer is called with."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class StepInfo:
    """One call of the transformer. Calls of a step (with the prompt and without) share `index`.

    index     step from 0; None where the transformer was called without a timestep
    total     steps of the run; None where nothing says
    timestep  the greatest of the batch (Wan2.2 gives conditioned tokens 0); None as for index
    """

    index: int | None = None
    total: int | None = None
    timestep: float | None = None


class StepTracker:
    """Counts steps. With a pipeline its scheduler's list decides; without one, every new timestep is a step and a rise begins a run."""

    def __init__(self, pipeline: Any = None, total: int | None = None) -> None:
        self._pipeline = None if pipeline is None else weakref.ref(pipeline)
        self._total, self._count = total, -1
        self._last: float | None = None
        self.info = StepInfo()

    def __deepcopy__(self, memo: dict[int, Any]) -> StepTracker:
        copied = StepTracker(None if self._pipeline is None else self._pipeline(), self._total)
        return copied

    def observe(self, timestep: Any) -> None:
        """Take the `timestep` argument of a call: a tensor of any shape, a number, or None."""
        if timestep is None:
            self.info = StepInfo(None, self._total, None)
            return
        now = float(timestep.detach().max()) if isinstance(timestep, Tensor) else float(timestep)
        if self._last is None or now > self._last:
            self._count = 0
        elif now < self._last:
            self._count += 1
        self._last = now
        index, total = self._in_schedule(now)
        self.info = StepInfo(self._count if index is None else index, self._total if total is None else total, now)

    def _in_schedule(self, now: float) -> tuple[int | None, int | None]:
        """Index and length in the scheduler's list of timesteps, if that holds this one."""
        scheduler = getattr(self._pipeline() if self._pipeline else None, "scheduler", None)
        listed = getattr(scheduler, "timesteps", None)
        if not isinstance(listed, Tensor) or listed.ndim != 1 or not len(listed):
            return None, None
        distance = (listed.detach().double().cpu() - now).abs()
        close = (distance <= 1e-3 * max(1.0, abs(now))).nonzero().flatten().tolist()
        if not close:
            return None, None
        current = getattr(scheduler, "step_index", None)  # tells equal timesteps of a second-order solver apart
        return (current if current in close else int(distance.argmin())), len(listed)
