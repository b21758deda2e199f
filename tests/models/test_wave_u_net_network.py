from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from iseparate.engine.plan import Plan
from iseparate.engine.stream import SongStream
from iseparate.errors import CheckpointError
from iseparate.losses import CRITERIA
from iseparate.models._registry import published_config
from iseparate.models.wave_u_net import Config, TensorFlowBundle, Up, WaveUNet
from iseparate.types import CheckpointFile
from iseparate.weights.load import bare_model

TINY = Config.tiny()


def build(config=TINY):
    torch.manual_seed(0)
    return WaveUNet(config).eval()


def noise(samples, channels=2, seed=0):
    return 0.2 * torch.randn(1, channels, samples, generator=torch.Generator().manual_seed(seed))


# -- sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "parameters"), [("wave-u-net-m4", 10263390), ("wave-u-net-m5", 10265550), ("wave-u-net-m6", 10263498)]
)
def test_published_systems_have_their_size(system, parameters):
    model = bare_model(*published_config(system))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.config.window == (147443, 16389)
    # The default kept at a time, with room at either end for the context of any of them.
    assert (model.spec.segment_samples, model.spec.edge_samples) == (524288, 65536)


def test_the_lengths_are_what_a_pass_gives():
    model = build()
    for innermost in (8, 9, 13):
        inside, outside = TINY.lengths(innermost)
        assert model.network(noise(inside)).shape == (1, 6, outside)
        assert inside - outside == 2 * TINY.context_samples
    shortest = TINY.least_input_samples
    assert model.network(noise(shortest)).shape[-1] >= 1


@pytest.mark.parametrize("taps", [1, 3, 5, 9])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("samples", [11, 600])
def test_a_way_up_is_samples_in_between_and_one_convolution(taps, learned, samples):
    torch.manual_seed(1)
    layer = Up(3, 2, taps, learned).double()
    x, skip = torch.randn(2, 3, samples).double(), torch.randn(2, 2, 2 * samples + 5).double()
    share = layer.interpolation.sigmoid()[:, None] if learned else 0.5
    between = share * x[..., :-1] + (1 - share) * x[..., 1:]
    full = torch.stack([x[..., :-1], between], -1).flatten(-2)
    full = torch.cat([skip[..., 3:-3], torch.cat([full, x[..., -1:]], -1)], 1)
    expected = F.leaky_relu(F.conv1d(full, layer.weight, layer.bias), 0.2)
    torch.testing.assert_close(layer(x, skip), expected)


# -- the way through a song ---------------------------------------------------------------------------------


def in_segments(model, mix):
    stream = SongStream(model, [Plan.for_model(model.spec)], model.spec.sample_rate, ["FL", "FR"])
    blocks = [np.stack(list(b.stems.values())) for b in stream.run([block.numpy() for block in mix[0].split(333, 1)])]
    return torch.from_numpy(np.concatenate(blocks, -1))


@torch.inference_mode()
def test_the_official_windows_meet_at_seams_and_ours_do_not():
    """The reference's own windows do not agree with one pass; segments on the grid do."""
    mix, model = noise(3000), build()
    whole = model(mix)[0]
    assert (in_segments(model, mix) - whole).abs().max() < 1e-6
    official = build(replace(TINY, windows=True))
    windowed = official(mix)[0]
    assert torch.equal(in_segments(official, mix), windowed)
    _, outside = TINY.window
    assert outside % TINY.grid_samples
    # The first window starts where one pass starts on some phase of the grid; the second on another.
    phases = [model(F.pad(mix, (phase, 0)))[0, ..., phase : phase + 2 * outside] for phase in range(TINY.grid_samples)]
    first = min((p[..., :outside] - windowed[..., :outside]).abs().max() for p in phases)
    both = min((p - windowed[..., : 2 * outside]).abs().max() for p in phases)
    assert first < 1e-6
    assert both > 1e-3


