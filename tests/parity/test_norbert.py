"""Wiener filters against norbert 0.2.1, its later version, and openunmix 1.3.0, every array of the golden.

The golden has frames, bins, channels, sources, where the house has sources, channels, frames, bins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from iseparate.nn.wiener import (
    WienerRule,
    expectation_maximisation,
    local_gaussian_model,
    residual_magnitude,
    softmask,
    wiener,
)

FOLDER = Path(__file__).parent / "goldens" / "norbert"
TOLERANCE = json.loads((FOLDER / "provenance.json").read_text())["tolerance"]
EPS = float(np.finfo(np.float64).eps)

with np.load(FOLDER / "input.npz") as arrays:
    V = torch.from_numpy(arrays["v"]).permute(3, 2, 0, 1).double()
    X = torch.from_numpy(arrays["x"]).permute(2, 0, 1).to(torch.complex128)
with np.load(FOLDER / "expected.npz") as arrays:
    EXPECTED = dict(arrays)


def outward(sources: Tensor) -> Tensor:
    return sources.permute(2, 3, 1, 0)


def after_one_step() -> Tensor:
    return expectation_maximisation(softmask(V, X, EPS), X, 1)


def with_residual(autoscale: bool) -> Tensor:
    """One source and what it leaves."""
    return wiener(residual_magnitude(V[:1], X, autoscale=autoscale), X)


CASES: dict[str, Callable[[], Tensor]] = {
    "pypi-0.2.1/wiener-default": lambda: outward(wiener(V, X)),
    "pypi-0.2.1/wiener-it1-softmask1-complex64": lambda: outward(wiener(V.float(), X.to(torch.complex64))),
    "pypi-0.2.1/wiener-it2-softmask0-eps1e-3": lambda: outward(wiener(V, X, 2, False, eps=1e-3)),
    "pypi-0.2.1/softmask-default": lambda: outward(softmask(V, X, EPS)),
    "pypi-0.2.1/residual_model-alpha1": lambda: outward(residual_magnitude(V[:2], X)),
    "pypi-0.2.1/residual_model-alpha2": lambda: outward(residual_magnitude(V[:2] ** 2, X, alpha=2)),
    "pypi-0.2.1/wiener-it1-residual": lambda: outward(wiener(V[:1], X, residual=True)),
    "pypi-0.2.1/em-it2-y": lambda: outward(expectation_maximisation(softmask(V, X, EPS), X, 2)),
    # What the last step has estimated before it separates again.
    "pypi-0.2.1/em-it2-v": lambda: local_gaussian_model(after_one_step(), EPS)[0].permute(1, 2, 0),
    "pypi-0.2.1/em-it2-R": lambda: local_gaussian_model(after_one_step(), EPS)[1].permute(3, 1, 2, 0),
    "git-head/residual_model-alpha1": lambda: outward(residual_magnitude(V[:2], X, autoscale=False)),
    "git-head/residual_model-alpha2": lambda: outward(residual_magnitude(V[:2] ** 2, X, alpha=2, autoscale=False)),
    "git-head/wiener-it1-residual": lambda: outward(with_residual(autoscale=False)),
}


def found(key: str) -> Tensor:
    if key in CASES:
        return CASES[key]()
    match = re.fullmatch(r"(pypi-0.2.1|openunmix-f32|openunmix-f64)/wiener-it(\d)-softmask(\d)(?:-residual(\d))?", key)
    assert match, f"no case for {key}"
    rule = WienerRule.NORBERT if match[1] == "pypi-0.2.1" else WienerRule.OPEN_UNMIX_1_3
    v, x = (V.float(), X.to(torch.complex64)) if match[1] == "openunmix-f32" else (V, X)
    return outward(wiener(v, x, int(match[2]), match[3] == "1", match[4] == "1", rule))


@pytest.mark.parametrize("key", sorted(EXPECTED))
def test_every_array_of_the_golden(key):
    ours, expected = found(key).numpy(), EXPECTED[key]
    assert ours.shape == expected.shape
    largest = np.abs(expected).max()
    # Where values are in the thousands (energies), the absolute tolerance would ask for less than their rounding.
    assert np.abs(ours - expected).max() <= min(TOLERANCE["max_abs"], TOLERANCE["relative_to_max"] * largest)


@pytest.mark.parametrize("key", [key for key in sorted(EXPECTED) if key.startswith("openunmix-f64")])
def test_the_fault_of_open_unmix_is_confined_to_its_own_rule(key):
    """Its ``atan2`` writes ones into silence; the plain rule differs there and where that spreads."""
    _, iterations, use_softmask, residual = re.fullmatch(r"(.+)-it(\d)-softmask(\d)-residual(\d)", key).groups()
    clean = outward(wiener(V, X, int(iterations), use_softmask == "1", residual == "1", WienerRule.OPEN_UNMIX)).numpy()
    difference = np.abs(clean - EXPECTED[key])
    silent = (X == 0).permute(1, 2, 0).numpy()
    assert silent.any()
    if use_softmask == "1" or (iterations, residual) == ("0", "0"):
        assert difference.max() < 1e-4
    else:
        assert difference[silent].max() > 0.5
    if iterations == "0":
        assert difference[~silent].max() < 1e-4
