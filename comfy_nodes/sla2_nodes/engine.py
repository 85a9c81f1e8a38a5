# SPDX-License-Identifier: Apache-2.0
"""A call that was accepted, run by the library."""

from __future__ import annotations

from typing import Any

from . import tokens as token_places
from .call import Call
from .forward import Forward
from .settings import Settings

# What sla2.route() reads of the arguments of sla2.attention().
_ROUTING = {"sparsity", "router", "block_q", "block_k", "rule", "top_p", "protect_first", "protect_last", "softmax_scale"}
_ROUTING |= {"router_q", "router_k"}


class Plan:
    """Settings and router pack as arguments of sla2.attention(). Raises ValueError where the two contradict each other."""

    def __init__(self, settings: Settings, pack: Any = None) -> None:
        self.settings, self.pack, self.policy = settings, pack, None
        self.block_q, self.block_k, self.tile = 128, 64, (4, 4, 4)
        if pack is None:
            if settings.mode == "sla1":
                raise ValueError("mode sla1 needs a router pack with its projection; choose one, or another mode")
            self.order = "raster" if settings.token_order == "auto" else settings.token_order
            mode = "sla2" if settings.mode == "auto" else settings.mode
            self._same: dict[str, Any] = {"mode": mode, "sparsity": settings.sparsity, "bits": settings.bits}
            if settings.mode_options.get("selection") == "top_p":
                self._same |= {"router": "sparge", "rule": "cdf", "top_p": float(settings.mode_options["top_p"])}
        else:
            from sla2 import policy, schedule

            _agree("mode", settings.mode, pack.mode)
            kind, _, tile = pack.token_order.partition(":")
            self.order = _agree("token_order", settings.token_order, "tiles" if kind == "tile" else kind)
            self.tile = tuple(int(extent) for extent in tile.split("x")) if tile else self.tile
            self.block_q, self.block_k = int(pack.block_q), int(pack.block_k)
            self.policy = policy.Policy(
                layers=pack.layers, mode=pack.mode, sparsity=settings.sparsity, bits=settings.bits, block_q=self.block_q,
                block_k=self.block_k, rules=schedule.parse(pack.schedule), pack=pack,
            )  # fmt: skip

    def dense_by_pack(self, forward: Forward, block: int | None, second: bool) -> str | None:
        """Why a router pack keeps this call dense. second: a further self-attention within the block, as VACE has."""
        if self.policy is None:
            return None
        if block is None:
            return "a router pack is set and this model does not tell its blocks"
        if second:
            return "VACE layers have no entry in the router pack"
        return "the router pack's schedule" if self._choice(forward, block).mode == "full" else None

    def run(self, sla2: Any, call: Call, forward: Forward, block: int | None) -> tuple[Any, dict[str, Any]]:
        """[B, N, H, D] and the facts of the call: achieved sparsity, the probe's errors."""
        q, k, v, index = self._tensors(sla2, call, forward)
        arguments = self._arguments(call, forward, block)
        out, facts = sla2.attention(q, k, v, layout="BNHD", return_info=True, probe=self.settings.probe_percent / 100.0, **arguments)
        if index is not None:
            ordered, out = out, out.new_empty(out.shape)
            out.index_copy_(1, index, ordered)
        return out, facts

    def route(self, sla2: Any, call: Call, forward: Forward, block: int | None) -> tuple[Any, Any, Any]:
        """Which key blocks each query block keeps: index, count [B, H, T_m], and the token order (None: raster)."""
        q, k, _, index = self._tensors(sla2, call, forward)
        arguments = {name: value for name, value in self._arguments(call, forward, block).items() if name in _ROUTING}
        return (*sla2.route(q, k, layout="BNHD", **arguments), index)

    def _choice(self, forward: Forward, block: int) -> Any:
        return self.policy.at(forward.step or 0, forward.steps or 1, block)  # type: ignore[attr-defined]

    def _tensors(self, sla2: Any, call: Call, forward: Forward) -> tuple[Any, Any, Any, Any]:
        """q, k, v in the order of the tokens, and that order, or None for raster."""
        if self.order == "raster" or forward.grid is None:
            return call.q, call.k, call.v, None
        index = token_places.order(sla2, self.order, self.tile, forward.grid, call.tokens, forward.prefix, call.q.device)
        return (*(tensor.index_select(1, index) for tensor in (call.q, call.k, call.v)), index)

    def _arguments(self, call: Call, forward: Forward, block: int | None) -> dict[str, Any]:
        words = self._same if self.policy is None else self.policy.arguments(block, self._choice(forward, block))  # type: ignore[arg-type]
        scale = {} if call.scale is None else {"softmax_scale": float(call.scale)}
        return {**words, **scale, **token_places.protected(call.tokens, forward.video_tokens, forward.prefix, self.block_k)}


def _agree(name: str, chosen: str, packs: str) -> str:
    if chosen not in ("auto", packs):
        raise ValueError(f"{name} is {chosen}, the router pack was made for {packs}; set {name} to auto, or leave the pack away")
    return packs
