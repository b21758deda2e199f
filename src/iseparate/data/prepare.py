"""Decode and resample a data set once, into the files that training reads (`iseparate.data.shards`).

A song appears under its name when it is whole and on the disk, and its record after it; so a run that is killed at
any moment is gone on with by the next one, which makes again only what is missing or was made from other files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from iseparate.audio.resample import resample_blocks, resampled_length
from iseparate.data.alone import LOCK_FILE, alone
from iseparate.data.open import Dataset
from iseparate.data.shards import DTYPES, FORMAT, INDEX_NAME, SONGS_NAME, Index, SampleFormat, Song
from iseparate.data.track import MIXTURE, Track
from iseparate.errors import AudioError, OutputError, TruncatedAudioError, UsageError
from iseparate.types import Samples
from iseparate.whole_file import write_whole

_BLOCK_SAMPLES = 1 << 16
_INT16_STEP = 2.0**-15
_MARGIN_BYTES = 64 << 20
"""Left free on the disk: records, the index, and the system's own needs."""

Progress = Callable[[int, int], None]
"""Called with bytes written and bytes in all, from any thread."""


@dataclass(frozen=True)
class Prepared:
    """What became of a data set."""

    folder: Path
    songs: int
    """In the result."""
    made: int
    """Made by this run; the others were there already."""
    failed: dict[str, str]
    """Songs that cannot be used: title to sentence."""
    size_bytes: int


@dataclass(frozen=True)
class _Job:
    """One song to be made."""

    number: int
    track: Track
    sample_rate: int
    sample_format: SampleFormat
    made_from: str

    @property
    def samples(self) -> int:
        return resampled_length(self.track.samples, self.track.sample_rate, self.sample_rate)

    @property
    def size_bytes(self) -> int:
        """What it takes at most: the mixture may turn out to be the sum of the stems."""
        planes = len(self.track.sources) * self.track.channels
        return planes * self.samples * DTYPES[self.sample_format].itemsize


def needed_bytes(data: Dataset, sample_rate: int, sample_format: SampleFormat = "int16") -> int:
    """What the prepared songs take on the disk, at most; unreadable songs count nothing."""
    total = 0
    for number, track in enumerate(data.tracks):
        with suppress(AudioError):
            total += _Job(number, track, sample_rate, sample_format, "").size_bytes
    return total


def prepare(
    data: Dataset,
    folder: Path,
    *,
    sample_rate: int = 44_100,
    sample_format: SampleFormat = "int16",
    jobs: int = 1,
    progress: Progress | None = None,
) -> Prepared:
    """Write a data set into a folder, to be opened as ``prepared:FOLDER``.

    int16 holds 16-bit songs exactly; a song louder than full scale (decoded AAC can be) is stored at a lower level
    and read at its own. float32 holds everything exactly in twice the space.

    Args:
        data: what to prepare.
        folder: new, empty, or with an earlier run's work, which is gone on with.
        sample_rate: of the result, in Hz.
        sample_format: int16 or float32.
        jobs: songs at work at the same time.
        progress: see there.

    Raises:
        UsageError: arguments that cannot be used; a folder with something else in it.
        OutputError: the disk has too little room (before anything is written), or refuses; a folder in use.
        AudioError: no song at all can be used. Single ones are named in the result.
    """
    if not 1_000 <= sample_rate <= 384_000:
        raise UsageError(f"a sample rate of {sample_rate} Hz was asked for: expected 1000 to 384000")
    if sample_format not in DTYPES:
        raise UsageError(f"the sample format {sample_format!r} was asked for: expected int16 or float32")
    if jobs < 1:
        raise UsageError(f"{jobs} jobs were asked for: expected 1 or more")
    with _disk_errors(folder):
        _refuse_strange(folder)
        with alone(folder):
            return _prepare(data, folder, sample_rate, sample_format, jobs, progress)


