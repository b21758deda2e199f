"""The TasNet of LSTMs equals asteroid's, through the shipped importer. The paper's own has no original to compare."""

from __future__ import annotations

from waveform_golden import assert_asteroid_is_equal


def test_asteroid() -> None:
    assert_asteroid_is_equal("asteroid_lstm_tasnet")
