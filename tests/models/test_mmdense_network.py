"""MMDenseNet and MMDenseLSTM: structure, sizes, receptive field, and reading the community's checkpoints."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from iseparate.audio.layout import unnamed_layout
from iseparate.engine.plan import Plan
from iseparate.engine.stream import SongStream
from iseparate.errors import CheckpointError
from iseparate.models._registry import published_config
from iseparate.models.mmdenselstm import (
    MMDENSENET,
    TAK1,
    Band,
    BandNetwork,
    Config,
    DenseBlock,
    LstmBlock,
    MMDenseLSTM,
    MMDenseNetwork,
    Network,
    Tky823,
)
from iseparate.types import CheckpointFile

TINY = Config.tiny()
CONVOLUTIONAL = Network(
    bands=(
        Band(20, 3, growth=(2, 2, 3), depth=(1, 1, 1), kernel=(3, 4)),
        Band(43, 2, growth=(2, 2, 2), depth=(1, 2, 1)),
    ),
    full=Band(63, 2, growth=(2, 2, 2, 2, 2), depth=(1, 1, 1, 1, 1)),
    growth=3,
    depth=2,
    kernel=(3, 2),
    dilated=True,
)
FINITE = replace(TINY, networks=(CONVOLUTIONAL,), wiener_window_frames=4)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def settle(module, seed=0):
    """Batch normalisations that have seen something, and gammas of either sign."""
    chance = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.3, generator=chance)
            norm.running_var.uniform_(0.3, 2, generator=chance)
            with torch.no_grad():
                norm.weight.uniform_(-1.5, 1.5, generator=chance)
                norm.bias.normal_(0, 0.3, generator=chance)
    return module.eval()


def build(config, seed=0):
    torch.manual_seed(seed)
    return settle(MMDenseLSTM(config), seed)


def noise(*shape, seed=0):
    return 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- sizes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "paper_millions"), [("mmdensenet", 339_468, 0.33), ("mmdenselstm", 1_370_784, 1.22)]
)
def test_published_sizes(name, parameters, paper_millions):
    """Those of the community's code; the papers' (from memory) are near, no more."""
    arch, config = published_config(name)
    assert arch.name == "mmdenselstm"
    with torch.device("meta"):
        models = [MMDenseNetwork(network, config.channels) for network in config.of_target.values()]
    assert len(models) == 4
    assert {sum(p.numel() for p in model.parameters()) for model in models} == {parameters}
    assert parameters / 1e6 == pytest.approx(paper_millions, rel=0.15)


def test_published_systems_say_how_far_they_see():
    convolutional, recurrent = published_config("mmdensenet")[1], published_config("mmdenselstm")[1]
    assert not MMDENSENET.recurrent
    assert TAK1.recurrent
    with torch.device("meta"):
        spec = MMDenseLSTM(convolutional).spec
        assert MMDenseLSTM(recurrent).spec.context_samples is None
    assert spec.context_samples == (MMDENSENET.reach_frames + 303) * 1024 + 2048
    assert spec.start_grid_samples == 304 * 1024  # 304 frames are 38 times the 8 that three poolings join


# -- blocks ---------------------------------------------------------------------------------------------------


def dense_by_the_book(block, x, dilated, kernel):
    """Every layer convolves each source before it with a kernel of its own; normalisation sees their sum."""
    sources, growth = [], block.growth
    for layer in range(len(block.convs)):
        norm, incoming = block.norms[layer], x
        if layer:
            incoming = sum(
                F.conv2d(
                    F.pad(source, _around(kernel, 2**i if dilated else 1)),
                    block.convs[i].weight[(layer - 1 - i) * growth :][:growth],
                    block.convs[i].bias[(layer - 1 - i) * growth :][:growth],
                    dilation=2**i if dilated else 1,
                )
                for i, source in enumerate(sources)
            )
        sources.append(norm(incoming).relu())
    return sum(
        F.conv2d(
            F.pad(source, _around(kernel, 2**i if dilated else 1)),
            block.convs[i].weight[-growth:],
            block.convs[i].bias[-growth:],
            dilation=2**i if dilated else 1,
        )
        for i, source in enumerate(sources)
    )


def _around(kernel, dilation):
    frames, bins = ((k - 1) * dilation for k in kernel)
    return (bins // 2, bins - bins // 2, frames // 2, frames - frames // 2)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("kernel", "dilated"), [((3, 3), False), ((3, 3), True), ((3, 4), False), ((1, 2), True)])
@torch.no_grad()
def test_a_dense_block_is_densely_connected(kernel, dilated, training):
    block = settle(DenseBlock(5, 3, 4, kernel, dilated)).train(training)
    x = noise(2, 5, 9, 11)
    expected = dense_by_the_book(copy.deepcopy(block), x, dilated, kernel)
    assert torch.allclose(block(x), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("place", "channels"), [("parallel", 4), ("after", 4), ("before", 3)], ids=["parallel", "after", "before"]
)
@torch.inference_mode()
def test_an_lstm_adds_one_channel_from_where_it_stands(place, channels):
    block = settle(LstmBlock(5, 3, 2, cells=4, bins=11, kernel=(3, 3), place=place))
    x = noise(2, 5, 9, 11)

    def recurrent(y):
        return block.expand(block.lstm(block.squeeze(y)[:, 0])[0])[:, None]

    expected = {
        "parallel": lambda: torch.cat([block.dense(x), recurrent(x)], 1),
        "after": lambda: torch.cat([block.dense(x), recurrent(block.dense(x))], 1),
        "before": lambda: block.dense(torch.cat([x, recurrent(x)], 1)),
    }[place]()
    assert block.out_channels == channels
    assert torch.allclose(block(x), expected, atol=1e-6)


@pytest.mark.parametrize("place", ["parallel", "after", "before"])
def test_an_lstm_stands_alone_at_a_bottom_without_layers(place):
    block = LstmBlock(5, 0, 0, cells=2, bins=11, kernel=(3, 3), place=place)
    assert block.dense is None
    assert block(noise(1, 5, 9, 11)).shape == (1, block.out_channels, 9, 11) == (1, 1, 9, 11)


@pytest.mark.parametrize("bins", [16, 17, 19])
@pytest.mark.parametrize("frames", [1, 2, 3, 13])
@torch.inference_mode()
def test_a_band_keeps_its_size_whatever_it_is(bins, frames):
    band = Band(bins, 3, growth=(2, 3, 2, 3, 4), depth=(1, 2, 1, 1, 2), lstm_cells=(0, 0, 2, 3, 0))
    network = settle(BandNetwork(2, band, "parallel", 6))
    assert network(noise(2, 2, frames, bins)).shape == (2, 6, frames, bins)


@pytest.mark.parametrize("network", [*TINY.networks, CONVOLUTIONAL])
@torch.inference_mode()
def test_folding_normalisations_changes_nothing(network):
    """Eval mode against the layers one after the other, as in training but with the same statistics."""
    model = settle(MMDenseNetwork(network, 2))
    layered = copy.deepcopy(model)
    for module in layered.modules():
        if isinstance(module, DenseBlock):
            module._infer = module._train
    x = noise(2, 2, 13, 65).abs()
    assert torch.allclose(model(x), layered(x), atol=1e-5)


@torch.inference_mode()
def test_bins_above_the_bands_pass_through():
    network, x = settle(MMDenseNetwork(CONVOLUTIONAL, 2)), noise(1, 2, 9, 65).abs()
    assert torch.equal(network(x)[..., 63:], x[..., 63:])
    assert not torch.equal(network(x)[..., :63], x[..., :63])


@torch.inference_mode()
def test_the_sign_of_the_input_scale_is_nothing():
    network, x = settle(MMDenseNetwork(CONVOLUTIONAL, 2)), noise(1, 2, 9, 65).abs()
    before = network(x)
    network.scale_in.neg_()
    assert torch.equal(network(x), before)


# -- the receptive field ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [20, 21, 22, 23])
def test_a_frame_sees_no_further_than_promised(frame):
    network, reach = settle(MMDenseNetwork(CONVOLUTIONAL, 2)), CONVOLUTIONAL.reach_frames
    nn.init.constant_(network.bias_out, 100.0)  # so that the last ReLU hides nothing
    x = noise(1, 2, 60, 65).abs().requires_grad_()
    network(x)[0, :, frame, :63].sum().backward()
    seen = (x.grad.abs().amax((0, 1, 3)) > 0).nonzero().flatten()
    assert seen.max() <= frame + reach
    assert seen.min() >= frame - reach
    # The promise is no idle one: pooling apart, the frame does see that far.
    assert seen.max() - seen.min() >= reach


def in_chunks(model, mix, segment_seconds):
    plan = Plan.for_model(model.spec, segment_seconds=segment_seconds)
    stream = SongStream(model, [plan], model.spec.sample_rate, unnamed_layout(model.spec.channels))
    blocks = [np.stack(list(b.stems.values())) for b in stream.run([part.numpy() for part in mix[0].split(1111, 1)])]
    return torch.from_numpy(np.concatenate(blocks, -1))


@pytest.mark.parametrize("iterations", [0, 1])
@pytest.mark.parametrize("samples", [1, 1501, 9001, 9056])
@torch.inference_mode()
def test_without_an_lstm_chunks_are_one_pass(iterations, samples):
    model, mix = build(replace(FINITE, wiener_iterations=iterations)), noise(1, 2, samples)
    assert model.spec.context_samples is not None
    chunked = in_chunks(model, mix, 0.01)
    assert (chunked - model(mix)[0]).abs().max() < 1e-5


@torch.inference_mode()
def test_a_click_is_heard_no_further_than_the_context():
    model = build(FINITE)
    context = model.spec.context_samples
    mix = noise(1, 2, 4 * context)
    clicked, at = mix.clone(), 2 * context
    clicked[..., at] += 0.5
    changed = ((model(clicked) - model(mix)).abs().amax((0, 1, 2)) > 0).nonzero().flatten()
    assert at - context <= changed.min() < at < changed.max() <= at + context


def test_a_filter_over_the_whole_song_has_no_bound():
    assert MMDenseLSTM(replace(FINITE, wiener_window_frames=None)).spec.context_samples is None
    assert MMDenseLSTM(replace(FINITE, wiener_window_frames=None, wiener_iterations=0)).spec.context_samples


@pytest.mark.parametrize("change", [{}, {"wiener_iterations": 0}, {"wiener_softmask": False}])
@torch.inference_mode()
def test_silence_stays_silent_only_through_the_filter(change):
    model = build(replace(FINITE, **change))
    for network in model.networks.values():
        network.bias_out.fill_(1.0)
    assert model.spec.silence_to_silence
    assert not model(torch.zeros(1, 2, 999)).any()
    bare = build(replace(FINITE, wiener_iterations=0, wiener_softmask=False))
    assert not bare.spec.silence_to_silence


def test_without_a_filter_each_target_runs_alone():
    model = build(replace(FINITE, wiener_iterations=0, wiener_softmask=False))
    assert model.spec.needed_stems(("other",)) == ("other",)
    assert list(model.narrowed(("other",)).networks) == ["other"]
    assert build(FINITE).spec.needed_stems(("other",)) == ("vocals", "other")


@torch.inference_mode()
def test_a_network_with_even_kernels_can_be_exported():
    network, x = settle(MMDenseNetwork(CONVOLUTIONAL, 2)), noise(1, 2, 13, 65).abs()
    exported = torch.export.export(network, (x,)).module()
    assert torch.allclose(exported(x), network(x), atol=1e-6)


# -- settings -------------------------------------------------------------------------------------------------

BAND = CONVOLUTIONAL.bands[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"growth": (2, 2)}, "a band has 3 blocks, 5, 7 or so, half down and half up; got 2"),
        ({"depth": (1, 1)}, "growth is of 3 blocks, but depth of 2"),
        ({"lstm_cells": (0, 1)}, "lstm_cells of 2"),
        ({"bins": 0}, "1 or more"),
        ({"growth": (2, -2, 2)}, "no other number is negative"),
        ({"lstm_cells": (1, 0, 0)}, "at the bottom of a band or on its way up"),
        ({"lstm_cells": (0, 0, 1)}, "not in its last block"),
        ({"depth": (1, 0, 1)}, "both 0 at a bottom that has an LSTM"),
        ({"depth": (1, 10**9, 1)}, "at most 24"),
    ],
)
def test_bands_that_cannot_be_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(BAND, **change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bands": ()}, "the bands have 0 bins together, and full has 63"),
        ({"bands": (BAND,)}, "the bands have 20 bins together, and full has 63"),
        ({"growth": 0}, "1 or more"),
        ({"depth": 10**9}, "at most 24"),
    ],
)
def test_networks_that_cannot_be_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(CONVOLUTIONAL, **change)


def test_networks_that_do_not_fit_the_frames_or_targets_are_refused():
    with pytest.raises(ValueError, match="a network looks at 63 bins; a frame of 64 samples has 33"):
        replace(FINITE, frame_samples=64)
    with pytest.raises(ValueError, match="wiener_epsilon is between 0 and 1, such as 1e-10, or None; got 0"):
        replace(FINITE, wiener_epsilon=0.0)
    with pytest.raises(ValueError, match="2 networks for 3 targets"):
        replace(FINITE, networks=(CONVOLUTIONAL,) * 2, targets=("a", "b", "c"))


# -- reading checkpoints ----------------------------------------------------------------------------------------


def as_theirs(target, network, module):
    """A network under the community's names, as its training code saves it."""
    places = {"parallel": "parallel", "after": "after_dense", "before": "before_dense"}
    names = [*"abcdef"[: len(network.bands)]]
    bands = dict(zip([*names, "full"], [*network.bands, network.full], strict=True))
    blocks = {name: len(band.growth) for name, band in bands.items()}
    metadata = {
        "in_channels": 2,
        "bands": names,
        "sections": [band.bins for band in network.bands],
        "num_features": {name: band.features for name, band in bands.items()},
        "growth_rate": {name: [*band.growth] for name, band in bands.items()},
        "kernel_size": {name: [*reversed(band.kernel)] for name, band in bands.items()},
        "scale": dict.fromkeys(bands, 2),
        "dilated": {name: [False] * count for name, count in blocks.items()},
        "norm": {name: [True] * count for name, count in blocks.items()},
        "nonlinear": {name: ["relu"] * count for name, count in blocks.items()},
        "depth": {name: [*band.depth] for name, band in bands.items()},
        "hidden_channels": {name: [*band.cells] for name, band in bands.items()},
        "growth_rate_final": network.growth,
        "kernel_size_final": [*reversed(network.kernel)],
        "dilated_final": network.dilated,
        "depth_final": network.depth,
        "rnn_position": places[network.lstm_place],
        "eps": 1e-12,
        "n_fft": 128,
        "hop_length": 32,
        "optim_dict": {"state": {}},
    }
    tensors = {"train_loss": torch.zeros(3)}
    for key, tensor in module.state_dict().items():
        tensors[f"state_dict.{_their_name(key, names)}"] = tensor.transpose(2, 3) if tensor.ndim == 4 else tensor
    name = f"{target}/best.pth"
    return CheckpointFile(name, "torch", tensors, metadata)


