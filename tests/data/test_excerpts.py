"""Which excerpts training sees, that they depend on (seed, epoch, index) alone, and that bad ones do not stop it."""

from __future__ import annotations

import pickle
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_songs import RATE, STEMS, noise, song, write

from iseparate.data.augment import Draws, Gain, Shift
from iseparate.data.clip import Clip
from iseparate.data.excerpts import (
    MAX_ATTEMPTS,
    CentreSampling,
    Excerpts,
    RandomSampling,
    SequentialSampling,
    Silence,
)
from iseparate.data.track import Track
from iseparate.errors import AudioReadError, UsageError

N = 2000


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("songs")
    return [song(folder, number, (2 + number) * RATE) for number in range(3)]


def where(track, stem, excerpt):
    """At which sample of a stem an excerpt lies; None if nowhere."""
    whole = track.read(stem)
    first = excerpt[0, :8].numpy()
    for start in np.flatnonzero(whole[0, : -len(first)] == first[0]):
        if np.array_equal(whole[:, start : start + excerpt.shape[1]], excerpt.numpy()):
            return int(start)
    return None


def test_all_stems_of_an_unmixed_example_come_from_one_place(tracks):
    excerpts = Excerpts(tracks, STEMS, N, RATE, sampling=RandomSampling(4))
    assert len(excerpts) == 12
    for index in (0, 5, 11):
        stems = excerpts[0, index].stems
        starts = {where(tracks[index // 4], stem, stems[i]) for i, stem in enumerate(STEMS)}
        assert len(starts) == 1
        assert None not in starts


def test_an_example_depends_on_seed_epoch_and_index_alone(tracks):
    make = lambda seed: Excerpts(tracks, STEMS, N, RATE, mix_songs=0.5, augmentations=[Gain()], seed=seed)  # noqa: E731
    first, second = make(3), pickle.loads(pickle.dumps(make(3)))
    keys = [(0, 0), (0, 1), (1, 0), (7, 100)]
    forward = [first[key].stems for key in keys]
    backward = [second[key].stems for key in reversed(keys)][::-1]
    assert all(map(torch.equal, forward, backward))
    assert len({stems.sum().item() for stems in [*forward, make(4)[0, 0].stems]}) == 5


def test_mixed_examples_take_each_stem_from_a_song_and_place_of_its_own(tracks):
    excerpts = Excerpts(tracks, STEMS, N, RATE, mix_songs=1.0)
    songs = Counter()
    for index in range(20):
        found = [
            next((t.name, at) for t in tracks if (at := where(t, stem, excerpts[0, index].stems[i])) is not None)
            for i, stem in enumerate(STEMS)
        ]
        songs.update(name for name, _ in found)
        assert len({at for _, at in found}) > 1
    assert len(songs) == 3


def test_half_of_the_examples_are_mixed(tracks):
    excerpts = Excerpts(tracks, ("vocals", "drums"), 200, RATE, mix_songs=0.5, sampling=RandomSampling(200))
    whole = 0
    for index in range(60):
        stems = excerpts[0, index].stems
        at = where(tracks[0], "vocals", stems[0])
        whole += at is not None and at == where(tracks[0], "drums", stems[1])
    assert 15 <= whole <= 45


@pytest.mark.parametrize("stride", [500, 2000, 5000])
def test_sequential_windows_cover_every_sample_in_order(tracks, stride):
    excerpts = Excerpts(tracks[:2], ("bass",), N, RATE, sampling=SequentialSampling(stride))
    lengths = [track.samples for track in tracks[:2]]
    places = [excerpts.sampling.place(i, lengths, N, Draws(0)) for i in range(len(excerpts))]
    for number, length in enumerate(lengths):
        starts = [p.start_samples for p in places if p.song == number]
        assert starts == sorted(starts)
        assert starts[0] == 0
        assert starts[-1] < length <= starts[-1] + N
        assert all(b - a == stride for a, b in pairwise(starts[:-1]))
    last = excerpts[0, len(excerpts) - 1].stems
    there = min(N, lengths[-1] - places[-1].start_samples)
    assert last[..., there:].abs().sum() == 0
    assert last[..., :there].abs().sum() > 0


def test_sequential_sampling_repeats(tracks):
    once, twice = (Excerpts(tracks, ("bass",), N, RATE, sampling=SequentialSampling(700, r)) for r in (1, 2))
    assert len(twice) == 2 * len(once)
    assert torch.equal(twice[0, 3].stems, twice[0, 3 + len(once)].stems)


def test_the_centre_is_the_centre(tracks):
    excerpts = Excerpts(tracks, ("bass",), N, RATE, sampling=CentreSampling())
    assert len(excerpts) == 3
    assert where(tracks[1], "bass", excerpts[0, 1].stems[0]) == (tracks[1].samples - N) // 2


def test_so_many_of_all_songs(tracks):
    assert len(Excerpts(tracks, STEMS, N, RATE, sampling=RandomSampling(per_epoch=100))) == 100


def test_a_song_shorter_than_the_excerpt_ends_in_silence(tmp_path):
    excerpts = Excerpts([song(tmp_path, 0, 500)], STEMS, N, RATE, mix_songs=0.5)
    for index in range(4):
        stems = excerpts[0, index].stems
        assert stems.shape == (4, 2, N)
        assert stems[..., 500:].abs().sum() == 0
        assert stems[..., :500].std() > 0.01


def test_mono_songs_are_duplicated_and_stereo_songs_averaged(tmp_path, tracks):
    mono = song(tmp_path, 0, channels=1)
    wide = Excerpts([mono], ("bass",), N, RATE, sampling=CentreSampling())[0, 0].stems
    assert wide.shape == (1, 2, N)
    assert torch.equal(wide[0, 0], wide[0, 1])
    narrow = Excerpts(tracks, ("bass",), N, RATE, channels=1, sampling=CentreSampling())[0, 0].stems
    stereo = Excerpts(tracks, ("bass",), N, RATE, sampling=CentreSampling())[0, 0].stems
    assert torch.allclose(narrow, stereo.mean(1, keepdim=True))


def test_longer_excerpts_are_read_where_augmentations_shorten(tracks):
    shift = Shift(0.1)
    excerpts = Excerpts(tracks, STEMS, N, RATE, augmentations=[shift], later=[shift])
    stems = excerpts[0, 0].stems
    assert stems.shape[-1] == N + 800, "what later cuts off is still there"
    assert {where(tracks[0], stem, stems[i]) for i, stem in enumerate(STEMS)} - {None}


def test_the_songs_own_mixture(tmp_path):
    own = noise(9, 3 * RATE)
    excerpts = Excerpts([song(tmp_path, 0, mixture=own)], STEMS, N, RATE, with_mixture=True)
    example = excerpts[0, 0]
    assert example.mixture.shape == (2, N)
    start = where(excerpts.tracks[0], "vocals", example.stems[0])
    assert np.array_equal(example.mixture.numpy(), own[:, start : start + N])


def test_accompaniment_is_all_but_vocals(tracks):
    stems = Excerpts(tracks, ("accompaniment", *STEMS[1:]), N, RATE, sampling=CentreSampling())[0, 0].stems
    assert torch.allclose(stems[0], stems[1:].sum(0), atol=1e-6)


# Silence


def half_silent(folder, number=0):
    sounds = {stem: noise(i, 4 * RATE) for i, stem in enumerate(STEMS)}
    sounds["vocals"] = np.concatenate([np.zeros((2, 2 * RATE), np.float32), noise(7, 2 * RATE)], axis=1)
    return song(folder, number, sounds=sounds)


def share_of_silent_vocals(excerpts, count=60):
    return sum(not excerpts[0, i].stems[0].any() for i in range(count)) / count


def test_excerpts_with_silent_stems_are_drawn_anew(tmp_path):
    track = half_silent(tmp_path)
    with_silence = Excerpts([track], STEMS, N, RATE)
    without = Excerpts([track], STEMS, N, RATE, silence=Silence(keep=0.0, redraws=16))
    some = Excerpts([track], STEMS, N, RATE, silence=Silence(keep=0.5, redraws=16))
    assert share_of_silent_vocals(with_silence) > 0.3
    assert share_of_silent_vocals(without) == 0
    assert 0.05 < share_of_silent_vocals(some) < 0.45
    mixed = Excerpts([track], STEMS, N, RATE, mix_songs=1.0, silence=Silence(keep=0.0, redraws=16))
    assert share_of_silent_vocals(mixed) == 0


def test_a_song_that_is_silent_throughout_does_not_loop_for_ever(tmp_path):
    silent = song(tmp_path, 0, sounds={stem: np.zeros((2, RATE), np.float32) for stem in STEMS})
    assert not Excerpts([silent], STEMS, N, RATE, silence=Silence(keep=0.0))[0, 0].stems.any()


def test_silence_is_told_by_level_and_share():
    rule = Silence(threshold_db=-60, least_active_share=0.5)
    tenth = RATE // 10
    sound = np.zeros((2, 10 * tenth), np.float32)
    sound[:, : 4 * tenth] = 0.1
    assert rule.is_silent(sound, RATE)
    sound[:, 4 * tenth : 5 * tenth] = 0.1
    assert not rule.is_silent(sound, RATE)
    assert rule.is_silent(np.full((2, RATE), 0.0009, np.float32), RATE)
    assert not rule.is_silent(np.full((2, 50), 0.0011, np.float32), RATE)


# Faults


def damaged(folder, number):
    """A song whose vocals break off after their header was read."""
    track = song(folder, number, 3 * RATE)
    _ = track.samples
    path = track.clips["vocals"][0].path
    path.write_bytes(path.read_bytes()[: 44 + 4000])
    return track


def test_an_unreadable_excerpt_is_replaced_and_named(tmp_path, tracks):
    excerpts = Excerpts([damaged(tmp_path, 7), *tracks], STEMS, N, RATE, sampling=RandomSampling(2))
    first, again = excerpts[0, 0], excerpts[0, 0]
    assert first.stems.shape == (4, 2, N)
    assert torch.equal(first.stems, again.stems)
    fault = first.faults[0]
    assert (fault.song, fault.source) == ("train/song 7", "vocals")
    assert 0 <= fault.start_seconds < 3
    assert "0:0" in str(fault)
    assert "vocals.wav" in str(fault)
    assert not excerpts[0, 4].faults


def test_samples_that_are_no_numbers_are_a_fault(tmp_path, tracks):
    bad = song(tmp_path, 8, 3 * RATE, subtype="FLOAT")
    _ = bad.samples
    sound = noise(0, 3 * RATE)
    sound[0, :] = np.nan
    soundfile.write(bad.clips["bass"][0].path, sound.T, RATE, subtype="FLOAT")
    example = Excerpts([bad, *tracks], STEMS, N, RATE, sampling=RandomSampling(1))[0, 0]
    assert example.faults[0].source == "bass"
    assert example.stems.isfinite().all()


def test_where_nothing_can_be_read_it_ends_with_the_reason(tmp_path):
    excerpts = Excerpts([damaged(tmp_path, 0)], ("vocals",), N, RATE)
    excerpts.tracks[0].clips["vocals"][0].path.unlink()
    with pytest.raises(AudioReadError, match=rf"{MAX_ATTEMPTS} excerpts .*vocals"):
        _ = excerpts[0, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tracks": []}, "no songs"),
        ({"stems": ("vocals", "vocals")}, "each once"),
        ({"stems": ("piano",)}, "no piano"),
        ({"samples": 0}, "samples"),
        ({"sample_rate": 44_100}, "data prepare --sample-rate 44100"),
        ({"mix_songs": 1.5}, "mix_songs"),
        ({"channels": 3}, "channels"),
        ({"with_mixture": True, "mix_songs": 1.0}, "mixtures"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(tracks, change, words):
    arguments = {"tracks": tracks, "stems": STEMS, "samples": N, "sample_rate": RATE} | change
    with pytest.raises(UsageError, match=words):
        Excerpts(**arguments)


def test_stems_on_their_own_can_be_mixed_and_only_mixed(tmp_path):
    parts = [
        Track(f"{stem} {i}", "", {stem: (write(tmp_path / f"{stem}{i}.wav", noise(i, RATE)),)}, is_song=False)
        for i in range(2)
        for stem in ("vocals", "drums")
    ]
    with pytest.raises(UsageError, match="mix_songs to 1"):
        Excerpts(parts, ("vocals", "drums"), N, RATE)
    stems = Excerpts(parts, ("vocals", "drums"), N, RATE, mix_songs=1.0)[0, 0].stems
    assert stems.shape == (2, 2, N)
    assert stems.std((1, 2)).min() > 0.05


@given(
    lengths=st.lists(st.integers(1, 5000), min_size=1, max_size=5),
    samples=st.integers(1, 3000),
    stride=st.integers(1, 4000),
    seed=st.integers(0, 99),
)
@settings(max_examples=200, deadline=None)
def test_every_place_of_every_way_lies_inside_its_song(lengths, samples, stride, seed):
    for sampling in (RandomSampling(3), RandomSampling(per_epoch=7), SequentialSampling(stride, 2), CentreSampling()):
        count = sampling.count(lengths, samples)
        for index in {0, count // 2, count - 1}:
            song_number, start = sampling.place(index, lengths, samples, Draws(seed, index))
            assert 0 <= start < lengths[song_number]
            if isinstance(sampling, RandomSampling | CentreSampling):
                assert start + min(samples, lengths[song_number]) <= lengths[song_number]


def test_a_clip_is_only_opened_where_it_is_read(tracks, monkeypatch):
    excerpts = Excerpts(tracks, STEMS, N, RATE)
    asked = []
    monkeypatch.setattr(Clip, "read", lambda self, start, n: asked.append(n) or np.zeros((2, n), np.float32))
    _ = excerpts[0, 0]
    assert asked == [N] * 4
