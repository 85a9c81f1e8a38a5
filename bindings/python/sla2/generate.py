# SPDX-License-Identifier: Apache-2.0
"""A prompt becomes frames.

>>> model = sla2.Model.load("presets/models/small_world")
>>> clip = model.generate("a large red ball moves left over a green field", preset="demo")
>>> for frame in clip: print(frame.shape)          # (64, 64, 3) uint8, as they are decoded
>>> clip.report["attention"]                        # what really ran
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from sla2 import _sla2

Frame = NDArray[np.uint8]
Value = str | int | float | bool | list[float] | os.PathLike[str] | None


class Progress(TypedDict):
    phase: str  # load, text, sample, decode, done
    step: int
    steps: int  # 0: unknown
    fraction: float  # of the whole job
    seconds_elapsed: float
    seconds_left: float | None
    message: str  # "" or a line for people, such as a fallback


OnProgress = Callable[[Progress], object]
OnPreview = Callable[[int, Frame], object]


class Generation:
    """A running job: an iterator over its frames [height, width, 3] uint8, in order, as they are decoded.

    Callbacks run on the thread that iterates. Leaving the `with` block, Ctrl-C, or dropping the object cancels the job; with
    `checkpoint=PATH` set it leaves its state there, and `Model.resume(PATH)` goes on.
    """

    def __init__(self, job: _sla2.Job, on_progress: OnProgress | None, on_preview: OnPreview | None) -> None:
        self._job = job
        self._on_progress = on_progress
        self._on_preview = on_preview
        self._waiting: list[Frame] = []
        self._ended = False

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        while not self._waiting:
            if self._ended:
                raise StopIteration
            self._pump()
        return self._waiting.pop(0)

    def _pump(self) -> None:
        """Take one event of the job. Whatever is raised here, by the job or by a callback, is its end."""
        try:
            event = self._job.next()
            if event is None:
                self._ended = True
            elif event[0] == "frames":
                self._waiting.extend(event[2])
            elif event[0] == "preview" and self._on_preview is not None:
                self._on_preview(event[1], event[2])
            elif event[0] == "progress" and self._on_progress is not None:
                self._on_progress(event[1])
        except BaseException:
            self._ended = True
            self._job.cancel()
            raise

    def frames(self) -> Frame:
        """All frames that are left: [frames, height, width, 3]."""
        return np.stack(list(self))

    def cancel(self) -> None:
        """Ask the job to stop; the next frame asked for raises CancelledError. Any thread."""
        self._job.cancel()

    def request_checkpoint(self) -> None:
        """Write the checkpoint after the current step without stopping. Any thread."""
        self._job.request_checkpoint()

    @property
    def report(self) -> dict[str, Any]:
        """The run report: settings as resolved, seconds per phase, achieved sparsity, fallbacks. Complete after the last frame."""
        report: dict[str, Any] = json.loads(self._job.report())
        return report

    @property
    def memory_plan(self) -> str:
        """One line per buffer."""
        return self._job.memory_plan()

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._ended:
            self._job.cancel()


def _preset(preset: str | os.PathLike[str] | Mapping[str, Any] | None) -> Any:
    """A mapping, or the JSON of a file."""
    if preset is None or isinstance(preset, Mapping):
        return None if preset is None else dict(preset)
    path = Path(preset)
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise type(error)(
            f"preset {os.fspath(preset)!r}: {error.strerror or error}; give the path of a preset's JSON file or a mapping of parameters"
        ) from error


class Model:
    """An opened model: its headers are checked, its weights are loaded when a job needs them. Immutable; share it between threads."""

    def __init__(self, native: _sla2.Model) -> None:
        self._native = native

    @classmethod
    def load(cls, path: str | os.PathLike[str], **files: Value) -> Model:
        """Open a folder with model.json, a diffusers folder, or a DiT file (then name `vae`, `text_encoder` and `tokenizer`).

        Raises FileMissingError, FileFormatError, ModelMismatchError or OutOfMemoryError.
        """
        return cls(_sla2.Model(os.fspath(path), files))

    @property
    def info(self) -> dict[str, Any]:
        """Sizes, files, defaults and digests."""
        info: dict[str, Any] = json.loads(self._native.describe())
        return info

    def generate(
        self,
        prompt: str,
        *,
        preset: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
        **parameters: Value,
    ) -> Generation:
        """Start a job and return its frames as an iterator. Keywords are the rows of `sla2.params()`; they win over the preset.

        Raises ArgumentError (unknown name, with the nearest one; out of range), OutOfMemoryError (with the plan) or ModelMismatchError.
        """
        values = {"prompt": prompt, "preset": _preset(preset), **parameters}
        return Generation(_sla2.Job(self._native, values, None, on_preview is not None), on_progress, on_preview)

    def resume(
        self,
        checkpoint: str | os.PathLike[str],
        *,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
        **changes: Value,
    ) -> Generation:
        """Go on from a checkpoint, bit-identical to an uninterrupted run on the same machine.

        Only `threads`, `checkpoint` and preview settings may change, and `vae_tile` and `vae_precision` once all steps are done. Frames
        decoded before are made again.
        """
        return Generation(_sla2.Job(self._native, changes, os.fspath(checkpoint), on_preview is not None), on_progress, on_preview)


def info(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a weights file, folder, sharded index, latent or checkpoint is, from its header alone."""
    result: dict[str, Any] = json.loads(_sla2.file_info(os.fspath(path)))
    return result


def system_info() -> dict[str, Any]:
    """What this machine offers: cpu, isa, threads, memory, libraries."""
    result: dict[str, Any] = json.loads(_sla2.system_info())
    return result


def checkpoint_params(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The values saved in a checkpoint, model path included ("model")."""
    result: dict[str, Any] = json.loads(_sla2.checkpoint_params(os.fspath(path)))
    return result
