"""Open-Unmix equals openunmix 1.3.0, and Sony's nnabla port of it, through the shipped importers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import Golden, assert_near, parse_index

from iseparate.models.open_unmix import OpenUnmix
from iseparate.nn.stft import centred_spectrum
from iseparate.weights.load import import_checkpoint

TORCH, NNABLA = "openunmix-tiny", "sony-umx-nnabla-tiny"


def settings_of(golden: Golden, variant: str) -> dict[str, Any]:
    """Our Config's names for the original's options."""
    chosen = golden.facts["variants"][variant]
    residual = chosen.get("residual") or chosen.get("residual_model")
    settings = {
        "wiener_iterations": chosen.get("niter", 1),
        "wiener_softmask": chosen.get("softmask", False),
        "residual": "residual" if residual else None,
    }
    if "nnabla" in golden.facts["system"]:
        return settings | {
            "wiener_rule": "norbert",
            "wiener_in_double": True,
            "wiener_window_frames": None,
            "wiener_exponent": chosen.get("alpha", 1.0),
        }
    return settings | {"wiener_window_frames": chosen.get("wiener_win_len", 300), "wiener_fills_silence": True}


def load(golden: Golden, variant: str) -> Any:
    return import_checkpoint(golden.folder / "checkpoint", config=settings_of(golden, variant))


def assert_equal(model: Any, golden: Golden, variant: str) -> None:
    with torch.inference_mode():
        output = model(torch.from_numpy(golden.mix)[None])[0].numpy()
    compared = set()
    for stem, index, expected in golden.expected(variant):
        whole = output[model.spec.stems.index(stem)]
        # Sony's inverse transform ends with the last whole hop.
        ours = whole[..., : expected.shape[-1]] if index == (...,) else whole[index]
        assert whole.shape[-1] - expected.shape[-1] < model.config.hop_samples or index != (...,)
        assert_near(golden.name, variant, ours, expected, golden.tolerance)
        compared.add(stem)
    assert compared == set(model.spec.stems)


@pytest.mark.parametrize("variant", [v for v in Golden(TORCH).facts["variants"] if not v.startswith("single")])
def test_the_reference(variant: str) -> None:
    golden = Golden(TORCH)
    model = load(golden, variant)
    assert model.config.targets == tuple(golden.facts["targets"])
    assert_equal(model, golden, variant)


def test_one_target_alone_is_filtered_against_the_rest(tmp_path: Path) -> None:
    golden = Golden(TORCH)
    for name in ("vocals.pth", "vocals.json", "separator.json"):
        shutil.copy(golden.folder / "checkpoint" / name, tmp_path)
    # The importer adds the residual.
    model = import_checkpoint(tmp_path, config={"wiener_fills_silence": True})
    assert model.spec.stems == ("vocals", "residual")
    assert_equal(model, golden, "single-niter1-residual")


@pytest.mark.parametrize("variant", Golden(NNABLA).facts["variants"])
def test_sonys_port(variant: str) -> None:
    golden = Golden(NNABLA)
    assert_equal(load(golden, variant), golden, variant)


def magnitudes_of(model: OpenUnmix, golden: Golden) -> torch.Tensor:
    return centred_spectrum(torch.from_numpy(golden.mix)[None], model.window, model.config.hop_samples).abs()


@pytest.mark.parametrize("name", [TORCH, NNABLA])
@torch.inference_mode()
def test_what_the_networks_see_and_say(name: str) -> None:
    """The way there is the original's too, not only the outcome."""
    golden = Golden(name)
    model = load(golden, "niter0")
    magnitudes = magnitudes_of(model, golden)
    ours = dict(zip(model.config.targets, model.estimate(magnitudes)[0][:, None], strict=True))
    ours["mix_magnitude"] = magnitudes
    # B, C, bins, frames in the reference; frames, B, C, bins in Sony's.
    axes = (0, 1, 3, 2) if name == TORCH else (2, 0, 1, 3)
    compared = 0
    with np.load(golden.folder / "expected.npz") as arrays:
        for key in arrays.files:
            if key.startswith("network/"):
                what, _, index = key.removeprefix("network/").rstrip("]").partition("[")
                theirs = arrays[key]
                part = ours[what].permute(axes).numpy()[parse_index(index)]
                assert part.shape == theirs.shape
                assert np.abs(part - theirs).max() <= 1e-4 * max(1.0, np.abs(theirs).max()), key
                compared += 1
    assert compared == (3 if name == TORCH else 2)
