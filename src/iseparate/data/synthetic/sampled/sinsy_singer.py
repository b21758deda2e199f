"""A singer whose vowels and consonants are those of a recorded voice, in any register.

Sinsy sings the phrase with the HMM voice "nitech_jp_song070_f001"; that one is a woman's and in tune from about D4 to
C5 only: below, it does not voice its notes at all, above, it stays flat. So it sings there, WORLD's CheapTrick (M.
Morise, Speech Communication 67, 2015) takes the spectral envelope of what it sang, and a source with the pitch that
the band's own singer would have sounds through that envelope, stretched for other sizes of head.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from iseparate.data.synthetic import filters
from iseparate.data.synthetic.phonemes import Syllable
from iseparate.data.synthetic.sampled.extension import extension
from iseparate.data.synthetic.sampled.sources import package_folder
from iseparate.data.synthetic.sounds import (
    SAMPLE_RATE,
    Timbre,
    between,
    between_log,
    noise,
    phase_of,
)
from iseparate.data.synthetic.voice import FRAME_SECONDS, Phrase, Singer
from iseparate.errors import AudioReadError
from iseparate.types import Samples

_LOWEST, _HIGHEST = 62, 72  # MIDI pitches that the voice was trained on well enough
_UNIT_SECONDS = 1.0 / 64.0  # of the score: a 128th at 120 quarters a minute
_UNITS_PER_QUARTER = 32
_TEMPO = 120
_LEGATO_SECONDS = 0.1
_REST_UNITS = 16
_LEAD_SECONDS = 0.25  # of a score, before its first note
_ALIKE_SECONDS = 0.05
_WARPING = 0.55  # of the voice's mel-cepstra, for 48 kHz
_FLOOR_HZ, _CEILING_HZ = 180.0, 900.0

_STEPS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
_VOWELS = {"i": 0, "ih": 0, "e": 1, "ae": 1, "a": 2, "ah": 2, "er": 2, "o": 3, "uh": 3, "u": 4}
# One row a consonant: i, e, a, o, u.
_KANA: Mapping[str, tuple[str, ...]] = {
    "": ("い", "え", "あ", "お", "う"),
    "s": ("すぃ", "せ", "さ", "そ", "す"),
    "z": ("ずぃ", "ぜ", "ざ", "ぞ", "ず"),
    "sh": ("し", "しぇ", "しゃ", "しょ", "しゅ"),
    "f": ("ふぃ", "ふぇ", "ふぁ", "ふぉ", "ふ"),
    "v": ("ゔぃ", "ゔぇ", "ゔぁ", "ゔぉ", "ゔ"),
    "h": ("ひ", "へ", "は", "ほ", "ふ"),
    "t": ("てぃ", "て", "た", "と", "とぅ"),
    "k": ("き", "け", "か", "こ", "く"),
    "p": ("ぴ", "ぺ", "ぱ", "ぽ", "ぷ"),
    "d": ("でぃ", "で", "だ", "ど", "どぅ"),
    "g": ("ぎ", "げ", "が", "ご", "ぐ"),
    "b": ("び", "べ", "ば", "ぼ", "ぶ"),
    "ch": ("ち", "ちぇ", "ちゃ", "ちょ", "ちゅ"),
    "m": ("み", "め", "ま", "も", "む"),
    "n": ("に", "ね", "な", "の", "ぬ"),
    "l": ("り", "れ", "ら", "ろ", "る"),
    "r": ("り", "れ", "ら", "ろ", "る"),
    "w": ("うぃ", "うぇ", "わ", "うぉ", "う"),
    "y": ("い", "いぇ", "や", "よ", "ゆ"),
}


@dataclass(frozen=True)
class _Words:
    """Words as they were sung once, from `_LEAD_SECONDS` before the first note on."""

    starts_seconds: NDArray[np.float64]
    """Of the notes, from the first one."""
    level: NDArray[np.float32]
    """Spectral envelope ``[frames, bins]``."""
    voiced: NDArray[np.float64]
    """1 where there is a tone, else 0."""


class Repertoire:
    """Words that were sung before in the song: they come back with the chorus, in doubles and in harmonies.

    Sinsy takes longer than everything else together, so they are not sung again.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], list[_Words]] = {}

    def words(self, phrase: Phrase, sing: Callable[[Phrase], _Words]) -> _Words:
        """The phrase's words, from memory if they were sung in nearly this rhythm."""
        alike = self._known.setdefault(tuple(kana(sung.syllable) for sung in phrase), [])
        starts = _starts(phrase)
        for words in alike:
            if np.abs(words.starts_seconds - starts).max() < _ALIKE_SECONDS:
                return words
        alike.append(sing(phrase))
        return alike[-1]


