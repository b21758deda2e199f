"""The mixing desk: equaliser, compressor, reverb, delay, chorus; and the master bus, which is fair to all stems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from iseparate.data.synthetic import filters
from iseparate.data.synthetic.sounds import (
    SAMPLE_RATE,
    SPEED_OF_SOUND_METRES_PER_SECOND,
    between,
    between_log,
    chance,
    decay,
    in_samples,
    noise,
    pan_gains,
    place,
)
from iseparate.types import Samples

_BLOCK = 64  # samples per step of a level detector
_STEP_LEVELS = 2.0**-23
"""Stems are rounded to this grid: their sum is then exact in float32, in any order, and FLAC keeps it."""

_REFLECTION = (0.6, 0.93)
"""The range of the share of the sound pressure that a wall gives back."""

_DRY: ContextVar[bool] = ContextVar("dry", default=False)


@contextmanager
def desk(dry: bool) -> Iterator[None]:
    """Inside of the block a dry desk's effects do nothing, and draw what they would have drawn: the notes are the same.

    The desk lies below players who know nothing of it; so the word goes past them.
    """
    token = _DRY.set(dry)
    try:
        yield
    finally:
        _DRY.reset(token)


def is_dry() -> bool:
    """Whether effects do nothing now."""
    return _DRY.get()


def equalise(sound: Samples, rng: np.random.Generator, amount_db: float) -> Samples:
    """A few random bands, `amount_db` their standard deviation."""
    sections = [
        filters.bell(between_log(rng, 90.0, 9000.0), float(rng.normal(0.0, amount_db)), between(rng, 0.4, 1.6))
        for _ in range(int(rng.integers(0, 3)))
    ]
    if chance(rng, 0.45):
        sections.append(filters.shelf(between_log(rng, 3000.0, 9000.0), float(rng.normal(0.0, amount_db)), high=True))
    if chance(rng, 0.35):
        sections.append(filters.shelf(between_log(rng, 80.0, 300.0), float(rng.normal(0.0, amount_db)), high=False))
    return sound if is_dry() else filters.bands(sound, *sections)


def compress(sound: Samples, rng: np.random.Generator, chance_of: float = 0.6, ratio: float | None = None) -> Samples:
    """Even out the level, with make-up gain; sometimes, as `chance_of` says, nothing."""
    acts = chance(rng, chance_of)
    amount = ratio or between_log(rng, 1.8, 7.0)
    attack, release = between_log(rng, 0.002, 0.03), between_log(rng, 0.05, 0.3)
    below_db = between(rng, 0.0, 10.0)
    if not acts or is_dry():
        return sound
    level_db = _levels_db(sound)
    threshold_db = _loud_part_db(level_db) - below_db
    gain_db = _compressor_gain_db(level_db, threshold_db, amount, attack, release)
    return sound * _per_sample(gain_db + 0.5 * below_db * (1.0 - 1.0 / amount), sound.shape[1])


def reverb(sound: Samples, rng: np.random.Generator, seconds: tuple[float, float]) -> Samples:
    """The wet sound of a random room: early reflections, then a tail that is darker the longer it lasts.

    `seconds` is the range of the time to −60 dB.
    """
    lasting = between_log(rng, *seconds)
    count = in_samples(min(1.1 * lasting, 3.5)) + 1
    first = between(rng, 0.0, 0.03)
    response = _tail(rng, count, lasting, damping=between(rng, 0.4, 1.0))
    response[:, : in_samples(first)] = 0.0
    for channel in response:
        for _ in range(int(rng.integers(5, 14))):
            at = in_samples(between(rng, 0.002, 0.02 + 0.03 * min(lasting, 1.0)))
            if at < count:
                channel[at] += np.float32(rng.choice((-1.0, 1.0)) * between(rng, 0.5, 4.0))
    if is_dry():
        return np.zeros_like(sound)
    return filters.convolve(filters.highpass(sound, 120.0, 1), _of_unit_energy(response))


def room(rng: np.random.Generator) -> Samples:
    """What a pair of microphones hears of a click in a room: a response ``[2, samples]`` of unit energy.

    The first reflections are those of the mirror images of the source in the walls of a box (Allen and Berkley 1979),
    at most three metres away from the pair and at least one. What follows is noise that falls as Eyring's formula says.
    """
    size = np.array([between(rng, 3.5, 9.0), between(rng, 3.0, 7.0), between(rng, 2.3, 4.0)])
    reflection = between(rng, *_REFLECTION)
    source = size * np.array([between(rng, 0.3, 0.7), between(rng, 0.2, 0.5), 0.25])
    centre = source + np.array([0.0, between(rng, 1.0, max(1.1, min(3.0, 0.9 * size[1] - source[1]))), 0.6])
    apart = np.array([between(rng, 0.15, 0.8), 0.0, 0.0])
    surface = 2.0 * (size[0] * size[1] + size[1] * size[2] + size[0] * size[2])
    lasting = float(np.clip(0.161 * np.prod(size) / (-2.0 * surface * np.log(reflection)), 0.08, 1.2))
    count = in_samples(lasting) + in_samples(0.05)
    response = _tail(rng, count, lasting, damping=between(rng, 0.4, 0.9))
    turn, width = in_samples(0.03), in_samples(0.01)  # where mirror images give way to noise
    fade_in = np.clip((np.arange(count) - turn) / width, 0.0, 1.0).astype(np.float32)
    for channel, side in zip(response, (-1.0, 1.0), strict=True):
        images = _mirror_images(size, source, centre + side * apart, reflection, turn + width)
        before = float(np.sqrt(np.mean(np.square(images[turn : turn + width]))))
        noise_there = float(np.sqrt(np.mean(np.square(channel[turn : turn + width])))) + 1e-12
        channel[:] *= fade_in * np.float32(before / noise_there)
        channel[: len(images)] += images * (1.0 - fade_in[: len(images)])
    return _of_unit_energy(response)


def _mirror_images(
    size: NDArray[np.float64], source: NDArray[np.float64], ear: NDArray[np.float64], reflection: float, samples: int
) -> Samples:
    """The response, over its first samples, of a box's walls."""
    reach = int(np.ceil(SPEED_OF_SOUND_METRES_PER_SECOND * samples / SAMPLE_RATE / (2.0 * size.min()))) + 1
    number = np.arange(-reach, reach + 1)
    squares, bounces = [], []
    for edge, at, heard in zip(size, source, ear, strict=True):
        here, mirrored = at + 2.0 * edge * number, -at + 2.0 * edge * number
        squares.append(np.square(np.concatenate([here, mirrored]) - heard))
        bounces.append(np.concatenate([np.abs(2 * number), np.abs(2 * number - 1)]))
    distance = np.sqrt(squares[0][:, None, None] + squares[1][:, None] + squares[2])
    walls = bounces[0][:, None, None] + bounces[1][:, None] + bounces[2]
    arrival = np.rint(distance * (SAMPLE_RATE / SPEED_OF_SOUND_METRES_PER_SECOND)).astype(np.int64)
    near = arrival < samples
    levels = reflection ** walls[near] / distance[near]
    return np.bincount(arrival[near], levels, samples).astype(np.float32)


