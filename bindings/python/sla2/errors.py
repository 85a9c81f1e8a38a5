# SPDX-License-Identifier: Apache-2.0
"""One exception per status of the library. Each is an `Error` and, where Python has a word for it, that as well:

>>> try: sla2.Model.load("nowhere")
... except FileNotFoundError as error: print(error)

The text is the library's own: what, where, expected, got and remedy. `status` is the number, `name` the C name.
"""

from __future__ import annotations


class Error(Exception):
    """A call of libsla2 failed."""

    status: int = -900
    name: str = "SLA2_E_INTERNAL"


class ArgumentError(Error, ValueError):
    """A value or combination of values is wrong."""


class StateError(Error, RuntimeError):
    """Right call, wrong moment."""


class VersionError(Error):
    """A struct or file from a newer version."""


class FileMissingError(Error, FileNotFoundError):
    """The file is not there."""


class FileReadError(Error, OSError):
    """The file exists but cannot be read."""


class FileWriteError(Error, OSError):
    """A file cannot be created or written: permission, full disk."""


class FileFormatError(Error, ValueError):
    """A file is not what it claims to be: truncated, corrupt, hostile."""


class OutOfMemoryError(Error, MemoryError):
    """The memory plan does not fit, or an allocation failed."""


class DeviceError(Error, RuntimeError):
    """A device failed."""


class ModelMismatchError(Error, ValueError):
    """A sound file of the wrong kind: other text encoder, other VAE, other sizes."""


class UnsupportedError(Error, NotImplementedError):
    """This build or machine cannot do that."""


class CancelledError(Error):
    """The job was asked to stop."""


class NumericError(Error, ArithmeticError):
    """NaN or infinity where a number must be."""


class InternalError(Error, RuntimeError):
    """A mistake in libsla2; please report it."""


_BY_STATUS: dict[int, type[Error]] = {
    -100: ArgumentError,
    -101: StateError,
    -102: VersionError,
    -200: FileMissingError,
    -201: FileReadError,
    -202: FileWriteError,
    -203: FileFormatError,
    -204: OutOfMemoryError,
    -205: DeviceError,
    -206: ModelMismatchError,
    -300: UnsupportedError,
    -400: CancelledError,
    -500: NumericError,
    -900: InternalError,
}


def from_status(status: int, name: str, text: str) -> Error:
    """The exception of a status. The compiled part calls this."""
    error = _BY_STATUS.get(status, InternalError)(text)
    error.status, error.name = status, name
    return error
