"""Conv-TasNet: sizes as published, what its settings do, and what its importers refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from iseparate.errors import CheckpointError
from iseparate.models._registry import find_importer
from iseparate.models.conv_tasnet import AsteroidCheckpoint, Config, ConvTasNet, DemucsCheckpoint
from iseparate.types import CheckpointFile, TrackStatistics
from iseparate.weights.load import build_model
from iseparate.weights.read import read_checkpoint

TINY = Config.tiny()
GOLDENS = Path(__file__).parents[1] / "parity" / "goldens"


def build(config):
    torch.manual_seed(0)
    return ConvTasNet(config).eval()


def noise(*shape, seed=0):
    return 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- as published -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("system", "parameters"), [("conv-tasnet", 10_977_872), ("conv-tasnet-x8", 8_852_032)])
def test_sizes_as_published(system, parameters):
    model = build_model(system)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.spec.stems == ("drums", "bass", "other", "vocals")
    assert (model.spec.sample_rate, model.spec.channels) == (44100, 2)


def test_fresh_weights_are_drawn_as_the_reference_draws_them():
    """Xavier's normal deviation of each tensor, whose fans are those of the shape that the reference has."""
    model = build_model("conv-tasnet")
    for name, (fan_in, fan_out) in {
        "encoder.weight": (2 * 20, 256 * 20),
        "decoder.weight": (256, 40),
        "separator.blocks.7.expand.weight": (256, 512),
        "separator.blocks.7.depthwise.weight": (3, 512 * 3),
    }.items():
        expected = (2 / (fan_in + fan_out)) ** 0.5
        assert model.get_parameter(name).std().item() == pytest.approx(expected, rel=0.1), name


# -- what settings do ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"skip": 6},
        {"skip": 6, "bias": True, "mask_prelu": True, "first_norm": "global"},
        {"kernel": 5, "norm": "channel"},
        {"causal": True, "norm": "cumulative", "kernel": 4},
    ],
)
def test_without_gradients_it_is_the_same_network(change):
    """There the depthwise convolutions are computed tap by tap, and masks in place."""
    model = build(replace(TINY, **change))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for samples in (700, 41):  # of which the second is shorter than the dilations reach
        mix = noise(2, 2, samples)
        plain = model(mix).detach()
        with torch.inference_mode():
            assert torch.allclose(model(mix), plain, atol=1e-5 * plain.abs().max())


@torch.inference_mode()
def test_settings_matter():
    outputs = [
        build(replace(TINY, **change))(noise(1, 2, 700))
        for change in ({}, {"skip": 8}, {"mask": "sigmoid"}, {"encoder_activation": "linear"}, {"norm": "channel"})
    ]
    for i, one in enumerate(outputs):
        assert all((one - other).abs().max() > 1e-4 for other in outputs[:i])


@torch.inference_mode()
def test_a_causal_network_does_not_look_ahead():
    causal = replace(TINY, causal=True, norm="cumulative", first_norm="cumulative", track_normalised=False)
    for config, is_causal in ((causal, True), (replace(causal, causal=False), False)):
        model = build(config)
        mix = noise(1, 2, 1000)
        later = mix.clone()
        later[..., 600:] = 0
        changed = (model(mix) - model(later)).abs().amax((0, 1, 2))[: 600 - TINY.filter_samples].max() > 1e-6
        assert changed != is_causal


@torch.inference_mode()
def test_softmax_masks_share_what_the_filters_hear():
    model = build(replace(TINY, mask="softmax"))
    filtered = model.encode(noise(1, 2, 500))
    assert torch.allclose(model.separator(filtered).sum(1), torch.ones_like(filtered), atol=1e-5)


@pytest.mark.parametrize("samples", [19, 20, 29, 30, 31])
@torch.inference_mode()
def test_the_tail_is_kept_unless_the_original_drops_it(samples):
    mix = noise(1, 2, samples)
    plain = replace(TINY, track_normalised=False)  # a song's mean would fill the silence
    kept = build(plain)(mix)
    dropped = build(replace(plain, drop_tail=True))(mix)
    assert kept.shape == dropped.shape == (1, 4, 2, samples)
    assert kept[..., -1].abs().max() > 0
    whole = samples if samples < 20 else samples // 10 * 10
    assert (dropped[..., whole:] == 0).all()
    assert dropped[..., whole - 1].abs().max() > 0


