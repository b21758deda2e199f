from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from iseparate.engine.plan import Plan
from iseparate.engine.stream import SongStream
from iseparate.errors import CheckpointError, UsageError
from iseparate.losses import CRITERIA
from iseparate.models._diffq import unquantised
from iseparate.models._registry import find_importer
from iseparate.models.demucs import (
    Config,
    Demucs,
    Predecessor,
    TransposedConvolution,
    Version1,
    Version2,
    Version2State,
)
from iseparate.types import CheckpointFile, TrackStatistics
from iseparate.weights.load import build_model
from iseparate.weights.pickle_machine import ForeignClass, ForeignObject

TINY = Config.tiny()
AS_IT_IS = TrackStatistics(0.0, 1.0)
KLASS = ForeignClass("demucs.model", "Demucs")


def tiny(**settings):
    torch.manual_seed(0)
    return Demucs(replace(TINY, **settings)).eval()


def noise(*shape, seed=0):
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- the network --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "parameters", "input_samples"),
    [
        ("demucs-v1", 648_548_208, 451_924),
        ("demucs-v1-light", 265_679_496, 451_924),
        ("demucs-v2", 265_679_496, 447_146),
        ("demucs-v2-48", 149_462_504, 447_146),
    ],
)
def test_published_systems_have_their_size(system, parameters, input_samples):
    with torch.device("meta"):
        model = build_model(system)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.config.input_samples(441_000) == input_samples
    assert model.spec.stems == ("drums", "bass", "other", "vocals")


def as_the_paper_says(model, x):
    """The network out of PyTorch's own convolutions, ``[B, C, T]`` -> ``[B, S * C, T']``."""
    network, skips = model.network, []

    def middle(x, like):
        start = (x.shape[2] - like.shape[2]) // 2
        return x[..., start : start + like.shape[2]]

    for layer in network.encoder:
        x = F.relu(F.conv1d(x, layer.conv.weight.transpose(1, 2), layer.conv.bias, stride=4))
        x = F.glu(F.conv1d(x, layer.rewrite.weight[..., None], layer.rewrite.bias), 1)
        skips.append(x)
    x = network.projection(network.lstm(x.transpose(1, 2))[0]).transpose(1, 2)
    for i, layer in enumerate(network.decoder):
        x = x + middle(skips.pop(), x)
        x = F.glu(F.conv1d(x, layer.rewrite.weight.transpose(1, 2), layer.rewrite.bias), 1)
        pieces, inputs, outputs = *layer.conv.weight.shape[:2], len(layer.conv.bias)
        weight = layer.conv.weight.view(pieces, inputs, 4, outputs).permute(1, 3, 0, 2).flatten(2)
        x = F.conv_transpose1d(x, weight, layer.conv.bias, stride=4)
        x = F.relu(x) if i < len(network.decoder) - 1 else x
    return x


@pytest.mark.parametrize("songs", [1, 3])
def test_the_fast_network_is_the_network(songs):
    model = tiny(resample=False)
    x = noise(songs, 2, TINY.input_samples(700))
    ours = model.network(x.transpose(1, 2)).transpose(1, 2)
    expected = as_the_paper_says(model, x)
    assert expected.std() > 0.01
    assert torch.allclose(ours, expected, atol=1e-6)
    for theirs, mine in zip(
        torch.autograd.grad(expected.square().sum(), list(model.parameters())),
        torch.autograd.grad(ours.square().sum(), list(model.parameters())),
        strict=True,
    ):
        assert torch.allclose(theirs, mine, atol=1e-4 * max(1.0, float(theirs.abs().max())))


@pytest.mark.parametrize(("taps", "stride"), [(8, 4), (4, 4), (6, 2), (3, 1), (7, 3), (5, 4)])
def test_the_transposed_convolution_is_pytorchs(taps, stride):
    torch.manual_seed(0)
    ours, theirs = TransposedConvolution(5, 3, taps, stride), nn.ConvTranspose1d(5, 3, taps, stride)
    whole = taps - taps % stride
    pieces = theirs.weight.detach()[..., :whole].reshape(5, 3, -1, stride)
    if ours.rest is not None:
        ours.rest.data = theirs.weight.detach()[..., whole:].transpose(1, 2).flatten(1)
    ours.weight.data, ours.bias.data = pieces.permute(2, 0, 3, 1).flatten(2), theirs.bias.detach()
    x = noise(2, 5, 7)
    assert torch.allclose(ours(x.transpose(1, 2)).transpose(1, 2), theirs(x), atol=1e-6)


