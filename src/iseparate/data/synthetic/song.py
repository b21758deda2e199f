"""The song on paper: key, chords, form and time, before anyone plays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from iseparate.data.synthetic.genres import GENRES, Genre, Groove
from iseparate.data.synthetic.sounds import between, chance, pick, stream

MODES: Mapping[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
}
_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")

# Degrees of common progressions, one a bar (0 is the tonic).
_PROGRESSIONS = (
    (0, 4, 5, 3),
    (5, 3, 0, 4),
    (0, 5, 3, 4),
    (0, 3, 4, 3),
    (0, 3, 0, 4),
    (1, 4, 0, 0),
    (0, 6, 3, 0),
    (3, 0, 4, 5),
    (0, 2, 3, 4),
    (0, 5, 1, 4),
    (0, 6, 5, 6),
    (0, 0, 3, 4),
    (3, 4, 0, 5),
    (0, 0, 0, 0),
    (0, 0, 3, 3),
    (0, 0, 0, 0, 3, 3, 0, 0, 4, 3, 0, 4),  # twelve bars of blues
)

# A section's usual length in bars and how loud and full it is.
_SECTIONS: Mapping[str, tuple[tuple[int, ...], tuple[float, float]]] = {
    "intro": ((4, 8), (0.3, 0.7)),
    "verse": ((8, 8, 16), (0.45, 0.7)),
    "build": ((4,), (0.55, 0.8)),
    "chorus": ((8,), (0.8, 1.0)),
    "bridge": ((4, 8), (0.35, 0.8)),
    "solo": ((8,), (0.7, 1.0)),
    "break": ((2, 4), (0.1, 0.35)),
    "outro": ((4, 8), (0.4, 0.9)),
}
_FORMS = (
    ("intro", "verse", "chorus", "verse", "chorus", "bridge", "chorus", "outro"),
    ("intro", "verse", "build", "chorus", "verse", "build", "chorus", "solo", "chorus", "outro"),
    ("verse", "chorus", "verse", "chorus", "break", "chorus", "chorus"),
    ("intro", "verse", "verse", "chorus", "solo", "verse", "chorus", "outro"),
    ("intro", "build", "chorus", "break", "verse", "build", "chorus", "outro"),
)


@dataclass(frozen=True)
class Chord:
    """A chord: its root's pitch class, its notes in semitones above the root, and the notes around it."""

    root: int
    tones: tuple[int, ...]
    scale: tuple[int, ...]
    """Pitch classes of the key."""

    def nearest(self, pitch: float) -> int:
        """The chord's note closest to a MIDI pitch."""
        return nearest_pitch(pitch, tuple((self.root + tone) % 12 for tone in self.tones))

    def voicing(self, centre: float) -> list[int]:
        """The chord's notes around a MIDI pitch, low to high."""
        low = centre - 6.0
        return sorted(int(low + (self.root + tone - low) % 12) for tone in self.tones)


@dataclass(frozen=True)
class Section:
    """A stretch of bars that belong together."""

    kind: str
    first_bar: int
    bars: int
    energy: float
    """In [0, 1]."""


@dataclass(frozen=True)
class Song:
    """What all players read."""

    seed: int
    seconds: float
    genre: Genre
    tempo_bpm: float
    key: int
    mode: str
    swing: float
    sections: tuple[Section, ...]
    chords: tuple[tuple[Chord, Chord], ...]
    """Two a bar."""
    bar_starts_seconds: tuple[float, ...]
    """One more than there are bars."""
    grooves: Mapping[str, Groove]
    """By kind of section."""

    @property
    def key_name(self) -> str:
        """Tonic and mode in words."""
        return f"{_NAMES[self.key]} {self.mode}"

    @property
    def bars(self) -> int:
        """How many there are."""
        return len(self.chords)

    def step_seconds(self, bar: int) -> float:
        """Length of a step of a bar."""
        return (self.bar_starts_seconds[bar + 1] - self.bar_starts_seconds[bar]) / self.genre.steps

    def when(self, bar: int, step: float) -> float:
        """Seconds at which a step of a bar is due, swing included."""
        late = self.swing if int(step) % 2 else 0.0
        return self.bar_starts_seconds[bar] + (step + late) * self.step_seconds(bar)

    def chord(self, bar: int, step: float) -> Chord:
        """The chord that sounds at a step."""
        return self.chords[bar][0 if step < self.genre.steps / 2 else 1]

    def section(self, bar: int) -> Section:
        """The section a bar is in."""
        return next(part for part in self.sections if part.first_bar <= bar < part.first_bar + part.bars)

    def groove(self, bar: int) -> Groove:
        """The drums' pattern in a bar."""
        return self.grooves[self.section(bar).kind]

    def playing(self, part: str, presence: float) -> list[bool]:
        """For each bar whether a part plays; full sections have more players, and equal sections equal ones."""
        rng = stream(self.seed, "playing", part)
        threshold = {kind: rng.random() for kind in _SECTIONS}
        plays = []
        for section in self.sections:
            likely = presence + (1.0 - presence) * (section.energy - 0.4) * 1.2
            plays += [threshold[section.kind] < likely] * section.bars
        return plays


