from __future__ import annotations

import copy
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from iseparate.audio.layout import unnamed_layout
from iseparate.engine.plan import Plan
from iseparate.engine.stream import SongStream
from iseparate.errors import CheckpointError
from iseparate.models._registry import architecture
from iseparate.models.d3net import (
    FOUR,
    PUBLISHED,
    Config,
    D3Net,
    Iseparate,
    NetworkSizes,
    SonyHdf5,
    TargetNetwork,
    UNetSizes,
)
from iseparate.nn.dense import Affine, D2Block, D3Block, FoldedD2, FoldedD3, dilations
from iseparate.weights.card import find_card
from iseparate.weights.load import make_config
from iseparate.weights.read import read_checkpoint

TINY = Config.tiny()


def lively(module, seed=0):
    """Weights scaled by fan-in, and batch normalisations that have seen something."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(part.weight, std=0.7 / part.weight[0].numel() ** 0.5)
            nn.init.normal_(part.bias, std=0.3)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)
            part.running_mean.normal_(std=0.3)
            part.running_var.uniform_(0.5, 1.5)
    return module.eval()


def build(config, seed=0):
    model = lively(D3Net(config), seed)
    for network in model.networks.values():
        nn.init.uniform_(network.scale, 0.5, 1.5)
        nn.init.normal_(network.offset)
    return model


def noise(samples, seed=0):
    return 0.2 * torch.randn(1, 2, samples, generator=torch.Generator().manual_seed(seed))


# -- sizes --------------------------------------------------------------------------------------------------

COUNTS = {"vocals": 2_967_407, "drums": 2_873_284, "bass": 2_419_822, "other": 2_967_407}


def parameters(config):
    with torch.device("meta"):
        networks = D3Net(config).networks
    return {target: sum(p.numel() for p in network.parameters()) for target, network in networks.items()}


def test_the_published_networks_are_of_sonys_size():
    assert parameters(Config()) == COUNTS
    for target, count in COUNTS.items():
        assert parameters(PUBLISHED[f"d3net-{target}"]) == {target: count}


@pytest.mark.parametrize("name", ["d3net-vocals-without-dilation", "d3net-vocals-standard-dilation"])
def test_the_ablations_are_of_the_same_size(name):
    assert parameters(PUBLISHED[name]) == {"vocals": COUNTS["vocals"]}


def test_iseparates_vocals_network_is_of_its_size():
    sizes = replace(PUBLISHED["d3net-vocals"].networks[0], match="rectified", normalised_bins=1600)
    assert parameters(replace(PUBLISHED["d3net-vocals"], networks=(sizes,))) == {"vocals": 2_966_765}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_come_back_from_json(name):
    values = json.loads(json.dumps(asdict(PUBLISHED[name])))
    assert make_config(architecture("d3net"), values, CheckpointError) == PUBLISHED[name]


def test_the_cards_settings_are_settings():
    for name in ("d3net", "d3net-official", "d3net-iseparate", "d3net-iseparate-official"):
        card = find_card(name)
        config = make_config(architecture("d3net"), {**asdict(Config()), **card.settings}, CheckpointError)
        with torch.device("meta"):
            spec = D3Net(config).spec
        assert (spec.context_samples is None) == (spec.two_pass is not None) == name.endswith("-official")


# -- blocks -------------------------------------------------------------------------------------------------


def test_dilations_of_each_kind():
    assert [dilations("multi", source, 3) for source in range(3)] == [(1, 1, 1), (2, 2), (4,)]
    assert [dilations("standard", source, 3) for source in range(3)] == [(1, 2, 4), (2, 4), (4,)]
    assert [dilations("none", source, 3) for source in range(3)] == [(1, 1, 1), (1, 1), (1,)]
    assert dilations("per_block", 1, 3, block=1) == (2, 2)


@pytest.mark.parametrize("kind", ["multi", "standard", "none", "per_block"])
@torch.inference_mode()
def test_a_d2_block_is_layers_that_sum_over_all_before(kind):
    """Layer by layer, as the paper draws it: each source is convolved for each later layer by itself."""
    block = lively(D2Block(3, 2, 4, kind, block=1))
    x = torch.randn(1, 3, 20, 24)
    sources = [(block.first, x)]
    for layer in range(4):
        output = 0
        for source, (unit, value) in enumerate(sources):
            chunk = slice(2 * (layer - source), 2 * (layer - source + 1))
            dilation = {"multi": 2**source, "standard": 2**layer, "none": 1, "per_block": 2}[kind]
            output = output + nn.functional.conv2d(
                unit.norm(value).relu(),
                unit.conv.weight[chunk],
                unit.conv.bias[chunk],
                padding=dilation,
                dilation=dilation,
            )
        if layer < 3:
            sources.append((block.rest[layer], output))
    assert torch.allclose(block(x), output, atol=1e-5)


@pytest.mark.parametrize("kind", ["multi", "standard"])
@pytest.mark.parametrize("block", [D2Block(3, 2, 1), D2Block(3, 2, 4), D3Block(3, 2, 3, 1), D3Block(3, 2, 2, 3)])
@torch.inference_mode()
def test_folding_changes_nothing(block, kind):
    lively(block)
    x = torch.randn(2, 3, 16, 24)
    after = Affine(torch.tensor([2.0, -0.5]).double(), torch.tensor([0.3, -1.0]).double())
    first = block.first if isinstance(block, D2Block) else block.first.first
    folded = (FoldedD2 if isinstance(block, D2Block) else FoldedD3)(block, after)
    expected = block(x) * torch.tensor([2.0, -0.5])[:, None, None] + torch.tensor([0.3, -1.0])[:, None, None]
    assert torch.allclose(folded(first.norm(x).relu()), expected, atol=1e-5)


def test_the_receptive_field_of_a_d2_block_is_that_of_its_dilations():
    """1 + 2 + 4 to either side for three layers, with no hole in it."""
    block = lively(D2Block(1, 2, 3))
    for unit in (block.first, *block.rest):  # all positive, so that no path can be shut or cancel another
        nn.init.constant_(unit.conv.weight, 0.1)
        nn.init.constant_(unit.norm.bias, 5)
        unit.norm.running_mean.zero_()
    x = torch.zeros(1, 1, 31, 31, requires_grad=True)
    block(x)[0, :, 15, 15].sum().backward()
    reached = x.grad[0, 0].abs().sum(0) > 0
    assert reached[8:23].all()
    assert not reached[:8].any()
    assert not reached[23:].any()


# -- the network --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("match", ["linear", "rectified"])
@pytest.mark.parametrize("dilation", ["multi", "none", "standard", "per_block"])
def test_a_folded_network_is_the_network(match, dilation):
    sizes = replace(TINY.networks[0], match=match)
    network = lively(TargetNetwork(sizes, 2, dilation))
    x = 3 * torch.rand(2, 2, 8, 129)
    plain = network(x).detach()
    with torch.inference_mode():
        folded = network(x)
    assert torch.allclose(folded, plain, atol=1e-5)
    assert folded[..., :96].std() > 1e-2
    assert torch.equal(folded[..., 96:], x[..., 96:])


def test_a_changed_tensor_is_folded_anew():
    network = lively(TargetNetwork(TINY.networks[0], 2, "multi"))
    x = 3 * torch.rand(1, 2, 8, 129)
    with torch.no_grad():
        before = network(x)
        network.final.first.norm.weight *= 0.5
        after = network(x)
    assert (after - before).abs().max() > 1e-3
    assert torch.allclose(after, network(x).detach(), atol=1e-5)


@torch.inference_mode()
def test_a_network_runs_in_bfloat16():
    network = lively(TargetNetwork(TINY.networks[0], 2, "multi"))
    x = 3 * torch.rand(1, 2, 8, 129)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(x)
    assert (rough.float() - network(x)).abs().max() < 0.1


@torch.inference_mode()
def test_ablations_differ():
    outputs = []
    for dilation in ("multi", "none", "standard", "per_block"):
        network = lively(TargetNetwork(TINY.networks[0], 2, dilation))
        outputs.append(network(torch.ones(1, 2, 8, 129)))
    for i, one in enumerate(outputs):
        assert all((one - other).abs().max() > 1e-4 for other in outputs[:i])


# -- the system ---------------------------------------------------------------------------------------------


def identity(model):
    """Networks that give back what they get, so that only what is around them shows."""
    for name in model.networks:
        model.networks[name] = nn.Identity()
    return model


@pytest.mark.parametrize("overlap", [1, 2, 4])
@pytest.mark.parametrize("frames", [1, 7, 8, 9, 40])
@torch.inference_mode()
def test_every_frame_is_in_as_many_patches(frames, overlap):
    model = identity(build(replace(TINY, patch_overlap=overlap)))
    magnitudes = torch.rand(1, 2, frames, 129)
    estimates = model.estimate(magnitudes)
    assert torch.allclose(estimates, magnitudes[:, None].expand_as(estimates))


@pytest.mark.parametrize(("frames", "halved"), [(700, 60), (767, 127), (600, 0), (768, 0), (800, 0)])
@torch.inference_mode()
def test_sonys_bug_halves_the_tail(frames, halved):
    config = replace(
        TINY,
        targets=("vocals",),
        networks=TINY.networks[:1],
        patch_frames=(256,),
        halved_tail=True,
        wiener_iterations=0,
    )
    estimates = identity(build(config)).estimate(torch.ones(1, 2, frames, 129))[0, 0]
    assert torch.equal(estimates[:, : frames - halved], torch.ones(2, frames - halved, 129))
    assert torch.equal(estimates[:, frames - halved :], torch.full((2, halved, 129), 0.5))


@torch.inference_mode()
def test_flip_averaging_makes_the_channels_interchangeable():
    magnitudes = torch.rand(1, 2, 8, 129)
    for flip in (True, False):
        model = build(replace(TINY, flip_average=flip))
        swapped = model.estimate(magnitudes.flip(1)).flip(2)
        assert torch.allclose(swapped, model.estimate(magnitudes), atol=1e-5) == flip


@torch.inference_mode()
def test_the_residual_is_what_named_targets_leave():
    magnitudes = torch.rand(1, 2, 8, 129)
    for known in (None, ("vocals",)):
        model = build(replace(TINY, residual="rest", residual_of=known))
        vocals, bass, rest = model.estimate(magnitudes)[0]
        removed = vocals if known else vocals + bass
        assert torch.allclose(rest, (magnitudes[0] - removed).clamp_min(0), atol=1e-6)


@pytest.mark.parametrize("iterations", [0, 1])
@torch.inference_mode()
def test_a_song_in_segments_is_the_song_in_one_pass(iterations):
    model = build(replace(TINY, wiener_iterations=iterations))
    plan = Plan.for_model(model.spec)
    assert plan.mode == "context"
    mix = noise(2 * plan.stride_samples + 1001)
    stream = SongStream(model, [plan], 44100, unnamed_layout(2))
    blocks = [np.stack(list(b.stems.values())) for b in stream.run([block.numpy() for block in mix[0].split(3000, 1)])]
    whole = model(mix)[0].numpy()
    assert whole.std() > 1e-3
    assert np.abs(np.concatenate(blocks, -1) - whole).max() < 1e-5


def in_segments(model, mix, segment_seconds=None, block_samples=3000, **options):
    stream = SongStream(
        model, [Plan.for_model(model.spec, segment_seconds=segment_seconds)], 44100, unnamed_layout(2), **options
    )
    blocks = stream.run([block.numpy() for block in mix[0].split(block_samples, 1)])
    return np.concatenate([np.stack(list(b.stems.values())) for b in blocks], -1)


OFFICIAL = {"wiener_window_frames": 0, "sounding_silence": True}
FILTERS = {
    "sony": {"halved_tail": True},
    "sony with zeros beyond the ends": {"halved_tail": True, "padding": "zeros"},
    "norbert, residual": {"wiener_rule": "norbert", "residual": "accompaniment", "residual_of": ("vocals",)},
    "norbert, twice, softmask": {"wiener_rule": "norbert", "wiener_iterations": 2, "wiener_softmask": True},
    "open-unmix, a frame in four patches": {"wiener_rule": "open_unmix", "patch_overlap": 4},
}


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("samples", [1, 700, 3201])
@torch.inference_mode()
def test_a_filter_over_the_whole_song_is_one_pass_in_segments_too(filter, samples):
    """Its statistics, its last frames and its silence."""
    model = build(replace(TINY, **OFFICIAL, **FILTERS[filter]))
    short = max(1024, model.spec.start_grid_samples) / 44100
    mix = noise(samples, seed=samples)
    mix[..., samples // 3 : samples // 3 + 700] = 0
    whole = model(mix)[0].numpy()
    for segment, block, batch in ((short, 20_000, 1), (short, 777, 3)):
        found = in_segments(model, mix, segment, block, batch_size=batch)
        assert found.shape == whole.shape
        assert np.abs(found - whole).max() < 1e-5 * max(1.0, whole.std())


@pytest.mark.parametrize("iterations", [0, 1])
@torch.inference_mode()
def test_a_tail_is_halved_in_segments_as_in_one_pass(iterations):
    """Whether it is goes by the number of frames of the whole song; the last segment must come to the same."""
    model, plain = (
        identity(build(replace(TINY, **OFFICIAL, halved_tail=halved, wiener_iterations=iterations)))
        for halved in (True, False)
    )
    halved = 0
    for frames in range(70, 96, 3):
        mix = noise(64 * frames, seed=frames)
        whole = model(mix)[0].numpy()
        halved += np.abs(whole - plain(mix)[0].numpy()).max() > 1e-3
        found = in_segments(model, mix, model.spec.start_grid_samples / 44100)
        assert np.abs(found - whole).max() < 1e-5
    assert 0 < halved < 9


@pytest.mark.parametrize("name", ["d3net", "d3net-vocals"])
def test_reading_the_surroundings_costs_a_third(name):
    with torch.device("meta"):
        spec = D3Net(PUBLISHED[name]).spec
    span = Plan.for_model(spec).span(1)
    assert (span.stop - span.start) / (span.keep_stop - span.keep_start) < 1.36


def test_a_lone_target_runs_alone_and_filtered_ones_together():
    unfiltered = build(replace(TINY, wiener_iterations=0))
    assert unfiltered.narrowed(("bass",)).spec.stems == ("bass",)
    assert build(TINY).narrowed(build(TINY).spec.needed_stems(("bass",))).spec.stems == ("vocals", "bass")


# -- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patch_frames": (8,)}, "one network and one patch length per target"),
        ({"patch_frames": (8, 10)}, "patch_frames of bass is 10; expected a multiple of 4"),
        ({"patch_frames": (8, 0)}, "patch_frames of bass is 0"),
        ({"frame_samples": 128, "hop_samples": 32}, "needs more than the 65 bins"),
        ({"residual_of": ("drums",)}, "residual_of names targets among vocals, bass"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)


def test_sizes_that_cannot_be_are_refused():
    sizes = TINY.networks[0]
    with pytest.raises(ValueError, match="rising edges"):
        replace(sizes, band_edges=(96,))
    with pytest.raises(ValueError, match="bins 0 to 15 cannot be halved 1 times"):
        replace(sizes, band_edges=(15,))
    with pytest.raises(ValueError, match="odd length"):
        UNetSizes(start=1, growth=(1, 1), layers=(1, 1), blocks=(1, 1))
    with pytest.raises(ValueError, match="1 or more"):
        UNetSizes(start=1, growth=(0,), layers=(1,), blocks=(1,))
    with pytest.raises(ValueError, match="rising edges"):
        NetworkSizes(bands=(), band_edges=(), full=sizes.full)


# -- reading checkpoints ------------------------------------------------------------------------------------


GOLDENS = Path(__file__).parents[1] / "parity" / "goldens"
IMPORTERS = {"sony": SonyHdf5(), "iseparate": Iseparate()}
TARGETS = {"sony": ("vocals", "bass"), "iseparate": ("vocals", "drums")}


def files(kind, targets=None):
    """The goldens' checkpoints: `tests/parity` shows that each of their tensors finds its place."""
    checkpoint = read_checkpoint([GOLDENS / f"{kind}-d3net-tiny" / "checkpoint"])
    return {name: file for name, file in checkpoint.items() if name.split(".")[0] in (targets or TARGETS[kind])}


