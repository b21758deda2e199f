"""Wave-U-Net's TensorFlow checkpoints, through the shipped importer, against a second implementation.

No output of the TensorFlow program can be had here. What stands in for it is its graph written out slowly in NumPy and
float64, from the facts of the paper and the reference code alone: channels last, each step as the graph names it.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_tensor_bundle import write_bundle

from iseparate.models.wave_u_net import INSTRUMENTS, VOICE
from iseparate.weights.load import build_model, import_checkpoint

Array = NDArray[np.float64]

LEVELS, FILTERS, DOWN, UP = 4, 3, 7, 5
WANTED = 60  # least output of a window


def variables(channels: int, heads: int, learned: bool, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """What the graph creates, in its order, lively enough that each of them shows in the output."""
    chance = np.random.default_rng(seed)
    shapes, width = [], channels
    for level in range(LEVELS + 1):
        shapes.append((DOWN, width, FILTERS * (level + 1)))
        width = FILTERS * (level + 1)
    for level in reversed(range(LEVELS)):
        skip = FILTERS * (level + 1)
        shapes.append((UP, skip + width, skip))
        width = skip
    shapes += [(1, channels + width, channels)] * heads
    tensors = {}
    for number, shape in enumerate(shapes):
        name = "separator/conv1d" + (f"_{number}" if number else "")
        scale = 1.4 / np.sqrt(shape[0] * shape[1])
        tensors[f"{name}/kernel"] = (scale * chance.standard_normal(shape)).astype(np.float32)
        tensors[f"{name}/bias"] = (0.1 * chance.standard_normal(shape[2])).astype(np.float32)
    if learned:
        for stage in range(LEVELS):
            features = FILTERS * (LEVELS + 1 - stage)
            tensors[f"separator/interp_{stage}"] = chance.standard_normal(features).astype(np.float32)
    return tensors


def with_the_optimizers(tensors: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """As the program saves it, every global variable: Adam's two moments of each, its powers, the steps."""
    slots = {
        f"separator_solver/{name}/{slot}": np.full_like(tensor, 7)
        for name, tensor in tensors.items()
        for slot in ("Adam", "Adam_1")
    }
    powers = {f"separator_solver/beta{i}_power": np.float32(0.5) * np.ones((), np.float32) for i in (1, 2)}
    return {**tensors, **slots, **powers, "global_step": np.array(186093, np.int64)}


# -- the graph in NumPy: [time, channels] -------------------------------------------------------------------


def convolved(x: Array, tensors: dict[str, NDArray[np.float32]], number: int) -> Array:
    name = "separator/conv1d" + (f"_{number}" if number else "")
    kernel = tensors[f"{name}/kernel"].astype(np.float64)
    seen = np.lib.stride_tricks.sliding_window_view(x, len(kernel), 0)  # [time, in, taps]
    return np.einsum("tik,kio->to", seen, kernel, optimize=True) + tensors[f"{name}/bias"]


def leaky(x: Array) -> Array:
    return np.maximum(0.2 * x, x)


def cropped(x: Array, length: int) -> Array:
    start = (len(x) - length) // 2
    return x[start : start + length]


def upsampled(x: Array, weights: NDArray[np.float32] | None) -> Array:
    share = np.full(x.shape[1], 0.5) if weights is None else 1 / (1 + np.exp(-weights.astype(np.float64)))
    rows = []
    for before, after in pairwise(x):
        rows += [before, share * before + (1 - share) * after]
    return np.array([*rows, x[-1]])


def graph(mix: Array, tensors: dict[str, NDArray[np.float32]], heads: int, clip: bool) -> Array:
    """``[time, C]`` -> ``[S, less time, C]``."""
    x, outputs = mix, []
    for level in range(LEVELS):
        x = leaky(convolved(x, tensors, level))
        outputs.append(x)
        x = x[::2]
    x = leaky(convolved(x, tensors, LEVELS))
    for stage in range(LEVELS):
        x = upsampled(x, tensors.get(f"separator/interp_{stage}"))
        x = np.concatenate([cropped(outputs[-1 - stage], len(x)), x], 1)
        x = leaky(convolved(x, tensors, LEVELS + 1 + stage))
    x = np.concatenate([cropped(mix, len(x)), x], 1)
    stems = [np.tanh(convolved(x, tensors, 2 * LEVELS + 1 + head)) for head in range(heads)]
    last = cropped(mix, len(x)) - sum(stems)
    return np.stack([*stems, np.clip(last, -1, 1) if clip else last])


