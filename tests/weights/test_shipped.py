"""Weights that come with the package: small, what their cards say, and trained."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from iseparate.data.synthetic.band import render_song
from iseparate.data.synthetic.sampled.sources import ALLOWED_LICENCES, OWN_SOUNDS, SOURCES
from iseparate.engine.separator import DEFAULT_MODEL
from iseparate.evaluate.sdr import usdr
from iseparate.weights.card import cards_of, find_card, load_cards
from iseparate.weights.load import load_model

SHIPPED = sorted(
    card.id for card in load_cards().values() if any(file.source.startswith("package:") for file in card.files)
)
BENCH = Path(__file__).parents[2] / "bench" / "results" / "band.json"
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


def test_every_sound_that_may_be_used_is_credited_with_its_licences_address():
    notice = (resources.files("iseparate") / "weights" / "shipped" / "NOTICE.txt").read_text(encoding="utf-8")
    for name in SHIPPED:
        assert f"{name}.safetensors" in notice
    for sound in [OWN_SOUNDS, *(source.credit_line() for source in SOURCES if source.allowed)]:
        assert (
            f"- {sound['name']}: {sound['licence']} ({ALLOWED_LICENCES[sound['licence']]}); {sound['credit']}" in notice
        )


def test_the_default_is_spleeters_vocals_and_what_ships():
    card = find_card(DEFAULT_MODEL)
    assert card.stems == ("vocals", *STEMS)
    assert card.parts == ("spleeter-2stems", "band")
    assert find_card("band").in_package
    assert not find_card("spleeter-2stems").in_package


@pytest.mark.parametrize("cascade", ["band-4stems", "d3net-band"])
def test_scores_on_the_cards_are_the_benchmarks_of_these_very_weights(cascade):
    card = find_card(cascade)
    digests = ", ".join(part.files[0].sha256[:8] for part in cards_of(card))
    rows = {row["song"]: row for row in json.loads(BENCH.read_text())["rows"] if row["estimate"] == cascade}
    assert {score.dataset for score in card.measured_scores} == set(rows)
    for score in card.measured_scores:
        row = rows[score.dataset]
        assert row["weights"] == digests
        assert score.values == {stem: float(row[f"{stem} dB"]) for stem in card.stems if row[f"{stem} dB"]}


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
