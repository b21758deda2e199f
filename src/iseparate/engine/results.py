"""What a caller is told of a song: how far it is, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from iseparate.engine.manifest import Manifest


@dataclass(frozen=True)
class Progress:
    """How far a song is."""

    song: str
    done_seconds: float
    total_seconds: float | None
    """None: the song does not say how long it is."""


@dataclass(frozen=True)
class SongResult:
    """What became of one song of a batch."""

    song: Path
    status: Literal["done", "skipped", "failed"]
    files: dict[str, Path] = field(default_factory=dict)
    manifest: Manifest | None = None
    manifest_path: Path | None = None
    error: str | None = None
    seconds: float = 0.0
    """Wall time."""

    @property
    def song_seconds(self) -> float:
        """Length of the song."""
        return self.manifest.samples / self.manifest.sample_rate_hz if self.manifest else 0.0
