# SPDX-License-Identifier: Apache-2.0
"""Mixing numbers in closed form. NumPy alone.

A row's error after mixing is |e − a·d|² with e = O_full − O_l and d = O_s − O_l, so six numbers of a row say all there is to know:
Δ = L − L_rest, p = e·d, w = d·d, c = e·e, f = |O_full|², g = |O_pooled − O_full|². Nothing else is kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
COLUMNS = 6
DELTA, P, W, C, F, G = range(COLUMNS)
DEFAULT = (0.6, 0.5)
_MOST_SCALE, _MOST_BIAS = 8.0, 12.0
_STEPS = 40


class Reservoir:
    """An even sample of all rows that were offered: rows [H, n, 6] in, at most `capacity` kept, the same ones of each head."""

    def __init__(self, capacity: int, seed: int) -> None:
        self._capacity, self._random = capacity, np.random.default_rng(seed)
        self._keys = np.zeros(0)
        self._rows: NDArray[np.float32] | None = None
        self.offered = 0

    def add(self, rows: NDArray[np.float32]) -> None:
        keys = self._random.random(rows.shape[1])
        self.offered += rows.shape[1]
        self._rows = rows if self._rows is None else np.concatenate([self._rows, rows], 1)
        self._keys = np.concatenate([self._keys, keys])
        if len(self._keys) > self._capacity:
            kept = np.argpartition(self._keys, self._capacity)[: self._capacity]
            self._keys, self._rows = self._keys[kept], self._rows[:, kept]

    @property
    def rows(self) -> Array:
        """[H, n, 6]; n = 0 where nothing was offered."""
        return np.zeros((0, 0, COLUMNS)) if self._rows is None else self._rows.astype(np.float64)


def sigmoid(x: Array) -> Array:
    away = np.exp(-np.abs(x))
    share: Array = np.where(x >= 0, 1, away) / (1 + away)
    return share


def squares(rows: Array, a: Array | float) -> Array:
    """|e − a·d|² of each row; never below 0, where rounding would have it so."""
    return np.maximum(rows[..., C] - 2 * a * rows[..., P] + a * a * rows[..., W], 0)


def relative_error(error: Array, rows: Array) -> float:
    """√(Σ error² / Σ|O_full|²)."""
    whole = float(rows[..., F].sum())
    return float(np.sqrt(error.sum() / whole)) if whole > 0 else 0.0


def fit_scalar(rows: Array) -> float:
    """Logit of the best constant a of one head; rows [n, 6]."""
    total = rows[:, W].sum()
    a = np.clip(rows[:, P].sum() / total if total > 0 else 1.0, sigmoid(np.array(-_MOST_BIAS)), sigmoid(np.array(_MOST_BIAS)))
    return float(np.clip(np.log(a / (1 - a)), -_MOST_BIAS, _MOST_BIAS))


def fit_affine(rows: Array) -> tuple[float, float]:
    """(s, b) with the least Σ|e − σ(s·Δ + b)·d|² over one head's rows [n, 6]: Levenberg's Gauss-Newton, the best of three starts."""
    starts = (DEFAULT, (0.0, fit_scalar(rows)), (1.0, 0.0))
    found = [_descend(rows, np.array(start)) for start in starts]
    return min(found, key=lambda one: one[1])[0]


def _loss(rows: Array, x: Array) -> float:
    a = sigmoid(x[0] * rows[:, DELTA] + x[1])
    return float((a * a * rows[:, W] - 2 * a * rows[:, P]).sum())


def _descend(rows: Array, x: Array) -> tuple[tuple[float, float], float]:
    delta, p, w = rows[:, DELTA], rows[:, P], rows[:, W]
    loss, damping = _loss(rows, x), 1e-3
    for _ in range(_STEPS):
        a = sigmoid(x[0] * delta + x[1])
        slope = a * (1 - a)
        residual = (a * w - p) * slope  # half the gradient by the logit
        weight = slope * slope * w
        gradient = np.array([(residual * delta).sum(), residual.sum()])
        cross = (weight * delta).sum()
        hessian = np.array([[(weight * delta * delta).sum(), cross], [cross, weight.sum()]])
        better = False
        for _ in range(8):
            step = np.linalg.solve(hessian + damping * np.diag(np.diag(hessian) + 1e-12), gradient)
            trial = np.clip(x - step, (-_MOST_SCALE, -_MOST_BIAS), (_MOST_SCALE, _MOST_BIAS))
            after = _loss(rows, trial)
            if after < loss:
                better, damping = True, damping * 0.3
                break
            damping *= 4
        if not better:
            break
        gain, x, loss = loss - after, trial, after
        if gain <= 1e-10 * max(abs(loss), 1e-30):
            break
    return (float(x[0]), float(x[1])), loss


def fit(rows: Array, alpha_mode: str) -> NDArray[np.float32]:
    """The pack's alpha of a layer from rows [H, n, 6]: [H, 2] for head_affine_lse, [H] for head_scalar."""
    heads = [fit_affine(head) if alpha_mode == "head_affine_lse" else fit_scalar(head) for head in rows]
    return np.asarray(heads, np.float32)


def logits(rows: Array, alpha: NDArray[np.float32]) -> Array:
    """The logit of a for each row [H, n]."""
    if alpha.ndim == 1:
        return np.broadcast_to(alpha[:, None].astype(np.float64), rows.shape[:2])
    return alpha[:, :1].astype(np.float64) * rows[..., DELTA] + alpha[:, 1:]


def layer_errors(rows: Array, alpha: NDArray[np.float32]) -> dict[str, float]:
    """Relative errors of a layer's rows [H, n, 6] under each way to compute them; `sla2_default`: without fitted numbers."""
    default = np.broadcast_to(np.asarray(DEFAULT, np.float32), (len(rows), 2))
    return {
        "sla2": relative_error(squares(rows, sigmoid(logits(rows, alpha))), rows),
        "sla2_default": relative_error(squares(rows, sigmoid(logits(rows, default))), rows),
        "sparse_only": relative_error(squares(rows, 1.0), rows),
        "pooled": relative_error(rows[..., G], rows),
    }
