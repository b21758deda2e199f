from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from iseparate.engine.plan import Plan
from iseparate.engine.stream import SongStream
from iseparate.errors import CheckpointError
from iseparate.models._registry import find_importer
from iseparate.models.open_unmix import Config, NnablaCheckpoint, OpenUnmix, TargetNetwork, TorchCheckpoint
from iseparate.types import CheckpointFile
from iseparate.weights.load import build_model

TINY = Config.tiny()


def lively(module, seed=0):
    """Random weights scaled by fan-in, and normalisations that have seen something."""
    torch.manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.ndim == 2:
            tensor.normal_(0, tensor.shape[1] ** -0.5)
        elif tensor.is_floating_point():
            tensor.uniform_(0.3, 1.0)
    return module.eval()


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# -- the network --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "per_target", "targets"),
    [("umx", 8893348, 4), ("umxhq", 8893348, 4), ("umxl", 28257188, 4), ("umxse", 1583622, 2)],
)
def test_published_systems_have_their_size(system, per_target, targets):
    with torch.device("meta"):
        model = build_model(system)
    assert sum(p.numel() for p in model.parameters()) == targets * per_target
    assert len(model.spec.stems) == targets


def as_the_paper_says(network, x):
    """The network written out slowly, layer by layer, on ``[B, C, frames, bins]``."""

    def norm(layer, x):
        return (x - layer.running_mean) / (layer.running_var + layer.eps).sqrt() * layer.weight + layer.bias

    seen = (x[..., : network.max_bin] + network.input_mean) * network.input_scale
    rows = torch.cat(list(seen.unbind(1)), -1).transpose(0, 1)
    inner = torch.tanh(norm(network.bn1, rows @ network.fc1.weight.T))
    both = torch.cat([inner, network.lstm(inner)[0]], -1)
    hidden = norm(network.bn2, both @ network.fc2.weight.T).clamp(min=0)
    out = norm(network.bn3, hidden @ network.fc3.weight.T)
    gains = torch.stack(out.chunk(x.shape[1], -1), 2) * network.output_scale + network.output_mean
    return gains.clamp(min=0).permute(1, 2, 0, 3) * x


@pytest.mark.parametrize("config", [TINY, replace(TINY, channels=1), replace(TINY, bidirectional=False, layers=1)])
@pytest.mark.parametrize("songs", [1, 3])
@torch.inference_mode()
def test_the_folded_network_is_the_network(config, songs):
    network = lively(TargetNetwork(config))
    x = noise(songs, config.channels, 11, config.bins)
    expected = as_the_paper_says(network, x)
    assert expected.std() > 0.05
    assert torch.allclose(network(x), expected, atol=1e-5)


def test_training_and_evaluation_are_the_same_function_of_their_statistics():
    """With batch statistics put where running ones are, eval mode gives what training mode gave."""
    network = lively(TargetNetwork(replace(TINY, layers=1)))  # one layer has no dropout
    x = noise(2, 2, 30, TINY.bins)
    for layer in (network.bn1, network.bn2, network.bn3):
        layer.momentum = 1.0
    network.train()
    trained = network(x)
    for layer in (network.bn1, network.bn2, network.bn3):
        layer.running_var.mul_((60 - 1) / 60)  # kept unbiased, used biased
    assert torch.allclose(network.eval()(x), trained, atol=1e-4)


@torch.inference_mode()
def test_what_lies_above_the_band_is_scaled_but_not_looked_at():
    network = lively(TargetNetwork(TINY))
    x = noise(1, 2, 9, TINY.bins)
    louder = x.clone()
    louder[..., TINY.max_bin :] *= 2
    assert torch.allclose(network(louder)[..., : TINY.max_bin], network(x)[..., : TINY.max_bin])
    assert torch.allclose(network(louder)[..., TINY.max_bin :], 2 * network(x)[..., TINY.max_bin :])


@torch.inference_mode()
def test_every_frame_hears_every_other_one_where_both_directions_run():
    x = noise(1, 2, 12, TINY.bins)
    changed = x.clone()
    changed[:, :, 6] = 0.0
    for bidirectional in (True, False):
        network = lively(TargetNetwork(replace(TINY, bidirectional=bidirectional)))
        moved = (network(x) - network(changed)).abs().amax((0, 1, 3)) > 0
        assert moved[6:].all()
        assert moved[:6].all() == bidirectional
        assert moved[:6].any() == bidirectional


