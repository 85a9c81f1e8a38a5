# SPDX-License-Identifier: Apache-2.0
"""Where the video lies among the tokens: orders over its grid, and blocks that reference and pose tokens protect."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

_MOST = 8
_orders: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
_lock = threading.Lock()


def order(sla2: Any, kind: str, tile: tuple[int, ...], grid: tuple[int, int, int], tokens: int, prefix: bool, device: Any) -> Any:
    """int64 [tokens] on the device: the video part permuted, tokens beside it left in place."""
    import torch

    key = (kind, tile, grid, tokens, prefix, str(device))
    with _lock:
        found = _orders.get(key)
        if found is not None:
            _orders.move_to_end(key)
            return found
    video = torch.from_numpy(sla2.token_order(kind, grid, tile)).long()
    extra = tokens - len(video)
    start = extra if prefix else 0
    index = torch.arange(tokens)
    index[start : start + len(video)] = video + start
    index = index.to(device)
    with _lock:
        _orders[key] = index
        while len(_orders) > _MOST:
            _orders.popitem(last=False)
    return index


def protected(tokens: int, video: int | None, prefix: bool, block_k: int) -> dict[str, int]:
    """Key blocks to keep always: those that hold reference, pose or other tokens beside the video."""
    if video is None or tokens <= video:
        return {}
    extra = tokens - video
    if prefix:
        return {"protect_first": -(-extra // block_k)}
    blocks = -(-tokens // block_k)
    return {"protect_last": blocks - video // block_k}


def forget() -> None:
    with _lock:
        _orders.clear()
