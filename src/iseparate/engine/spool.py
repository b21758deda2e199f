"""Numbers that wait on disk because they are too many for memory: raw float32 in files without a name.

They lie in the system's temporary folder, which the variable TMPDIR names. A file without a name is gone when it is
closed, and when the process ends in whatever way.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from iseparate.errors import OutputError

Array = NDArray[np.float32]
VALUE_BYTES = 4


class Spool:
    """A file of float32 numbers, made when the first ones are written.

    Raises:
        OutputError: from `write` and `read`, where the folder cannot be written or is full.
    """

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self.size = 0
        """Numbers up to the last one written."""

    def write(self, at: int, values: Array) -> None:
        """Put `values`, of any shape, from the `at`-th number on."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="iseparate-")  # noqa: SIM115 - closed by `close`
            self._file.seek(at * VALUE_BYTES)
            self._file.write(np.ascontiguousarray(values, np.float32).data)
        except OSError as error:
            raise _output_error(error) from error
        self.size = max(self.size, at + values.size)

    def read(self, at: int, count: int) -> Array:
        """The `count` numbers from the `at`-th on; all of them have been written."""
        values = np.empty(count, np.float32)
        if count:
            assert self._file is not None
            try:
                self._file.seek(at * VALUE_BYTES)  # writes what is still buffered
                got = self._file.readinto(values.data.cast("B"))  # type: ignore[attr-defined]
            except OSError as error:
                raise _output_error(error) from error
            assert got == values.nbytes
        return values

    def close(self) -> None:
        """Remove the file; what is still in it is lost."""
        if self._file is not None:
            with suppress(OSError):  # a full disk refuses what is buffered once more
                self._file.close()
        self._file, self.size = None, 0


class SpooledFifo:
    """As `Fifo`, of blocks ``[C, n]``, on disk."""

    def __init__(self) -> None:
        self._spool = Spool()
        self.size = 0
        self.total = 0
        self.channels = 0

    def push(self, block: Array) -> None:
        self.channels = block.shape[0]
        self._spool.write(self.total * self.channels, block.T)
        self.size += block.shape[1]
        self.total += block.shape[1]

    def pop(self, samples: int) -> Array:
        """The oldest `samples`; silence where there are not as many."""
        there = min(samples, self.size)
        start = self.total - self.size
        values = self._spool.read(start * self.channels, there * self.channels)
        self.size -= there
        block = values.reshape(there, self.channels).T
        return np.pad(block, [(0, 0), (0, samples - there)]) if samples > there else np.ascontiguousarray(block)

    def close(self) -> None:
        """Remove the file."""
        self._spool.close()


def folder() -> str:
    """Where spools lie; OutputError where there is no such place."""
    try:
        return tempfile.gettempdir()
    except OSError as error:
        raise OutputError(f"there is no folder for temporary files ({error}); set TMPDIR to one") from error


def require_space(needed_bytes: int) -> None:
    """OutputError where the folder has less free space than that."""
    try:
        free_bytes = shutil.disk_usage(folder()).free
    except OSError as error:
        raise _output_error(error) from error
    if free_bytes < needed_bytes:
        raise OutputError(
            f"the first pass over the song needs about {megabytes(needed_bytes)} in the temporary folder {folder()}, "
            f"which has {megabytes(free_bytes)} free; free some space, or set TMPDIR to a folder that has more"
        )


def megabytes(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def _output_error(error: OSError) -> OutputError:
    return OutputError(
        f"the first pass cannot keep its spectra in the temporary folder ({error.strerror or error}): expected a "
        "writable place with enough free space; set TMPDIR to another, or free some"
    )
