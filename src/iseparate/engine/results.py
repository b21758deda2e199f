"""What a caller is told of a song: how far it is, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
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


_FIRST_PASS_SHARE = 0.9
"""Of the work, where a song is gone through twice: the network takes far longer than its filter."""


class Reporter:
    """Makes one measure of what is heard in a first pass, if there is one, and of what is done.

    Args:
        callback: told of the progress; None: nobody is.
        song: name of the song.
        sample_rate: of the song.
        expected_samples: its length; None: not known.
    """

    def __init__(
        self, callback: Callable[[Progress], None] | None, song: str, sample_rate: int, expected_samples: int | None
    ):
        self._callback, self._song, self._sample_rate = callback, song, sample_rate
        self._total_seconds = None if expected_samples is None else expected_samples / sample_rate
        self._heard_seconds = 0.0

    def heard(self, seconds: float) -> None:
        """So much is behind the first pass."""
        self._heard_seconds = seconds
        self._tell(_FIRST_PASS_SHARE * seconds)

    def done(self, samples: int) -> None:
        """So much is done."""
        seconds = samples / self._sample_rate
        share = _FIRST_PASS_SHARE if self._heard_seconds else 0.0
        self._tell(share * self._heard_seconds + (1 - share) * seconds)

    def _tell(self, seconds: float) -> None:
        if self._callback:
            self._callback(Progress(self._song, seconds, self._total_seconds))


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
