"""A training that takes a second: four songs of noise and a network of a few hundred weights."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from iseparate.train import FitResult, fit
from iseparate.train.checkpoint import read_checkpoint
from iseparate.train.recipe import Recipe, parse_recipe

RATE = 8_000
STEMS = ("drums", "vocals")
RECURRENT = """
model:
  arch: open_unmix
  config:
    {targets: [vocals], residual: null, wiener_iterations: 0, frame_samples: 64, hop_samples: 32, hidden_size: 8,
     max_bin: 24, sample_rate: 8000}
"""
"""Dropout, batch normalisation and an LSTM."""
FEED_FORWARD = """
model:
  arch: uhl
  config:
    {targets: [vocals], residual: null, wiener_iterations: 0, frame_samples: 64, hop_samples: 32, sample_rate: 8000,
     blend: [feed_forward], blend_weights: [1.0], feed_forward_units: 8, context_frames: 1}
"""
"""Nothing that depends on what else is in the batch."""
_REST = """
name: small
title: small
source: ours
data: {excerpt_seconds: 0.1, excerpts_per_song: 4, mix_songs: 0.5, augment: [{name: gain}]}
loss: {name: mse, domain: magnitude}
optimizer: {name: adam, lr: 1e-2}
loop: {epochs: 2, batch_size: 2}
validation: {metric: null}
"""


def recipe(*overrides: str, model: str = RECURRENT) -> Recipe:
    return parse_recipe(_REST + model, "small.yaml", overrides)


def write_songs(root: Path, count: int = 4, seconds: float = 0.5, seed: int = 0, rate: int = RATE) -> Path:
    """Songs 0 to 2 to train on, and the last one, which is held out; drums are noise, vocals a tone."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    for number in range(count):
        folder = root / f"song {number}"
        folder.mkdir(parents=True)
        drums = 0.1 * rng.standard_normal((len(time), 2))
        vocals = 0.2 * np.sin(2 * np.pi * 200 * (number + 1) * time)[:, None] * [1.0, 0.8]
        for stem, sound in (("drums", drums), ("vocals", vocals)):
            soundfile.write(folder / f"{stem}.wav", sound, rate, subtype="FLOAT")
    return root


def train(recipe: Recipe, data: Path, out: Path, **options: Any) -> FitResult:
    return fit(recipe, data, out, **{"device": "cpu", "workers": 0} | options)


def killed(work: Callable[[], Any]) -> None:
    """Run something in a process of its own, which is expected to be killed by -9."""
    child = multiprocessing.get_context("fork").Process(target=_quietly, args=(work,))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL, child.exitcode


def kill_me() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _quietly(work: Callable[[], Any]) -> None:
    torch.set_num_threads(1)
    work()


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Bit by bit, whatever the nesting."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}.{index}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def what_decides(checkpoint: Path) -> dict[str, Any]:
    """Of a checkpoint, all that the further course depends on."""
    content = read_checkpoint(checkpoint)
    names = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "callbacks", "figures")
    return {name: content[name] for name in (*names, "watched_schedule") if name in content}


def figures(folder: Path) -> list[str]:
    """``metrics.csv`` but for the seconds."""
    lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    seconds = lines[0].index("seconds")
    return [",".join(line[:seconds] + line[seconds + 1 :]) for line in lines]
