"""Speakers keep their numbers, however a network shuffles them."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from toy_models import RATE

from iseparate.audio.layout import unnamed_layout
from iseparate.engine.order import StemOrder
from iseparate.engine.plan import Plan, Span
from iseparate.engine.stream import SongStream
from iseparate.models._base import SeparationModel
from iseparate.types import ModelSpec

SEGMENT, STEMS = 1000, 3


class Shuffler(SeparationModel):
    """Parts a signal into bands, and hands them out in an order of each call's own."""

    def __init__(self, in_any_order=True, shuffles=True):
        super().__init__()
        self.spec = ModelSpec(
            stems=("speaker1", "speaker2", "speaker3"),
            sample_rate=RATE,
            channels=1,
            default_segment_seconds=SEGMENT / RATE,
            default_overlap=0.5,
            stems_in_any_order=in_any_order,
        )
        self.shuffles = shuffles
        self.calls = 0

    def forward(self, mix, track=None):
        self.calls += self.shuffles
        spectra = torch.fft.rfft(mix)
        place = torch.arange(spectra.shape[-1]) / spectra.shape[-1]
        bands = [(place < 0.1), (place >= 0.1) & (place < 0.3), place >= 0.3]
        stems = [torch.fft.irfft(torch.where(band, spectra, 0), n=mix.shape[-1]) for band in bands]
        shifts = [self.shuffles * (self.calls + song) for song in range(len(mix))]
        return torch.stack([song.roll(shift, 0) for song, shift in zip(torch.stack(stems, 1), shifts, strict=True)])


def separated(model, channels, batch_size=1, samples=6500):
    song = 0.1 * np.random.default_rng(0).standard_normal((1, samples)).astype(np.float32)
    song = np.concatenate([song, -0.5 * np.roll(song, 1), song])[:channels]
    song[1:] = np.abs(song[1:]) * np.sign(song[:1])  # the sides have something in common, as sides of a song have
    stream = SongStream(model, [Plan.for_model(model.spec)], RATE, unnamed_layout(channels), batch_size=batch_size)
    blocks = list(stream.run(np.split(song, range(333, samples, 333), 1)))
    return np.concatenate([np.stack(list(block.stems.values())) for block in blocks], -1)


def difference(found, plain):
    """Under the one order of the whole song that fits best."""
    return min(np.abs(found[list(order)] - plain).max() for order in permutations(range(STEMS)))


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_each_stem_stays_itself(channels, batch_size):
    plain = separated(Shuffler(in_any_order=False, shuffles=False), channels)
    assert plain.std() > 1e-2
    assert difference(separated(Shuffler(), channels, batch_size), plain) < 1e-6


@pytest.mark.parametrize("channels", [1, 2])
def test_without_it_they_are_mixed_up(channels):
    plain = separated(Shuffler(in_any_order=False, shuffles=False), channels)
    assert difference(separated(Shuffler(in_any_order=False), channels), plain) > 1e-2


def test_what_is_silent_or_alone_stays_as_it_is():
    order = StemOrder()
    one = np.ones((1, 1, 1, 10), np.float32)
    assert order.settle(Span(0, 0, 10, 0, 10), one) is one
    many = np.zeros((1, 7, 1, 10), np.float32)
    assert order.settle(Span(0, 0, 10, 0, 10), many) is many
    silence, numbered = np.zeros((2, 3, 1, 10), np.float32), np.arange(3, dtype=np.float32)[None, :, None, None]
    order.settle(Span(0, 0, 10, 0, 10), silence)
    # Segments that only touch have nothing in common.
    for index, start in enumerate((5, 15, 40), 1):
        settled = order.settle(Span(index, start, start + 10, start, start + 10), silence + numbered)
        assert np.array_equal(settled[0, :, 0, 0], [0, 1, 2])
