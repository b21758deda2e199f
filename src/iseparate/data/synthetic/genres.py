"""What each genre plays: tempo, grooves, bass lines, instruments.

A groove is a line per drum, a character per step: ``X`` accent, ``x`` stroke, ``o`` ghost, ``?`` maybe, ``.`` rest.
Sixteen steps make a bar of 4/4; twelve a bar of 6/8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Groove = Mapping[str, str]


@dataclass(frozen=True)
class Genre:
    """The habits of a genre; mappings give weights or probabilities."""

    name: str
    tempo_bpm: tuple[float, float]
    """Quarter notes a minute (dotted quarters in 6/8)."""
    grooves: tuple[Groove, ...]
    bass_lines: Mapping[str, float]
    bass_sounds: Mapping[str, float]
    harmony: Mapping[str, float]
    """Probability of each part, named ``role:instrument``."""
    modes: Mapping[str, float]
    kits: Mapping[str, float]
    swing: tuple[float, float] = (0.0, 0.0)
    """By what share of a step every second step comes late."""
    swing_chance: float = 1.0
    looseness_seconds: float = 0.006
    """Standard deviation of the players' timing."""
    voices: Mapping[str, float] = field(default_factory=lambda: {"sung": 0.9, "none": 0.1})
    sevenths: float = 0.25
    """Probability that chords have four notes."""
    sidechain: float = 0.0
    """Probability that the kick ducks bass and harmony."""
    percussion: float = 0.25
    layers: float = 0.2
    """Probability that a second instrument doubles a part."""
    automation: float = 0.15
    """Probability that a synthesiser's filter moves with the song's sections."""
    risers: float = 0.0
    """Probability of noise that rises into a chorus."""
    steps: int = 16
    loudness_db: float = -14.0
    """Where mastering aims; the mean level of the loud parts below full scale."""


_BACKBEAT = "....X.......X..."
_SOUL = {"finger": 0.6, "pick": 0.15, "slap": 0.15, "upright": 0.1}