def _prepare(
    data: Dataset, folder: Path, rate: int, sample_format: SampleFormat, jobs: int, progress: Progress | None
) -> Prepared:
    songs = folder / SONGS_NAME
    songs.mkdir(exist_ok=True)
    for left in songs.glob("*.part"):
        left.unlink()
    done: dict[int, Song] = {}
    failed: dict[str, str] = {}
    to_do: list[_Job] = []
    for number, track in enumerate(data.tracks):
        job = _Job(number, track, rate, sample_format, _made_from(track, data.root, rate, sample_format))
        try:
            kept = _kept(songs, job)
            if kept is None:
                _ = job.size_bytes  # opens the files
                to_do.append(job)
            else:
                done[number] = kept
        except AudioError as error:
            failed[track.title] = str(error)
    if to_do:
        stale = [path for job in to_do if (path := songs / _file_name(job.number)).is_file()]
        _check_room(folder, to_do, sum(path.stat().st_size for path in stale))
        (folder / INDEX_NAME).unlink(missing_ok=True)  # what it says is about to change
        for path in stale:
            path.unlink()
        made = _make(songs, to_do, jobs, progress, failed)
    else:
        made = {}
    done |= made
    if not done:
        raise AudioError(f"no song of {data.spec} can be used, the first one since: {next(iter(failed.values()))}")
    index = Index(
        source=data.spec,
        sample_rate=rate,
        sample_format=sample_format,
        songs=tuple(done[number] for number in sorted(done)),
    )
    write_whole(folder / INDEX_NAME, index.model_dump_json(indent=1))
    _remove_strangers(songs, index)
    size = sum(song.bytes_of(sample_format) for song in index.songs)
    return Prepared(folder, len(done), len(made), failed, size)


def _make(
    songs: Path, to_do: Sequence[_Job], jobs: int, progress: Progress | None, failed: dict[str, str]
) -> dict[int, Song]:
    """Make songs, `jobs` at a time; the first refusal of the disk, or an interrupt, stops them all."""
    stop = threading.Event()
    total, written, lock = sum(job.size_bytes for job in to_do), 0, threading.Lock()

    def wrote(count: int) -> None:
        nonlocal written
        if stop.is_set():
            raise _StoppedError
        with lock:
            written += count
            if progress is not None:
                progress(min(written, total), total)

    made: dict[int, Song] = {}
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(_make_song, songs, job, wrote): job for job in to_do}
        try:
            for future in as_completed(futures):
                job = futures[future]
                try:
                    made[job.number] = future.result()
                except AudioError as error:
                    failed[job.track.title] = str(error)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return made


class _StoppedError(Exception):
    """Another song's thread met the end of the run."""


def _make_song(songs: Path, job: _Job, wrote: Callable[[int], None]) -> Song:
    path = songs / _file_name(job.number)
    part = path.with_suffix(".part")
    try:
        step = 1.0 if job.sample_format == "float32" else _INT16_STEP
        peak, has_mixture = _write_song(part, job, step, wrote)
        if job.sample_format == "int16" and peak > 1.0:
            step = peak / 32_767
            _, has_mixture = _write_song(part, job, step, lambda _: None)
        sources = [*job.track.stems, *([MIXTURE] if has_mixture else [])]
        song = Song(
            file=path.name,
            name=job.track.name,
            subset=job.track.subset,
            is_song=job.track.is_song,
            sources=tuple(sources),
            channels=job.track.channels,
            samples=job.samples,
            step=step,
            made_from=job.made_from,
        )
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink()
    write_whole(path.with_suffix(".json"), song.model_dump_json(indent=1))
    return song


