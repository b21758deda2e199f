"""The sound of one track while it is scored."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from iseparate.errors import AudioFormatError
from iseparate.types import Samples


class Track(Protocol):
    """What is asked of a data set's track; those of `iseparate.data` have it. Rate and length raise AudioError."""

    @property
    def name(self) -> str: ...
    @property
    def subset(self) -> str: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def stems(self) -> tuple[str, ...]: ...

    def read(self, source: str, start_samples: int = 0, samples: int | None = None) -> Samples:
        """``[C, samples]`` of a stem or of the ``mixture``; AudioError."""
        ...


class TrackAudio:
    """Reads mixture and stems when first asked for, and holds them: one float32 track at a time is in memory."""

    def __init__(self, track: Track):
        self.track = track

    @cached_property
    def mix(self) -> Samples:
        """``[C, T]``; AudioError."""
        return self.track.read("mixture")

    @cached_property
    def stems(self) -> dict[str, Samples]:
        """The true stems, each of the mixture's length; AudioError."""
        return {name: fitted(name, self.track.read(name), self.mix.shape[1])[0] for name in self.track.stems}


def checked_estimates(
    estimates: Mapping[str, Any], mix: Samples, sample_rate: int
) -> tuple[dict[str, Samples], list[str]]:
    """Estimates as float32 of the mixture's shape, and a sentence on each that had another length.

    Shorter ones are padded with zeros and longer ones cut, as museval does, but by a second at most.

    Raises:
        AudioFormatError: other channels, another length, NaN, or no samples.
    """
    checked, notes = {}, []
    for name, given in estimates.items():
        estimate = np.asarray(given, dtype=np.float32)
        if estimate.ndim != 2 or estimate.shape[0] != mix.shape[0] or not estimate.shape[1]:
            raise AudioFormatError(
                f"the estimate of {name} has the shape {list(estimate.shape)} and the track {list(mix.shape)} "
                "([channels, samples]); make estimates with the track's channels"
            )
        if not np.isfinite(estimate).all():
            raise AudioFormatError(f"the estimate of {name} holds NaN or infinity, so it has no score; mend the model")
        if abs(estimate.shape[1] - mix.shape[1]) > sample_rate:
            raise AudioFormatError(
                f"the estimate of {name} lasts {estimate.shape[1] / sample_rate:.2f} s and the track "
                f"{mix.shape[1] / sample_rate:.2f} s; separate the whole track, at its own sample rate"
            )
        checked[name], note = fitted(name, estimate, mix.shape[1])
        notes += [note] if note else []
    return checked, notes


def fitted(name: str, signal: Samples, samples: int) -> tuple[Samples, str | None]:
    """A signal padded with zeros or cut to a length, and a sentence where that was needed."""
    missing = samples - signal.shape[1]
    if missing == 0:
        return signal, None
    if missing < 0:
        return signal[:, :samples], f"{name} is {-missing} samples longer than the mixture; its end was left out"
    padded = np.pad(signal, ((0, 0), (0, missing)))
    return padded, f"{name} is {missing} samples shorter than the mixture; zeros were added to its end"


def readable(name: str) -> str:
    """A name as text: that of a file can be any bytes. Those that are no text are escaped, so names stay apart."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
