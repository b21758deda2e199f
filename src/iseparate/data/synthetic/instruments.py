"""The instruments of the harmony: keys, guitars, synthesisers, brass, strings, reeds, bells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from iseparate.data.synthetic import filters, mixing
from iseparate.data.synthetic.casting import cast
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
    modes,
    noise,
    pan_gains,
    peak_to,
    phase_of,
    place,
    plucked,
    pulse,
    sawtooth,
    soften_end,
    steady_phase,
    times,
)
from iseparate.types import Samples


class Instrument(Protocol):
    """Whatever turns notes into sound."""

    def play(self, notes: Sequence[Note], samples: int) -> Samples:
        """Play all notes into a stereo bus ``[2, samples]``."""
        ...


def make_instrument(name: str, rng: np.random.Generator, role: str) -> Instrument:
    """Build an instrument of the named kind with a character of its own; `role` is what it is to play."""
    casting = cast()
    sampled = casting.instrument(name, rng, role) if casting else None
    return sampled or _MAKERS[name](rng, role)


class Struck:
    """Keys and mallets: each pitch is sounded once per strength and take, then held as long as its note."""

    def __init__(
        self, rng: np.random.Generator, strike: Callable[[np.random.Generator, int, float], Samples], release: float
    ):
        self._rng = rng
        self._strike = strike
        self._release = release
        self._struck: dict[tuple[int, int], Samples] = {}
        self._spread = between(rng, 0.0, 0.7)

    def play(self, notes: Sequence[Note], samples: int) -> Samples:
        bus = np.zeros((2, samples), dtype=np.float32)
        for note in notes:
            pitch, strength = round(note.pitch), min(2, int(3.0 * note.velocity))
            if (pitch, strength) not in self._struck:
                self._struck[pitch, strength] = self._strike(self._rng, pitch, (strength + 0.7) / 3.0)
            tone = self._struck[pitch, strength]
            held = in_samples(note.seconds)
            sound = tone[: held + in_samples(3.0 * self._release)].copy()
            if held < len(sound):
                sound[held:] *= np.exp(-times(len(sound) - held) / np.float32(self._release))
            soften_end(sound)
            # low notes to the left, high ones to the right, as the player sits
            left, right = pan_gains(self._spread * (pitch - 62.0) / 30.0)
            place(bus, sound * np.float32(note.velocity), in_samples(note.start_seconds), left, right)
        return bus


def _piano(rng: np.random.Generator, role: str) -> Instrument:
    del role
    hammer = between(rng, 0.08, 0.16)
    soft = between(rng, 0.55, 1.3)
    stiff = between_log(rng, 1e-4, 6e-4)
    ring = between(rng, 0.7, 1.4)
    knock = between(rng, 0.02, 0.08)
    detune = between(rng, 0.0002, 0.0012) if chance(rng, 0.8) else 0.004

    def strike(take: np.random.Generator, pitch: int, strength: float) -> Samples:
        base = midi_hz(pitch)
        number = np.arange(1, int(np.clip(9000.0 / base, 3, 26)) + 1)
        # stiff strings stretch their partials (Fletcher and Rossing 1998, chapter 12)
        hz = base * number * np.sqrt(1.0 + stiff * 2.0 ** ((pitch - 60) / 12.0) * number**2)
        levels = np.abs(np.sin(np.pi * number * hammer)) / number ** (0.6 + soft * (1.3 - strength))
        seconds = ring * 9.0 * 2.0 ** ((48 - pitch) / 24.0) / (1.0 + 0.12 * number)
        count = in_samples(min(4.0, 0.6 * float(seconds[0])))
        starts = take.random(len(number))
        tone = modes(count, hz, levels, seconds, starts)
        tone += 0.7 * modes(count, hz * (1.0 + detune), levels, 0.5 * seconds, take.random(len(number)))
        thud = filters.bandpass(noise(take, count), 80.0, 900.0) * decay(count, 0.1)
        return peak_to(tone, 0.6) + knock * strength * thud

    return Struck(rng, strike, between(rng, 0.05, 0.2))


def _electric_piano(rng: np.random.Generator, role: str) -> Instrument:
    del role
    ratio = float(rng.choice((14.0, 7.0, 1.0, 3.0)))
    tine, bark = between(rng, 0.1, 0.5), between(rng, 0.5, 2.2)
    ring = between(rng, 2.0, 5.0)

    def strike(take: np.random.Generator, pitch: int, strength: float) -> Samples:
        count = in_samples(3.5)
        base = midi_hz(pitch)
        turns = steady_phase(count, base, float(take.random()))
        angle = (2.0 * np.pi * (turns - np.floor(turns))).astype(np.float32)
        ping = np.sin(np.float32(ratio) * angle) * decay(count, 0.7) * np.float32(tine * strength)
        growl = np.sin(angle) * decay(count, 1.6 * ring) * np.float32(bark * strength)
        length = ring * 2.0 ** ((60 - pitch) / 30.0)
        return soften_end(0.5 * np.sin(angle + growl + ping) * decay(count, length))

    return Moving(Struck(rng, strike, between(rng, 0.06, 0.15)), rng, "tremolo" if chance(rng, 0.6) else "chorus")


def _bell(rng: np.random.Generator, role: str) -> Instrument:
    del role
    kinds = ((1.0, 2.0, 3.0, 4.2, 5.4), (1.0, 3.93, 9.2, 16.0, 24.0), (1.0, 2.76, 5.4, 8.93, 13.3))
    ratios = np.array(kinds[int(rng.integers(len(kinds)))])
    ring = between(rng, 0.7, 3.5)
    bright = between(rng, 0.5, 1.6)

    def strike(take: np.random.Generator, pitch: int, strength: float) -> Samples:
        levels = 1.0 / np.arange(1, 6) ** (bright * (1.5 - strength))
        count = in_samples(min(ring, 2.5))
        return 0.5 * peak_to(modes(count, midi_hz(pitch) * ratios, levels, ring / np.sqrt(ratios), take.random(5)))

    return Struck(rng, strike, between(rng, 0.1, 0.5))


class Strings:
    """Plucked strings: guitars and their kin, one note after another on each string."""

    def __init__(self, rng: np.random.Generator, position: float, tilt: float, ring: float, bright_hz: float):
        self._rng = rng
        number = np.arange(1, 401)
        pickup = 0.2 + np.abs(np.sin(np.pi * number * between(rng, 0.08, 0.28)))
        body = (
            (between(rng, 95.0, 125.0), 5.0, 0.4),
            (between(rng, 190.0, 240.0), 4.0, 0.4),
            (between(rng, 1200.0, 3200.0), between(rng, -2.0, 6.0), 0.7),
        )
        phases = rng.random(400) * 2.0 * np.pi
        self._timbre = Timbre(plucked(position, tilt) * pickup, phases, slope=1.3, body=body)
        self._ring, self._bright_hz = ring, bright_hz
        self._touch = between(rng, 0.01, 0.06)
        self._kept: dict[tuple[int, int, str, int], Samples] = {}

    def play(self, notes: Sequence[Note], samples: int) -> Samples:
        bus = np.zeros((2, samples), dtype=np.float32)
        for note in notes:
            sound = self._note(note)
            held = in_samples(note.seconds)
            sound = sound[: held + in_samples(0.08)].copy()
            if held < len(sound):
                sound[held:] *= np.exp(-times(len(sound) - held) / np.float32(0.025))
            place(bus, soften_end(sound) * np.float32(note.velocity), in_samples(note.start_seconds))
        return bus

    def _note(self, note: Note) -> Samples:
        if note.glide_from is not None:  # bends and slides are each their own
            count = in_samples(min(note.seconds, 4.0) + 0.1)
            return self._pluck(glide(count, note.glide_from, note.pitch, between(self._rng, 0.06, 0.25)), note)
        key = (round(note.pitch), min(2, int(3.0 * note.velocity)), note.articulation, int(self._rng.integers(2)))
        if key not in self._kept:
            count = in_samples(0.25 if note.articulation else min(3.5, self._ring))
            sharp = np.exp(-np.arange(count) / 1500.0) * 0.003 * note.velocity + between(self._rng, -0.0015, 0.0015)
            self._kept[key] = self._pluck(midi_hz(note.pitch) * (1.0 + sharp), note)
        return self._kept[key]

    def _pluck(self, frequency: np.ndarray, note: Note) -> Samples:
        count = len(frequency)
        base = midi_hz(note.pitch)
        ring = {"mute": 0.28, "ghost": 0.06}.get(note.articulation, self._ring * 2.0 ** ((52 - note.pitch) / 24.0))
        hard = self._bright_hz * (0.35 + note.velocity) * (0.35 if note.articulation == "mute" else 1.0)
        cutoff = 1.5 * base + hard * decay(count, 0.45 * ring)
        tone = self._timbre.sound(phase_of(frequency), base, cutoff) * decay(count, ring)
        tone *= np.minimum(times(count) / np.float32(0.002), 1.0)
        touch = filters.bandpass(noise(self._rng, min(count, 1800)), 1000.0, 6000.0) * decay(min(count, 1800), 0.025)
        tone[: len(touch)] += (3.0 if note.articulation == "ghost" else 1.0) * self._touch * touch
        return tone


def _acoustic(rng: np.random.Generator, role: str) -> Instrument:
    del role
    strings = Strings(rng, between(rng, 0.1, 0.22), between(rng, 0.85, 1.2), between(rng, 2.0, 5.0), 7000.0)
    return Doubled(strings, rng, 0.45)


def _nylon(rng: np.random.Generator, role: str) -> Instrument:
    del role
    return Strings(rng, between(rng, 0.18, 0.35), between(rng, 1.3, 1.6), between(rng, 1.2, 2.8), 4000.0)


def _clean(rng: np.random.Generator, role: str) -> Instrument:
    del role
    strings = Strings(rng, between(rng, 0.08, 0.25), between(rng, 0.9, 1.3), between(rng, 2.0, 5.0), 5000.0)
    return Moving(strings, rng, str(rng.choice(("none", "chorus", "tremolo"), p=(0.5, 0.35, 0.15))))


def _clav(rng: np.random.Generator, role: str) -> Instrument:
    del role
    strings = Strings(rng, between(rng, 0.04, 0.12), between(rng, 0.7, 0.95), between(rng, 0.8, 2.0), 8000.0)
    return _Swept(strings, rng) if chance(rng, 0.4) else strings


class Doubled:
    """Two takes of a part, left and right; or one in the middle."""

    def __init__(self, strings: Instrument, rng: np.random.Generator, likely: float):
        self._strings, self._rng = strings, rng
        self._double = chance(rng, likely)
        self._width = between(rng, 0.5, 1.0)

    def play(self, notes: Sequence[Note], samples: int) -> Samples:
        if not self._double:
            return self._strings.play(notes, samples)
        left, right = (self._strings.play(_once_more(notes, self._rng), samples)[0] for _ in range(2))
        near, far = np.float32(0.5 + 0.5 * self._width), np.float32(0.5 - 0.5 * self._width)
        return np.stack([near * left + far * right, far * left + near * right])


def _once_more(notes: Sequence[Note], rng: np.random.Generator) -> list[Note]:
    late = rng.normal(0.0, 0.006, len(notes))
    return [
        Note(
            max(0.0, note.start_seconds + float(shift)),
            note.seconds,
            note.pitch,
            float(np.clip(note.velocity * between(rng, 0.85, 1.1), 0.05, 1.0)),
            note.articulation,
            note.glide_from,
        )
        for note, shift in zip(notes, late, strict=True)
    ]


class Distorted:
    """An electric guitar through an overdriven amplifier and its cabinet, often doubled; its `strings` are own ones."""

    def __init__(self, rng: np.random.Generator, role: str, strings: Instrument | None = None):
        self._rng = rng
        self._strings = strings or Strings(
            rng, between(rng, 0.06, 0.15), between(rng, 0.9, 1.2), between(rng, 4.0, 9.0), 5000.0
        )
        self._double = role != "lead" and chance(rng, 0.65)
        self._drive = between_log(rng, 3.0, 60.0) if role != "lead" else between_log(rng, 5.0, 40.0)
        self._width = between(rng, 0.6, 1.0)
        self._pan = between(rng, -0.7, 0.7) if role != "lead" else between(rng, -0.2, 0.2)
        self._tight_hz = between(rng, 80.0, 220.0)
        self._cabinet = [
            filters.bell(between(rng, 90.0, 140.0), between(rng, 0.0, 5.0), 1.0),
            filters.bell(between(rng, 350.0, 700.0), between(rng, -7.0, 1.0), 0.8),
            filters.bell(between(rng, 1800.0, 3400.0), between(rng, 0.0, 7.0), 0.9),
            filters.bell(between(rng, 4200.0, 5400.0), between(rng, -12.0, 0.0), 2.5),
        ]
        self._edge_hz = between(rng, 3800.0, 6200.0)

    def play(self, notes: Sequence[Note], samples: int) -> Samples:
        if not self._double:
            take = self._amplify(self._strings.play(notes, samples)[0])
            return np.stack([take, take]) * np.array(pan_gains(self._pan), dtype=np.float32)[:, None]
        takes = [self._amplify(self._strings.play(_once_more(notes, self._rng), samples)[0]) for _ in range(2)]
        near, far = np.float32(0.5 + 0.5 * self._width), np.float32(0.5 - 0.5 * self._width)
        return np.stack([near * takes[0] + far * takes[1], far * takes[0] + near * takes[1]])

    def _amplify(self, dry: Samples) -> Samples:
        pushed = mixing.overdrive(filters.highpass(dry, self._tight_hz), self._drive)
        pushed = filters.lowpass(filters.bands(pushed, *self._cabinet), self._edge_hz, 4)
        return filters.highpass(pushed, 70.0)


class Sustained:
    """Oscillators under a moving lowpass: synthesisers, and brass, strings and reeds drawn with a broad brush."""

    def __init__(
        self,
        rng: np.random.Generator,
        timbre: Timbre,
        *,
        voices: int,
        detune: float,
        attack: tuple[float, float],
        fall: tuple[float, float],
        sustain: tuple[float, float],
        release: tuple[float, float],
        base_hz: float,
        sweep_hz: float,
        sweep_seconds: float,
        vibrato: float = 0.0,
        breath: float = 0.0,
    ):
        self._rng, self._timbre, self._voices, self._detune = rng, timbre, voices, detune
        self._attack, self._fall = between_log(rng, *attack), between_log(rng, *fall)
        self._sustain, self._release = between(rng, *sustain), between_log(rng, *release)
        self._base_hz, self._sweep_hz, self._sweep_seconds = base_hz, sweep_hz, sweep_seconds
        self._vibrato, self._breath = vibrato, breath
        self._rate = between(rng, 4.5, 6.5)
        self._spread = between(rng, 0.3, 1.0)

    def play(self, notes: Sequence[Note], samples: int) -> Samples:
        bus = np.zeros((2, samples), dtype=np.float32)
        for note in notes:
            self._add(bus, note)
        return bus

    def _add(self, bus: Samples, note: Note) -> None:
        rng = self._rng
        start = in_samples(note.start_seconds)
        held = in_samples(note.seconds)
        count = min(held + in_samples(self._release), bus.shape[1] - start)
        if count < 64:
            return
        shape = envelope(count, held, self._attack, self._fall, self._sustain, self._release)
        shape *= np.float32(0.5 * note.velocity / np.sqrt(self._voices))
        base = midi_hz(note.pitch)
        cutoff: float | Samples = self._base_hz
        if self._sweep_hz:
            t = times(count)
            rise = np.minimum(t / np.float32(max(0.5 * self._attack, 0.004)), 1.0)
            cutoff = self._base_hz + self._sweep_hz * note.velocity * rise * decay(count, self._sweep_seconds)
        for voice in range(self._voices):
            place_in_row = (voice - 0.5 * (self._voices - 1)) / max(1, self._voices - 1) * 2.0
            tuned = base * (1.0 + self._detune * (place_in_row + between(rng, -0.3, 0.3)))
            if note.glide_from is not None:
                moving = glide(count, note.glide_from, note.pitch, 0.08) * (tuned / base)
                phase = phase_of(self._shaken(moving, count), between(rng, 0.0, 1.0))
            elif self._vibrato:
                phase = phase_of(self._shaken(np.full(count, tuned), count), between(rng, 0.0, 1.0))
            else:
                phase = steady_phase(count, tuned, between(rng, 0.0, 1.0))
            tone = self._timbre.sound(phase, base, cutoff) * shape
            place(bus, tone, start, *pan_gains(self._spread * place_in_row))
        if self._breath:
            air = filters.bandpass(noise(rng, count), base, 6.0 * base + 2000.0, 1)
            place(bus, air * shape * np.float32(self._breath), start)

    def _shaken(self, frequency: np.ndarray, count: int) -> np.ndarray:
        t = np.arange(count) / SAMPLE_RATE
        grown = np.clip((t - 0.15) / 0.4, 0.0, 1.0)
        turn = 2.0 * np.pi * (self._rate * t + self._rng.random())
        return np.asarray(frequency * (1.0 + self._vibrato * grown * np.sin(turn)))


def _synth(rng: np.random.Generator, role: str) -> Instrument:
    waves = (sawtooth(), pulse(0.5), pulse(between(rng, 0.1, 0.4)), 1.0 / np.arange(1, 300) ** 2.0)
    timbre = Timbre(waves[int(rng.choice(4, p=(0.5, 0.2, 0.2, 0.1)))], rng.random(600) * 6.28, between(rng, 0.0, 1.8))
    slow = role == "pad"
    synth = Sustained(
        rng,
        timbre,
        voices=int(rng.choice((2, 3, 4))) if slow or role == "stab" else int(rng.choice((1, 2, 3))),
        detune=between(rng, 0.001, 0.008),
        attack=(0.05, 0.6) if slow else (0.002, 0.03),
        fall=(0.2, 2.0),
        sustain=(0.6, 1.0) if slow or role == "lead" else (0.0, 0.7),
        release=(0.2, 1.0) if slow else (0.04, 0.3),
        base_hz=between_log(rng, 300.0, 3500.0),
        sweep_hz=between_log(rng, 300.0, 8000.0) if chance(rng, 0.7) else 0.0,
        sweep_seconds=between_log(rng, 0.3, 4.0),
        vibrato=between(rng, 0.003, 0.009) if role == "lead" and chance(rng, 0.7) else 0.0,
    )
    if slow and chance(rng, 0.4):
        return _Swept(synth, rng)
    return Moving(synth, rng, "chorus" if slow and chance(rng, 0.5) else "none")


def _pluck(rng: np.random.Generator, role: str) -> Instrument:
    del role
    timbre = Timbre(sawtooth() if chance(rng, 0.6) else pulse(between(rng, 0.15, 0.5)), resonance=between(rng, 0, 2.0))
    return Sustained(
        rng,
        timbre,
        voices=int(rng.choice((1, 2, 3))),
        detune=between(rng, 0.001, 0.006),
        attack=(0.001, 0.006),
        fall=(0.06, 0.4),
        sustain=(0.0, 0.2),
        release=(0.05, 0.4),
        base_hz=between_log(rng, 150.0, 600.0),
        sweep_hz=between_log(rng, 1000.0, 9000.0),
        sweep_seconds=between_log(rng, 0.15, 1.2),
    )


def _brass(rng: np.random.Generator, role: str) -> Instrument:
    timbre = Timbre(sawtooth(), resonance=0.6, body=((1200.0, 5.0, 0.8), (4000.0, -6.0, 0.8)), slope=1.6)
    return Sustained(
        rng,
        timbre,
        voices=3 if role != "lead" else 1,
        detune=between(rng, 0.001, 0.004),
        attack=(0.015, 0.05),
        fall=(0.3, 1.0),
        sustain=(0.6, 0.9),
        release=(0.05, 0.12),
        base_hz=between(rng, 300.0, 700.0),
        sweep_hz=between(rng, 2500.0, 7000.0),
        sweep_seconds=between(rng, 1.5, 5.0),
        vibrato=0.003,
        breath=0.03,
    )


def _strings(rng: np.random.Generator, role: str) -> Instrument:
    del role
    body = ((300.0, 3.0, 0.4), (between(rng, 900.0, 1300.0), 4.0, 0.5), (between(rng, 2200.0, 3200.0), 4.0, 0.5))
    timbre = Timbre(sawtooth(), rng.random(600) * 6.28, body=body, slope=1.2)
    return Sustained(
        rng,
        timbre,
        voices=4,
        detune=between(rng, 0.002, 0.005),
        attack=(0.08, 0.4),
        fall=(0.5, 2.0),
        sustain=(0.8, 1.0),
        release=(0.2, 0.6),
        base_hz=between_log(rng, 1500.0, 5000.0),
        sweep_hz=0.0,
        sweep_seconds=1.0,
        vibrato=between(rng, 0.002, 0.005),
        breath=0.02,
    )


def _reed(rng: np.random.Generator, role: str) -> Instrument:
    del role
    body = ((between(rng, 500.0, 900.0), 6.0, 0.6), (between(rng, 1500.0, 2400.0), 4.0, 0.5))
    wave = sawtooth() if chance(rng, 0.6) else pulse(0.5)
    return Sustained(
        rng,
        Timbre(wave, rng.random(600) * 6.28, body=body, slope=1.3),
        voices=1,
        detune=0.0,
        attack=(0.02, 0.06),
        fall=(0.4, 1.0),
        sustain=(0.7, 1.0),
        release=(0.05, 0.15),
        base_hz=between(rng, 500.0, 1200.0),
        sweep_hz=between(rng, 1500.0, 4500.0),
        sweep_seconds=between(rng, 2.0, 8.0),
        vibrato=between(rng, 0.003, 0.008),
        breath=between(rng, 0.02, 0.12),
    )


def _organ(rng: np.random.Generator, role: str) -> Instrument:
    del role
    bars = np.zeros(16)
    for harmonic, likely in zip(
        (1, 2, 3, 4, 6, 8, 10, 12, 16), (0.9, 0.9, 0.8, 0.6, 0.5, 0.4, 0.2, 0.2, 0.3), strict=True
    ):
        bars[harmonic - 1] = rng.random() * chance(rng, likely)
    bars[0] += 0.3
    organ = Sustained(
        rng,
        Timbre(bars * 0.6, rng.random(16) * 6.28),
        voices=1,
        detune=0.0,
        attack=(0.003, 0.01),
        fall=(1.0, 2.0),
        sustain=(1.0, 1.0),
        release=(0.02, 0.06),
        base_hz=16000.0,
        sweep_hz=0.0,
        sweep_seconds=1.0,
    )
    return Moving(organ, rng, "rotary", drive=between(rng, 0.5, 3.0) if chance(rng, 0.5) else 0.0)


class Moving:
    """An effect that comes with the instrument: tremolo, chorus, or a rotating speaker."""

    def __init__(self, instrument: Instrument, rng: np.random.Generator, effect: str, drive: float = 0.0):
        self._instrument, self._rng, self._effect, self._drive = instrument, rng, effect, drive

    def play(self, notes: Sequence[Note], samples: int) -> Samples:
        sound = self._instrument.play(notes, samples)
        if self._drive:
            sound = mixing.overdrive(sound, self._drive)
        if self._effect == "chorus":
            return mixing.chorus(sound, self._rng)
        if self._effect in ("tremolo", "rotary"):
            rate = between(self._rng, 3.0, 7.5) if self._effect == "tremolo" or chance(self._rng, 0.6) else 0.8
            swing = np.sin((2.0 * np.pi * rate) * times(samples))
            depth = np.float32(between(self._rng, 0.1, 0.4))
            sides = np.float32(1.0 if chance(self._rng, 0.5) else -1.0)
            sound = sound * np.stack([1.0 + depth * swing, 1.0 + sides * depth * swing])
            if self._effect == "rotary":
                sound = mixing.chorus(sound, self._rng)
        return sound


class _Swept:
    """A filter that breathes over bars: a slow sweep, or an envelope's wah."""

    def __init__(self, instrument: Instrument, rng: np.random.Generator):
        self._instrument, self._rng = instrument, rng
        self._period_seconds = between_log(rng, 0.4, 16.0)
        self._low_hz, self._octaves = between_log(rng, 250.0, 900.0), between(rng, 1.5, 4.5)
        self._resonance = between(rng, 0.5, 4.0)

    def play(self, notes: Sequence[Note], samples: int) -> Samples:
        sound = self._instrument.play(notes, samples)
        seconds = np.arange(-(-samples // filters.HOP) + 4) * (filters.HOP / SAMPLE_RATE)
        turn = 0.5 - 0.5 * np.cos(2.0 * np.pi * seconds / self._period_seconds)
        cutoff = (self._low_hz * 2.0 ** (self._octaves * turn)).astype(np.float32)[:, None]
        ratio = np.maximum(filters.frame_bins_hz(), 20.0).astype(np.float32) / cutoff
        gains = 1.0 / np.sqrt(1.0 + ratio**4)
        gains += np.float32(self._resonance) * np.exp(-((np.log2(ratio) / np.float32(0.25)) ** 2))
        return np.stack([filters.shape_frames(channel, gains) for channel in sound])


_MAKERS: Mapping[str, Callable[[np.random.Generator, str], Instrument]] = {
    "piano": _piano,
    "electric_piano": _electric_piano,
    "bell": _bell,
    "organ": _organ,
    "clav": _clav,
    "acoustic": _acoustic,
    "nylon": _nylon,
    "clean": _clean,
    "distorted": Distorted,
    "synth": _synth,
    "pluck": _pluck,
    "brass": _brass,
    "strings": _strings,
    "reed": _reed,
}
