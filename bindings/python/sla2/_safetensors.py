# SPDX-License-Identifier: Apache-2.0
"""safetensors files in NumPy alone: eight bytes of length, a JSON header, raw tensors. Read defensively, written in one rename.

Floating tensors come back as float32 whatever they were (NumPy has no bfloat16).
"""

from __future__ import annotations

import itertools
import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sla2.errors import FileFormatError, FileMissingError, FileReadError, FileWriteError

_MOST_HEADER = 100 * 1024 * 1024
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}


def _refuse(path: Path, what: str) -> FileFormatError:
    return FileFormatError(f"{path}: {what}; the file is truncated or no safetensors file: copy it again from where it came")


class TensorFile:
    """The header of a file, and its tensors when asked for. `shapes` and `metadata` are read at once.

    Raises FileMissingError, FileReadError, FileFormatError (what is wrong and what to do).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileMissingError(f"{self.path}: there is no such file; check the path")
        try:
            with self.path.open("rb") as file:
                header = self._read_header(file)
        except OSError as error:
            if isinstance(error, FileReadError):
                raise
            raise FileReadError(f"{self.path}: cannot be read: {error}") from error
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise _refuse(self.path, "__metadata__ is not a map of texts")
        self.metadata: dict[str, str] = metadata
        self._entries = {name: self._entry(name, entry) for name, entry in header.items()}
        spans = sorted((begin, end) for _, _, begin, end in self._entries.values())
        if any(end > begin for (_, end), (begin, _) in itertools.pairwise(spans)):
            raise _refuse(self.path, "tensors overlap")

    def _read_header(self, file: BinaryIO) -> dict[str, Any]:
        size = os.fstat(file.fileno()).st_size
        first = file.read(8)
        if len(first) < 8:
            raise _refuse(self.path, f"it has {size} bytes, less than the length field")
        (length,) = struct.unpack("<Q", first)
        if length > min(_MOST_HEADER, size - 8):
            raise _refuse(self.path, f"the header should have {length} bytes, the file has {size}")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise _refuse(self.path, "the header is not JSON") from error
        if not isinstance(header, dict):
            raise _refuse(self.path, "the header is not a map")
        self._data, self._size = 8 + length, size - 8 - length
        return header

    def _entry(self, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
        try:
            kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise _refuse(self.path, f"tensor {name} lacks dtype, shape or data_offsets") from error
        numbers = (*shape, begin, end)
        if not all(isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in numbers):
            raise _refuse(self.path, f"tensor {name} has a shape or offsets that are no counts")
        if kind not in _BYTES:
            raise FileFormatError(f"{self.path}: tensor {name} is of type {kind}; expected one of {', '.join(_BYTES)}: convert it")
        if end > self._size or end - begin != math.prod(shape) * _BYTES[kind]:
            raise _refuse(self.path, f"tensor {name} {list(shape)} of {kind} claims bytes {begin} to {end} of {self._size}")
        return kind, shape, begin, end

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, (_, shape, _, _) in self._entries.items()}

    def read(self, name: str) -> NDArray[Any]:
        """One tensor; floating ones as float32. Raises FileFormatError for eight-bit floats, which need their scales."""
        kind, shape, begin, end = self._entries[name]
        if kind.startswith("F8"):
            raise FileFormatError(f"{self.path}: tensor {name} is of type {kind}, which cannot be read here; give a 16-bit or 32-bit file")
        with self.path.open("rb") as file:
            file.seek(self._data + begin)
            raw = file.read(end - begin)
        if len(raw) != end - begin:
            raise _refuse(self.path, f"tensor {name} ends early")
        if kind == "BF16":
            return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
        values = np.frombuffer(raw, _DTYPES[kind]).reshape(shape)
        return values.astype(np.float32) if kind.startswith("F") else values.copy()


def write(path: str | Path, tensors: Mapping[str, NDArray[np.float32]], metadata: Mapping[str, str]) -> None:
    """Write float32 tensors: under another name first, synced, renamed. Raises FileWriteError; an older file then stays as it was."""
    path = Path(path)
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    begin = 0
    for name in sorted(tensors):
        size = 4 * tensors[name].size
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [begin, begin + size]}
        begin += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name in sorted(tensors):
                file.write(np.ascontiguousarray(tensors[name], "<f4").tobytes())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise FileWriteError(f"{path}: cannot be written: {error}; check the folder, its rights and the free space") from error
    finally:
        part.unlink(missing_ok=True)
