"""How nearly stems sum to their song."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from iseparate.engine.stream import StemBlock

LOWEST_DB = -200.0


class NullMeter:
    """Compares song and stems as they pass, on float samples at the song's rate.

    Args:
        stems: all that the model has; where some are not computed, there is nothing to compare.
    """

    def __init__(self, stems: Sequence[str]):
        self._stems = set(stems)
        self.samples = 0
        """Of the song, so far."""
        self._song = self._rest = 0.0
        self._complete = True

    def add(self, block: StemBlock) -> None:
        """Take the next stretch."""
        self.samples += block.mix.shape[1]
        self._complete &= set(block.stems) == self._stems
        rest = block.mix - np.sum(list(block.stems.values()), axis=0)
        self._rest += float(np.vdot(rest, rest))
        self._song += float(np.vdot(block.mix, block.mix))

    @property
    def null_db(self) -> float | None:
        """Energy of song minus stems against the song's; None where it says nothing (silence, not all stems)."""
        if not self._complete or not self._song:
            return None
        return round(max(LOWEST_DB, 10 * math.log10(max(self._rest / self._song, 1e-30))), 2)
