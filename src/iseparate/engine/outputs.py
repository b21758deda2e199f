"""Stems on their way to disk: all of a song's files appear together, whole, or not at all."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, Self, get_args

import numpy as np
from filelock import FileLock, Timeout

from iseparate.audio.decode import AudioInfo
from iseparate.audio.encode import BIT_DEPTHS, Encoder, StoragePlan, check_format
from iseparate.engine.manifest import Manifest, StoredStem, file_sha256
from iseparate.errors import OutputError, UsageError
from iseparate.types import Samples

Clip = Literal["rescale", "clamp", "none"]
SPOOL_BYTES = 4
_BLOCK_SAMPLES = 1 << 16
_MARGIN_BYTES = 8 << 20
_BEING_MADE_SECONDS = 600  # between the making of a hidden folder and its lock; far more than it takes


@dataclass(frozen=True)
class Storage:
    """How stems are stored."""

    format: str = "wav"
    bit_depth: str | None = None
    """None: the song's own, as near as the format has it."""
    bitrate_kbps: int | None = None
    codec: str | None = None
    clip: Clip = "rescale"
    """What happens to a stem beyond full scale: all stems of the song are turned down alike, or it is clamped, or it
    is left alone (which a whole-number format cannot, so there it is clamped too)."""

    def plan(self, info: AudioInfo) -> StoragePlan:
        """Check against a song, before any work; UsageError where it cannot be."""
        return check_format(
            self.format,
            info.sample_rate,
            info.channels,
            self.bit_depth or self._depth_of(info),
            layout=info.layout,
            codec=self.codec,
            bitrate_kbps=self.bitrate_kbps,
        )

    def spools(self, plan: StoragePlan) -> bool:
        """True where samples wait as float32 until the last one has come, since all share a gain not known before."""
        return self.clip == "rescale" and plan.bit_depth != "32f"

    def check(self) -> None:
        """UsageError where no song at all could be stored so."""
        check_format(self.format, 44_100, 2, self.bit_depth, codec=self.codec, bitrate_kbps=self.bitrate_kbps)
        if self.clip not in get_args(Clip):
            raise UsageError(f"clip is one of {', '.join(get_args(Clip))}; got {self.clip!r}")

    def _depth_of(self, info: AudioInfo) -> str | None:
        choices = BIT_DEPTHS.get(self.format, ()) if self.format != "m4a" or self.codec == "alac" else ()  # type: ignore[call-overload]
        bits = info.bit_depth or 16
        wanted = "32f" if info.is_float or bits > 24 else "24" if bits > 16 else "16"
        if not choices:
            return None
        return wanted if wanted in choices else str(choices[-1])


