"""What lies in a folder: its sound files and its subfolders, in a fixed order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

SUFFIXES = (
    *(".wav", ".wave", ".w64", ".flac", ".aif", ".aiff", ".caf"),
    *(".m4a", ".mp4", ".aac", ".ogg", ".oga", ".opus", ".mp3"),
)
"""Endings of the files that are taken for sound, the ones preferred first."""


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, hidden ones excepted, sorted by name; OSError where it cannot be read."""
    return [path for path in _entries(folder) if path.is_dir()]


def sound_files(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """The files in a folder that have one of these endings, hidden ones excepted, sorted by name; OSError."""
    return [path for path in _entries(folder) if path.suffix.lower() in suffixes and not path.is_dir()]


def contents(path: Path) -> str:
    """What there is at a path, in a few words, for an error's sentence."""
    if not path.is_dir():
        return f"a {path.suffix.lower() or 'nameless'} file" if path.exists() else "nothing"
    entries = _entries(path)
    folders = [entry.name for entry in entries if entry.is_dir()]
    files = Counter(entry.suffix.lower() or "other" for entry in entries if not entry.is_dir())
    shown = ", ".join(name[:40] for name in folders[:3]) + (", ..." if len(folders) > 3 else "")
    parts = [f"{len(folders)} folder{'s' * (len(folders) > 1)} ({shown})"] if folders else []
    parts += [f"{count} {suffix} file{'s' * (count > 1)}" for suffix, count in files.most_common(3)]
    return ", ".join(parts) or "an empty folder"


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
