"""Samples that come from a caller and not from a file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from iseparate.audio.decode import MAX_CHANNELS, MAX_RATE_HZ, MIN_RATE_HZ
from iseparate.errors import AudioFormatError, UsageError
from iseparate.types import Audio, Samples


def checked_audio(song: Audio | ArrayLike, sample_rate: int | None) -> Audio:
    """Float32 ``[channels, samples]`` out of float samples ``[channels, samples]`` or ``[samples]``.

    Raises:
        UsageError: no sample rate, or one out of range.
        AudioFormatError: whole numbers, a shape that is no song's, or samples that are no numbers.
    """
    if isinstance(song, Audio):
        return checked_audio(song.samples, song.sample_rate)
    if sample_rate is None or not MIN_RATE_HZ <= sample_rate <= MAX_RATE_HZ:
        raise UsageError(f"an array needs sample_rate=, from {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz; got {sample_rate}")
    array = np.asarray(song)
    if array.dtype.kind != "f":
        raise AudioFormatError(f"samples must be floating-point with full scale ±1; got {array.dtype}")
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such below
        samples = np.atleast_2d(array).astype(np.float32)
    if samples.ndim != 2 or not 1 <= len(samples) <= MAX_CHANNELS or not samples.shape[1]:
        raise AudioFormatError(
            f"samples must be [channels, samples] with 1 to {MAX_CHANNELS} channels; got {list(array.shape)}"
        )
    if not np.isfinite(samples).all():
        raise AudioFormatError("the samples contain NaN or infinity; replace them first (numpy.nan_to_num)")
    return Audio(samples, sample_rate)


def blocks_of(samples: Samples, block_samples: int) -> Iterator[Samples]:
    """Cut ``[channels, samples]`` into blocks; the last may be shorter."""
    for start in range(0, samples.shape[1], block_samples):
        yield samples[:, start : start + block_samples]
