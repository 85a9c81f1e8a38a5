# SPDX-License-Identifier: Apache-2.0
"""safetensors files of torch tensors, whole or not there at all, with the permissions of any new file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sla2.errors import FileWriteError


def save(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    remedy: str = "check the folder and the free space",
) -> None:
    """Write tensors of any shape and type under another name, then rename; an older file stays as it was until then.

    Raises FileWriteError, which ends in `remedy`.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        with part.open("wb") as file:  # made here to see what the umask leaves of 0666: safetensors' own files are 0600
            mode = os.fstat(file.fileno()).st_mode & 0o777
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, part, metadata=dict(metadata or {}) or None)
        part.chmod(mode)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise FileWriteError(f"{path}: cannot be written: {error}; {remedy}") from error
