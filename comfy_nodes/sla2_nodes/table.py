# SPDX-License-Identifier: Apache-2.0
"""Help texts and ranges from the library's own table of parameters, with a word of ours where the wheel is missing."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from . import wheel


@lru_cache(maxsize=1)
def _rows() -> dict[str, dict[str, Any]]:
    sla2, _ = wheel.load()
    return {} if sla2 is None else {row["name"]: row for row in sla2.params()}


def help_of(name: str, otherwise: str, beside: str = "") -> str:
    """The library's help for a parameter, then what only this node adds."""
    row = _rows().get(name)
    return " ".join(filter(None, (row["help"] if row else otherwise, beside)))


def limits(name: str, least: float, most: float, step: float) -> dict[str, Any]:
    """min, max and step of a number, the library's where it has some."""
    row = _rows().get(name)
    if row is None or row["maximum"] <= row["minimum"]:
        return {"min": least, "max": most, "step": step}
    kind = int if row["type"] == "int" else float
    return {"min": kind(row["minimum"]), "max": kind(row["maximum"]), "step": kind(row["step"] or step)}


def choices(name: str, otherwise: list[str]) -> list[str]:
    row = _rows().get(name)
    return list(row["choices"]) if row and row["choices"] else otherwise


def default(name: str, otherwise: Any) -> Any:
    row = _rows().get(name)
    return type(otherwise)(row["default"]) if row and row["default"] != "" else otherwise
