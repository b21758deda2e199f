"""Which files a data set consists of, down to the byte.

A manifest depends on the files, their names below the root and what they are read as, and on nothing else: not on the
root, the date, the machine or the order in which the file system lists them. Its `total_sha256` is therefore a name for
the data: statistics are cached under it, and checkpoints keep it.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from iseparate.data.open import Dataset
from iseparate.data.track import Track
from iseparate.errors import AudioReadError, OutputError, UsageError
from iseparate.whole_file import write_whole

FORMAT = 1
_CHUNK_BYTES = 1 << 20
_MAX_MANIFEST_BYTES = 1 << 30


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ManifestFile(_Frozen):
    """One file, as one source of one track reads it."""

    source: str
    """A stem, or ``mixture``."""
    path: str
    """Below the root, with slashes."""
    stream: int
    size_bytes: int
    sha256: str


class ManifestTrack(_Frozen):
    """One track: length, rate and files."""

    name: str
    subset: str
    sample_rate_hz: int
    channels: int
    samples: int
    files: tuple[ManifestFile, ...]

    @property
    def title(self) -> str:
        """``subset/name``."""
        return f"{self.subset}/{self.name}" if self.subset else self.name


class DataManifest(_Frozen):
    """All tracks of a data set, or of a subset of it."""

    format: int = FORMAT
    kind: str
    subset: str | None
    stems: tuple[str, ...]
    tracks: tuple[ManifestTrack, ...]
    total_sha256: str
    """Of stems and tracks."""

    def text(self) -> str:
        """JSON, the same for the same data; what is not ASCII is escaped."""
        return json.dumps(self.model_dump(), indent=2) + "\n"

    def write(self, path: Path) -> None:
        """Write the file in one step; OutputError."""
        try:
            write_whole(path, self.text())
        except OSError as error:
            raise OutputError(f"{path} cannot be written ({error.strerror}); choose another place.") from error


def make_manifest(
    dataset: Dataset, *, jobs: int = 1, progress: Callable[[str, float], None] = lambda *_: None
) -> DataManifest:
    """Hash every file of a data set.

    Args:
        dataset: the tracks.
        jobs: how many tracks at a time, each in a thread.
        progress: called from the threads with a track's title and the share of it that was done since last time.

    Raises:
        AudioError: a file cannot be read, or a track's sources do not fit together.
        UsageError: `jobs` is below 1.
    """
    if jobs < 1:
        raise UsageError(f"jobs is 1 or more; got {jobs}")
    stop = threading.Event()
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="manifest")
    try:
        tracks = tuple(pool.map(lambda track: _track(track, dataset.root, stop, progress), dataset.tracks))
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
    tracks = tuple(sorted(tracks, key=lambda track: track.title))
    return DataManifest(
        kind=dataset.kind,
        subset=dataset.subset,
        stems=dataset.stems,
        tracks=tracks,
        total_sha256=_total(dataset.stems, tracks),
    )


def read_manifest(path: Path) -> DataManifest:
    """Read a manifest; UsageError where the file is none, or its total is not that of its tracks."""
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise UsageError(f"{path} is too large for a manifest; name the file that `data manifest` wrote.")
        manifest = DataManifest.model_validate(json.loads(path.read_bytes()))
    except OSError as error:
        raise UsageError(
            f"the manifest {path} cannot be read ({error.strerror}): expected a file that `data manifest` wrote."
        ) from error
    except (ValueError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise UsageError(f"{path} is not a manifest ({reason}): expected what `data manifest` wrote.") from error
    if manifest.format != FORMAT:
        raise UsageError(f"the manifest {path} has the format {manifest.format}: expected {FORMAT}; write it anew.")
    if manifest.total_sha256 != _total(manifest.stems, manifest.tracks):
        raise UsageError(
            f"the manifest {path} was changed by hand: its total is not that of its tracks; write it anew."
        )
    return manifest


def differences(expected: DataManifest, found: DataManifest) -> Iterator[str]:
    """Say in a sentence each what `found` has otherwise than `expected`; nothing where they are the same data."""
    then = {track.title: track for track in expected.tracks}
    now = {track.title: track for track in found.tracks}
    for title in sorted(then.keys() | now.keys()):
        if title not in now:
            yield f"{title} is missing"
        elif title not in then:
            yield f"{title} is not in the manifest"
        else:
            yield from _track_differences(then[title], now[title])


def _track_differences(then: ManifestTrack, now: ManifestTrack) -> Iterator[str]:
    for unit in ("sample_rate_hz", "channels", "samples"):
        if getattr(then, unit) != getattr(now, unit):
            yield f"{then.title}: {unit} was {getattr(then, unit)} and is {getattr(now, unit)}"
    old = {(file.source, file.path, file.stream): file for file in then.files}
    new = {(file.source, file.path, file.stream): file for file in now.files}
    for key in sorted(old.keys() | new.keys()):
        source, path, _ = key
        if key not in new:
            yield f"{then.title}: {path} ({source}) is missing"
        elif key not in old:
            yield f"{then.title}: {path} ({source}) is not in the manifest"
        elif old[key] != new[key]:
            yield f"{then.title}: {path} ({source}) has changed, from {_brief(old[key])} to {_brief(new[key])}"


def _brief(file: ManifestFile) -> str:
    return f"{file.size_bytes} bytes of SHA-256 {file.sha256[:12]}..."


def _track(track: Track, root: Path, stop: threading.Event, progress: Callable[[str, float], None]) -> ManifestTrack:
    shape = track.shape
    base = root if root.is_dir() else root.parent
    paths = {clip.path for clips in track.sources.values() for clip in clips}  # five streams can be one file
    hashes: dict[Path, tuple[int, str]] = {}
    for path in sorted(paths):
        hashes[path] = _hash(path, stop)
        progress(track.title, 1 / len(paths))
    files = [
        ManifestFile(
            source=source,
            path=_text(Path(os.path.relpath(clip.path, base)).as_posix()),
            stream=clip.stream,
            size_bytes=hashes[clip.path][0],
            sha256=hashes[clip.path][1],
        )
        for source, clips in sorted(track.sources.items())
        for clip in clips
    ]
    return ManifestTrack(
        name=_text(track.name),
        subset=track.subset,
        sample_rate_hz=shape.sample_rate,
        channels=shape.channels,
        samples=shape.samples,
        files=tuple(files),
    )


def _text(name: str) -> str:
    """A file's name as text; its bytes need not be any."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _hash(path: Path, stop: threading.Event) -> tuple[int, str]:
    """Size and SHA-256 of a file."""
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("rb") as file:
            while (chunk := file.read(_CHUNK_BYTES)) and not stop.is_set():
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise AudioReadError(f"{path} cannot be read ({error.strerror}); check the disk.") from error
    return size, digest.hexdigest()


def _total(stems: tuple[str, ...], tracks: tuple[ManifestTrack, ...]) -> str:
    content: dict[str, Any] = {"stems": stems, "tracks": [track.model_dump() for track in tracks]}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()
