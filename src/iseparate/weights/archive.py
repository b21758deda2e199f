"""Files taken out of archives that nobody vouches for."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from iseparate.errors import DownloadError
from iseparate.weights.order import Wanted
from iseparate.weights.source import leads_out

LARGEST_INFLATION = 20
"""An archive that inflates by more than this (plus 64 MiB) is no archive of weights, but a bomb."""

_CHUNK_BYTES = 2**18


def take_out(archive: Path, orders: Sequence[Wanted], destination: Path) -> None:
    """Write the members asked for, and only those, under the names asked for.

    All of `orders` are for members of this one .zip, .tar or .tar.gz. Raises DownloadError where it is broken, lacks
    one, or has anything about it that no archive of weights needs: paths that lead out of it, links, bombs.
    """
    if not orders:
        return
    what = orders[0].source.container.rpartition("/")[2]
    room_bytes = archive.stat().st_size * LARGEST_INFLATION + 64 * 2**20
    try:
        if zipfile.is_zipfile(archive):
            _take_out_of_zip(archive, orders, destination, room_bytes)
        else:
            _take_out_of_tar(archive, orders, destination, room_bytes)
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        gzip.BadGzipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
    ) as error:
        raise DownloadError(
            f"{what} is not a whole .zip, .tar or .tar.gz archive ({error}); the source named is not what it should be."
        ) from error


def _take_out_of_zip(archive: Path, orders: Sequence[Wanted], destination: Path, room_bytes: int) -> None:
    with zipfile.ZipFile(archive) as opened:
        members: dict[str, zipfile.ZipInfo] = {}
        for member in opened.infolist():
            name = _checked_name(member.filename, archive_name=orders[0].source.container)
            if name in members:
                raise _hostile(orders[0].source.container, f"holds {name!r} twice")
            members[name] = member
        for order in orders:
            info = members.get(_normal(order))
            if info is None or info.is_dir():
                raise _absent(order)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG) or info.flag_bits & 1:
                raise _hostile(order.source.container, f"holds {info.filename!r} as a link or encrypted")
            if info.file_size > room_bytes:
                raise _bomb(order)
            with opened.open(info) as stream:
                room_bytes -= _write_member(stream, destination / order.name, order, room_bytes)


def _take_out_of_tar(archive: Path, orders: Sequence[Wanted], destination: Path, room_bytes: int) -> None:
    pending = {_normal(order): order for order in orders}
    seen: set[str] = set()
    with archive.open("rb") as raw:
        is_gzip = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        inflated: io.BufferedIOBase = gzip.GzipFile(fileobj=raw) if is_gzip else raw
        bounded = _Bounded(inflated, room_bytes, orders[0])
        # As a stream and to its end, so that the archive's own checksum is seen and nothing is read twice.
        with tarfile.open(fileobj=bounded, mode="r|") as opened:
            for member in opened:
                name = _checked_name(member.name, archive_name=orders[0].source.container)
                order = pending.get(name)
                if order is None:
                    continue
                if name in seen:
                    raise _hostile(order.source.container, f"holds {name!r} twice")
                seen.add(name)
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):  # sparse files are none either
                    raise _hostile(order.source.container, f"holds {name!r} as a link or special file")
                stream = opened.extractfile(member)
                assert stream is not None
                _write_member(stream, destination / order.name, order, room_bytes)
        while bounded.read(_CHUNK_BYTES):
            pass
    for name, order in pending.items():
        if name not in seen:
            raise _absent(order)


class _Bounded(io.BufferedIOBase):
    """A stream that ends in an error where an archive inflates too far: headers count as well as files."""

    def __init__(self, stream: io.BufferedIOBase, room_bytes: int, order: Wanted):
        super().__init__()
        self._stream = stream
        self._room_bytes = room_bytes
        self._order = order

    def read(self, size: int | None = -1, /) -> bytes:
        block = self._stream.read(-1 if size is None else size)
        self._room_bytes -= len(block)
        if self._room_bytes < 0:
            raise _bomb(self._order)
        return block


def _write_member(stream: IO[bytes], path: Path, order: Wanted, room_bytes: int) -> int:
    room_bytes = min(room_bytes, order.size_bytes or room_bytes)
    written_bytes = 0
    with path.open("wb") as file:
        while block := stream.read(_CHUNK_BYTES):
            written_bytes += len(block)
            if written_bytes > room_bytes:
                raise _bomb(order)
            file.write(block)
    return written_bytes


def _checked_name(name: str, archive_name: str) -> str:
    """Return a member's name as we look it up; one that would leave the archive spoils the whole of it."""
    if leads_out(name):
        raise _hostile(archive_name, f"holds {name[:80]!r}, a path that leads out of it")
    return PurePosixPath(name).as_posix()


def _normal(order: Wanted) -> str:
    return PurePosixPath(order.source.member or "").as_posix()


def _hostile(container: str, why: str) -> DownloadError:
    return DownloadError(f"The archive {container} {why}; it is not to be trusted, and nothing of it was kept.")


def _absent(order: Wanted) -> DownloadError:
    return DownloadError(f"{order.source.container} holds no file {order.source.member!r}; mend the card's source.")


def _bomb(order: Wanted) -> DownloadError:
    return _hostile(order.source.container, "inflates to far more than weights ever do")
