"""Sources of a song: stems, mixture, accompaniment."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from small_data import RATE, sound, write, write_song, write_stem_mp4

from iseparate.data import Track, open_dataset
from iseparate.data.clip import Clip
from iseparate.errors import AudioFormatError, UnknownStemError, UsageError


def track_of(folder, *names, mixture=()):
    clips = {name: (Clip(folder / f"{name}.wav"),) for name in names}
    return Track("song", "test", clips, tuple(Clip(folder / f"{name}.wav") for name in mixture))


@pytest.fixture
def folder(tmp_path):
    return write_song(tmp_path / "song")


def test_facts(folder):
    track = track_of(folder, "drums", "vocals", mixture=("mixture",))
    assert (track.name, track.subset, track.title) == ("song", "test", "test/song")
    assert (track.sample_rate, track.channels, track.samples) == (RATE, 2, 13_230)
    assert track.stems == ("drums", "vocals")
    assert list(track.sources) == ["mixture", "drums", "vocals"]


def test_the_mixture_is_its_file_or_else_the_sum(folder):
    with_file = track_of(folder, "drums", "bass", "other", "vocals", mixture=("mixture",))
    summed = track_of(folder, "drums", "bass", "other", "vocals")
    stems = sum(with_file.read(stem, 100, 500) for stem in with_file.stems)
    np.testing.assert_allclose(summed.read("mixture", 100, 500), stems, atol=1e-7)
    assert np.array_equal(with_file.read("mixture", 100, 500), Clip(folder / "mixture.wav").read(100, 500))
    assert not np.array_equal(with_file.read("mixture", 100, 500), stems)  # which were rounded one by one


def test_accompaniment_is_all_but_the_vocals(folder):
    track = track_of(folder, "drums", "bass", "vocals")
    np.testing.assert_allclose(track.read("accompaniment"), track.read("drums") + track.read("bass"), atol=1e-7)
    write(folder / "accompaniment.wav", sound(99))
    track = track_of(folder, "vocals", "accompaniment")
    assert np.array_equal(track.read("accompaniment"), Clip(folder / "accompaniment.wav").read())


@pytest.mark.parametrize("source", ["drums", "mixture", "accompaniment"])
def test_blocks_are_the_whole(folder, source):
    track = track_of(folder, "drums", "bass", "vocals")
    blocks = list(track.blocks(source, 5000))
    assert [block.shape[1] for block in blocks] == [5000, 5000, 3230]
    np.testing.assert_allclose(np.concatenate(blocks, axis=1), track.read(source), atol=1e-7)


def test_reading_a_sum_leaves_no_trace(folder):
    track = track_of(folder, "drums", "bass")
    first = track.read("mixture")
    assert np.array_equal(track.read("mixture"), first)
    assert np.array_equal(track.read("drums"), Clip(folder / "drums.wav").read())


def test_mono_is_widened(folder):
    write(folder / "bass.wav", sound(5, channels=1))
    track = track_of(folder, "drums", "bass")
    bass = track.read("bass")
    assert bass.shape == (2, 13_230)
    assert np.array_equal(bass[0], bass[1])
    np.testing.assert_allclose(track.read("mixture"), track.read("drums") + bass, atol=1e-7)
    assert {block.shape[0] for block in track.blocks("bass")} == {2}


def test_the_shortest_source_sets_the_length(folder):
    write(folder / "bass.wav", sound(5)[:, :13_000])
    track = track_of(folder, "drums", "bass")
    assert track.samples == 13_000
    assert track.read("drums").shape == track.read("mixture").shape == (2, 13_000)
    assert sum(block.shape[1] for block in track.blocks("drums", 1000)) == 13_000
    with pytest.raises(UsageError, match="part of its 13000"):
        track.read("drums", 12_999, 2)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (
            lambda: (sound(5, seconds=0.1), RATE),
            r"do not have one length: bass\.wav lasts 0\.10 s and drums\.wav 0\.30",
        ),
        (lambda: (sound(5), 48_000), r"drums\.wav has 44100 Hz and bass\.wav has 48000 Hz"),
        (lambda: (sound(5, channels=4), RATE), r"drums\.wav has 2 channels and bass\.wav has 4 channels"),
    ],
)
def test_sources_that_do_not_fit_together(folder, other, sentence):
    write(folder / "bass.wav", *other())
    with pytest.raises(AudioFormatError, match=sentence):
        track_of(folder, "drums", "bass").read("drums")


def test_unknown_sources(folder):
    track = track_of(folder, "drums", "bass")
    with pytest.raises(UnknownStemError, match="no source 'drum': it has drums, bass; did you mean drums"):
        track.read("drum")
    loose = Track("v", "", {"vocals": (Clip(folder / "vocals.wav"),)}, is_song=False)
    assert loose.read("vocals", 0, 5).shape == (2, 5)
    with pytest.raises(UnknownStemError, match="a stem on its own"):
        loose.read("mixture")
    with pytest.raises(UnknownStemError, match="it has no stem"):
        Track("empty", "", {}).read("mixture")
    with pytest.raises(AudioFormatError, match="has no sound file"):
        _ = Track("empty", "", {}).samples


def test_tracks_are_values_that_can_be_sent(folder):
    track = track_of(folder, "drums", "bass")
    _ = track.samples
    again = pickle.loads(pickle.dumps(track))
    assert again == track
    assert hash(again) == hash(track)
    assert np.array_equal(again.read("mixture", 5, 50), track.read("mixture", 5, 50))


def test_excerpts_of_stem_files(tmp_path):
    write_stem_mp4(tmp_path / "test" / "a.stem.mp4", seconds=3.5)
    (track,) = open_dataset(f"musdb18:{tmp_path}").tracks
    for source in ("mixture", "drums", "vocals", "accompaniment"):
        full = track.read(source)
        assert full.shape == (2, 7 * RATE // 2)
        np.testing.assert_allclose(track.read(source, 140_001, 9000), full[:, 140_001:149_001], atol=1e-6)
    stems = sum(track.read(stem) for stem in track.stems)
    assert np.square(stems - track.read("mixture")).mean() < 5e-3 * np.square(stems).mean()  # -23 dB: AAC
