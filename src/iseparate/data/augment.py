"""Augmentations: random changes of training excerpts, small classes that a recipe names and gives ranges.

All work on float tensors ``[S, C, n]`` (one excerpt: stems, channels, samples) or ``[B, S, C, n]`` (a batch, on any
device). What is random comes from `Draws`, which are made on the CPU, so a seed means the same on every device.
The ranges of the literature: Demucs (Défossez et al. 2019) gain 0.25-1.25, swap, sign, shift up to 1 s, remix in
groups of 4, pitch ±2 semitones and tempo ±12 % on a fifth of the excerpts; Open-Unmix (Stöter et al. 2019) gain
0.25-1.25, swap; D3Net's training code gain 0.75-1.25, swap; Wave-U-Net (Stoller et al. 2018) gain 0.7-1.0. Songs are
mixed (Uhlich et al. 2017) by `iseparate.data.excerpts`, which decides where stems are read.
"""

# ruff: noqa: ARG002 (all are called alike, though few need the rate)

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iseparate.errors import BackendError, UsageError


class Draws:
    """Random numbers that depend on `words` alone, such as (seed, epoch, index of the excerpt).

    Where several processes share a batch, each draws for all of it and keeps its own rows, so that two processes
    with half a batch each do what one with the whole does.

    Args:
        words: whole numbers >= 0.
        rank: which part of the batch is ours, counted from 0.
        world: how many parts there are; with more than one, the first axis of all that is drawn is the batch.
    """

    def __init__(self, *words: int, rank: int = 0, world: int = 1):
        self._generator = np.random.default_rng(words)
        self._rank, self._world = rank, world

    def uniform(self, shape: Sequence[int] = (), low: float = 0.0, high: float = 1.0) -> Tensor:
        """Numbers in [low, high), float32."""
        return self._rows(shape, lambda full: self._generator.uniform(low, high, full)).float()

    def normal(self, shape: Sequence[int] = (), deviation: float = 1.0) -> Tensor:
        """Numbers of mean 0, float32."""
        return self._rows(shape, lambda full: self._generator.normal(0, deviation, full)).float()

    def integers(self, shape: Sequence[int], low: int, high: int) -> Tensor:
        """Whole numbers from `low` to `high`, both included."""
        return self._rows(shape, lambda full: self._generator.integers(low, high, full, endpoint=True))

    def chance(self, probability: float, shape: Sequence[int] = ()) -> Tensor:
        """True with a probability."""
        return self.uniform(shape) < probability

    def _rows(self, shape: Sequence[int], draw: Callable[[tuple[int, ...]], Any]) -> Tensor:
        if self._world == 1:
            return torch.as_tensor(draw(tuple(shape)))
        rows = shape[0]
        drawn = torch.as_tensor(draw((rows * self._world, *shape[1:])))
        return drawn[self._rank * rows : (self._rank + 1) * rows]


class Augmentation(ABC):
    """A random change of the stems, which keeps their number, channels and device."""

    @abstractmethod
    def __call__(self, stems: Tensor, sample_rate: int, draws: Draws) -> Tensor:
        """Return the changed stems; what came is left as it was.

        Args:
            stems: float ``[S, C, n]`` or ``[B, S, C, n]``.
            sample_rate: in Hz.
            draws: where everything random comes from.
        """

    def input_samples(self, samples: int, sample_rate: int) -> int:
        """How long stems must be for at least `samples` to come out."""
        del sample_rate
        return samples


def input_samples(augmentations: Sequence[Augmentation], samples: int, sample_rate: int) -> int:
    """How long stems must be so that a row of augmentations leaves at least `samples`."""
    for augmentation in reversed(augmentations):
        samples = augmentation.input_samples(samples, sample_rate)
    return samples


def augment(
    augmentations: Sequence[Augmentation], stems: Tensor, sample_rate: int, draws: Draws, samples: int | None = None
) -> Tensor:
    """Apply augmentations one after the other and cut the end to `samples`."""
    for augmentation in augmentations:
        stems = augmentation(stems, sample_rate, draws)
    return stems if samples is None else stems[..., :samples]


@dataclass(frozen=True)
class Gain(Augmentation):
    """A factor for each stem, evenly distributed from `low` to `high`."""

    low: float = 0.25
    high: float = 1.25

    def __post_init__(self) -> None:
        _check_range("low", self.low, "high", self.high, 0, math.inf)

    def __call__(self, stems: Tensor, sample_rate: int, draws: Draws) -> Tensor:
        return stems * _beside(draws.uniform(stems.shape[:-2], self.low, self.high), stems)


