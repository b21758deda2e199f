"""Drums in their room, and the harmony's layers, filters and articulations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from iseparate.data.synthetic import drums, harmony
from iseparate.data.synthetic.genres import GENRES
from iseparate.data.synthetic.harmony import HarmonyPart
from iseparate.data.synthetic.song import compose
from iseparate.data.synthetic.sounds import Note, noise, stream

RATE = 44100


def song_of(genre: str, seconds: float = 12.0):
    return next(song for song in (compose(seed, seconds) for seed in range(300)) if song.genre.name == genre)


def test_close_microphones_hear_their_neighbours_later_and_softer():
    spoken = 0
    for seed in range(12):
        buses = {name: np.zeros((2, RATE), dtype=np.float32) for name in ("kick", "snare", "toms", "kit")}
        buses["kit"][:, 1000:2000] = noise(stream(0, "hat"), 1000)
        before = buses["kit"].copy()
        drums._room_of(stream(seed, "room"), buses)
        assert np.array_equal(buses["kit"], before)
        assert not np.any(buses["kick"]), "the kick's microphone is not given cymbals"
        heard = buses["snare"]
        if np.any(heard):
            spoken += 1
            assert not np.any(heard[:, :1030])  # 0.4 m at least
            level_db = 10 * np.log10(np.square(heard).sum() / np.square(before).sum())
            assert -40.0 < level_db < -6.0
    assert 5 <= spoken < 12


def test_a_room_rings_on_after_the_drums_on_both_sides():
    buses = {name: np.zeros((2, RATE), dtype=np.float32) for name in ("kick", "snare", "toms", "kit")}
    buses["snare"][:, 100:400] = noise(stream(0, "stroke"), 300)
    shares = []
    for seed in range(8):
        air = drums._room_of(stream(seed, "room"), {name: bus.copy() for name, bus in buses.items()})
        after = air[:, 1500:6000]
        shares.append(np.square(after).sum() / np.square(buses["snare"]).sum())
        assert not np.array_equal(after[0], after[1])
        assert not np.any(np.abs(air[:, :100]) > 1e-6)
    assert 1e-3 < np.median(shares) < 0.3


def test_no_two_strokes_of_a_hand_are_alike_and_none_is_far_off():
    rng = stream(0, "strokes")
    sound = noise(stream(1, "sound"), 2000)
    strokes = [drums.humanised(sound, rng) for _ in range(200)]
    levels = 10 * np.log10([np.square(stroke).mean() for stroke in strokes])
    assert 0.4 < levels.std() < 1.6
    assert np.abs(levels).max() < 6.0
    assert len({stroke.tobytes() for stroke in strokes}) == 200
    tilts = [np.abs(np.fft.rfft(stroke))[-200:].mean() / np.abs(np.fft.rfft(stroke))[:200].mean() for stroke in strokes]
    assert np.std(tilts) > 0.05 * np.mean(tilts), "some are brighter"


def test_drums_of_a_song_are_the_same_again():
    song = song_of("rock", 4.0)
    hits = [drums.Hit(0.1 + 0.2 * beat, piece, 0.9) for beat, piece in enumerate(("kick", "hat", "snare", "hat"))]
    first = drums.render(song, hits, RATE)
    assert np.array_equal(first, drums.render(song, hits, RATE))
    assert np.isfinite(first).all()


def distance(layer: HarmonyPart, part: HarmonyPart) -> tuple[set[float], str]:
    """By what intervals a layer lies above a part, and who plays that."""
    if layer is part or layer.role != part.role or len(layer.notes) != len(part.notes):
        return {1.0}, ""
    pairs = zip(layer.notes, part.notes, strict=True)
    return {mine.pitch - own.pitch for mine, own in pairs}, part.instrument


def test_layers_double_a_part_note_by_note():
    layered = octaves = 0
    for seed in range(120):
        song = compose(seed, 6.0)
        parts = harmony.write_parts(song)
        layers = [part for part in parts if part.level_db < 0.0]
        assert len(layers) <= 2
        names = [(part.role, part.instrument) for part in parts]
        for layer in layers:
            found = (distance(layer, part) for part in parts)
            intervals, doubled = next(pair for pair in found if len(pair[0]) <= 1 and pair[0] <= {-12.0, 0.0, 12.0})
            octaves += bool(intervals - {0.0})
            unison = intervals == {0.0}
            assert not (unison and layer.instrument == doubled)
            if layer.instrument != doubled:
                assert names.count((layer.role, layer.instrument)) == 1
            layered += 1
    assert layered > 20
    assert octaves > 3


def test_filters_open_in_a_build_and_in_full_sections():
    rng = stream(0, "filter")
    song = next(
        song
        for song in (compose(seed, 150.0) for seed in range(200))
        if {"build", "chorus", "verse"} <= {section.kind for section in song.sections}
    )
    cutoffs = harmony._filter_hz(song, rng, 150 * RATE)
    assert cutoffs.min() > 100.0
    assert cutoffs.max() <= 17000.0

    def at(seconds: float) -> float:
        return float(cutoffs[round(seconds * RATE / 256)])

    for section in song.sections:
        start, end = (
            song.bar_starts_seconds[section.first_bar],
            song.bar_starts_seconds[section.first_bar + section.bars],
        )
        if end > 149.0:
            break
        if section.kind == "build":
            assert at(start) < 1000.0
            assert at(end - 0.06) > 12000.0
        elif section.energy > 0.75:
            assert at(0.5 * (start + end)) > 5500.0


def test_risers_swell_into_the_chorus_and_stop():
    found = 0
    for seed in range(300):
        song = compose(seed, 20.0)
        song = replace(song, genre=replace(song.genre, risers=1.0))
        choruses = [song.bar_starts_seconds[part.first_bar] for part in song.sections[1:] if part.kind == "chorus"]
        rising = harmony._risers(song, 20 * RATE)
        if not choruses or choruses[0] > 19.0:
            assert choruses or not np.any(rising)
            continue
        end = round(choruses[0] * RATE)
        loud, before = (np.square(rising[:, end - k : end - k + 4000]).mean() for k in (6000, 30000))
        assert loud > before > 0.0
        if len(choruses) == 1:
            assert not np.any(rising[:, end + 10 :])
        found += 1
        if found == 3:
            break
    assert found == 3


def test_a_fader_follows_the_sections():
    song = next(song for song in (compose(seed, 60.0) for seed in range(50)) if len(song.sections) > 2)
    gain = harmony._fader(song, stream(1, "fader"), 60 * RATE)
    assert gain.shape == (60 * RATE,)
    assert 0.3 < gain.min() < gain.max() < 1.6
    assert np.abs(np.diff(20 * np.log10(gain))).max() < 12.0 / (0.1 * RATE), "no clicks"


@pytest.mark.parametrize(
    ("name", "articulations"), [("pick:clean", {"", "mute"}), ("riff:distorted", {""}), ("chop:clean", {"", "ghost"})]
)
def test_guitars_mute_bend_and_slide(name, articulations):
    role = name.split(":")[0]
    notes: list[Note] = []
    for seed in range(20):
        song = compose(seed, 12.0)
        writer = harmony._Writer(song, stream(seed, "part"), role)
        for bar in range(song.bars):
            writer.write_bar(bar)
        notes += writer.notes
    assert {note.articulation for note in notes} >= articulations
    slides = [note.pitch - note.glide_from for note in notes if note.glide_from is not None]
    assert bool(slides) == (role != "chop")
    assert all(0 < abs(slide) <= 5 for slide in slides)
    assert len(slides) < 0.2 * len(notes)


def test_arpeggios_have_shapes():
    seen: dict[str, int] = {}
    for seed in range(120):
        song = compose(seed, 8.0)
        writer = harmony._Writer(song, stream(seed, "part"), "arp")
        writer.write_bar(0)
        half = [note.pitch for note in writer.notes[: len(writer.notes) // 2]]
        rises = np.sign(np.diff(half))
        if len(half) > 3 and rises.all():
            shape = "up" if (rises > 0).all() else "down" if (rises < 0).all() else "other"
            seen[shape] = seen.get(shape, 0) + 1
    assert all(seen.get(shape, 0) > 2 for shape in ("up", "down", "other"))


def test_every_part_a_genre_names_can_be_written_and_played():
    for genre in GENRES:
        song = song_of(genre.name, 4.0)
        for name in genre.harmony:
            role, _ = name.split(":")
            writer = harmony._Writer(song, stream(0, name), role)
            for bar in range(song.bars):
                writer.write_bar(bar)
            assert all(note.seconds > 0 and 0 < note.velocity <= 1 for note in writer.notes)


def test_the_bus_pumps_without_a_kick():
    song = song_of("house", 4.0)
    song = replace(song, genre=replace(song.genre, sidechain=1.0, automation=0.0))
    held = noise(stream(0, "held"), 4 * RATE)[None].repeat(2, axis=0)
    part = HarmonyPart("pad", "strings", ())
    depths = []
    for seed in range(4):
        rng = stream(seed, "pump")
        pumped = harmony._strip(song, rng, part, held.copy(), [])
        level = np.square(pumped).mean(axis=0)[RATE : 3 * RATE].reshape(-1, 441).mean(axis=1)
        beat = round(60.0 / song.tempo_bpm * 100)
        curve = level[: len(level) // beat * beat].reshape(-1, beat).mean(axis=0)
        depths.append(10 * np.log10(curve.max() / curve.min()))
    assert np.median(depths) > 2.0
