"""One folder for each song, with the stems in files of usual names.

Layout: ``SONG/FILE`` or ``SUBSET/SONG/FILE``, where SUBSET is ``train``, ``valid`` or ``test`` (or ``training``,
``validation``, ``val``, ``testing``). Any sound format, rate and number of channels.

A file's stem is its name without case, digits and punctuation: ``Vocals30.mp3``, ``01 - vocals.wav`` and ``vocal
2.flac`` are vocals, and are summed. Only speakers are told apart by their numbers: ``Speaker 1.wav``, ``spk1.wav``
and ``s1.wav`` are speaker1, ``speaker_02.wav`` is speaker2. `ALIASES` are the other spellings that are known; any
other name is a stem of that name. The files of a folder inside the song's folder are one stem of the folder's name:
``SONG/other/piano.wav`` and ``SONG/other/organ.wav`` sum to ``other``. (A song without files of its own needs one
such folder of a known name.) One recording in two formats is read in the better one.

``mixture`` is the sum of the stems if no file has its name. A file that is named ``accompaniment`` or the like is a
stem only where there is no other but ``vocals``: elsewhere it would repeat them.

Licence: whatever the owner of the songs allows.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from iseparate.data.clip import Clip
from iseparate.data.folders import SUFFIXES, sound_files, subfolders
from iseparate.data.kinds import PassedOver, dataset
from iseparate.data.track import ACCOMPANIMENT, MIXTURE, VOCALS, Track

ALIASES = {
    VOCALS: ("vocal", "vox", "voice", "voices", "singing", "lead vocals", "backing vocals", "acapella", "a cappella"),
    "drums": ("drum", "drum kit", "drumkit"),
    "bass": ("bass guitar", "bassguitar"),
    "other": ("others", "rest"),
    "guitar": ("guitars",),
    "piano": ("pianos",),
    ACCOMPANIMENT: ("instrumental", "instrumentals", "no vocals", "backing track", "karaoke"),
    MIXTURE: ("mix", "full mix", "master"),
}
"""Spellings of each name, after `stem_name` has taken case, digits and punctuation away."""

_CANONICAL = {alias: name for name, aliases in ALIASES.items() for alias in (name, *aliases)}
_SPEAKER = re.compile(r"(?:\d+[\W_]+)?(?:speaker|spk|s)[\W_]*0*(\d+)")
"""Maybe a number in a list, then somebody of whom nothing is known but the number."""
_SUBSETS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "test": "test",
    "testing": "test",
}


def stem_name(text: str) -> str:
    """The stem that a file or folder of this name (without its ending) holds."""
    plain = unicodedata.normalize("NFKC", text).lower()
    if speaker := _SPEAKER.fullmatch(plain):
        return f"speaker{int(speaker[1])}"
    words = " ".join(re.findall(r"[^\W\d_]+", plain))
    return _CANONICAL.get(words, words.replace(" ", "_")) or text


def _recognises(root: Path) -> bool:
    return root.is_dir() and any(isinstance(found, Track) for found in folder(root))


@dataset(
    "folder",
    sought="a folder for each song with sound files named after the stems, such as vocals.wav and drums.wav",
    recognises=_recognises,
    subsets=("train", "valid", "test"),
    precedence=100,
)
def folder(root: Path) -> Iterator[Track | PassedOver]:
    """Every song folder, those of subsets after those beside them."""
    inside: list[tuple[str, Path]] = []
    for path in subfolders(root):
        subset = _SUBSETS.get(path.name.lower())
        if subset and not sound_files(path):
            inside += [(subset, song) for song in subfolders(path)]
        else:
            yield _track(path, "")
    for subset, path in inside:
        yield _track(path, subset)


def _track(song: Path, subset: str) -> Track | PassedOver:
    clips: dict[str, list[Clip]] = {}
    for path in _best_formats(sound_files(song)):
        clips.setdefault(stem_name(path.stem), []).append(Clip(path))
    parts = {part: stem_name(part.name) for part in subfolders(song)}
    if not clips and ALIASES.keys().isdisjoint(parts.values()):
        parts = {}  # folders of songs, of which the root would be one level further down
    for part, name in parts.items():
        files = _best_formats(sound_files(part))
        if files and name not in clips:
            clips[name] = [Clip(path) for path in files]
    mixture = tuple(clips.pop(MIXTURE, ()))
    if set(clips) - {VOCALS, ACCOMPANIMENT}:
        clips.pop(ACCOMPANIMENT, None)
    if not clips:
        return PassedOver(song, "holds a mixture but no stem" if mixture else "holds no sound file")
    if len(clips) == 1 and not mixture:
        return PassedOver(song, f"holds only one stem, {next(iter(clips))}, and no mixture")
    return Track(song.name, subset, {name: tuple(clips[name]) for name in sorted(clips)}, mixture)


def _best_formats(paths: list[Path]) -> list[Path]:
    """Leave one of the files that differ in their ending only."""
    best: dict[str, Path] = {}
    for path in sorted(paths, key=lambda path: SUFFIXES.index(path.suffix.lower())):
        best.setdefault(path.stem, path)
    return sorted(best.values())
