"""What `make train-band` does, in small: songs by rule, a first model takes their vocals, a network learns the rest."""

from __future__ import annotations

import pytest
import torch

from iseparate.train.checkpoint import read_checkpoint

TINY = (
    "model.config={widths: [4, 6, 8], halve_frames: [true, false], narrowing: 2, recurrent_size: 4, linear_bins: 96, "
    "group_bins: 2, frame_samples: 256, hop_samples: 64}"
)
SMALL = (
    *("--set", TINY, "--set", "data.excerpt_samples=8000", "--set", "data.excerpts_per_epoch=8"),
    *("--set", "schedule.steps=4", "--set", "schedule.warmup_steps=1", "--set", "loop.epochs=2"),
    *("--set", "loop.batch_size=4", "--workers", "0", "-d", "cpu"),
)


@pytest.fixture
def songs(iseparate, tiny):
    """Two songs of three seconds, rendered and stripped in the folder of that name."""

    def make(folder: str) -> str:
        assert (
            iseparate("data", "synthesize", "--hours", "0.0016", "--song-seconds", "3", "-o", f"{folder}/songs").status
            == 0
        )
        stripped = iseparate("data", "strip", f"synthetic:{folder}/songs", "-o", f"{folder}/stripped", "-n", tiny)
        assert stripped.status == 0, stripped.err
        assert "2 songs without vocals" in stripped.out
        return f"folder:{folder}/stripped"

    return make


def weights(folder):
    return read_checkpoint(folder / "last.ckpt")["state_dict"]


def test_the_same_seed_gives_the_same_network_in_one_go_or_in_slices(iseparate, songs, here):
    once = iseparate("train", "band", "--data", songs("a"), "-o", "once", *SMALL)
    assert once.status == 0, once.err
    slices = ("train", "band", "--data", songs("b"), "-o", "slices", *SMALL, "--hours", "1e-9")
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
