# SPDX-License-Identifier: Apache-2.0
"""What happened: counts, reasons, times and probe errors, per layer, as a table for people and as JSON."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Row:
    """Calls of one layer. VACE layers and layers that nobody names have rows of their own."""

    calls: int = 0
    sparse: int = 0
    sparse_seconds: float = 0.0
    dense_seconds: float = 0.0
    sparsity: float = 0.0  # sum over the sparse calls
    probes: int = 0
    probe_error: float = 0.0  # sum of relative L1 errors
    reasons: Counter[str] = field(default_factory=Counter)

    def facts(self, layer: str) -> dict[str, Any]:
        return {
            "layer": layer,
            "calls": self.calls,
            "sparse": self.sparse,
            "dense": self.calls - self.sparse,
            "sparsity": round(self.sparsity / self.sparse, 6) if self.sparse else 0.0,
            "probe_relative_l1": self.probe_error / self.probes if self.probes else None,
            "sparse_seconds": self.sparse_seconds,
            "dense_seconds": self.dense_seconds,
            "reasons": dict(self.reasons.most_common()),
        }


class Report:
    """Filled by the attention hook from any thread; read afterwards."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        with self._lock:
            self.rows: dict[str, Row] = {}
            self.other_calls = 0  # cross-attention and whatever else the hook sees
            self.notes: list[str] = []
            self.forwards = 0

    def note(self, text: str) -> bool:
        """Keep a sentence once. True when it is new."""
        with self._lock:
            new = text not in self.notes
            if new:
                self.notes.append(text)
            return new

    def count_other(self) -> None:
        with self._lock:
            self.other_calls += 1

    def count_forward(self) -> None:
        with self._lock:
            self.forwards += 1

    def count_dense(self, layer: str, reason: str, seconds: float) -> None:
        with self._lock:
            row = self.rows.setdefault(layer, Row())
            row.calls += 1
            row.dense_seconds += seconds
            row.reasons[reason] += 1

    def count_sparse(self, layer: str, facts: dict[str, Any], seconds: float) -> None:
        with self._lock:
            row = self.rows.setdefault(layer, Row())
            row.calls += 1
            row.sparse += 1
            row.sparse_seconds += seconds
            row.sparsity += float(facts.get("sparsity", 0.0))
            if facts.get("probe_relative_l1") is not None and facts.get("probe_blocks", 1):
                row.probes += 1
                row.probe_error += float(facts["probe_relative_l1"])

    def to_dict(self) -> dict[str, Any]:
        with self._lock:
            rows = [row.facts(layer) for layer, row in sorted(self.rows.items(), key=lambda item: _place(item[0]))]
            calls, sparse = sum(row["calls"] for row in rows), sum(row["sparse"] for row in rows)
            total = {
                "forwards": self.forwards,
                "self_attention_calls": calls,
                "other_calls": self.other_calls,
                "sparse": sparse,
                "dense": calls - sparse,
                "sparsity": sum(row["sparsity"] * row["sparse"] for row in rows) / sparse if sparse else 0.0,
                "sparse_seconds": sum(row["sparse_seconds"] for row in rows),
                "dense_seconds": sum(row["dense_seconds"] for row in rows),
                "reasons": dict(sum((Counter(row["reasons"]) for row in rows), Counter()).most_common()),
            }
            return {"total": total, "layers": rows, "notes": list(self.notes)}

    def summary(self) -> str:
        """One line for the node and the console."""
        total = self.to_dict()["total"]
        if total["sparse"]:
            line = f"{total['sparse']} of {total['self_attention_calls']} calls sparse, {total['sparsity']:.1%} of key blocks skipped"
            return line + "".join(f"; {count} dense: {reason}" for reason, count in list(total["reasons"].items())[:3])
        if total["self_attention_calls"]:
            reasons = "; ".join(f"{count} calls: {reason}" for reason, count in total["reasons"].items())
            return f"SLA2 did nothing, every call stayed dense: {reasons}"
        if total["other_calls"]:
            beside = "".join(f"; {note}" for note in self.notes)
            return f"SLA2 did nothing: none of {total['other_calls']} attention calls was self-attention of a video{beside}"
        return "SLA2 did nothing: no attention call reached it; " + ("; ".join(self.notes) or "was a sampler connected to this MODEL?")

    def __str__(self) -> str:
        facts = self.to_dict()
        head = f"{'layer':>9} {'calls':>6} {'sparse':>6} {'skipped':>8} {'probe':>8} {'sparse s':>9} {'dense s':>8}  stayed dense because"
        lines = [self.summary(), "", head]
        for row in facts["layers"]:
            skipped = f"{row['sparsity']:.1%}" if row["sparse"] else "-"
            probe = "-" if row["probe_relative_l1"] is None else f"{row['probe_relative_l1']:.4f}"
            why = ", ".join(f"{reason} ({count})" for reason, count in row["reasons"].items())
            lines.append(
                f"{row['layer']:>9} {row['calls']:>6} {row['sparse']:>6} {skipped:>8} {probe:>8} "
                f"{row['sparse_seconds']:>9.3f} {row['dense_seconds']:>8.3f}  {why}".rstrip()
            )
        lines += ["", f"{facts['total']['forwards']} passes, {facts['total']['other_calls']} other attention calls", *facts["notes"]]
        return "\n".join(lines).rstrip() + "\n"


def _place(layer: str) -> tuple[int, str]:
    digits = "".join(c for c in layer.split(" ")[0] if c.isdigit())
    return (int(digits) if digits else 1 << 30, layer)
