"""Small spectrograms that a report can show when the waveforms are gone."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iseparate.types import Samples

BANDS, COLUMNS = 96, 600
LOWEST_HZ, FLOOR_DB = 40.0, -80.0
_FRAME_SAMPLES, _HOP_SAMPLES, _BLOCK_FRAMES = 4096, 2048, 512

BandLevels = NDArray[np.uint8]
"""``[BANDS, columns]``, lowest band first: 0 is `FLOOR_DB` or less, 255 is a full-scale sine in every channel."""


def band_levels(signal: Samples, sample_rate: int) -> BandLevels:
    """Mean power over channels of bands that are evenly spaced on a logarithmic scale up to half the rate."""
    samples = signal.shape[1]
    padded_samples = max(samples, _FRAME_SAMPLES)
    frames = (padded_samples - _FRAME_SAMPLES) // _HOP_SAMPLES + 1
    columns = min(COLUMNS, frames)
    edges_hz = np.geomspace(LOWEST_HZ, sample_rate / 2, BANDS + 1)
    edges = np.searchsorted(np.fft.rfftfreq(_FRAME_SAMPLES, 1 / sample_rate), edges_hz)
    # A band narrower than a bin shows the bin it lies in.
    low = np.minimum(edges[:-1], _FRAME_SAMPLES // 2)
    high = np.maximum(edges[1:], low + 1)
    window = np.hanning(_FRAME_SAMPLES).astype(np.float32)
    power, count = np.zeros((columns, BANDS)), np.zeros(columns)
    for start in range(0, frames, _BLOCK_FRAMES):
        stop = min(start + _BLOCK_FRAMES, frames)
        cut = signal[:, start * _HOP_SAMPLES : (stop - 1) * _HOP_SAMPLES + _FRAME_SAMPLES]
        cut = np.pad(cut, ((0, 0), (0, max(0, _FRAME_SAMPLES - cut.shape[1]))))
        windows = np.lib.stride_tricks.sliding_window_view(cut, _FRAME_SAMPLES, axis=1)[:, ::_HOP_SAMPLES]
        spectra = (np.abs(np.fft.rfft(windows * window)) ** 2).mean(0)
        sums = np.pad(np.cumsum(spectra, 1), ((0, 0), (1, 0)))
        column = np.arange(start, stop) * columns // frames
        np.add.at(power, column, sums[:, high] - sums[:, low])
        np.add.at(count, column, 1)
    full_scale = (window.sum() / 2) ** 2
    levels_db = 10 * np.log10(np.maximum(power, 0) / count[:, None] / full_scale + 1e-12)
    shares = (levels_db - FLOOR_DB) / -FLOOR_DB
    return np.asarray(np.rint(shares.clip(0, 1) * 255).T, dtype=np.uint8)


def pack(spectra: Mapping[str, tuple[BandLevels, BandLevels]]) -> bytes:
    """Spectra of reference and estimate by target as a compressed NumPy archive."""
    buffer = io.BytesIO()
    arrays = {f"{kind}{index}": pair[k] for index, pair in enumerate(spectra.values()) for k, kind in enumerate("re")}
    np.savez_compressed(buffer, allow_pickle=False, targets=np.array(list(spectra), dtype=np.str_), **arrays)
    return buffer.getvalue()


def unpack(path: Path) -> dict[str, tuple[BandLevels, BandLevels]]:
    """What `pack` packed; nothing where the file is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = [str(name) for name in archive["targets"]]
            return {name: (archive[f"r{index}"], archive[f"e{index}"]) for index, name in enumerate(names)}
    except Exception:  # a picture less; zip, zlib and NumPy have many errors
        return {}
