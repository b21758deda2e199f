"""One number for a whole stem: the challenge's SDR and the scale-invariant SDR.

Neither finds filters, neither has frames, and neither may be compared with the SDR of BSS Eval: that of the field's
tables is a median over frames of one second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iseparate.evaluate.bsseval import check_shape, check_signal

USDR_EPSILON = 1e-7
"""What the challenge adds to both energies, so that silence has a score."""
_BLOCK_SAMPLES = 1 << 18


def usdr(reference: NDArray[Any], estimate: NDArray[Any]) -> float:
    """The SDR of the Music Demixing Challenge, called *uSDR* (utterance-level) since.

    ``10 log10((sum s² + ε) / (sum (s - e)² + ε))`` over all channels and samples, ε = 1e-7. So silence has a score: a
    silent estimate of a silent stem gets 0 dB, any other less.

    Source: Mitsufuji et al., "Music Demixing Challenge 2021", Frontiers in Signal Processing 1, 2022.

    Args:
        reference: floating-point ``[C, T]``, full scale ±1.
        estimate: of the same shape.

    Returns:
        Decibels, always finite.

    Raises:
        AudioFormatError: shapes that differ, no samples, integers, NaN or infinity.
    """
    _check(reference, estimate)
    energy = error = USDR_EPSILON
    for s, e in _blocks(reference, estimate):
        energy += float(np.vdot(s, s))
        difference = e - s
        error += float(np.vdot(difference, difference))
    return 10 * math.log10(energy / error)


def si_sdr(reference: NDArray[Any], estimate: NDArray[Any]) -> float:
    """The scale-invariant SDR, with one gain for all channels: a stem at the wrong place in the panorama scores less.

    ``10 log10(|αs|² / |αs - e|²)`` with ``α = <e, s> / |s|²``. No mean is removed.

    Source: Le Roux, Wisdom, Erdogan and Hershey, "SDR – half-baked or well done?", ICASSP 2019, for one channel.

    Args:
        reference: floating-point ``[C, T]``, full scale ±1.
        estimate: of the same shape.

    Returns:
        Decibels; infinite (or, by rounding, hundreds) where the estimate is the reference at another gain, minus
        infinity where they have nothing in common, NaN where either is silent.

    Raises:
        AudioFormatError: shapes that differ, no samples, integers, NaN or infinity.
    """
    _check(reference, estimate)
    energy = product = level = 0.0
    for s, e in _blocks(reference, estimate):
        energy += float(np.vdot(s, s))
        product += float(np.vdot(s, e))
        level += float(np.vdot(e, e))
    if not (energy and level):
        return math.nan
    gain = product / energy
    rest = 0.0
    for s, e in _blocks(reference, estimate):
        difference = e - gain * s
        rest += float(np.vdot(difference, difference))
    target = gain * product
    if not target:
        return -math.inf
    return 10 * math.log10(target / rest) if rest else math.inf


def _check(reference: NDArray[Any], estimate: NDArray[Any]) -> None:
    shape = check_shape("the reference", reference)
    check_signal("the reference", reference, shape, "the reference")
    check_signal("the estimate", estimate, shape, "the reference")


def _blocks(*signals: NDArray[Any]) -> Iterator[list[NDArray[np.float64]]]:
    """Stretches in float64."""
    for start in range(0, signals[0].shape[1], _BLOCK_SAMPLES):
        yield [signal[:, start : start + _BLOCK_SAMPLES].astype(np.float64, order="C") for signal in signals]