@torch.inference_mode()
def test_a_song_is_levelled_by_its_own_statistics():
    model = build(TINY)
    mix = noise(1, 2, 900)
    mono = mix.mean(1)
    own = TrackStatistics(mono.mean().item(), mono.std().item())
    assert torch.allclose(model(mix, own), model(mix), atol=1e-6)
    # Another level in and out: the network hears the same.
    louder = model(10 * mix + 0.3, TrackStatistics(10 * own.mean + 0.3, 10 * own.std))
    assert torch.allclose(louder, 10 * model(mix) + 0.3, atol=1e-4)
    assert (build(replace(TINY, track_normalised=False))(mix) - model(mix)).abs().max() > 1e-3
    assert model.spec.track_statistics == "mono_mean_std"


@torch.inference_mode()
def test_stems_are_brought_to_the_level_of_the_mixture():
    model = build(replace(TINY, keep_level=True, track_normalised=False))
    mix = noise(3, 2, 900)
    mix[2] = 0
    stems = model(mix)
    assert torch.allclose(stems.abs().sum((1, 2, 3)), mix.abs().sum((1, 2)), rtol=1e-4)
    assert torch.isfinite(stems).all()
    model.separator.mask.weight.zero_()  # nothing passes, which no gain can change
    assert (model(mix) == 0).all()


