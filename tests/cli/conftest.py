# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests that drive the built sla2 tool with a tiny random model. SLA2_BUILD names the build folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "python"))

# Small enough for a second a run, ragged enough to be a real grid: 3 latent frames of 3 x 4 tokens.
SMALL = ("--steps", "3")


@pytest.fixture(scope="session")
def tool() -> Path:
    build = Path(os.environ.get("SLA2_BUILD", ROOT / "build" / "dev")).resolve()
    path = build / "bin" / "sla2"
    assert path.is_file(), f"{path} is not built; run ./dev build or set SLA2_BUILD"
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    from make_tiny_model import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny_random")


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    # No cache of embeddings: tests never write into the home of who runs them.
    return {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"), "SLA2_CACHE": ""}


@pytest.fixture(scope="session")
def sla2(tool, environment):
    """sla2("info", file) -> CompletedProcess; code: the expected exit code, None for any."""

    def run(*arguments: object, code: int | None = 0, timeout: float = 120, **options) -> subprocess.CompletedProcess:
        command = [os.fsencode(str(tool))] + [a if isinstance(a, bytes) else os.fsencode(str(a)) for a in arguments]
        done = subprocess.run(command, capture_output=True, timeout=timeout, check=False, env=options.pop("env", environment), **options)
        done.stdout, done.stderr = (text.decode("utf-8", "replace") for text in (done.stdout, done.stderr))
        if code is not None and done.returncode != code:
            pytest.fail(f"{command}\nexit code {done.returncode}, expected {code}\n{done.stdout}\n{done.stderr}")
        return done

    return run


@pytest.fixture(scope="session")
def generate(sla2, tiny_model):
    """generate("-o", out, …): a run with the tiny model."""

    def run(*arguments: object, **options) -> subprocess.CompletedProcess:
        return sla2("generate", "-m", tiny_model, "-p", "a red ball rises over the sea at sunset", *SMALL, *arguments, **options)

    return run


def probe_media(path: Path) -> dict:
    """ffprobe's view of a file, frames counted by decoding."""
    done = subprocess.run(
        ["ffprobe", "-v", "error", "-count_frames", "-show_format", "-show_streams", "-of", "json", str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def leftovers(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())
