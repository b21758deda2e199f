"""Hours of songs on disk: a folder per song, finished or not there at all.

Layout: ``DIR/band.json`` (seed, version, settings, what is known of every song), ``DIR/NOTICE.txt`` (whose sounds
were used), ``DIR/song-00000/`` with one file per stem, ``mixture`` and ``song.json``. Song N depends on the seed and N
alone: more hours add songs, more processes change nothing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait as wait_for_any
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from filelock import FileLock, Timeout

from iseparate.data.synthetic.band import STEMS, check_request, render
from iseparate.data.synthetic.sampled.sources import named, notice
from iseparate.data.synthetic.sounds import SAMPLE_RATE
from iseparate.data.synthetic.version import VERSION
from iseparate.errors import OutputError, UsageError
from iseparate.types import Samples
from iseparate.whole_file import write_whole

BAND_FILE = "band.json"
NOTICE_FILE = "NOTICE.txt"
SONG_FILE = "song.json"
DEFAULT_SONG_SECONDS = 180.0
FORMATS = ("flac", "wav")
MOST_HOURS = 10_000.0
_BYTES_PER_SAMPLE = 3
_PACKED = 0.8  # what FLAC leaves of 24-bit music, at worst

Progress = Callable[[int, int], None]
"""Called with the songs that are finished and those that were asked for."""


@dataclass(frozen=True)
class BandSettings:
    """What decides the samples of a folder's songs."""

    seed: int
    stems: tuple[str, ...] = STEMS
    song_seconds: float = DEFAULT_SONG_SECONDS
    format: str = "flac"
    version: int = VERSION
    sounds: tuple[str, ...] = ()
    """Fingerprints of the sampled sounds that play (`iseparate.data.synthetic.sampled.sources.fingerprints`); empty:
    the band's own only."""
    dry: bool = False
    """Without the desk's effects and codecs."""

    def check(self) -> None:
        """Raise UsageError for settings that cannot be rendered."""
        check_request(self.seed, self.song_seconds, self.stems)
        if self.format not in FORMATS:
            raise UsageError(f"the format is {self.format!r}, expected {' or '.join(FORMATS)}")
        if self.sounds:
            named(self.sounds)

    @property
    def song_bytes(self) -> int:
        """Disk space that a song may need."""
        raw = self.song_seconds * SAMPLE_RATE * 2 * _BYTES_PER_SAMPLE * (len(self.stems) + 1)
        return int(raw * (_PACKED if self.format == "flac" else 1.0)) + 20_000


@dataclass(frozen=True)
class RenderedFolder:
    """What lies in the folder now."""

    root: Path
    songs: int
    fresh: int
    """How many of them this run made."""
    seconds: float


def render_folder(
    root: Path, hours: float, settings: BandSettings, jobs: int = 1, progress: Progress | None = None
) -> RenderedFolder:
    """Render songs until there are at least `hours` of them; those that are finished are left alone.

    Args:
        root: a folder that is empty, or that holds songs of the same settings.
        hours: above 0.
        settings: see `BandSettings`.
        jobs: processes; the samples do not depend on it.
        progress: see `Progress`.

    Raises:
        UsageError: settings, hours or jobs out of range, or a folder that holds something else.
        OutputError: the disk is too small or refuses, or another run is writing there.
    """
    settings.check()
    if not 0.0 < hours <= MOST_HOURS:
        raise UsageError(f"{hours:g} hours were asked for, expected more than 0 and at most {MOST_HOURS:g}")
    if jobs < 1:
        raise UsageError(f"{jobs} jobs were asked for, expected 1 or more")
    total = int(np.ceil(round(hours * 3600.0 / settings.song_seconds, 6)))
    with _refusals(root), _alone(root):
        _claim(root, settings)
        missing = [number for number in range(total) if not _song_folder(root, number).exists()]
        _check_disk(root, len(missing) * settings.song_bytes)
        if progress:
            progress(total - len(missing), total)
        try:
            for done, _ in enumerate(_rendered(root, settings, missing, jobs), start=total - len(missing) + 1):
                if progress:
                    progress(done, total)
        finally:
            _remove_unfinished(root)
            _write_facts(root, settings)
    songs = sum(1 for _ in root.glob("song-*"))
    return RenderedFolder(root, songs, len(missing), songs * settings.song_seconds)