# -- the system ---------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_without_a_filter_a_stem_needs_its_own_network_only():
    model = lively(OpenUnmix(replace(TINY, wiener_iterations=0)))
    mix = noise(1, 2, 2000) - 0.5
    assert model.spec.couples == ()
    alone = model.narrowed(("drums",))
    assert list(alone.networks) == ["drums"]
    assert torch.allclose(alone(mix)[:, 0], model(mix)[:, 1], atol=1e-6)


def test_with_a_filter_all_run():
    model = OpenUnmix(TINY)
    assert model.spec.couples == (TINY.targets,)
    assert model.narrowed(("drums",)) is model


def test_segments_are_four_windows_of_the_filter_and_start_on_its_grid():
    model = OpenUnmix(replace(Config.tiny(), wiener_window_frames=300))
    assert round(model.spec.default_segment_seconds * 44100) == 1200 * TINY.hop_samples
    assert model.spec.start_grid_samples == 300 * TINY.hop_samples
    assert model.spec.default_overlap == 0.25
    official = OpenUnmix(replace(TINY, segment_seconds=3600.0, segment_overlap=0.0)).spec
    assert (official.default_segment_seconds, official.default_overlap) == (3600.0, 0.0)


@torch.inference_mode()
def test_segments_without_overlap_are_separated_by_themselves():
    config = replace(TINY, segment_overlap=0.0, segment_seconds=1001 / 44100, wiener_window_frames=1 << 20)
    model, mix = lively(OpenUnmix(config)), noise(1, 2, 2500) - 0.5
    stream = SongStream(model, [Plan.for_model(model.spec)], 44100, ("FL", "FR"))
    stems = np.concatenate([np.stack(list(b.stems.values())) for b in stream.run([mix[0].numpy()])], -1)
    alone = torch.cat([model(part)[0] for part in mix.split(1001, -1)], -1)
    assert np.abs(stems - alone.numpy()).max() < 1e-5


@torch.inference_mode()
def test_a_residual_keeps_silence_unless_the_references_accident_is_asked_for():
    config = replace(TINY, residual="rest")
    mix = noise(1, 2, 4000) - 0.5
    mix[..., 1500:2500] = 0.0
    inside = slice(1700, 2300)  # whole frames of silence
    assert not lively(OpenUnmix(config))(mix)[..., inside].any()
    accident = lively(OpenUnmix(replace(config, wiener_fills_silence=True)))
    assert accident(mix)[0, -1, :, inside].any()
    assert not accident.spec.silence_to_silence


