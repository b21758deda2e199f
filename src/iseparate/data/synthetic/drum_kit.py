"""A drum kit built at random: each piece in several strengths and takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from iseparate.data.synthetic import filters
from iseparate.data.synthetic.casting import cast
from iseparate.data.synthetic.sounds import (
    between,
    between_log,
    chance,
    decay,
    in_samples,
    metal,
    modes,
    noise,
    pan_gains,
    peak_to,
    phase_of,
    saturate,
    soften_end,
    stream,
    times,
)
from iseparate.types import Samples

STRENGTHS = 3
TAKES = 3

_LEVELS = {"kick": 1.0, "snare": 0.8, "clap": 0.6, "stick": 0.5, "high_tom": 0.7, "mid_tom": 0.7, "floor": 0.75}
_CYMBALS = {"crash": 0.3, "ride": 0.2, "hat": 0.2, "open": 0.24, "pedal": 0.14}
_PANS = {"hat": 0.35, "open": 0.35, "pedal": 0.35, "ride": -0.45, "crash": -0.4, "high_tom": 0.4, "floor": -0.5}
_PANS |= {"shaker": 0.6, "tambourine": 0.5, "conga": -0.3, "cowbell": 0.3, "clave": -0.6}

# Circular membrane: ratios of its lowest modes (Fletcher and Rossing, The Physics of Musical Instruments, 1998).
_MEMBRANE = np.array([1.0, 1.593, 2.135, 2.295, 2.653, 2.917, 3.156, 3.5])

Make = Callable[[np.random.Generator, float], Samples]


class Kit:
    """The drums of one song; a hit differs with strength and from take to take."""

    def __init__(self, seed: int, kind: str):
        self._seed = seed
        rng = stream(seed, "kit", kind)
        self.wide = between(rng, 0.3, 1.0)
        self._makers = _electronic(rng) if kind == "electronic" else _acoustic(rng)
        self.gains = {piece: float(np.exp(rng.normal(0.0, 0.22))) for piece in self._makers}
        casting = cast()
        if casting:
            self._makers |= casting.drums(kind)
        self._hits: dict[tuple[str, int, int], Samples] = {}

    def hit(self, piece: str, velocity: float, take: int) -> Samples:
        """One stroke, mono, at its level in the kit."""
        strength = min(STRENGTHS - 1, int(velocity * STRENGTHS))
        key = (piece, strength, take % TAKES)
        if key not in self._hits:
            rng = stream(self._seed, "hit", *map(str, key))
            sound = self._makers[piece](rng, (strength + 0.7) / STRENGTHS)
            level = _LEVELS.get(piece, _CYMBALS.get(piece, 0.25)) * self.gains[piece]
            self._hits[key] = peak_to(filters.highpass(sound, 25.0, 1), level)
        return self._hits[key]

    def pan(self, piece: str) -> tuple[float, float]:
        """Left and right gains of a piece."""
        return pan_gains(_PANS.get(piece, 0.0) * self.wide)


def _acoustic(rng: np.random.Generator) -> dict[str, Make]:
    return {
        "kick": _drawn(_kick, rng, hz=(46.0, 68.0), sweep=(0.3, 1.2), ring=(0.18, 0.5), click=(0.15, 0.9), drive=1.2),
        "snare": _drawn(_snare, rng, hz=(160.0, 250.0), ring=(0.1, 0.3), wires=(0.14, 0.34), bright=(3500.0, 7500.0)),
        "high_tom": _drawn(_tom, rng, hz=(150.0, 210.0), ring=(0.3, 0.7)),
        "mid_tom": _drawn(_tom, rng, hz=(105.0, 145.0), ring=(0.35, 0.9)),
        "floor": _drawn(_tom, rng, hz=(68.0, 98.0), ring=(0.5, 1.2)),
        **_plates(rng, tone=(0.2, 0.8)),
        **_hand(rng),
    }


def _electronic(rng: np.random.Generator) -> dict[str, Make]:
    drive = between(rng, 1.0, 4.0)
    return {
        "kick": _drawn(_kick, rng, hz=(38.0, 58.0), sweep=(1.0, 5.0), ring=(0.2, 0.9), click=(0.0, 0.5), drive=drive),
        "snare": _drawn(_snare, rng, hz=(150.0, 280.0), ring=(0.05, 0.2), wires=(0.08, 0.3), bright=(2500.0, 9000.0)),
        "high_tom": _drawn(_tom, rng, hz=(160.0, 260.0), ring=(0.2, 0.5)),
        "mid_tom": _drawn(_tom, rng, hz=(110.0, 160.0), ring=(0.2, 0.6)),
        "floor": _drawn(_tom, rng, hz=(70.0, 105.0), ring=(0.3, 0.7)),
        **_plates(rng, tone=(0.6, 1.0)),
        **_hand(rng),
    }


def _plates(rng: np.random.Generator, tone: tuple[float, float]) -> dict[str, Make]:
    hat = partial(_plate, low_hz=between_log(rng, 2200.0, 5200.0), tone=between(rng, *tone))
    tight = between_log(rng, 0.05, 0.16)
    return {
        "hat": partial(hat, seconds=tight),
        "pedal": partial(hat, seconds=0.8 * tight),
        "open": partial(hat, seconds=between_log(rng, 0.35, 1.1)),
        "crash": _drawn(_plate, rng, low_hz=(400.0, 1200.0), tone=tone, seconds=(1.8, 3.6)),
        "ride": _drawn(_ride, rng, ping_hz=(2200.0, 4200.0), tone=tone, seconds=(0.9, 2.2)),
    }


def _hand(rng: np.random.Generator) -> dict[str, Make]:
    return {
        "clap": _drawn(_clap, rng, low_hz=(700.0, 1300.0), high_hz=(3500.0, 9000.0), seconds=(0.12, 0.35)),
        "stick": _drawn(_wood, rng, hz=(380.0, 900.0), seconds=(0.04, 0.09)),
        "clave": _drawn(_wood, rng, hz=(1900.0, 2700.0), seconds=(0.08, 0.16)),
        "shaker": _drawn(_shaker, rng, low_hz=(3500.0, 7000.0), seconds=(0.06, 0.12)),
        "tambourine": _drawn(_plate, rng, low_hz=(4500.0, 7000.0), tone=(0.6, 0.95), seconds=(0.12, 0.3)),
        "cowbell": _drawn(_cowbell, rng, hz=(480.0, 640.0), seconds=(0.15, 0.4)),
        "conga": _drawn(_conga, rng, hz=(170.0, 320.0), seconds=(0.15, 0.4)),
    }


def _drawn(make: Callable[..., Samples], rng: np.random.Generator, **ranges: tuple[float, float] | float) -> Make:
    """Fix a piece's character by drawing each of its numbers once."""
    fixed = {name: value if isinstance(value, float) else between(rng, *value) for name, value in ranges.items()}
    return partial(make, **fixed)