def window_lengths(wanted: int) -> tuple[int, int]:
    """Backwards from the output wanted, halves rounded up at the innermost level only; then forwards again."""
    rest = float(wanted)
    for _ in range(LEVELS):
        rest = (rest + UP - 1 + 1) / 2
    innermost = int(np.ceil(rest))
    inside, outside = innermost + DOWN - 1, innermost
    for _ in range(LEVELS):
        inside, outside = 2 * inside - 1 + DOWN - 1, 2 * outside - 1 - UP + 1
    return inside, outside


def predicted(song: Array, tensors: dict[str, NDArray[np.float32]], heads: int) -> Array:
    """The program's way through a song: windows side by side, the last one moved back."""
    inside, outside = window_lengths(WANTED)
    longer = np.pad(song, [(0, max(0, inside - len(song))), (0, 0)])
    stems = np.zeros((heads + 1, *longer.shape))
    context = (inside - outside) // 2
    padded = np.pad(longer, [(context, context), (0, 0)])
    for position in range(0, len(longer), outside):
        at = min(position, len(longer) - outside)
        stems[:, at : at + outside] = graph(padded[at : at + inside], tensors, heads, clip=True)
    return stems[:, : len(song)]


# -- the comparison -----------------------------------------------------------------------------------------


def song(samples: int, channels: int) -> Array:
    return np.clip(0.7 * np.random.default_rng(9).standard_normal((samples, channels)), -1, 1)


KINDS = {"M3": (1, 1, False), "M4": (2, 1, False), "M5": (2, 1, True), "M6": (2, 3, False)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [50, 700])
@torch.inference_mode()
def test_it_equals_its_graph(tmp_path: Path, kind: str, samples: int) -> None:
    channels, heads, learned = KINDS[kind]
    tensors = variables(channels, heads, learned)
    write_bundle(tmp_path, with_the_optimizers(tensors))
    settings = {"windows": True, "clip": True, "window_samples": WANTED}
    model = import_checkpoint(tmp_path / "model", config=settings)
    assert model.spec.stems == (VOICE if heads == 1 else INSTRUMENTS)
    assert model.spec.sample_rate == (44100 if learned else 22050)
    assert model.config.window == window_lengths(WANTED)
    mix = song(samples, channels)
    ours = model(torch.from_numpy(mix.T.astype(np.float32))[None])[0].numpy()
    theirs = predicted(mix, tensors, heads).transpose(0, 2, 1)
    assert np.abs(theirs[-1]).max() == 1  # some of it is clipped
    assert np.abs(ours - theirs).max() < 1e-5


@torch.inference_mode()
def test_without_windows_it_equals_one_run_of_the_graph(tmp_path: Path) -> None:
    tensors = variables(2, 3, False)
    write_bundle(tmp_path, tensors)
    model = import_checkpoint(tmp_path / "model")
    mix = song(1500, 2)
    ours = model(torch.from_numpy(mix.T.astype(np.float32))[None])[0].numpy()
    inside, outside = window_lengths(1500 + 15)
    context = (inside - outside) // 2
    errors = []
    for start in range(16):  # a network of 4 levels can start on 16 grids
        padded = np.pad(mix, [(context + start, inside), (0, 0)])[:inside]
        stems = graph(padded, tensors, 3, clip=False)[:, start : start + 1500].transpose(0, 2, 1)
        errors.append(np.abs(ours - stems).max())
    assert min(errors) < 1e-5
    assert sorted(errors)[1] > 1e-2


def test_the_network_is_of_the_size_that_was_published() -> None:
    """The repository tells the size of M4's file: all weights and two moments of each, two powers and the steps."""
    parameters = sum(p.numel() for p in build_model("wave-u-net-m4").parameters())
    assert 3 * 4 * parameters + 4 + 4 + 8 == 123_160_696


def test_every_tensor_shows_in_the_output() -> None:
    """Else the comparison would not see it missing."""
    tensors = variables(2, 1, True)
    mix = song(window_lengths(WANTED)[0], 2)
    before = graph(mix, tensors, 1, clip=False)
    for name, tensor in tensors.items():
        after = graph(mix, {**tensors, name: tensor + np.float32(0.5)}, 1, clip=False)
        assert np.abs(after - before).max() > 1e-3, name


def test_other_settings_of_the_same_file(tmp_path: Path) -> None:
    write_bundle(tmp_path, variables(2, 1, True))
    read = import_checkpoint(tmp_path / "model").config
    assert import_checkpoint(tmp_path / "model", config={"sample_rate": 22050}).config == replace(
        read, sample_rate=22050
    )