@torch.inference_mode()
def test_double_precision_and_exponents_reach_the_filter():
    mix = noise(1, 2, 2000) - 0.5
    soft = replace(TINY, wiener_softmask=True, wiener_rule="norbert")
    plain = lively(OpenUnmix(soft))(mix)
    double = lively(OpenUnmix(replace(soft, wiener_in_double=True)))(mix)
    assert double.dtype == torch.float32
    assert 0 < (double - plain).abs().max() < 1e-2
    squared = lively(OpenUnmix(replace(soft, wiener_exponent=2.0)))(mix)
    assert (squared - plain).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"max_bin": 34}, "max_bin is 34; a spectrum has bins 1 to 33"),
        ({"hidden_size": 7}, "hidden_size is 7"),
        ({"layers": 0}, "layers 0"),
        ({"targets": ("vocals",)}, "name a residual"),
        ({"segment_overlap": 1.0}, "segment_overlap 1.0"),
        ({"segment_seconds": -1.0}, "segment_seconds is -1.0"),
        ({"wiener_exponent": 0.0}, "wiener_exponent is 0.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, word):
    with pytest.raises(ValueError, match=word):
        replace(TINY, **change)


# -- reading checkpoints ------------------------------------------------------------------------------------


def as_torch(model, prefix="", **extra):
    """The reference's files: one state dict and one JSON file per target."""
    config = model.config
    files = {}
    for target, network in model.networks.items():
        tensors = {prefix + key: tensor for key, tensor in network.state_dict().items()} | extra
        files[f"{target}.pth"] = CheckpointFile(f"{target}.pth", "torch", tensors)
        settings = {"args": {"nfft": config.frame_samples, "nhop": config.hop_samples}}
        files[f"{target}.json"] = CheckpointFile(f"{target}.json", "json", {}, settings)
    about = {"nfft": config.frame_samples, "nhop": config.hop_samples, "sample_rate": float(config.sample_rate)}
    return files | {"separator.json": CheckpointFile("separator.json", "json", {}, about)}


def as_nnabla(model):
    """Sony's files; the second of PyTorch's two biases must be zero for that."""
    files = {}
    for target, network in model.networks.items():
        tensors = {}
        for key, tensor in network.state_dict().items():
            if match := re.fullmatch(r"fc(\d)\.weight", key):
                tensors[f"fc{match[1]}/affine/W"] = tensor.T
            elif match := re.fullmatch(r"bn(\d)\.(\w+)", key):
                names = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "var"}
                if match[2] in names:
                    tensors[f"fc{match[1]}/bn/{names[match[2]]}"] = tensor[None, None]
            elif "put_" in key:
                tensors[key] = tensor

        def layer(i, network=network):
            rows = [
                torch.cat([getattr(network.lstm, f"weight_{part}_l{i}{way}") for part in ("ih", "hh")], 1)
                for way in ("", "_reverse")
            ]
            return torch.stack(rows).unflatten(1, (4, -1))

        biases = [
            torch.stack([getattr(network.lstm, f"bias_ih_l{i}{way}") for way in ("", "_reverse")]) for i in range(3)
        ]
        tensors["lstm/lstm/weight_l0"] = layer(0)
        tensors["lstm/lstm/weight"] = torch.stack([layer(1), layer(2)])
        tensors["lstm/lstm/bias"] = torch.stack(biases).unflatten(2, (4, -1))
        files[f"{target}.h5"] = CheckpointFile(f"{target}.h5", "hdf5", tensors)
    return files


def with_one_bias(model):
    for name, tensor in model.state_dict().items():
        if "bias_hh" in name:
            tensor.zero_()
    return model


def assert_comes_back(importer, files, model):
    found, chosen = find_importer(files)
    assert (found.name, type(chosen)) == ("open_unmix", type(importer))
    config, state = importer.convert(files)
    ours = {k: t for k, t in model.state_dict().items() if "num_batches" not in k}
    state = {k: t for k, t in state.items() if "num_batches" not in k}
    assert state.keys() == ours.keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in ours.items())
    return config


SMALL = replace(TINY, targets=("drums", "bass"), wiener_window_frames=300)


def test_the_references_files_come_back_tensor_for_tensor_in_its_order():
    model = lively(OpenUnmix(replace(SMALL, targets=("vocals", "drums"))))
    files = dict(reversed(as_torch(model).items()))
    assert assert_comes_back(TorchCheckpoint(), files, model) == model.config


def test_a_training_checkpoint_is_read_alone_and_yields_to_a_bare_one():
    model = lively(OpenUnmix(SMALL))
    alone = as_torch(model, prefix="state_dict.", epoch=torch.tensor(3))
    assert assert_comes_back(TorchCheckpoint(), alone, model) == model.config
    stale = as_torch(lively(OpenUnmix(SMALL), seed=1), prefix="state_dict.")
    beside = {f"{name}.chkpnt": replace(file, name=name.replace(".pth", ".chkpnt")) for name, file in stale.items()}
    beside = {name: file for name, file in beside.items() if file.format == "torch"}
    assert_comes_back(TorchCheckpoint(), as_torch(model) | beside, model)


def test_released_files_alone_tell_their_framing_by_their_size():
    config = replace(Config(), hidden_size=4, max_bin=20, targets=("vocals", "other"))
    model = lively(OpenUnmix(config))
    old = {"stft.window": torch.ones(4096), "transform.0.window": torch.ones(4096), "sample_rate": torch.tensor(44100)}
    files = {}
    for name, file in as_torch(model, **old).items():
        if file.format == "torch":
            released = name.replace(".pth", "-646024d3.pth" if "vocals" in name else "_f5e0d9f9.pth")
            files[released] = replace(file, name=released)
    assert assert_comes_back(TorchCheckpoint(), files, model) == config


