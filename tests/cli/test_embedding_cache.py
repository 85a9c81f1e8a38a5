# SPDX-License-Identifier: Apache-2.0
"""Encoded prompts on disk: where the tool keeps them, how it is told not to, and how much it keeps."""

from __future__ import annotations

import json
import os

import pytest

PRIVATE = 0o700


@pytest.fixture()
def run(generate, environment, tmp_path):
    """run(*flags, env={…}) -> the report's embedding_from_cache; nothing of the real home is in reach."""

    def run(*flags, **variables) -> bool:
        kept = {name: value for name, value in environment.items() if name not in ("SLA2_CACHE", "XDG_CACHE_HOME")}
        (tmp_path / "home").mkdir(exist_ok=True)
        generate(
            "-o", tmp_path / "a.gif", "--report", tmp_path / "r.json", *flags, env={**kept, "HOME": str(tmp_path / "home"), **variables}
        )
        return json.loads((tmp_path / "r.json").read_text())["embedding_from_cache"]

    return run


def entries(folder) -> int:
    return len(list(folder.glob("*.safetensors")))


def test_default_folder(run, tmp_path):
    folder = tmp_path / "home" / ".cache" / "sla2" / "embeddings"
    assert run() is False
    first = (tmp_path / "a.gif").read_bytes()
    assert entries(folder) == 2  # the prompt and the negative one
    assert folder.stat().st_mode & 0o777 == PRIVATE
    assert run() is True
    assert (tmp_path / "a.gif").read_bytes() == first
    assert run("-p", "a blue boat") is True and entries(folder) == 3  # the negative prompt was there
    assert run("--no-embedding-cache") is False and run("--embedding-cache", "") is False and entries(folder) == 3


def test_other_folders(run, tmp_path):
    run(XDG_CACHE_HOME=str(tmp_path / "xdg"))
    assert entries(tmp_path / "xdg" / "sla2" / "embeddings") == 2
    run(SLA2_CACHE=str(tmp_path / "own"), XDG_CACHE_HOME=str(tmp_path / "other"))
    assert entries(tmp_path / "own" / "embeddings") == 2
    run("--embedding-cache", tmp_path / "named", SLA2_CACHE=str(tmp_path / "unused"))
    assert entries(tmp_path / "named") == 2
    run(SLA2_CACHE="")
    run(XDG_CACHE_HOME="relative")
    assert {path.name for path in tmp_path.iterdir()} == {"home", "xdg", "own", "named", "a.gif", "r.json"}


def test_a_folder_that_cannot_be_made_is_no_trouble(run, tmp_path):
    (tmp_path / "file").write_text("")
    assert run(SLA2_CACHE=str(tmp_path / "file")) is False


def test_the_folder_is_bounded(run, tmp_path):
    folder = tmp_path / "home" / ".cache" / "sla2" / "embeddings"
    run()
    for name, seconds in (("old", 1), ("older", 0)):
        with open(folder / f"{name}.safetensors", "wb") as file:
            file.truncate(400 << 20)  # holes: nothing is on the disk
        os.utime(folder / f"{name}.safetensors", (seconds, seconds))
    (folder / "notes.txt").write_text("not ours")
    assert run() is True
    assert entries(folder) == 3 and (folder / "old.safetensors").exists() and (folder / "notes.txt").exists()
