"""The songs of the synthetic band, measured."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from iseparate.data.synthetic.band import STEMS, RenderedSong, render, render_song
from iseparate.errors import UnknownStemError, UsageError

RATE = 44100
SECONDS = 4.0
SEEDS = (5, 7, 10)  # all four stems sound in at least one, and genres differ


@cache
def song(seed: int) -> RenderedSong:
    return render(seed, SECONDS)


def power_below(sound: np.ndarray, hz: float) -> float:
    power = np.square(np.abs(np.fft.rfft(sound.mean(axis=0))))
    return float(power[np.fft.rfftfreq(sound.shape[1], 1 / RATE) < hz].sum() / power.sum())


def sounding(stem: str) -> list[np.ndarray]:
    found = [song(seed).stems[stem] for seed in SEEDS if np.any(song(seed).stems[stem])]
    assert found, f"no seed has {stem}"
    return found


def test_the_same_seed_gives_the_same_samples():
    first, again, other = render_song(10, 2.0), render_song(10, 2.0), render_song(11, 2.0)
    for stem in STEMS:
        assert np.array_equal(first[stem], again[stem])
    assert any(not np.array_equal(first[stem], other[stem]) for stem in STEMS)


@pytest.mark.parametrize("seed", SEEDS)
def test_shapes_and_range(seed):
    stems = song(seed).stems
    assert tuple(stems) == STEMS
    for stem in stems.values():
        assert stem.dtype == np.float32
        assert stem.shape == (2, round(SECONDS * RATE))
        assert np.isfinite(stem).all()
        assert np.abs(stem).max() < 1.0
    assert 0.1 < np.abs(song(seed).mixture).max() < 1.0


@pytest.mark.parametrize("seed", SEEDS)
def test_the_stems_sum_to_the_mixture_exactly_in_any_order(seed):
    stems = song(seed).stems
    wide = sum(stem.astype(np.float64) for stem in stems.values())
    for order in (STEMS, STEMS[::-1], ("vocals", "drums", "other", "bass")):
        total = np.zeros_like(stems["drums"])
        for name in order:
            total += stems[name]
        assert np.array_equal(total, wide)
    assert np.array_equal(song(seed).mixture, wide)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_stem_is_shifted_from_zero(seed):
    for stem in song(seed).stems.values():
        assert np.abs(stem.mean(axis=1, dtype=np.float64)).max() < 1e-3


@pytest.mark.parametrize("seed", SEEDS)
def test_stems_are_not_copies_of_each_other(seed):
    stems = [stem.mean(axis=0) for stem in song(seed).stems.values() if np.any(stem)]
    for place, one in enumerate(stems):
        for other in stems[place + 1 :]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.35


def test_the_bass_is_low():
    assert min(power_below(stem, 500.0) for stem in sounding("bass")) > 0.7
    assert np.median([power_below(stem, 250.0) for stem in sounding("bass")]) > 0.7


def test_the_voice_leaves_the_lowest_octaves_alone():
    for stem in sounding("vocals"):
        assert power_below(stem, 80.0) < 0.02
        assert power_below(stem, 4000.0) - power_below(stem, 150.0) > 0.3


def test_drums_reach_from_kick_to_cymbals():
    # of a few seconds in a break there may be nothing but hi-hats
    assert np.median([power_below(stem, 300.0) for stem in sounding("drums")]) > 0.1
    assert min(1.0 - power_below(stem, 5000.0) for stem in sounding("drums")) > 0.001


def test_a_stem_not_asked_for_is_not_in_the_song():
    pair = render(10, 2.0, ("vocals", "drums"))
    assert tuple(pair.stems) == ("vocals", "drums")
    assert np.array_equal(pair.mixture, pair.stems["vocals"] + pair.stems["drums"])


def test_facts_are_plain_and_name_the_licences():
    import json

    facts = json.loads(json.dumps(dict(song(5).facts)))
    assert facts["seed"] == 5
    assert 55.0 < facts["tempo_bpm"] < 181.0
    assert all(sound["licence"] for sound in facts["sounds"])


def test_a_dry_song_has_the_same_notes_without_effects_and_codec():
    wet, dry = song(7), render(7, SECONDS, dry=True)
    assert wet.facts["codec"] is not None
    assert dict(dry.facts) == {**wet.facts, "dry": True, "codec": None}
    assert np.array_equal(dry.mixture, sum(stem.astype(np.float64) for stem in dry.stems.values()))
    for stem in STEMS:
        assert np.any(dry.stems[stem]) == np.any(wet.stems[stem])
    # Sound that effects have changed is still much the same sound.
    likeness = np.corrcoef(wet.mixture.ravel(), dry.mixture.ravel())[0, 1]
    assert 0.3 < likeness < 0.98


def test_what_is_said_to_sound_does_sound():
    for seed in SEEDS:
        loud = [stem for stem, samples in song(seed).stems.items() if np.any(samples)]
        assert list(song(seed).facts["sounding_stems"]) == loud


@pytest.mark.parametrize(
    ("seed", "seconds", "stems", "error", "words"),
    [
        (-1, 5.0, STEMS, UsageError, "seed is -1"),
        (0, 0.5, STEMS, UsageError, "0.5 seconds"),
        (0, float("nan"), STEMS, UsageError, "nan seconds"),
        (0, 1e9, STEMS, UsageError, "1 to 600"),
        (0, 5.0, (), UsageError, "at least one"),
        (0, 5.0, ("bass", "bass"), UsageError, "at most once"),
        (0, 5.0, ("guitar",), UnknownStemError, "no stem 'guitar'"),
    ],
)
def test_refusals(seed, seconds, stems, error, words):
    with pytest.raises(error, match=words):
        render_song(seed, seconds, stems)
