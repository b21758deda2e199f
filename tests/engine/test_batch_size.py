from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_models import RATE, Convolutions, Loudness, Shares, noise, separator_of, write_song

from iseparate.audio.decode import probe
from iseparate.engine.predict import predict
from iseparate.models.demucs import Config, Demucs


def liking(model, batch_seconds):
    model.spec = replace(model.spec, batch_seconds=batch_seconds)
    return model


def watched(model):
    """The model, and how many segments each of its runs has."""
    batches, run = [], model.separate_segment

    def separate_segment(mix, track=None):
        batches.append(len(mix))
        return run(mix, track)

    model.separate_segment = separate_segment
    return model, batches


@pytest.mark.parametrize(
    ("batch_seconds", "segment_seconds", "batch_size", "expected"),
    [(0.0, 0.5, None, 1), (2.0, 0.5, None, 4), (2.0, 5.0, None, 1), (2.0, 0.51, None, 4), (2.0, 0.5, 3, 3)],
)
def test_what_is_run_together_by_default_is_a_length(batch_seconds, segment_seconds, batch_size, expected):
    model, batches = watched(liking(Shares(), batch_seconds))
    separator = separator_of(model, segment_seconds=segment_seconds, batch_size=batch_size)
    assert separator.batch_size == expected
    separator.separate(noise(20 * RATE), RATE)
    assert max(batches) == expected


def test_a_song_comes_out_the_same():
    song = noise(3 * RATE)
    together, alone = (separator_of(liking(Convolutions(), b), segment_seconds=0.25) for b in (1.0, 0.0))
    assert (together.batch_size, alone.batch_size) == (4, 1)
    stems, same = together.separate(song, RATE), alone.separate(song, RATE)
    assert max(np.abs(stems[name] - same[name]).max() for name in stems) < 1e-6


@pytest.mark.parametrize(
    ("model", "channels", "expected"),
    [(Shares, 2, [4]), (Shares, 6, [24]), (Loudness, 6, [4])],  # with statistics of its own a group runs alone
)
def test_the_prediction_runs_what_a_song_will(tmp_path, model, channels, expected):
    song = write_song(tmp_path / "song.wav", noise(5 * RATE, channels))
    network, batches = watched(liking(model(), 2.0))
    separator = separator_of(network, segment_seconds=0.5)
    prediction = predict(separator, probe(song))
    assert sorted(set(batches)) == expected
    batches.clear()
    separator.separate(song)
    assert max(batches) == expected[0]
    assert prediction.seconds > 0


def test_a_song_of_one_segment_is_predicted_as_one(tmp_path):
    network, batches = watched(liking(Shares(), 40.0))
    predict(separator_of(network, segment_seconds=10.0), probe(write_song(tmp_path / "song.wav", noise(RATE))))
    assert set(batches) == {1}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, 4), ({"segment_seconds": 40.0, "neighbours": False}, 1), ({"lstm_layers": 0}, 1)],
)
def test_demucs_runs_some_forty_seconds_at_a_time(settings, expected):
    widths = {"widths": tuple(4 for _ in range(6))}  # the published depth, which decides what is read beside a segment
    with torch.device("meta"):
        model = Demucs(Config(**(widths | settings)))
    assert separator_of(model.to_empty(device="cpu")).batch_size == expected
