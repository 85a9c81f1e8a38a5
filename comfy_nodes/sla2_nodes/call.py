# SPDX-License-Identifier: Apache-2.0
"""One call of ComfyUI's attention hook, in the words of the library."""

from __future__ import annotations

from typing import Any

# kwargs of the hook that change nothing we compute; any other that is set is a reason to decline.
_HARMLESS = {"transformer_options", "low_precision_attention", "_inside_attn_wrapper", "scale", "enable_gqa"}


def unwrap(tensor: Any) -> Any:
    """Newer cores hand q, k and v in containers that free them early; look inside without taking."""
    return tensor.peek() if hasattr(tensor, "peek") and not hasattr(tensor, "shape") else tensor


class Call:
    """q, k, v as [B, N, H, D] views of whatever layout core used."""

    __slots__ = ("heads", "k", "kwargs", "mask", "q", "skip_output_reshape", "v", "well_formed")

    def __init__(
        self, q: Any, k: Any, v: Any, heads: int, mask: Any, skip_reshape: bool, skip_output_reshape: bool, kwargs: dict[str, Any]
    ) -> None:
        q, k, v = unwrap(q), unwrap(k), unwrap(v)
        self.heads, self.mask, self.kwargs, self.skip_output_reshape = heads, mask, kwargs, skip_output_reshape
        rank = 4 if skip_reshape else 3
        self.well_formed = all(len(t.shape) == rank for t in (q, k, v)) and (skip_reshape or q.shape[-1] % heads == 0)
        if self.well_formed and skip_reshape:
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        elif self.well_formed and k.shape[-1] == v.shape[-1] == q.shape[-1]:
            q, k, v = (t.unflatten(-1, (heads, -1)) for t in (q, k, v))
        self.q, self.k, self.v = q, k, v

    @property
    def tokens(self) -> int:
        return int(self.q.shape[1])

    @property
    def head_dim(self) -> int:
        return int(self.q.shape[3])

    @property
    def scale(self) -> float | None:
        return self.kwargs.get("scale")

    @property
    def strange(self) -> list[str]:
        """Arguments of the hook that this version does not know and that are set."""
        return sorted(name for name, value in self.kwargs.items() if name not in _HARMLESS and value is not None and value is not False)

    def result(self, out: Any) -> Any:
        """[B, N, H, D] as core wants it back."""
        return out.transpose(1, 2) if self.skip_output_reshape else out.flatten(2)
