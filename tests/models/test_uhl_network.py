"""UHL's networks: there is no original to compare with, so structure, sizes and how far they see."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from iseparate.models._registry import architectures, published_config
from iseparate.models.uhl import BlendedNetwork, Config, FeedForwardNetwork, RecurrentNetwork, Uhl

# Our own numbers: what the stated layers come to.
PARAMETERS = {"uhl1": 13_773_392, "uhl2": 27_546_784, "uhl2-icassp2017": 51_173_284, "uhl-fnn": 37_399_892}


def network(**changes):
    torch.manual_seed(0)
    return BlendedNetwork(replace(Config.tiny(), **changes)).eval()


def noise(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_one_target(name):
    arch, config = published_config(name)
    assert arch.name == "uhl"
    with torch.device("meta"):
        assert sum(p.numel() for p in BlendedNetwork(config).parameters()) == PARAMETERS[name]


def test_every_published_system_is_counted():
    assert set(architectures()["uhl"].published) == set(PARAMETERS)


def test_three_recurrent_layers_of_500_cells():
    _, config = published_config("uhl1")
    with torch.device("meta"):
        lstm = BlendedNetwork(config).networks[0].lstm
    assert (lstm.num_layers, lstm.bidirectional, 2 * lstm.hidden_size) == (3, True, 500)
    assert lstm.input_size == 2 * 2049
    assert (config.frame_samples, config.hop_samples) == (4096, 1024)


def test_what_each_system_blends():
    kinds = {
        name: [type(n) for n in network(blend=c.blend, blend_weights=c.blend_weights).networks]
        for name, c in published().items()
    }
    assert kinds == {
        "uhl1": [RecurrentNetwork],
        "uhl2": [RecurrentNetwork, RecurrentNetwork],
        "uhl2-icassp2017": [RecurrentNetwork, FeedForwardNetwork],
        "uhl-fnn": [FeedForwardNetwork],
    }


def published():
    return architectures()["uhl"].published


@torch.inference_mode()
def test_the_blend_is_the_weighted_sum_of_the_networks_outputs():
    whole = network(blend=("recurrent", "feed_forward"), blend_weights=(0.75, 0.25))
    magnitudes = noise(2, 2, 9, 33)
    apart = []
    for i, kind in enumerate(whole.networks):
        alone = network(
            blend=("recurrent" if isinstance(kind, RecurrentNetwork) else "feed_forward",), blend_weights=(1.0,)
        )
        alone.networks[0].load_state_dict(kind.state_dict())
        apart.append(alone(magnitudes))
        assert apart[i].any()
    assert torch.allclose(whole(magnitudes), 0.75 * apart[0] + 0.25 * apart[1], atol=1e-6)


@torch.inference_mode()
def test_two_equal_halves_are_the_whole():
    twice = network(blend=("recurrent", "recurrent"), blend_weights=(0.5, 0.5))
    twice.networks[1].load_state_dict(twice.networks[0].state_dict())
    once = network(blend=("recurrent",), blend_weights=(1.0,))
    once.networks[0].load_state_dict(twice.networks[0].state_dict())
    magnitudes = noise(1, 2, 9, 33)
    assert torch.allclose(twice(magnitudes), once(magnitudes), atol=1e-6)


@torch.inference_mode()
def test_the_feed_forward_network_is_dense_layers_over_stacked_frames():
    torch.manual_seed(0)
    config = Config.tiny()
    net = FeedForwardNetwork(config).eval()
    x = noise(1, 7, 66)
    reach = config.context_frames
    padded = F.pad(x, (0, 0, reach, reach))[0]
    stacked = torch.stack([padded[t : t + 2 * reach + 1] for t in range(7)])  # [frames, context, size]
    h = F.relu(torch.einsum("tks,usk->tu", stacked, net.context.weight) + net.context.bias)
    for layer in net.hidden:
        h = F.relu(h @ layer.weight.T + layer.bias)
    assert torch.allclose(net(x)[0], h @ net.output.weight.T + net.output.bias, atol=1e-5)


@pytest.mark.parametrize(("kind", "reach"), [("feed_forward", 2), ("recurrent", 14)])
@torch.inference_mode()
def test_how_far_it_sees(kind, reach):
    """The feed-forward network its context and no more; the recurrent one to either end."""
    net = network(blend=(kind,), blend_weights=(1.0,))
    magnitudes = noise(1, 2, 29, 33)
    touched = magnitudes.clone()
    touched[:, :, 14] += 3
    changed = (net(touched) - net(magnitudes)).abs().amax((0, 1, 3)) > 0
    assert changed.nonzero().flatten().tolist() == list(range(14 - reach, 14 + reach + 1))


@torch.inference_mode()
def test_each_network_has_its_own_normalisation():
    net = network()
    magnitudes = noise(1, 2, 9, 33)
    before = net(magnitudes)
    for name in ("input_mean", "input_scale", "output_scale"):
        for i in range(2):
            changed = network()
            getattr(changed, name)[i] += 0.3
            assert not torch.allclose(changed(magnitudes), before, atol=1e-4), (name, i)


@torch.inference_mode()
def test_estimates_are_magnitudes():
    assert network()(noise(1, 2, 9, 33)).min() >= 0


def test_silence_is_promised_only_with_a_filter():
    assert Uhl(Config.tiny()).spec.silence_to_silence
    bare = Uhl(replace(Config.tiny(), wiener_iterations=0)).eval()
    assert not bare.spec.silence_to_silence
    with torch.inference_mode():
        assert bare(torch.zeros(1, 2, 500)).any()


def test_without_a_filter_one_target_runs_alone():
    whole = Uhl(replace(Config.tiny(), wiener_iterations=0)).eval()
    alone = whole.narrowed(("drums",))
    mix = noise(1, 2, 500) - 0.5
    with torch.inference_mode():
        assert list(alone.networks) == ["drums"]
        assert torch.allclose(alone(mix)[:, 0], whole(mix)[:, 1], atol=1e-6)


BAD = {
    "expected one number for each network": {"blend": ("recurrent",)},
    "one network at least": {"blend": (), "blend_weights": ()},
    "expected numbers that sum to 1": {"blend_weights": (0.75, 0.5)},
    "recurrent_cells even": {"recurrent_cells": 9},
    "layers, cells and units are 1 or more": {"recurrent_layers": 0},
    "context_frames 0 or more": {"context_frames": -1},
    "dropout is 1": {"dropout": 1.0},
    "cannot share the mixture": {"targets": ("vocals",)},
}


@pytest.mark.parametrize("sentence", BAD)
def test_a_config_that_makes_no_sense_is_refused(sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(Config.tiny(), **BAD[sentence])
