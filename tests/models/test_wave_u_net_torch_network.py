from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from iseparate.engine.plan import Plan
from iseparate.engine.stream import SongStream
from iseparate.errors import CheckpointError
from iseparate.losses import CRITERIA
from iseparate.models._registry import published_config
from iseparate.models.wave_u_net_torch import Config, TorchCheckpoint, WaveUNetTorch, low_pass
from iseparate.types import CheckpointFile
from iseparate.weights.load import bare_model

TINY = Config.tiny()
KINDS = [
    replace(TINY, normalisation=normalisation, resampling=resampling, separate=separate, stride=stride)
    for normalisation in ("group", "batch", "none")
    for resampling in ("fixed", "learned")
    for separate, stride in ((True, 2), (False, 4))
]


def build(config=TINY):
    """A network whose batch normalisations have seen something, and let the input through."""
    torch.manual_seed(0)
    model = WaveUNetTorch(config).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.05, 0.05)
        elif name.endswith("running_var"):
            buffer.uniform_(0.005, 0.02)
    return model


def noise(samples, seed=0):
    return 0.2 * torch.randn(1, 2, samples, generator=torch.Generator().manual_seed(seed))


# -- sizes --------------------------------------------------------------------------------------------------


def test_the_released_network_has_its_size():
    model = bare_model(*published_config("wave-u-net-pytorch"))
    assert sum(p.numel() for p in model.parameters()) == 69910152
    assert model.config.window == (97961, 88409)
    assert (model.spec.segment_samples, model.spec.edge_samples, model.spec.context_samples) == (97961, 4776, None)


@pytest.mark.parametrize("config", KINDS)
@torch.inference_mode()
def test_the_lengths_are_what_a_pass_gives(config):
    network = next(iter(build(config).networks.values()))
    for target in (1, 100, 300):
        inside, outside = replace(config, target_samples=target).window
        assert outside >= target
        assert network(noise(inside)).shape[-1] == outside
        assert inside - outside == 2 * config.context_samples


def test_the_low_pass_is_the_references():
    """Its formula as it stands there, tap by tap; no window term but the second depends on the tap."""
    for stride in (2, 4):
        taps = []
        for i in range(15):
            t = i - 7
            window = 0.42 - 0.5 * np.cos(2 * np.pi * i / 14) + 0.08 * np.cos(4 * np.pi * 14)
            taps.append(np.pi / stride if t == 0 else np.sin(np.pi / stride * t) / t * window)
        np.testing.assert_allclose(low_pass(stride), np.array(taps) / sum(taps), atol=1e-7)


# -- the way through a song ---------------------------------------------------------------------------------


def in_segments(model, mix):
    stream = SongStream(model, [Plan.for_model(model.spec)], model.spec.sample_rate, ["FL", "FR"])
    blocks = [np.stack(list(b.stems.values())) for b in stream.run([block.numpy() for block in mix[0].split(333, 1)])]
    return torch.from_numpy(np.concatenate(blocks, -1))


@pytest.mark.parametrize("config", [kind for kind in KINDS if kind.normalisation != "group"])
@torch.inference_mode()
def test_without_group_normalisation_segments_equal_one_pass(config):
    model = build(config)
    assert model.spec.context_samples is not None
    mix = noise(2400)
    whole = model(mix)[0]
    assert whole.std(-1).min() > 1e-3
    assert (in_segments(model, mix) - whole).abs().max() < 1e-5 * whole.abs().max()


@pytest.mark.parametrize("config", [kind for kind in KINDS if kind.normalisation != "group"])
@torch.inference_mode()
def test_nothing_is_heard_from_further_away_than_said(config):
    model = build(config)
    context = model.spec.context_samples
    mix, at = noise(4 * context), 2 * context
    clicked = mix.clone()
    clicked[..., at] += 5
    changed = (model(clicked) - model(mix)).abs().amax((0, 1, 2)) > 1e-6
    assert changed.any()
    assert not changed[: at - context].any()
    assert not changed[at + context + 1 :].any()


@pytest.mark.parametrize("config", KINDS)
@torch.inference_mode()
def test_the_official_windows_are_the_engines(config):
    model = build(replace(config, windows=True, overlap=0.0, clip=True))
    mix = noise(1700)
    assert (in_segments(model, mix) - model(mix)[0]).abs().max() < 1e-5


@torch.inference_mode()
def test_one_stem_runs_alone_where_it_has_a_network():
    model, mix = build(), noise(900)
    alone = model.narrowed(("vocals",))
    assert alone.spec.stems == ("vocals",)
    assert alone.kernels == ("networks.vocals",)
    assert torch.equal(alone.separate_segment(mix)[:, 0], model.separate_segment(mix)[:, 1])
    shared = build(replace(TINY, separate=False))
    assert shared.narrowed(("vocals",)) is shared
    assert shared.spec.couples == (("bass", "vocals"),)


# -- training -----------------------------------------------------------------------------------------------


