"""Wave-U-Net in PyTorch equals its reference, one network per stem and one for all, through the shipped importer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from waveform_golden import assert_equal, facts, load, mix_of, through_the_engine, whole

SEPARATE, SHARED = "waveunet", "waveunet_shared"


def official(name: str, **settings: Any) -> Any:
    """As the reference separates. What its files do not tell is told here: the window, and of `SHARED` the stride."""
    hyper = facts(name)["hyper"]
    told = {"target_samples": hyper["out"]} | ({"stride": hyper["strides"]} if hyper["res"] == "learned" else {})
    return load(name, "model", windows=True, overlap=0.0, clip=True, **told, **settings)


@pytest.mark.parametrize("name", [SEPARATE, SHARED])
def test_the_files_tell_the_network(name: str) -> None:
    config, hyper, shapes = official(name).config, facts(name)["hyper"], facts(name)["shapes"]
    assert config.stems == tuple(hyper["instruments"])
    assert config.widths == tuple(hyper["num_channels"])
    assert (config.kernel, config.stride, config.channels) == (hyper["kernel_size"], hyper["strides"], 2)
    assert (config.normalisation[0], config.resampling, config.separate) == (
        hyper["conv_type"][0],
        hyper["res"],
        bool(hyper["separate"]),
    )
    assert config.window == (shapes["input_frames"], shapes["output_frames"])
    assert config.context_samples == shapes["output_start_frame"]


@pytest.mark.parametrize("name", [SEPARATE, SHARED])
@torch.inference_mode()
def test_the_network(name: str) -> None:
    model, shapes = official(name), facts(name)["shapes"]
    window = model.separate_segment(mix_of(name)[None, :, : shapes["input_frames"]])[0]
    assert_equal(name, "forward", window[..., shapes["output_start_frame"] : shapes["output_end_frame"]])


@pytest.mark.parametrize("name", [SEPARATE, SHARED])
def test_a_song(name: str) -> None:
    assert_equal(name, "predict", whole(official(name), mix_of(name)))


@pytest.mark.parametrize("name", [SEPARATE, SHARED])
def test_a_song_through_the_engine(name: str) -> None:
    assert_equal(name, "predict", through_the_engine(official(name), mix_of(name), None))
