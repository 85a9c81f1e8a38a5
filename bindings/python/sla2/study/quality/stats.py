# SPDX-License-Identifier: Apache-2.0
"""Cluster bootstrap over prompts and training seeds, Holm's correction, and the three words of a claim's outcome."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RESAMPLES, LEVEL, SEED = 10_000, 0.95, 20261121


@functools.cache
def _weights(prompts: int, seeds: int, resamples: int, seed: int) -> tuple[Array, Array]:
    """How often each prompt and each seed is drawn, as shares: [resamples, prompts], [resamples, seeds]."""
    rng = np.random.default_rng(seed)
    by_prompt = rng.multinomial(prompts, np.full(prompts, 1 / prompts), resamples) / prompts
    return by_prompt, rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds


def resample(values: Array, resamples: int = RESAMPLES, seed: int = SEED) -> Array:
    """Bootstrap means of ``values`` [prompts, training seeds]: prompts are drawn anew, then seeds, each with replacement."""
    by_prompt, by_seed = _weights(*values.shape, resamples, seed)
    return np.einsum("rp,ps,rs->r", by_prompt, values, by_seed, optimize=True)


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval, standard error and two-sided p of being nought."""

    value: float
    low: float
    high: float
    error: float
    p: float

    @property
    def detectable(self) -> float:
        """The least effect found with 80 % power at 5 %, two-sided: 2.8 standard errors."""
        return 2.8 * self.error


def estimate(values: Array, resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """Mean of ``values`` [prompts, training seeds] with a percentile interval."""
    drawn = resample(values, resamples, seed)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail))
    below, above = int((drawn <= 0).sum()), int((drawn >= 0).sum())
    p = min(1.0, 2 * (min(below, above) + 1) / (len(drawn) + 1))
    return Interval(float(values.mean()), float(low), float(high), float(drawn.std(ddof=1)), p)


def holm(p: list[float]) -> list[float]:
    """Holm's adjusted p values, in the order given."""
    adjusted, running = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        running = max(running, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = running
    return adjusted


def superior(gain: Interval, adjusted_p: float) -> str:
    """Outcome of "better than": ``gain`` is positive where the claim holds."""
    if adjusted_p >= 0.05:
        return "undetermined"
    return "consistent" if gain.value > 0 else "not consistent"


def not_worse(loss: Interval, margin: float) -> str:
    """Outcome of "not worse than": ``loss`` is positive where the claim fails; ``margin`` is what still counts as equal."""
    if loss.high < margin:
        return "consistent"
    return "not consistent" if loss.low > margin else "undetermined"