def _write_song(part: Path, job: _Job, step: float, wrote: Callable[[int], None]) -> tuple[float, bool]:
    """Write all sources of a song; say its greatest sample, and whether the mixture is more than the stems' sum."""
    track, dtype = job.track, DTYPES[job.sample_format]
    sources = [*track.stems, *([MIXTURE] if MIXTURE in track.sources else [])]
    # As far as rounding to 16 bits of every source, or float32 arithmetic, can take them apart.
    tolerance = (len(sources) + 1) / 2 * _INT16_STEP if job.sample_format == "int16" else 1e-6
    peak = apart = 0.0
    at = 0
    with part.open("wb") as file:
        for blocks in zip(*(_resampled(track, source, job.sample_rate) for source in sources), strict=True):
            sound = np.stack(blocks)[:, :, : job.samples - at]
            if not np.isfinite(sound.sum(dtype=np.float64)):
                raise TruncatedAudioError(f"{track.title} holds samples that are not numbers; export it again.")
            peak = max(peak, float(sound.max()), -float(sound.min()))
            if sources[-1] == MIXTURE:
                apart = max(apart, float(np.abs(sound[-1] - sound[:-1].sum(0)).max()))
            stored = np.clip(np.rint(sound / step), -32_768, 32_767) if dtype.kind == "i" else sound
            planes = stored.astype(dtype).reshape(-1, sound.shape[2])
            for number, plane in enumerate(planes):
                file.seek((number * job.samples + at) * dtype.itemsize)
                file.write(plane.tobytes())
            at += sound.shape[2]
            wrote(planes.nbytes)
        if at != job.samples:
            raise TruncatedAudioError(
                f"{track.title} gave {at} of {job.samples} samples; `iseparate data check` says what is wrong with it."
            )
        has_mixture = sources[-1] == MIXTURE and (apart > tolerance or len(sources) == 1)
        kept = len(sources) - (sources[-1] == MIXTURE and not has_mixture)
        file.truncate(kept * track.channels * job.samples * dtype.itemsize)
        file.flush()
        os.fsync(file.fileno())
    return peak, has_mixture


def _resampled(track: Track, source: str, sample_rate: int) -> Iterator[Samples]:
    return resample_blocks(track.blocks(source, _BLOCK_SAMPLES), track.sample_rate, sample_rate, track.channels)


def _kept(songs: Path, job: _Job) -> Song | None:
    """The record of an earlier run, if its song is whole and would be made the same way again."""
    path = songs / _file_name(job.number)
    try:
        song = Song.model_validate_json(path.with_suffix(".json").read_bytes())
        whole = path.stat().st_size == song.bytes_of(job.sample_format)
    except (OSError, ValidationError):
        return None
    return song if whole and song.file == path.name and song.made_from == job.made_from else None


def _made_from(track: Track, root: Path, sample_rate: int, sample_format: SampleFormat) -> str:
    """A hash of what decides about a song: its files (by name, size and time of change) and what was asked."""
    files = []
    for source, clips in track.sources.items():
        for clip in clips:
            name = str(clip.path.relative_to(root) if clip.path.is_relative_to(root) else clip.path)
            with suppress(OSError):
                status = clip.path.stat()
                files.append([source, name, clip.stream, status.st_size, status.st_mtime_ns])
    asked = [FORMAT, track.name, track.subset, track.is_song, sample_rate, sample_format, files]
    return hashlib.sha256(json.dumps(asked).encode(errors="surrogatepass")).hexdigest()


def _file_name(number: int) -> str:
    return f"{number:06}.pcm"


def _check_room(folder: Path, to_do: Sequence[_Job], replaced_bytes: int) -> None:
    need = sum(job.size_bytes for job in to_do) + _MARGIN_BYTES
    free = shutil.disk_usage(folder).free + replaced_bytes
    if need > free:
        raise OutputError(
            f"the prepared songs take {need / 1e9:.2f} GB and the disk of {folder} has {free / 1e9:.2f} GB free; free "
            "some space, choose another disk with -o, or prepare one --subset"
        )


def _remove_strangers(songs: Path, index: Index) -> None:
    """Remove songs of an earlier run that the data set has no more."""
    known = {song.file.removesuffix(".pcm") for song in index.songs}
    for path in songs.iterdir():
        if path.suffix in (".pcm", ".json") and path.stem.isdigit() and path.stem not in known:
            path.unlink()


def _refuse_strange(folder: Path) -> None:
    """UsageError where the folder holds something else."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file: expected a folder for the prepared songs; choose another with -o")
    ours = {INDEX_NAME, SONGS_NAME, f".{INDEX_NAME}.part", LOCK_FILE}
    strange = sorted(path.name for path in folder.iterdir() if path.name not in ours)
    if strange:
        raise UsageError(f"{folder} holds something else ({strange[0][:60]}): choose an empty or new folder with -o")


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turn the disk's refusals into OutputError."""
    try:
        yield
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT):
            raise OutputError(
                f"the disk of {folder} is full: free some space and run the same command again, which goes on where "
                "this run stopped"
            ) from error
        raise OutputError(
            f"{error.filename or folder} cannot be written ({error.strerror}); choose another place with -o"
        ) from error
