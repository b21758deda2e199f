"""What a finished separation says of itself, and whether it is still whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

FORMAT = 1


class StoredStem(BaseModel):
    """One file of a result."""

    model_config = ConfigDict(frozen=True)

    file: str
    """Path relative to the manifest."""
    sha256: str
    size_bytes: int
    peak_dbfs: float | None
    """None: digital silence."""
    rms_dbfs: float | None


class Manifest(BaseModel):
    """The JSON file beside the stems."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    song: str
    song_sha256: str
    model: str
    weights_sha256: str
    settings: dict[str, Any]
    """All that changes a sample of the result."""
    versions: dict[str, str]
    sample_rate_hz: int
    channels: int
    samples: int
    gain_db: float
    """Applied to all stems alike, so that none clips and they still sum to the song at that gain."""
    null_db: float | None
    """Energy of song minus stems against that of the song; None where not all stems were computed."""
    notes: list[str]
    created: str
    seconds: float
    """Wall time of the separation."""
    stems: dict[str, StoredStem]

    def describes(self, facts: Mapping[str, Any]) -> bool:
        """True where the fields named in `facts` have those values."""
        return all(getattr(self, name) == value for name, value in facts.items())

    def write(self, path: Path) -> None:
        """Write to a path that is not yet the final one."""
        path.write_text(json.dumps(self.model_dump(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_manifest(path: Path) -> Manifest | None:
    """The manifest at a path; None where there is none that can be read."""
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return manifest if manifest.format == FORMAT else None


def intact_stems(manifest: Manifest, folder: Path, asked: Mapping[str, Path]) -> dict[str, StoredStem]:
    """The stems that an earlier run left behind and that are still what it made.

    Args:
        manifest: of the earlier run.
        folder: the manifest's.
        asked: name -> path of the stems asked for now, which have to lie there; the others are kept where they are.
    """
    places = {name: Path(os.path.normpath(folder / stored.file)) for name, stored in manifest.stems.items()}
    return {
        name: stored
        for name, stored in manifest.stems.items()
        if places[name] == Path(os.path.normpath(asked.get(name, places[name]))) and _is_intact(places[name], stored)
    }


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_intact(path: Path, stored: StoredStem) -> bool:
    try:
        return path.stat().st_size == stored.size_bytes and file_sha256(path) == stored.sha256
    except OSError:
        return False
