"""Orders for files: what is wanted, what is known of its bytes beforehand, and what has come."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from iseparate.errors import ChecksumError
from iseparate.weights.source import Source

_WHOLE_SHA256_DIGITS = 64


@dataclass(frozen=True)
class Promise:
    """What is known beforehand of a file's bytes."""

    sha256: str | None = None
    """Whole or leading hexadecimal digits."""
    size_bytes: int | None = None

    @property
    def is_complete(self) -> bool:
        """True where no other bytes could keep it."""
        return self.sha256 is not None and len(self.sha256) == _WHOLE_SHA256_DIGITS

    def check(self, path: Path, name: str) -> str:
        """Return the SHA-256 of the file at `path`; ChecksumError, calling it `name`, if it is another."""
        came_bytes = path.stat().st_size
        if self.size_bytes is not None and came_bytes != self.size_bytes:
            raise broken_promise(name, f"{came_bytes:,} bytes came where {self.size_bytes:,} were promised")
        came = sha256_of(path)
        if self.sha256 is not None and not came.startswith(self.sha256):
            raise broken_promise(name, f"their SHA-256 is {came} where {self.sha256} was promised")
        return came


@dataclass(frozen=True)
class Wanted:
    """An order for one file, to be called `name`."""

    name: str
    source: Source
    sha256: str | None = None
    size_bytes: int | None = None
    archive_sha256: str | None = None
    archive_size_bytes: int | None = None

    @property
    def promise(self) -> Promise:
        """What is known of the file itself."""
        return Promise(self.sha256, self.size_bytes)

    @property
    def container_promise(self) -> Promise:
        """What is known of what has to be downloaded for it."""
        return self.promise if self.source.member is None else Promise(self.archive_sha256, self.archive_size_bytes)

    @property
    def is_pinned(self) -> bool:
        """True where the order determines the bytes."""
        return self.promise.is_complete or self.container_promise.is_complete


@dataclass(frozen=True)
class Fetched:
    """A file that has come, verified as far as its order allows."""

    wanted: Wanted
    path: Path
    sha256: str
    size_bytes: int


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def broken_promise(name: str, why: str) -> ChecksumError:
    """Return the error to raise when the file called `name` is not the promised one."""
    return ChecksumError(
        f"{name} is not what its card names: {why}; the bad bytes were not kept, so try again, and distrust "
        "the source if it happens twice."
    )