class SinsySinger(Singer):
    """A `Singer` of sampled vowels; pitch, vibrato and timing are the own singer's."""

    def __init__(self, rng: np.random.Generator, voice: str, style: str, repertoire: Repertoire | None = None) -> None:
        super().__init__(rng, voice, style)
        low, high = {"low": (0.78, 0.88), "middle": (0.87, 0.98), "high": (0.97, 1.12)}[voice]
        self._head = between(rng, low, high)  # formants against those of the recorded voice
        self._airy_hz = between_log(rng, 3500.0, 9000.0)
        self._whisper = between_log(rng, 0.001, 0.03)
        self._lift = between(rng, -0.15, 0.35)  # of the treble, as a power of frequency
        self._pulses = Timbre(np.ones(400), phases=0.35 * np.arange(1, 401) ** 0.8)
        self._sinsy = _sinsy()
        self._repertoire = repertoire or Repertoire()

    def _phrase(self, phrase: Phrase, first_seconds: float) -> Samples:
        seconds = phrase[-1].note.start_seconds + phrase[-1].note.seconds + 0.4 - first_seconds
        frames = self._score(phrase, first_seconds, int(np.ceil(seconds / FRAME_SECONDS)))
        count = len(frames.pitch)
        gains, voiced = self._envelope(phrase, first_seconds, count)
        at, grid = np.arange(count * filters.HOP) / filters.HOP, np.arange(count)
        frequency = 440.0 * 2.0 ** ((np.interp(at, grid, frames.pitch) - 69.0) / 12.0)
        phase = phase_of(frequency, between(self._rng, 0.0, 1.0))
        tone = self._pulses.sound(phase, float(frequency.max()), 17000.0)
        # harmonics of amplitude 1 stand closer the lower the note; this gives all notes the noise's power per hertz
        tone *= np.sqrt(4.0 * frequency / SAMPLE_RATE).astype(np.float32)
        hz = filters.frame_bins_hz().astype(np.float32)
        breath = np.float32(self._whisper) + (1.0 - np.float32(self._whisper)) / (
            1.0 + (np.float32(self._airy_hz) / np.maximum(hz, 1.0)) ** 6
        )
        tonal = np.clip(voiced[:, None] * (1.0 - breath), 0.0, 1.0)
        sung = filters.shape_frames(tone, gains * np.sqrt(tonal))
        return sung + filters.shape_frames(noise(self._rng, len(tone)), gains * np.sqrt(1.0 - tonal))

    def _envelope(
        self, phrase: Phrase, first_seconds: float, count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Gains ``[frames, bins]`` of the recorded voice, and how much of each frame is voiced, in [0, 1]."""
        words = self._repertoire.words(phrase, self._words)
        hz = filters.frame_bins_hz()
        source = hz / self._head / hz[1]
        index = np.minimum(source.astype(np.int64), len(hz) - 2)
        share = np.clip(source - index, 0.0, 1.0).astype(np.float32)
        warped = words.level[:, index] * (1.0 - share) + words.level[:, index + 1] * share
        warped *= ((np.maximum(hz, 200.0) / 1000.0) ** self._lift).astype(np.float32)
        gains, voiced = np.zeros((count, len(hz)), dtype=np.float32), np.zeros(count)
        first = max(0, round((phrase[0].note.start_seconds - _LEAD_SECONDS - first_seconds) / FRAME_SECONDS))
        last = min(count, first + len(warped))
        gains[first:last] = warped[: last - first]
        voiced[first:last] = words.voiced[: last - first]
        return gains, np.clip(filters.spread_evenly(voiced, 3), 0.0, 1.0).astype(np.float32)

    def _words(self, phrase: Phrase) -> _Words:
        sung, rate = self._sung(_score_of(phrase, phrase[0].note.start_seconds - _LEAD_SECONDS))
        line = np.ascontiguousarray(soxr.resample(sung, rate, SAMPLE_RATE), dtype=np.float64)
        world = extension("pyworld", "pyworld")
        pitch_hz, places = world.dio(
            line, SAMPLE_RATE, f0_floor=_FLOOR_HZ, f0_ceil=_CEILING_HZ, frame_period=1000.0 * FRAME_SECONDS, speed=8
        )
        power = world.cheaptrick(line, pitch_hz, places, SAMPLE_RATE, f0_floor=_FLOOR_HZ, fft_size=filters.FRAME)
        return _Words(_starts(phrase), np.sqrt(power).astype(np.float32), (pitch_hz > 0.0).astype(np.float64))

    def _sung(self, score: str) -> tuple[NDArray[np.float64], int]:
        """What Sinsy sings; its samples reach to about 2¹⁵."""
        with tempfile.TemporaryDirectory(prefix="iseparate-") as folder:
            path = Path(folder) / "score.xml"
            path.write_text(score, encoding="utf-8")
            if not self._sinsy.loadScoreFromMusicXML(str(path)):
                raise AudioReadError("Sinsy refuses a phrase of the band; install pysinsy anew")
        try:
            self._sinsy.setAlpha(_WARPING)
            sung, rate = self._sinsy.synthesize()
        finally:
            self._sinsy.clearScore()
        return np.asarray(sung, dtype=np.float64) / 32768.0, int(rate)


def _starts(phrase: Phrase) -> NDArray[np.float64]:
    return np.array([sung.note.start_seconds - phrase[0].note.start_seconds for sung in phrase])


def kana(syllable: Syllable) -> str:
    """What comes closest in Japanese; what would close the syllable is not sung."""
    return _KANA[syllable.onset][_VOWELS[syllable.vowel]]


def _score_of(phrase: Phrase, first_seconds: float) -> str:
    """A phrase as MusicXML, a measure for each note or rest, so that any length is a whole number of beats."""
    centre = float(np.median([sung.note.pitch for sung in phrase]))
    shift = 0.5 * (_LOWEST + _HIGHEST) - centre
    measures: list[str] = []
    done = 0
    for number, sung in enumerate(phrase):
        start = max(done, round((sung.note.start_seconds - first_seconds) / _UNIT_SECONDS))
        following = phrase[number + 1].note.start_seconds if number + 1 < len(phrase) else np.inf
        end_seconds = sung.note.start_seconds + sung.note.seconds
        if following - end_seconds < _LEGATO_SECONDS:
            end_seconds = following
        units = max(2, round((end_seconds - first_seconds) / _UNIT_SECONDS) - start)
        if start > done:
            measures.append(_measure(len(measures), start - done, "<rest/>", ""))
        pitch = int(np.clip(round(sung.note.pitch + shift), _LOWEST, _HIGHEST))
        step = _STEPS[pitch % 12]
        altered = "<alter>1</alter>" if step.endswith("#") else ""
        words = f"<pitch><step>{step[0]}</step>{altered}<octave>{pitch // 12 - 1}</octave></pitch>"
        measures.append(_measure(len(measures), units, words, kana(sung.syllable)))
        done = start + units
    measures.append(_measure(len(measures), _REST_UNITS, "<rest/>", ""))
    return (
        '<?xml version="1.0" encoding="UTF-8"?><score-partwise version="2.0"><part-list><score-part id="P1">'
        f'<part-name>voice</part-name></score-part></part-list><part id="P1">{"".join(measures)}</part>'
        "</score-partwise>"
    )


def _measure(number: int, units: int, what: str, word: str) -> str:
    first = number == 0
    divisions = f"<divisions>{_UNITS_PER_QUARTER}</divisions><key><fifths>0</fifths></key>" if first else ""
    tempo = f'<direction><sound tempo="{_TEMPO}"/></direction>' if first else ""
    time = f"<time><beats>{units}</beats><beat-type>{4 * _UNITS_PER_QUARTER}</beat-type></time>"
    lyric = f"<lyric><syllabic>single</syllabic><text>{word}</text></lyric>" if word else ""
    return (
        f'<measure number="{number + 1}"><attributes>{divisions}{time}</attributes>{tempo}'
        f"<note>{what}<duration>{units}</duration><voice>1</voice>{lyric}</note></measure>"
    )


def _sinsy() -> Any:
    """Sinsy with its voice: a new one for each singer, since it keeps state."""
    folder = package_folder("pysinsy")
    assert folder is not None
    sinsy = extension("pysinsy", "sinsy").Sinsy()
    voice = next(iter((folder / "htsvoice").glob("*.htsvoice")), None)
    if voice is None or not (sinsy.setLanguages("j", str(folder / "_dic")) and sinsy.loadVoices(str(voice))):
        raise AudioReadError("Sinsy cannot read its voice; install pysinsy anew")
    return sinsy
