# SPDX-License-Identifier: Apache-2.0
"""The decision and its execution: one object per SLA2 Attention node, shared by every clone of the model behind it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from . import predicate, tokens
from .call import Call
from .engine import Plan
from .forward import Forward
from .report import Report

LOG = logging.getLogger("sla2")
KEY = "sla2_attention"
clock = time.perf_counter  # seconds of the report; a benchmark on a busy machine counts processor time instead


class Attend:
    """Settings, pack, report and what was learned while running."""

    def __init__(self, sla2: Any, plan: Plan, *, name: str = "SLA2 Attention") -> None:
        self.sla2, self.plan, self.name = sla2, plan, name
        self.report = Report()
        self.window = (float("inf"), float("-inf"))  # sigmas between which attention may be sparse
        self.observe: Callable[[Call, Forward, int | None], None] | None = None  # sees accepted calls, which then stay dense
        self.core_tells_blocks: bool | None = None
        self.displaced = False  # another pack put its override in our place
        self.run_of: Any = None
        self.node_id: Any = None  # where the line at the end of a run is shown
        self._broken: dict[tuple[Any, ...], str] = {}
        self._said: set[str] = set()

    def __deepcopy__(self, _: Any) -> Attend:
        return self  # MODEL options are copied with every clone; the report must stay one

    def begin_run(self, run: Any, window: tuple[float, float]) -> None:
        """A sampler starts. Samplers of one prompt share a report."""
        if run is None or run != self.run_of:
            self.report.clear()
        self.run_of, self.window = run, window

    def end_run(self) -> str:
        """Free what was kept for the run; returns the line that says what happened."""
        tokens.forget()
        if self.sla2 is not None:
            self.sla2.clear_plans()
        return self.report.summary()

    def __call__(self, call: Call, forward: Forward, options: dict[str, Any], dense: Callable[[], Any]) -> Any:
        forward.seen += 1
        block = forward.enter_call(options)
        if not predicate.is_self_attention(call, forward):
            self.report.count_other()
            return self._down(forward, dense)
        layer = "?" if block is None else str(block)
        second = forward.calls_in_block > 1 and block is not None
        if second:
            layer += " VACE"
        if self.observe is None:
            reason = self._reason(call, forward, block, second)
        else:  # whoever looks on sees every call that could run, whatever the settings say
            reason = predicate.dense_by_tensors(call) or predicate.dense_by_place(call, forward)
            if reason is None and not second:
                self.observe(call, forward, block)
            reason = reason or "observed"
        if reason is None:
            started = clock()
            try:
                out, facts = self.plan.run(self.sla2, call, forward, block)
            except Exception as error:  # whatever it is, the workflow goes on dense
                reason = f"{type(error).__name__}: {error}"
                self._broken[self._kind(call)] = reason
            else:
                self.report.count_sparse(layer, facts, clock() - started)
                return call.result(out)
        if reason not in self._said and (self.plan.settings.verbose or self._kind(call) in self._broken):
            self._said.add(reason)
            LOG.warning("%s: layer %s, %d tokens stay dense: %s", self.name, layer, call.tokens, reason)
        started = clock()
        out = self._down(forward, dense)
        self.report.count_dense(layer, reason, clock() - started)
        return out

    def _reason(self, call: Call, forward: Forward, block: int | None, second: bool) -> str | None:
        reason = predicate.dense_by_tensors(call) or predicate.dense_by_place(call, forward)
        reason = reason or predicate.dense_by_settings(self.plan.settings, forward, call.tokens, block, self.window)
        if reason is None and self.sla2 is None:
            reason = "the sla2 wheel is missing or does not fit"
        reason = reason or self.plan.dense_by_pack(forward, block, second)
        return reason or self._broken.get(self._kind(call))

    @staticmethod
    def _kind(call: Call) -> tuple[Any, ...]:
        return (str(call.q.device), str(call.q.dtype), tuple(call.q.shape))

    @staticmethod
    def _down(forward: Forward, dense: Callable[[], Any]) -> Any:
        """Hand a call down the chain; should we sit there a second time, that one only passes it on."""
        forward.inside = True
        try:
            return dense()
        finally:
            forward.inside = False
