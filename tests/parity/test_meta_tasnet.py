"""Meta-TasNet equals the authors' program, through the shipped importer: each stage, chunks, resampling and gains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden import FOLDER
from torch import Tensor
from waveform_golden import assert_equal, facts, load

from iseparate.weights.card import find_card

NAMES = ["metatasnet", "metatasnet_independent"]
FILE = "best_checkpoint"


def signals(name: str, *keys: str) -> list[Tensor]:
    with np.load(FOLDER / name / "input.npz") as arrays:
        return [torch.from_numpy(arrays[key].astype(np.float32) / 32768) for key in keys]


def at_three_rates(name: str) -> list[Tensor]:
    mixes = signals(name, "mix8k", "mix16k", "mix32k")
    return [(mix / mix.std())[None, None] for mix in mixes]


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_every_stage(name: str) -> None:
    model = load(name, FILE)
    assert list(model.spec.stems) == facts(name)["sources"]
    assert model.config.generated is not facts(name)["args"]["independent_params"]
    outputs = model.separate_rates(at_three_rates(name), every_stage=True)
    for rate, stems in zip(("8k", "16k", "32k"), outputs, strict=True):
        assert_equal(name, f"inference_1chunk_{rate}", stems[0])


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_in_chunks_that_all_reach_both_ends(name: str) -> None:
    (stems,) = load(name, FILE, chunks=8).separate_rates(at_three_rates(name))
    assert_equal(name, "inference_8chunks_32k", stems[0])


@torch.inference_mode()
def test_in_chunks_with_context() -> None:
    tiled = [mix.repeat(1, 1, 28) for mix in at_three_rates("metatasnet")]
    (stems,) = load("metatasnet", FILE, chunks=3).separate_rates(tiled)
    assert_equal("metatasnet", "inference_tiled_32k", stems[0])


@torch.inference_mode()
def test_the_official_setting_on_a_stereo_song() -> None:
    """From 44.1 kHz and back: each side by itself, as the engine does with a network of one channel."""
    model = load("metatasnet", FILE, **find_card("meta-tasnet-official").settings)
    assert (model.spec.sample_rate, model.spec.channels) == (44100, 1)
    (mix,) = signals("metatasnet", "mix44k")
    stems = model(mix[:, None])[:, :, 0].transpose(0, 1)
    assert_equal("metatasnet", "evaluate_44k", stems)
    # The song is quiet in this golden, so the common tolerance would be lenient.
    with np.load(FOLDER / "metatasnet" / "expected.npz") as arrays:
        theirs = arrays["evaluate_44k"]
    assert np.abs(stems[..., ::13].numpy() - theirs).max() < 1e-3 * np.abs(theirs).max()
