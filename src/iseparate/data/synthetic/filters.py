"""Filters over SciPy: lowpass and its kin, equaliser bands, convolution, spectra shaped frame by frame."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft  # type: ignore[import-untyped]
import scipy.ndimage  # type: ignore[import-untyped]
import scipy.signal  # type: ignore[import-untyped]
from numpy.typing import NDArray

from iseparate.types import Samples

SAMPLE_RATE = 44100
FRAME = 1024
HOP = 256


@lru_cache(maxsize=256)
def _butterworth(kind: str, low_hz: float, high_hz: float, order: int) -> NDArray[np.float64]:
    edge = [low_hz, high_hz] if kind == "bandpass" else low_hz
    return np.asarray(scipy.signal.butter(order, edge, kind, fs=SAMPLE_RATE, output="sos"))


def lowpass(sound: Samples, hz: float, order: int = 2) -> Samples:
    """Butterworth lowpass."""
    return _run(_butterworth("lowpass", min(hz, 20000.0), 0.0, order), sound)


def highpass(sound: Samples, hz: float, order: int = 2) -> Samples:
    """Butterworth highpass."""
    return _run(_butterworth("highpass", min(hz, 20000.0), 0.0, order), sound)


def bandpass(sound: Samples, low_hz: float, high_hz: float, order: int = 2) -> Samples:
    """Butterworth bandpass."""
    return _run(_butterworth("bandpass", low_hz, min(high_hz, 20000.0), order), sound)


def bands(sound: Samples, *sections: NDArray[np.float64]) -> Samples:
    """Run equaliser sections made by `bell` and `shelf`."""
    return _run(np.stack(sections), sound) if sections else sound


def bell(hz: float, gain_db: float, quality: float) -> NDArray[np.float64]:
    """A peaking equaliser section (R. Bristow-Johnson, Audio EQ Cookbook)."""
    a, cosine, alpha = _cookbook(hz, gain_db, quality)
    b = [1.0 + alpha * a, -2.0 * cosine, 1.0 - alpha * a]
    return _section(b, [1.0 + alpha / a, -2.0 * cosine, 1.0 - alpha / a])


def shelf(hz: float, gain_db: float, high: bool) -> NDArray[np.float64]:
    """A shelving equaliser section (R. Bristow-Johnson, Audio EQ Cookbook)."""
    a, cosine, alpha = _cookbook(hz, gain_db, 0.707)
    sign = -1.0 if high else 1.0
    root = 2.0 * np.sqrt(a) * alpha
    up, down = a + 1.0, sign * (a - 1.0)
    b = [a * (up - down * cosine + root), 2.0 * a * (down - up * cosine), a * (up - down * cosine - root)]
    c = [up + down * cosine + root, -2.0 * (down + up * cosine), up + down * cosine - root]
    return _section(b, c)


def _cookbook(hz: float, gain_db: float, quality: float) -> tuple[float, float, float]:
    angle = 2.0 * np.pi * min(hz, 20000.0) / SAMPLE_RATE
    return 10.0 ** (gain_db / 40.0), float(np.cos(angle)), float(np.sin(angle) / (2.0 * quality))


def _section(b: list[float], a: list[float]) -> NDArray[np.float64]:
    return np.array([*b, *a]) / a[0]


def _run(sections: NDArray[np.float64], sound: Samples) -> Samples:
    return np.asarray(scipy.signal.sosfilt(sections, sound, axis=-1), dtype=np.float32)


def one_pole(values: NDArray[np.float64], keep: float) -> NDArray[np.float64]:
    """Smooth a curve: ``y[n] = keep y[n-1] + (1 - keep) x[n]``, starting at rest on its first value."""
    state = np.array([keep * values[0]])
    return np.asarray(scipy.signal.lfilter([1.0 - keep], [1.0, -keep], values, zi=state)[0])


def convolve(sound: Samples, response: Samples) -> Samples:
    """Convolve each channel with a response of one or two channels; the length stays."""
    return np.asarray(
        scipy.signal.oaconvolve(sound, response, mode="full", axes=-1)[..., : sound.shape[-1]], dtype=np.float32
    )


def twice_oversampled(sound: Samples, bend: float) -> Samples:
    """``tanh(bend · sound)`` at twice the rate, so that fewer of the new overtones fold back."""
    fine = scipy.signal.resample_poly(sound, 2, 1, axis=-1)
    count = sound.shape[-1]
    return np.asarray(scipy.signal.resample_poly(np.tanh(bend * fine), 1, 2, axis=-1)[..., :count], dtype=np.float32)


def inverse_spectrum(spectrum: NDArray[np.complex128], samples: int) -> Samples:
    """The real signal of a half spectrum."""
    return np.asarray(scipy.fft.irfft(spectrum, samples), dtype=np.float32)


def spread_peaks(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The largest value within a centred window of `count`, at each place."""
    return np.asarray(scipy.ndimage.maximum_filter1d(values, count, mode="nearest"))


def spread_evenly(values: NDArray[np.floating[Any]], count: int) -> NDArray[np.float64]:
    """A centred moving average over `count` values along the first axis."""
    return np.asarray(scipy.ndimage.uniform_filter1d(values, count, axis=0, mode="nearest"))


def frame_bins_hz() -> NDArray[np.float64]:
    """Frequencies of the rows that `shape_frames` multiplies."""
    return np.arange(FRAME // 2 + 1, dtype=np.float64) * (SAMPLE_RATE / FRAME)


def shape_frames(sound: Samples, gains: NDArray[np.float32]) -> Samples:
    """A filter that changes with time: gains ``[frames, bins]`` every `HOP` samples on mono `sound`."""
    frames = len(gains)
    padded = np.zeros((frames - 1) * HOP + FRAME, dtype=np.float32)
    lead = FRAME // 2
    count = min(len(sound), len(padded) - lead)
    padded[lead : lead + count] = sound[:count]
    window = np.sqrt(scipy.signal.get_window("hann", FRAME)).astype(np.float32)
    views = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]
    shaped = scipy.fft.irfft(scipy.fft.rfft(views * window, axis=1) * gains, FRAME, axis=1) * (window * np.float32(0.5))
    total = np.zeros(len(padded) + FRAME, dtype=np.float32)
    for quarter in range(FRAME // HOP):  # frames that do not overlap are laid end to end
        piece = shaped[quarter :: FRAME // HOP].ravel()
        total[quarter * HOP : quarter * HOP + len(piece)] += piece
    result = np.zeros(len(sound), dtype=np.float32)
    count = min(len(sound), len(total) - lead)
    result[:count] = total[lead : lead + count]
    return result
