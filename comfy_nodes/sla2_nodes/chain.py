# SPDX-License-Identifier: Apache-2.0
"""The override on core's attention hook. It holds nothing but its predecessor: settings are looked up in transformer_options at
each call, so a second node replaces them there and never stacks, wherever in the chain the override sits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import attend, forward
from .call import Call

HOOK = "optimized_attention_override"
_MARK = "is_sla2_override"


def make_override(previous: Callable[..., Any] | None) -> Callable[..., Any]:
    """An override that hands declined calls to `previous`, or to the backend core would have used."""

    def override(
        func: Callable[..., Any],
        q: Any,
        k: Any,
        v: Any,
        heads: int,
        mask: Any = None,
        attn_precision: Any = None,
        skip_reshape: bool = False,
        skip_output_reshape: bool = False,
        **kwargs: Any,
    ) -> Any:
        def dense() -> Any:
            words = {
                "mask": mask,
                "attn_precision": attn_precision,
                "skip_reshape": skip_reshape,
                "skip_output_reshape": skip_output_reshape,
                **kwargs,
            }
            return func(q, k, v, heads, **words) if previous is None else previous(func, q, k, v, heads, **words)

        options = kwargs.get("transformer_options") or {}
        active = options.get(attend.KEY)
        current = options.get(forward.KEY)
        if active is None or (current is not None and current.inside):
            return dense()
        call = Call(q, k, v, heads, mask, skip_reshape, skip_output_reshape, kwargs)
        return active(call, current or forward.Forward(), options, dense)

    override = _uncompiled(override)
    setattr(override, _MARK, True)
    return override


def is_ours(override: Any) -> bool:
    return bool(getattr(override, _MARK, False))


def install(options: dict[str, Any], active: attend.Attend) -> None:
    """Put the override on the hook, or take the place of an SLA2 node that is already there."""
    known = options.get(attend.KEY) is not None
    options[attend.KEY] = active
    if not known:
        options[HOOK] = make_override(options.get(HOOK))


def _uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile must not freeze a step's decision into a graph."""
    try:
        import torch

        return torch.compiler.disable(function)
    except (ImportError, AttributeError):
        return function
