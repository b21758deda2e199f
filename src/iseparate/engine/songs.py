"""Which files of a folder are songs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from iseparate.engine.manifest import read_manifest
from iseparate.engine.names import MANIFEST_NAME
from iseparate.errors import AudioReadError

EXTENSIONS = frozenset(
    f".{ending}"
    for ending in (
        *("wav", "wave", "w64", "rf64", "bwf", "aif", "aiff", "aifc", "au", "caf"),
        *("flac", "alac", "ape", "wv", "tta"),
        *("mp3", "mp2", "m4a", "m4b", "aac", "ogg", "oga", "opus", "weba", "wma", "ac3", "eac3", "dts", "amr", "mka"),
        *("webm", "mkv", "mp4", "m4v", "mov", "avi", "3gp", "flv", "wmv", "mpg", "mpeg", "ts"),
    )
)
"""A folder's files with these endings are taken for songs; a file named outright may have any ending."""


def find_songs(folder: Path, recursive: bool = False, leave_out: Sequence[Path] = ()) -> list[Path]:
    """The songs in a folder, sorted by path.

    Args:
        folder: where to look.
        recursive: look in the folders below it too, except hidden ones and those that hold stems of an earlier run.
        leave_out: folders not to enter, such as the output's.

    Raises:
        AudioReadError: no song, or the folder cannot be read.
    """
    apart = {path.resolve() for path in leave_out}
    try:
        songs = sorted(_walk(folder, recursive, apart))
    except OSError as error:
        raise AudioReadError(f"{error.filename or folder} cannot be read: {error.strerror}") from error
    if not songs:
        below = "" if recursive else "; --recursive looks in the folders below it too"
        raise AudioReadError(f"{folder} holds no audio file (such as .wav, .flac, .mp3){below}")
    return songs


def _walk(folder: Path, recursive: bool, entered: set[Path]) -> Iterator[Path]:
    entered.add(folder.resolve())  # a link can lead back to where we have been
    paths = list(folder.iterdir())
    stems = {folder / stem for path in paths if path.name.endswith(f".{MANIFEST_NAME}") for stem in _stems_of(path)}
    for path in paths:
        if path.name.startswith(".") or path in stems:
            continue
        if path.is_dir():
            if recursive and path.resolve() not in entered and not (path / MANIFEST_NAME).exists():
                yield from _walk(path, recursive, entered)
        elif path.suffix.lower() in EXTENSIONS:
            yield path


def _stems_of(manifest_path: Path) -> list[str]:
    manifest = read_manifest(manifest_path)
    return [stem.file for stem in manifest.stems.values()] if manifest else []
