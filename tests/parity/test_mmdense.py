"""MMDenseNet and MMDenseLSTM equal a community re-implementation, through the shipped importer.

The papers' authors never released code: this proves the same reading of the papers, no more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from golden import Golden, assert_near, parse_index

from iseparate.models.mmdenselstm import MMDenseLSTM
from iseparate.nn.stft import centred_spectrum
from iseparate.weights.load import import_checkpoint

NAMES = ("mmdensenet-tky-tiny", "mmdenselstm-tky-tiny")
VARIANTS: dict[str, dict[str, Any]] = {
    # One network by itself has the mixture's phase; several have shares of the mixture, then EM over the whole song.
    "single": {"wiener_iterations": 0, "wiener_softmask": False},
    **{f"em{n}": {"wiener_iterations": n, "wiener_window_frames": None} for n in range(3)},
}


def load(golden: Golden, **settings: Any) -> MMDenseLSTM:
    model = import_checkpoint(golden.folder / "checkpoint", config=settings)
    assert isinstance(model, MMDenseLSTM)
    assert model.spec.stems == tuple(golden.facts["targets"])
    assert (model.config.frame_samples, model.config.hop_samples) == (golden.facts["n_fft"], golden.facts["hop"])
    return model


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_waveforms(name: str, variant: str) -> None:
    golden = Golden(name)
    model = load(golden, **VARIANTS[variant])
    output = model(torch.from_numpy(golden.mix)[None])[0].numpy()
    compared = set()
    for target, index, expected in golden.expected(variant):
        ours = output[model.spec.stems.index(target)][index]
        assert_near(name, variant, ours, expected, golden.tolerance)
        compared.add(target)
    assert compared == set(model.spec.stems)


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_magnitudes(name: str) -> None:
    """The network by itself, and what it is given."""
    golden = Golden(name)
    model = load(golden)
    spectra = centred_spectrum(torch.from_numpy(golden.mix)[None], model.window, model.config.hop_samples)
    magnitudes = {"mix_magnitude": spectra.abs()}
    magnitudes |= {target: network(spectra.abs()) for target, network in model.networks.items()}
    compared = set()
    with np.load(golden.folder / "expected.npz") as arrays:
        for key in arrays.files:
            if key.startswith("network/"):
                what, _, index = key.removeprefix("network/").rstrip("]").partition("[")
                theirs = arrays[key]
                ours = magnitudes[what].transpose(2, 3).numpy()[parse_index(index)]  # theirs: bins, then frames
                assert ours.shape == theirs.shape
                assert np.abs(ours - theirs).max() <= 1e-4 * max(1.0, float(np.abs(theirs).max())), key
                compared.add(what)
    assert compared == set(magnitudes)


@torch.inference_mode()
def test_one_target_needs_one_network() -> None:
    golden = Golden(NAMES[0])
    model = load(golden, **VARIANTS["single"])
    alone = model.narrowed(model.spec.needed_stems(("vocals",)))
    assert alone.spec.stems == ("vocals",)
    mix = torch.from_numpy(golden.mix[:, :9000])[None]
    assert torch.equal(alone(mix)[:, 0], model(mix)[:, model.spec.stems.index("vocals")])
