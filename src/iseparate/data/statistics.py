"""Mean and deviation of the mixtures' magnitude spectra, per bin, over all songs: what scales a network's input.

Open-Unmix (``scripts/train.py``, v1.3) and D3Net (Sony's ``train.py``) set a network's input offset and scale so
before training: over every frame of every training mixture, the magnitudes of all channels averaged, mean and
population deviation for each bin, the deviation at least 1e-4 of the greatest one. They read each song whole; here it
streams by in blocks, and sums are kept in float64 by the update of Chan, Golub and LeVeque (1979).
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from iseparate.cache_folder import cache_folder
from iseparate.data.track import MIXTURE, Track
from iseparate.errors import AudioFormatError, UsageError
from iseparate.nn.stft import hann, spectrum
from iseparate.types import Samples

Floats = NDArray[np.float64]
Progress = Callable[[int, int, str], None]
"""Called with songs done, songs in all, and the song at hand."""

_FRAMES = 256
"""Transformed and summed at once, whatever the blocks that are read: those do not change a bit of the result."""
_FORMAT = 1
"""Raised when results kept by older versions must not be used any more."""


@dataclass(frozen=True)
class Transform:
    """The centred short-time transform whose magnitudes are counted; periodic Hann, ends reflected, unscaled."""

    frame_samples: int = 4096
    hop_samples: int = 1024

    def __post_init__(self) -> None:
        if self.frame_samples < 2 or self.frame_samples % 2 or not 1 <= self.hop_samples <= self.frame_samples:
            raise UsageError(
                f"a frame of {self.frame_samples} samples at a hop of {self.hop_samples} was asked for: expected an "
                "even frame and a hop no longer than it"
            )


@dataclass(frozen=True)
class SpectrumStatistics:
    """Mean and population standard deviation per bin, float64 ``[frame_samples // 2 + 1]``, over `frames` frames."""

    mean: Floats
    deviation: Floats
    frames: int

    @property
    def scale(self) -> Floats:
        """The deviation, at least 1e-4 of the greatest: what networks divide by. 1 throughout if all is silent."""
        most = float(self.deviation.max())
        return np.maximum(self.deviation, 1e-4 * most) if most > 0 else np.ones_like(self.deviation)


class _Sums:
    """Count, mean and sum of squared distances from it, which grow by whole groups of frames."""

    def __init__(self, bins: int):
        self.frames, self.mean, self.squares = 0, np.zeros(bins), np.zeros(bins)

    def add(self, magnitudes: Floats) -> None:
        """Take ``[frames, bins]``."""
        new = len(magnitudes)
        if not new:
            return
        mean = magnitudes.mean(0)
        squares = np.square(magnitudes - mean).sum(0)
        total = self.frames + new
        apart = mean - self.mean
        self.mean += apart * (new / total)
        self.squares += squares + np.square(apart) * (self.frames * new / total)
        self.frames = total


def spectrum_statistics(
    tracks: Sequence[Track],
    transform: Transform | None = None,
    *,
    block_samples: int = 1 << 18,
    progress: Progress | None = None,
) -> SpectrumStatistics:
    """Go through the mixtures of songs once.

    Args:
        tracks: songs; all of each is counted.
        transform: frame and hop.
        block_samples: read at once; changes nothing but the memory taken.
        progress: called before each song and at the end.

    Raises:
        UsageError: no songs.
        AudioError: a song cannot be read, or holds samples that are not numbers.
    """
    transform = transform or Transform()
    if not tracks:
        raise UsageError("statistics of no songs were asked for: expected at least one; choose another subset")
    sums = _Sums(transform.frame_samples // 2 + 1)
    for done, track in enumerate(tracks):
        if progress is not None:
            progress(done, len(tracks), track.title)
        for magnitudes in _magnitudes(track.blocks(MIXTURE, block_samples), transform):
            if not np.isfinite(magnitudes.sum()):
                raise AudioFormatError(
                    f"the mixture of {track.title} holds samples that are not numbers; export it again or leave it out"
                )
            sums.add(magnitudes)
    if progress is not None:
        progress(len(tracks), len(tracks), "")
    return SpectrumStatistics(sums.mean, np.sqrt(sums.squares / max(1, sums.frames)), sums.frames)


def _magnitudes(blocks: Iterable[Samples], transform: Transform) -> Iterator[Floats]:
    """Magnitudes of all centred frames of a song, averaged over channels, in groups ``[frames, bins]``."""
    frame, hop = transform.frame_samples, transform.hop_samples
    window = hann(frame)
    group = (_FRAMES - 1) * hop + frame
    held: Samples | None = None
    for block in _with_reflected_ends(blocks, frame // 2, hop):
        held = block if held is None else np.concatenate([held, block], axis=1)
        while held.shape[1] >= group:
            yield _averaged(held[:, :group], window, hop)
            held = held[:, _FRAMES * hop :]
    if held is not None and held.shape[1] >= frame:
        yield _averaged(held, window, hop)


def _averaged(samples: Samples, window: torch.Tensor, hop: int) -> Floats:
    magnitudes: Floats = (
        spectrum(torch.from_numpy(np.ascontiguousarray(samples)), window, hop).abs().double().mean(0).numpy()
    )
    return magnitudes


def _with_reflected_ends(blocks: Iterable[Samples], half: int, hop: int) -> Iterator[Samples]:
    """A song with its first and last `half` samples mirrored beyond its ends, as centred transforms see it.

    A song too short to be mirrored is continued with silence first (see `iseparate.nn.stft.centred_spectrum`), which
    adds no frame.
    """
    length, tail = 0, None
    pending: Samples | None = None
    for block in blocks:
        length += block.shape[1]
        if tail is None:  # the beginning has not gone out yet
            pending = block if pending is None else np.concatenate([pending, block], axis=1)
            if pending.shape[1] > half:
                yield pending[:, half:0:-1]
                yield pending
                tail = pending[:, -(half + 1) :]
        else:
            yield block
            tail = np.concatenate([tail, block], axis=1)[:, -(half + 1) :]
    if tail is not None:
        frames = length // hop + 1
        missing = max(0, (frames - 1) * hop + 2 * half - (half + length))
        yield tail[:, -2::-1][:, :missing]
    elif pending is not None and length:
        short = np.pad(pending, ((0, 0), (0, half + 1 - length)))
        whole = np.pad(short, ((0, 0), (half, half)), mode="reflect")
        yield whole[:, : (length // hop) * hop + 2 * half]


def cached_statistics(
    tracks: Sequence[Track],
    data_hash: str,
    transform: Transform | None = None,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> SpectrumStatistics:
    """As `spectrum_statistics`, kept under the user's cache for the next run.

    Args:
        tracks: songs.
        data_hash: of the data set's manifest: other files, other statistics. The songs' names are part of the key,
            so a subset has statistics of its own.
        transform: frame and hop.
        folder: where results are kept; by default ``statistics`` in the cache of weights.
        progress: as there; not called where the result is at hand.
    """
    transform = transform or Transform()
    key = {"format": _FORMAT, "data": data_hash, "songs": [track.title for track in tracks], **asdict(transform)}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    path = (folder or cache_folder() / "statistics") / f"{name}.npz"
    kept = _load(path, transform)
    if kept is not None:
        return kept
    statistics = spectrum_statistics(tracks, transform, progress=progress)
    _keep(path, statistics)
    return statistics


def _load(path: Path, transform: Transform) -> SpectrumStatistics | None:
    """What was kept, or None where it is not there or damaged."""
    bins = transform.frame_samples // 2 + 1
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, deviation, frames = file["mean"], file["deviation"], int(file["frames"])
    except (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile):
        return None
    whole = mean.shape == deviation.shape == (bins,) and mean.dtype == deviation.dtype == np.float64
    if not whole or not np.isfinite(mean + deviation).all() or frames < 1:
        return None
    return SpectrumStatistics(mean, deviation, frames)


def _keep(path: Path, statistics: SpectrumStatistics) -> None:
    """Write under the final name when whole. A cache that cannot be written costs time, not the result."""
    part: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            part = file.name
            np.savez(file, mean=statistics.mean, deviation=statistics.deviation, frames=statistics.frames)
        Path(part).replace(path)
    except OSError as error:
        logging.getLogger(__name__).warning("the statistics cannot be kept in %s (%s)", path.parent, error.strerror)
        if part is not None:
            with suppress(OSError):
                Path(part).unlink()