@dataclass(frozen=True)
class SwapChannels(Augmentation):
    """Left and right change places, in each stem by itself. Other than stereo is left alone."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        _check_share("probability", self.probability)

    def __call__(self, stems: Tensor, sample_rate: int, draws: Draws) -> Tensor:
        swapped = draws.chance(self.probability, stems.shape[:-2])
        return _where(swapped, stems, lambda some: some.flip(-2)) if stems.shape[-2] == 2 else stems


@dataclass(frozen=True)
class FlipSign(Augmentation):
    """The polarity is reversed, in each stem by itself."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        _check_share("probability", self.probability)

    def __call__(self, stems: Tensor, sample_rate: int, draws: Draws) -> Tensor:
        flipped = draws.chance(self.probability, stems.shape[:-2])
        return _where(flipped, stems, torch.neg)


@dataclass(frozen=True)
class Shift(Augmentation):
    """Each stem starts up to `max_seconds` later; all become shorter by that much.

    With `together`, all stems of an excerpt start equally late.
    """

    max_seconds: float = 1.0
    together: bool = False

    def __post_init__(self) -> None:
        _check_within("max_seconds", self.max_seconds, 0, 60)

    def input_samples(self, samples: int, sample_rate: int) -> int:
        return samples + self._max_samples(sample_rate)

    def __call__(self, stems: Tensor, sample_rate: int, draws: Draws) -> Tensor:
        longest = self._max_samples(sample_rate)
        length = stems.shape[-1] - longest
        if length < 1:
            raise UsageError(
                f"stems of {stems.shape[-1]} samples cannot be shifted by up to {longest}: expected longer excerpts; "
                "read what input_samples says"
            )
        shape = stems.shape[:-3] if self.together else stems.shape[:-2]
        starts = draws.integers(shape, 0, longest)
        starts = starts[..., None].expand(stems.shape[:-2]) if self.together else starts
        cut = [stem[:, k : k + length] for stem, k in zip(stems.flatten(0, -3), starts.flatten().tolist(), strict=True)]
        return torch.stack(cut).view(*stems.shape[:-1], length)

    def _max_samples(self, sample_rate: int) -> int:
        return round(self.max_seconds * sample_rate)


@dataclass(frozen=True)
class Narrow(Augmentation):
    """Some stereo stems are narrowed: what differs between left and right is scaled by a factor in [low, high].

    0 makes them mono. Other than stereo is left alone.
    """

    probability: float = 0.2
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        _check_share("probability", self.probability)
        _check_range("low", self.low, "high", self.high, 0, 1)

    def __call__(self, stems: Tensor, sample_rate: int, draws: Draws) -> Tensor:
        width = draws.uniform(stems.shape[:-2], self.low, self.high)
        narrowed = draws.chance(self.probability, stems.shape[:-2])
        if stems.shape[-2] != 2:
            return stems

        def narrow(some: Tensor) -> Tensor:
            middle = some.mean(-2, keepdim=True)
            return middle + _beside(width[narrowed], some) * (some - middle)

        return _where(narrowed, stems, narrow)


@dataclass(frozen=True)
class Tilt(Augmentation):
    """Some stems become brighter or darker: the spectrum is tilted about a frequency, without delay.

    The slope is evenly distributed in ±`max_db_per_octave`. It ends `reach_octaves` either side of the pivot, so that
    neither rumble nor hiss is blown up.
    """

    probability: float = 0.5
    max_db_per_octave: float = 1.5
    pivot_hz: float = 1000.0
    reach_octaves: float = 3.0

    def __post_init__(self) -> None:
        _check_share("probability", self.probability)
        _check_within("max_db_per_octave", self.max_db_per_octave, 0, 12)
        _check_within("pivot_hz", self.pivot_hz, 20, 20_000)
        _check_within("reach_octaves", self.reach_octaves, 0, 6)

    def __call__(self, stems: Tensor, sample_rate: int, draws: Draws) -> Tensor:
        slope = draws.uniform(stems.shape[:-2], -self.max_db_per_octave, self.max_db_per_octave)
        tilted = draws.chance(self.probability, stems.shape[:-2])
        frequencies = _filter_frequencies(stems.shape[-1], sample_rate).to(stems.device)
        octaves = torch.log2(frequencies.clamp_min(1.0) / self.pivot_hz).clamp(-self.reach_octaves, self.reach_octaves)
        return _where(tilted, stems, lambda some: _filtered(some, 10 ** (_beside(slope[tilted], some) * octaves / 20)))