def compose(seed: int, seconds: float) -> Song:
    """Write a song of at least `seconds`; a short one is a stretch out of the middle of a whole form."""
    rng = stream(seed, "song")
    genre = pick(rng, GENRES)
    key = int(rng.integers(12))
    mode = weighted(rng, genre.modes)
    tempo_bpm = between(rng, *genre.tempo_bpm)
    beats = 4 if genre.steps == 16 else 2
    bar_seconds = beats * 60.0 / tempo_bpm
    needed = int(np.ceil(seconds / (0.97 * bar_seconds))) + 1
    sections = _form(rng, needed, whole=seconds > 60.0)
    bars = sum(section.bars for section in sections)
    # people rush and drag a little from bar to bar; machines do not
    drift = genre.looseness_seconds * rng.standard_normal(bars) * 0.5 / bar_seconds
    starts = np.concatenate([[0.0], np.cumsum(bar_seconds * (1.0 + np.clip(drift, -0.02, 0.02)))])
    sevenths = chance(rng, genre.sevenths)
    progressions = {kind: _progression(rng) for kind in _SECTIONS}
    if chance(rng, 0.3):
        progressions["verse"] = progressions["chorus"]
    chords = tuple(
        _bar_of_chords(progressions[section.kind], bar, key, mode, sevenths)
        for section in sections
        for bar in range(section.bars)
    )
    first, second = pick(rng, genre.grooves), pick(rng, genre.grooves)
    return Song(
        seed=seed,
        seconds=seconds,
        genre=genre,
        tempo_bpm=tempo_bpm,
        key=key,
        mode=mode,
        swing=between(rng, *genre.swing) if chance(rng, genre.swing_chance) else 0.0,
        sections=tuple(sections),
        chords=chords,
        bar_starts_seconds=tuple(float(start) for start in starts),
        grooves={kind: second if kind in ("chorus", "solo") else first for kind in _SECTIONS},
    )


def _form(rng: np.random.Generator, bars: int, whole: bool) -> list[Section]:
    energies = {kind: between(rng, *energy) for kind, (_, energy) in _SECTIONS.items()}
    lengths = {kind: int(rng.choice(choices)) for kind, (choices, _) in _SECTIONS.items()}
    kinds = list(pick(rng, _FORMS))
    if not whole:
        kinds = kinds[int(rng.integers(len(kinds))) :] + kinds
    sections: list[Section] = []
    filled = 0
    while filled < bars:
        kind = kinds[len(sections) % len(kinds)]
        length = min(lengths[kind], bars - filled)
        sections.append(Section(kind, filled, length, energies[kind]))
        filled += length
    return sections


def _progression(rng: np.random.Generator) -> tuple[tuple[int, int], ...]:
    """Degrees of the first and second half of each bar."""
    if chance(rng, 0.8):
        degrees = pick(rng, _PROGRESSIONS)
    else:
        degrees = tuple(int(degree) for degree in rng.choice((0, 1, 2, 3, 4, 5), 4))
    slow = chance(rng, 0.15)
    halves = chance(rng, 0.2)
    bars = []
    for place, degree in enumerate(degrees):
        later = degrees[(place + 1) % len(degrees)] if halves and place % 2 else degree
        bars += [(degree, later)] * (2 if slow else 1)
    return tuple(bars)


def _bar_of_chords(
    progression: tuple[tuple[int, int], ...], bar: int, key: int, mode: str, sevenths: bool
) -> tuple[Chord, Chord]:
    first, second = (_chord(degree, key, mode, sevenths) for degree in progression[bar % len(progression)])
    return first, second


def _chord(degree: int, key: int, mode: str, sevenths: bool) -> Chord:
    scale = MODES[mode]
    steps = (0, 2, 4, 6) if sevenths else (0, 2, 4)
    heights = [scale[(degree + step) % 7] + 12 * ((degree + step) // 7) for step in steps]
    return Chord(
        root=(key + heights[0]) % 12,
        tones=tuple(height - heights[0] for height in heights),
        scale=tuple((key + tone) % 12 for tone in scale),
    )


def nearest_pitch(pitch: float, classes: tuple[int, ...]) -> int:
    """The MIDI note nearest to `pitch` whose pitch class is one of `classes`."""
    candidates = [round(pitch) + offset for offset in range(-6, 7)]
    return min((note for note in candidates if note % 12 in classes), key=lambda note: abs(note - pitch))


def scale_step(pitch: int, steps: int, classes: tuple[int, ...]) -> int:
    """Walk `steps` notes up or down a scale from one of its notes."""
    while steps:
        pitch += 1 if steps > 0 else -1
        if pitch % 12 in classes:
            steps += -1 if steps > 0 else 1
    return pitch


def weighted(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    """Draw a name by weight."""
    shares = np.array(list(weights.values()))
    return str(rng.choice(list(weights), p=shares / shares.sum()))
