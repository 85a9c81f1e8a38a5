# SPDX-License-Identifier: Apache-2.0
"""What the two ways of `qat_backward` cost: errors of dQ, dK and dV after an 8-bit forward pass, relative to fp64 gradients.

>>> SLA2_BUILD=build/release python tests/python/qat_backward.py

Relative errors are Frobenius norms; the truth is exact attention on the blocks that the 8-bit call kept. Inputs are normal; `std` is
that of queries and keys: 1 gives flat rows, 2.5 peaked ones, as trained models have in some heads.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK_Q, BLOCK_K = 128, 64
NAMES = ("dQ", "dK", "dV")


def make(std: float, heads: int = 2, tokens: int = 1024, dim: int = 64, seed: int = 0) -> tuple[Tensor, ...]:
    """q, k, v, d_out in fp32."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v, d_out = (torch.randn(1, heads, tokens, dim, generator=generator) for _ in range(4))
    return std * q, std * k, v, d_out


def mask_of(index: Tensor, count: Tensor, queries: int, keys: int) -> Tensor:
    """[B, H, N_q, N_k]: which pairs the listed blocks hold."""
    blocks = -(-keys // BLOCK_K)
    listed = torch.arange(index.shape[-1]) < count[..., None]
    kept = torch.zeros(*count.shape, blocks + 1, dtype=torch.bool).scatter_(-1, index.long().where(listed, blocks), True)[..., :blocks]
    return kept.repeat_interleave(BLOCK_Q, -2)[..., :queries, :].repeat_interleave(BLOCK_K, -1)[..., :keys]


def logits(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    return (q.shape[-1] ** -0.5 * q @ k.mT).masked_fill(~mask, -torch.inf)


def true_gradients(q: Tensor, k: Tensor, v: Tensor, d_out: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """fp64, by torch's autograd."""
    wide = [x.double().requires_grad_() for x in (q, k, v)]
    out = torch.softmax(logits(wide[0], wide[1], mask), -1) @ wide[2]
    return torch.autograd.grad(out, wide, d_out.double())


def paper_gradients(q: Tensor, k: Tensor, v: Tensor, d_out: Tensor, mask: Tensor, out: Tensor, lse: Tensor) -> tuple[Tensor, ...]:
    """fp64: P = exp(S - L) and D = dO.O with S exact, L and O those of the forward pass (arXiv 2602.12675, its backward listing)."""
    q, k, v, d_out, out, lse = (x.double() for x in (q, k, v, d_out, out, lse))
    p = torch.exp(logits(q, k, mask) - lse[..., None])
    d_s = q.shape[-1] ** -0.5 * p * (d_out @ v.mT - (d_out * out).sum(-1, keepdim=True))
    return d_s @ k, d_s.mT @ q, p.mT @ d_out


def distance(x: Tensor, y: Tensor) -> float:
    return float((x.double() - y).norm() / y.norm())


def run(q: Tensor, k: Tensor, v: Tensor, d_out: Tensor, way: str, **options: object) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The library's dQ, dK, dV; and out, lse, index, count of its forward pass."""
    from sla2 import autograd

    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    found = autograd.attention_and_blocks(
        *inputs, block_q=BLOCK_Q, block_k=BLOCK_K, bits=8, mode="sparse_only", qat_backward=way, **options
    )
    return torch.autograd.grad(found[0], inputs, d_out), tuple(x.detach() for x in found)


def main() -> None:
    print("| std | sparsity | way | " + " | ".join(NAMES) + " |\n|---|---|---|" + "---|" * len(NAMES))
    for std in (1.0, 2.5):
        for sparsity in (0.5, 0.9):
            inputs = make(std)
            for way in ("hp_stats", "paper"):
                found, (_, _, index, count) = run(*inputs, way, sparsity=sparsity)
                truth = true_gradients(*inputs, mask_of(index, count, inputs[0].shape[2], inputs[1].shape[2]))
                errors = [f"{100 * distance(x, y):.2f} %" for x, y in zip(found, truth, strict=True)]
                print(f"| {std:g} | {100 * sparsity:g} % | {way} | " + " | ".join(errors) + " |")


if __name__ == "__main__":
    from conftest import need_package

    need_package()
    main()
