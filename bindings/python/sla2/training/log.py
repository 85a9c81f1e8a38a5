# SPDX-License-Identifier: Apache-2.0
"""The record of a run: JSON lines, and curves for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sla2.errors import FileWriteError


class Log:
    """Appends records with a `step`; what lies beyond the step a run goes on from is dropped, since it will be written again."""

    def __init__(self, folder: Path, first_step: int, tensorboard: bool, name: str = "log.jsonl") -> None:
        self.path = folder / name
        self._writer: Any = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            kept = [line for line in self._lines() if line["step"] < first_step or (line["step"] == first_step and line["kind"] == "step")]
            text = "".join(json.dumps(line) + "\n" for line in kept)
            part = self.path.with_suffix(".part")
            part.write_text(text, encoding="utf-8")
            part.replace(self.path)
        except OSError as error:
            raise FileWriteError(f"{self.path}: cannot be written: {error}; check output.path and the free space") from error
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def _lines(self) -> list[dict[str, Any]]:
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                break  # the line that was being written when the run was killed
        return found

    def write(self, kind: str, step: int, **values: Any) -> None:
        """kind `step` or `evaluation`; numbers become curves, the rest stays in the JSON lines."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        except OSError as error:
            raise FileWriteError(f"{self.path}: cannot be written: {error}; check the free space") from error
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
