"""An evaluation run: a folder that says what was asked, and one file for each track that is done.

    <folder>/run.json              what was asked, and of what the figures are made
    <folder>/<subset>/<track>.json the scores of a track; it has this name only when it is whole, so it means "done"
    <folder>/spectra/…             small spectrograms of each track, for the report

The files are laid out as museval lays out its own, so that ``museval.EvalStore().add_eval_dir(folder)`` reads the
tracks of the subset ``test``; tracks of no subset lie there too.
"""

from __future__ import annotations

import datetime
import json
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from iseparate.errors import AudioReadError, IseparateError, OutputError, UsageError
from iseparate.evaluate.estimators import Estimator
from iseparate.evaluate.spectra import BandLevels, pack, unpack
from iseparate.evaluate.track_audio import Track, readable
from iseparate.evaluate.track_scores import (
    TrackScores,
    read_track_scores,
    score_track,
    track_file_names,
    write_in_run,
)
from iseparate.machine import machine
from iseparate.versions import versions

if TYPE_CHECKING:
    from iseparate.evaluate.metrics import Metric

RUN_NAME = "run.json"
_LOCK_NAME = ".lock"
_DEFAULT_FOLDER = "test"


class Asked(BaseModel):
    """All that decides a figure of a run: files of two runs may lie together only where this is the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    estimator: str
    kind: Literal["model", "oracle", "mixture", "files"]
    identity: dict[str, Any]
    """Of the estimator: hash of the weights, settings."""
    data: str
    """Kind and path of the data set."""
    subset: str
    tracks_sha256: str
    """Of the names of all tracks of the subset; the waveforms themselves are not hashed."""
    metrics: dict[str, str]
    """Definition by name."""
    iseparate: str
    """Version."""


class Session(BaseModel):
    """One call that worked on the run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str
    date: str
    machine: dict[str, str]
    versions: dict[str, str]


