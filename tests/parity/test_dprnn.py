"""DPRNN equals asteroid's, with and without MulCat layers, through the shipped importer."""

from __future__ import annotations

import pytest
from waveform_golden import assert_asteroid_is_equal


@pytest.mark.parametrize("name", ["asteroid_dprnn_2src", "asteroid_dprnn_4src"])
def test_asteroid(name: str) -> None:
    assert_asteroid_is_equal(name)