class StemFiles:
    """Writes the stems of one song.

    Everything is made in a hidden folder beside the final place and renamed, file by file, when all of it is there
    (should a rename fail midway, the manifest's hashes tell which files are new). Leaving the context without
    `commit` removes every trace; what a killed process left behind is removed by the next.

    Args:
        paths: final path of each stem.
        folder: where the hidden folder is made: the manifest's, on the same file system as the stems.
        info: of the song; its rate, channels, tags and cover are kept.
        storage: how to store.
        gain: factor for all stems, from an earlier run; None: one, or what `storage.clip` makes of the peaks.
        expected_samples: for the check of free space; None: not known.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        folder: Path,
        info: AudioInfo,
        storage: Storage,
        gain: float | None = None,
        expected_samples: int | None = None,
    ):
        self._paths = dict(paths)
        self._folder = folder
        self._info = info
        self._storage = storage
        self._plan = storage.plan(info)
        self._gain = gain
        # What is not known until the last sample has come is kept as float32 until then.
        self._spooled = gain is None and storage.spools(self._plan)
        self._expected_samples = expected_samples
        self._spools: dict[str, BinaryIO] = {}
        self._encoders: dict[str, Encoder] = {}
        self._levels = {name: _Level() for name in paths}
        self._made: list[Path] = []
        self._clamped = dict.fromkeys(paths, 0)
        self.notes: list[str] = []

    @property
    def gain(self) -> float:
        """The factor on all stems; final after `finish`."""
        return 1.0 if self._gain is None else self._gain

    def __enter__(self) -> Self:
        try:
            for path in [self._folder, *(path.parent for path in self._paths.values())]:
                self._make_folder(path)
            self._check_places()
            _remove_stale(self._folder)
            self._check_space()
            self._partial = _partial_folder(self._folder)
            self._lock = FileLock(self._partial / "lock")
            self._lock.acquire()
            for name in self._paths:
                if self._spooled:
                    self._spools[name] = (self._partial / f"{len(self._spools)}.spool").open("wb")
                else:
                    self._encoders[name] = self._encoder(name)
        except OSError as error:
            self._clean()
            raise _output_error(error, self._folder) from error
        except BaseException:
            self._clean()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean()

    def write(self, stems: Mapping[str, Samples]) -> None:
        """Append the same stretch ``[C, n]`` of every stem."""
        for name in self._paths:
            samples = stems[name]
            if self._storage.clip == "clamp":
                self._clamped[name] += int(np.count_nonzero(np.abs(samples) > 1))
                samples = np.clip(samples, -1, 1)
            self._levels[name].add(samples)
            if self._spooled:
                try:
                    self._spools[name].write(np.ascontiguousarray(samples.T, np.float32).data)
                except OSError as error:
                    raise _output_error(error, self._folder) from error
            else:
                self._encode(name, samples)

    def finish(self) -> dict[str, StoredStem]:
        """Close every file, still under its hidden name."""
        peak = max(level.peak for level in self._levels.values())
        if self._gain is None and self._storage.clip == "rescale" and self._spooled and peak > 1:
            self._gain = 1 / peak
        if self._spooled:
            for name in self._paths:
                self._unspool(name)
        stored = {}
        for name, path in self._paths.items():
            encoder = self._encoders[name]
            encoder.close()
            self.notes += [note for note in encoder.notes if note not in self.notes]
            self._clamped[name] += encoder.clipped_samples
            if self._clamped[name]:
                self.notes.append(f"{self._clamped[name]} samples of {name} were clamped at full scale.")
            level = self._levels[name].scaled(self.gain)
            if self._clamped[name]:
                level.peak = 1.0
            stored[name] = StoredStem(
                file=Path(os.path.relpath(path, self._folder)).as_posix(),
                sha256=file_sha256(encoder.path),
                size_bytes=encoder.path.stat().st_size,
                peak_dbfs=_decibels(level.peak),
                rms_dbfs=_decibels(level.rms),
            )
        return stored

    @property
    def is_clamped(self) -> bool:
        """True where samples were cut off, so that the files cannot sum to the song; final after `finish`."""
        return any(self._clamped.values())

    def commit(self, manifest: Manifest, manifest_path: Path) -> None:
        """Give every file its final name, the manifest last."""
        try:
            fresh = self._partial / "manifest"
            manifest.write(fresh)
            for name, path in self._paths.items():
                self._encoders[name].path.replace(path)
            fresh.replace(manifest_path)
        except OSError as error:
            raise _output_error(error, self._folder) from error
        self._made.clear()

    def _encoder(self, name: str) -> Encoder:
        info, plan = self._info, self._plan
        return Encoder(
            self._partial / f"{list(self._paths).index(name)}.stem",
            format=plan.format,
            sample_rate=info.sample_rate,
            channels=info.channels,
            bit_depth=plan.bit_depth,
            layout=info.layout,
            codec=self._storage.codec,
            bitrate_kbps=self._storage.bitrate_kbps,
            tags=info.tags,
            cover=info.cover,
        )

    def _encode(self, name: str, samples: Samples) -> None:
        if self.gain != 1:
            samples = samples * np.float32(self.gain)
        self._encoders[name].write(samples)

    def _unspool(self, name: str) -> None:
        spool = self._spools.pop(name)
        channels = self._info.channels
        try:
            spool.close()
            self._encoders[name] = self._encoder(name)
            with Path(spool.name).open("rb") as file:
                while data := file.read(_BLOCK_SAMPLES * channels * SPOOL_BYTES):
                    self._encode(name, np.frombuffer(data, np.float32).reshape(-1, channels).T)
            Path(spool.name).unlink()
        except OSError as error:
            raise _output_error(error, self._folder) from error

    def _check_places(self) -> None:
        """Whatever can be foreseen to keep a file from its final name."""
        for path in self._paths.values():
            if path.is_dir():
                raise OutputError(f"{path} is a folder, and a stem should go there; move it, or choose another -o")

    def _check_space(self) -> None:
        if self._expected_samples is None:
            return
        needed = needed_bytes(self._plan, self._info, self._expected_samples, len(self._paths), self._spooled)
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise OutputError(
                f"{self._folder} has {free / 1e6:.0f} MB free and the stems need about {needed / 1e6:.0f} MB; "
                "free some space, choose another place with -o, or a smaller format such as flac"
            )

    def _make_folder(self, folder: Path) -> None:
        missing = [p for p in (folder, *folder.parents) if not p.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        self._made += [p for p in missing if p not in self._made]

    def _clean(self) -> None:
        for spool in self._spools.values():
            with suppress(OSError):
                spool.close()
        for encoder in self._encoders.values():
            encoder.abort()
        if hasattr(self, "_lock"):
            self._lock.release()
        if hasattr(self, "_partial"):
            shutil.rmtree(self._partial, ignore_errors=True)
        for folder in sorted(self._made, key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):  # not empty: somebody else's by now
                folder.rmdir()


def needed_bytes(plan: StoragePlan, info: AudioInfo, samples: int, stems: int, spooled: bool) -> int:
    """Space that a song's stems take while they are made, at most."""
    stored_samples = samples * plan.sample_rate / info.sample_rate
    if plan.bitrate_kbps is not None:
        per_stem = samples / info.sample_rate * plan.bitrate_kbps * 125
    else:
        sample_bytes = {"16": 2, "24": 3, "32f": 4}.get(plan.bit_depth or "", 1)
        per_stem = stored_samples * info.channels * sample_bytes
    spool = samples * info.channels * SPOOL_BYTES if spooled else 0
    # Each spool goes as soon as its file is written, so no more than one of both is there at a time.
    peak = max(stems * spool + per_stem, stems * per_stem)
    return int(peak * 1.02) + _MARGIN_BYTES