@dataclass(frozen=True)
class SmoothEq(Augmentation):
    """Some stems go through an equaliser drawn at random: a smooth curve over log-frequency, without delay.

    The curve is a sum of `cosines` half, whole, one and a half, ... periods over the ten octaves from 20 Hz to 20 kHz,
    each with an amplitude in dB of mean 0 and deviation `deviation_db`, held at its ends' values outside of them. With
    the defaults its gain deviates by 3.2 dB from 0 on average, by 4.5 dB at the ends. What a bright or dull instrument,
    room or microphone does to a stem is of that kind.
    """

    probability: float = 0.6
    deviation_db: float = 2.0
    cosines: int = 5

    def __post_init__(self) -> None:
        _check_share("probability", self.probability)
        _check_within("deviation_db", self.deviation_db, 0, 12)
        _check_within("cosines", self.cosines, 1, 16)
        if self.cosines != int(self.cosines):
            raise UsageError(f"cosines is {self.cosines}: expected a whole number")

    def __call__(self, stems: Tensor, sample_rate: int, draws: Draws) -> Tensor:
        amplitudes = draws.normal((*stems.shape[:-2], int(self.cosines)), self.deviation_db)
        chosen = draws.chance(self.probability, stems.shape[:-2])
        curves = _cosine_curves(int(self.cosines), stems.shape[-1], sample_rate).to(stems.device, stems.dtype)
        gains_db = (amplitudes[chosen].to(stems.device, stems.dtype) @ curves)[..., None, :]
        return _where(chosen, stems, lambda some: _filtered(some, torch.exp(gains_db * (math.log(10) / 20))))


@dataclass(frozen=True)
class Saturate(Augmentation):
    """Some stems go through a soft clipper, as of a tape, an amplifier or a limiter: tanh, and back to their level.

    Their RMS level comes to stand `low_db` to `high_db` above the clipper's full scale, evenly distributed.
    """

    probability: float = 0.3
    low_db: float = -15.0
    high_db: float = 3.0

    def __post_init__(self) -> None:
        _check_share("probability", self.probability)
        _check_range("low_db", self.low_db, "high_db", self.high_db, -60, 40)

    def __call__(self, stems: Tensor, sample_rate: int, draws: Draws) -> Tensor:
        drive = 10 ** (draws.uniform(stems.shape[:-2], self.low_db, self.high_db) / 20)
        chosen = draws.chance(self.probability, stems.shape[:-2])

        def saturate(some: Tensor) -> Tensor:
            level = _rms(some)
            clipped = torch.tanh(some * (_beside(drive[chosen], some) / level))
            return clipped * (level / _rms(clipped))

        return _where(chosen, stems, saturate)


@dataclass(frozen=True)
class Room(Augmentation):
    """Some stems stand in a room drawn at random: behind each sound comes noise, other noise on each side.

    The noise falls by 60 dB in `low_seconds` to `high_seconds`, and has `low_db` to `high_db` beside the sound's
    energy, both evenly distributed. What sounded before the excerpt is not heard in it.
    """

    probability: float = 0.3
    low_seconds: float = 0.08
    high_seconds: float = 0.6
    low_db: float = -20.0
    high_db: float = -4.0

    def __post_init__(self) -> None:
        _check_share("probability", self.probability)
        _check_range("low_seconds", self.low_seconds, "high_seconds", self.high_seconds, 0.01, 10)
        _check_range("low_db", self.low_db, "high_db", self.high_db, -80, 20)

    def __call__(self, stems: Tensor, sample_rate: int, draws: Draws) -> Tensor:
        shape, count = stems.shape[:-2], max(1, round(self.high_seconds * sample_rate))
        chosen = draws.chance(self.probability, shape)
        lasting_seconds = draws.uniform(shape, self.low_seconds, self.high_seconds)
        level = 10 ** (draws.uniform(shape, self.low_db, self.high_db) / 20)
        noise = draws.normal((*shape, stems.shape[-2], count))
        samples, length = stems.shape[-1], _fast_length(stems.shape[-1] + count)

        def reverberate(some: Tensor) -> Tensor:
            seconds = torch.arange(count, device=some.device) / sample_rate
            fall = 10 ** (-3 * seconds / _beside(lasting_seconds[chosen], some))
            tail = noise[chosen].to(some.device, some.dtype) * fall
            tail = tail * (_beside(level[chosen], some) / torch.linalg.vector_norm(tail, dim=-1, keepdim=True))
            wet: Tensor = torch.fft.irfft(torch.fft.rfft(some, length) * torch.fft.rfft(tail, length), length)
            return some + wet[..., :samples]

        return _where(chosen, stems, reverberate)


