"""Everything that is neither drums, bass nor voice: who plays, what, and how it is mixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from iseparate.data.synthetic import filters, mixing
from iseparate.data.synthetic.instruments import make_instrument
from iseparate.data.synthetic.song import Chord, Song, nearest_pitch, scale_step
from iseparate.data.synthetic.sounds import (
    SAMPLE_RATE,
    Note,
    between,
    between_log,
    chance,
    in_samples,
    noise,
    pick,
    place,
    stream,
)
from iseparate.types import Samples

_MOST_LAYERS = 2
_LAYERS: Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "pad": (("strings", "synth", "organ"), (0, 0, 12, -12)),
    "comp": (("piano", "electric_piano", "synth", "organ"), (0, 0, 12)),
    "arp": (("pluck", "bell", "piano"), (0, 12)),
    "stab": (("brass", "synth", "piano"), (0, 0, 12, -12)),
    "lead": (("synth", "bell", "reed"), (0, 12, -12)),
    "strum": (("nylon", "clean", "acoustic"), (0,)),
}
"""Who may double a role, and how many semitones away."""

_WITH_FILTERS = ("synth", "pluck", "organ", "strings")
_OPEN_HZ = 17000.0


@dataclass(frozen=True)
class HarmonyPart:
    """One player's part."""

    role: str
    instrument: str
    notes: tuple[Note, ...]
    level_db: float = 0.0
    """Against what is usual for the role: a layer stays below the part it doubles."""


def write_parts(song: Song) -> list[HarmonyPart]:
    """One to five parts over the song's chords, some of them doubled by a second instrument."""
    rng = stream(song.seed, "harmony")
    likely = song.genre.harmony
    chosen = [name for name in likely if chance(rng, likely[name])][:5] or [max(likely, key=lambda name: likely[name])]
    parts = []
    for name in chosen:
        role, instrument = name.split(":")
        part_rng = stream(song.seed, "harmony", name)
        playing = song.playing(name, 0.45 if role in ("lead", "stab") else 0.75)
        writer = _Writer(song, part_rng, role)
        for bar in range(song.bars):
            if playing[bar]:
                writer.write_bar(bar)
        parts.append(HarmonyPart(role, instrument, tuple(writer.notes)))
    return parts + _layers(song, parts)


def _layers(song: Song, parts: list[HarmonyPart]) -> list[HarmonyPart]:
    """The same parts by other instruments, or by the same an octave away."""
    rng = stream(song.seed, "layers")
    taken = {(part.role, part.instrument) for part in parts}
    layers: list[HarmonyPart] = []
    for part in parts:
        if part.role not in _LAYERS or len(layers) == _MOST_LAYERS or not chance(rng, song.genre.layers):
            continue
        instruments, intervals = _LAYERS[part.role]
        instrument, interval = pick(rng, instruments), pick(rng, intervals)
        if instrument == part.instrument:
            interval = interval or 12  # in unison it would be heard as one louder instrument
        elif (part.role, instrument) in taken:
            continue
        taken.add((part.role, instrument))
        layers.append(
            HarmonyPart(part.role, instrument, _again(song, rng, part.notes, interval), between(rng, -10, -2))
        )
    return layers


def _again(song: Song, rng: np.random.Generator, notes: tuple[Note, ...], semitones: int) -> tuple[Note, ...]:
    late = song.genre.looseness_seconds * rng.standard_normal(len(notes))
    return tuple(
        replace(
            note,
            start_seconds=max(0.0, note.start_seconds + float(shift)),
            pitch=note.pitch + semitones,
            glide_from=None if note.glide_from is None else note.glide_from + semitones,
        )
        for note, shift in zip(notes, late, strict=True)
    )


def render(song: Song, parts: list[HarmonyPart], kicks_seconds: list[float], samples: int) -> Samples:
    """The stem of all other instruments ``[2, samples]``."""
    stem = np.zeros((2, samples), dtype=np.float32)
    for part in parts:
        rng = stream(song.seed, "harmony sound", part.role, part.instrument)
        sound = make_instrument(part.instrument, rng, part.role).play(part.notes, samples)
        stem += _strip(song, rng, part, sound, kicks_seconds)
    stem += _risers(song, samples)
    rng = stream(song.seed, "harmony bus")
    return mixing.compress(mixing.equalise(stem, rng, 2.0), rng, chance_of=0.4)


