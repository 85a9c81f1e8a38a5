# SPDX-License-Identifier: Apache-2.0
"""Tests of the ComfyUI nodes, in a process of their own.

SLA2_BUILD names the build folder (default build/dev). SLA2_COMFYUI_DIR names a checkout of ComfyUI; the tests that need its code
skip where it is not set, and `./dev check comfy` says so.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("SLA2_BUILD", ROOT / "build" / "dev")).resolve()
COMFYUI = os.environ.get("SLA2_COMFYUI_DIR", "")

sys.path[:0] = [str(BUILD / "bindings"), str(ROOT / "comfy_nodes"), str(ROOT)]

collect_ignore = [] if COMFYUI else ["test_variants.py"]  # it imports ComfyUI at its head


def pytest_report_header() -> str:
    return f"ComfyUI: {COMFYUI}" if COMFYUI else "ComfyUI: SLA2_COMFYUI_DIR is not set; tests with its code are left out"


@pytest.fixture(scope="session")
def comfyui() -> Path:
    if not COMFYUI:
        pytest.skip("SLA2_COMFYUI_DIR is not set: no ComfyUI to test with")
    return Path(COMFYUI)
