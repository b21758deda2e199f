"""The four layouts of the community's trainer, ZFTurbo's Music-Source-Separation-Training.

Source of the facts: ``docs/dataset_types.md`` and ``dataset.py`` of github ZFTurbo/Music-Source-Separation-Training.
Its trainer reads ``.wav`` and ``.flac`` files; the names of files, folders and the CSV's first column are the stems.

========== ==============================================================================================  ==========
kind       layout                                                                                          whole songs
========== ==============================================================================================  ==========
``msst-1`` ``SONG/STEM.wav``; a validation set has ``SONG/mixture.wav`` too (here: else the sum)            yes
``msst-2`` ``STEM/FILE.wav``: files of unrelated songs                                                      no
``msst-3`` a CSV file with the columns ``instrum`` (or ``type``) and ``path``: unrelated songs              no
``msst-4`` as ``msst-1``; training takes all stems of an excerpt from one place of one song                 yes
========== ==============================================================================================  ==========

Licence: whatever the owner of the songs allows.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from iseparate.data.clip import Clip
from iseparate.data.folders import sound_files, subfolders
from iseparate.data.kinds import PassedOver, dataset
from iseparate.data.track import MIXTURE, Track
from iseparate.errors import UsageError

_SUFFIXES = (".flac", ".wav")
_SONGS = "a folder for each song with STEM.wav or STEM.flac files, such as vocals.wav"
_LOOSE = "its files are stems of unrelated songs, which have no mixture to separate"
_MAX_CSV_BYTES = 256 * 2**20


@dataset("msst-1", sought=_SONGS)
def songs(root: Path) -> Iterator[Track | PassedOver]:
    """Type 1, for random mixtures."""
    return _songs(root)


@dataset("msst-4", sought=_SONGS, mixing="aligned")
def aligned_songs(root: Path) -> Iterator[Track | PassedOver]:
    """Type 4: the same files, for mixtures as they were."""
    return _songs(root)


def _is_pool(root: Path) -> bool:
    """Tell stems in folders from songs in folders: by the names of the folders."""
    from iseparate.data.datasets.folder import ALIASES

    filled = [path for path in subfolders(root) if sound_files(path, _SUFFIXES)] if root.is_dir() else []
    return len(filled) > 1 and all(path.name.lower() in ALIASES for path in filled)


@dataset(
    "msst-2",
    sought="a folder for each stem with .wav or .flac files, such as vocals/",
    recognises=_is_pool,
    mixing="random",
    training_only=_LOOSE,
)
def stem_folders(root: Path) -> Iterator[Track]:
    """Type 2: each file is a track of one stem."""
    for folder in subfolders(root):
        for path in sound_files(folder, _SUFFIXES):
            yield Track(f"{folder.name}/{path.name}", "", {folder.name: (Clip(path),)}, is_song=False)


@dataset(
    "msst-3",
    sought="a CSV file with the columns instrum (or type) and path",
    recognises=lambda root: root.suffix.lower() == ".csv" and root.is_file(),
    mixing="random",
    training_only=_LOOSE,
)
def csv_file(root: Path) -> Iterator[Track]:
    """Type 3: each row is a track of one stem. Relative paths count from the folder of the CSV file."""
    if root.stat().st_size > _MAX_CSV_BYTES:
        raise UsageError(f"{root} has {root.stat().st_size} bytes: expected a list of sound files; name another file.")
    seen: set[str] = set()
    try:
        with root.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            stem_column = next((name for name in ("instrum", "type") if name in columns), None)
            if stem_column is None or "path" not in columns:
                found = ", ".join(map(repr, columns[:4])) or "none"
                raise UsageError(
                    f"{str(root)!r} has the columns {found[:200]}: expected instrum (or type) and path in the "
                    "first line."
                )
            for row in reader:
                stem, path = row[stem_column], row["path"]
                if not stem or not path or "\0" in path:
                    raise UsageError(f"{root}, line {reader.line_num}: expected a stem and a path; fill both in.")
                if f"{stem}/{path}" not in seen:
                    seen.add(f"{stem}/{path}")
                    yield Track(f"{stem}/{path}", "", {stem: (Clip(root.parent / path),)}, is_song=False)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{root} cannot be read as a CSV file in UTF-8 ({error}); save it as one.") from error


def _songs(root: Path) -> Iterator[Track | PassedOver]:
    for song in subfolders(root):
        files = {path.stem: Clip(path) for path in sound_files(song, _SUFFIXES)}  # sorted: the WAV wins, as there
        mixture = (files.pop(MIXTURE),) if MIXTURE in files else ()
        if files:
            yield Track(song.name, "", {stem: (clip,) for stem, clip in files.items()}, mixture)
        else:
            yield PassedOver(song, "holds a mixture but no stem" if mixture else "holds no .wav or .flac file")
