"""Songs without one of their stems, as a first model leaves them: what the network after it in a cascade hears.

A model that takes the vocals leaves traces of them, and takes some of the rest along. Each song becomes a folder with
the stems that are left, as they are, and one more, ``residue``: by how much what the model left differs from their sum.
So the sum of all files is what the second network will hear, and songs may still be mixed with each other.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from iseparate.data.alone import alone
from iseparate.data.open import Dataset
from iseparate.data.rendering import Progress
from iseparate.data.track import MIXTURE, Track
from iseparate.errors import AudioError, OutputError, UsageError
from iseparate.types import Samples
from iseparate.whole_file import write_whole

RESIDUE = "residue"
STRIPPED_FILE = "stripped.json"

Estimate = Callable[[Samples, int], Samples]
"""A mixture ``[C, n]`` and its rate -> the first model's estimate of the stem that is taken, of the same shape."""


@dataclass(frozen=True)
class Stripped:
    """What lies in the folder now."""

    folder: Path
    songs: int
    fresh: int
    """How many of them this run made."""
    failed: Mapping[str, str]
    """Songs that cannot be read: title to sentence."""


def strip(
    data: Dataset,
    folder: Path,
    stem: str,
    estimate: Estimate,
    model: str,
    progress: Progress = lambda _, __: None,
) -> Stripped:
    """Take a stem out of every song of a data set by a model; songs that are there already are left alone.

    Args:
        data: the songs, with their true stems; a residue that they have already becomes part of the new one.
        folder: new, empty, or with an earlier run's work; ``folder:FOLDER`` opens it. WAV files of 16 bits, or of
            32-bit floats where 16 bits would clip.
        stem: which one the model takes.
        estimate: the model.
        model: what the folder says of it; a folder of another model is refused.
        progress: see there.

    Raises:
        UsageError: the data are no whole songs, have no such stem, or name a song as no folder can be called; or the
            folder holds something else.
        OutputError: the disk refuses, or another run is writing there.
        AudioError: no song at all can be used.
    """
    data.require_songs()
    if stem not in data.stems:
        raise UsageError(f"{data.spec} has no {stem}: its stems are {', '.join(data.stems)}; name one of these")
    homes = [_home(folder, track) for track in data.tracks]
    failed: dict[str, str] = {}
    fresh = 0
    try:
        with alone(folder):
            _claim(folder, {"source": data.spec, "taken": stem, "by": model})
            for number, (track, home) in enumerate(zip(data.tracks, homes, strict=True)):
                progress(number, len(homes))
                if home.is_dir():
                    continue
                try:
                    _write_song(home, _stripped(track, stem, estimate), track.sample_rate)
                    fresh += 1
                except AudioError as error:
                    failed[track.title] = str(error)
            progress(len(homes), len(homes))
    except (OSError, soundfile.LibsndfileError) as error:
        raise OutputError(
            f"{folder} cannot be written ({error}); free some space or choose another folder with -o, finished songs "
            "are kept"
        ) from error
    if len(failed) == len(data.tracks):
        raise AudioError(f"no song of {data.spec} can be used, the first one since: {next(iter(failed.values()))}")
    return Stripped(folder, len(data.tracks) - len(failed), fresh, failed)


def _home(folder: Path, track: Track) -> Path:
    """Where a song goes. Subset and name may be out of a file that somebody else wrote."""
    home = folder / track.subset / track.name
    if folder.resolve() not in home.resolve().parents:
        raise UsageError(f"the song {track.title[:80]!r} would lie outside of {folder}; rename it in its data set")
    return home


def _stripped(track: Track, stem: str, estimate: Estimate) -> dict[str, Samples]:
    """The stems that are left, and the residue."""
    mix = track.read(MIXTURE)
    stems = {name: track.read(name) for name in track.stems if name not in (stem, RESIDUE)}
    left = mix - estimate(mix, track.sample_rate)
    return {**stems, RESIDUE: left - np.sum(list(stems.values()), axis=0, dtype=np.float32)}


def _write_song(home: Path, stems: Mapping[str, Samples], sample_rate: int) -> None:
    part = home.with_name(f".{home.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        for name, samples in stems.items():
            clips = np.abs(samples).max(initial=0.0) >= 1.0
            soundfile.write(part / f"{name}.wav", samples.T, sample_rate, subtype="FLOAT" if clips else "PCM_16")
        part.rename(home)
    finally:
        with suppress(OSError):
            shutil.rmtree(part)


def _claim(folder: Path, about: Mapping[str, str]) -> None:
    """Make the folder ours, or see that it is."""
    note = folder / STRIPPED_FILE
    if note.is_file():
        try:
            there = json.loads(note.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            there = None
        if there != about:
            facts = there if isinstance(there, dict) else {}
            differing = ", ".join(
                f"{name} {str(facts.get(name))[:60]} instead of {fact}"
                for name, fact in about.items()
                if facts.get(name) != fact
            )
            raise UsageError(f"{folder} holds songs that were stripped otherwise ({differing}); choose another with -o")
        return
    if any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UsageError(f"{folder} is not empty and holds no {note.name}; choose an empty folder with -o")
    write_whole(note, json.dumps(about, indent=1) + "\n")
