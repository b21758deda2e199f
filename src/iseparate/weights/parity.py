"""How far the published systems are from the original programs' output: what ``docs/measure_parity.py`` found.

The figures are in ``parity.json`` beside this file, which that script writes and nobody edits. A *golden* is an input,
a checkpoint, and what the original program made of them; see ``tests/parity``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources

FILE_NAME = "parity.json"


@dataclass(frozen=True)
class Comparison:
    """One golden in one setting of the original program."""

    golden: str
    variant: str
    error: float
    """Largest difference of any compared sample of any stem; full scale is 1."""
    tolerance: float
    proves: tuple[str, ...]
    """The published systems that the golden stands for."""


@dataclass(frozen=True)
class ParityRecord:
    """All comparisons, and when and where they were made."""

    date: str
    commit: str
    processor: str
    comparisons: tuple[Comparison, ...]

    def worst(self, systems: Iterable[str]) -> Comparison | None:
        """The largest error over the goldens of any of these systems; None: no golden stands for one of them."""
        named = set(systems)
        found = [comparison for comparison in self.comparisons if named & set(comparison.proves)]
        return max(found, key=lambda comparison: comparison.error, default=None)


@cache
def measured_parity() -> ParityRecord:
    """The record that ships with this version."""
    content = json.loads(resources.files("iseparate.weights").joinpath(FILE_NAME).read_text(encoding="utf-8"))
    comparisons = tuple(Comparison(**{**row, "proves": tuple(row["proves"])}) for row in content["comparisons"])
    return ParityRecord(content["date"], content["commit"], content["processor"], comparisons)
