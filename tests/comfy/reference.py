# SPDX-License-Identifier: Apache-2.0
"""SLA2 in fp64 from the formulas of numerics.md, whole matrices, one head at a time. Shares no code with the library."""

from __future__ import annotations

import math

import torch


def sla2(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sparsity: float, *, block_q: int = 128, block_k: int = 64) -> torch.Tensor:
    """q, k, v [B, N, H, D], any type; fp64 [B, N, H, D]. Mixing is the default (0.6, 0.5)."""
    out = torch.empty(q.shape, dtype=torch.float64)
    for batch in range(q.shape[0]):
        for head in range(q.shape[2]):
            out[batch, :, head] = _head(*(t[batch, :, head].double() for t in (q, k, v)), sparsity, block_q, block_k)
    return out


def _head(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sparsity: float, block_q: int, block_k: int) -> torch.Tensor:
    tokens, scale = q.shape[0], q.shape[1] ** -0.5
    k = k - k.mean(0)
    means = lambda x, size: torch.stack([part.mean(0) for part in torch.split(x, size)])  # noqa: E731
    routes = scale * means(q, block_q) @ means(k, block_k).T
    row, column = torch.arange(tokens) // block_q, torch.arange(tokens) // block_k
    blocks = math.ceil(tokens / block_k)
    count = max(1, math.floor((1 - sparsity) * blocks + 0.5))
    kept = torch.zeros_like(routes, dtype=torch.bool)
    for i, scores in enumerate(routes.tolist()):
        kept[i, sorted(range(blocks), key=lambda j: (-scores[j], j))[:count]] = True
    sees = kept[row][:, column]
    logits = (scale * q @ k.T).masked_fill(~sees, -math.inf)
    sparse, near = logits.softmax(1) @ v, logits.logsumexp(1)
    phi_q, phi_k = q.softmax(1), k.softmax(1)
    weight = phi_q @ phi_k.T
    rest = weight * ~sees
    linear = (rest @ v) / rest.sum(1, keepdim=True).clamp_min(1e-6 * weight.sum(1, keepdim=True)) if count < blocks else sparse
    far = (routes + torch.bincount(column).double().log()).masked_fill(kept, -math.inf).logsumexp(1)
    a = torch.sigmoid(0.6 * (near - far[row]) + 0.5)[:, None] if count < blocks else 1.0
    return a * sparse + (1 - a) * linear