def _tail(rng: np.random.Generator, count: int, lasting: float, damping: float) -> Samples:
    """Noise on two sides that falls by 60 dB in `lasting` seconds, the higher the sooner."""
    response = np.zeros((2, count), dtype=np.float32)
    for channel in response:
        for number, (low, high) in enumerate(pairwise((150.0, 700.0, 3000.0, 12000.0))):
            tail = filters.bandpass(noise(rng, count), low, high, 1) * decay(count, lasting * damping**number)
            channel[:] += np.float32((1.0, 0.8, 0.5)[number]) * tail
    return response


def _of_unit_energy(response: Samples) -> Samples:
    energy = float(np.square(response, dtype=np.float64).sum(axis=1).mean())
    return response * np.float32(1.0 / np.sqrt(energy))


def echo(sound: Samples, rng: np.random.Generator, seconds: float) -> Samples:
    """The wet sound of a delay: repeats that fall off, darken and change sides."""
    result = np.zeros_like(sound)
    feedback = between(rng, 0.15, 0.55)
    wandering = between(rng, 0.0, 0.9)
    tone = between_log(rng, 1500.0, 7000.0)
    if is_dry():
        return result
    repeat = filters.lowpass(filters.highpass(sound, 200.0, 1), tone, 1)
    gain = 1.0
    for number in range(1, 7):
        side = wandering * (1.0 if number % 2 else -1.0)
        left, right = pan_gains(side)
        place(result, repeat, in_samples(number * seconds), gain * left, gain * right)
        gain *= feedback
        if gain < 0.03:
            break
    return result


