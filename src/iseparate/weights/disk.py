"""Disks that refuse, said in a sentence."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from iseparate.errors import OutputError

_REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.EIO}
_REFUSALS |= {errno.ENAMETOOLONG, errno.ELOOP}


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing under `place` into OutputError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(place) from error
        # A missing file is a fault of ours, unless it is the place itself that cannot be made.
        if error.errno not in _REFUSALS and not (error.errno == errno.ENOENT and not place.exists()):
            raise
        reason = error.strerror or str(error)
        raise OutputError(
            f"{error.filename or place} cannot be written ({reason}): expected a place for weights that is "
            "yours; mend it, or set ISEPARATE_CACHE to another directory."
        ) from error


def disk_full(place: Path, need: str = "") -> OutputError:
    """Return the error to raise when the disk of `place` is full; `need` is a clause on what it lacks."""
    return OutputError(
        f"The disk of {place} is full: {need}free some space, or set ISEPARATE_CACHE to a directory on "
        "another disk, and run the same command again."
    )
