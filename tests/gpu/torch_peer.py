# SPDX-License-Identifier: Apache-2.0
"""PyTorch's dense attention as a peer: reads lines "tokens heads dim backend repeats", answers each with a line of JSON.

backend: flash (FlashAttention-2), cudnn, or math (any device; for tests). One call to warm up, then `repeats` calls between events.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import Any


def main() -> int:
    try:
        import torch
    except ImportError:
        print("torch_peer: this Python has no torch", file=sys.stderr)
        return 3
    on_gpu = torch.cuda.is_available()
    if not on_gpu and "--cpu" not in sys.argv:
        print("torch_peer: torch sees no CUDA device", file=sys.stderr)
        return 3
    device = "cuda" if on_gpu else "cpu"
    cudnn = torch.backends.cudnn.version() if on_gpu else None
    print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": cudnn, "device": device}), flush=True)
    shape: tuple[int, ...] | None = None
    tensors: list[torch.Tensor] = []

    def backend_of(name: str) -> Any:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        kinds = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH}
        return sdpa_kernel(kinds[name]) if on_gpu else contextlib.nullcontext()

    for line in sys.stdin:
        words = line.split()
        wanted, backend, repeats = tuple(int(x) for x in words[:3]), words[3], int(words[4])
        answer: dict[str, Any] = {"tokens": wanted[0], "heads": wanted[1], "dim": wanted[2], "backend": backend}
        try:
            if wanted != shape:
                shape, tensors = None, []
                size = (1, wanted[1], wanted[0], wanted[2])
                tensors = [torch.randn(size, device=device, dtype=torch.bfloat16) for _ in range(3)]
                shape = wanted
            times = []
            q, k, v = tensors
            with backend_of(backend), torch.no_grad():
                for i in range(-1, repeats):
                    if on_gpu:
                        first, second = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                        first.record()
                        torch.nn.functional.scaled_dot_product_attention(q, k, v)
                        second.record()
                        second.synchronize()
                        ms = first.elapsed_time(second)
                    else:
                        started = time.perf_counter()
                        torch.nn.functional.scaled_dot_product_attention(q, k, v)
                        ms = 1e3 * (time.perf_counter() - started)
                    if i >= 0:
                        times.append(ms)
            answer["ms"] = times
        except RuntimeError as error:  # a backend that this build or device has not
            answer["refused"] = str(error).splitlines()[0]
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
