"""The singer: melodies on made-up words, sung, rapped or shouted by a voice of source and filter."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from iseparate.data.synthetic import filters, mixing
from iseparate.data.synthetic.casting import cast
from iseparate.data.synthetic.phonemes import CONSONANTS, VOWELS, Syllable, draw_syllable, tract
from iseparate.data.synthetic.song import Song, nearest_pitch, scale_step, weighted
from iseparate.data.synthetic.sounds import (
    SAMPLE_RATE,
    Note,
    Timbre,
    between,
    between_log,
    chance,
    in_samples,
    noise,
    phase_of,
    pick,
    place,
    stream,
)
from iseparate.types import Samples

FRAME_SECONDS = filters.HOP / SAMPLE_RATE
"""From frame to frame of what a voice does."""
_LEAD_SECONDS = 0.7  # what a phrase may need before its first note: breath and consonant
_TAIL_SECONDS = 0.4

_PRESENCE = {
    "intro": 0.1,
    "verse": 0.95,
    "build": 0.9,
    "chorus": 1.0,
    "bridge": 0.7,
    "solo": 0.05,
    "break": 0.5,
    "outro": 0.4,
}


@dataclass(frozen=True)
class Sung:
    """A note and its syllable."""

    note: Note
    syllable: Syllable


Phrase = tuple[Sung, ...]


@dataclass(frozen=True)
class VoicePart:
    """What is sung."""

    style: str
    """``sung``, ``rap``, ``shout``, ``chant`` or ``none``."""
    voice: str
    """``low``, ``middle`` or ``high``."""
    phrases: tuple[Phrase, ...]
    choir: tuple[Phrase, ...]
    """Harmonies and backing vocals."""


def write_part(song: Song) -> VoicePart:
    """Melody and words of the song."""
    rng = stream(song.seed, "voice")
    style = weighted(rng, song.genre.voices)
    voice = weighted(rng, {"low": 0.3, "middle": 0.3, "high": 0.4})
    if style == "none":
        return VoicePart(style, voice, (), ())
    centre = {"low": 52.0, "middle": 58.0, "high": 66.0}[voice] + between(rng, -3.0, 3.0)
    tunes = {kind: _Tune(song, stream(song.seed, "tune", kind), style) for kind in ("verse", "chorus", "other")}
    harmonised = chance(rng, 0.45)
    backing = chance(rng, 0.25)
    present = {kind: chance(rng, likely) for kind, likely in _PRESENCE.items()}
    phrases: list[Phrase] = []
    choir: list[Phrase] = []
    for section in song.sections:
        if not present[section.kind]:
            continue
        high = 5.0 * (section.energy - 0.6) if style != "rap" else 0.0
        tune = tunes[section.kind if section.kind in tunes else "other"]
        for bar in range(0, section.bars, 2):
            if style == "chant" and bar % 4:
                continue
            phrase = tune.phrase(section.first_bar + bar, bar // 2, centre + high, min(2, section.bars - bar))
            if not phrase:
                continue
            phrases.append(phrase)
            if harmonised and section.kind in ("chorus", "build", "outro") and style == "sung":
                choir.append(_harmony(song, phrase, pick(rng, (2, 4, -3))))
        if backing and section.kind == "chorus":
            choir += _pads(song, rng, section.first_bar, section.bars, centre)
    return VoicePart(style, voice, tuple(phrases), tuple(choir))


class _Tune:
    """The melodic material of one kind of section: it comes back with the section."""

    def __init__(self, song: Song, rng: np.random.Generator, style: str):
        self._song, self._rng, self._style = song, rng, style
        self._seed = int(rng.integers(1 << 30))
        self._variants = int(rng.choice((1, 2, 2, 4)))
        self._density = between(rng, 0.25, 0.6) if style != "rap" else between(rng, 0.75, 0.95)

    def phrase(self, bar: int, number: int, centre: float, bars: int) -> Phrase:
        song = self._song
        rng = stream(self._seed, "phrase", str(number % self._variants))
        steps = song.genre.steps * bars
        end = steps - int(rng.integers(2, 6))
        step = int(rng.choice((0, 0, 2, 2, 3, 4)))
        grid = 1 if self._style == "rap" or song.tempo_bpm < 85 else 2
        pitch = nearest_pitch(centre + float(rng.normal(0.0, 3.0)), song.chord(bar, 0).scale)
        notes: list[Sung] = []
        previous = float(pitch)
        while step < end:
            gap = self._gap(rng, grid)
            if end - step - gap < grid:
                gap = int(rng.choice((4, 6, 8)))
            where, within = bar + step // song.genre.steps, step % song.genre.steps
            if where >= song.bars:
                break
            chord = song.chord(where, within)
            if within % 4 == 0 or gap >= 4:
                pitch = chord.nearest(pitch)
            sung_pitch = float(pitch) if self._style != "rap" else centre - 4.0 + float(rng.normal(0.0, 1.6))
            glide = previous if chance(rng, 0.3 if self._style == "sung" else 0.1) else None
            note = Note(
                max(0.05, song.when(where, within) + float(self._rng.normal(0.0, 0.012))),
                gap * song.step_seconds(where) * between(rng, 0.8, 1.0),
                sung_pitch,
                between(rng, 0.65, 1.0),
                glide_from=glide,
            )
            notes.append(Sung(note, draw_syllable(rng)))
            previous = sung_pitch
            leap = int(rng.choice((-3, -2, -1, 0, 1, 2, 3), p=(0.06, 0.14, 0.25, 0.15, 0.22, 0.12, 0.06)))
            pitch = scale_step(nearest_pitch(pitch, chord.scale), leap, chord.scale)
            if abs(pitch - centre) > 8.0:
                pitch = nearest_pitch(centre, chord.scale)
            step += gap
        return tuple(notes)

    def _gap(self, rng: np.random.Generator, grid: int) -> int:
        if self._style == "rap":
            return int(rng.choice((1, 1, 2, 2, 3)))
        if chance(rng, self._density):
            return grid
        return int(rng.choice((2, 3, 4, 4, 6, 8)))


def _harmony(song: Song, phrase: Phrase, interval: int) -> Phrase:
    """The phrase some steps of the scale above or below."""
    scale = song.chords[0][0].scale
    return tuple(
        replace(
            sung,
            note=replace(
                sung.note,
                pitch=float(scale_step(nearest_pitch(sung.note.pitch, scale), interval, scale)),
                glide_from=None,
            ),
        )
        for sung in phrase
    )


def _pads(song: Song, rng: np.random.Generator, first_bar: int, bars: int, centre: float) -> list[Phrase]:
    """Ooh and aah under a chorus."""
    vowel = pick(rng, ("u", "a", "o"))
    phrases: list[Phrase] = []
    for bar in range(first_bar, first_bar + bars):
        seconds = song.bar_starts_seconds[bar + 1] - song.bar_starts_seconds[bar]
        for pitch in song.chord(bar, 0).voicing(centre + 3.0)[:3]:
            note = Note(song.bar_starts_seconds[bar] + 0.05, 0.95 * seconds, float(pitch), 0.6)
            phrases.append((Sung(note, Syllable("", vowel, vowel, "")),))
    return phrases


def render(song: Song, part: VoicePart, samples: int) -> Samples:
    """The vocal stem ``[2, samples]``."""
    rng = stream(song.seed, "voice sound")
    stem = np.zeros((2, samples), dtype=np.float32)
    if not part.phrases:
        return stem
    singer = _singer(rng, part.voice, part.style)
    lead = singer.sing(part.phrases, samples)
    lead = _strip(rng, lead)
    stem += widened(lead, 0.0)
    doubled = chance(rng, 0.3) or part.style in ("chant", "shout")
    if doubled:
        for side in (-1.0, 1.0):
            twin = _strip(rng, singer.sing(_again(rng, part.phrases), samples))
            stem += widened(twin, side * between(rng, 0.3, 0.9)) * np.float32(between(rng, 0.25, 0.7))
    for number, phrases in enumerate((part.choir[0::3], part.choir[1::3], part.choir[2::3])):
        if phrases:
            other = _singer(rng, pick(rng, ("low", "middle", "high")), "sung") if chance(rng, 0.5) else singer
            voice = _strip(rng, other.sing(phrases, samples))
            stem += widened(voice, (0.0, -0.7, 0.7)[number]) * np.float32(between(rng, 0.25, 0.6))
    wet = np.zeros_like(stem)
    if chance(rng, 0.85):
        wet += mixing.reverb(stem, rng, (0.4, 3.0)) * np.float32(between_log(rng, 0.03, 0.35))
    if chance(rng, 0.4):
        beat = 60.0 / song.tempo_bpm
        wet += mixing.echo(stem, rng, beat * float(rng.choice((0.25, 0.5, 0.75, 1.0)))) * np.float32(
            between(rng, 0.06, 0.3)
        )
    return mixing.compress(stem + wet, rng, chance_of=0.5)


def _singer(rng: np.random.Generator, voice: str, style: str) -> Singer:
    casting = cast()
    return (casting.singer(voice, style, rng) if casting else None) or Singer(rng, voice, style)


def widened(voice: Samples, pan: float) -> Samples:
    """A mono voice at a place in the stereo field."""
    return mixing.widen(np.stack([voice, voice]), 1.0, pan)


def _strip(rng: np.random.Generator, voice: Samples) -> Samples:
    line = filters.highpass(voice[None], between(rng, 70.0, 160.0))
    line = mixing.equalise(line, rng, 3.0)
    line = filters.bands(line, filters.shelf(between(rng, 4000.0, 9000.0), between(rng, 0.0, 7.0), high=True))
    line = mixing.compress(mixing.compress(line, rng, chance_of=0.9), rng, chance_of=0.4, ratio=6.0)
    if chance(rng, 0.15):
        line = mixing.overdrive(line, between_log(rng, 0.6, 5.0))
    return np.asarray(mixing.at_level(line, 0.0)[0])


def _again(rng: np.random.Generator, phrases: tuple[Phrase, ...]) -> tuple[Phrase, ...]:
    """The same phrases in another take: not quite so in time and in tune."""
    return tuple(
        tuple(
            replace(
                sung,
                note=replace(
                    sung.note,
                    start_seconds=max(0.0, sung.note.start_seconds + float(rng.normal(0.0, 0.015))),
                    pitch=sung.note.pitch + float(rng.normal(0.0, 0.08)),
                ),
            )
            for sung in phrase
        )
        for phrase in phrases
    )


@dataclass
class _Frames:
    """What the voice does, every `FRAME_SECONDS`."""

    pitch: NDArray[np.float64]
    voiced: NDArray[np.float64]
    breath: NDArray[np.float64]
    formants: NDArray[np.float64]
    noise: NDArray[np.float32]
    """Spectrum of consonants ``[frames, bins]``."""


class Singer:
    """One voice: the length of its tract, its vibrato, its breath."""

    def __init__(self, rng: np.random.Generator, voice: str, style: str):
        self._rng = rng
        scale = {"low": 1.0, "middle": 1.08, "high": 1.17}[voice] * between(rng, 0.94, 1.07)
        self._vowels = {name: np.array(formants) * scale for name, formants in VOWELS.items()}
        self._scale = scale
        self._upper = np.array([between(rng, 3300.0, 3700.0), between(rng, 4200.0, 4700.0), 5600.0]) * scale
        self._ringing = between(rng, 0.6, 1.4)  # the singer's formant: narrow when trained
        self._widths = np.array([75.0, 100.0, 140.0 / self._ringing, 180.0 / self._ringing, 280.0, 400.0])
        self._vibrato_cents = between(rng, 10.0, 70.0) if style in ("sung", "shout") else 0.0
        self._vibrato_hz = between(rng, 4.6, 6.6)
        self._vibrato_after = between(rng, 0.1, 0.5)
        self._slowness = between(rng, 0.012, 0.05)
        self._loose_cents = between(rng, 4.0, 18.0)
        self._breathiness = between_log(rng, 0.015, 0.2)
        self._rough = between(rng, 0.5, 1.0) if style == "shout" else 0.0
        tilt = between(rng, 0.55, 1.1) if style != "shout" else 0.5
        number = np.arange(1, 301)
        self._source = Timbre(1.0 / number**tilt, phases=0.35 * number**0.8, slope=1.0)
        self._soft_hz, self._loud_hz = between(rng, 1500.0, 4500.0), between(rng, 5000.0, 16000.0)
        self._sibilance = between_log(rng, 0.12, 0.6)
        self._curves: dict[str, NDArray[np.float32]] = {}

    def sing(self, phrases: tuple[Phrase, ...], samples: int) -> Samples:
        """Sing all phrases into a mono line ``[samples]``."""
        line = np.zeros((2, samples), dtype=np.float32)
        for phrase in phrases:
            first = phrase[0].note.start_seconds - _LEAD_SECONDS
            if first * SAMPLE_RATE < samples:
                place(line, self._phrase(phrase, first), in_samples(first), 1.0, 0.0)
        return np.asarray(line[0])

    def _phrase(self, phrase: Phrase, first_seconds: float) -> Samples:
        last = phrase[-1].note
        seconds = last.start_seconds + last.seconds + _TAIL_SECONDS - first_seconds
        frames = self._score(phrase, first_seconds, int(np.ceil(seconds / FRAME_SECONDS)))
        count = len(frames.pitch) * filters.HOP
        at = np.arange(count) / filters.HOP
        grid = np.arange(len(frames.pitch))
        frequency = 440.0 * 2.0 ** ((np.interp(at, grid, frames.pitch) - 69.0) / 12.0)
        loudness = np.interp(at, grid, frames.voiced).astype(np.float32)
        phase = phase_of(frequency, between(self._rng, 0.0, 1.0))
        cutoff = np.float32(self._soft_hz) + np.float32(self._loud_hz) * np.square(loudness)
        tone = self._source.sound(phase, float(frequency.max()), cutoff) * loudness
        if self._rough:
            half = 0.5 + 0.5 * np.cos(np.pi * phase)
            tone *= 1.0 - np.float32(0.6 * self._rough) * half.astype(np.float32)
        air = noise(self._rng, count)
        # breath comes in puffs, in time with the voice
        pulsing = (0.6 + 0.4 * np.sin(2.0 * np.pi * (phase - np.floor(phase)))).astype(np.float32)
        tone += air * pulsing * np.interp(at, grid, frames.breath).astype(np.float32)
        sung = filters.shape_frames(tone, self._tract(frames))
        return sung + filters.shape_frames(noise(self._rng, count), frames.noise)

    def _tract(self, frames: _Frames) -> NDArray[np.float32]:
        hz = filters.frame_bins_hz()
        formants = frames.formants.copy()
        tone_hz = 440.0 * 2.0 ** ((frames.pitch - 69.0) / 12.0)
        # singers open the mouth so that the first formant does not fall below the note
        formants[:, 0] = np.maximum(formants[:, 0], 0.95 * tone_hz)
        everything = np.concatenate([formants, np.broadcast_to(self._upper, (len(formants), 3))], axis=1)
        gains = tract(hz, everything, np.broadcast_to(self._widths, everything.shape))
        gains *= (hz / (hz + 60.0)).astype(np.float32)
        # a cascade of so few resonators falls too steeply above the last one that is modelled
        top = int(np.searchsorted(hz, 5000.0 * self._scale))
        fall = (hz[top] / hz[top:]).astype(np.float32) ** 0.8
        gains[:, top:] = gains[:, top - 12 : top].mean(axis=1, keepdims=True) * fall
        heard = (hz > 150.0) & (hz < 4000.0)
        weight = (1.0 / hz[heard]).astype(np.float32)
        level = np.sqrt((np.square(gains[:, heard]) * weight).sum(axis=1) / weight.sum())
        # closed vowels stay somewhat softer than open ones
        return np.asarray(gains / level[:, None] ** 0.8, dtype=np.float32)

    def _score(self, phrase: Phrase, first_seconds: float, count: int) -> _Frames:
        rng = self._rng
        frames = _Frames(
            pitch=np.full(count, phrase[0].note.pitch),
            voiced=np.zeros(count),
            breath=np.zeros(count),
            formants=np.tile(self._vowels[phrase[0].syllable.vowel], (count, 1)),
            noise=np.zeros((count, len(filters.frame_bins_hz())), dtype=np.float32),
        )
        if chance(rng, 0.4):
            self._inhale(frames)
        for sung in phrase:
            begin = round((sung.note.start_seconds - first_seconds) / FRAME_SECONDS)
            end = min(count, begin + max(4, round(sung.note.seconds / FRAME_SECONDS)))
            self._vowel(frames, sung, begin, end)
        for sung in phrase:
            begin = round((sung.note.start_seconds - first_seconds) / FRAME_SECONDS)
            if sung.syllable.onset:
                self._consonant(frames, sung.syllable.onset, begin, sung.note.velocity)
            if sung.syllable.coda:
                end = min(count - 1, begin + max(4, round(sung.note.seconds / FRAME_SECONDS)))
                self._consonant(frames, sung.syllable.coda, end, 0.8 * sung.note.velocity)
        frames.formants = filters.spread_evenly(filters.spread_evenly(frames.formants, 5), 5)
        frames.voiced = filters.spread_evenly(filters.spread_evenly(frames.voiced, 3), 3)
        frames.pitch = self._tuned(frames.pitch)
        frames.breath = filters.spread_evenly(frames.breath, 3) + self._breathiness * frames.voiced
        frames.noise = filters.spread_evenly(frames.noise, 3).astype(np.float32)
        return frames

    def _vowel(self, frames: _Frames, sung: Sung, begin: int, end: int) -> None:
        rng, note = self._rng, sung.note
        long = end - begin
        if long <= 0:
            return
        frames.pitch[begin:] = note.pitch
        if note.glide_from is not None:
            frames.pitch[begin : begin + int(0.07 / FRAME_SECONDS)] = note.glide_from
        elif chance(rng, 0.3):
            frames.pitch[begin : begin + int(0.05 / FRAME_SECONDS)] -= between(rng, 0.5, 2.5)  # scooped from below
        swell = np.linspace(0.0, np.pi, long)
        shape = 0.85 + 0.15 * np.sin(swell)
        release = min(long, int(0.06 / FRAME_SECONDS))
        shape[-release:] *= np.linspace(1.0, 0.15, release)
        frames.voiced[begin:end] = note.velocity * shape
        target = self._vowels[sung.syllable.vowel]
        frames.formants[begin:] = target
        second = self._vowels[sung.syllable.second_vowel]
        turn = np.clip((np.linspace(0.0, 1.0, long) - 0.45) / 0.4, 0.0, 1.0)[:, None]
        frames.formants[begin:end] = target + turn * (second - target)
        if long * FRAME_SECONDS > self._vibrato_after:
            t = np.arange(long) * FRAME_SECONDS
            grown = np.clip((t - self._vibrato_after) / 0.3, 0.0, 1.0)
            rate = self._vibrato_hz * between(rng, 0.95, 1.05)
            frames.pitch[begin:end] += 0.01 * self._vibrato_cents * grown * np.sin(2.0 * np.pi * rate * t)

    def _consonant(self, frames: _Frames, name: str, until: int, velocity: float) -> None:
        """Put a consonant right before frame `until`."""
        kind = CONSONANTS[name]
        long = max(3, round(kind.seconds * between(self._rng, 0.75, 1.3) / FRAME_SECONDS))
        begin = max(0, until - long)
        frames.voiced[begin:until] = kind.voiced * velocity
        if kind.formants is not None:
            frames.formants[begin:until] = np.array(kind.formants) * self._scale
        if kind.noise:
            curve = self._curve(name) * np.float32(self._sibilance * (0.5 + 0.7 * velocity))
            first = max(begin, until - 3) if kind.burst else begin
            frames.noise[first:until] += curve * np.float32(1.5 if kind.burst else 1.0)
        breathy = int(kind.breathy_seconds / FRAME_SECONDS)
        frames.breath[until : until + breathy] = 0.35 * velocity
        frames.voiced[until : until + breathy] *= 0.2

    def _curve(self, name: str) -> NDArray[np.float32]:
        if name not in self._curves:
            octaves = np.log2(np.maximum(filters.frame_bins_hz(), 40.0))
            curve = np.zeros(len(octaves))
            for centre, width, level in CONSONANTS[name].noise:
                centre_here = np.log2(min(centre * (0.5 + 0.5 * self._scale), 10000.0))
                curve += level * np.exp(-(((octaves - centre_here) / width) ** 2))
            self._curves[name] = curve.astype(np.float32)
        return self._curves[name]

    def _inhale(self, frames: _Frames) -> None:
        until = int((_LEAD_SECONDS - 0.15) / FRAME_SECONDS)
        begin = until - int(between(self._rng, 0.2, 0.4) / FRAME_SECONDS)
        swell = np.sin(np.linspace(0.0, np.pi, until - begin)) * between(self._rng, 0.005, 0.03)
        frames.noise[begin:until] += (swell[:, None] * self._curve("h")[None] * 3.0).astype(np.float32)

    def _tuned(self, pitch: NDArray[np.float64]) -> NDArray[np.float64]:
        """Glide between notes, and waver."""
        keep = float(np.exp(-FRAME_SECONDS / self._slowness))
        moved = filters.one_pole(filters.one_pole(pitch, keep), keep**2)
        waver = filters.one_pole(self._rng.standard_normal(len(pitch)), 0.93) * 5.0
        jitter = self._rng.standard_normal(len(pitch)) * (1.0 + 6.0 * self._rough)
        return moved + 0.01 * self._loose_cents * waver * 0.5 + 0.01 * jitter * 1.5
