# SPDX-License-Identifier: Apache-2.0
"""Training of sparse attention for Wan models: routers in stage 1, the model with them in stage 2 (libsla2/docs/training.md).

    sla2-train fit CONFIG.yaml        stage 1: queries, keys and values of your model, routers and mixing numbers, a router pack
    sla2-train train CONFIG.yaml      stage 2: the model, end to end, beside the full-attention teacher
    sla2-train schedule CONFIG.yaml   which layers stand a cheaper attention
    sla2-train export CONFIG.yaml     weights or LoRA and the pack that belongs to them
    sla2-train reference              every key of the configuration

The same from Python: `sla2.training.train(config)`, `fit(config)`, `calibrate_schedule(config)`, `export(config)`.
"""

from __future__ import annotations

from typing import Any

__all__ = ["calibrate_schedule", "export", "fit", "train"]


def train(config: dict[str, Any]) -> dict[str, Any]:
    """Stage 2 by a configuration as in docs/training.md; goes on from the latest checkpoint. Returns the last metrics."""
    from sla2.training.train import run

    return run(config)


def fit(config: dict[str, Any]) -> dict[str, Any]:
    """Stage 1; goes on where it was stopped. Returns errors per layer and head, and the path of the pack."""
    from sla2.training.fit import run

    return run(config)


def calibrate_schedule(config: dict[str, Any]) -> dict[str, Any]:
    """Measure each layer alone in a cheaper attention; choose under a budget. Returns the schedule and what it rests on."""
    from sla2.training.schedule import run

    return run(config)


def export(config: dict[str, Any]) -> dict[str, Any]:
    """Weights or LoRA of the latest checkpoint and their router pack. Returns the files' paths and hashes."""
    from sla2.training.export import run

    return run(config)