@torch.inference_mode()
def test_sixteen_bits_are_all_that_version_1_hears():
    model = build(replace(TINY, sixteen_bit=True))
    exact = (noise(1, 2, 500) * 32768).round() / 32768
    assert torch.equal(model(exact), model(exact + 0.3 / 32768))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kernel": 4}, "an odd number"),
        ({"blocks": 21}, "blocks is 21; expected 1 to 20"),
        ({"hop_samples": 21}, "must not exceed"),
        ({"encoder_activation": "softmax"}, "it is for masks"),
        ({"stems": ("a", "a")}, "different names"),
        ({"overlap": 1.0}, "a share in"),
        ({"sample_rate": 0}, "1000 to 384000 Hz"),
        ({"filters": 0}, "filters is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)


# -- reading checkpoints: tests/parity shows that each tensor of the goldens finds its place ---------------------

DEMUCS = ("convtasnet_v1/model.th", "convtasnet_v2/package.th", "convtasnet_v2/state-c21f965c.th")
ASTEROID = "asteroid_convtasnet_2src/model.pth"


def files(name):
    return read_checkpoint(GOLDENS / name)


def changed(name, tensors=None, metadata=None):
    """The golden with some tensors or arguments put in or (None) taken out."""
    (file,) = files(name).values()
    held = {key: t for key, t in {**file.tensors, **(tensors or {})}.items() if t is not None}
    return {file.name: replace(file, tensors=held, metadata=file.metadata if metadata is None else metadata)}


def asteroid(**arguments):
    (file,) = files(ASTEROID).values()
    told = {k: v for k, v in {**file.metadata["model_args"], **arguments}.items() if v is not ...}
    return {file.name: replace(file, metadata={**file.metadata, "model_args": told})}


@pytest.mark.parametrize(
    ("name", "importer"), [*((d, DemucsCheckpoint) for d in DEMUCS), (ASTEROID, AsteroidCheckpoint)]
)
def test_each_importer_knows_its_own(name, importer):
    arch, found = find_importer(files(name))
    assert (arch.name, type(found)) == ("conv_tasnet", importer)


def test_sizes_are_read_from_the_tensors():
    config, _ = DemucsCheckpoint().convert(files(DEMUCS[2]))
    assert (config.filters, config.bottleneck, config.hidden, config.blocks, config.repeats) == (32, 24, 40, 5, 2)
    assert (config.filter_samples, config.hop_samples, config.kernel, config.channels) == (20, 10, 3, 2)
    assert config.sample_rate == 44100


def test_stems_that_nobody_names_have_numbers():
    tensors = files(DEMUCS[2])["state-c21f965c.th"].tensors
    config, _ = DemucsCheckpoint().convert(
        changed(DEMUCS[2], {"separator.network.3.weight": tensors["separator.network.3.weight"][:64]})
    )
    assert config.stems == ("stem 1", "stem 2")


def test_arguments_may_come_without_their_names():
    (file,) = files(DEMUCS[1]).values()
    package = {**file.metadata, "args": (["a", "b", "c", "d"],), "kwargs": {"samplerate": 8000}}
    config, _ = DemucsCheckpoint().convert(changed(DEMUCS[1], metadata=package))
    assert (config.stems, config.sample_rate) == (("a", "b", "c", "d"), 8000)


def test_speakers_have_numbers_until_somebody_names_them():
    config, _ = AsteroidCheckpoint().convert(files(ASTEROID))
    assert config.stems == ("speaker1", "speaker2")
    assert config.any_order
    model = ConvTasNet(replace(config, stems=("vocals", "accompaniment"), any_order=False))
    assert not model.spec.stems_in_any_order
    assert ConvTasNet(config).spec.stems_in_any_order


def test_what_asteroid_leaves_out_is_its_default():
    config, _ = AsteroidCheckpoint().convert(
        asteroid(encoder_activation=..., sample_rate=..., out_chan=None, causal=...)
    )
    assert (config.encoder_activation, config.sample_rate, config.causal) == ("linear", 8000, False)


def test_a_residual_that_nothing_reads_is_left_out():
    _, state = AsteroidCheckpoint().convert(files(ASTEROID))
    assert "separator.blocks.6.project.weight" in state
    assert "separator.blocks.7.project.weight" not in state


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_src": None}, "n_src 'None'; expected a whole number from 1"),
        ({"n_src": 65}, "1 to 64 different names"),
        ({"n_src": True}, "n_src 'True'"),
        ({"out_chan": 8}, "expected 32, the number of filters"),
        ({"norm_type": "gN"}, "norm_type 'gN'; expected gLN or cLN or cgLN or fgLN or bN"),
        ({"mask_act": "prelu"}, "mask_act 'prelu'; expected linear or relu"),
        ({"who_is_pinv": "decoder"}, "who_is_pinv 'decoder'; expected none"),
        ({"fb_name": "STFTFB"}, "fb_name 'STFTFB'; expected FreeFB or free"),
        ({"n_blocks": 1e9}, "n_blocks '1000000000.0'"),
        ({"n_blocks": 21}, "blocks is 21"),
        ({"kernel_size": float("nan")}, "kernel_size 'nan'"),
        ({"stride": 16.5}, "stride '16.5'; expected a whole number"),
        ({"causal": "no"}, "causal 'no'; expected true or false"),
    ],
)
def test_arguments_that_cannot_be_are_refused_in_words(arguments, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        AsteroidCheckpoint().convert(asteroid(**arguments))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "tensors", "words"),
    [
        (DEMUCS[2], {"separator.network.2.1.4.net.0.weight": None}, "holds 9 blocks"),
        (DEMUCS[2], {"separator.network.1.weight": None}, "separator.bottleneck.weight is no tensor of 3 dimensions"),
        (DEMUCS[2], {"encoder.conv1d_U.weight": torch.ones(3)}, "encoder.weight is no tensor of 3 dimensions"),
        (DEMUCS[2], {"separator.network.3.weight": torch.ones(100, 24, 1)}, "makes 100 masks of 32 filters"),
        (DEMUCS[2], {"optimizer": torch.ones(1)}, "a tensor that Conv-TasNet has not: optimizer"),
        (DEMUCS[1], {"state.separator.network.2.0.0.net.0.weight": torch.ones(40, 0, 1)}, "no tensor of 3 dimensions"),
        (ASTEROID, {"state_dict.masker.extra": torch.ones(1)}, "has not: masker.extra"),
    ],
)
def test_a_harmed_checkpoint_is_refused_in_words(name, tensors, words):
    harmed = changed(name, tensors)
    with pytest.raises(CheckpointError, match=words) as caught:
        find_importer(harmed, "conv_tasnet")[1].convert(harmed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "told",
    [
        {"kwargs": {"mask_nonlinear": "tanh"}},
        {"kwargs": {"samplerate": "44100"}},
        {"kwargs": {"sources": ["a"]}},
        {"kwargs": None},
        {"args": tuple(range(15))},
    ],
)
def test_a_package_of_another_network_is_refused_in_words(told):
    (file,) = files(DEMUCS[1]).values()
    with pytest.raises(CheckpointError) as caught:
        DemucsCheckpoint().convert(changed(DEMUCS[1], metadata={**file.metadata, **told}))
    assert "\n" not in str(caught.value)


def test_several_files_are_none_of_ours():
    both = {**files(DEMUCS[2]), "other.th": CheckpointFile("other.th", "torch")}
    assert not DemucsCheckpoint().recognises(both)
    assert not AsteroidCheckpoint().recognises({**files(ASTEROID), "notes.json": CheckpointFile("notes.json", "json")})
    with pytest.raises(CheckpointError, match=r"give its one \.th file"):
        DemucsCheckpoint().convert(both)
