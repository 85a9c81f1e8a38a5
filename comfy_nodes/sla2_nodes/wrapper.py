# SPDX-License-Identifier: Apache-2.0
"""The wrapper around the diffusion model: it gathers the facts of a pass, and finds out block numbers where core does not tell."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import attend, chain, forward

LOG = logging.getLogger("sla2")
NAME = "sla2"


def around_model(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """A DIFFUSION_MODEL wrapper. Calls the executor, so that wrappers of other packs run too."""
    options = _find_options(args, kwargs)
    active = None if options is None else options.get(attend.KEY)
    if options is None or active is None:
        return executor(*args, **kwargs)
    model = getattr(executor, "class_obj", None)
    current = forward.begin(model, args, kwargs, options)
    active.report.count_forward()
    if getattr(options.get(chain.HOOK), "__module__", "").endswith("nodes_sparse_attention"):
        _say(active, "core's Model Sparse Attention is on the same model and comes first; use one of the two")
    with _in_place(options, active, current), _block_numbers(model, active, current):
        out = executor(*args, **kwargs)
    if current.seen:
        active.core_tells_blocks = current.told_block
    elif not active.displaced:
        active.displaced = True
        _say(active, "another node took the attention hook; SLA2 goes first from the next step on and hands it what stays dense")
    return out


def _say(active: attend.Attend, text: str) -> None:
    if active.report.note(text):
        LOG.warning("%s: %s", active.name, text)


@contextmanager
def _in_place(options: dict[str, Any], active: attend.Attend, current: forward.Forward) -> Iterator[None]:
    hook = options.get(chain.HOOK)
    options[forward.KEY] = current
    if active.displaced and not chain.is_ours(hook):
        options[chain.HOOK] = chain.make_override(hook)
    try:
        yield
    finally:
        options.pop(forward.KEY, None)
        if hook is None:
            options.pop(chain.HOOK, None)
        else:
            options[chain.HOOK] = hook


@contextmanager
def _block_numbers(model: Any, active: attend.Attend, current: forward.Forward) -> Iterator[None]:
    """Older cores do not say which block calls: ask the blocks themselves, for this pass only. Compiled blocks are left alone."""
    blocks = getattr(model, "blocks", None)
    if active.core_tells_blocks or blocks is None:
        yield
        return
    handles = []
    for number, block in enumerate(blocks):
        if not hasattr(block, "register_forward_pre_hook") or hasattr(block, "_orig_mod"):
            continue

        def enter(*_: Any, number: int = number) -> None:
            current.block = number

        handles.append(block.register_forward_pre_hook(enter))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _find_options(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    candidates = [kwargs.get("transformer_options"), *args]
    return next((value for value in candidates if isinstance(value, dict) and attend.KEY in value), None)
