# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests that drive the built programs and compare with somebody else's code.

SLA2_BUILD names the build folder; without it build/dev is taken.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("SLA2_CACHE", "")  # the tool shall write nothing into the home of who runs the tests


def build_dir() -> Path:
    return Path(os.environ.get("SLA2_BUILD", ROOT / "build" / "dev")).resolve()


# The Python package of the same build; SLA2_PACKAGE=installed tests the one that is installed instead.
if os.environ.get("SLA2_PACKAGE") != "installed":
    sys.path.insert(0, str(build_dir() / "bindings"))


def need_package() -> ModuleType:
    """The package sla2. Skips the module where the build has none (SLA2_BUILD_PYTHON=OFF); one that does not load is a failure."""
    built = any((build_dir() / "bindings" / "sla2").glob("_sla2*.so"))
    if os.environ.get("SLA2_PACKAGE") != "installed" and not built:
        pytest.skip("this build has no Python package", allow_module_level=True)
    package = importlib.import_module("sla2")
    package.params()
    return package


def find_program(name: str) -> Path:
    """The built program of this name; a missing one is a failure, never a skip."""
    for path in sorted(build_dir().rglob(name)):
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise AssertionError(f"{name} is not built in {build_dir()}; run ./dev build or set SLA2_BUILD")


@pytest.fixture(scope="session")
def probe():
    """probe("dit") -> path of the built probe_dit."""
    return lambda name: find_program(f"probe_{name}")


@pytest.fixture(scope="session")
def run_probe(probe):
    """run_probe("dit", "forward", "in.safetensors", ...) -> CompletedProcess; fails with the program's own words."""

    def run(name: str, *args: object, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess:
        command = [str(probe(name)), *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        if check and done.returncode != 0:
            pytest.fail(f"{' '.join(command)}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    return run


@pytest.fixture(scope="module")
def sla2():
    """The library through ctypes."""
    import sla2_ctypes

    return sla2_ctypes.Sla2()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model with every part random."""
    from make_tiny_model import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("tiny"))
