# SPDX-License-Identifier: Apache-2.0
"""Sparse attention as torch modules: what a layer learns, under the names of a router pack.

>>> layer = sla2.nn.SLA2Attention(heads=12, head_dim=128, sparsity=0.95)
>>> out = layer(q, k, v)                                              # [B, H, N, D]
>>> {name: tuple(x.shape) for name, x in layer.state_dict().items()}   # proj_q, proj_k [H, D, D]; alpha [H, 2]

The relatives that SLA2 is compared with are the same module in another mode or with another router:

| method | arguments |
|---|---|
| SLA (arXiv 2509.24006) | `mode="sla1"`; `scope="global"` as in TurboDiffusion |
| VSA (arXiv 2505.13389) | `mode="sparse_only", router="vsa", gate_dim=heads * head_dim` |
| VMoBA (arXiv 2506.23858) | `mode="sparse_only", router="vmoba", top_p=0.25` |
| SpargeAttention2's mask | `mode="sparse_only", router="sparge", rule="hybrid", top_p=0.2` |
| others | `mode="sparse_only"`, `"linear_only"`, `"l_plus_s"`, `"pooled"` |
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sla2._attention import token_order as order_of
from sla2.autograd import attention_and_blocks

Grid = tuple[int, int, int]


class SparseAttention(nn.Module):
    """Attention of one layer in any mode and with any router of the library, and what it learns.

    proj_q, proj_k  with `learned_router`: W of the router, [H, D, D], or [1, D, D] with `shared_router`; identity at first. They
                    learn while `tau` > 0
    alpha           mode sla2: head_affine_lse [H, 2] (s, b), at first (0.6, 0.5); head_scalar [H]; block [H, T_m], which ties a
                    layer to a size
    proj_l          mode sla1: Linear [D, D] on O_l, zero at first, shared by the heads
    gate            router vsa with `gate_dim`: Linear [H·D, gate_dim] of the layer's input, zero at first

    Attributes `sparsity`, `bits` and `tau` may change between calls: a soft mask (`tau` > 0) for the router's stage, a hard one after.
    watch           note the fraction of pairs of blocks that a call skipped, in achieved_sparsity
    hidden          what a gate reads in the next call, where the caller cannot hand it over itself
    layout          of q, k, v and the output: BHND or BNHD
    token_order     raster, hilbert or tile:4x4x4; anything but raster needs the call's `grid`
    options         those of sla2.autograd.attention(), as qat_backward
    """

    def __init__(
        self,
        heads: int,
        head_dim: int,
        *,
        mode: str = "sla2",
        router: str = "sla2",
        sparsity: float = 0.95,
        bits: int = 16,
        tau: float = 0.0,
        alpha_mode: str = "head_affine_lse",
        query_blocks: int | None = None,
        learned_router: bool | None = None,
        shared_router: bool = False,
        gate_dim: int | None = None,
        layout: str = "BHND",
        token_order: str = "raster",
        block_q: int = 128,
        block_k: int = 64,
        **options: Any,
    ) -> None:
        super().__init__()
        self.heads, self.head_dim, self.mode, self.router, self.layout = heads, head_dim, mode, router, layout
        self.sparsity, self.bits, self.tau, self.alpha_mode = sparsity, bits, tau, alpha_mode
        self.token_order = _check_order(token_order)
        self.options = {"block_q": block_q, "block_k": block_k, **options}
        self.hidden: Tensor | None = None
        self.watch, self.achieved_sparsity = False, 0.0
        self._orders: dict[Grid, tuple[Tensor, Tensor]] = {}
        if mode == "sla2" if learned_router is None else learned_router:
            routers = 1 if shared_router else heads
            self.proj_q = nn.Parameter(torch.eye(head_dim).repeat(routers, 1, 1))
            self.proj_k = nn.Parameter(torch.eye(head_dim).repeat(routers, 1, 1))
        if mode == "sla2":
            self.alpha = nn.Parameter(_first_alpha(alpha_mode, heads, query_blocks))
        if mode == "sla1":
            self.proj_l = nn.Linear(head_dim, head_dim)
            nn.init.zeros_(self.proj_l.weight)
            nn.init.zeros_(self.proj_l.bias)
        if gate_dim is not None:
            if router != "vsa":
                raise ValueError(f"gate_dim belongs to router 'vsa'; the router is {router!r}")
            self.gate = nn.Linear(gate_dim, heads * head_dim)
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    def arguments(self, hidden: Tensor | None = None) -> dict[str, Any]:
        """Keywords for sla2.autograd.attention(); `hidden` is the layer's input [B, N, gate_dim], for a gate."""
        found: dict[str, Any] = {"mode": self.mode, "router": self.router, "layout": self.layout, "sparsity": self.sparsity}
        found |= {"bits": 16 if self.tau > 0 else self.bits, **self.options}
        if self.tau > 0:
            found["tau"] = self.tau
        if hasattr(self, "proj_q"):
            found |= {"router_q": self.proj_q, "router_k": self.proj_k}
        if self.mode == "sla2":
            found |= {"mix": self.alpha, "mix_mode": self.alpha_mode}
        if self.mode == "sla1":
            found |= {"proj": self.proj_l.weight, "proj_bias": self.proj_l.bias}
        if hasattr(self, "gate"):
            if hidden is None:
                raise ValueError("this layer has a gate: give hidden, the layer's input [B, N, gate_dim]")
            gate = self.gate(hidden).unflatten(-1, (self.heads, self.head_dim))  # [B, N, H, D]
            found["gate"] = gate if self.layout == "BNHD" else gate.transpose(1, 2)
        return found

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, hidden: Tensor | None = None, grid: Grid | None = None, step_info: Any = None
    ) -> Tensor:
        """q [B,H,N,D], k and v [B,H,N_k,D], or [B,N,H,D] by the layout; after norm and rotary embedding.

        grid: tokens as frames, height, width; read where token_order is not raster. Under autocast the inputs take its type.
        """
        if torch.is_autocast_enabled(q.device.type):
            q, k, v = (x.to(torch.get_autocast_dtype(q.device.type)) for x in (q, k, v))
        found, self.hidden = self.arguments(self.hidden if hidden is None else hidden), None
        if self.token_order == "raster":
            return self._compute(q, k, v, found)
        order, back = self._permutation(grid, q.device)
        axis = 2 if self.layout == "BHND" else 1
        if "gate" in found:
            found["gate"] = found["gate"].index_select(axis, order)
        q, k, v = (x.index_select(axis, order) for x in (q, k, v))
        return self._compute(q, k, v, found).index_select(axis, back)

    def _compute(self, q: Tensor, k: Tensor, v: Tensor, found: dict[str, Any]) -> Tensor:
        out, _, _, count = attention_and_blocks(q, k, v, **found)
        if self.watch:
            blocks = -(-k.shape[2 if self.layout == "BHND" else 1] // self.options["block_k"])
            self.achieved_sparsity = 1 - float(count.float().mean()) / blocks
        return out

    def _permutation(self, grid: Grid | None, device: torch.device) -> tuple[Tensor, Tensor]:
        if grid is None:
            raise ValueError(f"token_order {self.token_order!r} needs the call's grid: tokens as frames, height, width")
        if grid not in self._orders:
            kind, _, tile = self.token_order.partition(":")
            box = [int(n) for n in tile.split("x")] if tile else [4, 4, 4]
            found = order_of("tiles" if kind == "tile" else "hilbert", grid, (box[0], box[1], box[2]))
            self._orders[grid] = torch.from_numpy(found).long(), torch.from_numpy(np.argsort(found)).long()
        order, back = self._orders[grid]
        return order.to(device), back.to(device)

    def extra_repr(self) -> str:
        words = f"heads={self.heads}, head_dim={self.head_dim}, mode={self.mode}, router={self.router}, sparsity={self.sparsity}"
        return f"{words}, bits={self.bits}, tau={self.tau}" + (f", alpha={self.alpha_mode}" if self.mode == "sla2" else "")


class SLA2Attention(SparseAttention):
    """O = a·O_s + (1 − a)·O_l over learned blocks (SLA2, arXiv 2602.12675): SparseAttention in mode sla2."""

    def __init__(self, heads: int, head_dim: int, **options: Any) -> None:
        super().__init__(heads, head_dim, mode="sla2", **options)


def _first_alpha(alpha_mode: str, heads: int, query_blocks: int | None) -> Tensor:
    if alpha_mode == "head_affine_lse":
        return torch.tensor([0.6, 0.5]).repeat(heads, 1)
    if alpha_mode == "head_scalar":
        return torch.full((heads,), 0.85)  # a = 0.70
    if alpha_mode == "block":
        if query_blocks is None:
            raise ValueError("alpha_mode 'block' holds a number for each query block: give query_blocks = ceil(tokens / block_q)")
        return torch.full((heads, query_blocks), 0.85)
    raise ValueError(f"alpha_mode is {alpha_mode!r}; expected head_affine_lse, head_scalar or block")


def _check_order(token_order: str) -> str:
    if not re.fullmatch(r"raster|hilbert|tile:\d+x\d+x\d+", token_order):
        raise ValueError(f"token_order is {token_order!r}; expected raster, hilbert or tile:FxHxW, as tile:4x4x4")
    return token_order
