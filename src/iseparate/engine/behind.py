"""Work that is done beside what comes next."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")


class Behind(Generic[Item]):
    """Does something with each item in a thread, one item behind, so that a network need not wait for a disk.

    The context ends when the last item is done. What `work` raises comes out of the next `take`, or of the context's
    end; after it no other item is worked on.
    """

    def __init__(self, work: Callable[[Item], None]):
        self._work = work
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def take(self, item: Item) -> None:
        """Wait for the item before, and hand this one over."""
        self._settle()
        self._pending = self._thread.submit(self._work, item)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if error is None:
            self._settle()

    def _settle(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
