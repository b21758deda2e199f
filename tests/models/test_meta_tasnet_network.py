"""Meta-TasNet: sizes, generated kernels, resampling, gains, the stages' loss, and what the importer refuses."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from iseparate.errors import CheckpointError
from iseparate.losses import CRITERIA
from iseparate.models.meta_tasnet import Checkpoints, Config, MetaTasNet, _gains, resampled
from iseparate.types import CheckpointFile, TrackStatistics
from iseparate.weights.load import build_model


def test_sizes() -> None:
    model = build_model("meta-tasnet")
    assert sum(p.numel() for p in model.parameters()) == 45_531_260
    # Frozen there: the spectra's mean and deviation, and a window of as many samples as a frame.
    assert sum(b.numel() for b in model.buffers()) == 45_545_602 - 45_531_260 - (1024 + 2048 + 4096)
    assert model.stages[1].mask.tcn[0].conv1d.kernel.weight.shape == (25600, 5)


def network(**changes: object) -> MetaTasNet:
    torch.manual_seed(0)
    return MetaTasNet(replace(Config.tiny(), **changes)).eval()


@torch.inference_mode()
def test_instruments_differ_by_their_embedding_alone() -> None:
    model = network()
    mix = torch.randn(1, 1, 3200)
    for stage in model.stages:
        stage.mask.instrument_embedding.weight[:] = stage.mask.instrument_embedding.weight[:1].clone()
    signals = model._at_all_rates(mix, None)
    stems = model.separate_rates(signals)[0][0]
    assert (stems - stems[:1]).abs().max() < 1e-6


@torch.inference_mode()
def test_new_weights_are_heard_at_once() -> None:
    """Kernels are generated, never kept."""
    model, other = network(), network()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05)
    mix = torch.randn(1, 1, 3200)
    before = model(mix)
    model.load_state_dict(other.state_dict())
    assert torch.equal(model(mix), other(mix))
    assert not torch.equal(model(mix), before)


@pytest.mark.parametrize("changes", [{}, {"residual_bias": True}, {"generated": False}, {"stages": 1}])
def test_in_place_or_not_is_the_same(changes: dict[str, object]) -> None:
    model = network(**changes)
    mix = torch.randn(2, 1, 3200)
    with_gradient = model(mix)
    with torch.inference_mode():
        assert (model(mix) - with_gradient).abs().max() < 1e-6


@torch.inference_mode()
def test_a_segment_is_scaled_by_the_songs_deviation() -> None:
    model, mix = network(), torch.randn(1, 1, 6400)
    std = mix.std().item()
    assert (model(mix, TrackStatistics(0.0, std)) - model(mix)).abs().max() < 1e-5
    assert (model(mix, TrackStatistics(0.0, 30 * std)) - model(mix)).abs().max() > 1e-4
    assert torch.isfinite(model(mix, TrackStatistics(0.0, 0.0))).all()


def test_gains_are_least_squares() -> None:
    chance = np.random.default_rng(0)
    stems, mix = chance.normal(size=(2, 4, 500)).astype(np.float32), chance.normal(size=(2, 1, 500)).astype(np.float32)
    ours = _gains(torch.from_numpy(stems), torch.from_numpy(mix))[..., 0].numpy()
    for one, stem, song in zip(ours, stems.astype(float), mix.astype(float), strict=True):
        assert one == pytest.approx(np.linalg.lstsq(stem.T, song[0], rcond=None)[0], abs=1e-6)


def test_gains_of_silent_and_of_equal_stems_are_the_smallest() -> None:
    mix = torch.randn(1, 1, 300)
    stems = torch.cat([mix, mix, 0 * mix], 1)
    assert _gains(stems, mix).flatten().tolist() == pytest.approx([0.5, 0.5, 0.0], abs=1e-5)
    assert not _gains(stems, 0 * mix).any()


@pytest.mark.parametrize(("from_hz", "to_hz"), [(44100, 8000), (44100, 32000), (32000, 44100), (32000, 16000)])
def test_a_tone_is_the_same_tone_at_another_rate(from_hz: int, to_hz: int) -> None:
    """Away from the ends, and as well as the rounded steps of the table allow."""
    before, after = (torch.sin(2 * torch.pi * 1000 * torch.arange(rate // 2) / rate) for rate in (from_hz, to_hz))
    ours = resampled(before[None, None], from_hz, to_hz)[0, 0]
    assert ours.shape == (int(len(before) * (to_hz / from_hz)),)
    edge = to_hz // 20
    level = 0.02 if (from_hz, to_hz) == (44100, 8000) else 0.005
    assert (ours - after[: len(ours)])[edge:-edge].abs().max() < level


def test_what_the_lower_rate_cannot_hold_is_gone() -> None:
    tone = torch.sin(2 * torch.pi * 5000 * torch.arange(32000) / 32000)
    assert resampled(tone[None, None], 32000, 8000)[..., 400:-400].abs().max() < 1e-3


@pytest.mark.parametrize("samples", [0, 1, 2, 5])
def test_short_signals_can_be_resampled(samples: int) -> None:
    for rates in ((44100, 8000), (8000, 44100)):
        assert resampled(torch.ones(2, 1, samples), *rates).shape == (2, 1, int(samples * (rates[1] / rates[0])))


@pytest.mark.parametrize("samples", [1, 700, 5000])
@torch.inference_mode()
def test_the_official_setting_takes_any_length_and_silence(samples: int) -> None:
    model = network(resampling="resampy", chunks=8)
    for mix in (torch.randn(2, 1, samples), torch.zeros(2, 1, samples)):
        stems = model(mix)
        assert stems.shape == (2, 4, 1, samples)
        assert torch.isfinite(stems).all()


def test_the_loss_is_the_sum_over_the_stages() -> None:
    model = network().train()
    stems = 0.1 * torch.randn(2, 4, 1, 3200)
    criterion = CRITERIA["meta_tasnet"]()
    parts = model.training_loss(stems.sum(1), stems, criterion)
    assert set(parts) == {"loss"} | {
        f"stage{i}_{part}" for i in (1, 2, 3) for part in ("sdr", "reconstruction", "dissimilarity", "similarity")
    }
    weighed = sum(
        parts[f"stage{i}_sdr"]
        + 0.05 * parts[f"stage{i}_reconstruction"]
        + 3 * parts[f"stage{i}_dissimilarity"]
        - 2 * parts[f"stage{i}_similarity"]
        for i in (1, 2, 3)
    )
    assert parts["loss"].item() == pytest.approx(weighed.item(), rel=1e-5)


def test_the_loss_does_not_care_for_the_level() -> None:
    model = network()
    stems = torch.randn(2, 4, 1, 3200)
    criterion = CRITERIA["meta_tasnet"]()
    losses = [model.training_loss(g * stems.sum(1), g * stems, criterion)["loss"].item() for g in (1.0, 0.1)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_the_first_batch_tells_the_spectra() -> None:
    model = network()
    stems = torch.randn(2, 4, 1, 6400)
    criterion = CRITERIA["meta_tasnet"]()
    model.training_loss(stems.sum(1), stems, criterion)
    spectrogram = model.stages[0].encoder.spectrogram
    assert not spectrogram.std.any()  # judging is no training
    model.train().training_loss(stems.sum(1), stems, criterion)
    mean, std = spectrogram.mean.clone(), spectrogram.std.clone()
    assert (std > 0).all()
    assert mean.flatten()[1:-1].mean() > 1  # decades of power, of a deviation of 1
    model.training_loss(9 * stems.sum(1), 9 * stems, criterion)
    assert torch.equal(spectrogram.mean, mean)
    goes_on = network().train()
    goes_on.load_state_dict(model.state_dict())
    goes_on.training_loss(9 * stems.sum(1), 9 * stems, criterion)
    assert torch.equal(goes_on.stages[0].encoder.spectrogram.mean, mean)


def test_descending_the_loss_makes_it_less() -> None:
    model = network().train()
    time = torch.arange(4800) / 32000
    stems = torch.stack([torch.sin(2 * torch.pi * f * time) for f in (90, 400, 1500, 3000)])[None, :, None]
    stems = stems * torch.tensor([1.0, 0.7])[:, None, None, None]
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    criterion, losses = CRITERIA["meta_tasnet"](), []
    for _ in range(5):
        losses.append(model.training_loss(stems.sum(1), stems, criterion)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 1


@pytest.mark.parametrize(
    "changes",
    [
        {"stems": ()},
        {"latents": 20},
        {"bottleneck": 12},
        {"layers": 40},
        {"stages": 0},
        {"base_rate": 11025},
        {"kernel_samples": 10},
        {"stride_samples": 15},
        {"segment_overlap": 1.0},
    ],
)
def test_a_config_that_makes_no_network_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"expected"):
        replace(Config.tiny(), **changes)


ARGUMENTS = {
    **{"sampling_rate": 8000, "stages_num": 3, "N": 16, "L": 20, "W": 20, "B": 8, "H": 8, "filters": 3, "kernel": 3},
    **{"num_mels": 4, "layers": 2, "stack": 1, "E_1": 3, "E_2": 2, "independent_params": False, "residual_bias": False},
}


def checkpoint(plain: bool = False, **changes: object) -> dict[str, CheckpointFile]:
    """A checkpoint of the reference as the reader gives it; `plain`: arguments in a dict."""
    names = ("encoder.spectrogram.mel_transform.weight", "decoder.filters.0.weight", "encoder.spectrogram.window")
    tensors = {f"state_dict.stages.0.{name}": torch.zeros(1) for name in names}
    said = {**ARGUMENTS, **changes}
    metadata = {"args": said if plain else SimpleNamespace(path="argparse.Namespace", state=said)}
    return {"best": CheckpointFile("best", "torch", tensors, metadata)}


@pytest.mark.parametrize("plain", [False, True])
def test_a_checkpoint_is_recognised(plain: bool) -> None:
    files = checkpoint(plain)
    assert Checkpoints().recognises(files)
    config, state = Checkpoints().convert(files)
    assert config == Config.tiny()
    assert not any("window" in name for name in state)


def test_flags_that_an_older_training_had_not() -> None:
    files = checkpoint(plain=True)
    for name in ("independent_params", "residual_bias"):
        del files["best"].metadata["args"][name]
    assert Checkpoints().convert(files)[0] == Config.tiny()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"N": None}, "N None"),
        ({"N": -1}, "N -1"),
        ({"N": True}, "N True"),
        ({"N": 20}, "multiples"),
        ({"E_1": None}, "E_1 None"),
        ({"kernel": 5}, "kernel 5"),
        ({"layers": 1000}, "layers is 1000"),
        ({"residual_bias": "yes"}, "True or False"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(changes: dict[str, object], said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        Checkpoints().convert(checkpoint(**changes))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("metadata", [None, {}, {"args": None}, {"args": SimpleNamespace(state=7)}])
def test_weights_alone_say_too_little(metadata: object) -> None:
    file = replace(checkpoint()["best"], metadata=metadata)
    with pytest.raises(CheckpointError, match="layers of a stack"):
        Checkpoints().convert({"best": file})
