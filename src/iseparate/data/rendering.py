"""How far songs are that are made when a data set is first opened: told to whoever waits for them.

The one who waits (a door) and the one who renders (a kind of data set) are far apart, and between them `open_dataset`
knows nothing of rendering; so the word goes past it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Progress = Callable[[int, int], None]
"""Called with the songs that are done, and with how many there will be."""

_TOLD: ContextVar[Progress | None] = ContextVar("told", default=None)


@contextmanager
def telling(progress: Progress | None) -> Iterator[None]:
    """What is rendered inside of the block is told to `progress`; None: to nobody."""
    token = _TOLD.set(progress)
    try:
        yield
    finally:
        _TOLD.reset(token)


def told() -> Progress | None:
    """Who is to be told now; None: nobody."""
    return _TOLD.get()
