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
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait as wait_for_any
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from iseparate.data.alone import alone
from iseparate.data.rendering import Progress
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
    songs = [_song_folder(root, number) for number in range(total)]
    if _is_finished(root, settings, songs):  # nothing is written: others may be reading, or the disk be theirs
        if progress:
            progress(total, total)
        return _rendered_folder(root, settings, fresh=0)
    with _refusals(root), alone(root):
        _claim(root, settings)
        _remove_unfinished(root)
        missing = [number for number, song in enumerate(songs) if not song.exists()]
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
    return _rendered_folder(root, settings, len(missing))


def song_seed(seed: int, number: int) -> int:
    """The seed of a folder's song."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _rendered_folder(root: Path, settings: BandSettings, fresh: int) -> RenderedFolder:
    songs = sum(1 for _ in root.glob("song-*"))
    return RenderedFolder(root, songs, fresh, songs * settings.song_seconds)


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


def _is_finished(root: Path, settings: BandSettings, songs: Sequence[Path]) -> bool:
    """Whether all the songs are there, and all that is known of them."""
    band = root / BAND_FILE
    if not band.is_file():
        return False
    there, known = _read_band(band)
    return there == _as_read(settings) and known >= {song.name for song in songs} and all(map(Path.exists, songs))


def _read_band(band: Path) -> tuple[dict[str, Any], set[str]]:
    """With which settings a folder's songs were rendered, and of which songs it tells; UsageError."""
    try:
        facts = json.loads(band.read_text(encoding="utf-8"))
        there = {"sounds": [], "dry": False, **facts["settings"]}  # a folder from before there was a choice lacks them
        return there, {str(song["folder"]) for song in facts.get("songs", [])}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{band} is not what this command writes; choose another folder with -o") from error


def _as_read(settings: BandSettings) -> dict[str, Any]:
    """Settings as a file gives them back."""
    return dict(json.loads(json.dumps(asdict(settings))))


def _claim(root: Path, settings: BandSettings) -> None:
    """Make the folder ours, or see that it is."""
    band = root / BAND_FILE
    ours = _as_read(settings)
    if band.exists():
        there, _ = _read_band(band)
        if there != ours:
            differing = ", ".join(
                f"{name} {there.get(name)} instead of {value}"
                for name, value in ours.items()
                if there.get(name) != value
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
            songs.append({**json.loads(path.read_text(encoding="utf-8")), "folder": path.parent.name})
        except (ValueError, TypeError, RecursionError):
            continue  # someone else's words; the sound is there all the same
    sounds = {json.dumps(sound, sort_keys=True): sound for song in songs for sound in _credits(song.get("sounds"))}
    used = [sounds[key] for key in sorted(sounds)]
    facts = {
        "settings": asdict(settings),
        "sample_rate_hz": SAMPLE_RATE,
        "sounds": used,
        "songs": songs,
    }
    _write_json(root / BAND_FILE, facts)
    write_whole(root / NOTICE_FILE, notice(used))


def _credits(sounds: Any) -> list[dict[str, str]]:
    """Those that are a source's `credit_line`."""
    if not isinstance(sounds, list):
        return []
    return [
        sound
        for sound in sounds
        if isinstance(sound, dict) and all(isinstance(sound.get(key), str) for key in ("name", "licence", "credit"))
    ]


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
def _refusals(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{error.filename or root} cannot be written ({error.strerror or error}); choose another folder with -o, "
            "finished songs are kept"
        ) from error
