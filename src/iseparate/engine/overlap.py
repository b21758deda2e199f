"""A song cut into chunks as it arrives, and put together again as the chunks come back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from iseparate.engine.plan import Plan, Span

Array = NDArray[np.float32]


class Chunker:
    """Cuts an arriving signal along a plan, holding no more of it than the next span needs.

    Signals are ``[..., samples]``; the leading axes are the caller's.
    """

    def __init__(self, plan: Plan):
        self._plan = plan
        self._next = 0
        self._held: Array | None = None
        self._held_start = 0
        self._arrived = 0

    def push(self, block: Array) -> Iterator[tuple[Span, Array]]:
        """Take the next block; yield each span that can be read whole by now."""
        self._held = block if self._held is None else np.concatenate([self._held, block], -1)
        self._arrived += block.shape[-1]
        while True:
            span = self._plan.span(self._next)
            # One sample more than the span, so that a span at the very end is left to `flush`, which knows the end.
            if span.stop >= self._arrived:
                break
            yield from self._cut(span)

    def flush(self) -> Iterator[tuple[Span, Array]]:
        """The signal is over: yield the spans that reach its end."""
        while self._arrived and self._plan.is_needed(self._next, self._arrived):
            yield from self._cut(self._plan.span(self._next, self._arrived))

    def _cut(self, span: Span) -> Iterator[tuple[Span, Array]]:
        self._next += 1
        held = self._held
        assert held is not None
        if span.keep_stop > 0:
            first, last = max(span.start, 0), min(span.stop, self._arrived)
            inside = held[..., first - self._held_start : last - self._held_start]
            before, after = first - span.start, span.stop - last
            if before or after:
                inside = np.pad(inside, [(0, 0)] * (inside.ndim - 1) + [(before, after)])
            yield span, inside
        passed = max(self._plan.span(self._next).start, 0) - self._held_start
        if passed > 0:
            # A copy: a view would keep the whole of the old buffer alive.
            self._held = held[..., passed:].copy()
            self._held_start += passed


class OverlapAdd:
    """Adds up the outputs of a plan's spans, in order, and lets go of every sample that is finished."""

    def __init__(self, plan: Plan):
        self._plan = plan
        # Spans that abut or add up by themselves need no weights: of a segment of an hour they would take gigabytes.
        self._weights = np.array(plan.weights(), np.float32) if plan.is_weighted else None
        self._sum: Array | None = None
        self._weight_sum: Array | None = None
        self._start = 0  # of the sums, in samples of the song

    def push(self, span: Span, output: Array) -> Array:
        """Add a span's output ``[..., length]``; returns the samples ``[..., n]`` that are final now."""
        kept = output[..., span.keep_start - span.start : span.keep_stop - span.start]
        weights = self._weights if self._weights is None else self._weights[: kept.shape[-1]]
        start = span.keep_start
        if start < self._start:  # what lies before the song, or the part of a shifted first span that does
            kept = kept[..., self._start - start :]
            weights = weights if weights is None else weights[self._start - start :]
            start = self._start
        self._grow(kept, start + kept.shape[-1] - self._start)
        assert self._sum is not None
        into = slice(start - self._start, start - self._start + kept.shape[-1])
        if weights is None:
            self._sum[..., into] += kept
        else:
            assert self._weight_sum is not None
            self._sum[..., into] += kept * weights
            self._weight_sum[into] += weights
        return self._release(max(self._plan.span(span.index + 1).keep_start, 0))

    def flush(self, song_samples: int) -> Array:
        """The rest, up to the song's length."""
        return self._release(song_samples)

    def _grow(self, like: Array, length: int) -> None:
        if self._sum is None:
            self._sum = np.zeros((*like.shape[:-1], length), np.float32)
            self._weight_sum = np.zeros(length, np.float32)
        missing = length - self._sum.shape[-1]
        if missing > 0:
            assert self._weight_sum is not None
            self._sum = np.pad(self._sum, [(0, 0)] * (self._sum.ndim - 1) + [(0, missing)])
            self._weight_sum = np.pad(self._weight_sum, (0, missing))

    def _release(self, until: int) -> Array:
        assert self._sum is not None
        assert self._weight_sum is not None
        n = max(0, until - self._start)
        done = self._sum[..., :n]
        done = done.copy() if self._weights is None else done / self._weight_sum[:n]
        self._sum = self._sum[..., n:].copy()
        self._weight_sum = self._weight_sum[n:].copy()
        self._start += n
        return done
