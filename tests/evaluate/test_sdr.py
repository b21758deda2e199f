"""uSDR and SI-SDR: known values, and what silence scores."""

from __future__ import annotations

import math

import numpy as np
import pytest

from iseparate.errors import AudioFormatError
from iseparate.evaluate.sdr import si_sdr, usdr


@pytest.fixture
def stem():
    return np.random.default_rng(0).normal(size=(2, 300_000)) * 0.1


def orthogonal(stem):
    """A signal of the stem's energy that has nothing in common with it."""
    other = np.random.default_rng(1).normal(size=stem.shape)
    other -= stem * (np.vdot(stem, other) / np.vdot(stem, stem))
    return other * math.sqrt(np.vdot(stem, stem) / np.vdot(other, other))


def test_usdr_is_the_ratio_of_energies(stem):
    assert usdr(stem, 0.9 * stem) == pytest.approx(20, abs=1e-3)
    assert usdr(stem, stem + 0.1 * orthogonal(stem)) == pytest.approx(20, abs=1e-3)
    assert usdr(stem, np.zeros_like(stem)) == pytest.approx(0, abs=1e-9)
    assert usdr(stem, -stem) == pytest.approx(-20 * math.log10(2), abs=1e-6)


def test_usdr_of_silence_is_defined_by_the_challenge_s_constant(stem):
    silence = np.zeros_like(stem)
    assert usdr(silence, silence) == 0
    energy = np.vdot(stem, stem)
    assert usdr(silence, stem) == pytest.approx(10 * math.log10(1e-7 / (energy + 1e-7)))
    assert usdr(stem, stem) == pytest.approx(10 * math.log10((energy + 1e-7) / 1e-7))


def test_si_sdr_forgives_a_gain_and_nothing_else(stem):
    noisy = stem + 0.1 * orthogonal(stem)
    assert si_sdr(stem, noisy) == pytest.approx(20, abs=1e-9)
    assert si_sdr(stem, -3 * noisy) == pytest.approx(20, abs=1e-9)
    one_side = np.stack([stem[0], np.zeros_like(stem[0])])
    assert si_sdr(stem, one_side) == pytest.approx(0, abs=0.1)


def test_si_sdr_of_copies_opposites_and_silence(stem):
    assert si_sdr(stem, 0.5 * stem) == math.inf
    assert si_sdr(stem, 0.3 * stem) > 250
    ones = np.array([[1.0, 1.0]])
    assert si_sdr(ones, np.array([[1.0, -1.0]])) == -math.inf
    silence = np.zeros_like(stem)
    assert math.isnan(si_sdr(silence, stem))
    assert math.isnan(si_sdr(stem, silence))


@pytest.mark.parametrize("measure", [usdr, si_sdr])
def test_bad_signals_get_a_sentence(measure, stem):
    with pytest.raises(AudioFormatError, match=r"the estimate has the shape \[1, 300000\]"):
        measure(stem, stem[:1])
    with pytest.raises(AudioFormatError, match="the estimate holds NaN"):
        measure(stem, stem * np.nan)
    with pytest.raises(AudioFormatError, match="the reference holds int64"):
        measure(stem.astype(int), stem)
    with pytest.raises(AudioFormatError, match="none of them 0"):
        measure(stem[:, :0], stem[:, :0])
