"""MulCat equals svoice's SWave, through the shipped importer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden import FOLDER
from waveform_golden import assert_equal, facts, load, mix_of, whole

from iseparate.weights.load import import_checkpoint
from iseparate.weights.unpickle import load_torch

NAMES = ["svoice_swave_2spk", "svoice_swave_4spk"]


@pytest.mark.parametrize("name", NAMES)
def test_a_package(name: str) -> None:
    model = load(name, "checkpoint.th")
    told = facts(name)
    assert len(model.spec.stems) == told["kwargs"]["C"]
    assert model.spec.sample_rate == told["kwargs"]["sr"]
    assert model.config.chunk_frames == told["derived"]["segment_size"]
    assert_equal(name, "forward", whole(model, mix_of(name))[:, 0])


@pytest.mark.parametrize("name", NAMES)
def test_the_state_of_the_best_epoch_as_a_model_alone(name: str, tmp_path: Path) -> None:
    package = load_torch(FOLDER / name / "checkpoint.th")
    path = tmp_path / "best.th"
    parts = {"args": (), "kwargs": dict(package["model"]["kwargs"]), "state": dict(package["best_state"])}
    torch.save(parts, path)
    assert_equal(name, "forward_best_state", whole(import_checkpoint(path), mix_of(name))[:, 0])