GENRES: tuple[Genre, ...] = (
    Genre(
        "rock",
        (92, 168),
        (
            {"kick": "X.......x.x.....", "snare": _BACKBEAT, "hat": "X.x.X.x.X.x.X.x."},
            {"kick": "X.....x.x....?..", "snare": _BACKBEAT, "hat": "X.x.X.x.X.x.X.x."},
            {"kick": "X..x....x.x...?.", "snare": "....X..o.o..X...", "hat": "X.x.X.x.X.x.X.o."},
            {"kick": "X.x.....X.x.....", "snare": _BACKBEAT, "ride": "X.x.X.x.X.x.X.x."},
            {"kick": "X.......X.......", "snare": "....X.......X.x.", "floor": "x.x.x.x.x.x.x.x."},
        ),
        {"eighths": 0.45, "kick": 0.3, "roots": 0.15, "syncopated": 0.1},
        {"pick": 0.6, "finger": 0.3, "synth": 0.1},
        {
            "riff:distorted": 0.75,
            "strum:acoustic": 0.3,
            "comp:clean": 0.3,
            "comp:organ": 0.2,
            "comp:piano": 0.2,
            "pick:clean": 0.2,
            "pick:distorted": 0.1,
            "lead:distorted": 0.3,
            "pad:strings": 0.1,
        },
        {"major": 0.4, "minor": 0.35, "mixolydian": 0.15, "dorian": 0.1},
        {"acoustic": 1.0},
        sevenths=0.1,
        loudness_db=-11.0,
    ),
    Genre(
        "pop",
        (84, 132),
        (
            {"kick": "X.....x.x.......", "snare": _BACKBEAT, "hat": "x.x.x.x.x.x.x.x."},
            {"kick": "X...x...X...x...", "clap": _BACKBEAT, "hat": "..x...x...x...x."},
            {"kick": "X..x..x...x.?...", "snare": _BACKBEAT, "hat": "xoxoxoxoxoxoxoxo"},
            {"kick": "X.......X.x.....", "snare": _BACKBEAT, "clap": _BACKBEAT, "shaker": "xoxoxoxoxoxoxoxo"},
        ),
        {"roots": 0.3, "eighths": 0.25, "kick": 0.25, "syncopated": 0.2},
        {"finger": 0.35, "synth": 0.35, "sub": 0.2, "pick": 0.1},
        {
            "comp:piano": 0.4,
            "pad:synth": 0.45,
            "arp:pluck": 0.35,
            "strum:acoustic": 0.35,
            "comp:electric_piano": 0.2,
            "pad:strings": 0.25,
            "pick:clean": 0.25,
            "lead:synth": 0.2,
            "comp:clean": 0.25,
        },
        {"major": 0.6, "minor": 0.35, "mixolydian": 0.05},
        {"acoustic": 0.45, "electronic": 0.55},
        looseness_seconds=0.003,
        sidechain=0.25,
        loudness_db=-11.0,
        layers=0.35,
        automation=0.3,
        risers=0.25,
    ),
    Genre(
        "funk",
        (92, 122),
        (
            {"kick": "X.x...?...x..x..", "snare": "....X..o.o..X..o", "hat": "XxxxXxxxXxxxXxxx"},
            {"kick": "X..x..x....x..x.", "snare": "....X..o.o.oX...", "hat": "X.x.X.x.X.x.X.x."},
            {"kick": "X.....x..xx.....", "snare": ".o..X..o.o..X.o.", "hat": "x.xxx.xxx.xxx.xx"},
        ),
        {"sixteenths": 0.5, "syncopated": 0.3, "octaves": 0.2},
        {"slap": 0.4, "finger": 0.5, "synth": 0.1},
        {
            "chop:clean": 0.7,
            "comp:clav": 0.45,
            "pick:clean": 0.25,
            "stab:brass": 0.5,
            "comp:organ": 0.25,
            "comp:electric_piano": 0.35,
            "lead:synth": 0.15,
        },
        {"dorian": 0.5, "mixolydian": 0.3, "minor": 0.2},
        {"acoustic": 1.0},
        swing=(0.05, 0.25),
        swing_chance=0.5,
        sevenths=0.8,
        percussion=0.45,
    ),
    Genre(
        "house",
        (116, 132),
        (
            {"kick": "X...X...X...X...", "clap": _BACKBEAT, "open": "..X...X...X...X."},
            {"kick": "X...X...X...X...", "clap": _BACKBEAT, "open": "..x...x...x...x.", "hat": "xoxoxoxoxoxoxoxo"},
            {"kick": "X...X...X...X..?", "snare": _BACKBEAT, "hat": "..X...X...X...X.", "shaker": "xoxxxoxxxoxxxoxx"},
        ),
        {"offbeat": 0.4, "syncopated": 0.3, "octaves": 0.15, "sixteenths": 0.15},
        {"synth": 0.6, "sub": 0.25, "fm": 0.15},
        {
            "pad:synth": 0.55,
            "arp:pluck": 0.5,
            "stab:synth": 0.45,
            "comp:piano": 0.25,
            "lead:synth": 0.35,
            "stab:brass": 0.08,
            "arp:bell": 0.15,
        },
        {"minor": 0.65, "dorian": 0.25, "major": 0.1},
        {"electronic": 1.0},
        looseness_seconds=0.0008,
        voices={"sung": 0.55, "chant": 0.2, "none": 0.25},
        sevenths=0.5,
        sidechain=0.75,
        percussion=0.4,
        loudness_db=-10.0,
        layers=0.4,
        automation=0.6,
        risers=0.6,
    ),
    Genre(
        "hip hop",
        (68, 98),
        (
            {"kick": "X......x..x.....", "snare": _BACKBEAT, "hat": "x.x.x.x.x.x.x.x."},
            {"kick": "X.x.......x..?..", "snare": "....X..o....X...", "hat": "x.x.x.xxx.x.x.x."},
            {"kick": "X.....x...x...x.", "clap": "........X.......", "hat": "x.x.x.xxx.xxx.x."},
            {
                "kick": "X..x.......x....",
                "clap": "........X.......",
                "snare": "........x.......",
                "hat": "xxxxxxxxxxxxxxxx",
            },
        ),
        {"kick": 0.6, "roots": 0.25, "syncopated": 0.15},
        {"808": 0.5, "sub": 0.25, "finger": 0.15, "upright": 0.1},
        {
            "comp:electric_piano": 0.4,
            "arp:bell": 0.35,
            "pad:strings": 0.25,
            "pad:synth": 0.3,
            "comp:piano": 0.35,
            "lead:synth": 0.2,
            "arp:nylon": 0.2,
        },
        {"minor": 0.7, "dorian": 0.2, "major": 0.1},
        {"electronic": 0.7, "acoustic": 0.3},
        swing=(0.08, 0.3),
        swing_chance=0.5,
        looseness_seconds=0.003,
        voices={"rap": 0.65, "sung": 0.3, "none": 0.05},
        sevenths=0.5,
        loudness_db=-11.0,
        automation=0.35,
        risers=0.1,
    ),
    Genre(
        "ballad",
        (60, 84),
        (
            {"kick": "X.......x.......", "stick": _BACKBEAT, "hat": "x.x.x.x.x.x.x.x."},
            {"kick": "X......x..x.....", "snare": _BACKBEAT, "hat": "x.x.x.x.x.x.x.x."},
            {"kick": "X.......x.....?.", "snare": _BACKBEAT, "ride": "x...x...x...x..."},
        ),
        {"roots": 0.6, "kick": 0.3, "syncopated": 0.1},
        {"finger": 0.75, "upright": 0.15, "sub": 0.1},
        {
            "comp:piano": 0.7,
            "pad:strings": 0.55,
            "strum:acoustic": 0.3,
            "arp:nylon": 0.3,
            "pad:synth": 0.25,
            "comp:electric_piano": 0.2,
            "pick:clean": 0.15,
            "lead:distorted": 0.1,
        },
        {"major": 0.65, "minor": 0.35},
        {"acoustic": 0.85, "electronic": 0.15},
        looseness_seconds=0.009,
        sevenths=0.4,
        loudness_db=-15.0,
    ),
    Genre(
        "reggae",
        (64, 90),
        (
            {"kick": "........X.......", "stick": "........X.......", "hat": "x.xox.x.x.xox.x."},
            {"kick": "X...x...X...x...", "stick": "........X.......", "hat": "..x...x...x...x."},
            {"kick": "X.......X.......", "snare": "....X.......X..o", "hat": "x.x.x.x.x.x.x.x."},
        ),
        {"melodic": 0.8, "syncopated": 0.2},
        {"finger": 0.6, "sub": 0.3, "upright": 0.1},
        {
            "skank:clean": 0.85,
            "skank:piano": 0.35,
            "bubble:organ": 0.6,
            "stab:brass": 0.3,
            "comp:clav": 0.2,
            "pick:clean": 0.3,
            "lead:synth": 0.1,
        },
        {"major": 0.45, "minor": 0.4, "dorian": 0.15},
        {"acoustic": 1.0},
        swing=(0.0, 0.3),
        looseness_seconds=0.007,
        percussion=0.4,
    ),
    Genre(
        "metal",
        (96, 180),
        (
            {"kick": "XxXxXxXxXxXxXxXx", "snare": _BACKBEAT, "ride": "x...x...x...x..."},
            {"kick": "X..xX..xX..xX..x", "snare": "........X.......", "crash": "x...x...x...x..."},
            {"kick": "X.xx..x.X.xx..x.", "snare": _BACKBEAT, "hat": "X...X...X...X..."},
            {"kick": "x...x...x...x...", "snare": "..X...X...X...X.", "hat": "x.x.x.x.x.x.x.x."},
        ),
        {"riff": 0.7, "eighths": 0.3},
        {"pick": 0.9, "finger": 0.1},
        {"riff:distorted": 1.0, "lead:distorted": 0.45, "pad:strings": 0.15, "pad:synth": 0.1},
        {"minor": 0.6, "phrygian": 0.4},
        {"acoustic": 1.0},
        looseness_seconds=0.004,
        voices={"sung": 0.7, "shout": 0.2, "none": 0.1},
        sevenths=0.0,
        percussion=0.02,
        loudness_db=-10.0,
        layers=0.1,
    ),
    Genre(
        "latin",
        (84, 124),
        (
            {
                "kick": "X..x..x.X..x..x.",
                "stick": "..x..x..x..x..x.",
                "shaker": "XoxoXoxoXoxoXoxo",
                "conga": "..o.x.xx..o.x.xx",
            },
            {"kick": "x...x...x...x...", "snare": "...x..x....x..x.", "hat": "..x...x...x...x."},
            {
                "kick": "...x..x....x..x.",
                "clave": "X..X..X...X.X...",
                "conga": "x.o.X.xxx.o.X.xx",
                "cowbell": "X.x.X.x.X.x.X.x.",
            },
        ),
        {"tumbao": 0.6, "syncopated": 0.2, "roots": 0.2},
        {"upright": 0.4, "finger": 0.4, "sub": 0.2},
        {
            "montuno:piano": 0.6,
            "arp:nylon": 0.4,
            "stab:brass": 0.45,
            "strum:acoustic": 0.3,
            "lead:synth": 0.15,
            "comp:organ": 0.1,
        },
        {"minor": 0.55, "major": 0.35, "dorian": 0.1},
        {"acoustic": 0.75, "electronic": 0.25},
        sevenths=0.5,
        percussion=0.9,
    ),
    Genre(
        "jazz",
        (84, 176),
        (
            {
                "kick": "o...o...o...o...",
                "ride": "X...X..xX...X..x",
                "pedal": "....x.......x...",
                "snare": "?......?...?....",
            },
            {
                "kick": "o...?...o...?...",
                "ride": "X...X..xX...X..x",
                "pedal": "....x.......x...",
                "stick": "............x...",
            },
        ),
        {"walking": 0.9, "roots": 0.1},
        {"upright": 0.85, "finger": 0.15},
        {
            "comp:piano": 0.6,
            "comp:clean": 0.35,
            "comp:electric_piano": 0.25,
            "lead:reed": 0.6,
            "stab:brass": 0.2,
            "comp:organ": 0.15,
        },
        {"major": 0.5, "dorian": 0.3, "minor": 0.2},
        {"acoustic": 1.0},
        swing=(0.25, 0.4),
        looseness_seconds=0.009,
        voices={"sung": 0.6, "none": 0.4},
        sevenths=1.0,
        loudness_db=-17.0,
    ),
    Genre(
        "six eight",
        (60, 92),
        (
            {"kick": "X.......?...", "snare": "......X.....", "hat": "X.x.x.X.x.x."},
            {"kick": "X...x...x...", "snare": "......X.....", "ride": "X.x.x.X.x.x."},
            {"kick": "X.........x.", "stick": "......X.....", "shaker": "XoxoxoXoxoxo"},
        ),
        {"roots": 0.6, "kick": 0.4},
        _SOUL,
        {
            "arp:clean": 0.45,
            "strum:acoustic": 0.4,
            "comp:piano": 0.45,
            "pad:strings": 0.35,
            "comp:organ": 0.3,
            "lead:distorted": 0.15,
        },
        {"major": 0.55, "minor": 0.45},
        {"acoustic": 1.0},
        looseness_seconds=0.008,
        steps=12,
    ),
)
