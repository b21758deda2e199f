"""TasNet of LSTMs: the paper's parts, and what the importer refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from iseparate.errors import CheckpointError
from iseparate.models._registry import find_importer
from iseparate.models.lstm_tasnet import AsteroidCheckpoint, Config, LstmTasNet
from iseparate.weights.load import build_model
from iseparate.weights.read import read_checkpoint

TINY = Config.tiny()
GOLDEN = Path(__file__).parents[1] / "parity" / "goldens" / "asteroid_lstm_tasnet" / "model.pth"


def build(config):
    torch.manual_seed(0)
    return LstmTasNet(config).eval()


def noise(*shape, seed=0):
    return 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_published_system():
    model = build_model("tasnet")
    lower, upper = model.separator.stacks
    assert (lower.num_layers, upper.num_layers, lower.hidden_size, lower.bidirectional) == (2, 2, 500, True)
    assert model.config.filter_samples / model.spec.sample_rate == pytest.approx(0.005, rel=0.01)
    # The LSTMs, what makes the masks, both filterbanks and the norm, one by one.
    lstms = sum(2 * 4 * 500 * (i + 500 + 2) for i in (500, 1000, 1000, 1000))
    expected = lstms + 2000 * 1001 + 2 * 500 * 220 + 500 * 220 + 2 * 500
    assert sum(p.numel() for p in model.parameters()) == expected


@torch.inference_mode()
def test_the_stems_share_the_mixture():
    """With masks that sum to 1, the sum of the stems is the filters' output decoded, whatever the masks."""
    model = build(TINY)
    mix = noise(1, 1, 400)
    before = model(mix).sum(1)
    torch.nn.init.normal_(model.separator.mask.weight)
    assert torch.allclose(model(mix).sum(1), before, atol=1e-5)


@torch.inference_mode()
def test_the_network_hears_no_level():
    """Each frame by itself: whatever the gain of each, the masks stay."""
    model = build(TINY)
    mix = noise(1, 1, 400)
    gains = torch.rand(20, generator=torch.Generator().manual_seed(1)).add(0.1).repeat_interleave(20)
    assert torch.allclose(model(mix * gains), model(mix) * gains, atol=1e-5)
    audible = build(replace(TINY, unit_frames=False))
    assert not torch.allclose(audible(mix * gains), audible(mix) * gains, atol=1e-4)


@torch.inference_mode()
def test_the_filters_are_gated():
    model = build(TINY)
    mix = noise(1, 1, 400)
    plain, gate = model.encoder(mix).chunk(2, 1)
    assert torch.equal(model.encode(mix), torch.relu(plain) * torch.sigmoid(gate))


@pytest.mark.parametrize("change", [{"identity": False}, {"norm": "global"}, {"mask": "sigmoid"}, {"layers": 2}])
@torch.inference_mode()
def test_settings_matter(change):
    mix = noise(2, 1, 900)
    assert (build(replace(TINY, **change))(mix) - build(TINY)(mix)).abs().max() > 1e-4


def test_silence_can_be_learnt_from():
    model = LstmTasNet(TINY)
    mix = torch.zeros(1, 1, 100).requires_grad_()
    model(mix).sum().backward()
    assert torch.isfinite(mix.grad).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "words"),
    [({"hop_samples": 10}, "must not overlap"), ({"layers": 3}, "an even number"), ({"dropout": 1.0}, "a share in")],
)
def test_settings_that_cannot_be_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)


# -- reading checkpoints ------------------------------------------------------------------------------------


def asteroid(tensors=None, **arguments):
    (file,) = read_checkpoint(GOLDEN).values()
    told = {**file.metadata["model_args"], **arguments}
    held = {key: t for key, t in {**file.tensors, **(tensors or {})}.items() if t is not None}
    return {file.name: replace(file, tensors=held, metadata={**file.metadata, "model_args": told})}


def test_the_importer_knows_its_own():
    arch, found = find_importer(asteroid())
    assert (arch.name, type(found)) == ("lstm_tasnet", AsteroidCheckpoint)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mask_act": "softmax"}, "share along time by mistake"),
        ({"n_layers": 0}, "n_layers '0'; expected a whole number from 1"),
        ({"tensors": {"state_dict.encoder.encoder_sig.filterbank._filters": None}}, "two banks of filters"),
        (
            {"tensors": {"state_dict.encoder.encoder_sig.filterbank._filters": torch.tensor(1.0)}},
            "two banks of filters",
        ),
        ({"tensors": {"state_dict.masker.extra": torch.ones(1)}}, "TasNet has not"),
    ],
)
def test_a_strange_checkpoint_is_refused_in_words(arguments, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        AsteroidCheckpoint().convert(asteroid(**arguments))
    assert "\n" not in str(caught.value)