class _Level:
    """Peak and mean square of what has passed."""

    def __init__(self, peak: float = 0.0, squares: float = 0.0, count: int = 0):
        self.peak, self._squares, self._count = peak, squares, count

    def add(self, samples: Samples) -> None:
        if samples.size:
            self.peak = max(self.peak, float(samples.max()), -float(samples.min()))
            self._squares += float(np.vdot(samples, samples))
            self._count += samples.size

    def scaled(self, gain: float) -> _Level:
        return _Level(self.peak * gain, self._squares * gain**2, self._count)

    @property
    def rms(self) -> float:
        return math.sqrt(self._squares / self._count) if self._count else 0.0


def _decibels(level: float) -> float | None:
    return round(20 * math.log10(level), 2) if level > 0 else None


def _partial_folder(folder: Path) -> Path:
    number = 0
    while True:
        path = folder / f".iseparate-partial-{number}"
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def _remove_stale(folder: Path) -> None:
    """Remove hidden folders whose process is gone: it held a lock in there that is free now."""
    for path in folder.glob(".iseparate-partial-*"):
        if not (path / "lock").exists() and time.time() - path.stat().st_mtime < _BEING_MADE_SECONDS:
            continue
        lock = FileLock(path / "lock")
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            continue
        lock.release()
        shutil.rmtree(path, ignore_errors=True)


def _output_error(error: OSError, folder: Path) -> OutputError:
    return OutputError(
        f"the stems cannot be written to {folder} ({error.strerror or error}): expected a writable place with enough "
        "free space; choose another with -o, or free some"
    )
