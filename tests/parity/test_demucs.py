"""Demucs equals facebookresearch's versions 1 and 2, and iSeparate's of 2022, through the shipped importers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import FOLDER, Golden, assert_near
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from iseparate.engine.plan import Plan
from iseparate.engine.stream import SongStream, track_statistics
from iseparate.models.demucs import Demucs
from iseparate.types import TrackStatistics
from iseparate.weights.card import find_card
from iseparate.weights.load import import_checkpoint

V1, WAVE_U_NET, V2, DIFFQ = "demucs_v1", "demucs_v1_wun_variant", "demucs_v2", "demucs_v2_diffq"
PREDECESSOR = "iseparate-demucs-tiny"
TOLERANCE = 1e-4
AS_IT_IS = TrackStatistics(0.0, 1.0)
"""For what the originals compute below their program, which is where the song is brought to a level."""


def facts(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / name / "golden.json").read_text())
    return content


def load(name: str, file: str, **settings: Any) -> Any:
    return import_checkpoint(FOLDER / name / file, config=settings)


def official(card: str, **settings: Any) -> dict[str, Any]:
    """A card's official settings, for a golden that has a rate and segments of its own."""
    return {**find_card(f"{card}-official").settings, **settings}


def mix_of(name: str) -> Tensor:
    return torch.from_numpy(np.load(FOLDER / name / "input.npy").astype(np.float32) / 32768)


def assert_equal(name: str, variant: str, ours: Tensor | NDArray[np.float32]) -> None:
    """Hold ``[S, C, T]`` against what was stored of the original's."""
    (output,) = (output for output in facts(name)["outputs"] if output["key"] == variant)
    assert list(ours.shape) == output["full_shape"]
    step = 1 if output["stored"] == "full" else int(output["stored"].rstrip("]").rpartition(":")[2])
    with np.load(FOLDER / name / "expected.npz") as arrays:
        assert_near(name, variant, np.asarray(ours)[..., ::step], arrays[variant], TOLERANCE)


@torch.inference_mode()
def whole(model: Demucs, mix: Tensor, track: TrackStatistics = AS_IT_IS) -> Tensor:
    return model.forward(mix[None], track)[0]


def through_the_engine(model: Demucs, mix: Tensor, track: TrackStatistics | None = AS_IT_IS) -> NDArray[np.float32]:
    song, layout, rate = mix.numpy(), ("FL", "FR"), model.spec.sample_rate
    statistics = [track] if track else track_statistics([song], model.spec, rate, layout)
    blocks = SongStream(model, [Plan.for_model(model.spec)], rate, layout, statistics).run(np.split(song, [777], 1))
    return np.concatenate([np.stack(list(block.stems.values())) for block in blocks], -1)


# -- the networks -------------------------------------------------------------------------------------------

FORWARD = [
    (V1, "model.th", "forward", 12628, {}),
    (V1, "model.th.gz", "q8_forward", 12628, {}),
    (WAVE_U_NET, "model.th", "forward", 10835, {}),
    (V2, "package.th", "forward", 7338, {}),
    (V2, "package_half.th", "half_forward", 7338, {}),
    (V2, "state-28364250.th", "half_forward", 7338, {}),
    (DIFFQ, "package_diffq.th", "forward", 6442, {}),
    (DIFFQ, "state_diffq-1e7cb1c5.th", "forward", 6442, {"normalise": "mono"}),  # which a bare state does not tell
]


@pytest.mark.parametrize(("name", "file", "variant", "samples", "settings"), FORWARD)
@torch.inference_mode()
def test_the_network(name: str, file: str, variant: str, samples: int, settings: dict[str, Any]) -> None:
    model = load(name, file, **settings)
    assert model.spec.stems == ("drums", "bass", "other", "vocals")
    assert_equal(name, variant, model.separate_exactly(mix_of(name)[None, :, :samples])[0])


@pytest.mark.parametrize(
    ("name", "file", "samples", "input_samples"),
    [(V1, "model.th", 9000, 12628), (WAVE_U_NET, "model.th", 7000, 10835), (V2, "package.th", 5500, 7338)],
)
def test_valid_lengths(name: str, file: str, samples: int, input_samples: int) -> None:
    assert load(name, file).config.input_samples(samples) == input_samples


# -- the programs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [V1, WAVE_U_NET, V2])
def test_a_song_in_one_pass(name: str) -> None:
    file, samples = ("package.th", 25013) if name == V2 else ("model.th", 30011)
    assert_equal(name, "apply", whole(load(name, file), mix_of(name)[:, :samples]))


@pytest.mark.parametrize("name", [V1, WAVE_U_NET])
def test_version_1_in_segments(name: str) -> None:
    """Back to back, ten seconds each, with silence around them."""
    model = load(name, "model.th", **official("demucs-v1"))
    assert model.config.segment_seconds == 10
    assert_equal(name, "apply_split", through_the_engine(model, mix_of(name)))
    assert_equal(name, "separate", through_the_engine(model, mix_of(name), track=None))


def test_version_2_in_segments() -> None:
    """Overlapping by a quarter under triangles, with their real surroundings."""
    seconds = facts(V2)["kwargs"]["segment_length"] / 2205
    settings = official("demucs-v2", segment_seconds=seconds)
    model, mix = load(V2, "package.th", **settings), mix_of(V2)
    assert_equal(V2, "apply_split", through_the_engine(model, mix))
    assert_equal(V2, "separate", through_the_engine(model, mix, track=None))
    assert_equal(DIFFQ, "apply_split", through_the_engine(load(DIFFQ, "package_diffq.th", **settings), mix_of(DIFFQ)))