@torch.inference_mode()
def test_half_precision_is_near():
    model = tiny()
    mix = noise(1, 2, 900)
    with torch.autocast("cpu", torch.bfloat16):
        near = model(mix)
    assert 0 < (near - model(mix)).abs().max() < 0.02


def test_fresh_weights_are_half_way_to_a_tenth():
    torch.manual_seed(0)
    config = replace(TINY, widths=(64, 128))
    drawn, scaled = (Demucs(replace(config, init_deviation=d)).network for d in (0.0, 0.1))
    reference = nn.ConvTranspose1d(128, 64, 8, 4)
    assert drawn.decoder[0].conv.weight.std().item() == pytest.approx(reference.weight.std().item(), rel=0.02)
    for name in ("encoder.1.conv", "encoder.1.rewrite", "decoder.0.rewrite", "decoder.0.conv"):
        before, after = drawn.get_submodule(name).weight.std().item(), scaled.get_submodule(name).weight.std().item()
        assert after == pytest.approx((before * 0.1) ** 0.5, rel=0.03)


@pytest.mark.parametrize("settings", [{}, {"resample": False}, {"resample": False, "interpolate": True}])
def test_surroundings_suffice_for_any_length(settings):
    config = replace(TINY, **settings)
    excess = [config.input_samples(samples) - samples for samples in range(1, 1500)]
    assert min(excess) >= 0
    assert config.surroundings_samples == -(-max(excess) // 2)


# -- songs and segments -------------------------------------------------------------------------------------


def through_the_engine(model, mix, track=AS_IT_IS, shift=0):
    plan = Plan.for_model(model.spec).shifted(shift)
    stream = SongStream(model, [plan], model.spec.sample_rate, ("FL", "FR"), [track])
    return torch.cat(
        [torch.stack([torch.from_numpy(s) for s in b.stems.values()]) for b in stream.run([mix.numpy()])], 2
    )


@torch.inference_mode()
def test_a_segment_as_long_as_the_song_is_one_pass():
    model, mix = tiny(segment_seconds=0.1), noise(2, 4000)
    assert torch.allclose(through_the_engine(model, mix), model(mix[None], AS_IT_IS)[0], atol=1e-6)


@torch.inference_mode()
def test_a_segment_hears_its_real_surroundings():
    """And not more of them than the valid length takes."""
    model, mix = tiny(), noise(1, 2, 4000)
    beside, kept = model.spec.edge_samples, 1000
    read = mix[..., 1500 - beside : 1500 + kept + beside]
    output = model.separate_segment(read, AS_IT_IS)[..., beside:-beside]
    length = model.config.input_samples(kept)
    before = (length - kept) // 2
    exact = model.separate_exactly(mix[..., 1500 - before :][..., :length])
    assert torch.allclose(output, exact[..., (exact.shape[3] - kept) // 2 :][..., :kept], atol=1e-7)
    assert (model(mix[..., 1500:2500], AS_IT_IS) - output).abs().max() > 1e-4  # with silence around it


def test_the_official_program_starts_segments_until_the_end():
    spec = tiny(segment_seconds=1.0).spec
    ours, official = (Plan.for_model(replace(spec, starts_to_the_end=flag)) for flag in (False, True))
    samples = 44100 + 33075 - 10  # the second of two segments reaches the end, a third would start before it
    assert len(list(ours.spans(samples))) == 2
    starts = [span.keep_start for span in official.spans(samples)]
    assert starts == [0, 33075, 66150]
    assert [span.keep_stop for span in official.spans(samples)][2] == samples


@torch.inference_mode()
def test_shifts_change_a_song_little_and_keep_its_place():
    model, mix = tiny(segment_seconds=0.05), noise(2, 3000)
    plain, shifted = through_the_engine(model, mix), through_the_engine(model, mix, shift=333)
    assert shifted.shape == plain.shape
    assert 0 < (shifted - plain).abs().mean() < 0.5 * plain.abs().mean()


@torch.inference_mode()
def test_the_song_is_brought_to_a_level_and_back():
    model, mix = tiny(), noise(1, 2, 1500)
    louder = model(mix * 8 + 0.5)
    assert torch.allclose(louder, model(mix) * 8 + 0.5, atol=1e-4)


@torch.inference_mode()
def test_16_bit_input_is_rounded():
    model, mix = tiny(sixteen_bit=True), noise(1, 2, 700)
    rounded = (mix * 32768).round() / 32768
    assert torch.equal(model(mix, AS_IT_IS), model(rounded, AS_IT_IS))
    assert not torch.equal(model(mix, AS_IT_IS), tiny()(mix, AS_IT_IS))


# -- training -----------------------------------------------------------------------------------------------


def test_a_quiet_song_counts_as_much_as_a_loud_one():
    model, criterion, stems = tiny(), CRITERIA["l1"](), noise(2, 4, 2, 3000)
    loss, of_a_quiet_one = (model.training_loss(x.sum(1), x, criterion)["loss"] for x in (stems, 0.2 * stems))
    assert loss.item() == pytest.approx(of_a_quiet_one.item(), rel=1e-4)
    of_silence = model.training_loss(*(1e-4 * x for x in (stems.sum(1), stems)), criterion)["loss"]
    assert of_silence < 0.2 * loss  # what is left is the network's own noise


def test_the_loss_hears_no_silence_around_the_excerpt():
    """The estimates are those of the excerpt itself, and compared with what they stand for."""
    model, stems, seen = tiny(), noise(1, 4, 2, 3000), {}

    def criterion(estimates, references, mix):
        seen.update(estimates=estimates, references=references, mix=mix)
        return estimates.mean()

    criterion.domain = "waveform"
    model.training_loss(stems.sum(1), stems, criterion)
    length = max(n for n in (model.config.input_samples(k) for k in range(2500, 3001)) if n <= 3000)
    whole = stems[..., (3000 - length) // 2 :][..., :length]
    mean, std = whole.sum(1).mean(1).mean(), whole.sum(1).mean(1).std()
    estimates = model.separate_exactly((whole.sum(1) - mean) / std)
    heard = estimates.shape[3]
    assert torch.allclose(seen["estimates"], estimates, atol=1e-6)
    expected = (whole[..., (length - heard) // 2 :][..., :heard] - mean) / std
    assert torch.allclose(seen["references"], expected, atol=1e-5)


def test_a_loss_on_spectra_is_refused():
    with pytest.raises(UsageError, match="the loss compares"):
        tiny().training_loss(noise(1, 2, 3000), noise(1, 4, 2, 3000), CRITERIA["l1"](domain="magnitude"))


# -- importers ----------------------------------------------------------------------------------------------


def reference_state(widths=(4, 6, 8), channels=2, lstm=2):
    """A state of version 2 under the reference's names."""
    state, inputs, last = {}, channels, widths[-1]
    for i, width in enumerate(widths):
        j, out = len(widths) - 1 - i, inputs if i else 4 * channels
        state |= {f"encoder.{i}.0.weight": noise(width, inputs, 8), f"encoder.{i}.0.bias": noise(width)}
        state |= {f"encoder.{i}.2.weight": noise(2 * width, width, 1), f"encoder.{i}.2.bias": noise(2 * width)}
        state |= {f"decoder.{j}.0.weight": noise(2 * width, width, 3), f"decoder.{j}.0.bias": noise(2 * width)}
        state |= {f"decoder.{j}.2.weight": noise(width, out, 8), f"decoder.{j}.2.bias": noise(out)}
        inputs = width
    for name, tensor in nn.LSTM(last, last, lstm, bidirectional=True).named_parameters():
        state[f"lstm.lstm.{name}"] = tensor.detach()
    return state | {"lstm.linear.weight": noise(last, 2 * last), "lstm.linear.bias": noise(last)}


def file_of(content, tensors):
    return {"a.th": CheckpointFile("a.th", "torch", tensors, content)}


def v1_file(state=None, **kwargs):
    state = reference_state() if state is None else state
    return file_of((KLASS, (), kwargs, state), {f"3.{name}": tensor for name, tensor in state.items()})


def v2_file(state=None, **kwargs):
    state = reference_state() if state is None else state
    content = {"klass": KLASS, "args": (), "kwargs": kwargs, "state": state, "training_args": None}
    return file_of(content, {f"state.{name}": tensor for name, tensor in state.items()})


def test_each_file_has_one_importer():
    state = reference_state()
    assert isinstance(find_importer(v1_file())[1], Version1)
    assert isinstance(find_importer(v2_file())[1], Version2)
    assert isinstance(find_importer(file_of(state, state))[1], Version2State)


def test_classes_of_other_systems_are_not_taken():
    for klass in (ForeignClass("demucs.demucs", "Demucs"), ForeignClass("demucs.tasnet", "ConvTasNet")):
        assert not Version1().recognises(file_of((klass, (), {}, {}), {}))
        assert not Version2().recognises(file_of({"klass": klass, "args": (), "kwargs": {}, "state": {}}, {}))


def test_versions_differ_in_rate_and_epsilon():
    old, new = Version1().convert(v1_file())[0], Version2().convert(v2_file())[0]
    assert (old.resample, old.epsilon) == (False, 0.0)
    assert (new.resample, new.epsilon) == (True, 1e-5)


def test_arguments_that_the_tensors_do_not_tell():
    config, _ = Version2().convert(
        v2_file(sources=["a", "b", "c", "d"], samplerate=8000, segment_length=64000, normalize=True, resample=False)
    )
    assert config.stems == ("a", "b", "c", "d")
    assert (config.sample_rate, config.segment_seconds, config.normalise, config.resample) == (8000, 2.0, "mono", False)


def without(name):
    return {key: tensor for key, tensor in reference_state().items() if key != name}


BROKEN = {
    "stranger": (v2_file({**reference_state(), "attention.weight": noise(3)}), "a tensor that Demucs has not"),
    "missing": (v2_file(without("decoder.2.2.weight")), "decoder.2.2.weight is missing"),
    "flat": (v2_file({**reference_state(), "encoder.0.0.weight": noise(64)}), r"has shape \[64\]"),
    "taps": (v2_file({**reference_state(), "decoder.1.2.weight": noise(6, 4, 6)}), "has 6 taps where 8"),
    "wide rewrite": (v2_file({**reference_state(), "encoder.1.2.weight": noise(12, 6, 3)}), "has 3 taps where 1"),
    "stride": (v2_file(stride=9), "no less than the stride"),
    "rate": (v2_file(samplerate="fast"), "sample_rate"),
    "endless rate": (v2_file(samplerate=float("inf")), "cannot convert float infinity"),
    "endless growth": (v2_file(growth=float("inf")), "expected a number above 0"),
    "names": (v2_file(sources=["../a", "b", "c", "d"]), "no names"),
    "segment": (v2_file(segment_length=-1), "expected a number above 0"),
    "rewrite": (v2_file(without("encoder.0.2.weight")), "a tensor|decoder.2.0.weight|does not fit"),
    "arguments": (file_of((KLASS, (), [], {}), {}), "no arguments of a Demucs"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_does_not_fit_is_refused_in_words(fault):
    files, words = BROKEN[fault]
    with pytest.raises(CheckpointError, match=words) as caught:
        find_importer(files, "demucs")[1].convert(files)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_predecessor_must_say_how_it_was_made():
    tensors = {"state_dict.encoder.encoder_layers.0.0.weight": noise(4, 2, 8)}
    tensors["state_dict.center_projection.weight"] = noise(8, 16)
    with pytest.raises(CheckpointError, match="expected the arguments of its training"):
        Predecessor().convert(file_of({"config": ForeignObject("argparse", "Namespace")}, tensors))


# -- quantised weights --------------------------------------------------------------------------------------


def quantised(state, large, bits=5):
    """A state of DiffQ: the large tensors by levels, in groups of eight."""
    levels = {name: torch.randint(0, 2**bits, (state[name].numel() // 8, 8)).byte() for name in large}
    depths = {name: torch.full((len(levels[name]), 1), bits).byte() for name in large}
    return {
        "quantized": [(levels[name], (-0.25, 0.75), depths[name]) for name in state if name in large],
        "float16": [],
        "others": [tensor for name, tensor in state.items() if name not in large],
    }, {name: levels[name].float() / (2**bits - 1) - 0.25 for name in large}


def in_module_order(state):
    sides = sorted((n for n in state if not n.startswith("lstm")), key=lambda n: n.replace("encoder", "a"))
    sides.sort(key=lambda n: (n[0] == "d", *map(int, re.findall(r"\d+", n)), n.endswith("bias")))
    return {name: state[name] for name in (*sides, *(n for n in state if n.startswith("lstm")))}


LARGE = ("encoder.2.0.weight", "decoder.0.0.weight", "lstm.lstm.weight_hh_l0", "lstm.lstm.weight_ih_l0")


def test_a_quantised_state_tells_its_network():
    state = in_module_order(reference_state())
    large = {n for n, t in state.items() if t.numel() >= min(state[name].numel() for name in LARGE)}
    content, values = quantised(state, large)
    config, ours = Version2State().convert(file_of(content, {}))
    assert config.widths == (4, 6, 8)
    assert config.lstm_layers == 2
    plain = Version2State().convert(file_of(None, {**state, **{n: v.view(state[n].shape) for n, v in values.items()}}))[
        1
    ]
    assert set(ours) == set(plain)
    assert all(torch.allclose(ours[name], plain[name], atol=1e-6) for name in ours)


def test_all_weights_with_as_many_bits():
    shapes = {"a": (2, 8), "b": (3,)}
    content = {"quantized": [(torch.full((2, 8), 7).byte(), (0.0, 1.0))], "float16": [], "others": [noise(3)]}
    assert torch.allclose(unquantised(content, shapes, bits=3)["a"], torch.ones(2, 8))
    with pytest.raises(CheckpointError, match="levels, range and bits"):
        unquantised(content, shapes)


HOSTILE = {
    "no levels": ((None, (0.0, 1.0), None), "has no a of shape"),
    "levels beyond the bits": ((torch.full((1, 8), 9).byte(), (0.0, 1.0), torch.tensor([[3]])), "do not have"),
    "no bits": ((torch.zeros(1, 8).byte(), (0.0, 1.0), torch.tensor([[0]])), "do not have"),
    "too many bits": ((torch.zeros(1, 8).byte(), (0.0, 1.0), torch.tensor([[99]])), "do not have"),
    "other groups": ((torch.zeros(1, 8).byte(), (0.0, 1.0), torch.tensor([[3], [3]])), "that cannot be"),
    "range": ((torch.zeros(1, 8).byte(), (0.0, float("inf")), torch.tensor([[3]])), "that cannot be"),
    "fractions": ((torch.zeros(1, 8), (0.0, 1.0), torch.tensor([[3]])), "that cannot be"),
    "words": ((torch.zeros(1, 8).byte(), ("a", "b"), torch.tensor([[3]])), "levels, range and bits"),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_hostile_levels_are_refused_in_words(fault):
    item, words = HOSTILE[fault]
    with pytest.raises(CheckpointError, match=words):
        unquantised({"quantized": [item], "others": []}, {"a": (8,)})


def test_leftovers_and_packed_states_are_refused():
    with pytest.raises(CheckpointError, match="1 tensors more"):
        unquantised({"quantized": [], "others": [noise(3), noise(3)]}, {"a": (3,)})
    with pytest.raises(CheckpointError, match="packed"):
        unquantised({"quantized": [], "others": [], "meta": {"packed": True}}, {})
