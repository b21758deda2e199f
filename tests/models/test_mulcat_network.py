"""MulCat: sizes, chunks, the loss after every layer, and what the importer refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from iseparate.errors import CheckpointError
from iseparate.losses import CRITERIA
from iseparate.models.mulcat import Checkpoints, Config, MulCatNetwork
from iseparate.types import CheckpointFile
from iseparate.weights.load import build_model


@pytest.mark.parametrize(
    ("system", "parameters", "chunk"),
    [("mulcat-2speakers", 7_558_913, 126), ("mulcat-4speakers", 7_591_937, 126), ("mulcat-music", 7_591_937, 296)],
)
def test_sizes(system: str, parameters: int, chunk: int) -> None:
    model = build_model(system)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.config.chunk_frames == chunk


def network(**changes: object) -> MulCatNetwork:
    torch.manual_seed(0)
    return MulCatNetwork(replace(Config.tiny(), **changes)).eval()


@pytest.mark.parametrize("samples", [1, 7, 8, 11, 12, 60, 400, 1001])
@torch.inference_mode()
def test_chunks_hold_every_frame_twice(samples: int) -> None:
    """Undone without any layer in between, they are the encoder's frames, each heard in two chunks."""
    model = network()
    mix = torch.randn(2, 1, samples)
    chunks = model._chunks(mix)
    size, half, frames = model.config.chunk_frames, model.config.chunk_frames // 2, model._frames(samples)
    assert chunks.shape[:2] == (size, 2)
    # As svoice counts: where the frames end with a chunk (60 samples), there is one more of silence.
    assert chunks.shape[2] == 2 * ((half + frames) // size + 1)
    even, odd = (chunks[:, :, i::2].permute(1, 2, 0, 3).flatten(1, 2) for i in (0, 1))
    encoded = model.encoder(torch.nn.functional.pad(mix, (0, max(0, 8 - samples)))).relu().mT
    assert torch.allclose(even[:, half : half + frames], encoded, atol=1e-6)
    assert torch.allclose(odd[:, :frames], encoded, atol=1e-6)
    assert not even[:, :half].any()
    assert not odd[:, frames:].any()


@pytest.mark.parametrize("normalise", [False, True])
@torch.inference_mode()
def test_rows_beyond_one_slice_are_no_different(normalise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(normalise=normalise)
    mix = torch.randn(1, 1, 2000)
    whole = model(mix)
    monkeypatch.setattr("iseparate.models.mulcat._ROWS", 3)
    assert (model(mix) - whole).abs().max() < 1e-5


def test_the_loss_weighs_later_layers_more() -> None:
    model = network(layers=3)
    mix, stems = torch.randn(2, 1, 900), torch.randn(2, 2, 1, 900)
    criterion = CRITERIA["l1"]()
    each = [criterion(estimates, stems).item() for estimates in model.after_each_layer(mix)]
    assert len(set(each)) == 3
    assert model.training_loss(mix, stems, criterion)["loss"].item() == pytest.approx(each[-1], rel=1e-5)
    parts = model.train().training_loss(mix, stems, criterion)
    assert parts["loss"].item() == pytest.approx((each[0] / 3 + each[1] * 2 / 3 + each[2]) / 3, rel=1e-5)
    assert parts["last_layer"].item() == pytest.approx(each[-1], rel=1e-5)


def test_the_order_of_speakers_is_free_in_every_layer() -> None:
    model = network().train()
    mix, stems = torch.randn(2, 1, 900), torch.randn(2, 2, 1, 900)
    criterion = CRITERIA["pit"](criterion={"name": "si_sdr", "zero_mean": True})
    losses = [model.training_loss(mix, order, criterion)["loss"].item() for order in (stems, stems.flip(1))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"stems": ()},
        {"stems": ("a", "a")},
        {"kernel_samples": 7},
        {"features": 4},
        {"layers": 0},
        {"excerpt_seconds": 1e-4},
        {"excerpt_seconds": float("nan")},
        {"sample_rate": 0},
        {"segment_seconds": 0.0},
        {"segment_overlap": 1.0},
    ],
)
def test_a_config_that_makes_no_network_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"expected"):
        replace(Config.tiny(), **changes)


ARGUMENTS = {"N": 16, "L": 8, "H": 6, "R": 2, "C": 2, "sr": 8000, "segment": 1, "input_normalize": False}


def package(prefix: str = "model.", extra: str = "", **changes: object) -> dict[str, CheckpointFile]:
    """A svoice package as the reader gives it; None among the changes: left out."""
    kwargs = {k: v for k, v in {**ARGUMENTS, **changes}.items() if v is not None}
    tensors = {
        f"{prefix}state.encoder.conv.weight": torch.zeros(16, 1, 8),
        f"{prefix}state.separator.rnn_model.rows_grnn.0.gate_rnn.weight_ih_l0": torch.zeros(24, 16),
    }
    if extra:
        tensors[f"{prefix}state.{extra}"] = torch.zeros(1)
    model = {"class": None, "args": (), "kwargs": kwargs}
    return {"a.th": CheckpointFile("a.th", "torch", tensors, {"model": model} if prefix else model)}


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_a_package_and_a_model_alone_are_recognised(prefix: str) -> None:
    files = package(prefix)
    assert Checkpoints().recognises(files)
    assert Checkpoints().convert(files)[0].features == 16


def test_arguments_by_position() -> None:
    (file,) = package().values()
    file.metadata["model"].update(args=tuple(ARGUMENTS.values()), kwargs={})
    config, _ = Checkpoints().convert({"a.th": file})
    assert (config.hidden_size, config.layers, config.stems) == (6, 2, ("speaker1", "speaker2"))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (package(extra="separator.rnn_model.rows_grnn.0.conv.weight"), "SWave has not"),
        (package(segment=None), "does not say the segment"),
        (package(N="many"), "N 'many'"),
        (package(N=True), "N True"),
        (package(R=float("nan")), "R nan"),
        (package(H=2.5), "H 2.5"),
        (package(C=10**6), "at most 64"),
        (package(L=7), "even"),
        (package(segment="long"), "number of seconds"),
        (package(segment=-1), "excerpt_seconds"),
        (package(input_normalize=1), "True or False"),
        (package() | {"b.th": CheckpointFile("b.th", "torch")}, "one such file"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(files: dict[str, CheckpointFile], said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        Checkpoints().convert(files)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("metadata", [None, {}, {"model": None}, {"model": {"args": 3, "kwargs": {}}}])
def test_a_bare_state_says_too_little(metadata: object) -> None:
    (file,) = package().values()
    with pytest.raises(CheckpointError, match="length of a chunk"):
        Checkpoints().convert({"a.th": replace(file, metadata=metadata)})
