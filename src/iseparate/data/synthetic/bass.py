"""The bass player: lines under the chords, on strings or synthesisers, with slides, ghost and muted notes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from iseparate.data.synthetic import filters, mixing
from iseparate.data.synthetic.casting import cast
from iseparate.data.synthetic.song import Chord, Song, nearest_pitch, scale_step, weighted
from iseparate.data.synthetic.sounds import (
    SAMPLE_RATE,
    Note,
    Timbre,
    between,
    between_log,
    chance,
    decay,
    envelope,
    glide,
    in_samples,
    midi_hz,
    noise,
    phase_of,
    pick,
    place,
    plucked,
    pulse,
    sawtooth,
    stream,
    times,
)
from iseparate.types import Samples


@dataclass(frozen=True)
class BassPart:
    """What is played, and on what."""

    line: str
    sound: str
    notes: tuple[Note, ...]


def write_part(song: Song) -> BassPart:
    """The bass line of the song."""
    rng = stream(song.seed, "bass")
    line = weighted(rng, song.genre.bass_lines)
    sound = weighted(rng, song.genre.bass_sounds)
    lowest = int(rng.integers(26, 31))
    rhythms = {kind: _rhythm(song, rng, line, kind) for kind in ("verse", "chorus")}
    playing = song.playing("bass", 0.88)
    length = between(rng, 0.6, 1.02)
    slides = between(rng, 0.0, 0.12)
    notes: list[Note] = []
    for bar in range(song.bars):
        if not playing[bar]:
            continue
        steps = rhythms["chorus" if song.section(bar).kind in ("chorus", "solo") else "verse"]
        for step, mark in steps:
            following = [later for later, _ in steps if later > step]
            gap = (following[0] if following else song.genre.steps) - step
            chord = song.chord(bar, step)
            pitch = _pitch(rng, song, chord, line, mark, bar, step, lowest)
            note = Note(
                max(0.0, song.when(bar, step) + 0.8 * song.genre.looseness_seconds * float(rng.standard_normal())),
                gap * song.step_seconds(bar) * (length if mark != "g" else 0.4),
                float(pitch),
                between(rng, 0.65, 1.0) if step % 4 == 0 else between(rng, 0.5, 0.9),
            )
            notes.append(_articulated(rng, note, mark, sound, slides))
    return BassPart(line, sound, tuple(notes))


def _rhythm(song: Song, rng: np.random.Generator, line: str, kind: str) -> list[tuple[int, str]]:
    """Steps of a bar, with ``r`` root, ``o`` octave, ``f`` fifth, ``c`` chord, ``w`` walking, ``g`` ghost."""
    steps = song.genre.steps
    half = steps // 2
    fixed = {
        "eighths": [(step, "r") for step in range(0, steps, 2)],
        "roots": [(0, "r"), (half, "f" if chance(rng, 0.3) else "r")] if chance(rng, 0.6) else [(0, "r")],
        "octaves": [(step, "ro"[step // 2 % 2]) for step in range(0, steps, 2)],
        "offbeat": [(step, "r") for step in range(2, steps, 4)],
        "walking": [(step, "w" if step else "r") for step in range(0, steps, 4)],
        "tumbao": [(6, "f"), (12, "r")] if chance(rng, 0.5) else [(0, "r"), (6, "f"), (12, "o")],
        "melodic": [
            (0, "r"),
            *[(int(s), pick(rng, "rfco")) for s in sorted(rng.choice((3, 4, 6, 7, 10, 11), 3, False))],
        ],
    }
    if line in fixed:
        return fixed[line]
    if line in ("kick", "riff"):
        kick = song.grooves[kind].get("kick", "x")
        return [(step, "r") for step, mark in enumerate(kick) if mark in "Xxo"] or [(0, "r")]
    density = 0.75 if line == "sixteenths" else 0.4
    marks: list[tuple[int, str]] = [(0, "r")]
    for step in range(1, steps):
        if chance(rng, density * (1.0 if step % 2 == 0 else 0.6)):
            marks.append((step, str(rng.choice(list("rofcg"), p=(0.4, 0.18, 0.1, 0.12, 0.2)))))
    return marks


def _pitch(
    rng: np.random.Generator, song: Song, chord: Chord, line: str, mark: str, bar: int, step: int, lowest: int
) -> int:
    root = lowest + (chord.root - lowest) % 12
    if mark == "o":
        return root + 12
    if mark == "f":
        return root + 7 - (12 if root > lowest + 7 else 0)
    if mark == "c":
        return root + int(rng.choice(chord.tones))
    if mark == "w":
        if step + 4 >= song.genre.steps and bar + 1 < song.bars:  # lead into the next root
            following = song.chord(bar + 1, 0)
            return lowest + (following.root - lowest) % 12 + int(rng.choice((-1, 1, -2, 2)))
        return scale_step(nearest_pitch(root, chord.scale), int(rng.integers(1, 6)), chord.scale)
    if line == "eighths" and chance(rng, 0.06):
        return root + int(rng.choice((7, 12, 5)))
    return root


def _articulated(rng: np.random.Generator, note: Note, mark: str, sound: str, slides: float) -> Note:
    if mark == "g":
        return replace(note, articulation="ghost", velocity=0.4 * note.velocity)
    if sound == "slap":
        note = replace(note, articulation="pop" if mark == "o" else "slap")
    elif sound in ("finger", "pick", "upright") and chance(rng, 0.06):
        note = replace(note, articulation="mute")
    slides = 3.0 * slides if sound in ("808", "sub") else slides
    if chance(rng, slides):
        note = replace(note, glide_from=note.pitch + float(rng.choice((-12, -5, -2, -1, 2, 5, 12))))
    return note


def render(song: Song, part: BassPart, kicks_seconds: list[float], samples: int) -> Samples:
    """The bass stem ``[2, samples]``."""
    rng = stream(song.seed, "bass sound")
    casting = cast()
    sampled = casting.bass(part.sound, rng) if casting else None
    line = sampled.play(part.notes, samples).mean(axis=0, keepdims=True) if sampled else _own_sound(rng, part, samples)
    line = filters.highpass(line, 28.0)
    if part.sound in ("finger", "pick", "slap") and chance(rng, 0.6):
        line = _amplified(rng, line)
    elif part.sound in ("808", "sub", "synth") and chance(rng, 0.5):
        line = mixing.overdrive(line, between(rng, 0.7, 3.0))
    line = mixing.compress(mixing.equalise(line, rng, 3.0), rng, chance_of=0.85)
    stem = np.repeat(line, 2, axis=0)
    if part.sound in ("synth", "fm") and chance(rng, 0.3):
        stem = mixing.chorus(stem, rng)
    if chance(rng, 0.15):
        stem = stem + mixing.reverb(stem, rng, (0.2, 1.0)) * np.float32(between(rng, 0.03, 0.15))
    if chance(rng, song.genre.sidechain):
        stem *= mixing.pump(samples, kicks_seconds, between(rng, 0.4, 0.95), between(rng, 0.04, 0.16))
    return mixing.widen(stem, between(rng, 0.0, 0.6), float(rng.normal(0.0, 0.03)))


def _own_sound(rng: np.random.Generator, part: BassPart, samples: int) -> Samples:
    """The part on the band's own bass ``[1, samples]``."""
    play = _Strings(rng, part.sound) if part.sound in ("finger", "pick", "slap", "upright") else _Synth(rng, part.sound)
    bus = np.zeros((2, samples), dtype=np.float32)
    for note in part.notes:
        place(bus, play(rng, note), in_samples(note.start_seconds))
    return bus[:1]