def test_another_overlap_under_squared_triangles() -> None:
    """Which the original offers to programmers, not on its command line; the engine offers triangles only."""
    mix, segment = mix_of(V2)[:, :25013], 17003
    model = load(V2, "package.th")
    weight = torch.tensor([*range(1, segment // 2 + 1), *range(segment - segment // 2, 0, -1)]).float()
    weight = (weight / weight.max()).square()
    total, weights = torch.zeros(4, *mix.shape), torch.zeros(mix.shape[1])
    for start in range(0, mix.shape[1], int(0.9 * segment)):
        output = of_excerpt(model, mix, start, segment)
        part = slice(start, start + output.shape[-1])
        total[..., part] += weight[: output.shape[-1]] * output
        weights[part] += weight[: output.shape[-1]]
    assert_equal(V2, "apply_split_overlap01_power2", total / weights)


# -- the shift trick, with the original's own draws ---------------------------------------------------------


@pytest.mark.parametrize("name", [V1, WAVE_U_NET])
def test_version_1_shifted(name: str) -> None:
    model, mix, shift = load(name, "model.th"), mix_of(name)[:, :20011], 2205 // 2
    offsets = list(range(shift))
    random.seed(1234)
    random.shuffle(offsets)
    assert offsets[:2] == facts(name)["shifts2_offsets"]
    padded = F.pad(mix, (shift, shift))
    outputs = [
        whole(model, padded[:, offset : offset + mix.shape[1] + shift])[..., shift - offset :][..., : mix.shape[1]]
        for offset in offsets[:2]
    ]
    assert_equal(name, "apply_shifts2", torch.stack(outputs).mean(0))


def test_version_2_shifted_in_segments() -> None:
    """Each segment is shifted by itself, within surroundings of half a second."""
    mix, segment, shift = mix_of(V2)[:, :25013], 17003, 2205 // 2
    model = load(V2, "package.th")
    random.seed(1234)
    weight = torch.tensor([*range(1, segment // 2 + 1), *range(segment - segment // 2, 0, -1)]).float()
    total, weights, drawn = torch.zeros(4, *mix.shape), torch.zeros(mix.shape[1]), []
    for start in range(0, mix.shape[1], int(0.75 * segment)):
        length = min(segment, mix.shape[1] - start)
        surrounded = real_surroundings(mix, start, length, length + 2 * shift)
        drawn.append([random.randint(0, shift), random.randint(0, shift)])
        outputs = [
            of_excerpt(model, surrounded, offset, length + shift - offset)[..., shift - offset :]
            for offset in drawn[-1]
        ]
        part = slice(start, start + length)
        total[..., part] += weight[:length] * torch.stack(outputs).mean(0)
        weights[part] += weight[:length]
    assert drawn == facts(V2)["split_shifts2_offsets"]
    assert_equal(V2, "apply_split_shifts2", total / weights)


def real_surroundings(mix: Tensor, start: int, length: int, target: int) -> Tensor:
    before = start - (target - length) // 2
    return F.pad(mix[:, max(0, before) : before + target], (max(0, -before), max(0, before + target - mix.shape[1])))


@torch.inference_mode()
def of_excerpt(model: Demucs, mix: Tensor, start: int, length: int) -> Tensor:
    length = min(length, mix.shape[1] - start)
    stems = model.separate_exactly(real_surroundings(mix, start, length, model.config.input_samples(length))[None])[0]
    return stems.narrow(2, (stems.shape[2] - length) // 2, length)


# -- the predecessor ----------------------------------------------------------------------------------------

AS_IT_WAS = {"framing": "doubled", "overlap": 0.0, "segment_seconds": 3600.0}


def test_the_predecessor() -> None:
    golden = Golden(PREDECESSOR)
    model = import_checkpoint(golden.folder / "checkpoint", config=AS_IT_WAS)
    assert model.spec.stems == tuple(golden.facts["targets"])
    with torch.inference_mode():
        output = model(torch.from_numpy(golden.mix)[None])[0].numpy()
    stems = dict(zip(model.spec.stems, output, strict=True))
    stems["accompaniment"] = golden.mix - stems["vocals"]
    compared = set()
    for stem, index, theirs in golden.expected("shifts0"):
        # Stems reach 8, and the network enlarges rounding: in float64 it is as far from the original's float32.
        scale = max(1.0, float(np.abs(theirs).max()))
        assert_near(PREDECESSOR, "shifts0", stems[stem][index] / scale, theirs / scale, golden.tolerance)
        compared.add(stem)
    assert compared == {*model.spec.stems, "accompaniment"}


@torch.inference_mode()
def test_the_predecessors_network() -> None:
    golden = Golden(PREDECESSOR)
    (checkpoint,) = Path(golden.folder / "checkpoint").iterdir()
    model: Any = import_checkpoint(checkpoint)
    expected = list(golden.expected("network"))
    ((_, _, lengths),) = (part for part in expected if part[0] == "valid_length")
    for samples, length in lengths.reshape(-1, 2).tolist():
        assert model.config.doubled_samples(samples) == samples + 2 * (length // 2)
    output = model.separate_exactly(torch.from_numpy(golden.mix)[None, :, : lengths[1]])[0].numpy()
    compared = 0
    for what, index, theirs in expected:
        if what == "forward":
            ours = output[index] if theirs.ndim == 3 else output[None][index]
            assert np.abs(ours - theirs).max() <= golden.tolerance * max(1.0, float(np.abs(theirs).max()))
            compared += 1
    assert compared == 3
