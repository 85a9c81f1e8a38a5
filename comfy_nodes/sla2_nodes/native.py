# SPDX-License-Identifier: Apache-2.0
"""A clip by libsla2's own runner: progress, previews, cancel, and going on where an interrupted run stopped."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def state_file(folder: str | os.PathLike[str], model: str, values: dict[str, Any]) -> Path:
    """Where a run with these very settings keeps its state: any other setting has another file."""
    words = json.dumps([model, values], sort_keys=True, default=str)
    return Path(folder) / f"{hashlib.sha256(words.encode()).hexdigest()[:24]}.sla2-state"


def generate(
    sla2: Any,
    model: str,
    files: dict[str, str],
    values: dict[str, Any],
    state: Path,
    *,
    resume: bool,
    on_progress: Callable[[Any], object],
    on_preview: Callable[[int, NDArray[np.uint8]], object],
    interrupted: Callable[[], bool],
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """uint8 [frames, height, width, 3] and the run report. Raises sla2.CancelledError when `interrupted` says so; the state stays."""
    state.parent.mkdir(parents=True, exist_ok=True)
    opened = sla2.Model.load(model, **files)
    events = {"on_progress": on_progress, "on_preview": on_preview}
    job = None
    if resume and state.exists():
        try:
            job = opened.resume(state, **events)  # it keeps writing where it was told to at first
        except sla2.Error:  # a state of another version or model: begin anew
            job = None
    if job is None:
        job = opened.generate(values["prompt"], checkpoint=state, **events, **{k: v for k, v in values.items() if k != "prompt"})
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            if interrupted():
                job.cancel()
                return

    watcher = threading.Thread(target=watch, name="sla2-interrupt", daemon=True)
    watcher.start()
    try:
        with job:
            frames = job.frames()
            report = job.report
    finally:
        ended.set()
        watcher.join()
    state.unlink(missing_ok=True)
    return frames, report
