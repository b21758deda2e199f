"""The table of kinds of data sets: filled by the files in ``datasets/``, read by `iseparate.data.open`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from iseparate.data.track import Track

Mixing = Literal["any", "random", "aligned"]


@dataclass(frozen=True)
class PassedOver:
    """Something in the folder that looks like a part of the data set and is none."""

    path: Path
    reason: str
    """The second half of a sentence that begins with the path."""


Lister = Callable[[Path], Iterable[Track | PassedOver]]


@dataclass(frozen=True)
class Kind:
    """One layout of files, or one published data set."""

    name: str
    list_tracks: Lister
    """Every track below a root, in a fixed order. Opens no sound file; OSError where a folder cannot be read."""
    recognises: Callable[[Path], bool]
    """True where a root is certainly of this kind: what is asked when the user names none."""
    sought: str
    """What such a root holds, for the sentence that says that it does not."""
    subsets: tuple[str, ...] = ()
    """Names that a track's subset can have; empty: none has a subset."""
    stems: tuple[str, ...] = ()
    """The stems that every track should have; empty: whatever is found."""
    whole: Mapping[str, int] = field(default_factory=dict, hash=False)
    """How many tracks the published data set has, by subset."""
    residual_limit_db: float = -30.0
    """How loud mixture minus stems may be beside the mixture before `iseparate.data.check` calls it a fault. Tracks
    with lossy files are allowed more there."""
    licence: str = "unknown: it is the owner's"
    mixing: Mixing = "any"
    """How training may put mixtures together: as it likes, from stems of different songs, or of one song only."""
    training_only: str = ""
    """Why whole songs cannot be scored; empty: they can."""
    precedence: int = 0
    """Recognition goes from the lowest to the highest."""
    locate: Callable[[str], Path] | None = None
    """The folder that words stand for which are no path, such as ``0.5@7``, made now if need be; UsageError."""


_TABLE: dict[str, Kind] = {}


def dataset(
    name: str,
    *,
    sought: str,
    recognises: Callable[[Path], bool] = lambda _: False,
    subsets: tuple[str, ...] = (),
    stems: tuple[str, ...] = (),
    whole: Mapping[str, int] | None = None,
    residual_limit_db: float = -30.0,
    licence: str = "unknown: it is the owner's",
    mixing: Mixing = "any",
    training_only: str = "",
    precedence: int = 0,
    locate: Callable[[str], Path] | None = None,
) -> Callable[[Lister], Lister]:
    """Put the decorated function, which lists a root's tracks, into the table under `name`; see `Kind`."""

    def add(list_tracks: Lister) -> Lister:
        if name in _TABLE:
            raise ValueError(f"two kinds of data sets are registered as {name!r}")
        _TABLE[name] = Kind(
            name,
            list_tracks,
            recognises,
            sought,
            subsets,
            stems,
            whole or {},
            residual_limit_db,
            licence,
            mixing,
            training_only,
            precedence,
            locate,
        )
        return list_tracks

    return add


@cache
def kinds() -> dict[str, Kind]:
    """Every kind by name."""
    from iseparate.data import datasets

    for module in pkgutil.iter_modules(datasets.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{datasets.__name__}.{module.name}")
    return dict(sorted(_TABLE.items()))