def _kick(
    rng: np.random.Generator, strength: float, hz: float, sweep: float, ring: float, click: float, drive: float
) -> Samples:
    count = in_samples(ring * 1.8)
    t = times(count)
    tuned = hz * between(rng, 0.995, 1.005)
    frequency = tuned * (1.0 + (1.0 + 2.0 * sweep) * np.exp(-t / 0.006) + sweep * np.exp(-t / 0.03))
    body = np.sin(2.0 * np.pi * phase_of(frequency.astype(np.float64)))
    body = body.astype(np.float32) * decay(count, ring * 1.5)
    beater = filters.bandpass(noise(rng, count), 1800.0, 6500.0) * decay(count, 0.03) * (click * strength)
    skin = filters.bandpass(noise(rng, count), 120.0, 900.0) * decay(count, 0.09) * 0.25
    return soften_end(saturate(body + beater + skin, drive))


def _snare(rng: np.random.Generator, strength: float, hz: float, ring: float, wires: float, bright: float) -> Samples:
    count = in_samples(max(ring, wires) * 1.6)
    tuned = hz * between(rng, 0.99, 1.01) * (1.0 + 0.02 * strength)
    levels = np.array([1.0, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.1]) * (0.6 + 0.8 * rng.random(8))
    skin = modes(count, tuned * _MEMBRANE, levels, ring * 1.4 / np.sqrt(_MEMBRANE), rng.random(8) * 0.1)
    rattle = noise(rng, count)
    rattle = filters.bandpass(rattle, 900.0, 5000.0 + bright * strength) + 0.5 * filters.highpass(rattle, bright)
    attack = filters.highpass(noise(rng, count), 2000.0) * decay(count, 0.02)
    rattle *= decay(count, wires * (0.7 + 0.5 * strength)) * np.minimum(times(count) / np.float32(0.002), 1.0)
    return soften_end(saturate(peak_to(skin) * 0.8 + rattle * 0.45 + attack * (0.5 * strength), 1.3))


