"""Where a training starts: anew, or from the checkpoint it left, if it is still the same training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from iseparate.data.manifest import DataManifest, make_manifest, read_manifest
from iseparate.data.open import Dataset
from iseparate.errors import OutputError, UsageError
from iseparate.train.checkpoint import read_checkpoint
from iseparate.train.module import LAST
from iseparate.train.recipe import Recipe, parse_recipe

MANIFEST = "data.json"
_MAY_CHANGE = (("loop", "epochs"), ("loop", "max_steps"), ("loop", "early_stopping_epochs"))
"""What a run that is taken up again may have otherwise: how long it lasts."""
_WORDS = (("title",), ("source",), ("notes",), ("provenance",))
"""What is said of the recipe and decides nothing."""


@contextmanager
def alone(folder: Path, is_first: bool = True) -> Iterator[None]:
    """No second training in the same folder at the same time; UsageError, OutputError."""
    if not is_first:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise UsageError(f"another training is writing to {folder}; wait for it, or choose another -o") from None
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written to ({error.strerror or error}); choose another place with -o"
        ) from error
    try:
        for unfinished in folder.glob(".*.part"):  # of a run that was killed while it saved
            unfinished.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def starting_point(folder: Path, recipe: Recipe, resume: bool) -> Mapping[str, Any] | None:
    """What the last checkpoint says of itself (see `iseparate.train.checkpoint`); None for a new start.

    Raises:
        UsageError: the folder holds a training and `resume` was not asked for, or the other way round; or the recipe
            is another one: which key, what it was and what it is.
        TrainingError: ``last.ckpt`` is no checkpoint.
    """
    last = folder / LAST
    if not resume:
        if last.exists():
            raise UsageError(f"{folder} holds a training already; go on with it by --resume, or choose another -o")
        return None
    if not last.exists():
        raise UsageError(f"{folder} holds no {LAST} to go on from; leave --resume out to start")
    about: Mapping[str, Any] = read_checkpoint(last)["iseparate"]
    then = parse_recipe(about["recipe"], str(last)).model_dump()
    for path, before, after in _differences(then, recipe.model_dump()):
        if path not in _MAY_CHANGE and path[:1] not in _WORDS:
            raise UsageError(
                f"the training in {folder} has {'.'.join(path)} {_brief(before)}, and the recipe now {_brief(after)}; "
                "go on with the same recipe, or choose another -o"
            )
    return about


def _differences(then: Any, now: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(then, dict) and isinstance(now, dict):
        for key in {**then, **now}:
            yield from _differences(then.get(key), now.get(key), (*path, str(key)))
    elif then != now:
        yield path, then, now


def _brief(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."


def manifest_of(
    dataset: Dataset, folder: Path, about: Mapping[str, Any] | None, report: Callable[[str], None] = lambda _: None
) -> DataManifest:
    """What the data are, down to the byte: computed at the start, and only held against the files later.

    Raises:
        UsageError: a run that is taken up again has other songs.
        AudioError: a file cannot be read.
        OutputError: the manifest cannot be written.
    """
    path = folder / MANIFEST
    if about is None:
        report(f"the data's files are being hashed ({len(dataset.tracks)} songs)")
        manifest = make_manifest(dataset)
        manifest.write(path)
        return manifest
    kept = read_manifest(path)
    if kept.total_sha256 != about["data"]["manifest_sha256"]:
        raise UsageError(f"{path} does not belong to {folder / LAST}; put the right one back, or start anew")
    difference = next(_other_songs(kept, dataset), None)
    if difference:
        raise UsageError(
            f"{folder} was trained on other data than {dataset.spec}: {difference}; name the same data, or choose "
            "another -o"
        )
    return kept


def _other_songs(kept: DataManifest, dataset: Dataset) -> Iterator[str]:
    """What the data has otherwise than its manifest, as far as names and sizes tell: hashing takes minutes."""
    then = {track.title: track for track in kept.tracks}
    now = {track.title: track for track in dataset.tracks}
    for title in sorted(then.keys() ^ now.keys()):
        yield f"{title} is {'missing' if title in then else 'new'}"
    for title in sorted(then.keys() & now.keys()):
        sizes = {(file.source, Path(file.path).name): file.size_bytes for file in then[title].files}
        for source, clips in now[title].sources.items():
            for clip in clips:
                before = sizes.get((source, clip.path.name))
                try:
                    size = clip.path.stat().st_size
                except OSError as error:
                    yield f"{clip.path} cannot be read ({error.strerror})"
                else:
                    if before != size:
                        yield f"{title} has another {source}"
