"""Scores of whole songs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from small_training import recipe, write_songs

from iseparate.data.open import open_dataset
from iseparate.train.judge import baseline, figures, scores
from iseparate.train.recipe import network_config


@pytest.fixture
def network():
    arch, config = network_config(recipe("model.config.targets=[vocals, drums]", "model.config.residual=null"))
    return arch.model(config).train()


@pytest.fixture
def songs(tmp_path) -> Path:
    return write_songs(tmp_path / "songs", count=2)


def test_means_over_songs_without_those_that_have_no_score(network, songs):
    found = iter([{"vocals": 1.0, "drums": math.nan}, {"vocals": 3.0, "drums": math.inf}])
    means = scores(network, open_dataset(songs).tracks, lambda *_: {}, lambda *_: next(found))
    assert means == {"vocals": 2.0}
    assert network.training


def test_what_separate_and_score_are_given(network, songs):
    def separate(model, mix, sample_rate):
        assert model is network
        assert not model.training
        return {"vocals": mix, "drums": mix}

    def score(references, estimates, mix, sample_rate):
        assert list(references) == ["vocals", "drums"]
        assert sample_rate == 8000
        np.testing.assert_allclose(references["vocals"] + references["drums"], mix, atol=1e-6)
        return dict.fromkeys(references, 0.0)

    assert scores(network, open_dataset(songs).tracks, separate, score) == {"vocals": 0.0, "drums": 0.0}


def test_the_baseline_is_the_mixture(network, songs):
    def score(references, estimates, mix, sample_rate):
        assert all(np.array_equal(estimate, mix) for estimate in estimates.values())
        return dict.fromkeys(estimates, 5.0)

    assert baseline(network, open_dataset(songs).tracks, score) == {"vocals": 5.0, "drums": 5.0}


def test_a_song_that_cannot_be_read_is_left_out(network, songs):
    path = songs / "song 0" / "drums.wav"
    path.write_bytes(path.read_bytes()[:60])
    said = []
    means = scores(network, open_dataset(songs).tracks, lambda *_: {}, lambda *_: {"vocals": 1.0}, said.append)
    assert means == {"vocals": 1.0}
    assert len(said) == 1
    assert said[0].startswith("song 0 is left out of the validation: ")


def test_an_error_in_scoring_is_no_fault_of_the_song(network, songs):
    def broken(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        scores(network, open_dataset(songs).tracks, lambda *_: {}, broken)
    assert network.training


def test_names_of_figures():
    assert figures({}) == {}
    assert figures({"a": 1.0, "b": 2.0}) == {"valid/score": 1.5, "valid/score/a": 1.0, "valid/score/b": 2.0}
