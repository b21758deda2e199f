"""The song on paper: time, chords, form, and what the players make of it."""

from __future__ import annotations

import numpy as np
import pytest

from iseparate.data.synthetic import bass, drums, harmony, voice
from iseparate.data.synthetic.drum_kit import Kit
from iseparate.data.synthetic.genres import GENRES
from iseparate.data.synthetic.instruments import make_instrument
from iseparate.data.synthetic.song import compose, nearest_pitch, scale_step
from iseparate.data.synthetic.sounds import Note, stream

MANY = range(60)


def test_a_song_is_as_long_as_asked_and_in_order():
    for seed in MANY:
        song = compose(seed, 40.0)
        starts = np.array(song.bar_starts_seconds)
        assert starts[-1] >= 40.0
        assert (np.diff(starts) > 0).all()
        assert sum(section.bars for section in song.sections) == song.bars == len(starts) - 1
        assert 60.0 <= song.tempo_bpm <= 180.0


def test_all_genres_occur_and_their_grooves_fill_a_bar():
    assert {compose(seed, 5.0).genre.name for seed in range(200)} == {genre.name for genre in GENRES}
    for genre in GENRES:
        for groove in genre.grooves:
            for line in groove.values():
                assert len(line) == genre.steps
                assert set(line) <= set("Xxo?.")


def test_every_instrument_and_drum_a_genre_names_exists_and_sounds():
    names = {part for genre in GENRES for part in genre.harmony}
    for name in sorted({part.split(":")[1] + ":" + part.split(":")[0] for part in names}):
        instrument, role = name.split(":")
        sound = make_instrument(instrument, stream(1, name), role).play([Note(0.05, 0.3, 60.0, 0.8)], 22050)
        assert sound.shape == (2, 22050)
        assert np.isfinite(sound).all()
        assert np.abs(sound).max() > 1e-3
        assert np.abs(sound[:, :1500]).max() < 1e-3 * np.abs(sound).max()  # nothing before the note
    kits = [Kit(3, kind) for kind in ("acoustic", "electronic")]
    pieces = {piece for genre in GENRES for groove in genre.grooves for piece in groove}
    for kit in kits:
        for piece in sorted(pieces | {"crash", "open", "high_tom", "mid_tom", "floor"}):
            soft, hard = kit.hit(piece, 0.2, 0), kit.hit(piece, 1.0, 0)
            assert np.isfinite(hard).all()
            assert hard.shape != soft.shape or not np.array_equal(soft, hard)


def test_takes_of_a_drum_differ_and_return():
    kit = Kit(3, "acoustic")
    assert not np.array_equal(kit.hit("snare", 0.9, 0), kit.hit("snare", 0.9, 1))
    assert np.array_equal(kit.hit("snare", 0.9, 0), kit.hit("snare", 0.9, 3))


def test_drum_strokes_lie_near_the_grid():
    for seed in MANY:
        song = compose(seed, 20.0)
        grid = np.array([song.when(bar, step) for bar in range(song.bars) for step in range(song.genre.steps)])
        hits = drums.write_part(song)
        away = np.array([np.abs(grid - hit.start_seconds).min() for hit in hits] or [0.0])
        # flams come 25 ms early on purpose; all else stays within a few deviations of a player's timing
        assert np.mean(away < 4.0 * song.genre.looseness_seconds + 1e-6) > 0.95
        assert away.max() < 0.09


def test_onsets_of_the_sound_are_where_the_strokes_are():
    song = next(song for song in (compose(seed, 8.0) for seed in MANY) if song.genre.name == "house")
    hits = [drums.Hit(0.5 * (1 + beat), "kick", 1.0) for beat in range(8)]
    stem = drums.render(song, hits, 44100 * 6)
    level = np.square(stem).mean(axis=0).reshape(-1, 441).mean(axis=1)  # 10 ms
    rises = level[1:] / (level[:-1] + 1e-3 * level.max())
    for hit in hits:
        frame = round(hit.start_seconds * 100)
        assert rises[frame - 2 : frame + 2].max() > 5.0


def test_bass_notes_are_low_and_begin_with_the_root():
    for seed in MANY:
        song = compose(seed, 20.0)
        part = bass.write_part(song)
        pitches = [note.pitch for note in part.notes]
        assert all(20 <= pitch <= 62 for pitch in pitches)
        assert all(note.seconds > 0 and 0 < note.velocity <= 1 for note in part.notes)
    # where a line plays on the first beat, it plays the chord's root
    rooted = 0
    for seed in MANY:
        song = compose(seed, 20.0)
        for note in bass.write_part(song).notes:
            for bar in range(song.bars):
                if abs(note.start_seconds - song.bar_starts_seconds[bar]) < 0.03 and note.articulation != "ghost":
                    rooted += round(note.pitch) % 12 == song.chord(bar, 0).root
                    break
    assert rooted > 200


def test_harmony_and_melody_keep_to_the_key():
    inside = total = 0
    for seed in MANY:
        song = compose(seed, 20.0)
        scale = set(song.chords[0][0].scale)
        pitches = [note.pitch for part in harmony.write_parts(song) for note in part.notes if part.role != "riff"]
        part = voice.write_part(song)
        if part.style != "rap":
            pitches += [sung.note.pitch for phrase in part.phrases + part.choir for sung in phrase]
        inside += sum(round(pitch) % 12 in scale for pitch in pitches)
        total += len(pitches)
    assert inside / total > 0.97


def test_some_of_everything():
    voices = [voice.write_part(compose(seed, 30.0)) for seed in range(120)]
    assert {part.style for part in voices} >= {"sung", "rap", "none"}
    silent = np.mean([not part.phrases for part in voices])
    assert 0.03 < silent < 0.4
    notes = [note for seed in MANY for note in bass.write_part(compose(seed, 30.0)).notes]
    assert any(note.glide_from is not None for note in notes)
    assert {note.articulation for note in notes} >= {"", "mute", "ghost"}


def test_equal_sections_have_equal_players():
    song = next(
        song
        for song in (compose(seed, 150.0) for seed in MANY)
        if sum(section.kind == "chorus" for section in song.sections) > 1
    )
    plays = song.playing("comp:piano", 0.5)
    choruses = {plays[section.first_bar] for section in song.sections if section.kind == "chorus"}
    assert len(choruses) == 1


@pytest.mark.parametrize(("steps", "expected"), [(1, 62), (2, 64), (-1, 59), (7, 72), (0, 60)])
def test_walking_a_scale(steps, expected):
    assert scale_step(60, steps, (0, 2, 4, 5, 7, 9, 11)) == expected


def test_nearest_pitch():
    assert nearest_pitch(61.4, (0, 4, 7)) == 60
    assert nearest_pitch(62.6, (0, 4, 7)) == 64