def _strip(
    song: Song, rng: np.random.Generator, part: HarmonyPart, sound: Samples, kicks_seconds: list[float]
) -> Samples:
    sound = filters.highpass(sound, between(rng, 60.0, 200.0))
    if part.instrument in _WITH_FILTERS and chance(rng, song.genre.automation):
        sound = mixing.sweep(sound, _filter_hz(song, rng, sound.shape[1]), between(rng, 0.0, 1.5))
    sound = mixing.compress(mixing.equalise(sound, rng, 3.5), rng, chance_of=0.5)
    wet = np.zeros_like(sound)
    if chance(rng, 0.7):
        longest = 3.2 if part.role in ("pad", "lead", "arp") else 1.8
        wet += mixing.reverb(sound, rng, (0.3, longest)) * np.float32(between(rng, 0.03, 0.45))
    if part.role in ("lead", "arp", "stab") and chance(rng, 0.45):
        beat = 60.0 / song.tempo_bpm
        wet += mixing.echo(sound, rng, beat * float(rng.choice((0.25, 0.5, 0.75)))) * np.float32(between(rng, 0.1, 0.4))
    sound = sound + wet
    ducked = {"pad": 1.0, "stab": 0.7, "arp": 0.5}.get(part.role, 0.4) * song.genre.sidechain
    if chance(rng, ducked):
        if not kicks_seconds or chance(rng, 0.3):  # a kick that only the compressor hears, on every beat
            beat = song.genre.steps // 4 if song.genre.steps == 16 else 6
            kicks_seconds = [
                song.when(bar, step) for bar in range(song.bars) for step in range(0, song.genre.steps, beat)
            ]
        sound = sound * mixing.pump(sound.shape[1], kicks_seconds, between(rng, 0.3, 0.9), between(rng, 0.05, 0.18))
    level_db = {"lead": -1.0, "pad": -5.0, "arp": -4.0, "stab": -2.0}.get(part.role, 0.0)
    pan = 0.0 if part.role in ("pad", "lead") else float(np.clip(rng.normal(0.0, 0.35), -0.9, 0.9))
    level_db += part.level_db + float(rng.normal(0.0, 3.0))
    sound = mixing.at_level(mixing.widen(sound, between(rng, 0.5, 1.3), pan), level_db)
    return sound * _fader(song, rng, sound.shape[1])


def _fader(song: Song, rng: np.random.Generator, samples: int) -> Samples:
    """A part's gain over the song: up in full sections, down in quiet ones, within 0.2 s of their borders."""
    steepness = between(rng, 0.0, 8.0)
    at, gain_db = [], []
    for section in song.sections:
        level = steepness * (section.energy - 0.8) + float(rng.normal(0.0, 0.7))
        start, end = (
            song.bar_starts_seconds[section.first_bar],
            song.bar_starts_seconds[section.first_bar + section.bars],
        )
        at += [start + 0.1, end - 0.1]
        gain_db += [level, level]
    grid = np.arange(0, samples + 1024, 1024)
    coarse = 10.0 ** (np.interp(grid / SAMPLE_RATE, at, gain_db) / 20.0)
    return np.interp(np.arange(samples), grid, coarse).astype(np.float32)


