# SPDX-License-Identifier: Apache-2.0
"""Does the first stage help, head by head? Its hard mask against the identity router's on held-out combinations, both with fitted mixing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...nn import SparseAttention
from . import pool, stage1, teacher
from .arms import BY_NAME
from .run import modules, start, student

CLIPS, LEVELS = 8, (0.9, 0.7, 0.4)


def questions(work: Path) -> list[pool.Pair]:
    """Return tuples of held-out combinations that neither the fit nor the metrics saw: each clip at one level."""
    _, mean, std = teacher.load(work)
    plan = [(i, 0, LEVELS[i % len(LEVELS)], 88_000_000 + i, i) for i in range(CLIPS)]
    return pool._pairs(work, "test", plan, mean, std)


@torch.no_grad()
def compare(fitted: SparseAttention, identity: SparseAttention, samples: list[stage1.Sample]) -> list[dict[str, float]]:
    """Return per head: errors and kept mass of both, and the most mass that as many blocks can keep."""
    keep = max(1, round((1 - fitted.sparsity) * samples[0].mass.shape[-1]))
    best = torch.stack([s.mass.topk(keep, -1).values.sum(-1).mean(-1) for s in samples]).mean(0)

    def held(module: SparseAttention) -> Tensor:
        return torch.stack([stage1.recall(stage1.kept(module, s), s.mass) for s in samples]).mean(0)

    columns = {
        "identity": stage1.errors(identity, samples),
        "fitted": stage1.errors(fitted, samples),
        "identity_mass": held(identity),
        "fitted_mass": held(fitted),
        "best_mass": best,
        "equal_share": torch.full_like(best, keep / samples[0].mass.shape[-1]),
    }
    return [{name: round(float(x[h]), 5) for name, x in columns.items()} for h in range(len(best))]


def routes(head: dict[str, float]) -> bool:
    """Tell whether a head's routing is not trivial, as registered: attention is uneven, and the identity leaves mass behind."""
    return head["best_mass"] >= 2 * head["equal_share"] and head["best_mass"] - head["identity_mass"] >= 0.005


def measure(work: Path) -> dict[str, Any]:
    """Return the comparison for every layer of the teacher at 95 %."""
    seen = stage1.capture(teacher.load(work)[0], questions(work))
    found: list[list[SparseAttention | None]] = []
    for name in ("sla2_95", "topk_95"):
        model, attachment = student(work, BY_NAME[name])
        start(model, BY_NAME[name], work)
        found.append(modules(model))
        attachment.detach()
    layers = [compare(a, b, s) for a, b, s in zip(*found, seen) if a is not None and b is not None]
    return {"sparsity": 0.95, "clips": CLIPS, "layers": layers}


def text(found: dict[str, Any]) -> str:
    """Return the page's paragraph and table."""
    rows = [(i, h, head) for i, layer in enumerate(found["layers"]) for h, head in enumerate(layer)]
    counted = [head for _, _, head in rows if routes(head)]
    better = sum(head["fitted"] < head["identity"] for head in counted)
    gain = 1 - np.exp(np.mean([np.log(h["fitted"] / h["identity"]) for h in counted])) if counted else 0.0
    left = np.mean([(h["fitted_mass"] - h["identity_mass"]) / (h["best_mass"] - h["identity_mass"]) for h in counted]) if counted else 0.0
    lines = [
        f"Of {len(rows)} heads {len(counted)} route in a way that is not trivial; in **{better} of them"
        f" ({100 * better / max(1, len(counted)):.0f} %)** the first stage lowers the hard-mask error at {100 * found['sparsity']:.0f} %"
        f" sparsity on held-out combinations (bar: 80 %). Geometric mean of the gain: {100 * gain:.1f} %. Of the mass between the identity's choice and the best"
        f" possible one it recovers {100 * left:.0f} %.",
        "",
        "| layer, head | identity: error, mass | fitted: error, mass | most mass possible |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {i}, {h}{'' if routes(x) else ' (trivial)'} | {x['identity']:.3f}, {x['identity_mass']:.3f} | {x['fitted']:.3f}, {x['fitted_mass']:.3f} |"
        f" {x['best_mass']:.3f} |"
        for i, h, x in rows
    ]
    return "\n".join(lines)


def write(work: Path, path: Path) -> None:
    """Measure and keep."""
    path.write_text(json.dumps(measure(work), indent=1) + "\n")