def song_seed(seed: int, number: int) -> int:
    """The seed of a folder's song."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _song_folder(root: Path, number: int) -> Path:
    return root / f"song-{number:05d}"


def _rendered(root: Path, settings: BandSettings, numbers: Sequence[int], jobs: int) -> Iterator[int]:
    if jobs == 1 or len(numbers) < 2:
        for number in numbers:
            yield _render_one(root, settings, number)
        return
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")  # a fork would copy threads that hold locks
    pool = ProcessPoolExecutor(min(jobs, len(numbers)), mp_context=context, initializer=_follow_parent)
    try:
        todo = {pool.submit(_render_one, root, settings, number) for number in numbers}
        while todo:
            done, todo = wait(todo, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
        pool.shutdown()
    except BrokenProcessPool as error:
        raise OutputError(
            "a process that was rendering died, most likely for want of memory; run the same command again with fewer "
            "--jobs, finished songs are kept"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
            child.join()


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end with it however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            wait_for_any([parent.sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def _render_one(root: Path, settings: BandSettings, number: int) -> int:
    sounds = named(settings.sounds) if settings.sounds else ()
    song = render(song_seed(settings.seed, number), settings.song_seconds, settings.stems, sounds, settings.dry)
    final = _song_folder(root, number)
    fresh = root / f".{final.name}.part"
    with _refusals(root):
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        for name, samples in {**song.stems, "mixture": song.mixture}.items():
            _write_sound(fresh / f"{name}.{settings.format}", samples)
        _write_json(fresh / SONG_FILE, {"number": number, **song.facts})
        fresh.rename(final)
    return number


def _write_sound(path: Path, samples: Samples) -> None:
    # whole numbers: libsndfile would scale floats by 2^23 - 1 and leave the grid
    whole = np.rint(samples.T * np.float32(2.0**23)).astype(np.int32) << 8
    try:
        soundfile.write(path, whole, SAMPLE_RATE, subtype="PCM_24")
    except soundfile.LibsndfileError as error:
        raise OutputError(
            f"{path} cannot be written ({error}); free some space and run the same command again"
        ) from error


def _write_json(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, indent=1) + "\n")


def _claim(root: Path, settings: BandSettings) -> None:
    """Make the folder ours, or see that it is."""
    _remove_unfinished(root)
    band = root / BAND_FILE
    ours = json.loads(json.dumps(asdict(settings)))
    if band.exists():
        try:
            there = json.loads(band.read_text(encoding="utf-8"))["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{band} is not what this command writes; choose another folder with -o") from error
        if isinstance(there, dict):
            there = {"sounds": [], "dry": False, **there}  # a folder from before there was a choice
        if there != ours:
            differing = ", ".join(
                f"{name} {there.get(name) if isinstance(there, dict) else None} instead of {value}"
                for name, value in ours.items()
                if not isinstance(there, dict) or there.get(name) != value
            )
            raise UsageError(f"{root} holds songs of another band ({differing}); choose another folder with -o")
        return
    if any(not path.name.startswith(".") for path in root.iterdir()):
        raise UsageError(f"{root} is not empty and holds no {BAND_FILE}; choose an empty folder with -o")
    _write_facts(root, settings)


def _write_facts(root: Path, settings: BandSettings) -> None:
    songs = []
    for path in sorted(root.glob(f"song-*/{SONG_FILE}")):
        try:
            songs.append({"folder": path.parent.name, **json.loads(path.read_text(encoding="utf-8"))})
        except (ValueError, TypeError):
            continue  # someone else's words; the sound is there all the same
    sounds = {json.dumps(sound, sort_keys=True): sound for song in songs for sound in song.get("sounds", [])}
    used = [sounds[key] for key in sorted(sounds)]
    facts = {
        "settings": asdict(settings),
        "sample_rate_hz": SAMPLE_RATE,
        "sounds": used,
        "songs": songs,
    }
    _write_json(root / BAND_FILE, facts)
    (root / NOTICE_FILE).write_text(notice(used), encoding="utf-8")


def _remove_unfinished(root: Path) -> None:
    for path in root.glob(".song-*.part"):
        shutil.rmtree(path, ignore_errors=True)


def _check_disk(root: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(root).free
    if needed_bytes > free:
        raise OutputError(
            f"the disk of {root} has {free / 1e9:.1f} GB free and the songs may need {needed_bytes / 1e9:.1f} GB; ask "
            "for fewer hours, or choose another disk with -o"
        )


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OutputError(f"another run is writing to {root}; wait for it, or choose another folder with -o") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _refusals(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{error.filename or root} cannot be written ({error.strerror or error}); choose another folder with -o, "
            "finished songs are kept"
        ) from error