def trained_otherwise(file, **arguments):
    """An iSeparate file with other arguments of its training."""
    config = copy.copy(file.metadata["config"])
    config.state = config.state | arguments
    return replace(file, metadata={**file.metadata, "config": config})


@pytest.mark.parametrize("kind", IMPORTERS)
def test_each_importer_knows_its_own(kind):
    for name, importer in IMPORTERS.items():
        assert importer.recognises(files(kind)) == (name == kind)


@pytest.mark.parametrize("kind", IMPORTERS)
def test_sizes_are_read_from_the_tensors(kind):
    """As the original's own arguments, kept in the golden, have them."""
    config, state = IMPORTERS[kind].convert(files(kind))
    assert config.targets == TARGETS[kind]
    facts = json.loads((GOLDENS / f"{kind}-d3net-tiny" / "facts.json").read_text())
    for target, sizes in zip(config.targets, config.networks, strict=True):
        if kind == "sony":
            told = facts["targets"][target]
            growth, layers, edges = told["f_dens_k"], told["f_num_layer_block"], told["band_split_idxs"]
            final = told["ttl_dens_k"], told["ttl_num_layer_block"]
        else:
            told = facts["model_args"][target]
            growth, layers, edges = told["growth_rates"]["full"], told["num_layers"]["full"], told["band_split_idxs"]
            final = told["growth_rates"]["final"], told["num_layers"]["final"]
        assert (sizes.full.growth, sizes.full.layers) == (tuple(growth), tuple(layers))
        assert sizes.band_edges == tuple(edges)
        assert (sizes.final_growth, sizes.final_layers, sizes.used_bins) == (*final, 1600)
    assert sizes.normalised_bins == (2049 if kind == "sony" else 1600)
    fitting = {key for key in D3Net(config).state_dict() if "num_batches" not in key}
    assert {key for key in state if "num_batches" not in key} == fitting


