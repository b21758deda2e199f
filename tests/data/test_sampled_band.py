"""The band on recorded sounds, as far as they are installed here."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest

from iseparate.data.datasets import synthetic
from iseparate.data.datasets.synthetic import rendered_once
from iseparate.data.synthetic import folder
from iseparate.data.synthetic.band import RenderedSong, render
from iseparate.data.synthetic.folder import BandSettings, render_folder
from iseparate.data.synthetic.phonemes import Syllable
from iseparate.data.synthetic.sampled import sources
from iseparate.data.synthetic.sampled.cast import SampledCasting
from iseparate.data.synthetic.sampled.general_midi import KITS
from iseparate.data.synthetic.sampled.soundfont import DRUM_BANK, Event, Program
from iseparate.data.synthetic.sampled.soundfont import render as render_events
from iseparate.data.synthetic.sampled.sources import (
    ALLOWED_LICENCES,
    SOURCES,
    SoundSource,
    fingerprints,
    installed,
    unplayed,
)
from iseparate.data.synthetic.sounds import Note
from iseparate.data.synthetic.voice import Sung
from iseparate.errors import AudioReadError, UsageError

HERE = {source.name: source for source in installed()}
FONTS = [source for source in HERE.values() if "instruments" in source.plays]
needs_font = pytest.mark.skipif(not FONTS, reason="no SoundFont is installed")
needs_voice = pytest.mark.skipif("nitech-f001" not in HERE, reason="pysinsy and pyworld are not installed")
RATE = 44100


@cache
def sampled(seed: int):
    return render(seed, 2.0, sounds=tuple(HERE.values()))


@pytest.mark.skipif(not HERE, reason="no sampled sounds are installed")
@pytest.mark.parametrize("seed", [0, 7])
def test_songs_are_whole_and_the_same_every_time(seed):
    song = sampled(seed)
    assert song.facts["cast"]
    wide = sum(stem.astype(np.float64) for stem in song.stems.values())
    assert np.array_equal(song.mixture, wide)
    assert np.isfinite(wide).all()
    assert 0.05 < np.abs(wide).max() < 1.0
    again = render(seed, 2.0, sounds=tuple(HERE.values()))
    assert all(np.array_equal(again.stems[stem], song.stems[stem]) for stem in song.stems)


@pytest.mark.skipif(not HERE, reason="no sampled sounds are installed")
def test_facts_name_whose_sounds_they_are_and_under_which_licence():
    facts = json.loads(json.dumps(dict(sampled(0).facts)))
    assert all(sound["licence"] in ALLOWED_LICENCES and sound["credit"] for sound in facts["sounds"])
    playing = {name for names in facts["cast"].values() for name in names.split(" + ")}
    titles = {HERE[name].title for name in playing}
    assert titles == {sound["name"] for sound in facts["sounds"]} - {"iseparate synthesis"}


@needs_font
@pytest.mark.parametrize("font", FONTS, ids=lambda source: source.name)
def test_a_program_sounds_at_its_pitch_and_nothing_rings_on_into_the_next_call(font):
    events = [Event(0, "on", 0, 57, 100), Event(RATE, "off", 0, 57)]
    first, again = (render_events({0: Program(font.path(), 0, 19)}, events, RATE) for _ in range(2))
    assert np.array_equal(first, again)
    spectrum = np.abs(np.fft.rfft(first[0] * np.hanning(RATE)))
    assert any(abs(220.0 * factor - spectrum.argmax()) < 3.0 * factor for factor in (1, 2, 4))
    silence = render_events({0: Program(font.path(), 0, 19)}, [], 4410)
    assert np.abs(silence).max() < 1e-4


@needs_font
@pytest.mark.parametrize("font", FONTS, ids=lambda source: source.name)
def test_bends_are_semitones(font):
    def pitch_hz(bend: float) -> float:
        events = [Event(0, "bend", 3, bend), Event(0, "on", 3, 69, 100)]
        sound = render_events({3: Program(font.path(), 0, 80)}, events, RATE)[0]
        return float(np.abs(np.fft.rfft(sound * np.hanning(RATE)))[200:700].argmax() + 200)

    assert pitch_hz(-7.0) / pitch_hz(0.0) == pytest.approx(2.0 ** (-7 / 12), rel=0.01)


@needs_font
def test_threads_do_not_hear_each_other():
    def play(key: int) -> np.ndarray:
        return render_events({0: Program(FONTS[0].path(), 0, 48)}, [Event(0, "on", 0, key, 90)], RATE)

    keys = [50, 57, 64, 71] * 2
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(play, keys))
    assert all(np.array_equal(sound, play(key)) for sound, key in zip(together, keys, strict=True))


@needs_font
def test_every_kit_of_the_table_is_there():
    for font in FONTS:
        for program in {number for numbers in KITS.values() for number in numbers}:
            render_events({0: Program(font.path(), DRUM_BANK, program)}, [], 64)


@needs_font
def test_a_file_that_is_no_soundfont(tmp_path):
    (tmp_path / "font.sf2").write_bytes(b"RIFF, or so it says")
    with pytest.raises(AudioReadError, match="cannot be read as a SoundFont"):
        render_events({0: Program(tmp_path / "font.sf2", 0, 0)}, [], 64)


@needs_voice
@pytest.mark.parametrize(("voice", "pitch"), [("low", 45.0), ("high", 74.0)])
def test_the_singer_is_in_tune_far_from_where_the_recorded_voice_sings(voice, pitch):
    rng = np.random.default_rng(3)
    casting = SampledCasting(0, [HERE["nitech-f001"]])
    singer = next(found for _ in range(50) if (found := casting.singer(voice, "chant", rng)))
    note = Note(0.8, 1.0, pitch, 0.9)
    line = singer.sing(((Sung(note, Syllable("m", "a", "a", "")),),), 2 * RATE)
    steady = line[int(1.1 * RATE) : int(1.6 * RATE)]
    spectrum = np.square(np.abs(np.fft.rfft(steady * np.hanning(len(steady)), 1 << 17)))
    around = np.fft.irfft(spectrum)
    expected = RATE / (440.0 * 2.0 ** ((pitch - 69.0) / 12.0))
    lags = np.arange(int(0.7 * expected), int(1.4 * expected))
    found = lags[around[lags].argmax()]
    assert 12.0 * abs(np.log2(found / expected)) < 0.7
    assert around[found] > 0.5 * around[0]


def test_what_nobody_plays_is_said():
    font, kit, voice = (next(s for s in SOURCES if part in s.plays) for part in ("instruments", "drums", "voice"))
    assert unplayed([font, voice]) == ""
    assert "for instruments and voice," in unplayed([dataclasses.replace(kit, plays=("drums",))])
    assert "for instruments and drums," in unplayed([voice])


@pytest.fixture
def one_kit(tmp_path, monkeypatch):
    """A source that is here on every machine."""
    place = tmp_path / "sounds"
    place.mkdir()
    (place / "kick.flac").write_bytes(b"boom")
    source = SoundSource("kit", "A kit", ("drums",), "apt install kit", (str(place),), "CC0-1.0", "Nobody")
    monkeypatch.setattr(sources, "SOURCES", (source,))
    sources.named.cache_clear()
    yield place
    sources.named.cache_clear()


def test_a_folder_credits_the_sounds_of_its_songs_and_goes_on_only_with_the_same(tmp_path, monkeypatch, one_kit):
    asked = []

    def song(seed, seconds, stems, sounds, dry):
        asked.append([source.name for source in sounds])
        return RenderedSong({"drums": np.zeros((2, 100), np.float32)}, {"sounds": [s.credit_line() for s in sounds]})

    monkeypatch.setattr(folder, "render", song)
    settings = BandSettings(1, song_seconds=10.0, sounds=fingerprints(installed()))
    root = render_folder(tmp_path / "band", 10 / 3600, settings).root
    assert asked == [["kit"]]
    assert "A kit: CC0-1.0 (https://creativecommons.org/" in (root / "NOTICE.txt").read_text()
    with pytest.raises(UsageError, match="another band"):
        render_folder(root, 20 / 3600, BandSettings(1, song_seconds=10.0))
    (one_kit / "kick.flac").write_bytes(b"bang!")
    sources.named.cache_clear()
    with pytest.raises(UsageError, match="begun with the sounds kit="):
        render_folder(root, 20 / 3600, settings)


def test_a_cache_of_other_sounds_is_another_one(tmp_path, monkeypatch, caplog, one_kit):
    monkeypatch.setenv("ISEPARATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        folder, "render", lambda *_: RenderedSong({"drums": np.zeros((2, 100), np.float32)}, {"sounds": []})
    )
    own, first = rendered_once("0.01@7"), rendered_once("0.01@7+installed")
    assert rendered_once("0.01@7+installed") == first != own
    assert [record.message[:45] for record in caplog.records] == ["no sampled sounds are here for instruments an"]
    (one_kit / "kick.flac").write_bytes(b"bang!")
    sources.named.cache_clear()
    assert rendered_once("0.01@7+installed") not in (own, first)
    monkeypatch.setattr(sources, "SOURCES", ())
    with pytest.raises(UsageError, match="iseparate data sounds"):
        rendered_once("0.01@7+installed")


@pytest.mark.parametrize("words", ["0.5@7+", "0.5@7+all", "0.5@7 +installed", "0.5+installed"])
def test_words_that_are_none(words):
    assert not synthetic.BAND_WORDS.fullmatch(words)
    with pytest.raises(UsageError):
        rendered_once(words)
