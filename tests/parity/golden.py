"""Reading goldens: see the table in docs/explanation/parity.md for what they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent / "goldens"

ERRORS: dict[tuple[str, str], tuple[float, float]] = {}
"""Largest waveform error seen so far and its tolerance, by golden and variant: what docs/measure_parity.py prints."""


def assert_near(
    name: str, variant: str, ours: NDArray[np.float32], theirs: NDArray[np.float32], tolerance: float
) -> None:
    """Hold a waveform against the original's; full scale is 1."""
    assert ours.shape == theirs.shape
    error = float(np.abs(ours - theirs).max())
    ERRORS[name, variant] = max(ERRORS.get((name, variant), (0.0, tolerance)), (error, tolerance))
    assert error <= tolerance, (name, variant)


class Golden:
    """One frozen piece of evidence: facts, input, and what the original code made of it."""

    def __init__(self, name: str):
        self.name = name
        self.folder = FOLDER / name
        self.facts: dict[str, Any] = json.loads((self.folder / "facts.json").read_text())
        self.provenance: dict[str, Any] = json.loads((self.folder / "provenance.json").read_text())
        self.tolerance: float = self.provenance.get("tolerance", {}).get("max_abs", 1e-4)
        with np.load(self.folder / "input.npz") as arrays:
            self.mix: NDArray[np.float32] = arrays["mix"]

    def expected(self, variant: str) -> Iterator[tuple[str, tuple[Any, ...], NDArray[Any]]]:
        """Target, index into the full output, and the expected values there, for every key of a variant."""
        with np.load(self.folder / "expected.npz") as arrays:
            for key in arrays.files:
                match = re.fullmatch(r"([\w-]+)/(\w+)(?:\[(.*)\])?", key)
                if match and match[1] == variant:
                    yield match[2], parse_index(match[3] or "..."), arrays[key]


def parse_index(text: str) -> tuple[Any, ...]:
    """``...,10:20`` or ``:40:8,:,:`` as an index for NumPy."""
    return tuple(
        ... if part == "..." else slice(*(int(number) if number else None for number in part.split(":")))
        for part in text.split(",")
    )
