# SPDX-License-Identifier: Apache-2.0
"""What a call on a GPU needs beside its tensors: workspace and stream. Both are torch's, so that its allocator and its order of work hold."""

from __future__ import annotations

import sys
from typing import Any

from sla2.errors import UnsupportedError


def place_of(array: Any) -> dict[str, int]:
    """{"device_id": n} for torch tensors on CUDA device n, {} on the CPU. Raises UnsupportedError for other devices and arrays."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        if array.device.type == "cuda":
            return {"device_id": int(array.device.index)}
        kind = 1 if array.device.type == "cpu" else -1
    else:
        kind = int(array.__dlpack_device__()[0]) if hasattr(array, "__dlpack_device__") else 1
    if kind != 1:
        where = f"torch device {array.device}" if kind < 0 else f"DLPack device type {kind}"
        raise UnsupportedError(f"an array of {type(array)} on {where}; expected arrays on the CPU or torch tensors on a CUDA device")
    return {}


def workspace(array: Any, size: int) -> tuple[Any, tuple[int, int]]:
    """A tensor of `size` bytes beside `array`, and (its address, torch's current stream there). Keep the tensor until the call is queued."""
    torch = sys.modules["torch"]
    held = torch.empty(max(1, size), dtype=torch.uint8, device=array.device)
    return held, (held.data_ptr(), torch.cuda.current_stream(array.device).cuda_stream)


def beside(array: Any, values: dict[str, Any]) -> dict[str, Any]:
    """`values` with what lies elsewhere copied to `array`'s device: learned numbers are small, and often NumPy's."""
    torch = sys.modules["torch"]
    return {name: value if value is None else torch.as_tensor(value).to(array.device) for name, value in values.items()}


def zeros(array: Any, shape: tuple[int, ...], kind: str) -> Any:
    torch = sys.modules["torch"]
    return torch.zeros(shape, dtype=getattr(torch, kind), device=array.device)