def _amplified(rng: np.random.Generator, line: Samples) -> Samples:
    """An amplifier and its cabinet beside the direct sound."""
    driven = mixing.overdrive(line, between_log(rng, 0.8, 8.0))
    cabinet = filters.lowpass(filters.highpass(driven, 60.0), between_log(rng, 1800.0, 5000.0), 4)
    share = np.float32(between(rng, 0.2, 1.0))
    return (1.0 - share) * line + share * cabinet


class _Strings:
    """An electric or upright bass string."""

    def __init__(self, rng: np.random.Generator, kind: str):
        position = between(rng, 0.07, 0.25) if kind != "upright" else between(rng, 0.25, 0.4)
        tilt = {"finger": 1.35, "pick": 0.95, "slap": 0.9, "upright": 1.5}[kind] + between(rng, -0.15, 0.15)
        number = np.arange(1, 401)
        pickup = 0.15 + np.abs(np.sin(np.pi * number * between(rng, 0.1, 0.3)))
        body = ((between(rng, 90.0, 180.0), 5.0, 0.5), (between(rng, 600.0, 1200.0), 4.0, 0.6))
        self._timbre = Timbre(
            plucked(position, tilt) * pickup, phases=rng.random(400) * 2.0 * np.pi, slope=1.5, body=body
        )
        self._ring = between(rng, 2.5, 7.0) if kind != "upright" else between(rng, 1.0, 2.2)
        self._open_hz = between_log(rng, 1600.0, 6000.0) * (0.6 if kind == "upright" else 1.0)
        self._dull_hz = between_log(rng, 250.0, 700.0)
        self._pluck = between(rng, 0.02, 0.08) * (2.0 if kind in ("pick", "slap") else 1.0)

    def __call__(self, rng: np.random.Generator, note: Note) -> Samples:
        dead = note.articulation in ("ghost", "mute")
        held = in_samples(min(note.seconds, 0.09 if note.articulation == "ghost" else 6.0))
        count = held + in_samples(0.08)
        ring = 0.25 if dead else self._ring
        if note.glide_from is not None:
            frequency = glide(count, note.glide_from, note.pitch, between(rng, 0.05, 0.16))
        else:
            wobble = (
                np.exp(-np.arange(count) / (0.03 * SAMPLE_RATE)) * 0.004 * note.velocity
            )  # a plucked string starts sharp
            frequency = midi_hz(note.pitch) * (1.0 + wobble + between(rng, -0.0012, 0.0012))
        hard = self._open_hz * (0.4 + 0.9 * note.velocity) * (1.9 if note.articulation in ("slap", "pop") else 1.0)
        floor = self._dull_hz * (0.5 if dead else 1.0)
        cutoff = floor + hard * decay(count, 0.35 * ring if not dead else 0.12)
        tone = self._timbre.sound(phase_of(frequency), midi_hz(note.pitch), cutoff)
        tone *= decay(count, ring) * envelope(count, held, 0.003, 1.0, 1.0, 0.05)
        touch = filters.bandpass(noise(rng, min(count, 2000)), 300.0, 3500.0)
        loud = self._pluck * (4.0 if note.articulation in ("slap", "pop") else 2.0 if dead else 1.0)
        tone[: len(touch)] += loud * touch * decay(len(touch), 0.03)
        return np.asarray(tone * np.float32(note.velocity))


