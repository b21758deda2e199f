"""What is scored: a model, an oracle, the mixture itself, or stems that lie on disk."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from iseparate.audio.decode import Decoder
from iseparate.errors import AudioFormatError, AudioReadError, UsageError
from iseparate.evaluate.oracle import oracle
from iseparate.evaluate.targets import ACCOMPANIMENT, VOCALS, canonical
from iseparate.evaluate.track_audio import Track, TrackAudio, readable
from iseparate.types import Samples

MIXTURE = "mixture"

Report = Callable[[float], None]
"""Told how many seconds of the track are separated."""


@dataclass(frozen=True)
class Estimator:
    """Makes the estimates of a track."""

    name: str
    kind: Literal["model", "oracle", "mixture", "files"]
    estimate: Callable[[TrackAudio, Report], Mapping[str, Any]]
    """``[C, T]`` by name, at the track's rate; AudioError where there are none."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """All that changes a sample of the estimates: hash of the weights, settings. Plain JSON."""


def separating(
    name: str,
    separate: Callable[[Samples, int, Report], Mapping[str, Samples]],
    identity: Mapping[str, Any],
) -> Estimator:
    """A model, given as a function of the mixture ``[C, T]`` and its rate in Hz."""

    def estimate(audio: TrackAudio, report: Report) -> Mapping[str, Samples]:
        return separate(audio.mix, audio.track.sample_rate, report)

    return Estimator(readable(name), "model", estimate, identity)


def mixture_estimator() -> Estimator:
    """The mixture as the estimate of everything: what a score is worth that needs no model."""

    def estimate(audio: TrackAudio, report: Report) -> Mapping[str, Samples]:
        del report
        # Where nobody sings, accompaniment and mixture are one, and to score that is to score nothing.
        accompaniment = [ACCOMPANIMENT] if VOCALS in audio.track.stems else []
        return dict.fromkeys((*audio.track.stems, *accompaniment), audio.mix)

    return Estimator(MIXTURE, "mixture", estimate)


def oracle_estimator(name: str) -> Estimator:
    """An oracle by name; UnknownModelError with the nearest ones."""
    chosen = oracle(name)

    def estimate(audio: TrackAudio, report: Report) -> Mapping[str, Samples]:
        del report
        return chosen.separate(audio.mix, audio.stems)

    return Estimator(name, "oracle", estimate, {"oracle": repr(chosen)})


def stored_estimates(folder: Path, tracks: Iterable[Track], name: str | None = None) -> Estimator:
    """Stems on disk: ``folder/<track>/<stem>.wav``, or museval's ``folder/<subset>/<track>/<stem>.wav``.

    Every track is expected to have the stems that any of them has.

    Raises:
        UsageError: no folder, or none for any of the tracks.
    """
    tracks = list(tracks)
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; --estimates takes one with a folder of stems for each track")
    expected = {stem for track in tracks for stem in _found(folder, track)}
    if not expected:
        wanted = tracks[0].name if tracks else "TRACK"
        raise UsageError(
            f"{folder} holds stems of none of the {len(tracks)} tracks; expected {folder / wanted / 'vocals.wav'} and "
            f"the like{_nearest(folder, wanted)}"
        )

    def estimate(audio: TrackAudio, report: Report) -> Mapping[str, Samples]:
        del report
        files = _found(folder, audio.track)
        missing = sorted(expected - files.keys())
        if missing:
            place = folder / audio.track.name
            raise AudioReadError(
                f"the estimate of {', '.join(missing)} is missing: expected a file of that name in {place}, as other "
                "tracks have"
            )
        for stem, (first, *more) in files.items():
            if more:
                raise AudioFormatError(f"{first} and {more[0]} are both estimates of {stem}; keep one of them")
        return {stem: _read(path, audio.track) for stem, (path,) in files.items()}

    place = folder.resolve()
    return Estimator(readable(name or place.name), "files", estimate, {"estimates": readable(str(place))})


_SOUND = {".wav", ".flac", ".mp3", ".m4a", ".mp4", ".ogg", ".opus", ".aif", ".aiff", ".w64", ".caf"}


def _found(folder: Path, track: Track) -> dict[str, list[Path]]:
    """The files of a track's estimates by canonical stem."""
    if Path(track.name).name != track.name:
        return {}
    files: dict[str, list[Path]] = {}
    places = [folder / track.name] + ([folder / track.subset / track.name] if track.subset else [])
    for place in places:
        if not place.is_dir():
            continue
        for path in sorted(place.iterdir()):
            stem = canonical(path.stem.lower())
            if path.suffix.lower() not in _SOUND or stem == MIXTURE or path.name.startswith("."):
                continue
            files.setdefault(stem, []).append(path)
    return files


def _read(path: Path, track: Track) -> Samples:
    with Decoder(path) as decoder:
        rate = decoder.info.sample_rate
        if rate != track.sample_rate:
            raise AudioFormatError(
                f"{path} has {rate} Hz and its track {track.sample_rate} Hz; estimates are scored at the track's rate, "
                "so convert them"
            )
        return np.concatenate(list(decoder.blocks()), axis=1)


def _nearest(folder: Path, wanted: str) -> str:
    near = difflib.get_close_matches(wanted, [path.name for path in folder.iterdir()], n=1, cutoff=0.4)
    return f"; there is {folder / near[0]}" if near else ""