def _their_name(key, names):
    part, *rest = key.split(".")
    outer = {"value": "glu2d.map", "gate": "glu2d.map_gate", "last_norm": "norm2d"}
    if part in outer or not rest:
        return ".".join([outer.get(part, part), *rest])
    if part == "last":
        return ".".join(["dense_block", *_within(rest)])
    band = "full" if part == "full" else names[int(rest.pop(0))]
    place, *rest = rest
    lone = {"first": "conv2d", "match": "pointwise_conv2d.1", "match_norm": "pointwise_conv2d.0"}
    if place in lone:
        return ".".join(["net", band, lone[place], *rest])
    if place == "bottom":
        return ".".join(["net", band, "bottleneck_conv2d", *_within(rest)])
    number, *rest = rest
    if place == "ups":
        return ".".join(
            ["net", band, "decoder.net", number, {"norm": "norm2d", "conv": "upsample2d"}[rest[0]], rest[1]]
        )
    coder = {"down": "encoder", "up": "decoder"}[place]
    block = "dense_block" if rest[0] in ("norms", "convs") else "dense_rnn_block"
    return ".".join(["net", band, coder, "net", number, block, *_within(rest)])


def _within(rest):
    if rest[0] == "dense":
        return ["dense_block", *_within(rest[1:])]
    if rest[0] in ("norms", "convs"):
        return ["net", rest[1], {"norms": "norm2d", "convs": "conv2d"}[rest[0]], *rest[2:]]
    return [{"squeeze": "bottleneck_conv2d", "lstm": "rnn", "expand": "linear"}[rest[0]], *rest[1:]]


