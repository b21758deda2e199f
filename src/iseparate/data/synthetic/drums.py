"""The drummer: grooves with accents, ghost notes, fills, crashes and rolls, on a kit in a room."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iseparate.data.synthetic import filters, mixing
from iseparate.data.synthetic.drum_kit import Kit
from iseparate.data.synthetic.genres import Groove
from iseparate.data.synthetic.song import Song, weighted
from iseparate.data.synthetic.sounds import (
    SPEED_OF_SOUND_METRES_PER_SECOND,
    between,
    between_log,
    chance,
    in_samples,
    pick,
    place,
    stream,
)
from iseparate.types import Samples

_VELOCITIES = {"X": (0.85, 1.0), "x": (0.55, 0.82), "o": (0.18, 0.4), "?": (0.4, 0.8)}
_BUSES = {"kick": "kick", "snare": "snare", "clap": "snare", "stick": "snare"}
_BUSES |= {"high_tom": "toms", "mid_tom": "toms", "floor": "toms"}

# What a close microphone hears of the other drums: the level's mean in dB, and the way in metres.
_BLEED = {("snare", "kit"): (-17.0, 0.5), ("snare", "kick"): (-20.0, 0.7), ("kick", "snare"): (-24.0, 0.8)}
_BLEED |= {("toms", "snare"): (-20.0, 0.5), ("toms", "kit"): (-18.0, 0.6)}


@dataclass(frozen=True)
class Hit:
    """One stroke."""

    start_seconds: float
    piece: str
    velocity: float


def write_part(song: Song) -> list[Hit]:
    """Every stroke of the song, in time order."""
    rng = stream(song.seed, "drums")
    playing = song.playing("drums", 0.86)
    extra = _percussion(song, rng)
    fills = between(rng, 0.3, 0.9)
    embellish = between(rng, 0.0, 0.06)
    hits: list[Hit] = []
    for bar in range(song.bars):
        section = song.section(bar)
        last = bar == section.first_bar + section.bars - 1
        fresh = bar == section.first_bar or (bar > 0 and not playing[bar - 1])
        if not playing[bar]:
            if last and chance(rng, 0.3):
                hits += _fill(song, rng, bar, song.genre.steps // 2)
            continue
        groove = {**song.groove(bar), **(extra if section.energy > 0.5 else {})}
        if section.kind == "break":
            groove = {piece: line for piece, line in groove.items() if piece not in ("kick", "snare")}
        filled = song.genre.steps
        if last and section.kind == "build" and chance(rng, 0.6):
            hits += _roll(song, rng, bar)
        elif chance(rng, fills if last else 0.08 if bar % 4 == 3 else 0.0):
            filled = song.genre.steps - int(rng.choice((2, 4, 4, 8)))
            hits += _fill(song, rng, bar, filled)
        if fresh and section.energy > 0.5 and chance(rng, 0.75):
            hits.append(Hit(song.when(bar, 0), "crash", between(rng, 0.6, 1.0)))
        hits += _groove(song, rng, bar, groove, filled, embellish)
    return sorted(hits, key=lambda hit: hit.start_seconds)


def render(song: Song, hits: list[Hit], samples: int) -> Samples:
    """The drum stem ``[2, samples]``."""
    rng = stream(song.seed, "drum sound")
    kind = weighted(rng, song.genre.kits)
    buses = _struck(song, Kit(song.seed, kind), hits, samples, by_hand=kind == "acoustic")
    buses["kit"] = filters.highpass(buses["kit"], between(rng, 60.0, 250.0))
    air = _room_of(stream(song.seed, "drum room"), buses) if kind == "acoustic" else None
    for name in ("kick", "snare", "kit"):
        buses[name] = mixing.equalise(buses[name], rng, 3.5)
    buses["snare"] = mixing.compress(buses["snare"], rng, chance_of=0.6)
    buses["snare"] += mixing.reverb(buses["snare"], rng, (0.2, 1.8)) * np.float32(between(rng, 0.0, 0.35))
    total = np.zeros((2, samples), dtype=np.float32)
    # cymbals are in every microphone, so their own channel stays down
    for name, level, spread in (("kick", 0.0, 0.25), ("snare", 0.0, 0.3), ("toms", 0.0, 0.3), ("kit", -0.15, 0.35)):
        total += buses[name] * np.float32(np.exp(rng.normal(level, spread)))
    if air is not None:
        total += air
    elif chance(rng, 0.5):
        total += mixing.reverb(total, rng, (0.15, 0.9)) * np.float32(between(rng, 0.03, 0.4))
    if chance(rng, 0.35):
        squeezed = mixing.compress(total, rng, chance_of=1.0, ratio=8.0)
        total += squeezed * np.float32(between(rng, 0.2, 0.8))
    if chance(rng, 0.3):
        total = mixing.overdrive(total, between(rng, 1.0, 3.0))
    return mixing.compress(mixing.equalise(total, rng, 2.5), rng, chance_of=0.6)


def _struck(song: Song, kit: Kit, hits: list[Hit], samples: int, by_hand: bool) -> dict[str, Samples]:
    """Each group of drums by itself ``[2, samples]``, panned."""
    rng = stream(song.seed, "strokes")
    buses = {name: np.zeros((2, samples), dtype=np.float32) for name in ("kick", "snare", "toms", "kit")}
    takes = rng.integers(0, 1 << 16, len(hits))
    for number, (hit, take) in enumerate(zip(hits, takes, strict=True)):
        # the level follows the strength, the sound itself comes in a few strengths
        sound = kit.hit(hit.piece, hit.velocity, int(take)) * np.float32(hit.velocity**1.3)
        start = in_samples(hit.start_seconds)
        if hit.piece == "open":
            sound = _closed_by_next(sound, start, hits[number + 1 : number + 40])
        if by_hand:
            sound = humanised(sound, rng)
        place(buses[_BUSES.get(hit.piece, "kit")], sound, start, *kit.pan(hit.piece))
    return buses


def humanised(sound: Samples, rng: np.random.Generator) -> Samples:
    """A stroke that lands a little elsewhere on the skin: somewhat louder or softer, brighter or darker."""
    level = np.float32(10.0 ** (float(np.clip(rng.normal(0.0, 0.7), -2.0, 2.0)) / 20.0))
    bright = np.float32(np.clip(rng.normal(0.0, 0.08), -0.25, 0.25))
    changed = sound * level
    changed[1:] -= (level * bright) * sound[:-1]
    return changed / np.float32(1.0 - bright)


def _room_of(rng: np.random.Generator, buses: dict[str, Samples]) -> Samples:
    """Let close microphones hear their neighbours, in place; return what overheads and room hear ``[2, samples]``."""
    if mixing.is_dry():
        return np.zeros_like(buses["kick"])
    mono = {name: bus.mean(axis=0) for name, bus in buses.items()}
    everything = sum(buses.values(), np.zeros_like(buses["kick"]))
    bleeds = between(rng, -6.0, 5.0) if chance(rng, 0.8) else None  # else recorded drum by drum, or gated
    if bleeds is not None:
        # off its axis a microphone is dull
        dull = {name: filters.lowpass(mono[name], between(rng, 3000.0, 9000.0), 1) for name in ("kick", "snare", "kit")}
        for (into, source), (level_db, metres) in _BLEED.items():
            gain = 10.0 ** ((level_db + bleeds + float(rng.normal(0.0, 2.0))) / 20.0)
            late = in_samples(metres * between(rng, 0.8, 1.3) / SPEED_OF_SOUND_METRES_PER_SECOND)
            place(buses[into], dull[source], late, gain, gain)
    air = np.zeros_like(everything)
    if chance(rng, 0.8):
        # cymbals are in the kit's bus as the overheads have them; of the drums below they hear the upper part
        skins = filters.highpass(mono["kick"] + mono["snare"] + mono["toms"], between_log(rng, 80.0, 400.0), 1)
        gain = 10.0 ** (between(rng, -14.0, -4.0) / 20.0)
        for left, right in ((gain, 0.0), (0.0, gain)):
            place(air, skins, in_samples(between(rng, 0.9, 1.5) / SPEED_OF_SOUND_METRES_PER_SECOND), left, right)
    wet = filters.convolve(everything, mixing.room(rng))
    if chance(rng, 0.5):
        wet = mixing.compress(wet, rng, chance_of=1.0, ratio=between(rng, 4.0, 10.0))
    return air + wet * np.float32(between_log(rng, 0.06, 0.5))


def _groove(song: Song, rng: np.random.Generator, bar: int, groove: Groove, until: int, embellish: float) -> list[Hit]:
    hits = []
    loose = song.genre.looseness_seconds
    for piece, line in groove.items():
        for step, mark in enumerate(line[:until]):
            sign = mark
            if sign == "." and piece in ("kick", "hat", "snare") and chance(rng, embellish):
                sign = "o" if piece == "snare" else "x"
            if sign == "." or (sign == "?" and chance(rng, 0.5)):
                continue
            name = "open" if piece == "hat" and step % 4 == 2 and chance(rng, 0.06) else piece
            seconds = song.when(bar, step) + loose * float(rng.standard_normal())
            hits.append(Hit(max(0.0, seconds), name, between(rng, *_VELOCITIES[sign])))
    return hits


def _fill(song: Song, rng: np.random.Generator, bar: int, first: int) -> list[Hit]:
    pieces = ("snare", "snare", "high_tom", "mid_tom", "floor", "kick")
    hits = []
    order = sorted(rng.integers(0, len(pieces), song.genre.steps - first)) if chance(rng, 0.6) else None
    for place_, step in enumerate(range(first, song.genre.steps)):
        if chance(rng, 0.2):
            continue
        piece = pieces[order[place_]] if order is not None else pick(rng, pieces)
        seconds = song.when(bar, step) + song.genre.looseness_seconds * float(rng.standard_normal())
        velocity = between(rng, 0.5, 1.0)
        hits.append(Hit(max(0.0, seconds), piece, velocity))
        if piece == "snare" and chance(rng, 0.15):  # a flam
            hits.append(Hit(max(0.0, seconds - 0.025), piece, 0.4 * velocity))
    return hits


def _roll(song: Song, rng: np.random.Generator, bar: int) -> list[Hit]:
    steps = song.genre.steps
    return [
        Hit(song.when(bar, step), "snare", 0.3 + 0.6 * step / steps + between(rng, 0.0, 0.1)) for step in range(steps)
    ]


def _percussion(song: Song, rng: np.random.Generator) -> Groove:
    if not chance(rng, song.genre.percussion):
        return {}
    piece = pick(rng, ("tambourine", "shaker", "conga", "cowbell", "clave"))
    if piece in ("tambourine", "shaker"):
        line = pick(rng, ("x.x.x.x.x.x.x.x.", "XoxoXoxoXoxoXoxo", "....x.......x..."))
    else:
        line = "".join(pick(rng, "xo....?") for _ in range(16))
    return {piece: line[: song.genre.steps]}


def _closed_by_next(sound: Samples, start: int, following: list[Hit]) -> Samples:
    """An open hi-hat rings until the next stroke on it."""
    for later in following:
        if later.piece in ("hat", "open", "pedal"):
            length = in_samples(later.start_seconds) - start
            if 0 < length < len(sound):
                sound = sound[: length + in_samples(0.01)].copy()
                fade = len(sound) - length
                sound[length:] *= np.linspace(1.0, 0.0, fade, dtype=np.float32)
            break
    return sound
