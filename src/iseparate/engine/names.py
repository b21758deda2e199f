"""Where stems go: file names made from song names, tags and templates, none of which is trusted."""

from __future__ import annotations

import os
import re
import string
import threading
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from iseparate.errors import OutputError, UsageError

DEFAULT_TEMPLATE = "{track}/{stem}.{ext}"
FIELDS = ("track", "stem", "ext", "model", "title", "artist", "album")
MANIFEST_NAME = "iseparate.json"
MAX_NAME_BYTES = 180
_SONG_FIELDS = ("track", "title", "artist", "album")
_MAX_TEMPLATE_BYTES = 100

_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')
_WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{p}{n}" for p in ("com", "lpt") for n in range(1, 10))}


@dataclass(frozen=True)
class Naming:
    """A template for paths below a folder.

    Args:
        folder: all outputs lie below it.
        template: with fields of `FIELDS` in braces.
        model: the model's id.

    Raises:
        UsageError: the template has an unknown field, leaves the folder, or does not tell stems apart.
    """

    folder: Path
    template: str
    model: str

    def __post_init__(self) -> None:
        try:
            parsed = list(string.Formatter().parse(self.template))
        except ValueError as error:
            raise UsageError(f"the file name template {self.template!r} is not valid: {error}") from None
        if any(spec or conversion for _, _, spec, conversion in parsed):
            raise UsageError(f"the file name template {self.template!r} may hold plain fields only, such as {{stem}}")
        fields = {name for _, name, _, _ in parsed if name is not None}
        unknown = fields - set(FIELDS)
        if unknown:
            raise UsageError(
                f"the file name template {self.template!r} has the unknown field {{{min(unknown)}}}; "
                f"there is {', '.join(f'{{{name}}}' for name in FIELDS)}"
            )
        if "stem" not in fields:
            raise UsageError(
                f"the file name template {self.template!r} needs {{stem}}, else stems overwrite each other"
            )
        if self.template.endswith(("/", "\\")):
            raise UsageError(f"the file name template {self.template!r} names a folder; end it in {{stem}}.{{ext}}")
        parts = Path(self.template).parts
        if Path(self.template).is_absolute() or ".." in parts:
            raise UsageError(
                f"the file name template {self.template!r} leads out of the output folder; give that with -o"
            )
        if any(len(part.format(**dict.fromkeys(FIELDS, "")).encode()) > _MAX_TEMPLATE_BYTES for part in parts):
            raise UsageError(
                f"the file name template {self.template!r} is too long: a part of it may have {_MAX_TEMPLATE_BYTES} "
                "bytes of its own"
            )

    def stem_path(self, track: str, stem: str, ext: str, tags: Mapping[str, str]) -> Path:
        """Path of one stem."""
        values = {"track": track, "stem": stem, "ext": ext, "model": self.model}
        values |= {name: tags.get(name) or track for name in ("title", "artist", "album")}
        safe = {name: safe_name(value) for name, value in values.items()}
        return self.folder.joinpath(*(_filled(part, safe) for part in Path(self.template).parts))

    def manifest_path(self, track: str, ext: str, tags: Mapping[str, str]) -> Path:
        """Path of the manifest: in the song's own folder, or beside its stems under the song's name.

        It does not depend on the stems asked for, so that a later run for others finds it.
        """
        folders = Path(self.template).parts[:-1]
        common = list(takewhile(lambda part: "{stem}" not in part, folders))
        # One more than there are, cut off again, gives the folders their values.
        folder = replace(self, template="/".join([*common, "{stem}"])).stem_path(track, "stem", ext, tags).parent
        own_folder = any("{track}" in part for part in common)
        return folder / (MANIFEST_NAME if own_folder else f"{safe_name(track)}.{MANIFEST_NAME}")


class Claims:
    """Keeps the songs of one batch, and their stems, from being overwritten. Safe to use from several threads."""

    def __init__(self, songs: Iterable[Path] = ()) -> None:
        self._songs = {_real(song) for song in songs}
        self._owners: dict[str, Path] = {}
        self._lock = threading.Lock()

    def add(self, song: Path, paths: Iterable[Path]) -> None:
        """Claim the paths for a song.

        Raises:
            OutputError: one of them is a song of the batch, or a stem of another one, as far as some file system
                can tell.
        """
        with self._lock:
            for path in paths:
                if _real(path) in self._songs:
                    raise OutputError(f"{path} is a song of this batch and would be overwritten; choose another -o")
                owner = self._owners.setdefault(str(path).casefold(), song)
                if owner != song:
                    raise OutputError(
                        f"{song} would overwrite {path}, a stem of {owner}: the file name template does not tell the "
                        "two apart; put {track} into it"
                    )


def _real(path: Path) -> str:
    """The path without links, or as it is where the system cannot even look (opening it will say why)."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return str(path)


def _filled(part: str, values: Mapping[str, str]) -> str:
    """One part of a template with its fields; where that is too long, the song's give way, never the stem's name."""
    own = part.format(**{**values, **dict.fromkeys(_SONG_FIELDS, "")})
    from_song = [name for _, name, _, _ in string.Formatter().parse(part) if name in _SONG_FIELDS]
    if from_song and len(part.format(**values).encode()) > MAX_NAME_BYTES:
        room = max(0, MAX_NAME_BYTES - len(own.encode())) // len(from_song)
        values = {**values, **{name: _cut(values[name], room) for name in _SONG_FIELDS}}
    # Cleaned again as a whole, since a part can be made of several fields.
    return safe_name(part.format(**values))


def _cut(text: str, max_bytes: int) -> str:
    """The beginning of a text, in whole characters."""
    return text.encode()[:max_bytes].decode("utf-8", "ignore")


def safe_name(text: str) -> str:
    """One path component that every file system takes: no separators, control characters, dots in front.

    Two different names can become one; `track_names` tells songs apart.
    """
    text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8"))
    text = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)
    text = _FORBIDDEN.sub("_", text)
    text = re.sub(r"\s+", " ", text).strip().lstrip(".- ").rstrip(". ")
    stem, dot, ext = text.rpartition(".")
    if len(text.encode()) > MAX_NAME_BYTES:
        keep_ext = dot + ext if stem and len(ext) <= 5 else ""
        text = _cut(stem if keep_ext else text, MAX_NAME_BYTES - len(keep_ext.encode())).rstrip(". ") + keep_ext
    if text.split(".")[0].lower() in _WINDOWS_DEVICES:
        text = f"_{text}"
    return text or "untitled"


def track_names(songs: Sequence[Path]) -> list[str]:
    """A name for each song of a batch, no two alike on any file system; the first keeps its own."""
    taken: set[str] = set()
    names = []
    for song in songs:
        plain = safe_name(song.stem or song.name)
        name, number = plain, 1
        while name.casefold() in taken:
            number += 1
            name = f"{_cut(plain, MAX_NAME_BYTES - 8).rstrip()} ({number})"
        taken.add(name.casefold())
        names.append(name)
    return names
