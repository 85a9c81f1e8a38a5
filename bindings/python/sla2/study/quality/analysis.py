# SPDX-License-Identifier: Apache-2.0
"""From result files to numbers: per-arm estimates, paired comparisons, and the registered claims' outcomes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .arms import ARMS
from .claims import CLAIMS, Claim
from .stats import Array, Interval, estimate, holm, not_worse, superior

Records = dict[str, dict[int, dict]]  # arm -> training seed -> record


def load(folder: Path) -> Records:
    """Read every result file of a budget, in the arms' order, then by seed. Failed runs are in it, with key ``failed``."""
    found: Records = {}
    for arm in ARMS:
        for path in sorted(folder.glob(f"{arm.name}_[0-9].json")):
            record = json.loads(path.read_text())
            found.setdefault(arm.name, {})[record["seed"]] = record
    return found


def good(records: Records, arm: str) -> dict[int, dict]:
    """Return the runs of an arm that did not fail, by seed."""
    return {seed: r for seed, r in records.get(arm, {}).items() if "failed" not in r}


def table(runs: dict[int, dict], seeds: list[int], metric: str) -> Array:
    """Return a metric as [prompts, seeds], levels of a prompt averaged. Velocity is in units of the teacher's mean square."""
    columns = []
    for seed in seeds:
        pairs = runs[seed]["pairs"]
        prompts = sorted({p["prompt"] for p in pairs})
        scale = float(np.mean([p["power"] for p in pairs])) if metric == "velocity" else 1.0
        columns.append([float(np.mean([p[metric] for p in pairs if p["prompt"] == prompt])) / scale for prompt in prompts])
    return np.array(columns).T


def by_bin(runs: dict[int, dict], metric: str = "velocity") -> list[float]:
    """Return the metric per noise-level bin, over seeds; velocity over the teacher's square in that bin."""
    out = []
    for number in sorted({p["bin"] for r in runs.values() for p in r["pairs"]}):
        rows = [p for r in runs.values() for p in r["pairs"] if p["bin"] == number]
        scale = sum(p["power"] for p in rows) if metric == "velocity" else len(rows)
        out.append(sum(p[metric] for p in rows) / scale)
    return out


def attention(runs: dict[int, dict]) -> tuple[float, float, float]:
    """Return mean attention error, kept mass and sparsity over layers, heads and seeds; nan where there is none."""
    rows = [layer for r in runs.values() for layer in r["attention"] if layer]

    def mean(key: str) -> float:
        values = [x for row in rows for x in row.get(key, [])]
        return float(np.mean(values)) if values else float("nan")

    return mean("error"), mean("recall"), mean("sparsity")


@dataclass(frozen=True)
class Outcome:
    """A claim with its paired relative gain (positive: as claimed), seeds used, adjusted p and word."""

    claim: Claim
    gain: Interval | None
    seeds: int
    p: float
    word: str


def _gain(records: Records, claim: Claim) -> tuple[Interval | None, int]:
    better, worse = good(records, claim.better), good(records, claim.worse)
    seeds = sorted(set(better) & set(worse))
    if not seeds:
        return None, 0
    a, b = (table(runs, seeds, claim.metric) for runs in (better, worse))
    return estimate((b - a) / b.mean()), len(seeds)


def outcomes(records: Records) -> list[Outcome]:
    """Judge every registered claim; one whose arms were not run has p 1 in Holm's list and no word but "not run"."""
    gains = [_gain(records, claim) for claim in CLAIMS]
    adjusted = holm([gain.p if gain else 1.0 for gain, _ in gains])
    out = []
    for claim, (gain, seeds), p in zip(CLAIMS, gains, adjusted):
        if gain is None:
            word = "not run"
        elif claim.margin is None:
            word = superior(gain, p)
        else:
            word = not_worse(Interval(-gain.value, -gain.high, -gain.low, gain.error, gain.p), claim.margin)
        out.append(Outcome(claim, gain, seeds, p, word))
    return out
