"""Weights that come with the package: small, what their cards say, and trained."""

from __future__ import annotations

import hashlib
from importlib import resources

import numpy as np
import pytest
import torch

from iseparate.data.synthetic.band import render_song
from iseparate.evaluate.sdr import usdr
from iseparate.weights.card import load_cards
from iseparate.weights.load import load_model

SHIPPED = sorted(
    card.id for card in load_cards().values() if any(file.source.startswith("package:") for file in card.files)
)
MOST_BYTES = 25_000_000
STEMS = ("drums", "bass", "other")


def test_both_networks_ship():
    assert SHIPPED == ["band", "band-d3net"]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_files_are_those_of_the_card(name):
    for file in load_cards()[name].files:
        content = (resources.files("iseparate") / file.source.removeprefix("package:")).read_bytes()
        assert len(content) == file.size_bytes <= MOST_BYTES
        assert hashlib.sha256(content).hexdigest() == file.sha256


def test_the_credits_lie_beside_them():
    notice = (resources.files("iseparate") / "weights" / "shipped" / "NOTICE.txt").read_text(encoding="utf-8")
    assert "CC-BY" in notice
    assert "iseparate synthesis" in notice


@pytest.mark.parametrize("name", SHIPPED)
def test_they_know_the_band(name):
    """Songs of seeds that no training had: each stem far better than the mixture as its estimate."""
    network = load_model(name)
    gains = []
    for seed in (100_007, 100_010):
        song = render_song(seed, 6.0, STEMS)
        mix = np.sum(list(song.values()), axis=0)
        with torch.inference_mode():
            found = network(torch.from_numpy(mix)[None])[0].numpy()
        for stem, estimate in zip(network.spec.stems, found, strict=True):
            if np.any(song[stem]):
                gains.append(usdr(song[stem], estimate) - usdr(song[stem], mix))
    assert min(gains) > 3
    assert np.median(gains) > 7
