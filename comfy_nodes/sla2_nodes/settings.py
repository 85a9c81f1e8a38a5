# SPDX-License-Identifier: Apache-2.0
"""What the user chose, as one value that never changes, and the presets, which are those of the library's presets folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MODES = ("auto", "sla2", "sla1", "pooled", "sparse_only")
ORDERS = ("auto", "raster", "tiles", "hilbert")
_BLOCKS = re.compile(r"^(-?\d+)(?:\s*-\s*(\d+))?$")


def parse_blocks(text: str) -> tuple[tuple[int, int], ...]:
    """'0, 1, 47-49, -1' as ranges (first, last); negative numbers count from the end. Raises ValueError."""
    ranges = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _BLOCKS.match(part)
        if match is None:
            raise ValueError(f"dense_blocks: {part!r} is no block; expected numbers and ranges such as '0, 1, 47-49, -1'")
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        if last < first:
            raise ValueError(f"dense_blocks: the range {part!r} runs backwards")
        ranges.append((first, last))
    return tuple(ranges)


@dataclass(frozen=True)
class Settings:
    """Percent of key blocks kept, 0 to 100; steps and blocks that stay dense; the rest in the words of the library."""

    keep_percent: float = 10.0
    bits: int = 16
    mode: str = "auto"
    mode_options: Mapping[str, Any] = field(default_factory=dict)
    start_percent: float = 0.2
    end_percent: float = 1.0
    dense_first_steps: int = 0
    dense_last_steps: int = 0
    dense_blocks: str = ""
    min_tokens: int = 12288
    token_order: str = "auto"
    probe_percent: float = 0.0
    verbose: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.keep_percent <= 100:
            raise ValueError(f"keep_percent is {self.keep_percent}; expected above 0 to 100")
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}; expected one of {', '.join(MODES)}")
        if self.token_order not in ORDERS:
            raise ValueError(f"token_order is {self.token_order!r}; expected one of {', '.join(ORDERS)}")
        object.__setattr__(self, "_ranges", parse_blocks(self.dense_blocks))

    @property
    def sparsity(self) -> float:
        return 1.0 - self.keep_percent / 100.0

    def block_is_dense(self, block: int, total: int | None) -> bool:
        """Negative blocks need the number of blocks; where a core does not tell it they match nothing."""
        for first, last in self._ranges:  # type: ignore[attr-defined]
            if first < 0:
                if total is not None and block == total + first:
                    return True
            elif first <= block <= last:
                return True
        return False

    @property
    def names_blocks(self) -> bool:
        return bool(self._ranges)  # type: ignore[attr-defined]


# The rows of presets/{safe,balanced,fast,max}.json in this node's words; a test keeps the two together.
_GUARDS = {"mode": "auto", "start_percent": 0.2, "end_percent": 1.0, "dense_first_steps": 0, "dense_last_steps": 1, "dense_blocks": "0, -1"}
PRESETS: dict[str, dict[str, Any]] = {
    "safe": {"keep_percent": 50.0, "bits": 16, **_GUARDS},
    "balanced": {"keep_percent": 28.0, "bits": 8, **_GUARDS},
    "fast": {"keep_percent": 15.0, "bits": 8, **_GUARDS},
    "max": {"keep_percent": 3.0, "bits": 8, **_GUARDS},
}


def resolve(preset: str, **given: Any) -> Settings:
    """The settings of a preset, or with "custom" what was given. Inputs that a preset does not fix are always as given."""
    if preset != "custom" and preset not in PRESETS:
        raise ValueError(f"preset is {preset!r}; expected one of {', '.join((*PRESETS, 'custom'))}")
    return Settings(**(given | PRESETS.get(preset, {})))