def test_what_surrounds_the_networks_goes_by_their_targets():
    lone, _ = SonyHdf5().convert(files("sony", ("vocals",)))
    assert (lone.wiener_iterations, lone.residual, lone.patch_frames) == (0, None, (256,))
    both, _ = SonyHdf5().convert(files("sony"))
    assert (both.wiener_rule, both.wiener_iterations, both.patch_frames) == ("sony", 1, (256, 384))
    vocals, _ = Iseparate().convert(files("iseparate", ("vocals",)))
    assert vocals.stems == ("vocals", "accompaniment")
    assert (vocals.wiener_rule, vocals.wiener_iterations, vocals.flip_average) == ("norbert", 1, False)
    drums, _ = Iseparate().convert(files("iseparate", ("drums",)))
    assert (drums.stems, drums.wiener_iterations) == (("drums",), 0)


def harmed(kind, harm):
    (file,) = files(kind, ("vocals",)).values()
    tensors = dict(file.tensors)
    start = next(key for key in tensors if key.endswith(("features_init/0/conv/W", "band_nets.0.0.weight")))
    if harm == "no start":
        del tensors[start]
    elif harm == "scalar":
        tensors[start] = torch.tensor(1.0)
    elif harm == "no channels":
        tensors[start] = torch.zeros(0, 2, 3, 3)
    elif harm == "no bands":
        tensors = {key: t for key, t in tensors.items() if not ("features_init/" in key or "band_nets." in key)}
    return {file.name: replace(file, tensors=tensors)}


