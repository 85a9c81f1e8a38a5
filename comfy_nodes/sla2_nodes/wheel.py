# SPDX-License-Identifier: Apache-2.0
"""The one place that imports the `sla2` wheel. A wheel that is missing or does not fit is a sentence, never a crash."""

from __future__ import annotations

import importlib
import logging
from types import ModuleType
from typing import Any

LOG = logging.getLogger("sla2")
NEEDS = (0, 1)  # major, minor: the Python surface these nodes were written for
REMEDY = "install the wheel that fits this pack with ComfyUI's own Python: python -m pip install 'sla2>=0.1,<0.2'"

_state: tuple[ModuleType | None, str] | None = None


class WheelError(RuntimeError):
    """The user asked for something that only the wheel can do."""


def load() -> tuple[ModuleType | None, str]:
    """(sla2, "") or (None, why not). Looked for once per process; the reason is logged once."""
    global _state
    if _state is None:
        _state = _look()
        if _state[0] is None:
            LOG.warning("SLA2: %s", _state[1])
    return _state


def need() -> Any:
    """sla2, or WheelError with the remedy."""
    module, reason = load()
    if module is None:
        raise WheelError(reason)
    return module


def forget() -> None:
    """Look again at the next load()."""
    global _state
    _state = None


def _look() -> tuple[ModuleType | None, str]:
    try:
        module = importlib.import_module("sla2")
    except ImportError as error:
        return None, f"the Python package sla2 cannot be imported ({error}); attention stays dense; {REMEDY}"
    version = str(getattr(module, "__version__", "unknown"))
    if _numbers(version) != NEEDS:
        return None, f"the installed sla2 is {version}, these nodes need {NEEDS[0]}.{NEEDS[1]}; attention stays dense; {REMEDY}"
    try:
        compiled = str(importlib.import_module("sla2._sla2").version())
        _ = module.attention, module.route, module.token_order
    except Exception as error:  # a wheel for another Python or C library can fail in any way
        return None, f"the compiled part of sla2 {version} does not load here ({error}); attention stays dense; {REMEDY}"
    if _numbers(compiled) != _numbers(version):
        return None, f"sla2 {version} found the compiled library {compiled}; attention stays dense; {REMEDY}"
    return module, ""


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")[:2]
    return tuple(int(part) for part in parts) if len(parts) == 2 and all(part.isdigit() for part in parts) else ()
