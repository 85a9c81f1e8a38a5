# SPDX-License-Identifier: Apache-2.0
"""Every module of the package imports: a renamed neighbour is noticed here and not by whoever runs the study next."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
from conftest import need_package

sla2 = need_package()
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(sla2.__path__, "sla2.") if not module.name.endswith(("__main__", "._sla2"))
)


NOT_FOR_TESTS = {"matplotlib"}  # draws the small world's curves; nothing that is tested needs it


@pytest.mark.parametrize("name", MODULES)
def test_imports(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in NOT_FOR_TESTS:
            raise
        pytest.skip(f"{error.name} is not installed")
