# SPDX-License-Identifier: Apache-2.0
"""What happened to each layer's calls since `apply`: counted where it happens, so that it is true."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class LayerReport:
    """One self-attention layer.

    calls        all calls of the layer
    sparse       calls that the library computed
    full         calls that were to be full attention, by the schedule, a guard, or sparsity 0
    fallbacks    calls that were to be sparse and could not be: reason -> how many; the model's own attention computed them
    sparsity     mean fraction of key blocks skipped over the sparse calls; None without one, or where it was not counted
    seconds      in the library, of all sparse calls
    probe_relative_l1, probe_calls    mean error against full attention on the probed query blocks, and over how many calls
    """

    layer: int
    name: str
    calls: int = 0
    sparse: int = 0
    full: int = 0
    fallbacks: dict[str, int] = field(default_factory=dict)
    sparsity: float | None = None
    seconds: float = 0.0
    probe_relative_l1: float | None = None
    probe_calls: int = 0
    _counted: int = field(default=0, repr=False)

    def add_sparse(self, seconds: float, sparsity: float | None, probe: float | None) -> None:
        self.calls += 1
        self.sparse += 1
        self.seconds += seconds
        if sparsity is not None:
            self._counted += 1
            before = self.sparsity or 0.0
            self.sparsity = before + (sparsity - before) / self._counted
        if probe is not None:
            self.probe_calls += 1
            before = self.probe_relative_l1 or 0.0
            self.probe_relative_l1 = before + (probe - before) / self.probe_calls

    def add_full(self) -> None:
        self.calls += 1
        self.full += 1

    def add_fallback(self, reason: str) -> None:
        self.calls += 1
        self.fallbacks[reason] = self.fallbacks.get(reason, 0) + 1

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


@dataclass
class Report:
    """`rows` per layer, `notes` a user should hear of; str() is a table, to_dict() is for JSON."""

    rows: list[LayerReport]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        return {"layers": [row.to_dict() for row in self.rows], "notes": list(self.notes)}

    def __str__(self) -> str:
        width = max([5, *(len(row.name) for row in self.rows)])
        lines = [f"{'layer':<{width}}  calls  sparse  full  fallen back  sparsity  seconds  probe L1"]
        reasons: dict[str, int] = {}
        for row in self.rows:
            fallen = sum(row.fallbacks.values())
            sparsity = "" if row.sparsity is None else f"{row.sparsity:.3f}"
            probe = "" if row.probe_relative_l1 is None else f"{row.probe_relative_l1:.4f}"
            lines.append(
                f"{row.name:<{width}}  {row.calls:5}  {row.sparse:6}  {row.full:4}  {fallen:11}  {sparsity:>8}  {row.seconds:7.2f}  {probe:>8}"
            )
            for reason, count in row.fallbacks.items():
                reasons[reason] = reasons.get(reason, 0) + count
        lines += [f"fell back {count} times: {reason}" for reason, count in reasons.items()]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])
