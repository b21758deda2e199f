"""Which programs and keys of General MIDI stand for what the band plays (General MIDI System, Level 1)."""

from __future__ import annotations

from collections.abc import Mapping

# Numbers count from 0.
INSTRUMENTS: Mapping[str, tuple[int, ...]] = {
    "piano": (0, 0, 1, 2, 3),
    "electric_piano": (4, 5),
    "bell": (8, 9, 10, 11, 12, 14),
    "organ": (16, 17, 18, 19),
    "clav": (6, 7),
    "acoustic": (25,),
    "nylon": (24,),
    "clean": (26, 27, 27),
    "distorted": (29, 30),
    "synth": (50, 62, 63, 80, 81, 90),
    "pluck": (11, 12, 45, 46, 107, 108),
    "brass": (56, 57, 61, 61, 62),
    "strings": (44, 48, 49, 51),
    "reed": (21, 22, 64, 65, 66, 67, 68, 71, 73, 75),
}
"""Programs that stand for the band's kinds of instruments."""

ROLES: Mapping[tuple[str, str], tuple[int, ...]] = {
    ("synth", "pad"): (50, 51, 88, 89, 90, 91, 92, 93, 94, 95),
    ("synth", "lead"): (80, 81, 82, 84, 85, 87),
    ("strings", "lead"): (40, 41, 42),
    ("strings", "stab"): (48, 55, 45),
    ("brass", "lead"): (56, 57, 59, 60),
    ("bell", "lead"): (9, 11, 12, 78),
}
"""Programs for a kind in a certain role, where others suit it better."""

CLEAN_GUITAR, MUTED_GUITAR = 27, 28
GUITARS = frozenset({"clean", "distorted"})

BASSES: Mapping[str, tuple[int, ...]] = {
    "finger": (33, 33, 33, 35),
    "pick": (34,),
    "upright": (32,),
    "slap": (36,),
    "synth": (38, 39),
    "fm": (38, 39),
}
POPPED_BASS = 37

KITS: Mapping[str, tuple[int, ...]] = {"acoustic": (0, 0, 1, 8, 9, 16, 32, 40), "electronic": (24, 25, 25)}
"""Programs of the drum bank, as far as both SoundFonts have them."""

PIECES: Mapping[str, tuple[int, ...]] = {
    "kick": (35, 36),
    "stick": (37,),
    "snare": (38, 40),
    "clap": (39,),
    "floor": (41, 43),
    "hat": (42,),
    "pedal": (44,),
    "mid_tom": (45, 47),
    "open": (46,),
    "high_tom": (48, 50),
    "crash": (49, 57),
    "ride": (51, 59),
    "tambourine": (54,),
    "cowbell": (56,),
    "conga": (62, 63, 64),
    "shaker": (70, 82),
    "clave": (75,),
}
"""Keys of the drums."""
