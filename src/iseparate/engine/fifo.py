"""Samples that wait for others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Fifo:
    """Samples waiting on the last axis, first in first out."""

    def __init__(self) -> None:
        self._blocks: list[Array] = []
        self.size = 0
        self.total = 0
        self.channels = 0

    def push(self, block: Array) -> None:
        self.channels = block.shape[0]
        self._blocks.append(block)
        self.size += block.shape[-1]
        self.total += block.shape[-1]

    def pop(self, samples: int) -> Array:
        """The oldest `samples`; silence where there are not as many (a resampler's last one or two)."""
        joined = self._blocks[0] if len(self._blocks) == 1 else np.concatenate(self._blocks, -1)
        taken, rest = joined[..., :samples], joined[..., samples:]
        self._blocks = [rest.copy()]
        self.size = rest.shape[-1]
        missing = samples - taken.shape[-1]
        return np.pad(taken, [(0, 0)] * (taken.ndim - 1) + [(0, missing)]) if missing > 0 else taken

    def close(self) -> None:
        """Let go of what is still waiting."""
        self._blocks.clear()
