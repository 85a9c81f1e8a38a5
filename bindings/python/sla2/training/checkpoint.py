# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: a folder for each step, whole or not there at all."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from sla2.errors import ArgumentError, FileFormatError, FileWriteError
from sla2.training.config import Config

# What a run may not change when it goes on: these decide what the saved numbers mean.
_BOUND = {"attention": None, "lora": None, "train": ("what", "optimizer", "seed", "batch", "loss", "shift"), "model": ("heads",)}


def _folder(out: Path, step: int) -> Path:
    return out / "checkpoints" / f"step_{step:08d}"


def steps(out: Path) -> list[int]:
    """Steps with a whole checkpoint, ascending."""
    found = (re.fullmatch(r"step_(\d{8})", path.name) for path in (out / "checkpoints").glob("step_*") if (path / "state.pt").is_file())
    return sorted(int(name[1]) for name in found if name)


def save(out: Path, step: int, state: dict[str, Any], config: Config, keep: int) -> None:
    """Write a checkpoint and drop the oldest ones. Raises FileWriteError; those that exist then stay."""
    folder = _folder(out, step)
    part = folder.with_suffix(".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        with (part / "state.pt").open("wb") as file:
            torch.save({"step": step, "config": config.as_dict(), **state}, file)
            file.flush()
            os.fsync(file.fileno())
        (part / "config.yaml").write_text(config.as_yaml(), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    except (OSError, RuntimeError) as error:  # torch's writer says RuntimeError where a file ends early
        shutil.rmtree(part, ignore_errors=True)
        there = steps(out)
        last = f"the last good one is {_folder(out, there[-1])}" if there else "there is no earlier one"
        cause = f"{error}".splitlines()[0]
        raise FileWriteError(f"{folder}: the checkpoint of step {step} cannot be written ({cause}); {last}; check the free space, then go on with the same command") from error  # fmt: skip
    for old in steps(out)[:-keep]:
        shutil.rmtree(_folder(out, old), ignore_errors=True)


def load(out: Path, config: Config | None) -> dict[str, Any] | None:
    """The newest checkpoint that can be read; None without any. Raises where it belongs to another configuration or none is sound."""
    there = steps(out)
    for step in reversed(there):
        path = _folder(out, step) / "state.pt"
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file fails in many ways: EOFError, RuntimeError, UnpicklingError, KeyError
            print(f"{path}: cannot be read ({type(error).__name__}); trying the one before", file=sys.stderr, flush=True)
            continue
        if config is not None:
            _compare(out, state["config"], config)
        return state
    if there:
        raise FileFormatError(f"{out / 'checkpoints'}: none of the {len(there)} checkpoints can be read; remove the folder to begin anew")
    return None


def _compare(out: Path, saved: dict[str, dict[str, Any]], config: Config) -> None:
    now = config.as_dict()
    for section, keys in _BOUND.items():
        for key in keys or now[section]:
            old, new = saved.get(section, {}).get(key), now[section][key]
            if old != new:
                raise ArgumentError(f"{out}: its checkpoint was made with {section}.{key} {old!r}, the configuration says {new!r}; give another output.path, or the old value")  # fmt: skip
