# SPDX-License-Identifier: Apache-2.0
"""Which layers stand a cheaper attention: each layer alone is exchanged in the full model, then a budget of time is spent.

knapsack   the least sum of errors among all assignments whose time fits the budget; errors of single exchanges are taken to add up
halo       HALO's layer score (arXiv 2601.22156), with the error at high noise (where the picture is laid out) in the place of recall and the
           error at low noise in the place of common sense; the highest layers stay full while the budget lasts
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor

from sla2.errors import ArgumentError
from sla2.training import arms, data, evaluate, models
from sla2.training.config import Config, make

_BINS = 2000  # of the budget's time; times are rounded up, so that the budget holds


def run(values: Mapping[str, Any] | Config) -> dict[str, Any]:
    """Measure and choose; writes schedule.json. Returns `schedule` for attention.schedule, errors and times."""
    config = make(values)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    torch.manual_seed(config.train.seed)
    samples = data.Samples(config.data.path, "test")
    model = models.load(config.model.path, config.model.heads)
    layers, heads, head_dim = models.geometry(model)
    grid = models.grid_of(model, torch.empty(samples.shape, device="meta"))
    held, micro = data.held_out(samples, config.evaluate.samples, config.evaluate.levels), config.train.micro_batch or 4
    wanted = evaluate.velocities(model, held, micro, evaluate.run_plain)
    errors = {mode: torch.zeros(layers, len(config.evaluate.levels)) for mode in config.schedule.modes}
    for mode in config.schedule.modes:
        for i in range(layers):
            errors[mode][i] = _exchanged(config, model, i, mode, held, wanted, micro, grid)
            print(f"layer {i} as {mode}: velocity error {float(errors[mode][i].mean()):.6f}", flush=True)
    tokens = grid[0] * grid[1] * grid[2]
    times = {mode: _seconds(config, mode, heads, head_dim, tokens, grid) for mode in ["full", *config.schedule.modes]}
    budget = config.schedule.budget * layers * times["full"]
    if config.schedule.rule == "halo":
        chosen = halo(errors[config.schedule.modes[0]], config.evaluate.levels, config.schedule.modes[0], times, budget)
    else:
        chosen = knapsack({mode: error.mean(1) for mode, error in errors.items()}, times, budget)
    result = {
        "schedule": as_text(chosen),
        "layers": chosen,
        "time_share": sum(times[mode] for mode in chosen) / (layers * times["full"]),
        "milliseconds": {mode: round(1e3 * seconds, 4) for mode, seconds in times.items()},
        "velocity_error": {mode: [float(f"{x:.6g}") for x in error.mean(1).tolist()] for mode, error in errors.items()},
    }
    config.folder().mkdir(parents=True, exist_ok=True)
    (config.folder() / "schedule.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _exchanged(config: Config, model: Any, layer: int, mode: str, held: data.Batch, wanted: Tensor, micro: int, grid: tuple[int, int, int]) -> Tensor:  # fmt: skip
    """Relative squared error of the velocity at each level with one layer in another mode."""
    values = config.as_dict()
    kind = arms.parse_mode(mode, config.attention.sparsity)
    values["attention"] |= {"mode": kind.mode, "sparsity": kind.sparsity, "schedule": f"full; layers {layer}: {mode}"}
    values["attention"] |= {"pack": ""} if kind.mode != config.attention.mode else {}
    attachment = arms.install(model, Config(values), grid)
    try:
        found = evaluate.velocities(model, held, micro, evaluate.run_plain)
    finally:
        attachment.detach()
    by_level = evaluate.compare(found, wanted, held, config.evaluate.levels)["velocity_error_by_level"]
    return torch.tensor(by_level)


def _seconds(config: Config, mode: str, heads: int, head_dim: int, tokens: int, grid: tuple[int, int, int]) -> float:
    """Median time of one layer's attention."""
    values = config.as_dict()
    values["attention"] |= {"pack": "", "schedule": "", "router": config.attention.router if mode != "full" else "sla2"}
    layer = arms.make_layer(Config(values), arms.parse_mode(mode, config.attention.sparsity), heads, head_dim, heads * head_dim, grid)
    q, k, v = torch.randn(3, 1, tokens, heads, head_dim, generator=data.generator(1)).unbind(0)
    hidden = torch.zeros(1, tokens, heads * head_dim)
    taken = []
    with torch.no_grad():
        for _ in range(config.schedule.repeats + 1):
            start = time.perf_counter()
            layer(q, k, v, grid=grid, hidden=hidden)
            taken.append(time.perf_counter() - start)
    return median(taken[1:])


def knapsack(errors: Mapping[str, Tensor], times: Mapping[str, float], budget: float) -> list[str]:
    """The mode of each layer with the least sum of errors [layers] within the budget of seconds; exact up to the rounding of times."""
    layers = len(next(iter(errors.values())))
    modes = [mode for mode in times if mode == "full" or mode in errors]
    unit = budget / _BINS
    cost = {mode: math.ceil(times[mode] / unit - 1e-6) if unit else 0 for mode in modes}
    if unit <= 0 or layers * min(cost.values()) > _BINS:
        least = layers * min(times.values()) / (layers * times["full"])
        raise ArgumentError(f"schedule.budget: no assignment fits; the cheapest takes {least:.3f} of full attention's time; raise the budget or give cheaper schedule.modes")  # fmt: skip
    best: list[tuple[float, list[str]] | None] = [(0.0, [])] + [None] * _BINS
    for i in range(layers):
        following: list[tuple[float, list[str]] | None] = [None] * (_BINS + 1)
        for spent, state in enumerate(best):
            for mode in modes if state is not None else ():
                now = spent + cost[mode]
                if state is None or now > _BINS:
                    continue
                error = state[0] + (0.0 if mode == "full" else float(errors[mode][i]))
                there = following[now]
                if there is None or error < there[0]:
                    following[now] = (error, [*state[1], mode])
        best = following
    found = min((state for state in best if state is not None), key=lambda state: state[0])
    return found[1]


def halo(errors: Tensor, levels: list[float], mode: str, times: Mapping[str, float], budget: float) -> list[str]:
    """Layers ranked by s = min(50, (max R − R) / (max C − C + 1e-10)); R, C: minus the errors [layers, levels] at high and low noise."""
    middle = median(levels)
    high = [i for i, level in enumerate(levels) if level >= middle]
    low = [i for i, level in enumerate(levels) if level <= middle]
    r, c = -errors[:, high].mean(1), -errors[:, low].mean(1)
    score = ((r.max() - r) / (c.max() - c + 1e-10)).clamp_max(50)
    chosen, spent = [mode] * len(errors), len(errors) * times[mode]
    for i in score.argsort(descending=True, stable=True).tolist():
        spent += times["full"] - times[mode]
        if spent > budget:
            break
        chosen[i] = "full"
    return chosen


def as_text(chosen: list[str]) -> str:
    """Modes by layer as attention.schedule takes them: the most frequent one for all, then the others."""
    first = max(dict.fromkeys(chosen), key=chosen.count)
    rules = [first]
    for mode in dict.fromkeys(chosen):
        if mode != first:
            rules.append(f"layers {','.join(str(i) for i, m in enumerate(chosen) if m == mode)}: {mode}")
    return "; ".join(rules)
