"""Chunking is invisible, channels and rates come back, and memory does not grow."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_models import (
    RATE,
    Bag,
    Convolutions,
    FadedShares,
    Loudness,
    SegmentMean,
    Shares,
    Strided,
    decibels,
    noise,
    one_pass,
    stream,
)

from iseparate.audio.resample import resample
from iseparate.engine.plan import Plan
from iseparate.engine.stream import SongStream, track_statistics
from iseparate.models.spleeter import Config, Spleeter
from iseparate.types import TrackStatistics

SURROUND = ("FL", "FR", "FC", "LFE", "SL", "SR")


@pytest.fixture(scope="module")
def spleeter():
    torch.manual_seed(0)
    return Spleeter(Config.tiny()).eval()


def null_preserving_spleeter():
    torch.manual_seed(0)
    return Spleeter(Config(**{**vars(Config.tiny()), "mask_extension": "average"})).eval()


CUTS = {
    "context": (Convolutions, lambda model: Plan.for_model(model.spec, segment_seconds=0.005)),
    "context on a grid": (Strided, lambda model: Plan.for_model(model.spec, segment_seconds=0.005)),
    "overlap": (SegmentMean, lambda model: Plan.for_model(model.spec)),
    "partial sums": (FadedShares, lambda model: Plan.for_model(model.spec)),
    "spleeter": (null_preserving_spleeter, lambda model: Plan.for_model(model.spec)),
    "spleeter with overlap": (null_preserving_spleeter, lambda model: Plan.for_model(model.spec, overlap=0.25)),
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(("block_samples", "batch_size"), [(1, 1), (7, 3), ([1, 500, 3], 2), (64, 1), (100_000, 5)])
def test_blocks_and_batches_change_nothing(cut, block_samples, batch_size):
    make, plan = CUTS[cut]
    model, song = make(), noise(1777)
    expected = stream(model, song, plan=plan(model), block_samples=1777)
    found = stream(model, song, plan=plan(model), block_samples=block_samples, batch_size=batch_size)
    assert found.shape == expected.shape == (len(model.spec.stems), 2, 1777)
    assert np.abs(found - expected).max() < 1e-5


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([Convolutions, Strided]), st.integers(1, 900), st.integers(1, 300), st.integers(0, 60))
def test_a_network_of_finite_sight_is_equal_to_one_pass(make, samples, segment_samples, shift):
    model, song = make(), noise(samples, seed=samples)
    grid = model.spec.start_grid_samples
    plan = Plan.for_model(model.spec, segment_seconds=max(segment_samples, grid) / RATE).shifted(shift * grid)
    assert np.abs(stream(model, song, plan=plan) - one_pass(model, song)).max() < 1e-5


@pytest.mark.parametrize("samples", [1, 2, 63, 64, 65, 255, 257, 511, 512, 513, 703, 1001, 2311, 5000])
@pytest.mark.parametrize("extension", ["zeros", "average"])
def test_spleeter_in_chunks_is_spleeter_in_one_pass(samples, extension):
    torch.manual_seed(3)
    model = Spleeter(Config(**{**vars(Config.tiny()), "mask_extension": extension})).eval()
    song = noise(samples, seed=samples)
    found = stream(model, song, block_samples=300)
    assert found.shape == (2, 2, samples)
    assert np.abs(found - one_pass(model, song)).max() < 1e-5


def test_chunked_spleeter_is_not_trivially_silent_or_the_mixture(spleeter):
    song = noise(3000)
    vocals = stream(spleeter, song)[0]
    assert -40 < decibels(vocals, song) < -1
    assert decibels(vocals - song, song) > -20


@pytest.mark.parametrize("make", [null_preserving_spleeter, Shares, FadedShares, SegmentMean])
@pytest.mark.parametrize("rate", [RATE, 48000])
def test_silence_stays_silence(make, rate):
    assert not stream(make(), np.zeros((2, 3001), np.float32), rate=rate).any()


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("samples", [1, 99, 100, 101, 1234])
def test_with_overlap_the_identity_stays_the_identity(overlap, samples):
    model, song = Shares(segment_samples=100, context_samples=None), noise(samples)
    plan = Plan.for_model(model.spec, overlap=overlap)
    assert plan.mode == "overlap"
    assert np.abs(stream(model, song, plan=plan).sum(0) - song).max() < 1e-6


def test_shifted_separations_are_averaged():
    model, song = SegmentMean(), noise(1000)
    plans = [Plan.for_model(model.spec).shifted(shift) for shift in (0, 13, 250)]
    alone = [stream(model, song, plan=plan) for plan in plans]
    assert np.abs(stream(model, song, plans=plans, block_samples=37) - np.mean(alone, 0)).max() < 1e-6
    assert np.abs(alone[0] - alone[1]).max() > 1e-3


# -- what the whole song tells ------------------------------------------------------------------------------


@pytest.mark.parametrize("block_samples", [1, 50, 100_000])
def test_statistics_of_the_song_are_those_of_one_pass(block_samples):
    model, song = Loudness(), noise(1501) + np.float32(0.1)
    track = track_statistics(
        (song[:, i : i + block_samples] for i in range(0, 1501, block_samples)), model.spec, RATE, ("FL", "FR")
    )
    mono = song.astype(np.float64).mean(0)
    assert track == [TrackStatistics(pytest.approx(mono.mean()), pytest.approx(mono.std(ddof=1)))]
    plan = Plan.for_model(model.spec, segment_seconds=0.005)
    found = stream(model, song, plan=plan, track=track, block_samples=block_samples)
    assert np.abs(found - one_pass(model, song)).max() < 1e-5


def test_statistics_are_taken_at_the_models_rate():
    song, model = noise(20_000), Loudness()
    track = track_statistics([song[:, :7000], song[:, 7000:]], model.spec, 96_000, ("FL", "FR"))
    mono = soxr.resample(song.T, 96_000, RATE, quality="VHQ").astype(np.float64).mean(1)
    assert track[0].std == pytest.approx(mono.std(ddof=1), rel=1e-5)
    assert track[0].mean == pytest.approx(mono.mean(), abs=1e-6)
    assert abs(track[0].std / song.mean(0).std() - 1) > 0.2  # the noise above 22 kHz is not the model's to see


def test_each_pair_of_channels_has_statistics_of_its_own():
    model, song = Loudness(), noise(1200, channels=6)
    song *= np.array([1, 1, 0.2, 0.5, 0.05, 0.05], np.float32)[:, None]
    track = track_statistics([song], model.spec, RATE, SURROUND)
    assert len(track) == 3
    plan = Plan.for_model(model.spec, segment_seconds=0.005)
    found = stream(model, song, plan=plan, track=track, layout=SURROUND, batch_size=3)
    for left, right in ((0, 1), (4, 5), (2, 2)):
        alone = one_pass(model, song[[left, right]])
        assert np.abs(found[:, [left, right]] - alone).max() < 1e-5


def test_statistics_of_silence_and_of_one_sample_are_finite():
    spec = Loudness().spec
    assert track_statistics([np.zeros((2, 500), np.float32)], spec, RATE, ("FL", "FR")) == [TrackStatistics(0, 0)]
    assert track_statistics([np.ones((2, 1), np.float32)], spec, RATE, ("FL", "FR")) == [TrackStatistics(1, 0)]


# -- channels -----------------------------------------------------------------------------------------------


def test_mono_is_duplicated_and_averaged_back():
    model, song = Convolutions(), noise(800, channels=1)
    found = stream(model, song)
    assert found.shape == (3, 1, 800)
    assert np.abs(found - one_pass(model, song[[0, 0]]).mean(1, keepdims=True)).max() < 1e-6


def test_surround_runs_as_pairs_and_centre():
    model, song = Convolutions(), noise(700, channels=6)
    found = stream(model, song, layout=SURROUND)
    assert np.abs(found[:, :2] - one_pass(model, song[:2])).max() < 1e-5
    assert np.abs(found[:, 4:] - one_pass(model, song[4:])).max() < 1e-5
    assert np.abs(found[:, 2] - one_pass(model, song[[2, 2]]).mean(1)).max() < 1e-5


def test_the_subwoofer_goes_to_the_residual_stem_as_it_is():
    model, song = Convolutions(), noise(700, channels=6)
    found = stream(model, song, layout=SURROUND)
    assert np.array_equal(found[model.spec.stems.index("other"), 3], song[3])
    assert not found[:2, 3].any()


def test_without_a_residual_stem_the_subwoofer_goes_nowhere():
    assert not stream(Strided(), noise(700, channels=6), layout=SURROUND)[:, 3].any()


@pytest.mark.parametrize("layout", [("FC",), ("FL", "FR"), SURROUND])
def test_a_mono_network_hears_every_channel_by_itself(layout):
    song = noise(600, channels=len(layout))
    found = stream(Shares(channels=1), song, layout=layout)
    assert np.abs(found.sum(0) - song).max() < 1e-6
    heard = [channel for channel, name in enumerate(layout) if name != "LFE"]
    assert np.abs(found[0, heard] - 0.75 * song[heard]).max() < 1e-6


# -- rates --------------------------------------------------------------------------------------------------

RATES = (8000, 22050, 44100, 48000, 96000, 192_000)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("make", [null_preserving_spleeter, Shares])
def test_stems_sum_to_the_song_at_any_rate(rate, make):
    song = noise(rate // 4 + 1)
    found = stream(make(), song, rate=rate)
    assert found.shape == (2, *song.shape)
    assert decibels(found.sum(0) - song, song) <= -90


@pytest.mark.parametrize("rate", [RATE, 48000])
def test_stems_of_surround_sum_to_the_song(rate):
    song = noise(9001, channels=6)
    found = stream(null_preserving_spleeter(), song, rate=rate, layout=SURROUND, block_samples=777)
    assert decibels(found.sum(0) - song, song) <= -90


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("samples", [1, 2, 3, 100, 1999])
def test_every_stem_has_the_songs_length_to_the_sample(rate, samples):
    assert stream(Strided(), noise(samples), rate=rate, block_samples=333).shape == (2, 2, samples)
    assert stream(Convolutions(), noise(samples), rate=rate, block_samples=50).shape == (3, 2, samples)


@pytest.mark.parametrize("rate", [22050, 48000])
def test_blocks_change_nothing_through_resampling(rate):
    model, song = null_preserving_spleeter(), noise(3001)
    expected = stream(model, song, rate=rate, block_samples=3001)
    for block_samples in (1, 97, 1024):
        assert np.abs(stream(model, song, rate=rate, block_samples=block_samples) - expected).max() < 1e-5


def test_what_lies_beyond_the_songs_end_is_not_resampled_into_it():
    class Hum(SegmentMean):  # speaks in silence too, so that the last segment does beyond the end
        def forward(self, mix, track=None):
            return super().forward(mix) + 1

    model, song = Hum(), noise(4810)
    at_model_rate = resample(song, 48000, RATE)
    expected = [resample(stem, RATE, 48000, song.shape[1]) for stem in stream(model, at_model_rate)]
    assert np.abs(stream(model, song, rate=48000) - expected).max() < 1e-4


def test_an_official_model_gets_no_residual(spleeter):
    """What its frames and the resampler throw away stays thrown away."""
    song = noise(24_001)
    found = stream(spleeter, song, rate=96_000)
    again = soxr.resample(soxr.resample(song.T, 96_000, RATE, "VHQ"), RATE, 96_000, "VHQ").T
    assert decibels(found.sum(0) - song, song) > -10
    assert decibels(found.sum(0), again[:, : song.shape[1]]) < 0.1


# -- memory -------------------------------------------------------------------------------------------------


def peak_bytes(minutes, model, plans, **options):
    """Python's own peak while that much of a generated song runs through."""
    rate = model.spec.sample_rate
    block = noise(rate)
    blocks = (block for _ in range(60 * minutes))
    tracemalloc.start()
    try:
        samples = 0
        for piece in SongStream(model, plans, rate, ("FL", "FR"), **options).run(blocks):
            samples += piece.mix.shape[1]
        assert samples == 60 * minutes * rate
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("model", "shifts"),
    [
        (Shares(sample_rate=8000, segment_samples=40_000, context_samples=None), [0]),
        (Shares(sample_rate=8000, segment_samples=40_000, context_samples=None), [0, 1000, 4000]),
        (Shares(sample_rate=8000), [0]),
        (FadedShares(40_000, 3072, sample_rate=8000), [0]),
    ],
    ids=["overlap", "shifts", "context", "partial sums"],
)
def test_memory_does_not_grow_with_the_song(model, shifts):
    plans = [Plan.for_model(model.spec).shifted(shift) for shift in shifts]
    short, long = (peak_bytes(minutes, model, plans) for minutes in (2, 20))
    assert long < 1.02 * short + 50_000


def test_independent_networks_are_all_run_when_all_are_asked():
    bag = Bag()
    found = stream(bag, noise(100))
    assert found.shape == (4, 2, 100)
    assert set(bag.runs.values()) == {1}