def checkpoint(config):
    model = build(config)
    files = [as_theirs(target, network, model.networks[target]) for target, network in config.of_target.items()]
    return model, {file.name: file for file in files}


@pytest.mark.parametrize("place", ["parallel", "after", "before"])
def test_a_checkpoint_comes_back_tensor_for_tensor(place):
    networks = (replace(TINY.networks[0], lstm_place=place), CONVOLUTIONAL)
    model, files = checkpoint(replace(TINY, networks=networks))
    importer = Tky823()
    assert importer.recognises(files)
    config, state = importer.convert(files)
    assert config == replace(model.config, wiener_window_frames=config.wiener_window_frames)
    ours = model.state_dict()
    assert state.keys() == ours.keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in ours.items())


def test_frames_follow_from_the_bins_where_the_file_does_not_say():
    _, files = checkpoint(FINITE)
    for file in files.values():
        del file.metadata["n_fft"]
    with pytest.raises(CheckpointError, match=r"hop_samples \(32\) must divide frame_samples \(124\)"):
        Tky823().convert(files)


HARMS = {
    "scale": ({"scale": {"a": 2, "b": 3, "full": 2}}, "scale is"),
    "dilated": ({"dilated": {"a": [True], "b": [False], "full": [False]}}, "dilated is"),
    "without norm": ({"norm": {"a": [False], "b": [True], "full": [True]}}, "norm is"),
    "other function": ({"nonlinear": {"a": ["elu"], "b": ["relu"], "full": ["relu"]}}, "nonlinear is"),
    "last LSTM": ({"hidden_channels_final": 3}, "hidden_channels_final is 3"),
    "causal": ({"causal": True}, "causal is True"),
    "place": ({"rnn_position": "beside"}, "rnn_position is beside"),
    "epsilon": ({"eps": 1e-5}, "eps is 1e-05"),
    "window": ({"window_fn": "hamming"}, "window_fn is hamming"),
    "sections": ({"sections": [63]}, "1 sections for 2 bands"),
    "no band": ({"num_features": {"a": 3, "full": 2}}, "no hyper-parameters for the band 'b'"),
    "list of growths": ({"growth_rate": {"a": [[2], 2, 3], "b": [2], "full": [2]}}, "growth_rate.a.0"),
    "not a number": ({"in_channels": "two"}, "in_channels"),
    "many layers": ({"depth_final": 10**9}, "at most 24"),
    "other frames": ({"n_fft": 256}, "expected the same of all"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_checkpoint_that_does_not_fit_is_refused_in_words(harm):
    change, words = HARMS[harm]
    _, files = checkpoint(TINY)
    name = "vocals/best.pth"
    files[name] = replace(files[name], metadata={**files[name].metadata, **change})
    with pytest.raises(CheckpointError) as caught:
        Tky823().convert(files)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stranger", ["net.c.conv2d.weight", "net.a.attention.weight", "ema", "train.x"])
def test_tensors_without_a_place_are_named(stranger):
    _, files = checkpoint(TINY)
    name = "vocals/best.pth"
    files[name] = replace(files[name], tensors={**files[name].tensors, f"state_dict.{stranger}": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=f"vocals/best.pth: no place in the network for state_dict.{stranger}"):
        Tky823().convert(files)


def test_files_must_say_their_targets():
    _, files = checkpoint(TINY)
    file = files["vocals/best.pth"]
    with pytest.raises(CheckpointError, match=r"best.pth does not say which target it is of"):
        Tky823().convert({"best.pth": replace(file, name="best.pth")})
    both = {name: replace(file, name=name) for name in ("vocals/best.pth", "vocals/last.pth")}
    with pytest.raises(CheckpointError, match="two files for vocals"):
        Tky823().convert(both)
    config, _ = Tky823().convert({"vocals.pth": replace(file, name="vocals.pth")})
    assert config.targets == ("vocals",)


def test_a_file_without_hyper_parameters_is_refused():
    _, files = checkpoint(TINY)
    name = "vocals/best.pth"
    with pytest.raises(CheckpointError, match="holds no hyper-parameters"):
        Tky823().convert({name: replace(files[name], metadata=None)})


def test_targets_are_apart():
    """Networks of one Config have weights of their own."""
    model = MMDenseLSTM(TINY)
    for one, other in pairwise(model.networks.values()):
        assert not torch.equal(one.value.weight, other.value.weight)
