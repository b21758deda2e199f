"""Sounds from nothing: tables of harmonics, noise, envelopes.

Sounds are float32 arrays ``[samples]`` (mono) or ``[2, samples]`` at `SAMPLE_RATE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from iseparate.data.synthetic import filters
from iseparate.data.synthetic.version import VERSION
from iseparate.types import Samples

SAMPLE_RATE = filters.SAMPLE_RATE
SPEED_OF_SOUND_METRES_PER_SECOND = 343.0
_TABLE = 4096  # points of one period; linear interpolation keeps its error 90 dB down
_CUTOFFS_HZ = np.geomspace(120.0, 17000.0, 10)
_HIGHEST_HZ = 17000.0  # harmonics above are left out, so nothing folds back

_T = TypeVar("_T")
Curve = NDArray[np.floating[Any]]
"""Numbers in a row, of any precision."""

_CLOCK = np.arange(10 * SAMPLE_RATE, dtype=np.float32) / np.float32(SAMPLE_RATE)
_CLOCK.setflags(write=False)


@dataclass
class Note:
    """One note of a part."""

    start_seconds: float
    seconds: float
    pitch: float
    """MIDI number; 69 is 440 Hz."""
    velocity: float
    """In (0, 1]."""
    articulation: str = ""
    """Empty, ``mute``, ``ghost``, ``slap``, ``pop``."""
    glide_from: float | None = None
    """The pitch this note slides up or down from."""


def in_samples(seconds: float) -> int:
    """A duration in whole samples."""
    return round(seconds * SAMPLE_RATE)


def midi_hz(pitch: float) -> float:
    """Frequency of a MIDI pitch."""
    return float(440.0 * 2.0 ** ((pitch - 69.0) / 12.0))


def stream(seed: int, *names: str) -> np.random.Generator:
    """A generator of its own for each purpose, so that one part's draws never shift another's."""
    return np.random.default_rng([VERSION, seed, *(crc32(name.encode()) for name in names)])


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw evenly."""
    return float(rng.uniform(low, high))


