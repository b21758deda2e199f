"""What BSS Eval measures, and what it does with silence, odd shapes and nonsense."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import iseparate.evaluate
from iseparate.errors import AudioFormatError, UsageError
from iseparate.evaluate.bsseval import BssScores, bss_eval, bss_eval_like_museval

SHORT = {"window_samples": 800, "filter_length": 32}


def song(stems=3, channels=2, samples=4000, seed=0, noise=0.03, leakage=0.1):
    """References and estimates: each too soft, with leakage and noise."""
    random = np.random.default_rng(seed)
    references = random.normal(size=(stems, channels, samples)) * 0.1
    estimates = 0.9 * references + leakage * references.sum(0) + noise * random.normal(size=references.shape)
    return references, estimates


def plainly(references, estimates, taps):
    """The definition in a few lines, over the whole signal: least squares on delayed copies. ``[4, S]``."""
    stems, channels, samples = references.shape
    length = samples + taps - 1
    delayed = np.zeros((stems, channels, taps, length))
    for tap in range(taps):
        delayed[:, :, tap, tap : tap + samples] = references
    rows = []
    for stem in range(stems):
        true, estimate = (
            np.pad(signals[stem], [(0, 0), (0, taps - 1)]).astype(float) for signals in (references, estimates)
        )
        on_own, on_all = (
            (np.linalg.lstsq(basis.T, estimate.T)[0].T @ basis)
            for basis in (delayed[stem].reshape(-1, length), delayed.reshape(-1, length))
        )
        pairs = [
            (true, estimate - true),
            (true, on_own - true),
            (on_own, on_all - on_own),
            (on_all, estimate - on_all),
        ]
        rows.append([10 * np.log10(np.sum(above**2) / np.sum(below**2)) for above, below in pairs])
    return np.transpose(rows)


def stacked(scores: BssScores):
    return np.stack([scores.sdr, scores.isr, scores.sir, scores.sar])


def test_is_the_least_squares_of_its_definition():
    references, estimates = song(samples=700)
    scores = bss_eval(references, estimates, window_samples=None, filter_length=16)
    np.testing.assert_allclose(stacked(scores)[..., 0], plainly(references, estimates, 16), rtol=0, atol=1e-8)


def test_frame_longer_than_many_blocks_is_the_least_squares_too():
    references, estimates = song(stems=2, channels=1, samples=90_000)
    scores = bss_eval(references, estimates, window_samples=None, filter_length=2)
    np.testing.assert_allclose(stacked(scores)[..., 0], plainly(references, estimates, 2), rtol=0, atol=1e-8)


def test_v3_of_a_frame_is_v4_of_that_frame_alone():
    references, estimates = song()
    framewise = stacked(bss_eval(references, estimates, mode="v3", **SHORT))
    for index in range(5):
        frame = slice(index * 800, (index + 1) * 800)
        alone = stacked(bss_eval(references[..., frame], estimates[..., frame], **SHORT))
        np.testing.assert_allclose(framewise[..., index : index + 1], alone, rtol=0, atol=1e-8)
    assert np.abs(framewise - stacked(bss_eval(references, estimates, **SHORT))).max() > 1e-3


def test_a_filtered_stem_costs_spatial_distortion_only_and_in_the_sources_version_nothing():
    references, _ = song()
    filtered = np.stack([[np.convolve(c, [0.6, 0, -0.3])[:4000] for c in stem] for stem in references])
    images = bss_eval(references, filtered, window_samples=None, filter_length=32)
    assert (images.sdr < 10).all()
    assert (images.isr < 10).all()
    assert (images.sir > 25).all()
    sources = bss_eval(references, filtered, window_samples=None, filter_length=32, version="sources")
    assert (sources.sdr > 25).all()
    assert np.isnan(sources.isr).all()


def test_leakage_is_interference_and_noise_is_artefact():
    references, leaky = song(noise=0)
    leaking = bss_eval(references, leaky, **SHORT)
    assert (leaking.sir < 20).all()
    assert (leaking.sar > 60).all()
    _, noisy = song(leakage=0)
    noised = bss_eval(references, noisy, **SHORT)
    assert (noised.sir > 20).all()
    assert (noised.sar < 15).all()


@settings(max_examples=60, deadline=None)
@given(samples=st.integers(1, 5000), window=st.integers(1, 6000), hop=st.integers(1, 6000))
def test_frames_are_whole_and_a_short_track_is_one_frame(samples, window, hop):
    references, estimates = song(stems=1, channels=1, samples=samples)
    hop = max(hop, samples // 20)  # not thousands of frames
    scores = bss_eval(references, estimates, window_samples=window, hop_samples=hop, filter_length=1)
    starts = [start for start in range(0, samples, hop) if start + window <= samples] or [0]
    assert scores.sdr.shape == (1, len(starts))
    for index, start in enumerate(starts):
        s, e = (x[0, 0, start : start + window] for x in (references, estimates))
        np.testing.assert_allclose(scores.sdr[0, index], 10 * np.log10(np.sum(s**2) / np.sum((e - s) ** 2)), atol=1e-6)


def test_a_silent_frame_is_nan_for_all_stems():
    references, estimates = song()
    references[1, :, 800:1600] = 0
    estimates[0, 0, 2400:3200] = -estimates[0, 1, 2400:3200]  # museval sums channels
    scores = bss_eval(references, estimates, **SHORT)
    for values in stacked(scores):
        np.testing.assert_array_equal(np.isnan(values), [[False, True, False, True, False]] * 3)


@pytest.mark.parametrize("side", [0, 1])
def test_a_stem_that_is_silent_throughout_is_nan_and_the_others_are_scored(side):
    signals = song()
    signals[side][1] = 0
    scores = stacked(bss_eval(*signals, **SHORT))
    assert np.isnan(scores[:, 1]).all()
    others = [0, 2]
    assert np.isfinite(scores[:, others]).all()
    if side == 0:  # a silent reference takes no part in anything
        np.testing.assert_allclose(
            scores[:, others], stacked(bss_eval(*(x[others] for x in signals), **SHORT)), atol=1e-9
        )


def test_all_stems_silent():
    silence = np.zeros((2, 2, 4000))
    scores = bss_eval(silence, silence, **SHORT)
    assert stacked(scores).shape == (4, 2, 5)
    assert np.isnan(stacked(scores)).all()


def test_a_perfect_estimate_has_infinite_sdr_and_immense_ratios():
    references, _ = song()
    scores = bss_eval(references, references.copy(), **SHORT)
    assert (scores.sdr == np.inf).all()
    assert (stacked(scores) > 200).all()


@pytest.mark.parametrize("gain", [1, 0.5])
def test_mono_stems_make_no_trouble(gain):
    """Both channels proportional: the equations are singular, the projection is that on one of them."""
    references, estimates = song()
    references[:, 1] = gain * references[:, 0]
    scores = stacked(bss_eval(references, estimates, window_samples=None, filter_length=16))[..., 0]
    np.testing.assert_allclose(scores, plainly(references, estimates, 16), rtol=0, atol=1e-6)


def test_a_silent_channel_makes_no_trouble():
    references, estimates = song()
    references[:, 1] = 0
    scores = stacked(bss_eval(references, estimates, window_samples=None, filter_length=16))[..., 0]
    np.testing.assert_allclose(scores, plainly(references, estimates, 16), rtol=0, atol=1e-6)


def test_the_order_of_estimates_is_found():
    references, estimates = song(stems=4)
    shuffled = estimates[[2, 0, 3, 1]]
    straight = bss_eval(references, estimates, **SHORT)
    found = bss_eval(references, shuffled, permute=True, **SHORT)
    np.testing.assert_array_equal(found.permutation, np.tile([[1], [3], [0], [2]], 5))
    np.testing.assert_allclose(stacked(found), stacked(straight), atol=1e-9)


def test_v3_finds_an_order_for_each_frame_and_silent_frames_do_not_hide_it():
    references, estimates = song(stems=2)
    estimates[:, :, :800] = estimates[::-1, :, :800].copy()
    estimates[0, :, 3200:] = 0
    framewise = bss_eval(references, estimates, permute=True, mode="v3", **SHORT)
    np.testing.assert_array_equal(framewise.permutation, [[1, 0, 0, 0, 0], [0, 1, 1, 1, 1]])
    estimates[:, :, :800] = estimates[::-1, :, :800].copy()
    swapped = bss_eval(references, estimates[::-1].copy(), permute=True, **SHORT)
    np.testing.assert_array_equal(swapped.permutation, [[1] * 5, [0] * 5])


def test_float32_a_memory_map_and_a_list_are_scored_alike(tmp_path):
    references, estimates = (signals.astype(np.float32) for signals in song())
    np.save(tmp_path / "references.npy", references)
    mapped = np.load(tmp_path / "references.npy", mmap_mode="r")
    expected = stacked(bss_eval(references.astype(np.float64), list(estimates.astype(np.float64)), **SHORT))
    np.testing.assert_allclose(stacked(bss_eval(mapped, estimates, **SHORT)), expected, rtol=0, atol=1e-9)


def test_inputs_are_left_alone():
    signals = song()
    copies = [signal.copy() for signal in signals]
    bss_eval(*signals, **SHORT)
    for signal, copy in zip(signals, copies, strict=True):
        np.testing.assert_array_equal(signal, copy)


def test_the_package_exports_the_function():
    references, estimates = song()
    assert iseparate.evaluate.bss_eval(references, estimates).sdr.shape == (3, 1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r, e: (r, e[:2]), "3 references and 2 estimates"),
        (lambda r, e: (r[:0], e[:0]), "0 references"),
        (lambda r, e: (r, e[:, :1]), r"estimate 0 has the shape \[1, 4000\] and reference 0 \[2, 4000\]"),
        (lambda r, e: (r.transpose(0, 2, 1), e.transpose(0, 2, 1)), r"\[4000, 2\], that is 4000 channels"),
        (lambda r, e: (r, e[..., :-1]), r"estimate 0 has the shape \[2, 3999\]"),
        (lambda r, e: (r[..., :0], e[..., :0]), r"shape \[2, 0\]"),
        (lambda r, e: (r[0], e[0]), r"shape \[4000\]; expected \[channels, samples\]"),
        (lambda r, e: (r, np.where(np.arange(4000) == 3999, np.nan, e)), "estimate 0 holds NaN"),
        (lambda r, e: (np.where(np.arange(4000) == 7, np.inf, r), e), "reference 0 holds NaN or inf"),
        (lambda r, e: (r, (e * 32768).astype(np.int16)), "estimate 0 holds int16"),
        (lambda r, e: (r, e.astype(complex)), "estimate 0 holds complex128"),
        (lambda r, e: (r, e.tolist()), "estimate 0 holds list"),
    ],
)
def test_bad_signals_get_a_sentence(change, sentence):
    with pytest.raises(AudioFormatError, match=sentence):
        bss_eval(*change(*song()))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"window_samples": 0}, "window_samples is 0"),
        ({"window_samples": 1.5}, "window_samples is 1.5"),
        ({"hop_samples": -1}, "hop_samples is -1"),
        ({"filter_length": 0}, "filter_length is 0"),
        ({"mode": "v5"}, "expected v4 or v3"),
        ({"version": "image"}, "expected images or sources"),
    ],
)
def test_bad_options_get_a_sentence(options, sentence):
    with pytest.raises(UsageError, match=sentence):
        bss_eval(*song(), **options)


def test_an_order_that_cannot_be_found_is_refused():
    references, estimates = song(stems=9, channels=1, samples=100)
    with pytest.raises(UsageError, match="9 stems have too many orders"):
        bss_eval(references, estimates, permute=True)
    references[0] = 0
    with pytest.raises(UsageError, match="a silent stem fits any"):
        bss_eval(references[:2], estimates[:2], permute=True)


def test_museval_s_form_refuses_other_dimensions():
    with pytest.raises(AudioFormatError, match=r"1 and 3 dimensions; expected \[stems, samples, channels\]"):
        bss_eval_like_museval(np.zeros(5), np.zeros((1, 5, 1)))
