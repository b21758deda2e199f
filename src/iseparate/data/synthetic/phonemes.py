"""The sounds of a made-up language: vowels and consonants as formants and noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iseparate.data.synthetic.sounds import chance, pick

Formants = tuple[float, float, float]

# First three formants of men's vowels in Hz: G. Peterson, H. Barney, Control methods used in a study of the vowels,
# JASA 24(2), 1952, table II.
VOWELS: Mapping[str, Formants] = {
    "i": (270.0, 2290.0, 3010.0),
    "ih": (390.0, 1990.0, 2550.0),
    "e": (530.0, 1840.0, 2480.0),
    "ae": (660.0, 1720.0, 2410.0),
    "a": (730.0, 1090.0, 2440.0),
    "o": (570.0, 840.0, 2410.0),
    "uh": (440.0, 1020.0, 2240.0),
    "u": (300.0, 870.0, 2240.0),
    "ah": (640.0, 1190.0, 2390.0),
    "er": (490.0, 1350.0, 1690.0),
}


@dataclass(frozen=True)
class Consonant:
    """How a consonant is made; seconds, levels relative to a vowel, noise as bumps (Hz, octaves wide, level)."""

    seconds: float
    voiced: float
    noise: tuple[tuple[float, float, float], ...] = ()
    formants: Formants | None = None
    burst: bool = False
    """Stops: silence first, then the noise all at once."""
    breathy_seconds: float = 0.0
    """How long the following vowel starts as a whisper."""


# Typical values from the acoustics of speech (K. Stevens, Acoustic Phonetics, 1998), rounded.
CONSONANTS: Mapping[str, Consonant] = {
    "s": Consonant(0.11, 0.0, ((7200.0, 0.6, 1.0),)),
    "z": Consonant(0.08, 0.35, ((7000.0, 0.6, 0.5),)),
    "sh": Consonant(0.11, 0.0, ((3600.0, 0.7, 1.0),)),
    "f": Consonant(0.09, 0.0, ((5500.0, 1.6, 0.25),)),
    "v": Consonant(0.06, 0.4, ((5000.0, 1.6, 0.12),)),
    "h": Consonant(0.07, 0.0, ((1500.0, 1.5, 0.35),), breathy_seconds=0.04),
    "t": Consonant(0.07, 0.0, ((4500.0, 0.9, 1.0),), burst=True, breathy_seconds=0.04),
    "k": Consonant(0.08, 0.0, ((2200.0, 0.6, 0.9),), burst=True, breathy_seconds=0.05),
    "p": Consonant(0.07, 0.0, ((900.0, 1.2, 0.6),), burst=True, breathy_seconds=0.04),
    "d": Consonant(0.05, 0.12, ((4000.0, 0.9, 0.6),), burst=True),
    "g": Consonant(0.06, 0.12, ((2000.0, 0.6, 0.5),), burst=True),
    "b": Consonant(0.05, 0.15, ((700.0, 1.0, 0.4),), burst=True),
    "ch": Consonant(0.10, 0.0, ((3800.0, 0.7, 1.0),), burst=True, breathy_seconds=0.03),
    "m": Consonant(0.07, 0.45, formants=(250.0, 1100.0, 2200.0)),
    "n": Consonant(0.06, 0.45, formants=(270.0, 1500.0, 2500.0)),
    "l": Consonant(0.06, 0.6, formants=(360.0, 1300.0, 2700.0)),
    "r": Consonant(0.07, 0.6, formants=(330.0, 1060.0, 1380.0)),
    "w": Consonant(0.06, 0.6, formants=(290.0, 610.0, 2150.0)),
    "y": Consonant(0.06, 0.6, formants=(260.0, 2070.0, 3020.0)),
}


@dataclass(frozen=True)
class Syllable:
    """Consonants around one vowel, or a vowel that moves to a second one."""

    onset: str
    vowel: str
    second_vowel: str
    coda: str


def draw_syllable(rng: np.random.Generator) -> Syllable:
    """One syllable of the made-up language."""
    onset = pick(rng, (*CONSONANTS, "")) if chance(rng, 0.85) else ""
    vowel = pick(rng, tuple(VOWELS))
    second = pick(rng, ("i", "u", "ih")) if chance(rng, 0.25) else vowel
    coda = pick(rng, ("n", "s", "t", "m", "l", "r", "k", "z")) if chance(rng, 0.3) else ""
    return Syllable(onset, vowel, second, coda)


def tract(hz: NDArray[np.float64], formants: NDArray[np.float64], widths: NDArray[np.float64]) -> NDArray[np.float32]:
    """Gain of the vocal tract ``[frames, bins]`` for formants and bandwidths ``[frames, formants]`` in Hz.

    A cascade of resonators, as in D. Klatt, Software for a cascade/parallel formant synthesizer, JASA 67(3), 1980.
    """
    square = (hz**2).astype(np.float32)[None, :]
    power = np.ones((len(formants), len(hz)), dtype=np.float32)
    for centre, width in zip(formants.T.astype(np.float32), widths.T.astype(np.float32), strict=True):
        own = (centre**2)[:, None]
        power *= own**2 / ((own - square) ** 2 + (width**2)[:, None] * square)
    return np.asarray(np.sqrt(power), dtype=np.float32)