@dataclass(frozen=True)
class PitchTempo(Augmentation):
    """Some excerpts change pitch and tempo independently of each other, by Signalsmith Stretch.

    The pitch moves by whole semitones in ±`max_semitones`, evenly distributed; the tempo by a percentage of mean 0
    and deviation `tempo_deviation_percent`, at most ±`max_tempo_percent`. With `together`, all stems of an excerpt
    are changed alike, so what belongs together stays in time and in tune. Demucs v2's values are the defaults.
    All excerpts, changed or not, become shorter by the greatest tempo.

    Raises:
        BackendError: the package python-stretch (MIT) is not installed.
    """

    probability: float = 0.2
    max_semitones: int = 2
    tempo_deviation_percent: float = 5.0
    max_tempo_percent: float = 12.0
    together: bool = True

    def __post_init__(self) -> None:
        _check_share("probability", self.probability)
        _check_within("max_semitones", self.max_semitones, 0, 24)
        if self.max_semitones != int(self.max_semitones):
            raise UsageError(f"max_semitones is {self.max_semitones}: expected a whole number")
        _check_within("tempo_deviation_percent", self.tempo_deviation_percent, 0, 50)
        _check_within("max_tempo_percent", self.max_tempo_percent, 0, 50)

    def input_samples(self, samples: int, sample_rate: int) -> int:
        return math.ceil(samples * (1 + self.max_tempo_percent / 100)) + 1

    def __call__(self, stems: Tensor, sample_rate: int, draws: Draws) -> Tensor:
        length = int(stems.shape[-1] / (1 + self.max_tempo_percent / 100))
        shape = stems.shape[:-3] if self.together else stems.shape[:-2]
        semitones = draws.integers(shape, -int(self.max_semitones), int(self.max_semitones))
        percent = draws.normal(shape, self.tempo_deviation_percent)
        tempo = 1 + percent.clamp(-self.max_tempo_percent, self.max_tempo_percent) / 100
        chosen = draws.chance(self.probability, shape)
        changed = stems[..., :length].clone()
        for place in chosen.nonzero().tolist():
            at = tuple(place)
            sound = stems[at].detach().cpu().numpy()
            flat = sound.reshape(-1, sound.shape[-2], sound.shape[-1])
            out = np.stack([_stretch(stem, sample_rate, float(tempo[at]), int(semitones[at])) for stem in flat])
            changed[at] = torch.from_numpy(out[..., :length].reshape(*sound.shape[:-1], length)).to(stems)
        return changed


@dataclass(frozen=True)
class Speed(Augmentation):
    """Some excerpts are played faster or slower, pitch and tempo together, by resampling (soxr).

    The factor is evenly distributed in [low, high]; all excerpts, changed or not, become shorter by `high`.
    """

    probability: float = 0.2
    low: float = 0.9
    high: float = 1.1
    together: bool = True

    def __post_init__(self) -> None:
        _check_share("probability", self.probability)
        _check_range("low", self.low, "high", self.high, 0.25, 4)

    def input_samples(self, samples: int, sample_rate: int) -> int:
        return math.ceil(samples * max(1.0, self.high)) + 1

    def __call__(self, stems: Tensor, sample_rate: int, draws: Draws) -> Tensor:
        import soxr

        length = int(stems.shape[-1] / max(1.0, self.high))
        shape = stems.shape[:-3] if self.together else stems.shape[:-2]
        factor, chosen = draws.uniform(shape, self.low, self.high), draws.chance(self.probability, shape)
        changed = stems[..., :length].clone()
        for place in chosen.nonzero().tolist():
            at = tuple(place)
            flat = stems[at].detach().cpu().reshape(-1, stems.shape[-1]).T.contiguous().numpy()
            played = soxr.resample(flat, float(factor[at]), 1.0, quality="HQ").T
            played = np.pad(played, ((0, 0), (0, max(0, length - played.shape[1]))))[:, :length]
            changed[at] = torch.from_numpy(np.ascontiguousarray(played)).to(stems).view(changed[at].shape)
        return changed


