"""Stems without names: which of a segment's outputs goes on with which of the one before."""

from __future__ import annotations

from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from iseparate.engine.plan import Span

Array = NDArray[np.float32]
_MOST_STEMS = 6
"""Seven would be 5040 orders to try; so many come as they are."""


class StemOrder:
    """Keeps the stems of a song in one order.

    A network trained under the best permutation decides anew with each segment, and for each side of a mono network's
    stereo song, which of its outputs is whose. What two segments have in common tells who is who: the order is taken
    that correlates best, as asteroid's ``LambdaOverlapAdd`` does. The sides of the first segment are compared whole.
    """

    def __init__(self) -> None:
        self._last: tuple[Span, Array] | None = None

    def settle(self, span: Span, output: Array) -> Array:
        """Stems ``[groups, S, C, n]`` of the next segment, put in order."""
        if not 1 < output.shape[1] <= _MOST_STEMS:
            return output
        if self._last is None:
            settled = np.stack([output[0], *(_ordered(group, group, output[0]) for group in output[1:])])
        else:
            last_span, last = self._last
            common = max(0, last_span.stop - span.start)
            before = last[..., span.start - last_span.start :][..., :common]
            after = output[..., : before.shape[-1]]
            settled = np.stack([_ordered(*group) for group in zip(output, after, before, strict=True)])
        self._last = span, settled
        return settled


def _ordered(stems: Array, heard: Array, known: Array) -> Array:
    """``[S, C, n]``, in the order in which `heard` is most like `known`; as it is where nothing tells."""
    heard, known = (x - x.mean(-1, keepdims=True) if x.shape[-1] else x for x in (heard, known))
    likeness = np.tensordot(known, heard, ((1, 2), (1, 2)))  # of known stem i to heard stem j
    places = range(len(stems))
    best = max(permutations(places), key=lambda order: float(likeness[places, order].sum()))
    return stems[list(best)]