class RunRecord(BaseModel):
    """What ``run.json`` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    asked: Asked
    sessions: tuple[Session, ...]


@dataclass(frozen=True)
class TrackResult:
    """What became of one track."""

    track: str
    subset: str
    status: Literal["done", "kept", "failed"]
    scores: TrackScores | None = None
    spectra_path: Path | None = None
    error: str | None = None

    @property
    def spectra(self) -> dict[str, tuple[BandLevels, BandLevels]]:
        """Of reference and estimate by target; empty where there are none."""
        return unpack(self.spectra_path) if self.spectra_path else {}


InJobs = Callable[[Callable[[Track], TrackResult], Sequence[tuple[Track]]], Iterable[TrackResult]]
"""Calls the function with every tuple of arguments, several at a time if it likes, and yields what comes back."""
OnStage = Callable[[str, str, float, float], None]
"""Told a track, its stage, how many seconds of it are separated, and how many it has."""


class EvaluationRun:
    """A folder of results, held by one process at a time; `open_run` makes it."""

    def __init__(self, folder: Path, record: RunRecord, tracks: Sequence[Track], places: Mapping[int, Path]):
        self.folder = folder
        self.record = record
        self.tracks = tracks
        self._places = places

    def scores_path(self, track: Track) -> Path:
        """Where a track's scores lie."""
        place = self._places[id(track)]
        return self.folder / place.with_name(f"{place.name}.json")

    def spectra_path(self, track: Track) -> Path:
        """Where a track's small spectrograms lie."""
        place = self._places[id(track)]
        return self.folder / "spectra" / place.with_name(f"{place.name}.npz")

    def run(
        self,
        estimator: Estimator,
        metrics: Sequence[Metric],
        *,
        required_stems: Collection[str] = (),
        in_jobs: InJobs | None = None,
        on_stage: OnStage | None = None,
        on_result: Callable[[TrackResult], None] | None = None,
        cancelled: threading.Event | None = None,
    ) -> list[TrackResult]:
        """Score every track that is not done yet. One that fails does not stop the others.

        A job holds one track at a time: its mixture, stems and estimates as float32, and what the metrics need.

        Args:
            estimator: makes the estimates.
            metrics: what is measured.
            required_stems: a track without one of them fails; for data sets that prescribe their stems.
            in_jobs: runs the work on the tracks; None: one after the other.
            on_stage: told of the progress, from whichever thread works.
            on_result: told of each track when it is over, in the calling thread.
            cancelled: set from outside to end the work in other threads.

        Returns:
            one result per track, in the data set's order.

        Raises:
            OutputError: results cannot be written.
            UsageError: a file of an earlier session is not what it should be, or a metric cannot be had here.
        """
        stop = cancelled or threading.Event()

        def work(track: Track) -> TrackResult:
            return self._work(track, estimator, metrics, required_stems, on_stage, stop)

        is_done = {id(track): self.scores_path(track).exists() for track in self.tracks}
        kept = [self._kept(track) for track in self.tracks if is_done[id(track)]]
        todo = [(track,) for track in self.tracks if not is_done[id(track)]]
        results: dict[tuple[str, str], TrackResult] = {}
        for result in chain(kept, in_jobs(work, todo) if in_jobs else starmap(work, todo)):
            results[result.subset, result.track] = result
            if on_result:
                on_result(result)
        return [results[track.subset, readable(track.name)] for track in self.tracks]

    def _kept(self, track: Track) -> TrackResult:
        path = self.scores_path(track)
        scores = read_track_scores(path)
        if scores.stems != tuple(track.stems):
            raise UsageError(
                f"{path} is of a track with the stems {', '.join(scores.stems)}, which now has "
                f"{', '.join(track.stems)}; remove that file to score the track again"
            )
        return TrackResult(readable(track.name), track.subset, "kept", scores, self.spectra_path(track))

    def _work(
        self,
        track: Track,
        estimator: Estimator,
        metrics: Sequence[Metric],
        required_stems: Collection[str],
        on_stage: OnStage | None,
        cancelled: threading.Event,
    ) -> TrackResult:
        name = readable(track.name)

        def stage(what: str, seconds: float) -> None:
            if on_stage:
                on_stage(name, what, seconds, track.samples / track.sample_rate)

        try:
            if lacking := [stem for stem in required_stems if stem not in track.stems]:
                raise AudioReadError(
                    f"its file of {', '.join(lacking)} is missing; `iseparate data check` lists what a data set lacks"
                )
            scores, spectra = score_track(track, estimator, metrics, stage, cancelled)
        except UsageError:
            raise  # it is true of every track
        except MemoryError:
            complaint = "it needs more memory than there is; try fewer --jobs"
        except OSError as error:
            complaint = f"{error.filename or 'its sound'} cannot be read: {error.strerror or error}; check its disk"
        except IseparateError as error:
            complaint = str(error)
        except Exception as error:  # it must not cost the user the other tracks
            complaint = f"a fault of iseparate's; please report it: {type(error).__name__}: {error}"
        else:
            # The scores come last: their file says that the track is done.
            write_in_run(self.spectra_path(track), pack(spectra))
            write_in_run(self.scores_path(track), scores.to_json())
            return TrackResult(name, track.subset, "done", scores, self.spectra_path(track))
        return TrackResult(name, track.subset, "failed", error=f"{name}: {complaint}")


@contextmanager
def open_run(
    folder: Path, asked: Asked, session: Session, dataset_tracks: Sequence[Track], tracks: Sequence[Track], resume: bool
) -> Iterator[EvaluationRun]:
    """Make the folder of a run, or go on with one.

    Args:
        folder: of this run alone.
        asked: what decides the figures.
        session: this call.
        dataset_tracks: all of the subset; they decide the names of files.
        tracks: those that are asked for now; a run can be taken up with more.
        resume: go on where the folder holds the same run.

    Raises:
        UsageError: the folder holds a run already, or one that asked for something else; two tracks have one name.
        OutputError: the folder cannot be made, or another process is at work in it.
    """
    places = _places(dataset_tracks)
    _refuse_same_names(tracks)
    with _held(folder):
        path = folder / RUN_NAME
        before = read_run(folder) if path.exists() else None
        if before is not None and not resume:
            raise UsageError(f"{folder} holds a run already; go on with it by --resume, or choose another -o")
        if before is not None:
            _refuse_other_settings(folder, before.asked, asked)
        record = RunRecord(asked=asked, sessions=(*(before.sessions if before else ()), session))
        run = EvaluationRun(folder, record, tracks, places)
        _refuse_to_leave_out(run, dataset_tracks)
        write_in_run(path, record.model_dump_json(indent=2) + "\n")
        yield run


