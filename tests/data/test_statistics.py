"""Input statistics: those of all frames at once, whatever the blocks; and kept."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from noise_songs import RATE, noise, song

from iseparate.data import statistics
from iseparate.data.statistics import SpectrumStatistics, Transform, cached_statistics, spectrum_statistics
from iseparate.errors import AudioFormatError, UsageError
from iseparate.nn.stft import centred_spectrum, hann

SMALL = Transform(256, 64)


def at_once(tracks, transform=SMALL):
    """What the literature does: all spectra in memory."""
    spectra = [
        centred_spectrum(torch.from_numpy(track.read("mixture")), hann(transform.frame_samples), transform.hop_samples)
        for track in tracks
    ]
    frames = torch.cat([s.abs().double().mean(0) for s in spectra]).numpy()
    return frames.mean(0), frames.std(0), len(frames)


@pytest.mark.parametrize("lengths", [[5000, 3001], [128, 129, 1], [256 * 64 + 3 * 64 + 17], [64, 20_000]])
@pytest.mark.parametrize("transform", [SMALL, Transform(256, 200), Transform(512, 512)])
def test_one_pass_equals_all_frames_at_once(tmp_path, lengths, transform):
    tracks = [song(tmp_path, number, length) for number, length in enumerate(lengths)]
    mean, deviation, frames = at_once(tracks, transform)
    found = spectrum_statistics(tracks, transform, block_samples=1000)
    assert found.frames == frames
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(found.deviation, deviation, rtol=1e-5, atol=1e-9)


def test_blocks_change_not_one_bit(tmp_path):
    tracks = [song(tmp_path, number, 30_000 + number) for number in range(2)]
    first, *others = (spectrum_statistics(tracks, SMALL, block_samples=n) for n in (997, 100, 1 << 20))
    for other in others:
        assert np.array_equal(first.mean, other.mean)
        assert np.array_equal(first.deviation, other.deviation)


def test_magnitudes_are_averaged_over_channels_and_not_the_waveform(tmp_path):
    left = noise(0, 5000, 1)
    opposed = np.concatenate([left, -left])
    found = spectrum_statistics([song(tmp_path, sounds={"vocals": opposed})], SMALL)
    assert found.mean.min() > 0.01, "left and right cancel in a mono mix"


def test_a_loud_constant_does_not_drown_the_deviation(tmp_path):
    """Sums of squares would lose a deviation of 1e-4 beside a mean of 100."""
    t = np.arange(20_480)
    steady = (0.5 * np.cos(2 * np.pi * 32 / 256 * t))[None].repeat(2, 0).astype(np.float32)
    track = song(tmp_path, sounds={"vocals": steady}, subtype="FLOAT")
    mean, deviation, _ = at_once([track])
    found = spectrum_statistics([track], SMALL)
    np.testing.assert_allclose(found.deviation[32], deviation[32], rtol=1e-4)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6, atol=1e-9)


def test_the_scale_has_a_floor():
    found = SpectrumStatistics(np.zeros(3), np.array([2.0, 1e-9, 1.0]), 5)
    assert found.scale.tolist() == [2.0, 2e-4, 1.0]
    assert SpectrumStatistics(np.zeros(2), np.zeros(2), 5).scale.tolist() == [1.0, 1.0]


def test_a_second_asking_reads_nothing(tmp_path, monkeypatch):
    tracks = [song(tmp_path / "data", 0, 4000)]
    first = cached_statistics(tracks, "hash", SMALL, folder=tmp_path / "kept")
    monkeypatch.setattr(statistics, "spectrum_statistics", lambda *_, **__: pytest.fail("computed again"))
    again = cached_statistics(tracks, "hash", SMALL, folder=tmp_path / "kept")
    assert np.array_equal(first.mean, again.mean)
    assert np.array_equal(first.deviation, again.deviation)
    assert again.frames == first.frames
    assert [path.suffix for path in (tmp_path / "kept").iterdir()] == [".npz"]


@pytest.mark.parametrize("other", ["data", "subset", "transform"])
def test_other_data_have_other_statistics(tmp_path, other):
    tracks = [song(tmp_path / "data", number, 4000) for number in range(2)]
    cached_statistics(tracks, "hash", SMALL, folder=tmp_path / "kept")
    cached_statistics(
        tracks[:1] if other == "subset" else tracks,
        "another" if other == "data" else "hash",
        Transform(512, 64) if other == "transform" else SMALL,
        folder=tmp_path / "kept",
    )
    assert len(list((tmp_path / "kept").iterdir())) == 2


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a zip", "half", "nan"])
def test_damaged_results_are_computed_again(tmp_path, damage):
    tracks = [song(tmp_path / "data", 0, 4000)]
    first = cached_statistics(tracks, "hash", SMALL, folder=tmp_path / "kept")
    (kept,) = (tmp_path / "kept").iterdir()
    if damage == "nan":
        np.savez(kept, mean=first.mean * np.nan, deviation=first.deviation, frames=first.frames)
    else:
        kept.write_bytes(kept.read_bytes()[:400] if damage == "half" else damage)
    assert np.array_equal(cached_statistics(tracks, "hash", SMALL, folder=tmp_path / "kept").mean, first.mean)


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path, caplog):
    (tmp_path / "kept").write_text("a file")
    found = cached_statistics([song(tmp_path / "data", 0, 4000)], "hash", SMALL, folder=tmp_path / "kept")
    assert found.frames > 0
    assert "cannot be kept" in caplog.text


def test_progress_names_the_songs(tmp_path):
    told = []
    spectrum_statistics([song(tmp_path, n, 500) for n in range(2)], SMALL, progress=lambda *a: told.append(a))
    assert told == [(0, 2, "train/song 0"), (1, 2, "train/song 1"), (2, 2, "")]


def test_bad_songs_and_bad_transforms_are_refused(tmp_path):
    bad = song(tmp_path, 0, 4000, subtype="FLOAT")
    _ = bad.samples
    sound = noise(0, 4000)
    sound[0, 7] = np.inf
    soundfile.write(bad.clips["vocals"][0].path, sound.T, RATE, subtype="FLOAT")
    with pytest.raises(AudioFormatError):
        spectrum_statistics([bad], SMALL)
    with pytest.raises(UsageError, match="no songs"):
        spectrum_statistics([])
    with pytest.raises(UsageError, match="even frame"):
        Transform(255, 64)