@pytest.mark.parametrize("kind", IMPORTERS)
@pytest.mark.parametrize("harm", ["no start", "scalar", "no channels", "no bands"])
def test_a_harmed_checkpoint_is_refused_in_words(kind, harm):
    with pytest.raises(CheckpointError) as caught:
        IMPORTERS[kind].convert(harmed(kind, harm))
    assert "\n" not in str(caught.value)
    assert "vocals" in str(caught.value)


@pytest.mark.parametrize("kind", IMPORTERS)
def test_two_files_of_one_target_are_refused(kind):
    (file,) = files(kind, ("vocals",)).values()
    with pytest.raises(CheckpointError, match="second file of vocals"):
        IMPORTERS[kind].convert({"a": file, "b": replace(file, name="b")})


def test_a_target_whose_bands_nobody_knows_is_refused():
    (file,) = files("sony", ("vocals",)).values()
    piano = replace(file, tensors={key.replace("vocals/", "piano/"): tensor for key, tensor in file.tensors.items()})
    with pytest.raises(CheckpointError, match="is of piano; expected vocals, drums, bass or other"):
        SonyHdf5().convert({"piano.h5": piano})
    mixed = replace(file, tensors={**file.tensors, "drums/in_scale": torch.ones(1)})
    with pytest.raises(CheckpointError, match="one file per target"):
        SonyHdf5().convert({"vocals.h5": mixed})


@pytest.mark.parametrize(
    "arguments",
    [{"model_args": {}}, {"data_loader_args": None}, {"model_args": {"band_split_idxs": 3, "patch_length": 8}}],
)
def test_a_checkpoint_without_its_arguments_is_refused(arguments):
    (file,) = files("iseparate", ("vocals",)).values()
    for harmed_file in (trained_otherwise(file, **arguments), replace(file, metadata=None)):
        with pytest.raises(CheckpointError, match="does not say its target"):
            Iseparate().convert({file.name: harmed_file})


def test_four_iseparate_targets_need_no_accompaniment():
    (file,) = files("iseparate", ("vocals",)).values()
    four = {t: trained_otherwise(file, data_loader_args={"train": {"target_sources": [t]}}) for t in FOUR}
    assert Iseparate().convert(four)[0].stems == FOUR