def read_run(folder: Path) -> RunRecord:
    """What a run's folder says of itself; UsageError where it is none."""
    path = folder / RUN_NAME
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{folder} is not the folder of a run: {path} cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise UsageError(f"{path} was not written by this version of iseparate; choose another -o") from error


def stored_scores(folder: Path) -> list[TrackScores]:
    """The scores of every track that a run has done, by file name."""
    return [read_track_scores(path) for path in _score_files(folder)]


def this_session(command: str) -> Session:
    """Now, on this machine."""
    return Session(
        command=readable(command),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=machine(),
        versions=versions(),
    )


def tracks_sha256(tracks: Sequence[Track]) -> str:
    """Hash of subsets and names: cheap, and another one wherever tracks come or go."""
    names = [[track.subset, readable(track.name)] for track in tracks]
    return sha256(json.dumps(sorted(names)).encode()).hexdigest()


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Two processes in one folder would do the same tracks twice."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK_NAME)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise OutputError(f"another process is at work in {folder}; wait for its end, or choose another -o") from error
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror or error}); choose another -o") from error
    try:
        yield
    finally:
        lock.release()


def _places(tracks: Sequence[Track]) -> dict[int, Path]:
    """Path of each track below the run's folder, without ending."""
    places = [
        Path(readable(track.subset or _DEFAULT_FOLDER).replace("/", "_")) / name
        for track, name in zip(tracks, track_file_names(tracks), strict=True)
    ]
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise UsageError(f"the data set has two tracks called {twice.name!r}; rename one of them")
    return {id(track): place for track, place in zip(tracks, places, strict=True)}


def _refuse_same_names(tracks: Sequence[Track]) -> None:
    """Tables, plots and comparisons know a track by its name, which a track of another subset can have too."""
    names = Counter(readable(track.name) for track in tracks)
    name, count = names.most_common(1)[0] if names else ("", 0)
    if count > 1:
        subsets = sorted({track.subset or "none" for track in tracks if readable(track.name) == name})
        raise UsageError(
            f"{count} tracks are called {name!r}, of the subsets {', '.join(subsets)}; choose one --subset, or rename "
            "all but one"
        )


def _refuse_other_settings(folder: Path, before: Asked, now: Asked) -> None:
    old, new = ({**_flat(asked.model_dump()), "metrics": ", ".join(asked.metrics)} for asked in (before, now))
    for name in sorted(old.keys() | new.keys()):
        # A metric's name is its convention; the words that define it may be bettered.
        if old.get(name) != new.get(name) and not name.startswith("metrics."):
            raise UsageError(
                f"{folder} was made with {name} {_shown(old.get(name))} and this call asks for "
                f"{_shown(new.get(name))}; ask for the same, or choose another -o"
            )


def _refuse_to_leave_out(run: EvaluationRun, dataset_tracks: Sequence[Track]) -> None:
    """Else the summary would not be that of the files beside it."""
    asked = {run.scores_path(track) for track in run.tracks}
    others = [track for track in dataset_tracks if run.scores_path(track) not in asked]
    done = [track for track in others if run.scores_path(track).exists()]
    if done:
        raise UsageError(
            f"{run.folder} holds scores that this call leaves out ({len(done)} of {len(dataset_tracks)} tracks, such "
            f"as {readable(done[0].name)}); ask for them too, or choose another -o"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _shown(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _score_files(folder: Path) -> list[Path]:
    files = folder.glob("*/*.json")
    return sorted(path for path in files if path.parent.name != "spectra" and not path.name.startswith("."))
