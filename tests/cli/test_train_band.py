"""What `make train-band` does, in small: songs by rule, a first model takes their vocals, a network learns the rest.

And what `tools/ship_band.py` makes of it.
"""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch

from iseparate.train.checkpoint import read_checkpoint
from iseparate.weights.card import parse_card
from iseparate.weights.load import read_weights

ROOT = Path(__file__).parents[2]
CARDS = "src/iseparate/weights/cards"

TINY = (
    "model.config={widths: [4, 6, 8], halve_frames: [true, false], narrowing: 2, recurrent_size: 4, linear_bins: 96, "
    "group_bins: 2, frame_samples: 256, hop_samples: 64}"
)
TINY_D3NET = (
    "model.config={body: d3net, growth: [2, 3, 2], layers: 2, start: 4, linear_bins: 96, group_bins: 2, "
    "frame_samples: 256, hop_samples: 64}"
)
SMALL = (
    *("--set", "data.excerpt_samples=8000", "--set", "data.excerpts_per_epoch=8"),
    *("--set", "schedule.steps=4", "--set", "schedule.warmup_steps=1", "--set", "loop.epochs=2"),
    *("--set", "loop.batch_size=4", "--workers", "0", "-d", "cpu"),
)


@pytest.fixture
def songs(iseparate, tiny):
    """Two songs of three seconds, rendered and stripped in the folder of that name."""

    def make(folder: str) -> str:
        words = ("--hours", "0.0016", "--song-seconds", "3", "--format", "wav", "-o", f"{folder}/songs")
        assert iseparate("data", "synthesize", *words).status == 0
        stripped = iseparate("data", "strip", f"synthetic:{folder}/songs", "-o", f"{folder}/stripped", "-n", tiny)
        assert stripped.status == 0, stripped.err
        assert "2 songs without vocals" in stripped.out
        return f"folder:{folder}/stripped"

    return make


def weights(folder):
    return read_checkpoint(folder / "last.ckpt")["state_dict"]


def test_the_same_seed_gives_the_same_network_in_one_go_or_in_slices(iseparate, songs, here):
    once = iseparate("train", "band", "--data", songs("a"), "-o", "once", "--set", TINY, *SMALL)
    assert once.status == 0, once.err
    slices = ("train", "band", "--data", songs("b"), "-o", "slices", "--set", TINY, *SMALL, "--hours", "1e-9")
    assert iseparate(*slices).status == 0
    for _ in range(9):
        if read_checkpoint(here / "slices" / "last.ckpt")["global_step"] == 4:
            break
        assert iseparate(*slices, "--resume").status == 0
    assert read_checkpoint(here / "slices" / "last.ckpt")["global_step"] == 4
    first, second = weights(here / "once"), weights(here / "slices")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_stripped_is_not_made_twice(iseparate, songs, tiny, here):
    songs("a")
    before = (here / "a/stripped/stripped.json").stat().st_mtime_ns
    again = iseparate("data", "strip", "synthetic:a/songs", "-o", "a/stripped", "-n", tiny)
    assert "(2 of them were there already)" in again.out
    assert (here / "a/stripped/stripped.json").stat().st_mtime_ns == before
    refused = iseparate("data", "strip", "synthetic:a/songs", "-o", "a/more", "-n", tiny, "--stem", "drums")
    assert "has no stem 'drums'" in refused.sentence


def test_what_was_trained_ships_with_its_cards_and_the_scores_of_these_very_weights(
    iseparate, songs, here, monkeypatch
):
    data = songs("trained")
    for recipe, network in (("band", TINY), ("band-d3net", TINY_D3NET)):
        words = ("train", recipe, "--data", data, "-o", f"trained/{recipe}", "--set", network, *SMALL)
        outcome = iseparate(*words, "--set", "loop.precision=fp32")
        assert outcome.status == 0, outcome.err
    (here / "trained/songs").rename(here / "trained/band-songs")
    for folder in ("tools", CARDS, "src/iseparate/weights/shipped", "docs/measured", "docs/pictures", "bench/results"):
        (here / folder).mkdir(parents=True)
    shutil.copy(ROOT / "tools/ship_band.py", here / "tools")
    for cascade in ("band-4stems", "d3net-band"):
        shutil.copy(ROOT / CARDS / f"{cascade}.toml", here / CARDS)

    def ship(*words):
        monkeypatch.setattr(sys, "argv", ["ship_band.py", *words])
        runpy.run_path(str(here / "tools/ship_band.py"), run_name="__main__")

    def card(name):
        return parse_card((here / CARDS / f"{name}.toml").read_bytes(), f"{name}.toml")[0]

    ship()
    for recipe in ("band", "band-d3net"):
        assert read_weights(here / f"src/iseparate/weights/shipped/{recipe}.safetensors").arch == "band"
        assert "seed 0, 4 steps" in card(recipe).notes
        assert "sampled" not in card(recipe).training_data
    assert "make train-band BAND=band-d3net" in card("d3net-band").notes
    assert card("d3net-band").measured_scores == ()
    assert "| D3Net (`band-d3net`) | 4 |" in (here / "docs/measured/band.md").read_text()
    assert (here / "docs/pictures/band-training.png").exists()
    assert "iseparate synthesis: MIT" in (here / "src/iseparate/weights/shipped/NOTICE.txt").read_text()

    bench = json.loads((ROOT / "bench/results/band.json").read_text())
    (here / "bench/results/band.json").write_text(json.dumps(bench))
    with pytest.raises(SystemExit, match="has no scores of band-4stems with"):
        ship("--scores")  # those are of other weights
    for row in bench["rows"]:
        row["weights"] = f"{card('band').files[0].sha256[:8]}, {card('band-d3net').files[0].sha256[:8]}"
    (here / "bench/results/band.json").write_text(json.dumps(bench))
    ship("--scores")
    assert {"drums", "bass", "other"} <= set(card("band-4stems").measured_scores[-1].values)