def chorus(sound: Samples, rng: np.random.Generator) -> Samples:
    """Thicken with copies whose delay moves, unlike on either side."""
    rate, depth = between(rng, 0.2, 1.4), between(rng, 0.0008, 0.003)
    mix = np.float32(between(rng, 0.25, 0.6))
    count = sound.shape[1]
    base = np.arange(count, dtype=np.float64)
    result = sound.copy()
    for channel in range(2):
        swing = 1.0 + np.sin(2.0 * np.pi * rate * base / SAMPLE_RATE + 1.5 * channel)
        places = np.maximum(base - SAMPLE_RATE * (0.006 + depth * swing), 0.0)
        index = places.astype(np.int64)
        share = (places - index).astype(np.float32)
        source = sound[channel]
        following = source[np.minimum(index + 1, count - 1)]
        result[channel] += mix * (source[index] * (1.0 - share) + following * share)
    return sound if is_dry() else result / (1.0 + mix)


def overdrive(sound: Samples, drive: float) -> Samples:
    """Push a bus into saturation and back to its level; its loud parts bend `drive` hard."""
    level = np.float32(10.0 ** (_loud_part_db(_levels_db(sound)) / 20.0))
    if level <= 0.0:
        return sound
    bent = filters.twice_oversampled(sound / level, drive)
    return at_level(bent, 20.0 * float(np.log10(level)))


