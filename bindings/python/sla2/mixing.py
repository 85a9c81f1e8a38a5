# SPDX-License-Identifier: Apache-2.0
"""The mixing numbers of SLA2 that fit best under a given hard mask. NumPy alone.

O = a·O_s + (1 − a)·O_l with a = sigmoid(logit). For full attention F, d = O_s − O_l and e = F − O_l, the squared error of a row is
|e|² − 2a⟨e, d⟩ + a²⟨d, d⟩: two numbers a row are all that is kept of any number of samples.

>>> rows = sla2.mixing.statistics(o_sparse, o_linear, full)           # numerator, denominator, each [H, N]
>>> alpha = sla2.mixing.fit("head_affine_lse", *rows, contrast)        # [H, 2]
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
DEFAULT = (0.6, 0.5)  #: (s, b) where nothing was fitted
_LIMIT = 20.0  # |logit| beyond which a is 0 or 1 in float32


def statistics(o_sparse: Any, o_linear: Any, full: Any) -> tuple[Rows, Rows]:
    """⟨e, d⟩ and ⟨d, d⟩ of each row [H, N], from arrays [H, N, D]."""
    linear = np.asarray(o_linear, np.float64)
    d = np.asarray(o_sparse, np.float64) - linear
    return ((np.asarray(full, np.float64) - linear) * d).sum(-1), (d * d).sum(-1)


def scalar(numerator: Rows, denominator: Rows) -> NDArray[np.float32]:
    """The best single logit over the last axis: [...] from [..., N]."""
    a = numerator.sum(-1) / np.maximum(denominator.sum(-1), 1e-30)
    a = np.clip(a, 1e-4, 1 - 1e-4)
    return np.asarray(np.log(a / (1 - a)), np.float32)


def blocks(numerator: Rows, denominator: Rows, block_q: int) -> NDArray[np.float32]:
    """The best logit of each query block, [H, T_m] from [H, N]."""
    starts = np.arange(0, numerator.shape[-1], block_q)
    return scalar(*(np.add.reduceat(x, starts, axis=-1)[..., None] for x in (numerator, denominator)))


def affine(numerator: Rows, denominator: Rows, contrast: Rows) -> NDArray[np.float32]:
    """The best (s, b) of logit = s·contrast + b for each head, [H, 2]; contrast [H, N] is L − L_rest.

    Damped Gauss-Newton in two numbers, from the default and from the best constant; the better end is taken.
    """
    constant = scalar(numerator, denominator).astype(np.float64)
    found = np.zeros((len(numerator), 2), np.float32)
    for h in range(len(numerator)):
        keep = np.isfinite(contrast[h]) & (denominator[h] > 0)
        if not keep.any():
            found[h] = DEFAULT
            continue
        one = numerator[h][keep], denominator[h][keep], contrast[h][keep]
        ends = [_descend(*one, np.array(start, np.float64)) for start in (DEFAULT, (0.0, constant[h]))]
        found[h] = min(ends, key=lambda end: end[0])[1]
    return found


def _descend(numerator: Rows, denominator: Rows, x: Rows, at: Rows) -> tuple[float, Rows]:
    def value(p: Rows) -> tuple[float, Rows]:
        a = 1 / (1 + np.exp(-np.clip(p[0] * x + p[1], -_LIMIT, _LIMIT)))
        return float((a * (a * denominator - 2 * numerator)).sum()), a

    basis = np.stack([x, np.ones_like(x)])
    damping, (best, a) = 1e-3, value(at)
    for _ in range(60):
        slope = a * (1 - a)
        gradient = basis @ (slope * (a * denominator - numerator))
        curvature = (basis * (slope * slope * denominator)) @ basis.T
        size = np.diag(np.diag(curvature) + 1e-12 * denominator.sum())
        step = np.linalg.solve(curvature + damping * size, -gradient)
        trial = np.clip(at + step, -_LIMIT, _LIMIT)
        new, new_a = value(trial)
        if new < best:
            done = best - new < 1e-10 * abs(best)
            at, best, a, damping = trial, new, new_a, damping / 4
            if done:
                break
        else:
            damping *= 8
            if damping > 1e8:
                break
    return best, at


def fit(alpha_mode: str, numerator: Rows, denominator: Rows, contrast: Rows, block_q: int = 128) -> NDArray[np.float32]:
    """alpha of an alpha_mode, as packs hold it. For `block` the rows must be one whole sample's."""
    if alpha_mode == "head_affine_lse":
        return affine(numerator, denominator, contrast)
    if alpha_mode == "head_scalar":
        return scalar(numerator, denominator)
    if alpha_mode == "block":
        return blocks(numerator, denominator, block_q)
    raise ValueError(f"alpha_mode is {alpha_mode!r}; expected head_affine_lse, head_scalar or block")
