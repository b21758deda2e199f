"""What the three publications of MUSDB18 have in common.

Source of the facts: the configuration ``musdb/configs/mus.yaml`` of the package musdb 0.4.3 (order of the streams,
names of the files, validation tracks) and https://sigsep.github.io/datasets/musdb.html (counts, licence).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from iseparate.data.clip import Clip
from iseparate.data.folders import sound_files
from iseparate.data.track import Track

STEMS = ("drums", "bass", "other", "vocals")
SUBSETS = ("train", "valid", "test")
WHOLE = {"train": 86, "valid": 14, "test": 50}
STEM_SUFFIX = ".stem.mp4"
STREAMS = {"mixture": 0, "drums": 1, "bass": 2, "other": 3, "vocals": 4}

VALIDATION = frozenset(
    (
        "ANiMAL - Rockshow",
        "Actions - One Minute Smile",
        "Alexander Ross - Goodbye Bolero",
        "Clara Berry And Wooldog - Waltz For My Victims",
        "Fergessen - Nos Palpitants",
        "James May - On The Line",
        "Johnny Lokke - Promises & Lies",
        "Leaf - Summerghost",
        "Meaxic - Take A Step",
        "Patrick Talbot - A Reason To Leave",
        "Skelpolu - Human Mistakes",
        "Traffic Experiment - Sirens",
        "Triviul - Angelsaint",
        "Young Griffo - Pennies",
    )
)
"""Tracks of the folder ``train`` that validate: ``split="valid"`` in musdb."""

LICENCE = (
    "academic use only; 100 tracks from the Mixing Secrets library, 46 from MedleyDB (CC BY-NC-SA 4.0), 2 from Native "
    "Instruments, 2 from The Easton Ellises (CC BY-NC-SA 3.0)"
)


def subset_of(folder: str, name: str) -> str:
    """The subset of a track that lies in the folder ``train`` or ``test``."""
    return "valid" if folder == "train" and name in VALIDATION else folder


def stem_mp4_tracks(root: Path) -> Iterator[Track]:
    """Every ``{train,test}/NAME.stem.mp4``; OSError."""
    for folder in ("train", "test"):
        for path in stem_mp4_files(root / folder):
            name = path.name[: -len(STEM_SUFFIX)]
            clips = {stem: (Clip(path, STREAMS[stem]),) for stem in STEMS}
            yield Track(name, subset_of(folder, name), clips, (Clip(path, STREAMS["mixture"]),))


def stem_mp4_files(folder: Path) -> list[Path]:
    """The ``.stem.mp4`` files in a folder; none where it does not exist."""
    if not folder.is_dir():
        return []
    return [path for path in sound_files(folder, (".mp4",)) if path.name.lower().endswith(STEM_SUFFIX)]
