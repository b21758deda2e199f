"""X-UMX equals Sony's nnabla program, through the shipped importer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from golden import Golden, parse_index
from test_open_unmix import assert_equal, load, magnitudes_of

from iseparate.nn.stft import centred_signal, centred_spectrum

NAME = "sony-xumx-tiny"


@pytest.mark.parametrize("variant", Golden(NAME).facts["variants"])
def test_sonys_program(variant: str) -> None:
    golden = Golden(NAME)
    model = load(golden, variant)
    assert model.config.targets == tuple(golden.facts["targets"])
    assert_equal(model, golden, variant)


@torch.inference_mode()
def test_masks_spectra_and_the_networks_own_inverse() -> None:
    """The way there is the original's too, not only the outcome."""
    golden = Golden(NAME)
    model: Any = load(golden, "niter0")
    magnitudes = magnitudes_of(model, golden)
    estimates = model.estimate(magnitudes)
    masks = estimates / magnitudes[:, None].clamp_min(1e-12)
    spectra = centred_spectrum(torch.from_numpy(golden.mix)[None], model.window, 1024)
    stems = torch.polar(estimates, spectra.angle()[:, None])
    ours = {
        # Frames, songs, targets times channels, bins.
        "mask": masks.flatten(1, 2).permute(2, 0, 1, 3),
        "mix_spec": magnitudes.permute(2, 0, 1, 3),
        "time_domain": centred_signal(stems, model.window, 1024, 25600)[0],
    }
    compared = set()
    with np.load(golden.folder / "expected.npz") as arrays:
        for key in arrays.files:
            if key.startswith("network/"):
                what, _, index = key.removeprefix("network/").rstrip("]").partition("[")
                theirs = arrays[key]
                part = ours[what].numpy()[parse_index(index)]
                assert part.shape == theirs.shape
                assert np.abs(part - theirs).max() <= 1e-4 * max(1.0, np.abs(theirs).max()), key
                compared.add(what)
    assert compared == set(ours)
