"""``KIND:PATH`` becomes tracks."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from iseparate.data.folders import contents
from iseparate.data.kinds import Kind, Mixing, PassedOver, kinds
from iseparate.data.rendering import Progress, telling
from iseparate.data.track import Track
from iseparate.errors import UsageError

AUTO = "auto"


@dataclass(frozen=True)
class Dataset:
    """The tracks that were found, and what is known of the kind."""

    kind: str
    root: Path
    subset: str | None
    """As it was asked for; None: all."""
    tracks: tuple[Track, ...]
    stems: tuple[str, ...]
    """The stems that each track should have; where the kind prescribes none, all that occur."""
    stems_are_fixed: bool
    """True where the kind prescribes its stems, so that a track without one is incomplete."""
    licence_note: str
    mixing: Mixing
    """How training may put mixtures together; see `iseparate.data.kinds.Kind`."""
    training_only: str
    """Why whole songs cannot be scored; empty: they can."""
    residual_limit_db: float
    missing: dict[str, int]
    """How many tracks of the published data set are not here, by subset; empty where none is."""
    passed_over: tuple[PassedOver, ...]
    """What looks like a track and is none."""

    @property
    def spec(self) -> str:
        """``KIND:PATH``, with which the same data set is opened again."""
        return f"{self.kind}:{self.root}"

    @cached_property
    def sample_rate(self) -> int | None:
        """The rate of all tracks; None where they differ. Opens a file of each track; AudioError."""
        rates = {next(iter(track.sources.values()))[0].sound.sample_rate for track in self.tracks if track.sources}
        return rates.pop() if len(rates) == 1 else None

    def track(self, title: str) -> Track:
        """The track of that title (``subset/name``) or, if it is the only one, that name; UsageError."""
        found = [t for t in self.tracks if t.title == title] or [t for t in self.tracks if t.name == title]
        if len(found) == 1:
            return found[0]
        near = difflib.get_close_matches(title, [t.title for t in self.tracks], n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise UsageError(f"{self.spec} has {len(found) or 'no'} tracks called {title[:80]!r}{hint}")

    def require_songs(self) -> None:
        """Raise UsageError where these are not whole songs, as scoring needs them."""
        if self.training_only:
            raise UsageError(
                f"{self.spec} is for training only: {self.training_only}; name a data set of whole songs, such as "
                "folder:PATH."
            )


def open_dataset(spec: str | Path, subset: str | None = None, *, progress: Progress | None = None) -> Dataset:
    """Find the tracks of a data set. Only folders are read, and at most one sound file.

    Args:
        spec: ``KIND:PATH``, or a plain path (or ``auto:PATH``), whose kind is then found out. The kinds are the files
            of ``data/datasets``: musdb18, musdb18hq, musdb18-7s, folder, msst-1 to msst-4, prepared, synthetic (also as
            ``synthetic:HOURS@SEED``, which is rendered into the cache on first use).
        subset: such as ``test``, or several joined by ``+``; None: all.
        progress: called with songs done and songs in all while they are rendered, where they are.

    Raises:
        UsageError: unknown kind or subset, no such path, or nothing of that kind there.
    """
    name, path = _parse(str(spec))
    root = Path(path).expanduser()
    try:
        kind = _recognise(root) if name == AUTO else kinds()[name]
        if kind.locate is not None and not root.exists():
            with telling(progress):
                root = kind.locate(path)
        if not root.exists():
            raise UsageError(f"{root} does not exist: expected {kind.sought}; check the path.")
        found = list(kind.list_tracks(root)) if kind.name == "msst-3" or root.is_dir() else []
        everything = tuple(item for item in found if isinstance(item, Track))
        if not everything:
            raise UsageError(f"{root} is no {kind.name}: looked for {kind.sought}; found {contents(root)}.")
    except OSError as error:
        raise UsageError(
            f"{error.filename or root!s} cannot be read ({error.strerror}): expected a folder of songs; check the path "
            "and its permissions."
        ) from error
    tracks = everything if subset is None else _of_subset(everything, subset, kind, root)
    asked = {track.subset for track in tracks} if subset is None else set(subset.split("+"))
    absent = {
        name: count - sum(track.subset == name for track in everything)
        for name, count in kind.whole.items()
        if subset is None or name in asked
    }
    return Dataset(
        kind=kind.name,
        root=root,
        subset=subset,
        tracks=tracks,
        stems=kind.stems or tuple(sorted({stem for track in tracks for stem in track.stems})),
        stems_are_fixed=bool(kind.stems),
        licence_note=kind.licence,
        mixing=kind.mixing,
        training_only=kind.training_only,
        residual_limit_db=kind.residual_limit_db,
        missing={name: count for name, count in absent.items() if count > 0},
        passed_over=tuple(item for item in found if isinstance(item, PassedOver)),
    )


def _parse(spec: str) -> tuple[str, str]:
    """Split into kind and path."""
    name, colon, path = spec.partition(":")
    if not colon or re.fullmatch("[A-Za-z]", name):  # a drive of Windows is no kind
        return AUTO, spec
    if name == AUTO or name in kinds():
        return name, path
    if "/" in name or Path(spec).exists():
        return AUTO, spec
    near = difflib.get_close_matches(name.lower(), kinds(), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UsageError(f"there is no kind of data set called {name[:80]!r}: {hint}expected {', '.join(kinds())}.")


def _recognise(root: Path) -> Kind:
    if not root.exists():
        raise UsageError(f"{root} does not exist: expected the folder of a data set; check the path.")
    for kind in sorted(kinds().values(), key=lambda kind: kind.precedence):
        if kind.recognises(root):
            return kind
    raise UsageError(
        f"no kind of data set is recognised in {root}: found {contents(root)}; name the kind, as in folder:PATH "
        f"(there is {', '.join(kinds())})."
    )


def _of_subset(tracks: tuple[Track, ...], subset: str, kind: Kind, root: Path) -> tuple[Track, ...]:
    asked = set(subset.split("+"))
    there = sorted({track.subset for track in tracks if track.subset})
    for name in sorted(asked):
        if name not in kind.subsets:
            near = difflib.get_close_matches(name, kind.subsets, n=1)
            known = ", ".join(kind.subsets) or "none"
            hint = f"; did you mean {near[0]}?" if near else "."
            raise UsageError(f"{kind.name} has no subset {name[:80]!r}: it has {known}{hint}")
        if name not in there:
            raise UsageError(
                f"{root} has no track of the subset {name}: found {', '.join(there) or 'tracks without a subset'}; "
                "choose another, or leave the subset out."
            )
    return tuple(track for track in tracks if track.subset in asked)
