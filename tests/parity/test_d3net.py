"""D3Net equals Sony's nnabla program and iSeparate's of 2022, through the shipped importers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import FOLDER, assert_near, parse_index
from numpy.typing import NDArray

from iseparate.engine.plan import Plan
from iseparate.engine.stream import SongStream
from iseparate.nn.stft import centred_spectrum
from iseparate.weights.load import import_checkpoint

SONY = FOLDER / "sony-d3net-tiny"
ISEPARATE = FOLDER / "iseparate-d3net-tiny"
PADDING = {"constant": "zeros", "reflect": "reflect"}
# What the cards' official settings say, which are one and the same for every variant.
OFFICIAL = {"wiener_window_frames": None, "sounding_silence": True}


def facts(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "facts.json").read_text())
    return content


def mix_of(folder: Path) -> torch.Tensor:
    with np.load(folder / "input.npz") as arrays:
        if "pcm16" in arrays:  # the reference's scaling of integers
            return torch.from_numpy((arrays["pcm16"].T / 32767).astype(np.float32))
        return torch.from_numpy(arrays["mix"])


def expected(folder: Path, prefix: str) -> dict[tuple[str, str], NDArray[Any]]:
    """By target and index."""
    with np.load(folder / "expected.npz") as arrays:
        keys = [key for key in arrays.files if key.startswith(f"{prefix}/")]
        parts = {key: key.removeprefix(f"{prefix}/").rstrip("]").partition("[") for key in keys}
        return {(parts[key][0], parts[key][2] or "..."): arrays[key] for key in keys}


def sonys_model(**settings: Any) -> Any:
    targets = facts(SONY)["targets"]
    patches = [targets[target]["test_patch_len"] for target in ("vocals", "bass")]
    return import_checkpoint(SONY / "checkpoint", config={"patch_frames": patches, **OFFICIAL, **settings})


def assert_waveforms(model: Any, folder: Path, variant: str, targets: set[str]) -> None:
    mix = mix_of(folder)
    with torch.inference_mode():
        output = model(mix[None])[0].numpy()
    output = output[..., : (mix.shape[1] // 1024) * 1024]  # the originals end at the last frame's centre
    compared = set()
    for (target, index), theirs in expected(folder, variant).items():
        ours = output[model.spec.stems.index(target)][parse_index(index)]
        assert_near(folder.name, variant, ours, theirs, 1e-5)
        compared.add(target)
    assert compared == targets


def assert_close(ours: torch.Tensor, theirs: NDArray[Any]) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours.numpy() - theirs).max() <= 2e-5 * max(1.0, float(np.abs(theirs).max()))


@pytest.mark.parametrize(
    "variant",
    ["constant-flip1-mwf1", "constant-flip1-mwf0", "constant-flip0-mwf1", "constant-flip0-mwf0", "reflect-flip1-mwf1"],
)
def test_sonys_program(variant: str) -> None:
    padding, flip, mwf = variant.split("-")
    model = sonys_model(
        padding=PADDING[padding], flip_average=flip == "flip1", wiener_iterations=int(mwf[-1]), halved_tail=True
    )
    assert_waveforms(model, SONY, variant, {"vocals", "bass"})


def test_sonys_program_in_segments() -> None:
    """Through the engine, which cuts the song where it likes."""
    model = sonys_model(padding="zeros", halved_tail=True)
    mix = mix_of(SONY)
    song = SongStream(model, [Plan.for_model(model.spec)], 44100, ("FL", "FR"))
    blocks = [np.stack(list(block.stems.values())) for block in song.run([mix.numpy()])]
    output = np.concatenate(blocks, -1)[..., : (mix.shape[1] // 1024) * 1024]
    compared = 0
    for (target, index), theirs in expected(SONY, "constant-flip1-mwf1").items():
        ours = output[model.spec.stems.index(target)][parse_index(index)]
        assert np.abs(ours - theirs).max() < 1e-5
        compared += 1
    assert compared == 2


def test_a_window_as_long_as_the_song_is_sonys_filter() -> None:
    """The default's way to the same numbers: one window that holds all frames."""
    model = sonys_model(padding="zeros", wiener_window_frames=48)
    assert_waveforms(model, SONY, "constant-flip1-mwf1", {"vocals", "bass"})


@pytest.mark.parametrize("plain", [False, True])
@torch.no_grad()
def test_sonys_networks(plain: bool) -> None:
    """With normalisations folded, and as they are trained."""
    model = sonys_model()
    with np.load(SONY / "input.npz") as arrays:
        spectrogram = torch.from_numpy(arrays["spectrogram"]).transpose(1, 2)
    for (target, index), theirs in expected(SONY, "network").items():
        with torch.set_grad_enabled(plain):
            ours = model.networks[target](spectrogram).detach()
        assert_close(ours.transpose(1, 2)[parse_index(index)], theirs)


@torch.inference_mode()
def test_sonys_spectra_and_overlap_add() -> None:
    model = sonys_model(padding="zeros")
    spectra = centred_spectrum(mix_of(SONY)[None], model.window, 1024, "zeros")
    with np.load(SONY / "expected.npz") as arrays:
        (key,) = (key for key in arrays.files if key.startswith("mixture_stft"))
        theirs = arrays[key]
    index = parse_index(key.rstrip("]").partition("[")[2])
    assert_close(torch.view_as_real(spectra[0].transpose(0, 1)[index]), np.stack([theirs.real, theirs.imag], -1))
    magnitudes = model.estimate(spectra.abs())[0]
    for (target, where), theirs in expected(SONY, "magnitude").items():
        ours = magnitudes[model.config.targets.index(target)].transpose(0, 1)
        assert_close(ours[parse_index(where)], theirs)


@pytest.mark.parametrize("variant", facts(ISEPARATE)["variants"])
def test_iseparates_program(variant: str) -> None:
    options = facts(ISEPARATE)["variants"][variant]
    lone = options.get("targets") == ["vocals"]
    path = ISEPARATE / "checkpoint" / "vocals.pt.gz" if lone else ISEPARATE / "checkpoint"
    settings = {"wiener_iterations": options["niter"], "wiener_softmask": options["softmask"]}
    model = import_checkpoint(path, config={**OFFICIAL, **settings})
    targets = {"vocals"} if lone else {"vocals", "drums"}
    assert_waveforms(model, ISEPARATE, variant, targets | {"accompaniment"})


@pytest.mark.parametrize("plain", [False, True])
@torch.no_grad()
def test_iseparates_networks(plain: bool) -> None:
    model: Any = import_checkpoint(ISEPARATE / "checkpoint", config=OFFICIAL)
    magnitudes = centred_spectrum(mix_of(ISEPARATE)[None], model.window, 1024).abs()
    for (_, index), theirs in expected(ISEPARATE, "frontend").items():
        assert_close(magnitudes[parse_index(index)], theirs)
    for (target, index), theirs in expected(ISEPARATE, "network").items():
        with torch.set_grad_enabled(plain):
            ours = model.networks[target](magnitudes[:, :, :32]).detach()
        assert_close(ours[parse_index(index)], theirs)
    with torch.inference_mode():
        estimates = model.estimate(magnitudes)
    for (target, index), theirs in expected(ISEPARATE, "magnitude").items():
        assert_close(estimates[:, model.config.targets.index(target)][parse_index(index)], theirs)