def _tom(rng: np.random.Generator, strength: float, hz: float, ring: float) -> Samples:
    count = in_samples(ring * 1.3)
    t = times(count)
    total = np.zeros(count, dtype=np.float32)
    bend = 1.0 + 0.12 * strength * np.exp(-t / 0.06)
    for ratio, level in zip(_MEMBRANE[:5], (1.0, 0.45, 0.25, 0.2, 0.1), strict=True):
        phase = phase_of((hz * ratio * bend).astype(np.float64), between(rng, 0.0, 0.05))
        total += (level * np.sin(2.0 * np.pi * phase)).astype(np.float32) * decay(count, ring * 1.3 / ratio)
    stroke = filters.bandpass(noise(rng, count), 400.0, 3000.0 + 3000.0 * strength) * decay(count, 0.03)
    return soften_end(total + 0.35 * strength * stroke)


def _plate(rng: np.random.Generator, strength: float, low_hz: float, tone: float, seconds: float) -> Samples:
    lengths = [seconds * scale * (0.75 + 0.35 * strength) for scale in (1.3, 1.0, 0.8, 0.5)]
    count = in_samples(min(3.2, 1.25 * max(lengths)))
    sound = metal(rng, count, low_hz, tone, lengths)
    stroke = filters.highpass(noise(rng, count), 3000.0) * decay(count, 0.015)
    brightness = 5000.0 + 14000.0 * strength
    return soften_end(filters.lowpass(sound + 0.12 * strength * stroke, brightness, 1))


def _ride(rng: np.random.Generator, strength: float, ping_hz: float, tone: float, seconds: float) -> Samples:
    wash = _plate(rng, strength, 0.25 * ping_hz, tone, seconds)
    ratios = np.array([1.0, 1.33, 1.71, 2.24, 2.9])
    ping = modes(len(wash), ping_hz * ratios * between(rng, 0.99, 1.01), rng.random(5), 0.6 * seconds / ratios)
    return soften_end(0.6 * wash + 0.4 * peak_to(ping))


def _clap(rng: np.random.Generator, strength: float, low_hz: float, high_hz: float, seconds: float) -> Samples:
    count = in_samples(seconds * 1.5)
    hands = np.zeros(count, dtype=np.float32)
    for start in np.cumsum([0.0, *(0.009 + 0.004 * rng.random(3))]):
        first = in_samples(float(start))
        hands[first:] += decay(count - first, 0.03)
    tail = np.zeros(count, dtype=np.float32)
    first = in_samples(0.03)
    tail[first:] = decay(count - first, seconds)
    return soften_end(filters.bandpass(noise(rng, count), low_hz, high_hz) * (hands + (0.4 + 0.3 * strength) * tail))


def _wood(rng: np.random.Generator, strength: float, hz: float, seconds: float) -> Samples:
    count = in_samples(seconds * 2.0)
    ratios = np.array([1.0, 2.76, 5.4])
    block = modes(count, hz * ratios * between(rng, 0.99, 1.01), [1.0, 0.5, 0.3], seconds / np.sqrt(ratios))
    return soften_end(block + 0.4 * strength * filters.highpass(noise(rng, count), 1500.0) * decay(count, 0.012))


def _shaker(rng: np.random.Generator, strength: float, low_hz: float, seconds: float) -> Samples:
    count = in_samples(seconds * 1.6)
    t = times(count)
    swell = np.exp(-(((t - 0.4 * seconds) / (0.3 * seconds)) ** 2))
    return soften_end(filters.bandpass(noise(rng, count), low_hz, 9000.0 + 8000.0 * strength) * swell)


def _cowbell(rng: np.random.Generator, strength: float, hz: float, seconds: float) -> Samples:
    count = in_samples(seconds * 1.2)
    ratios = np.array([1.0, 1.48, 2.0, 2.97, 4.1])
    levels = np.array([1.0, 0.9, 0.4, 0.4, 0.2 + 0.3 * strength])
    return modes(count, hz * ratios * between(rng, 0.995, 1.005), levels, seconds / np.sqrt(ratios))


def _conga(rng: np.random.Generator, strength: float, hz: float, seconds: float) -> Samples:
    count = in_samples(seconds * 1.4)
    higher = 1.5 if chance(rng, 0.3) else 1.0
    tone = modes(count, hz * higher * _MEMBRANE[:4], [1.0, 0.4, 0.3, 0.2], seconds / _MEMBRANE[:4])
    slap = filters.bandpass(noise(rng, count), 800.0, 5000.0) * decay(count, 0.025)
    return soften_end(tone + (0.2 + 0.6 * strength) * slap)