def _filter_hz(song: Song, rng: np.random.Generator, samples: int) -> NDArray[np.float64]:
    """Cutoffs, one every `filters.HOP` samples: builds open the filter, full sections have it open, others hardly."""
    dark = between_log(rng, 500.0, 3000.0)
    at, octaves = [], []
    for section in song.sections:
        if section.kind == "build":
            first, last = between_log(rng, 250.0, 900.0), _OPEN_HZ
        elif section.energy > 0.75:
            first = last = between_log(rng, 6000.0, _OPEN_HZ)
        else:
            first, last = dark, dark * 2.0 ** between(rng, -1.0, 2.0)
        start, end = (
            song.bar_starts_seconds[section.first_bar],
            song.bar_starts_seconds[section.first_bar + section.bars],
        )
        at += [start, end - 0.05]
        octaves += [np.log2(first), np.log2(last)]
    seconds = np.arange(-(-samples // filters.HOP) + 4) * (filters.HOP / SAMPLE_RATE)
    return np.asarray(np.minimum(2.0 ** np.interp(seconds, at, octaves), _OPEN_HZ))


def _risers(song: Song, samples: int) -> Samples:
    """Noise that swells and brightens over the last bars before a chorus, and stops there."""
    rng = stream(song.seed, "risers")
    bus = np.zeros((2, samples), dtype=np.float32)
    wanted, bars, top_hz = chance(rng, song.genre.risers), int(rng.choice((1, 2, 4))), between_log(rng, 4000, 12000)
    level_db, steep = between(rng, -16.0, -4.0), between(rng, 10.0, 30.0)
    for section in song.sections[1:]:
        if not wanted or section.kind != "chorus":
            continue
        first = song.bar_starts_seconds[max(0, section.first_bar - bars)]
        count = in_samples(song.bar_starts_seconds[section.first_bar] - first)
        if in_samples(first) >= samples:
            break
        share = np.linspace(0.0, 1.0, count, dtype=np.float32)
        cutoff = 300.0 * (top_hz / 300.0) ** share[:: filters.HOP].astype(np.float64)
        rising = mixing.sweep(np.stack([noise(rng, count), noise(rng, count)]), cutoff, 1.0)
        swell = 10.0 ** ((level_db + steep * (share - 1.0)) / 20.0)
        rising = filters.highpass(rising, 200.0) * swell.astype(np.float32)
        rising[:, -200:] *= np.linspace(1.0, 0.0, 200, dtype=np.float32)
        place(bus, rising, in_samples(first))
    return bus


class _Writer:
    """Writes one part bar by bar."""

    def __init__(self, song: Song, rng: np.random.Generator, role: str):
        self.notes: list[Note] = []
        self._song, self._rng, self._role = song, rng, role
        self._centre = {"pad": 60.0, "lead": 72.0, "arp": 67.0, "riff": 45.0}.get(role, 62.0) + between(rng, -5.0, 6.0)
        self._rhythm = self._draw_rhythm()
        self._pattern = rng.integers(0, 8, 16)
        self._every = int(rng.choice((1, 2, 2, 4)))
        self._strum_seconds = between(rng, 0.004, 0.025)
        self._length = between(rng, 0.4, 1.0)
        self._arpeggio = pick(rng, ("up", "down", "there and back", "drawn"))
        self._octaves, self._gate = int(rng.choice((1, 2, 2, 3))), between(rng, 0.3, 1.4)
        self._motif = [int(step) for step in rng.integers(-2, 3, 16)]
        self._place = 0

    def write_bar(self, bar: int) -> None:
        writers: Mapping[str, Callable[[int], None]] = {
            "pad": self._pad,
            "comp": self._comp,
            "strum": self._strum,
            "chop": self._chop,
            "skank": self._skank,
            "bubble": self._bubble,
            "stab": self._stab,
            "arp": self._arp,
            "riff": self._riff,
            "lead": self._lead,
            "montuno": self._montuno,
            "pick": self._pick,
        }
        writers[self._role](bar)

    def _draw_rhythm(self) -> list[int]:
        rng, steps = self._rng, self._song.genre.steps
        if chance(rng, 0.5):
            return list(range(0, steps, int(rng.choice((2, 4, 8) if steps == 16 else (2, 6)))))
        chosen = rng.choice(np.arange(1, steps), int(rng.integers(2, 7)), replace=False)
        return [0, *sorted(int(step) for step in chosen)]

    def _add(
        self,
        bar: int,
        step: float,
        steps: float,
        pitch: float,
        velocity: float,
        articulation: str = "",
        late: float = 0.0,
    ) -> Note:
        song = self._song
        start = song.when(bar, step) + late + song.genre.looseness_seconds * float(self._rng.standard_normal())
        velocity = float(np.clip(velocity * between(self._rng, 0.85, 1.15), 0.05, 1.0))
        note = Note(max(0.0, start), steps * song.step_seconds(bar), float(pitch), velocity, articulation)
        self.notes.append(note)
        return note

    def _gaps(self) -> list[tuple[int, int]]:
        ends = [*self._rhythm[1:], self._song.genre.steps]
        return [(step, end - step) for step, end in zip(self._rhythm, ends, strict=True)]

    def _pad(self, bar: int) -> None:
        half = self._song.genre.steps // 2
        first, second = self._song.chords[bar]
        lengths = ((0, 2 * half, first),) if first == second else ((0, half, first), (half, half, second))
        for step, steps, chord in lengths:
            for pitch in chord.voicing(self._centre):
                self._add(bar, step, steps * 1.01, pitch, 0.7)

    def _comp(self, bar: int) -> None:
        for step, gap in self._gaps():
            chord = self._song.chord(bar, step)
            accent = 0.85 if step % 4 == 0 else 0.6
            for pitch in chord.voicing(self._centre):
                self._add(bar, step, gap * self._length, pitch, accent)
            if step == 0 and chance(self._rng, 0.4):
                self._add(bar, 0, gap, 48 + chord.root - 12 * (chord.root > 6), 0.7)

    def _strum(self, bar: int) -> None:
        line = "D...D.DU.UDU" if self._song.genre.steps == 12 else "D...D.DU..DUD.DU"
        for step, mark in enumerate(line):
            if mark == "." or chance(self._rng, 0.08):
                continue
            strings = _guitar_chord(self._song.chord(bar, step), low=40)
            order = strings if mark == "D" else strings[::-1][:4]
            for number, pitch in enumerate(order):
                late = number * self._strum_seconds * (1.0 if mark == "D" else 0.6)
                self._add(bar, step, 3.5, pitch, 0.8 if mark == "D" else 0.5, late=late)

    def _chop(self, bar: int) -> None:
        top = _guitar_chord(self._song.chord(bar, 0), low=52)[-4:]
        for step in range(self._song.genre.steps):
            draw = self._pattern[step % 8]
            if draw == 0:
                continue
            ghost = draw < 4
            for number, pitch in enumerate(top):
                late = number * 0.004
                self._add(
                    bar, step, 0.5 if ghost else 0.9, pitch, 0.4 if ghost else 0.8, "ghost" if ghost else "", late
                )

    def _skank(self, bar: int) -> None:
        for step in range(2 if self._song.tempo_bpm > 75 else 4, self._song.genre.steps, 4):
            for pitch in self._song.chord(bar, step).voicing(self._centre):
                self._add(bar, step, 0.8, pitch, 0.8)

    def _bubble(self, bar: int) -> None:
        for step in range(1, self._song.genre.steps):
            if step % 4:
                for pitch in self._song.chord(bar, step).voicing(self._centre - 6.0)[:3]:
                    self._add(bar, step, 0.6, pitch, 0.7 if step % 4 == 2 else 0.4)

    def _stab(self, bar: int) -> None:
        if bar % 2 and chance(self._rng, 0.5):
            return
        for step, gap in self._gaps()[:4]:
            for pitch in self._song.chord(bar, step).voicing(self._centre + 4.0):
                self._add(bar, step, min(gap, 2) * self._length, pitch, 0.9)

    def _arp(self, bar: int) -> None:
        for number, step in enumerate(range(0, self._song.genre.steps, self._every)):
            notes = self._song.chord(bar, step).voicing(self._centre)
            ladder = [pitch + 12 * octave for octave in range(self._octaves) for pitch in notes]
            there_and_back = ladder + ladder[-2:0:-1]
            pitch = {
                "up": ladder[number % len(ladder)],
                "down": ladder[-1 - number % len(ladder)],
                "there and back": there_and_back[number % len(there_and_back)],
                "drawn": ladder[int(self._pattern[step % 8]) % len(ladder)],
            }[self._arpeggio]
            self._add(bar, step, self._every * self._gate, pitch, 0.8 if step % 4 == 0 else 0.65)

    def _pick(self, bar: int) -> None:
        """Single notes on a guitar, muted with the palm but for the accents, some of them slid into."""
        for step in range(0, self._song.genre.steps, 2 if self._song.tempo_bpm > 96 else self._every % 4 or 2):
            draw = int(self._pattern[step % 16])
            if draw == 7:
                continue
            low = _guitar_chord(self._song.chord(bar, step), low=45)
            accent = draw >= 5 or step == 0
            note = self._add(
                bar,
                step,
                self._every * (0.9 if accent else 0.6),
                low[draw % min(4, len(low))],
                0.85 if accent else 0.6,
                "" if accent else "mute",
            )
            if accent and chance(self._rng, 0.15):
                note.glide_from = note.pitch - int(self._rng.choice((1, 2, 2, 5)))

    def _riff(self, bar: int) -> None:
        """Power chords on the bass drum's rhythm, muted between the accents."""
        kick = self._song.groove(bar).get("kick", "x")
        sounding = self._song.section(bar).energy > 0.75
        for step, gap in self._gaps() if sounding else [(s, 2) for s in range(0, self._song.genre.steps, 2)]:
            chord = self._song.chord(bar, step)
            root = 38 + (chord.root - 38) % 12
            muted = not sounding and kick[step] == "."
            pitches = (root, root + 7, root + 12) if not muted else (root, root + 7)
            slide = int(self._rng.choice((-5, -2, 2))) if sounding and chance(self._rng, 0.06) else 0
            for number, pitch in enumerate(pitches):
                note = self._add(bar, step, gap * 0.95, pitch, 0.9, "mute" if muted else "", number * 0.002)
                if slide:
                    note.glide_from = float(pitch + slide)

    def _lead(self, bar: int) -> None:
        rng, song = self._rng, self._song
        step = int(rng.choice((0, 0, 2, 4)))
        pitch = song.chord(bar, step).nearest(self._centre)
        previous: int | None = None
        while step < song.genre.steps:
            gap = int(rng.choice((1, 2, 2, 3, 4, 6)))
            if step % 4 == 0:
                pitch = song.chord(bar, step).nearest(pitch)
            note = self._add(bar, step, gap * 0.95, pitch, 0.8)
            if previous is not None and chance(rng, 0.2):
                note.glide_from = float(previous)
            elif gap >= 2 and chance(rng, 0.15):  # bent up to pitch, by a semitone or two
                note.glide_from = float(pitch - int(rng.choice((1, 2, 2))))
            previous = pitch
            self._place += 1
            start = nearest_pitch(pitch, song.chord(bar, 0).scale)
            pitch = scale_step(start, self._motif[self._place % 16], song.chord(bar, 0).scale)
            if abs(pitch - self._centre) > 10:
                pitch = nearest_pitch(self._centre, song.chord(bar, 0).scale)
            step += gap + (int(rng.integers(1, 4)) if chance(rng, 0.2) else 0)

    def _montuno(self, bar: int) -> None:
        line = "x..xx.x.x..xx.x." if bar % 2 else "x.xx.xx.x..xx.x."
        for number, step in enumerate(step for step, mark in enumerate(line) if mark == "x"):
            chord = self._song.chord(bar, step)
            notes = chord.voicing(self._centre)
            pitch = notes[number % len(notes)]
            for octave in (0, 12):
                self._add(bar, step, 1.2, pitch + octave, 0.8)


def _guitar_chord(chord: Chord, low: int) -> list[int]:
    """Six strings from the lowest root or fifth up, close to how a chord lies on a guitar."""
    root = low + (chord.root - low) % 12
    pitches = [root, root + 7]
    tones = sorted({tone % 12 for tone in chord.tones})
    for octave in (12, 24):
        pitches += [root + octave + tone for tone in tones]
    return [pitch for pitch in sorted(set(pitches)) if pitch < low + 32][:6]