def test_a_speech_model_is_told_by_its_bins():
    config = Config(
        targets=("speech", "noise"), frame_samples=1024, hop_samples=512, sample_rate=16000, channels=1,
        hidden_size=4, max_bin=513,
    )  # fmt: skip
    model = lively(OpenUnmix(config))
    files = {name: file for name, file in as_torch(model).items() if file.format == "torch"}
    assert assert_comes_back(TorchCheckpoint(), files, model) == config


def test_sonys_files_come_back_tensor_for_tensor():
    config = replace(Config(), hidden_size=4, max_bin=20, targets=("vocals", "drums"))
    model = with_one_bias(lively(OpenUnmix(config)))
    assert assert_comes_back(NnablaCheckpoint(), as_nnabla(model), model) == config


def test_a_single_target_is_given_a_residual():
    model = lively(OpenUnmix(SMALL))
    files = {name: file for name, file in as_torch(model).items() if "bass" not in name}
    config, _ = TorchCheckpoint().convert(files)
    assert config.stems == ("drums", "residual")


def harmed(files, kind, harm):
    name = f"vocals.{'pth' if kind == 'torch' else 'h5'}"
    tensors = dict(files[name].tensors)
    first, mean = ("fc1.weight", "output_mean") if kind == "torch" else ("fc1/affine/W", "output_mean")
    if harm == "unknown name":
        tensors["fc4.weight"] = torch.zeros(2, 2)
    elif harm == "flat matrix":
        tensors[first] = torch.zeros(3)
    elif harm == "no bins":
        tensors[mean] = torch.zeros(0)
    elif harm == "odd bins":
        tensors[mean] = torch.zeros(7)
    elif harm == "odd lstm":
        tensors["lstm/lstm/bias" if kind == "nnabla" else "fc3.weight"] = torch.zeros(2, 2, 2)
    return {**files, name: replace(files[name], tensors=tensors)}


@pytest.mark.parametrize("kind", ["torch", "nnabla"])
@pytest.mark.parametrize("harm", ["unknown name", "flat matrix", "no bins", "odd bins", "odd lstm"])
def test_a_harmed_checkpoint_is_refused_in_words(kind, harm):
    model = OpenUnmix(replace(SMALL, targets=("drums", "vocals")))
    importer, export = (TorchCheckpoint(), as_torch) if kind == "torch" else (NnablaCheckpoint(), as_nnabla)
    with pytest.raises(CheckpointError) as caught:
        importer.convert(harmed(export(model), kind, harm))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("document", "word"),
    [
        ([1], "has no settings"),
        ({"args": {"nfft": "4096", "nhop": 16}}, "nfft '4096'"),
        ({"args": {"nfft": 64, "nhop": -1}}, "nhop -1"),
        ({"args": {"nfft": 64, "nhop": 32}}, "disagree about nhop"),
        ({"args": {"nfft": 128}}, "disagree about nfft"),
    ],
)
def test_settings_beside_the_weights_must_make_sense(document, word):
    files = as_torch(OpenUnmix(SMALL))
    files["bass.json"] = replace(files["bass.json"], metadata=document)
    with pytest.raises(CheckpointError, match=re.escape(word)):
        TorchCheckpoint().convert(files)


def test_a_hop_that_nothing_says_is_asked_for():
    files = {name: file for name, file in as_torch(OpenUnmix(SMALL)).items() if file.format == "torch"}
    with pytest.raises(CheckpointError, match="nothing says the hop of a network with 33 bins"):
        TorchCheckpoint().convert(files)


@pytest.mark.parametrize("name", ["items.pth", "a.b.pth", "-.pth"])
def test_a_name_that_no_target_can_have_is_refused(name):
    files = as_torch(OpenUnmix(SMALL))
    files["bass.pth"] = replace(files["bass.pth"], name=name)
    with pytest.raises(CheckpointError, match="cannot be a target's name"):
        TorchCheckpoint().convert(files)


def test_functional_relu_is_what_the_gains_pass():
    """A network that wants less than nothing gives nothing."""
    network = lively(TargetNetwork(TINY))
    with torch.no_grad():
        network.output_mean.fill_(-100.0)
        x = noise(1, 2, 4, TINY.bins)
        assert torch.equal(network(x), F.relu(-x))
