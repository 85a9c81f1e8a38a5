# SPDX-License-Identifier: Apache-2.0
"""SLA2 attention as a torch module: what a layer learns, under the names of a router pack.

>>> layer = sla2.nn.SLA2Attention(heads=12, head_dim=128, sparsity=0.95)
>>> out = layer(q, k, v)                                              # [B, H, N, D]
>>> {name: tuple(x.shape) for name, x in layer.state_dict().items()}   # proj_q, proj_k [H, D, D]; alpha [H, 2]
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sla2.autograd import attention


class SLA2Attention(nn.Module):
    """O = a·O_s + (1 − a)·O_l over learned blocks (SLA2, arXiv 2602.12675).

    proj_q, proj_k  W of the router, [H, D, D], or [1, D, D] with `shared_router`; identity at first. They learn while `tau` > 0
    alpha           head_affine_lse [H, 2] (s, b), at first (0.6, 0.5); head_scalar [H]; block [H, T_m], which ties a layer to a size

    Attributes `sparsity`, `bits` and `tau` may change between calls: a soft mask (`tau` > 0) for the router's stage, a hard one after.
    """

    def __init__(
        self,
        heads: int,
        head_dim: int,
        *,
        sparsity: float = 0.95,
        bits: int = 16,
        tau: float = 0.0,
        alpha_mode: str = "head_affine_lse",
        query_blocks: int | None = None,
        shared_router: bool = False,
        block_q: int = 128,
        block_k: int = 64,
        **options: Any,
    ) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.sparsity, self.bits, self.tau, self.alpha_mode = sparsity, bits, tau, alpha_mode
        self.options = {"block_q": block_q, "block_k": block_k, **options}
        routers = 1 if shared_router else heads
        self.proj_q = nn.Parameter(torch.eye(head_dim).repeat(routers, 1, 1))
        self.proj_k = nn.Parameter(torch.eye(head_dim).repeat(routers, 1, 1))
        if alpha_mode == "head_affine_lse":
            alpha = torch.tensor([0.6, 0.5]).repeat(heads, 1)
        elif alpha_mode == "head_scalar":
            alpha = torch.full((heads,), 0.85)  # a = 0.70
        elif alpha_mode == "block":
            if query_blocks is None:
                raise ValueError("alpha_mode 'block' holds a number for each query block: give query_blocks = ceil(tokens / block_q)")
            alpha = torch.full((heads, query_blocks), 0.85)
        else:
            raise ValueError(f"alpha_mode is {alpha_mode!r}; expected head_affine_lse, head_scalar or block")
        self.alpha = nn.Parameter(alpha)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [B,H,N,D], k and v [B,H,N_k,D], after norm and rotary embedding."""
        soft: dict[str, Any] = {"tau": self.tau} if self.tau > 0 else {}
        return attention(
            q, k, v, sparsity=self.sparsity, bits=16 if soft else self.bits, router_q=self.proj_q, router_k=self.proj_k,
            mix=self.alpha, mix_mode=self.alpha_mode, **soft, **self.options,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"heads={self.heads}, head_dim={self.head_dim}, sparsity={self.sparsity}, bits={self.bits}, tau={self.tau}, alpha={self.alpha_mode}"
