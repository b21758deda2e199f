from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from test_open_unmix_network import as_nnabla, lively, noise, with_one_bias

from iseparate.errors import CheckpointError
from iseparate.models._registry import find_importer
from iseparate.models.x_umx import AsteroidCheckpoint, Config, CrossNetwork, NnablaCheckpoint, XUmx
from iseparate.types import CheckpointFile
from iseparate.weights.load import build_model

TINY = replace(Config.tiny(), targets=("bass", "vocals", "other"))


@pytest.mark.parametrize(("system", "parameters"), [("x-umx", 35573392), ("x-umxl", 4 * 28257188)])
def test_published_systems_have_their_size(system, parameters):
    with torch.device("meta"):
        model = build_model(system)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.spec.stems == ("bass", "drums", "vocals", "other")
    if system == "x-umx":  # nnabla's LSTM has one bias where PyTorch's has two
        one_bias = parameters - sum(p.numel() for name, p in model.named_parameters() if "bias_hh" in name)
        assert one_bias == 35548816


@torch.inference_mode()
def test_the_bridges_are_two_means():
    """Before the recurrent layers, and of what goes into them beside what comes out."""
    model = lively(CrossNetwork(TINY))
    x = noise(2, 2, 9, TINY.bins)
    inner = [network.encode(x) for network in model.values()]
    first = torch.stack(inner).mean(0)
    second = torch.stack([torch.cat([i, n.lstm(first)[0]], -1) for i, n in zip(inner, model.values(), strict=True)])
    width = TINY.hidden_size
    beside, after = second.mean(0).split(width, -1)
    expected = torch.stack([network.decode(beside, after, x) for network in model.values()], 1)
    assert torch.allclose(model(x), expected, atol=1e-5)


@torch.inference_mode()
def test_every_target_hears_every_network():
    model = lively(XUmx(replace(TINY, wiener_iterations=0)))
    mix = noise(1, 2, 1500) - 0.5
    before = model(mix)
    for part in ("fc1", "lstm.weight_ih_l0"):
        changed = lively(XUmx(replace(TINY, wiener_iterations=0)))
        tensor = next(t for name, t in changed.networks["bass"].named_parameters() if name.startswith(part))
        tensor.neg_()
        assert ((changed(mix) - before).abs().amax((0, 2, 3)) > 1e-5).all()
    assert model.narrowed(("bass",)) is model


# -- reading checkpoints ------------------------------------------------------------------------------------


def as_one_nnabla_file(model):
    """Sony's file: each target's tensors with its name in theirs."""
    tensors = {}
    for name, file in as_nnabla(model).items():
        for key, tensor in file.tensors.items():
            layer, slash, rest = key.partition("/")
            tensors[f"{layer}_{name.removesuffix('.h5')}{slash}{rest}"] = tensor
    return {"x-umx.h5": CheckpointFile("x-umx.h5", "hdf5", tensors)}


LAYERS = {"fc1": "enc.{}.enc.0", "bn1": "enc.{}.enc.1", "fc2": "dec.{}.dec.0", "bn2": "dec.{}.dec.1"}
LAYERS |= {"fc3": "dec.{}.dec.3", "bn3": "dec.{}.dec.4"}


def as_asteroid(model, arguments=None):
    """asteroid's file: the model's name, arguments and state dict."""
    config, tensors = model.config, {"encoder.0.window": torch.ones(4), "decoder.window": torch.ones(4)}
    for target, network in model.networks.items():
        for key, tensor in network.state_dict().items():
            layer, _, part = key.partition(".")
            if layer == "lstm":
                tensors[f"layer_lstm.{target}.{part}"] = tensor
            elif part:
                tensors[f"layer_{LAYERS[layer].format(target)}.{part}"] = tensor
            else:
                tensors[f"mean_scale.{key}_{target}"] = tensor
    given = {"sources": list(config.targets), "in_chan": config.frame_samples, "n_hop": config.hop_samples}
    given |= {"sample_rate": 44100, "spec_power": 1} | (arguments or {})
    file = CheckpointFile(
        "model.pth",
        "torch",
        {f"state_dict.{key}": tensor for key, tensor in tensors.items()},
        {"model_name": "XUMX", "state_dict": tensors, "model_args": given},
    )
    return {"model.pth": file}


PUBLISHED = replace(Config(), hidden_size=4, max_bin=20)
KINDS = {"nnabla": (NnablaCheckpoint(), as_one_nnabla_file), "asteroid": (AsteroidCheckpoint(), as_asteroid)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_checkpoint_comes_back_tensor_for_tensor(kind):
    importer, export = KINDS[kind]
    model = with_one_bias(lively(XUmx(PUBLISHED)))
    files = export(model)
    found, chosen = find_importer(files)
    assert (found.name, type(chosen)) == ("x_umx", type(importer))
    config, state = importer.convert(files)
    assert config == PUBLISHED
    ours = {k: t for k, t in model.state_dict().items() if "num_batches" not in k}
    state = {k: t for k, t in state.items() if "num_batches" not in k}
    assert state.keys() == ours.keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in ours.items())


def test_asteroids_sources_come_in_its_own_order_and_framing():
    model = lively(XUmx(replace(TINY, targets=("vocals", "bass"), wiener_window_frames=300)))
    config, _ = AsteroidCheckpoint().convert(as_asteroid(model))
    assert config == model.config


def test_a_bare_state_dict_of_asteroids_is_read_with_the_published_framing():
    (file,) = as_asteroid(XUmx(PUBLISHED)).values()
    bare = {name.removeprefix("state_dict."): tensor for name, tensor in file.tensors.items()}
    config, _ = AsteroidCheckpoint().convert({"model.pth": replace(file, tensors=bare, metadata=bare)})
    assert config == PUBLISHED


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"sources": ["bass", "drums"]}, "names the sources ['bass', 'drums'], but holds networks of"),
        ({"sources": 4}, "names the sources 4"),
        ({"n_hop": "1024"}, "has n_hop '1024'"),
        ({"in_chan": 2048}, "2049 bins, which nfft 2048 does not make"),
        ({"spec_power": 2}, "spectra to the power 2"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, word):
    with pytest.raises(CheckpointError, match=re.escape(word)):
        AsteroidCheckpoint().convert(as_asteroid(XUmx(PUBLISHED), arguments))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("harm", ["unknown name", "two files", "no matrix"])
def test_a_harmed_checkpoint_is_refused_in_words(kind, harm):
    importer, export = KINDS[kind]
    files = export(XUmx(PUBLISHED))
    ((name, file),) = files.items()
    tensors = dict(file.tensors)
    if harm == "unknown name":
        tensors["optimizer.lr"] = torch.zeros(1)
    elif harm == "no matrix":
        del tensors[next(key for key in tensors if re.search(r"fc1_bass/affine|enc\.bass\.enc\.0", key))]
    files = {name: replace(file, tensors=tensors)}
    if harm == "two files":
        files["again"] = file
        assert not importer.recognises(files)
    with pytest.raises(CheckpointError) as caught:
        importer.convert(files)
    assert "\n" not in str(caught.value)