def sweep(sound: Samples, cutoff_hz: NDArray[np.float64], resonance: float) -> Samples:
    """A lowpass that moves: one cutoff every `filters.HOP` samples, `resonance` the height of the bump there."""
    frames = -(-sound.shape[1] // filters.HOP) + 4
    cutoff = np.pad(cutoff_hz[:frames], (0, max(0, frames - len(cutoff_hz))), mode="edge").astype(np.float32)
    ratio = np.maximum(filters.frame_bins_hz(), 20.0).astype(np.float32) / cutoff[:, None]
    gains = 1.0 / np.sqrt(1.0 + np.square(np.square(ratio)))
    gains += np.float32(resonance) * np.exp(-np.square(np.log2(ratio) / np.float32(0.25)))
    return np.stack([filters.shape_frames(channel, gains) for channel in sound])


def pump(samples: int, kicks_seconds: list[float], depth: float, release: float) -> Samples:
    """The gain of a bus that the kick drum ducks by `depth` in [0, 1]."""
    gain = np.ones(samples, dtype=np.float32)
    length = in_samples(3.0 * release)
    t = np.arange(length) / SAMPLE_RATE
    dip = (1.0 - depth * np.exp(-t / release) * np.minimum(t / 0.004, 1.0)).astype(np.float32)
    for seconds in kicks_seconds:
        start = in_samples(seconds)
        count = min(length, samples - start)
        if count > 0:
            gain[start : start + count] = np.minimum(gain[start : start + count], dip[:count])
    return gain


def widen(sound: Samples, width: float, pan: float = 0.0) -> Samples:
    """Scale the side signal by `width`, then pan."""
    middle = 0.5 * (sound[0] + sound[1])
    side = np.float32(0.5 * width) * (sound[0] - sound[1])
    left, right = pan_gains(pan)
    return np.stack([np.float32(left) * (middle + side), np.float32(right) * (middle - side)])


def at_level(sound: Samples, level_db: float) -> Samples:
    """Bring the loud parts of a sound to an RMS level; silence stays."""
    now = _loud_part_db(_levels_db(sound))
    return sound if now < -100.0 else sound * np.float32(10.0 ** ((level_db - now) / 20.0))


def master(stems: Mapping[str, Samples], rng: np.random.Generator, loudness_db: float) -> dict[str, Samples]:
    """Compress, limit and round a mix, each gain computed on the mix and applied to all stems alike.

    The returned stems and their sum are exact multiples of 2⁻²³ below full scale.
    """
    tilt = [filters.shelf(6000.0, float(rng.normal(0.0, 1.5)), high=True)]
    tilt.append(filters.shelf(120.0, float(rng.normal(0.0, 1.5)), high=False))
    done = {name: filters.highpass(filters.bands(stem, *tilt), 22.0) for name, stem in stems.items()}
    mix = summed(done)
    if not np.any(mix):
        return done
    level_db = _levels_db(mix)
    now = _loud_part_db(level_db)
    ratio = between(rng, 1.3, 3.0) if chance(rng, 0.75) and not is_dry() else 1.0
    threshold_db = now + between(rng, -6.0, 3.0)
    glue = _compressor_gain_db(level_db, threshold_db, ratio, between_log(rng, 0.01, 0.04), between(rng, 0.1, 0.4))
    target_db = loudness_db + float(rng.normal(0.0, 1.5))
    gain = _per_sample(glue + target_db - now, mix.shape[1])
    ceiling = 10.0 ** (between(rng, -2.0, -0.2) / 20.0)
    if chance(rng, 0.4) and not is_dry():
        gain = gain * _soft_clip_gain(mix * gain, 1.5 * ceiling)
    gain = gain * _limiter_gain(mix * gain, ceiling)
    for name in done:
        done[name] *= gain
    return rounded(done)


def rounded(stems: dict[str, Samples]) -> dict[str, Samples]:
    """Put stems on the 24-bit grid, turned down together where a stem or the mix would clip."""
    top = max(float(np.abs(summed(stems)).max(initial=0.0)), *(float(np.abs(stem).max()) for stem in stems.values()))
    fit = np.float32(min(1.0, 0.999 / top)) if top > 0.0 else np.float32(1.0)
    grid = np.float32(1.0 / _STEP_LEVELS)
    return {name: np.rint(stem * (fit * grid)) / grid for name, stem in stems.items()}


def summed(stems: Mapping[str, Samples]) -> Samples:
    """The mix: the sum of all stems, at least one."""
    total, *rest = stems.values()
    total = total.copy()
    for stem in rest:
        total += stem
    return total


def _levels_db(sound: Samples) -> NDArray[np.float64]:
    """RMS of each block of `_BLOCK` samples."""
    power = np.square(np.atleast_2d(sound)).mean(axis=0)
    blocks = -(-len(power) // _BLOCK)
    power = np.pad(power, (0, blocks * _BLOCK - len(power)))
    return np.asarray(10.0 * np.log10(power.reshape(-1, _BLOCK).mean(axis=1, dtype=np.float64) + 1e-12))


def _loud_part_db(level_db: NDArray[np.float64]) -> float:
    """Mean power of all but the quiet blocks (30 dB below the loudest), as one level."""
    loud = level_db[level_db > level_db.max() - 30.0]
    return float(10.0 * np.log10(np.mean(10.0 ** (loud / 10.0))))


def _compressor_gain_db(
    level_db: NDArray[np.float64], threshold_db: float, ratio: float, attack: float, release: float
) -> NDArray[np.float64]:
    wanted = np.minimum(0.0, (threshold_db - level_db) * (1.0 - 1.0 / ratio))
    if ratio <= 1.0:
        return np.zeros_like(wanted)
    down = float(np.exp(-_BLOCK / (attack * SAMPLE_RATE)))
    up = float(np.exp(-_BLOCK / (release * SAMPLE_RATE)))
    gain = 0.0
    result = []
    for target in wanted.tolist():  # a recursion that bends with its own state: no vector form
        gain = target + (down if target < gain else up) * (gain - target)
        result.append(gain)
    return np.array(result)


def _per_sample(gain_db: NDArray[np.float64], samples: int) -> Samples:
    gains = 10.0 ** (np.append(gain_db, gain_db[-1]) / 20.0)
    share = np.arange(_BLOCK) / _BLOCK
    line = gains[:-1, None] + (gains[1:] - gains[:-1])[:, None] * share
    return line.reshape(-1)[:samples].astype(np.float32)


def _soft_clip_gain(mix: Samples, ceiling: float) -> Samples:
    """What a soft clipper does to the louder channel, as a gain."""
    peak = np.abs(mix).max(axis=0) / np.float32(ceiling) + np.float32(1e-9)
    return np.asarray(np.tanh(peak) / peak, dtype=np.float32)


def _limiter_gain(mix: Samples, ceiling: float) -> Samples:
    """A gain that looks ahead, so that no sample exceeds `ceiling`."""
    peak = np.abs(mix).max(axis=0)
    blocks = -(-len(peak) // _BLOCK)
    peaks = np.pad(peak, (0, blocks * _BLOCK - len(peak))).reshape(-1, _BLOCK).max(axis=1).astype(np.float64)
    ahead = 4
    wanted = np.minimum(1.0, ceiling / np.maximum(filters.spread_peaks(peaks, 2 * ahead + 1), 1e-9))
    # the largest peak near by rules for a while, so a mean over that while can never be too loud
    up = float(np.exp(-_BLOCK / (0.08 * SAMPLE_RATE)))
    gain = 1.0
    held = []
    for target in wanted.tolist():
        gain = min(target, 1.0 + up * (gain - 1.0))
        held.append(gain)
    smooth = filters.spread_evenly(np.array(held), ahead)
    return _per_sample(20.0 * np.log10(smooth), len(peak))