@dataclass(frozen=True)
class Loudness(Augmentation):
    """Brings each excerpt to a loudness by ITU-R BS.1770, evenly distributed in [low_lufs, high_lufs].

    With ``of = "mixture"`` one gain is found from the sum of the stems and applied to all of them; with "stems" each
    has its own. Silence, and what is shorter than the standard's block of 0.4 s, is left as it is.

    Raises:
        BackendError: the package pyloudnorm (MIT) is not installed.
    """

    low_lufs: float = -24.0
    high_lufs: float = -14.0
    of: Literal["mixture", "stems"] = "mixture"
    max_gain_db: float = 30.0

    def __post_init__(self) -> None:
        _check_range("low_lufs", self.low_lufs, "high_lufs", self.high_lufs, -70, 0)
        _check_within("max_gain_db", self.max_gain_db, 0, 60)
        if self.of not in ("mixture", "stems"):
            raise UsageError(f"of is {self.of!r}: expected mixture or stems")

    def __call__(self, stems: Tensor, sample_rate: int, draws: Draws) -> Tensor:
        heard = stems.sum(-3, keepdim=True) if self.of == "mixture" else stems
        target = draws.uniform(heard.shape[:-2], self.low_lufs, self.high_lufs)
        flat = heard.detach().cpu().double().flatten(0, -3)
        measured = torch.tensor([_loudness(sound.numpy(), sample_rate) for sound in flat]).view(target.shape)
        gain_db = torch.where(measured.isfinite(), target - measured, 0.0).clamp(-self.max_gain_db, self.max_gain_db)
        return stems * _beside(10 ** (gain_db / 20), stems)


@dataclass(frozen=True)
class Remix(Augmentation):
    """Makes new songs of a batch: within each group of excerpts, every stem goes to another place (Demucs).

    A group of fixed size keeps the chance that two stems stay together the same, whatever the batch.
    """

    group: int = 4
    probability: float = 1.0

    def __post_init__(self) -> None:
        _check_within("group", self.group, 1, 1 << 16)
        _check_share("probability", self.probability)

    def __call__(self, stems: Tensor, sample_rate: int, draws: Draws) -> Tensor:
        if stems.ndim != 4:
            raise UsageError(f"remix takes a batch [B, S, C, n]; got {list(stems.shape)}: name it under batch_augment")
        batch, sources = stems.shape[:2]
        if batch % self.group:
            raise UsageError(
                f"a batch of {batch} excerpts cannot be remixed in groups of {self.group}: make the batch of each "
                "process a multiple of the group"
            )
        # One decision a group: the first row's.
        chosen = draws.chance(self.probability, (batch,)).view(-1, self.group)[:, :1, None]
        order = draws.uniform((batch, sources)).view(-1, self.group, sources).argsort(1)
        order = torch.where(chosen, order, torch.arange(self.group)[None, :, None])
        rows = (order + torch.arange(0, batch, self.group)[:, None, None]).view(batch, sources).to(stems.device)
        return stems[rows, torch.arange(sources, device=stems.device)]


BATCH_AUGMENTATIONS: Mapping[str, Callable[..., Augmentation]] = {
    "gain": Gain,
    "swap_channels": SwapChannels,
    "flip_sign": FlipSign,
    "shift": Shift,
    "narrow": Narrow,
    "tilt": Tilt,
    "smooth_eq": SmoothEq,
    "saturate": Saturate,
    "room": Room,
    "remix": Remix,
}
"""What a recipe may name under ``batch_augment``: applied to whole batches, on the device."""

AUGMENTATIONS: Mapping[str, Callable[..., Augmentation]] = {
    **{name: make for name, make in BATCH_AUGMENTATIONS.items() if name != "remix"},
    "pitch_tempo": PitchTempo,
    "speed": Speed,
    "loudness": Loudness,
}
"""What a recipe may name under ``augment``: applied to each excerpt, by the loader's workers."""