def between_log(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw evenly in the logarithm: for frequencies and times."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def pick(rng: np.random.Generator, choices: Sequence[_T]) -> _T:
    """Draw one."""
    return choices[int(rng.integers(len(choices)))]


def chance(rng: np.random.Generator, probability: float) -> bool:
    """Throw a coin."""
    return bool(rng.random() < probability)


def times(samples: int) -> Samples:
    """Seconds at each sample; not to be written to."""
    if samples <= len(_CLOCK):
        return _CLOCK[:samples]
    return np.arange(samples, dtype=np.float32) / np.float32(SAMPLE_RATE)


def decay(samples: int, seconds: float) -> Samples:
    """An exponential that has fallen by 60 dB after `seconds`."""
    return np.asarray(np.exp(times(samples) * np.float32(-6.9078 / seconds)))


def envelope(samples: int, held: int, attack: float, fall: float, sustain: float, release: float) -> Samples:
    """Attack, decay to `sustain`, and release from sample `held` on; times in seconds."""
    t = times(samples)
    curve = np.minimum(t / np.float32(max(attack, 1e-3)), 1.0)
    curve *= sustain + (1.0 - sustain) * np.exp(-t / np.float32(fall))
    if held < samples:
        curve[held:] *= np.exp(-t[: samples - held] * np.float32(5.0 / release))
    return soften_end(curve.astype(np.float32))


def soften_end(sound: Samples, seconds: float = 0.006) -> Samples:
    """Fade the last milliseconds of a sound, in place."""
    count = min(in_samples(seconds), sound.shape[-1])
    if count:
        sound[..., -count:] *= np.linspace(1.0, 0.0, count, dtype=np.float32)
    return sound


def place(bus: Samples, sound: Samples, start: int, left: float = 1.0, right: float = 1.0) -> None:
    """Add a mono or stereo sound to a stereo bus; what lies outside of it is dropped."""
    skipped = max(0, -start)
    count = min(sound.shape[-1] - skipped, bus.shape[1] - start - skipped)
    if count <= 0:
        return
    first = start + skipped
    for channel, gain in enumerate((left, right)):
        source = sound if sound.ndim == 1 else sound[channel]
        bus[channel, first : first + count] += np.float32(gain) * source[skipped : skipped + count]


def pan_gains(pan: float) -> tuple[float, float]:
    """Left and right gains of equal power for `pan` in [-1, 1]; 1 and 1 in the middle."""
    angle = (np.clip(pan, -1.0, 1.0) + 1.0) * np.pi / 4.0
    return float(np.sqrt(2.0) * np.cos(angle)), float(np.sqrt(2.0) * np.sin(angle))


def noise(rng: np.random.Generator, samples: int) -> Samples:
    """White noise of RMS 1."""
    return rng.standard_normal(samples, dtype=np.float32)


def peak_to(sound: Samples, level: float = 1.0) -> Samples:
    """Scale a sound to a peak."""
    top = float(np.abs(sound).max(initial=0.0))
    return np.asarray(sound * np.float32(level / max(top, 1e-12)))


def saturate(sound: Samples, drive: float) -> Samples:
    """Bend the peaks as a valve or a tape does; small signals keep their level."""
    return np.asarray((np.tanh(sound * np.float32(drive)) / np.float32(drive)).astype(np.float32))


def phase_of(frequency_hz: NDArray[np.float64], start: float = 0.0) -> NDArray[np.float64]:
    """The running phase, in periods, of a frequency per sample."""
    return np.asarray(np.cumsum(frequency_hz) / SAMPLE_RATE + start)


def steady_phase(samples: int, frequency_hz: float, start: float = 0.0) -> NDArray[np.float64]:
    """The running phase of a constant frequency."""
    return np.arange(samples, dtype=np.float64) * (frequency_hz / SAMPLE_RATE) + start


def glide(samples: int, from_pitch: float, to_pitch: float, seconds: float) -> NDArray[np.float64]:
    """Frequency per sample of a slide between two MIDI pitches."""
    progress = np.clip(np.arange(samples) / max(1.0, seconds * SAMPLE_RATE), 0.0, 1.0)
    bend = from_pitch + (to_pitch - from_pitch) * progress * progress * (3.0 - 2.0 * progress)
    return np.asarray(440.0 * 2.0 ** ((bend - 69.0) / 12.0))


@dataclass
class Timbre:
    """A periodic sound: harmonics, under a lowpass whose cutoff can move while a note sounds.

    One period is stored per cutoff, so that a moving filter is a walk through the tables.
    """

    amplitudes: Curve
    """Amplitude of harmonic 1, 2, ..."""
    phases: Curve | None = None
    resonance: float = 0.0
    """Height of the bump at the cutoff; 0 none, 2 strong."""
    slope: float = 2.0
    """Order of the lowpass."""
    body: tuple[tuple[float, float, float], ...] = ()
    """Fixed resonances: Hz, gain in dB, width in octaves."""
    _tables: dict[int, NDArray[np.float32]] = field(default_factory=dict, repr=False)

    def tables(self, frequency_hz: float) -> NDArray[np.float32]:
        """Periods for notes near a frequency, ``[cutoffs, points + 1]``, dark to bright."""
        key = round(12.0 * np.log2(frequency_hz))
        if key not in self._tables:
            self._tables[key] = self._make(float(2.0 ** (key / 12.0)))
        return self._tables[key]

    def _make(self, frequency_hz: float) -> NDArray[np.float32]:
        count = int(np.clip(_HIGHEST_HZ / frequency_hz, 1, min(len(self.amplitudes), _TABLE // 2 - 1)))
        number = np.arange(1, count + 1)
        hz = number * frequency_hz
        levels = self.amplitudes[:count].astype(np.complex128)
        for centre, gain_db, octaves in self.body:
            levels *= 10.0 ** (gain_db / 20.0 * np.exp(-((np.log2(hz / centre) / octaves) ** 2)))
        phases = np.zeros(count) if self.phases is None else self.phases[:count]
        cutoffs = np.maximum(_CUTOFFS_HZ, 1.1 * frequency_hz)[:, None]
        lowpass = 1.0 / np.sqrt(1.0 + (hz / cutoffs) ** (2.0 * self.slope))
        lowpass = lowpass * (1.0 + self.resonance * np.exp(-((np.log2(hz / cutoffs) / 0.3) ** 2)))
        spectrum = np.zeros((len(_CUTOFFS_HZ), _TABLE // 2 + 1), dtype=np.complex128)
        spectrum[:, 1 : count + 1] = levels * lowpass * np.exp(1j * (phases - np.pi / 2.0))
        period = np.fft.irfft(spectrum, _TABLE) * (_TABLE / 2.0)
        return np.concatenate([period, period[:, :1]], axis=1).astype(np.float32)

    def sound(self, phase: NDArray[np.float64], frequency_hz: float, cutoff_hz: float | Samples) -> Samples:
        """The sound along a phase; `cutoff_hz` is a number or one per sample."""
        tables = self.tables(frequency_hz)
        points = (phase - np.floor(phase)) * _TABLE
        index = points.astype(np.int32)
        index[index >= _TABLE] = 0  # a phase a rounding error below 0
        share = (points - index).astype(np.float32)
        top = len(_CUTOFFS_HZ) - 1.001
        scale = top / np.log(_CUTOFFS_HZ[-1] / _CUTOFFS_HZ[0])
        if isinstance(cutoff_hz, float | int):
            position = float(np.clip(np.log(cutoff_hz / _CUTOFFS_HZ[0]) * scale, 0.0, top))
            row = int(position)
            table = tables[row] + np.float32(position - row) * (tables[row + 1] - tables[row])
            here = table[index]
            return np.asarray(here + share * (table[index + 1] - here), dtype=np.float32)
        places = np.clip(np.log(cutoff_hz / np.float32(_CUTOFFS_HZ[0])) * np.float32(scale), 0.0, np.float32(top))
        rows = places.astype(np.int32)
        mix = places - rows
        flat = tables.ravel()
        index += rows * (_TABLE + 1)
        dark, bright = flat[index], flat[index + (_TABLE + 1)]
        index += 1
        dark += share * (flat[index] - dark)
        bright += share * (flat[index + (_TABLE + 1)] - bright)
        return np.asarray(dark + mix * (bright - dark), dtype=np.float32)


def sawtooth(harmonics: int = 600) -> NDArray[np.float64]:
    """Amplitudes of a sawtooth wave."""
    return np.asarray(0.6 / np.arange(1, harmonics + 1))


def pulse(width: float, harmonics: int = 600) -> NDArray[np.float64]:
    """Amplitudes of a pulse wave; `width` in (0, 1), a half is a square."""
    number = np.arange(1, harmonics + 1)
    return np.asarray(0.9 * np.sin(np.pi * number * width) / number)


def plucked(position: float, tilt: float, harmonics: int = 400) -> NDArray[np.float64]:
    """Amplitudes of a string plucked at a share `position` of its length, falling with ``k ** -tilt``.

    The comb of the plucking point is that of the ideal string (Fletcher and Rossing, The Physics of Musical
    Instruments, 1998).
    """
    number = np.arange(1, harmonics + 1)
    return np.asarray(np.abs(np.sin(np.pi * number * position)) / number**tilt)


def modes(
    samples: int,
    frequencies_hz: Sequence[float] | Curve,
    levels: Sequence[float] | Curve,
    seconds: Sequence[float] | Curve,
    phases: Sequence[float] | Curve | None = None,
) -> Samples:
    """Struck things: decaying sines, each silent (60 dB down) after its `seconds`."""
    total = np.zeros(samples, dtype=np.float32)
    starts = np.zeros(len(frequencies_hz)) if phases is None else phases
    for hz, level, length, start in zip(frequencies_hz, levels, seconds, starts, strict=True):
        count = min(samples, in_samples(length))
        if count < 2 or hz > 20000.0:
            continue
        # float32 phases would drift audibly after some seconds; periods are wrapped in float64 first
        turns = steady_phase(count, float(hz), float(start))
        wave = np.sin((2.0 * np.pi) * (turns - np.floor(turns)).astype(np.float32))
        total[:count] += np.float32(level) * wave * decay(count, float(length))
    return soften_end(total)


def metal(rng: np.random.Generator, samples: int, low_hz: float, tone: float, bands: Sequence[float]) -> Samples:
    """A cymbal's wash: a crowd of partials at random, the high ones dying sooner.

    `bands` are the seconds to −60 dB of four bands from low to high; `tone` in [0, 1] says how much single partials
    stand out of the crowd.
    """
    hz = np.fft.rfftfreq(samples, 1.0 / SAMPLE_RATE)
    size = rng.gamma(1.0 - 0.9 * tone, 1.0, len(hz)) * np.exp(2j * np.pi * rng.random(len(hz)))
    size *= 1.0 / (1.0 + (low_hz / np.maximum(hz, 1.0)) ** 4)
    size *= 1.0 / (1.0 + (hz / 15000.0) ** 4)
    # shares of the bands add up to one; soft borders, or each would be seen as a step in the decay
    shares = [1.0 / (1.0 + (factor * low_hz / np.maximum(hz, 1.0)) ** 5) for factor in (2.0, 5.0, 10.0)]
    shares = [np.ones_like(hz), *shares, np.zeros_like(hz)]
    total = np.zeros(samples, dtype=np.float32)
    for number, seconds in enumerate(bands):
        band = size * (shares[number] - shares[number + 1])
        total += filters.inverse_spectrum(band, samples) * decay(samples, seconds)
    return soften_end(peak_to(total))
