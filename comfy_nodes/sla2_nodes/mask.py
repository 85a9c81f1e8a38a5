# SPDX-License-Identifier: Apache-2.0
"""Which tokens of the video one query block sees, in one layer and head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .call import Call
from .engine import Plan
from .forward import Forward
from .picture import flags


@dataclass
class Seen:
    """kept, query: one flag per token of the grid; blocks kept, of how many, by which query block of how many."""

    kept: NDArray[np.bool_]
    query: NDArray[np.bool_]
    grid: tuple[int, int, int]
    layer: int
    head: int
    query_block: tuple[int, int]
    key_blocks: tuple[int, int]

    @property
    def title(self) -> str:
        (block, blocks), (kept, keys) = self.query_block, self.key_blocks
        return f"layer {self.layer}, head {self.head}: query block {block} of {blocks} keeps {kept} of {keys} key blocks"


class Look:
    """An observer that keeps what one layer's router chooses. position: frame, height, width of the query as fractions of the grid."""

    def __init__(self, sla2: Any, plan: Plan, layer: int, head: int, position: tuple[float, float, float]) -> None:
        self.sla2, self.plan, self.layer, self.head, self.position = sla2, plan, layer, head, position
        self.seen: Seen | None = None
        self.layers = 0

    def __call__(self, call: Call, forward: Forward, block: int | None) -> None:
        self.layers = max(self.layers, forward.total_blocks or 0, (block or 0) + 1)
        wanted = self.layer + self.layers if self.layer < 0 else self.layer
        if block != wanted or self.seen is not None or forward.grid is None:
            return
        if not 0 <= self.head < call.heads:
            raise ValueError(f"head is {self.head}; this model has heads 0 to {call.heads - 1}")
        index, count, order = self.plan.route(self.sla2, call, forward, block)
        self.seen = self._place(call, forward, index[0, self.head], count[0, self.head], order, wanted)

    def _place(self, call: Call, forward: Forward, index: Any, count: Any, order: Any, layer: int) -> Seen:
        grid, video, tokens = forward.grid, forward.video_tokens or 0, call.tokens
        assert grid is not None
        start = tokens - video if forward.prefix else 0
        spot = [min(int(part * size), size - 1) for part, size in zip(self.position, grid)]
        token = start + (spot[0] * grid[1] + spot[1]) * grid[2] + spot[2]
        places = np.arange(tokens) if order is None else np.asarray(order.cpu())  # places[i]: token that stands i-th
        block_q, block_k = self.plan.block_q, self.plan.block_k
        row = int(np.flatnonzero(places == token)[0]) // block_q
        kept, query = np.zeros(tokens, np.bool_), np.zeros(tokens, np.bool_)
        kept[places] = flags(index[row, : count[row]], block_k, tokens)
        query[places] = flags([row], block_q, tokens)
        window = slice(start, start + video)
        return Seen(kept[window], query[window], grid, layer, self.head, (row, len(count)), (int(count[row]), -(-tokens // block_k)))
