# SPDX-License-Identifier: Apache-2.0
"""libsla2: SLA2 sparse-linear attention and a Wan2.1 video runner.

    import sla2
    model = sla2.Model.load("presets/models/small_world")
    for frame in model.generate("a large red ball moves left over a green field", preset="presets/demo.json"): ...

NumPy is needed, torch is not; `sla2.nn`, `sla2.autograd`, `sla2.diffusers`, `sla2.calibration` and `sla2.study` import torch and are
asked for by name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sla2._attention import Attention, attention, clear_plans, route, token_order
    from sla2._sla2 import params
    from sla2.errors import (
        ArgumentError,
        CancelledError,
        DeviceError,
        Error,
        FileFormatError,
        FileMissingError,
        FileReadError,
        FileWriteError,
        InternalError,
        ModelMismatchError,
        NumericError,
        OutOfMemoryError,
        StateError,
        UnsupportedError,
        VersionError,
    )
    from sla2.generate import (
        Generation,
        Model,
        checkpoint_params,
        info,
        system_info,
    )
    from sla2.packs import RouterPack, load_sla1

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "Attention",
    "CancelledError",
    "DeviceError",
    "Error",
    "FileFormatError",
    "FileMissingError",
    "FileReadError",
    "FileWriteError",
    "Generation",
    "InternalError",
    "Model",
    "ModelMismatchError",
    "NumericError",
    "OutOfMemoryError",
    "RouterPack",
    "StateError",
    "UnsupportedError",
    "VersionError",
    "__version__",
    "attention",
    "checkpoint_params",
    "clear_plans",
    "info",
    "load_sla1",
    "params",
    "route",
    "system_info",
    "token_order",
]

# Loaded when first asked for: `import sla2` stays quick, and sla2.study works without the compiled part.
_HOMES = {
    "params": "_sla2",
    **dict.fromkeys(("Attention", "attention", "clear_plans", "route", "token_order"), "_attention"),
    **dict.fromkeys(("Generation", "Model", "checkpoint_params", "info", "system_info"), "generate"),
    **dict.fromkeys(("RouterPack", "load_sla1"), "packs"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'sla2' has no attribute {name!r}; it has {', '.join(__all__)}")
    try:
        value = getattr(importlib.import_module("sla2." + _HOMES.get(name, "errors")), name)
    except ModuleNotFoundError as error:
        if error.name != "sla2._sla2":
            raise
        raise ImportError("sla2: the compiled part is missing; build it with `pip install .`") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
