"""Who plays a song where somebody other than the band's own synthesis may.

A song's parts are cast in `band.render` and asked for where a sound is needed: under each drum, below each harmony
part. In between lie the players, who read notes and know nothing of sounds; so the word goes past them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from iseparate.data.synthetic.drum_kit import Make
    from iseparate.data.synthetic.instruments import Instrument
    from iseparate.data.synthetic.voice import Singer


class Casting(Protocol):
    """What plays in place of the band's own sounds. None, or a piece that is not there: the own sound does."""

    def instrument(self, name: str, rng: np.random.Generator, role: str) -> Instrument | None:
        """An instrument of the harmony."""
        ...

    def bass(self, sound: str, rng: np.random.Generator) -> Instrument | None:
        """A bass."""
        ...

    def drums(self, kind: str) -> Mapping[str, Make]:
        """Pieces of a kit of that kind."""
        ...

    def singer(self, voice: str, style: str, rng: np.random.Generator) -> Singer | None:
        """A singer."""
        ...


_CAST: ContextVar[Casting | None] = ContextVar("cast", default=None)


@contextmanager
def playing(casting: Casting | None) -> Iterator[None]:
    """Inside of the block `casting` is who plays; None: own sounds only."""
    token = _CAST.set(casting)
    try:
        yield
    finally:
        _CAST.reset(token)


def cast() -> Casting | None:
    """Who plays now; None: own sounds only."""
    return _CAST.get()
