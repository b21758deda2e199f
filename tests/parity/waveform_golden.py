"""Reading the goldens of the waveform systems, which have a golden.json; and asteroid's way through a long signal."""

from __future__ import annotations

import json
from itertools import permutations
from typing import Any

import numpy as np
import torch
from golden import FOLDER, assert_near
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from iseparate.engine.plan import Plan
from iseparate.engine.stream import SongStream, track_statistics
from iseparate.types import TrackStatistics
from iseparate.weights.load import import_checkpoint

TOLERANCE = 1e-4


def facts(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / name / "golden.json").read_text())
    return content


def load(name: str, file: str, **settings: Any) -> Any:
    return import_checkpoint(FOLDER / name / file, config=settings)


def mix_of(name: str) -> Tensor:
    return torch.from_numpy(np.load(FOLDER / name / "input.npy").astype(np.float32) / 32768)


def assert_equal(name: str, variant: str, ours: Tensor | NDArray[np.float32]) -> None:
    """Hold an output against what was stored of the original's."""
    (output,) = (output for output in facts(name)["outputs"] if output["key"] == variant)
    assert list(ours.shape) == output["full_shape"]
    step = 1 if output["stored"] == "full" else int(output["stored"].rstrip("]").rpartition(":")[2])
    with np.load(FOLDER / name / "expected.npz") as arrays:
        assert_near(name, variant, np.asarray(ours)[..., ::step], arrays[variant], TOLERANCE)


@torch.inference_mode()
def whole(model: Any, mix: Tensor, track: TrackStatistics | None = None) -> Tensor:
    output: Tensor = model(mix[None], track)[0]
    return output


def through_the_engine(model: Any, mix: Tensor, track: TrackStatistics | None) -> NDArray[np.float32]:
    """In segments, as the spec says; of `track` None: statistics of the song, where the model asks for them."""
    song, rate = mix.numpy(), model.spec.sample_rate
    layout = ("FL", "FR") if len(song) == 2 else ("FC",)
    statistics = [track] if track else track_statistics([song], model.spec, rate, layout)
    stream = SongStream(model, [Plan.for_model(model.spec)], rate, layout, statistics)
    blocks = stream.run(np.split(song, [777], 1))
    return np.concatenate([np.stack(list(block.stems.values())) for block in blocks], -1)


# asteroid's files are of networks that hear one channel; its outputs have no axis for it.

FORWARD = {"drop_tail": True, "keep_level": False}


def assert_asteroid_is_equal(name: str) -> None:
    """In one pass, at the level that asteroid's program gives, and in windows under its overlap-add."""
    mix = mix_of(name)
    model = load(name, "model.pth", **FORWARD)
    assert model.spec.stems == tuple(f"speaker{i + 1}" for i in range(facts(name)["model_args"]["n_src"]))
    assert (model.spec.sample_rate, model.spec.channels) == (facts(name)["model_args"]["sample_rate"], 1)
    assert_equal(name, "forward", whole(model, mix)[:, 0])
    levelled = load(name, "model.pth", drop_tail=True)
    assert_equal(name, "separate", whole(levelled, mix)[:, 0])
    window = 6000 if mix.shape[1] < 20000 else 20000
    assert_equal(name, "lambda_overlap_add_noreorder", in_windows(model, mix, window, in_order=True))
    assert_equal(name, "lambda_overlap_add", in_windows(model, mix, window, in_order=False))


def in_windows(model: Any, mix: Tensor, window: int, in_order: bool) -> Tensor:
    """Half-overlapping Hann windows from one window before the signal on; stems put in the order of the last ones."""
    hop, samples = window // 2, mix.shape[1]
    padded = F.pad(mix, (window, window))
    taper = torch.hann_window(window)
    total = torch.zeros(len(model.spec.stems), padded.shape[1])
    before: Tensor | None = None
    for start in range(0, samples + window + 1, hop):
        stems = whole(model, padded[:, start : start + window])[:, 0]
        if before is not None and not in_order:
            old, new = (x - x.mean(1, keepdim=True) for x in (before[:, -hop:], stems[:, :hop]))
            orders = permutations(range(len(stems)))
            stems = stems[list(max(orders, key=lambda order: (new[list(order)] * old).sum().item()))]
        before = stems * taper
        total[:, start : start + window] += before
    return total[:, window : window + samples]
