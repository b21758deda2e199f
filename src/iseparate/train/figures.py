"""The figures of an epoch: means that survive an interruption, over all processes that train together."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes."""


class Means:
    """Weighted means of named numbers, in float64."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._weight = 0.0

    def add(self, values: Mapping[str, float], weight: float) -> None:
        """Take in numbers; the names are the same each time."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + weight * value
        self._weight += weight

    def means(self, reduce: Reduce) -> dict[str, float]:
        """The means over all processes, which must all ask; empty where nothing was added."""
        total = self._total(reduce)
        return {name: value / total[-1] for name, value in zip(self._sums, total, strict=False)} if total[-1] else {}

    def state(self, reduce: Reduce, processes: int) -> dict[str, float]:
        """What a checkpoint keeps: each process goes on with an equal share of what all have."""
        total = self._total(reduce)
        return dict(zip([*self._sums, ""], (value / processes for value in total), strict=True))

    def load(self, state: Mapping[str, float]) -> None:
        """Go on from there."""
        self._sums = {name: float(value) for name, value in state.items() if name}
        self._weight = float(state.get("", 0.0))

    def _total(self, reduce: Reduce) -> list[float]:
        total: list[float] = reduce(torch.tensor([*self._sums.values(), self._weight], dtype=torch.float64)).tolist()
        return total
