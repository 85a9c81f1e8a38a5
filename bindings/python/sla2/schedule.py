# SPDX-License-Identifier: Apache-2.0
"""Attention schedules: the text of `sla2 generate --attention-schedule`, read as the tool reads it. No torch, no NumPy.

>>> rules = sla2.schedule.parse("sla2@0.9; layers 0,-1: full; steps 0-20%: full")

The last rule that fits decides. Steps count from 0, both ends included; percentages hold the steps that begin in them; negative
layers count from the last.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NoReturn

from sla2.errors import ArgumentError

ROUTERS = ("sla2", "sla1", "vsa", "vmoba", "sparge")
MODES = ("full", "sla2", "sla1", "sparse_only", "linear_only", "l_plus_s", "pooled")
_EXAMPLE = "sla2@0.9; layers 0,-1: full; steps 0-20%: full"
_BLANKS = " \t\r\n"


@dataclass(frozen=True)
class Rule:
    """One rule. steps: numbers (first, last), or fractions of the run where `of_all`; layers: (first, last), empty for all."""

    text: str
    mode: str
    sparsity: float | None = None
    steps: tuple[float, float] | None = None
    of_all: bool = False
    layers: tuple[tuple[int, int], ...] = ()
    bits: int | None = None
    router: str | None = None

    def fits(self, step: int, steps: int, layer: int, layers: int) -> bool:
        """Does it hold in this step of `steps` and layer of `layers`? Layers past the last (VACE) answer to their own numbers alone."""
        if self.steps is not None:
            at = step / steps if self.of_all else step
            first, last = self.steps
            if at < first or (at >= last if self.of_all else at > last):
                return False
        return not self.layers or any(
            (low + layers if low < 0 else low) <= layer <= (high + layers if high < 0 else high) for low, high in self.layers
        )


def _complain(rule: str, part: str, expected: str) -> NoReturn:
    raise ArgumentError(f'attention_schedule: in the rule "{rule}": {expected}, got "{part}"; an example: "{_EXAMPLE}"')


def _number(text: str, whole: bool = False) -> float | None:
    pattern = r"-?\d+" if whole else r"-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
    return float(text) if re.fullmatch(pattern, text) else None


def _range(rule: str, part: str, expected: str, whole: bool) -> tuple[float, float]:
    """3, 3-7, -2 or -4--2."""
    dash = part.find("-", 1)
    first = _number((part if dash < 0 else part[:dash]).strip(_BLANKS), whole)
    last = first if dash < 0 else _number(part[dash + 1 :].strip(_BLANKS), whole)
    if first is None or last is None:
        _complain(rule, part, expected)
    return first, last


def _steps(rule: str, part: str) -> tuple[tuple[float, float], bool]:
    expected = "expected steps as 3-10 or 0-20%"
    of_all = part.endswith("%")
    if of_all:
        part = part[:-1].strip(_BLANKS)
    first, last = _range(rule, part, expected, False)
    if not 0 <= first <= last or (last > 100 if of_all else first != math.floor(first) or last != math.floor(last)):
        _complain(rule, part, expected)
    return ((first / 100, last / 100) if of_all else (first, last)), of_all


def _layers(rule: str, text: str) -> tuple[tuple[int, int], ...]:
    ranges = []
    for part in (one.strip(_BLANKS) for one in text.split(",")):
        first, last = _range(rule, part, "expected layers as 0-3,29 or -2--1", True)
        if (first < 0) == (last < 0) and last < first:
            _complain(rule, part, "expected a range that goes up")
        ranges.append((int(first), int(last)))
    return tuple(ranges)


def _words(rule: str, what: str) -> tuple[str, int | None, str | None]:
    """The mode's part, and bits=8 router=vmoba behind it."""
    bits: int | None = None
    router: str | None = None
    if "=" not in what:
        return what, bits, router
    space = max(what.rfind(" ", 0, what.index("=")), what.rfind("\t", 0, what.index("=")))
    if space < 0:
        _complain(rule, what, "expected a mode first, then bits=8, bits=16 or router=NAME")
    for word in what[space + 1 :].split():
        name, _, value = word.partition("=")
        if name == "bits" and "=" in word:
            bits = {"8": 8, "16": 16}.get(value) or _complain(rule, word, "expected bits=8 or bits=16")
        elif name == "router" and "=" in word:
            router = value if value in ROUTERS else _complain(rule, word, "expected router=sla2, sla1, vsa, vmoba or sparge")
        else:
            _complain(rule, word, "expected bits=8, bits=16 or router=NAME after the mode")
    return what[:space].strip(_BLANKS), bits, router


def _rule(text: str) -> Rule:
    where, colon, what = text.partition(":")
    if not colon:
        where, what = "", text
    where, what = where.strip(_BLANKS), what.strip(_BLANKS)
    what, bits, router = _words(text, what)
    mode, at, level = (part.strip(_BLANKS) for part in what.partition("@"))
    if mode not in MODES:
        _complain(text, what, f"expected {', '.join(MODES[:-1])} or {MODES[-1]}")
    sparsity = _number(level) if at else None
    if at and (sparsity is None or not 0 <= sparsity <= 1):
        _complain(text, what, "expected a sparsity from 0 to 1 after @")
    before, named, listed = where.partition("layers ")
    before = before.strip(_BLANKS)
    steps, of_all = None, False
    if before.startswith("steps "):
        steps, of_all = _steps(text, before[len("steps ") :].strip(_BLANKS))
    elif before or (colon and not where):
        _complain(text, before, 'expected "steps …" or "layers …" before the colon')
    return Rule(text, mode, sparsity, steps, of_all, _layers(text, listed.strip(_BLANKS)) if named else (), bits, router)


def parse(text: str) -> tuple[Rule, ...]:
    """The rules of a schedule, separated by semicolons or lines. Raises ArgumentError: which rule, what is wrong, an example."""
    return tuple(_rule(part) for part in (one.strip(_BLANKS) for one in re.split(r"[;\n]", text)) if part)
