"""The scores of one track, and the file they are kept in.

The file is museval's (``musdb.schema.json`` of sigsep/sigsep-mus-eval at 0.4.1: targets, frames, metrics), so that
museval's stores read it, with one more key, ``iseparate``, that holds every metric in full precision. As museval has
it, scores without a finite value are written as ``NaN``.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from iseparate.errors import OutputError, UsageError
from iseparate.evaluate.estimators import Estimator
from iseparate.evaluate.spectra import BandLevels, band_levels
from iseparate.evaluate.targets import canonical, scoring_plan
from iseparate.evaluate.track_audio import Track, TrackAudio, checked_estimates, readable
from iseparate.types import Samples
from iseparate.whole_file import write_whole

if TYPE_CHECKING:
    from iseparate.evaluate.metrics import Metric

FRAME_SECONDS = 1.0
"""Length and distance of the frames of every framewise metric."""
_MUSEVAL_METRICS = ("bss_eval_v4", "bss_eval_v3")
_MUSEVAL_VALUES = ("SDR", "SIR", "ISR", "SAR")

Frames = dict[str, dict[str, dict[str, list[float]]]]
"""metric -> stem -> value -> frames."""


class TrackScores(BaseModel):
    """Every score of one track."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    track: str
    subset: str
    sample_rate_hz: int
    channels: int
    samples: int
    stems: tuple[str, ...]
    """Of the track."""
    seconds: float
    """Wall time of separation and scoring."""
    notes: tuple[str, ...]
    museval_metric: str | None
    """What the file's ``targets`` are."""
    scores: Frames

    def to_json(self) -> str:
        """The file's text."""
        targets = [
            {"name": stem, "frames": _museval_frames(values)}
            for stem, values in self.scores.get(self.museval_metric or "", {}).items()
        ]
        return json.dumps({"targets": targets, "iseparate": self.model_dump()}, indent=1, ensure_ascii=False) + "\n"


def read_track_scores(path: Path) -> TrackScores:
    """The scores in a file; UsageError where it is not one of `TrackScores.to_json`."""
    try:
        return TrackScores.model_validate(json.loads(path.read_bytes())["iseparate"])
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); mend its permissions") from error
    except (ValueError, ValidationError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a file of scores that iseparate wrote; remove it") from error


def score_track(
    track: Track,
    estimator: Estimator,
    metrics: Sequence[Metric],
    on_stage: Callable[[str, float], None],
    cancelled: threading.Event,
) -> tuple[TrackScores, dict[str, tuple[BandLevels, BandLevels]]]:
    """Separate and score one track.

    Args:
        track: of a data set.
        estimator: makes the estimates.
        metrics: what is measured.
        on_stage: told the stage, and how many seconds of the track it has behind it.
        cancelled: set from outside to end the work with KeyboardInterrupt.

    Returns:
        the scores, and by target the spectra of reference and estimate.

    Raises:
        AudioError: track or estimates cannot be used.
    """
    begun = time.perf_counter()

    def stage(name: str, seconds: float) -> None:
        if cancelled.is_set():
            raise KeyboardInterrupt
        on_stage(name, seconds)

    audio = TrackAudio(track)
    stage("reading", 0)
    mix = audio.mix
    given = estimator.estimate(audio, lambda seconds: stage("separating", seconds))
    estimates, notes = checked_estimates(
        {canonical(name): samples for name, samples in given.items()}, mix, track.sample_rate
    )
    plan = scoring_plan(track.stems, estimates)
    scores: Frames = {metric.name: {} for metric in metrics}
    spectra: dict[str, tuple[BandLevels, BandLevels]] = {}
    for scenario in plan.scenarios:
        references = {target.name: target.reference(audio.stems) for target in scenario}
        guesses = {target.name: target.estimate(estimates, mix) for target in scenario}
        shown = [target.name for target in scenario if target.is_reported]
        for metric in metrics:
            stage(f"scoring {metric.name}", mix.shape[1] / track.sample_rate)
            found = metric.score(references, guesses, mix, track.sample_rate)
            for name in shown:
                scores[metric.name][name] = _as_lists(found[name])
        spectra |= _spectra({name: (references[name], guesses[name]) for name in shown}, track.sample_rate)
    result = TrackScores(
        track=readable(track.name),
        subset=track.subset,
        sample_rate_hz=track.sample_rate,
        channels=mix.shape[0],
        samples=mix.shape[1],
        stems=tuple(track.stems),
        seconds=round(time.perf_counter() - begun, 3),
        notes=(*notes, *plan.notes),
        museval_metric=next((name for name in _MUSEVAL_METRICS if name in scores), None),
        scores=scores,
    )
    return result, spectra


def track_file_names(tracks: Sequence[Track]) -> list[str]:
    """A file name without ending for each track: its own name where every file system takes that, else one like it.

    museval reads the track's name off the file. A name depends on the track alone, unless two would be one file on a
    system that does not tell capitals apart.
    """
    names = [_file_name(track.name) for track in tracks]
    folded = [name.casefold() for name in names]
    return [
        name if folded.count(fold) == 1 else _marked(name, track.name)
        for name, fold, track in zip(names, folded, tracks, strict=True)
    ]


def write_in_run(path: Path, content: str | bytes) -> None:
    """Write a file of a run, whole or not at all; OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.encode("utf-8", "replace") if isinstance(content, str) else content)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}); make room or choose another -o, and go on with "
            "--resume"
        ) from error


def _as_lists(values: Mapping[str, NDArray[Any]]) -> dict[str, list[float]]:
    return {value: np.asarray(frames, np.float64).reshape(-1).tolist() for value, frames in values.items()}


def _museval_frames(values: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    count = len(next(iter(values.values()), ()))
    return [
        {
            "time": index * FRAME_SECONDS,
            "duration": FRAME_SECONDS,
            "metrics": {value: _finite_or_nan(values[value][index]) for value in _MUSEVAL_VALUES},
        }
        for index in range(count)
    ]


def _finite_or_nan(score: float) -> float:
    """Rounded as museval does."""
    return round(score, 5) if math.isfinite(score) else math.nan


def _spectra(
    pairs: Mapping[str, tuple[Samples, Samples]], sample_rate: int
) -> dict[str, tuple[BandLevels, BandLevels]]:
    return {
        name: (band_levels(reference, sample_rate), band_levels(estimate, sample_rate))
        for name, (reference, estimate) in pairs.items()
    }


_MAX_NAME_BYTES = 180
_WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{p}{n}" for p in ("com", "lpt") for n in range(1, 10))}


def _file_name(name: str) -> str:
    plain = re.sub(r"[^\w .,;!&'+@=~#()\[\]-]", "_", name)
    is_device = name.partition(".")[0].lower() in _WINDOWS_DEVICES
    if plain == name == name.strip(" .-") and not is_device and len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    return _marked(plain.strip(" .-"), name)


def _marked(plain: str, name: str) -> str:
    """A name that is told apart by its hash."""
    digest = sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    short = plain.encode("utf-8", "ignore")[:100].decode("utf-8", "ignore")
    return f"{short or 'track'}-{digest}"