@torch.inference_mode()
def test_the_last_stem_is_what_the_others_leave_unless_clipped():
    mix = 5 * noise(700)
    exact, clipped = build(), build(replace(TINY, clip=True))
    assert exact.spec.mixture_consistent
    assert exact.spec.residual_stem == "other"
    assert (exact(mix).sum(1) - mix).abs().max() < 1e-5
    assert not clipped.spec.mixture_consistent
    assert clipped.spec.residual_stem is None
    assert torch.equal(clipped(mix)[:, -1], exact(mix)[:, -1].clamp(-1, 1))
    assert exact(mix)[:, -1].abs().max() > 1


# -- training -----------------------------------------------------------------------------------------------


def test_the_loss_sees_what_has_context_in_the_excerpt():
    model = build().train()
    inside, outside = TINY.window
    mix = noise(inside + 3)
    stems = torch.stack([noise(inside + 3, seed=seed) for seed in range(4)], 1)
    cut = 1 + TINY.context_samples
    estimates = model._inner(mix[..., 1 : 1 + inside])
    expected = (estimates - stems[..., cut : cut + outside]).square().mean()
    loss = model.training_loss(mix, stems, CRITERIA["mse"]())["loss"]
    torch.testing.assert_close(loss, expected)


def test_a_short_excerpt_is_heard_in_silence():
    model = build().train()
    mix = noise(20)
    stems = mix[:, None].expand(-1, 4, -1, -1)
    expected = (model(mix) - stems).square().mean()
    torch.testing.assert_close(model.training_loss(mix, stems, CRITERIA["mse"]())["loss"], expected)


# -- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stems": ("vocals",)}, "stems must be different names, two at least"),
        ({"stems": ("a", "a")}, "stems must be different names"),
        ({"levels": 0}, "levels 0"),
        ({"levels": 64}, "levels 64"),
        ({"filters": -3}, "filters -3"),
        ({"channels": 6}, "channels is 6"),
        ({"down_kernel": 4}, "down_kernel is 4; expected an odd number"),
        ({"up_kernel": -1}, "up_kernel is -1"),
        ({"sample_rate": 1}, "sample_rate is 1"),
        ({"kept_samples": 0}, "kept_samples is 0"),
        ({"window_samples": 1 << 40}, "window_samples is"),
    ],
)
def test_a_config_that_makes_no_network(change, said):
    with pytest.raises(ValueError, match=said):
        replace(TINY, **change)


def layers(*shapes):
    tensors = {}
    for number, shape in enumerate(shapes):
        name = "separator/conv1d" + (f"_{number}" if number else "")
        tensors |= {f"{name}/kernel": torch.zeros(shape), f"{name}/bias": torch.zeros(shape[-1:])}
    return tensors


GOOD = layers((5, 2, 3), (5, 3, 6), (3, 9, 3), (1, 5, 2))


def converted(tensors):
    return TensorFlowBundle().convert({"m": CheckpointFile("m", "tensorflow", tensors)})


def test_the_smallest_checkpoint_is_read():
    config, state = converted(GOOD)
    assert (config.levels, config.filters, config.down_kernel, config.up_kernel) == (1, 3, 5, 3)
    WaveUNet(config).load_state_dict(state)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({**GOOD, "separator/dense/kernel": torch.zeros(3)}, "has not: separator/dense/kernel"),
        ({k: t for k, t in GOOD.items() if k != "separator/conv1d_2/bias"}, "of number 2 not a kernel"),
        ({**GOOD, "separator/conv1d/kernel": torch.zeros(5)}, "of number 0 not a kernel"),
        (layers((5, 2, 3), (5, 3, 6), (3, 9, 3), (1, 5, 2), (1, 5, 2)), "4 convolutions, the widest|5 convolutions"),
        (layers((5, 2, 3)), "1 convolutions"),
        (layers((4, 2, 3), (4, 3, 6), (3, 9, 3), (1, 5, 2)), "down_kernel is 4"),
        ({}, "0 convolutions"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_in_a_sentence(tensors, said):
    with pytest.raises(CheckpointError, match=said) as caught:
        converted(tensors)
    assert "\n" not in str(caught.value)