class _Synth:
    """A bass made of oscillators: filtered saw or pulse, sine, FM, or the long kick of a drum machine."""

    def __init__(self, rng: np.random.Generator, kind: str):
        self._kind = kind
        wave = sawtooth() if chance(rng, 0.6) else pulse(between(rng, 0.2, 0.5))
        self._timbre = Timbre(wave, resonance=between(rng, 0.0, 2.5), slope=2.0)
        self._attack = between(rng, 0.002, 0.012)
        self._fall = between_log(rng, 0.1, 0.8)
        self._sustain = between(rng, 0.3, 1.0) if kind != "808" else 0.0
        self._cutoff_hz = between_log(rng, 150.0, 900.0)
        self._sweep_hz = between_log(rng, 200.0, 5000.0)
        self._ratio = float(rng.choice((1.0, 2.0, 3.0, 0.5)))
        self._index = between(rng, 0.8, 4.0)
        self._under = between(rng, 0.0, 0.8)
        self._ring = between(rng, 0.8, 2.5)

    def __call__(self, rng: np.random.Generator, note: Note) -> Samples:
        if note.articulation == "ghost":
            note = replace(note, seconds=0.06)
        held = in_samples(min(note.seconds, 8.0))
        count = held + in_samples(0.12)
        low = note.pitch - (12 if self._kind == "808" and note.pitch > 40 else 0)
        if note.glide_from is not None:
            start = note.glide_from + low - note.pitch
            frequency = glide(count, start, low, between(rng, 0.06, 0.25))
        else:
            frequency = np.full(count, midi_hz(low))
        phase = phase_of(frequency)
        if self._kind == "808":
            t = times(count)
            phase += 0.8 * (1.0 - np.exp(-t / 0.02))
            tone = np.sin(2.0 * np.pi * phase).astype(np.float32) * decay(count, self._ring)
            shape = envelope(count, held, 0.003, 1.0, 1.0, 0.1)
        else:
            shape = envelope(count, held, self._attack, self._fall, self._sustain, 0.08)
            tone = self._wave(phase, low, count, note.velocity)
        return tone * shape * np.float32(0.8 * note.velocity)

    def _wave(self, phase: np.ndarray, low: float, count: int, velocity: float) -> Samples:
        sine = np.sin(2.0 * np.pi * phase).astype(np.float32)
        if self._kind == "sub":
            return sine + np.float32(0.15) * sine**3
        if self._kind == "fm":
            bend = self._index * velocity * decay(count, 4.0 * self._fall)
            inner = np.sin(2.0 * np.pi * self._ratio * phase).astype(np.float32)
            return np.asarray(np.sin((2.0 * np.pi * (phase - np.floor(phase))).astype(np.float32) + bend * inner))
        cutoff = self._cutoff_hz + self._sweep_hz * velocity * decay(count, 5.0 * self._fall)
        return self._timbre.sound(phase, midi_hz(low), cutoff) + np.float32(self._under) * sine