def test_the_loss_sees_what_has_context_in_the_excerpt():
    model = build().train()
    inside, outside = TINY.window
    mix, stems = noise(inside + 3), torch.stack([noise(inside + 3, seed) for seed in (1, 2)], 1)
    estimates = torch.stack([network(mix[..., 1 : 1 + inside]) for network in model.networks.values()], 1)
    cut = 1 + TINY.context_samples
    expected = (estimates - stems[..., cut : cut + outside]).abs().mean()
    torch.testing.assert_close(model.training_loss(mix, stems, CRITERIA["l1"]())["loss"], expected)


def test_nothing_is_clipped_in_training():
    model = build(replace(TINY, clip=True))
    with torch.no_grad():
        for network in model.networks.values():
            network.head.bias.fill_(3.0)
        assert model.eval()(noise(500)).max() == 1
        assert model.train()(noise(500)).max() > 1


# -- reading checkpoints ------------------------------------------------------------------------------------

THEIRS = {
    r"^networks\.(\w+)\.(down|up)\.(\d)\.before": r"waveunets.\1.\2sampling_blocks.\3.pre_shortcut_convs.0",
    r"^networks\.(\w+)\.(down|up)\.(\d)\.after": r"waveunets.\1.\2sampling_blocks.\3.post_shortcut_convs.0",
    r"^networks\.(\w+)\.(down|up)\.(\d)\.resample": r"waveunets.\1.\2sampling_blocks.\3.\2conv",
    r"^networks\.(\w+)\.bottleneck": r"waveunets.\1.bottlenecks.0",
    r"^networks\.(\w+)\.head": r"waveunets.\1.output_conv",
}


def as_the_reference(model, prefix="model_state_dict."):
    """The state under the reference's names, its filters included."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        for ours, theirs in THEIRS.items():
            name = re.sub(ours, theirs, name)  # noqa: PLW2901
        tensors[prefix + name] = tensor
    if model.config.resampling == "fixed":
        taps = low_pass(model.config.stride)
        for network in model.networks:
            for i, width in enumerate(model.config.widths[1:]):
                down = f"{prefix}waveunets.{network}.downsampling_blocks.{i}.downconv.filter"
                up = f"{prefix}waveunets.{network}.upsampling_blocks.{i}.upconv.filter"
                tensors[down] = taps.expand(width, 1, -1)
                tensors[up] = taps.expand(model.config.widths[-1 - i], 1, -1)
    return tensors


def converted(tensors):
    files = {"model": CheckpointFile("model", "torch", tensors)}
    assert TorchCheckpoint().recognises(files)
    return TorchCheckpoint().convert(files)


@pytest.mark.parametrize("config", KINDS)
@pytest.mark.parametrize("prefix", ["", "model_state_dict.", "model_state_dict.module."])
def test_every_kind_is_told_from_its_tensors(config, prefix):
    config = replace(config, stems=("bass", "drums", "other", "vocals"))
    model = build(config)
    read, state = converted(
        {**as_the_reference(model, prefix), **({"optimizer_state_dict.x": torch.zeros(1)} if prefix else {})}
    )
    told = 4 if config.resampling == "learned" else config.stride
    assert read == replace(config, stride=told, target_samples=Config().target_samples)
    model.load_state_dict(state)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"waveunets.bass.extra.weight": torch.zeros(1)}, "has not: extra.weight"),
        ({"waveunets.bass.output_conv.weight": torch.zeros(2)}, "output_conv.weight has shape"),
        ({"waveunets.bass.downsampling_blocks.0.downconv.filter": torch.ones(16, 1, 15)}, "no sinc"),
        ({"waveunets.bass.downsampling_blocks.0.downconv.filter": torch.ones(2)}, "no sinc"),
        ({"waveunets.keys.output_conv.weight": torch.zeros(1)}, "'keys' cannot be a stem's name"),
        ({"waveunets.bass.downsampling_blocks.9.x": torch.zeros(1)}, "is missing"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_in_a_sentence(change, said):
    with pytest.raises(CheckpointError, match=said) as caught:
        converted({**as_the_reference(build(), ""), **change})
    assert "\n" not in str(caught.value)


def test_stems_of_a_network_for_all_have_numbers_where_they_are_not_four():
    shared = build(replace(TINY, separate=False))
    config, state = converted(as_the_reference(shared))
    assert config.stems == ("stem 1", "stem 2")
    WaveUNetTorch(replace(config, stems=("vocals", "rest"))).load_state_dict(state)
    with pytest.raises(CheckpointError, match="3 outputs; expected 2 for each of up to 64 stems"):
        converted({**as_the_reference(shared, ""), "waveunets.ALL.output_conv.weight": torch.zeros(3, 8, 1)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stems": ()}, "stems must be"),
        ({"stems": ("keys",)}, "'keys' cannot be a stem's name"),
        ({"widths": (8,)}, "2 to 12 levels"),
        ({"widths": (8, 12)}, "multiples of 8"),
        ({"kernel": 4}, "kernel is 4"),
        ({"stride": 1}, "stride is 1"),
        ({"channels": 3}, "channels is 3"),
        ({"overlap": 1.0}, "overlap 1.0"),
        ({"windows": True}, "windows that abut have overlap 0"),
        ({"target_samples": 0}, "target_samples is 0"),
    ],
)
def test_a_config_that_makes_no_network(change, said):
    with pytest.raises(ValueError, match=said):
        replace(TINY, **change)
