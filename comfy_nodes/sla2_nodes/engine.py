# SPDX-License-Identifier: Apache-2.0
"""A call that was accepted, run by the library."""

from __future__ import annotations

from typing import Any

from . import tokens as token_places
from .call import Call
from .forward import Forward
from .settings import Settings


class Plan:
    """Settings and router pack as arguments of sla2.attention(). Raises ValueError where the two contradict each other."""

    def __init__(self, settings: Settings, pack: Any = None) -> None:
        self.settings, self.pack, self.tile = settings, pack, (4, 4, 4)
        if pack is None:
            if settings.mode == "sla1":
                raise ValueError("mode sla1 needs a router pack with its projection; choose one, or another mode")
            self.mode = "sla2" if settings.mode == "auto" else settings.mode
            self.order = "raster" if settings.token_order == "auto" else settings.token_order
            self.arguments: dict[str, Any] = {"mode": self.mode, "sparsity": settings.sparsity}
            if settings.mode_options.get("selection") == "top_p":
                self.arguments |= {"router": "sparge", "rule": "cdf", "top_p": float(settings.mode_options["top_p"])}
            self.block_k = 64
        else:
            self.mode = _agree("mode", settings.mode, pack.mode)
            kind, _, tile = pack.token_order.partition(":")
            self.order = _agree("token_order", settings.token_order, "tiles" if kind == "tile" else kind)
            if tile:
                self.tile = tuple(int(extent) for extent in tile.split("x"))
            self.arguments = dict(pack.options(settings.sparsity))
            self.block_k = int(pack.block_k)

    def prepare(self, forward: Forward, count: int) -> tuple[str, dict[str, int]]:
        """Order of the tokens and protected blocks for this many tokens."""
        kind = self.order if forward.grid is not None else "raster"
        return kind, token_places.protected(count, forward.video_tokens, forward.prefix, self.block_k)

    def run(self, sla2: Any, call: Call, forward: Forward, block: int | None) -> tuple[Any, dict[str, Any]]:
        """[B, N, H, D] and the facts of the call: achieved sparsity, the probe's errors."""
        q, k, v, kind, index, arguments = self._arguments(sla2, call, forward, block)
        out, facts = sla2.attention(
            q, k, v, layout="BNHD", bits=self.settings.bits, return_info=True, probe=self.settings.probe_percent / 100.0, **arguments
        )
        if kind != "raster":
            sorted_out, out = out, out.new_empty(out.shape)
            out.index_copy_(1, index, sorted_out)
        return out, facts

    def route(self, sla2: Any, call: Call, forward: Forward, block: int | None) -> tuple[Any, Any, Any]:
        """Which key blocks each query block keeps: index, count [B, H, T_m], and the token order (None: raster)."""
        q, k, _, kind, index, arguments = self._arguments(sla2, call, forward, block)
        wanted = {"sparsity", "router", "block_q", "block_k", "rule", "top_p", "protect_first", "protect_last", "softmax_scale"}
        wanted |= {"router_q", "router_k"}
        lists = sla2.route(q, k, layout="BNHD", **{name: value for name, value in arguments.items() if name in wanted})
        return (*lists, None if kind == "raster" else index)

    def _arguments(self, sla2: Any, call: Call, forward: Forward, block: int | None) -> tuple[Any, Any, Any, str, Any, dict[str, Any]]:
        kind, protect = self.prepare(forward, call.tokens)
        q, k, v, index = call.q, call.k, call.v, None
        if kind != "raster":
            index = token_places.order(sla2, kind, self.tile, forward.grid, call.tokens, forward.prefix, q.device)
            q, k, v = (t.index_select(1, index) for t in (q, k, v))
        learned = {} if self.pack is None else self.pack.layer(block, self.settings.sparsity)
        scale = {} if call.scale is None else {"softmax_scale": float(call.scale)}
        return q, k, v, kind, index, {**self.arguments, **protect, **scale, **learned}


def _agree(name: str, chosen: str, packs: str) -> str:
    if chosen not in ("auto", packs):
        raise ValueError(f"{name} is {chosen}, the router pack was made for {packs}; set {name} to auto, or leave the pack away")
    return packs
