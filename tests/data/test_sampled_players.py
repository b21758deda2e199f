"""Notes become what FluidSynth and Sinsy read: needs neither of them."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from iseparate.data.synthetic import band, drum_kit, instruments
from iseparate.data.synthetic.casting import cast, playing
from iseparate.data.synthetic.phonemes import CONSONANTS, VOWELS, Syllable
from iseparate.data.synthetic.sampled import drum_strokes, general_midi, sinsy_singer, soundfont_player
from iseparate.data.synthetic.sampled.soundfont import Program
from iseparate.data.synthetic.sounds import Note
from iseparate.data.synthetic.voice import Sung

RATE = 44100


@pytest.fixture
def heard(monkeypatch):
    """The events of whatever is played, instead of their sound."""
    log = []

    def render(programs, events, samples):
        log.append((programs, list(events)))
        return np.zeros((2, samples), np.float32)

    monkeypatch.setattr(soundfont_player, "render", render)
    return log


def play(heard, *notes, touches=None):
    player = soundfont_player.SoundFontPlayer(np.random.default_rng(1), Program("font", 0, 33), touches)
    assert player.play(notes, 2 * RATE).shape == (2, 2 * RATE)
    programs, events = heard[-1]
    return programs, [event for event in events if event.kind != "bend"], [e for e in events if e.kind == "bend"]


def test_a_note_starts_and_ends_where_it_is_written(heard):
    _, (end, start), _ = play(heard, Note(0.5, 0.25, 40.0, 0.9))
    assert (start.kind, start.at_samples, start.pitch) == ("on", RATE // 2, 40)
    assert (end.kind, end.at_samples) == ("off", RATE * 3 // 4)
    assert 1 <= start.velocity <= 127


def test_the_end_of_a_note_does_not_cut_off_the_next_of_its_pitch(heard):
    _, events, _ = play(heard, Note(0.0, 0.6, 40.0, 0.9), Note(0.5, 0.5, 40.0, 0.9))
    ends = [event.at_samples for event in events if event.kind == "off"]
    assert ends == [RATE // 2, RATE]


def test_ghosts_are_soft_and_short_and_mutes_have_a_program_of_their_own(heard):
    muted = Program("font", 0, 28)
    programs, events, _ = play(
        heard,
        Note(0.0, 0.5, 40.0, 0.5),
        Note(0.5, 0.5, 41.0, 0.5, "ghost"),
        Note(1.0, 0.5, 42.0, 0.5, "mute"),
        touches={"mute": muted},
    )
    on = {event.pitch: event for event in events if event.kind == "on"}
    off = {event.pitch: event.at_samples for event in events if event.kind == "off"}
    assert on[41].velocity < 0.8 * on[40].velocity
    assert off[41] - RATE // 2 < 0.1 * RATE
    assert programs[on[42].channel] == muted
    assert programs[on[40].channel] != muted


def test_a_slide_bends_from_the_note_before_to_pitch_on_a_channel_of_its_own(heard):
    _, events, bends = play(heard, Note(0.0, 0.5, 40.0, 0.9), Note(0.5, 0.5, 43.0, 0.9, glide_from=40.0))
    first, second = [event for event in events if event.kind == "on"]
    assert first.channel != second.channel
    slide = [bend for bend in bends if bend.channel == second.channel and bend.at_samples >= RATE // 2]
    base = next(bend.pitch for bend in bends if bend.channel == first.channel)
    assert slide[0].at_samples == second.at_samples
    assert slide[0].pitch - base == pytest.approx(-3.0)
    assert slide[-1].pitch == pytest.approx(base)
    assert np.all(np.diff([bend.pitch for bend in slide]) > 0)
    assert slide[-1].at_samples < RATE


@pytest.mark.parametrize("note", [Note(0.0, 0.5, 300.0, 0.9), Note(9.0, 0.5, 40.0, 0.9)])
def test_what_no_instrument_can_play_is_left_out(heard, note):
    assert play(heard, note)[1] == []


def test_every_kind_of_the_band_has_programs():
    assert set(general_midi.INSTRUMENTS) == set(instruments._MAKERS)
    for programs in (*general_midi.INSTRUMENTS.values(), *general_midi.ROLES.values(), *general_midi.BASSES.values()):
        assert all(0 <= program <= 127 for program in programs)
    assert set(general_midi.PIECES) == set(drum_kit.Kit(1, "acoustic").gains)
    assert set(drum_strokes.RUMPF_KIT) <= set(general_midi.PIECES)


def test_strokes_are_cut_where_they_start_and_have_died_away():
    silence, ring = np.zeros(5000, np.float32), np.exp(-np.arange(40000) / 2000).astype(np.float32)
    stroke = drum_strokes.trimmed(np.concatenate([silence, ring]))
    assert np.abs(stroke[:100]).max() == 1.0
    assert 10000 < len(stroke) < 16000
    assert abs(stroke[-1]) < 1e-6
    assert not np.any(drum_strokes.trimmed(np.zeros(100, np.float32)))


def test_stronger_strokes_are_other_ones():
    soft, loud = (np.full(2000, level, np.float32) for level in (0.1, 1.0))
    piece = drum_strokes._Recorded(np.random.default_rng(1), lambda: [soft, loud])
    rng = np.random.default_rng(2)
    middle = slice(500, 1000)
    assert [round(float(piece(rng, strength)[middle].mean()), 1) for strength in (0.0, 1.0)] == [0.1, 1.0]


def phrase(*notes: tuple[float, float, float]):
    return tuple(Sung(Note(*note, 0.8), Syllable("k", "a", "a", "")) for note in notes)


def test_the_score_keeps_the_time_and_stays_in_the_range_of_the_voice():
    sung = phrase((1.0, 0.4, 40.0), (1.5, 0.2, 47.0), (2.5, 0.5, 90.0))
    root = ET.fromstring(sinsy_singer._score_of(sung, 0.3))
    at, starts, pitches = 0, [], []
    for note in root.iter("note"):
        if note.find("rest") is None:
            starts.append(at / 64.0 + 0.3)
            step, octave = note.findtext("pitch/step"), int(note.findtext("pitch/octave"))
            pitches.append("C D EF G A B".index(step) + 12 * (octave + 1) + int(note.findtext("pitch/alter") or 0))
            assert note.findtext("lyric/text") == "か"
        at += int(note.findtext("duration"))
    assert np.allclose(starts, [1.0, 1.5, 2.5], atol=1 / 64)
    assert all(62 <= pitch <= 72 for pitch in pitches)
    assert pitches[0] < pitches[1] <= pitches[2]
    for measure in root.iter("measure"):  # a measure that its note does not fill would be refused
        assert measure.findtext("note/duration") == measure.findtext("attributes/time/beats")
    assert root.findall(".//note")[-1].find("rest") is not None


def test_every_syllable_can_be_sung():
    for onset in (*CONSONANTS, ""):
        for vowel in VOWELS:
            assert sinsy_singer.kana(Syllable(onset, vowel, vowel, "s"))


def test_words_are_sung_once_and_remembered_where_the_rhythm_is_alike():
    asked = []

    def sing(words):
        asked.append(words)
        return sinsy_singer._Words(sinsy_singer._starts(words), np.zeros((1, 1), np.float32), np.zeros(1))

    repertoire = sinsy_singer.Repertoire()
    first = phrase((1.0, 0.4, 40.0), (1.5, 0.2, 47.0))
    for again in (first, phrase((9.0, 0.4, 52.0), (9.52, 0.2, 47.0))):
        assert repertoire.words(again, sing) is repertoire.words(first, sing)
    assert asked == [first]
    slower = phrase((1.0, 0.4, 40.0), (1.6, 0.2, 47.0))
    assert repertoire.words(slower, sing) is not repertoire.words(first, sing)
    assert asked == [first, slower]


class Silent:
    """A casting that gives the bass and the harmony to nobody who can be heard, and nothing else."""

    def instrument(self, name, rng, role):
        return self

    def bass(self, sound, rng):
        return self

    def drums(self, kind):
        return {}

    def singer(self, voice, style, rng):
        return None

    def play(self, notes, samples):
        return np.zeros((2, samples), np.float32)


def test_the_cast_plays_and_leaves_afterwards(monkeypatch):
    own = band.render(10, 2.0)
    monkeypatch.setattr(band, "SampledCasting", lambda seed, sounds: Cast())

    class Cast(Silent):
        parts, used = {"bass": "nobody"}, ()

    silenced = band.render(10, 2.0, sounds=("nobody",))
    assert np.any(own.stems["bass"])
    assert not np.any(silenced.stems["bass"])
    assert silenced.facts["cast"] == {"bass": "nobody"}
    assert cast() is None
    again = band.render(10, 2.0)
    assert all(np.array_equal(again.stems[stem], own.stems[stem]) for stem in own.stems)


def test_kits_take_single_pieces_from_the_cast():
    class Clicks(Silent):
        def drums(self, kind):
            return {"snare": lambda rng, strength: np.ones(50, np.float32)}

    own = drum_kit.Kit(1, "acoustic")
    with playing(Clicks()):
        mixed = drum_kit.Kit(1, "acoustic")
    assert len(mixed.hit("snare", 0.9, 0)) == 50
    assert np.array_equal(mixed.hit("kick", 0.9, 0), own.hit("kick", 0.9, 0))
    assert len(own.hit("snare", 0.9, 0)) > 50
