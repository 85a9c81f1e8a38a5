# SPDX-License-Identifier: Apache-2.0
"""Router packs without training: mixing numbers in closed form, routers in minutes. Needs torch; the command also needs diffusers.

    python -m sla2.calibration MODEL -p "a red balloon over the sea" -p "a dog in the snow" -o mine.sla2.safetensors

`calibrate` takes a transformer of diffusers and a callable that runs it; `Calibrator` takes queries, keys and values from anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sla2.calibration.calibrator import Calibrator

if TYPE_CHECKING:
    from sla2.calibration.run import calibrate

__all__ = ["Calibrator", "calibrate"]


def __getattr__(name: str) -> Any:
    if name != "calibrate":
        raise AttributeError(f"module 'sla2.calibration' has no attribute {name!r}; it has {', '.join(__all__)}")
    from sla2.calibration.run import calibrate

    return calibrate
