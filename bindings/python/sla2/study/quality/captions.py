# SPDX-License-Identifier: Apache-2.0
"""Do clips of the shipped model still show what their captions say with its router packs? Native runner, detectors of the small world."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from ..detect import accuracy, detect
from ..measure import half_width, run_native, tasks


def arms(folder: Path) -> dict[str, list[str]]:
    """Return the runner's further arguments by name: full attention, then every pack, with the LoRA that belongs to it."""
    found: dict[str, list[str]] = {"full": []}
    for pack in sorted(folder.glob("*.sla2.safetensors")):
        name = pack.name.removesuffix(".sla2.safetensors")
        lora = folder / f"{name}.lora.safetensors"
        found[name] = ["--pack", str(pack)] + (["--lora", str(lora)] if lora.is_file() else [])
    return found


def write(model: Path, folder: Path, count: int, path: Path, runner: str, threads: int, seed: int = 0) -> None:
    """Measure all arms on the same held-out prompts and noises; an arm that ``path`` holds already, of the same files, is not repeated."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    work = tasks(count, seed)
    for name, extra in arms(folder).items():
        facts = {
            "count": count,
            "files": {Path(f).name: hashlib.sha256(Path(f).read_bytes()).hexdigest() for f in extra if Path(f).is_file()},
        }
        if all(found.get(name, {}).get(key) == value for key, value in facts.items()):
            continue
        options = argparse.Namespace(runner=runner, model=str(model), extra=[*extra, "--threads", str(threads)])
        clips = run_native(options, work)
        shares = accuracy([(scene, detect(clip)) for (scene, _, _), clip in zip(work, clips, strict=True)])
        found[name] = {**facts, "accuracy": shares, "half_width_95": {k: round(half_width(v, count), 4) for k, v in shares.items()}}
        print(name, json.dumps(found[name]), flush=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
