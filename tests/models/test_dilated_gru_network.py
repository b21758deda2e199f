"""The reconstruction of "GRU dilation 1": structure, and what sees what."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from iseparate.models._registry import published_config
from iseparate.models.dilated_gru import Block, Config, DilatedGru, DilatedGruNetwork, DilatedGruSeparator

TINY = Config.tiny()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seen_by(module, x, step, time):
    """Steps of the input that the output's `step` depends on; `time` is the axis of both."""
    x = x.clone().requires_grad_()
    module(x).select(time, step).sum().backward()
    others = [axis for axis in range(x.ndim) if axis != time % x.ndim]
    return {int(i) for i in (x.grad.abs().amax(others) > 0).nonzero()}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# -- the recurrent layer --------------------------------------------------------------------------------------


@torch.inference_mode()
def test_dilation_1_is_a_plain_gru():
    ours, plain = DilatedGru(6, 1), nn.GRU(6, 3, batch_first=True, bidirectional=True)
    state = dict(ours.ahead.state_dict())
    state |= {f"{name}_reverse": tensor for name, tensor in ours.back.state_dict().items()}
    plain.load_state_dict(state)
    x = noise(2, 17, 6)
    assert torch.allclose(ours(x), plain(x)[0], atol=1e-6)


@torch.inference_mode()
def test_the_recurrence_keeps_its_precision_under_autocast():
    layer, x = DilatedGru(6, 2), noise(2, 17, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
        rounded = layer(x.bfloat16())
    assert found.dtype == rounded.dtype == torch.float32
    assert torch.equal(found, layer(x))
    assert torch.allclose(rounded, found, atol=0.05)


@pytest.mark.parametrize("dilation", [1, 2, 3, 5])
@pytest.mark.parametrize("steps", [1, 4, 13])
@torch.inference_mode()
def test_the_state_comes_from_k_steps_away(dilation, steps):
    """Written out step by step: h[t] = GRU(x[t], h[t - k]), and h[t + k] on the way back; zero beyond the ends."""
    layer, x = DilatedGru(6, dilation), noise(2, steps, 6)
    expected = torch.zeros(2, steps, 6)
    for gru, part, order, from_ in (
        (layer.ahead, slice(0, 3), range(steps), -dilation),
        (layer.back, slice(3, 6), reversed(range(steps)), dilation),
    ):
        cell = nn.GRUCell(6, 3)
        cell.load_state_dict({name.removesuffix("_l0"): tensor for name, tensor in gru.state_dict().items()})
        for t in order:
            inside = 0 <= t + from_ < steps
            expected[:, t, part] = cell(x[:, t], expected[:, t + from_, part] if inside else torch.zeros(2, 3))
    assert torch.allclose(layer(x), expected, atol=1e-6)


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_a_step_sees_every_kth_step_and_no_other(dilation):
    seen = seen_by(DilatedGru(6, dilation), noise(1, 16, 6), 7, time=1)
    assert seen == {t for t in range(16) if (t - 7) % dilation == 0}


# -- blocks and the network -------------------------------------------------------------------------------------


def deaf(module):
    """Without what its GRUs hear: the convolutions are all that is left."""
    for layer in module.modules():
        if isinstance(layer, nn.GRU):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
    return module


def test_convolutions_see_their_receptive_field():
    config = replace(TINY, blocks=2, dilations=(1, 2, 4))
    assert config.reach_frames == 14
    network, x = deaf(DilatedGruNetwork(config)), noise(1, 2, 60, 65).abs()
    # The last ReLU could hide a step by chance.
    x.requires_grad_()
    hidden = network.first(x.transpose(2, 3).flatten(1, 2))
    for block in network.blocks:
        hidden = block(hidden)
    hidden[..., 30].sum().backward()
    steps = (x.grad.abs().amax((0, 1, 3)) > 0).nonzero().flatten()
    assert (steps.min().item(), steps.max().item()) == (30 - 14, 30 + 14)


@torch.inference_mode()
def test_a_block_adds_what_it_was_given():
    block, x = Block(TINY), noise(1, 8, 9)
    for conv in block.convs:
        conv.parametrizations.weight.original0.zero_()
        conv.bias.zero_()
    assert torch.equal(deaf(block)(x), x)


def test_convolutions_are_weight_normalised_and_grouped():
    network = DilatedGruNetwork(TINY)
    for block in network.blocks:
        assert [conv.dilation for conv in block.convs] == [(1,), (2,)]
        for conv in block.convs:
            assert conv.groups == 2
            assert conv.weight.shape == (8, 4, 3)
            gain = conv.parametrizations.weight.original0
            assert torch.allclose(conv.weight.flatten(1).norm(dim=1), gain.flatten(), atol=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 7])
@torch.inference_mode()
def test_all_targets_come_at_once_and_are_not_negative(frames):
    estimates = DilatedGruNetwork(TINY)(noise(3, 2, frames, 65).abs())
    assert estimates.shape == (3, 2, 2, frames, 65)
    assert estimates.min() >= 0


@torch.inference_mode()
def test_frames_and_bins_keep_their_places():
    """With the blocks silenced and 1x1 identities, what comes out is where it went in."""
    config = replace(TINY, targets=("all",), width=130)
    network = DilatedGruNetwork(config)
    network.blocks = nn.ModuleList()
    for conv in (network.first, network.last):
        conv.parametrizations.weight.original1.copy_(torch.eye(130)[..., None])
        conv.parametrizations.weight.original0.fill_(1)
        conv.bias.zero_()
    x = noise(1, 2, 5, 65).abs()
    assert torch.allclose(network(x)[:, 0], x, atol=1e-6)


def test_the_targets_run_together():
    model = DilatedGruSeparator(TINY)
    assert model.spec.couples == (("vocals", "other"),)
    assert model.spec.context_samples is None
    assert model.narrowed(("vocals",)) is model
    plain = DilatedGruSeparator(replace(TINY, wiener_iterations=0))
    assert plain.spec.couples == (("vocals", "other"),)
    assert not plain.spec.silence_to_silence


def test_the_published_system_is_a_plain_gru():
    arch, config = published_config("gru-dilation-1")
    assert arch.name == "dilated_gru"
    assert config.gru_dilation == 1
    assert config.targets == ("vocals", "drums", "bass", "other")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 9}, "width is 9; it must be a multiple of 2 and of groups"),
        ({"kernel": 2}, "kernel is 2; expected an odd number"),
        ({"gru_dilation": 0}, "1 or more"),
        ({"dilations": ()}, "one dilation or more"),
        ({"blocks": 65}, "at most 64"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)