def _beside(values: Tensor, stems: Tensor) -> Tensor:
    """Values per stem ``[..., S]``, to be broadcast over channels and samples on the stems' device."""
    values = values if values.dtype == torch.bool else values.to(stems.dtype)
    return values.to(stems.device)[..., None, None]


def _where(chosen: Tensor, stems: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The chosen stems ``[..., S]`` as `change` makes them of ``[N, C, n]``, the others as they are."""
    if not chosen.any():
        return stems
    chosen = chosen.to(stems.device)
    changed = stems.clone()
    changed[chosen] = change(stems[chosen])
    return changed


def _filter_length(samples: int) -> int:
    """Length of the transform that filters `samples` without delay: quick, and with silence behind.

    What such a filter spreads before the start comes around from the end: it is left a silence there.
    """
    return _fast_length(samples + 8192)


def _fast_length(least: int) -> int:
    """The next length whose transform is quick."""
    power = 1 << (least - 1).bit_length()
    return min(length for length in (power // 8 * 5, power // 4 * 3, power // 16 * 15, power) if length >= least)


def _rms(stems: Tensor) -> Tensor:
    """Of each stem over channels and samples, to be broadcast; silence has a little, so that it can be divided by."""
    return stems.square().mean((-2, -1), keepdim=True).sqrt().clamp_min(1e-12)


def _filter_frequencies(samples: int, sample_rate: int) -> Tensor:
    """In Hz, of the gains that `_filtered` takes."""
    frequencies: Tensor = torch.fft.rfftfreq(_filter_length(samples), 1 / sample_rate)
    return frequencies


def _filtered(stems: Tensor, gains: Tensor) -> Tensor:
    """Multiply the spectrum of the stems; the gains' last axis is as long as `_filter_frequencies`."""
    samples = stems.shape[-1]
    length = _filter_length(samples)
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(stems, length) * gains, length)[..., :samples]
    return filtered


@lru_cache(maxsize=2)
def _cosine_curves(count: int, samples: int, sample_rate: int) -> Tensor:
    """Half, whole, ... periods of a cosine over log-frequency, ``[count, frequencies]``."""
    octaves = torch.log2(_filter_frequencies(samples, sample_rate).clamp(20, 20_000) / 20) / math.log2(1000)
    curves: Tensor = torch.cos(math.pi * torch.arange(1, count + 1)[:, None] * octaves)
    return curves


def _stretch(sound: NDArray[np.float32], sample_rate: int, tempo: float, semitones: int) -> NDArray[np.float32]:
    """One stem ``[C, n]`` at another tempo and pitch, ``[C, about n / tempo]``."""
    try:
        from python_stretch import Signalsmith
    except ImportError as error:
        raise BackendError(
            "pitch_tempo needs the package python-stretch, which is not installed: "
            "`pip install 'iseparate[augment]'`, or leave that augmentation out"
        ) from error
    stretch = Signalsmith.Stretch()
    stretch.preset(sound.shape[0], sample_rate)
    stretch.setTransposeSemitones(semitones)
    stretch.timeFactor = tempo
    stretched = np.asarray(stretch.process(np.ascontiguousarray(sound, np.float32)), np.float32)
    missing = math.ceil(sound.shape[-1] / tempo) - stretched.shape[-1]
    return np.pad(stretched, ((0, 0), (0, max(0, missing))))


def _loudness(sound: NDArray[np.float64], sample_rate: int) -> float:
    """Loudness of ``[C, n]`` in LUFS; -inf for silence and for what is too short to be measured."""
    try:
        import pyloudnorm  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise BackendError(
            "loudness needs the package pyloudnorm, which is not installed: "
            "`pip install 'iseparate[augment]'`, or leave that augmentation out"
        ) from error
    if sound.shape[-1] < 0.4 * sample_rate + 1 or not sound.any():
        return -math.inf
    with np.errstate(divide="ignore"):
        return float(pyloudnorm.Meter(sample_rate).integrated_loudness(sound.T))


def _check_share(name: str, value: float) -> None:
    _check_within(name, value, 0, 1)


def _check_within(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UsageError(f"{name} is {value!r}: expected a number from {low:g} to {high:g}")


def _check_range(low_name: str, low: float, high_name: str, high: float, least: float, most: float) -> None:
    _check_within(low_name, low, least, most)
    _check_within(high_name, high, least, most)
    if not low <= high < math.inf:
        raise UsageError(f"{low_name} is {low:g} and {high_name} is {high:g}: expected them in that order")
