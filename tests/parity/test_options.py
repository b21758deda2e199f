"""Options of the original classes that no published system uses: each network equals the original's output.

Written by demucs 2.0.3 and asteroid 0.7.0; what each was built with is in ``provenance.json``.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from golden import FOLDER, assert_near
from waveform_golden import FORWARD, TOLERANCE, load, mix_of, whole

DEMUCS, ASTEROID = "demucs_options", "asteroid_options"


def cases(golden):
    return json.loads((FOLDER / golden / "provenance.json").read_text())["cases"]


def expected(golden, case):
    with np.load(FOLDER / golden / "expected.npz") as arrays:
        return arrays[case]


@pytest.mark.parametrize("case", cases(DEMUCS))
def test_demucs(case):
    """The whole song in one pass, at its own level."""
    tail = {"drop_tail": True} if case.startswith("tasnet") else {}
    model = load(DEMUCS, f"{case}.th", **tail)
    said = cases(DEMUCS)[case]["kwargs"]
    assert list(model.spec.stems) == said["sources"]
    assert model.spec.sample_rate == said["samplerate"]
    output = whole(model, mix_of(DEMUCS)[: model.spec.channels])
    assert_near(DEMUCS, case, np.asarray(output), expected(DEMUCS, case), TOLERANCE)


@pytest.mark.parametrize("case", cases(ASTEROID))
def test_asteroid(case):
    """One pass, at the level that the network gives."""
    model = load(ASTEROID, f"{case}.pth", **FORWARD)
    assert len(model.spec.stems) == cases(ASTEROID)[case]["kwargs"]["n_src"]
    output = whole(model, mix_of(ASTEROID))[:, 0]
    assert_near(ASTEROID, case, np.asarray(output), expected(ASTEROID, case), TOLERANCE)
