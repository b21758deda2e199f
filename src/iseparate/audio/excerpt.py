"""Which part of a file is the song."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from iseparate.audio.decode import AudioInfo, Decoder
from iseparate.errors import UsageError


@dataclass(frozen=True)
class Excerpt:
    """One sound track of a file, from a start for a duration."""

    stream: int = 0
    """Which sound track, counted from 0."""
    start_seconds: float = 0.0
    duration_seconds: float | None = None
    """None: to the end."""
    allow_truncated: bool = False
    """Take what can be read of a damaged file."""

    def __post_init__(self) -> None:
        if self.stream < 0:
            raise UsageError(f"stream counts the sound tracks of a file from 0; got {self.stream}")
        if not 0 <= self.start_seconds < math.inf:
            raise UsageError(f"start is a number of seconds, 0 or more; got {self.start_seconds:g}")
        if self.duration_seconds is not None and not 0 < self.duration_seconds < math.inf:
            raise UsageError(f"duration is a number of seconds, more than 0; got {self.duration_seconds:g}")

    def open(self, path: Path) -> Decoder:
        """A decoder of this part of a file; AudioError where there is none."""
        return Decoder(
            path,
            stream=self.stream,
            start_seconds=self.start_seconds,
            duration_seconds=self.duration_seconds,
            allow_truncated=self.allow_truncated,
        )

    def expected_samples(self, info: AudioInfo) -> int | None:
        """Length of this part at the file's rate, as far as the file says; None where it does not."""
        if info.estimated_seconds is None:
            return None
        seconds = max(0.0, info.estimated_seconds - self.start_seconds)
        if self.duration_seconds is not None:
            seconds = min(seconds, self.duration_seconds)
        return round(seconds * info.sample_rate)
