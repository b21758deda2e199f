"""Recorded strokes as pieces of a kit: from a SoundFont's drum bank, or from files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr

from iseparate.data.synthetic.drum_kit import Make
from iseparate.data.synthetic.sampled.general_midi import PIECES
from iseparate.data.synthetic.sampled.soundfont import DRUM_BANK, Event, Program, render
from iseparate.data.synthetic.sounds import SAMPLE_RATE, in_samples, pick, soften_end
from iseparate.errors import AudioReadError
from iseparate.types import Samples

_VELOCITIES = (40, 75, 104, 127)
_LONGEST_SECONDS: Mapping[str, float] = {"crash": 3.2, "ride": 2.2, "open": 1.4}
_LONG_SECONDS = 0.9

# rumpf_kit_z01, by its drumkit.xml.
RUMPF_KIT: Mapping[str, tuple[str, ...]] = {
    "kick": ("beats_06-38", "beats_06-46", "beats_07-18", "beats_07-20"),
    "stick": ("beats_09-12",),
    "snare": ("beats_01-21", "beats_06-25"),
    "clap": ("beats_01-26",),
    "hat": ("beats_09-10",),
    "pedal": ("beats_06-28",),
    "open": ("beats_08-31",),
    "floor": ("beats_08-17",),
    "mid_tom": ("beats_08-18",),
    "high_tom": ("beats_08-19",),
    "crash": ("beats_06-43", "beats_08-20", "beats_06-30"),
    "ride": ("beats_06-40",),
    "cowbell": ("beats_08-32",),
}


def soundfont_piece(rng: np.random.Generator, font: Path, program: int, piece: str) -> Make:
    """A piece of a SoundFont's kit; keys and tuning are drawn once."""
    key = pick(rng, PIECES[piece])

    def strike_all() -> list[Samples]:
        longest = in_samples(_LONGEST_SECONDS.get(piece, _LONG_SECONDS))
        events = []
        for number, velocity in enumerate(_VELOCITIES):
            events.append(Event(number * longest, "on", 0, key, velocity))
            events.append(Event((number + 1) * longest, "silence", 0, key))
        sheet = render({0: Program(font, DRUM_BANK, program)}, events, len(_VELOCITIES) * longest).mean(axis=0)
        return [trimmed(stroke) for stroke in sheet.reshape(len(_VELOCITIES), longest)]

    return _Recorded(rng, strike_all)


def file_piece(rng: np.random.Generator, folder: Path, names: Sequence[str]) -> Make:
    """A piece from a file, drawn once among `names` (without their ``.flac``)."""
    path = folder / f"{pick(rng, names)}.flac"

    def read() -> list[Samples]:
        try:
            sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, OSError) as error:
            raise AudioReadError(f"{path} cannot be read ({error}); install its package anew") from error
        return [trimmed(np.asarray(soxr.resample(sound.mean(axis=1), rate, SAMPLE_RATE)))]

    return _Recorded(rng, read)


def trimmed(stroke: Samples) -> Samples:
    """A stroke from where it starts to where it has died away (60 dB down), its end softened."""
    size = np.abs(stroke)
    top = float(size.max(initial=0.0))
    if top <= 0.0:
        return np.zeros(64, dtype=np.float32)
    heard = np.flatnonzero(size > 1e-3 * top)
    first = max(0, int(np.flatnonzero(size > 0.02 * top)[0]) - 32)
    return soften_end(stroke[first : int(heard[-1]) + 1].copy(), 0.01)


class _Recorded:
    """Strokes from soft to loud, of which the one that fits is taken, never quite at the same pitch."""

    def __init__(self, rng: np.random.Generator, strike_all: Callable[[], list[Samples]]) -> None:
        self._tuned = float(np.clip(np.exp(rng.normal(0.0, 0.06)), 0.8, 1.25))
        self._strike_all = strike_all
        self._strokes: list[Samples] = []

    def __call__(self, rng: np.random.Generator, strength: float) -> Samples:
        if not self._strokes:
            self._strokes = self._strike_all()
        place = strength * (len(self._strokes) - 1) + float(rng.normal(0.0, 0.3))
        stroke = self._strokes[int(np.clip(round(place), 0, len(self._strokes) - 1))]
        rate = self._tuned * float(np.exp(rng.normal(0.0, 0.006)))
        return np.asarray(soxr.resample(stroke, SAMPLE_RATE * rate, SAMPLE_RATE), dtype=np.float32)
