from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from material import music

from iseparate.audio.resample import Resampler, fit_length, resample, resample_blocks, resampled_length
from iseparate.errors import UsageError

RATES = (8000, 11025, 22050, 32000, 44100, 48000, 88200, 96000, 192000)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(RATES),
    st.sampled_from(RATES),
    st.lists(st.integers(0, 5000), min_size=1, max_size=8),
)
def test_blocks_of_any_size_give_what_one_block_gives(source, target, sizes):
    whole = music(2, sum(sizes), source)
    ends = np.cumsum(sizes)
    parts = [whole[:, end - size : end] for end, size in zip(ends, sizes, strict=True)]
    joined = np.concatenate([np.zeros((2, 0), "f4"), *resample_blocks(parts, source, target, 2)], axis=1)
    assert joined.shape[1] == resampled_length(sum(sizes), source, target)
    np.testing.assert_allclose(joined, resample(whole, source, target), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(RATES), st.sampled_from(RATES), st.integers(1, 30_000))
def test_a_round_trip_is_never_short(source, target, samples):
    assert resampled_length(resampled_length(samples, source, target), target, source) >= samples


@pytest.mark.parametrize(("source", "target"), [(96000, 44100), (48000, 44100), (192000, 44100), (44100, 48000)])
def test_a_tone_survives_the_round_trip_in_its_place(source, target):
    samples = source + 17
    tone = np.sin(2 * np.pi * 9000 * np.arange(samples) / source).astype("f4")[None]
    back = resample(resample(tone, source, target), target, source, length_samples=samples)
    assert back.shape == tone.shape
    inside = slice(source // 10, -source // 10)
    assert np.abs(back - tone)[:, inside].max() < 1e-6


def test_a_tone_above_the_new_limit_is_gone():
    tone = np.sin(2 * np.pi * 30_000 * np.arange(96_000) / 96_000).astype("f4")[None]
    assert np.abs(resample(tone, 96_000, 44_100)[:, 4000:-4000]).max() < 1e-6


def test_equal_rates_pass_through_untouched():
    sound = music(2, 1000, 44100)
    assert np.array_equal(resample(sound, 44100, 44100), sound)


def test_lengths_can_be_fitted():
    sound = music(2, 10, 44100)
    assert np.array_equal(fit_length(sound, 4), sound[:, :4])
    assert np.array_equal(fit_length(sound, 12), np.pad(sound, ((0, 0), (0, 2))))


def test_misuse_is_told():
    with pytest.raises(UsageError, match="positive"):
        Resampler(0, 44100, 2)
    resampler = Resampler(48000, 44100, 2)
    with pytest.raises(UsageError, match=r"expected \[2, n\]"):
        resampler.push(np.zeros((3, 5), "f4"))
    resampler.flush()
    with pytest.raises(UsageError, match="after its end"):
        resampler.push(np.zeros((2, 5), "f4"))
    with pytest.raises(UsageError, match="twice"):
        resampler.flush()
