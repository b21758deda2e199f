"""Conv-TasNet equals Demucs' versions 1 and 2 of it, and asteroid's, through the shipped importers."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from waveform_golden import assert_asteroid_is_equal, assert_equal, facts, load, mix_of, through_the_engine, whole

from iseparate.types import TrackStatistics
from iseparate.weights.card import find_card

V1, V2 = "convtasnet_v1", "convtasnet_v2"
AS_IT_IS = TrackStatistics(0.0, 1.0)
"""For what the originals compute below their program, which is where the song is brought to a level."""
SEGMENT, STRIDE = 15001, 11250
"""Of the golden of version 2, whose program rounds the stride down; no published segment is that odd."""


def official(card: str, **settings: Any) -> dict[str, Any]:
    return {**find_card(f"{card}-official").settings, **settings}


@pytest.mark.parametrize(
    ("name", "file", "variant"),
    [
        (V1, "model.th", "forward"),
        (V2, "package.th", "forward"),
        (V2, "package_half.th", "half_forward"),
        (V2, "state-c21f965c.th", "half_forward"),
    ],
)
def test_the_network(name: str, file: str, variant: str) -> None:
    model = load(name, file, drop_tail=True)
    assert model.spec.stems == ("drums", "bass", "other", "vocals")
    assert (model.config.blocks, model.config.repeats) == (facts(name)["kwargs"]["X"], facts(name)["kwargs"]["R"])
    assert_equal(name, variant, whole(model, mix_of(name)[:, :9001], AS_IT_IS))


@pytest.mark.parametrize(("name", "file", "samples"), [(V1, "model.th", 30011), (V2, "package.th", 25013)])
def test_a_song_in_one_pass(name: str, file: str, samples: int) -> None:
    assert_equal(name, "apply", whole(load(name, file, drop_tail=True), mix_of(name)[:, :samples], AS_IT_IS))


def test_version_1_in_segments() -> None:
    model, mix = load(V1, "model.th", **official("conv-tasnet-v1")), mix_of(V1)
    assert model.config.segment_seconds == 10
    assert_equal(V1, "apply_split", through_the_engine(model, mix, AS_IT_IS))
    assert_equal(V1, "separate", through_the_engine(model, mix, None))


def test_version_2_in_segments() -> None:
    assert official("conv-tasnet")["segment_seconds"] == 8
    settings = official("conv-tasnet", segment_seconds=SEGMENT / 2205, overlap=1 - STRIDE / SEGMENT)
    model, mix = load(V2, "package.th", **settings), mix_of(V2)
    assert_equal(V2, "apply_split", through_the_engine(model, mix, AS_IT_IS))
    assert_equal(V2, "separate", through_the_engine(model, mix, None))


def test_a_package_tells_its_segments() -> None:
    assert load(V2, "package.th").config.segment_seconds * 2205 == pytest.approx(SEGMENT)
    assert load(V2, "state-c21f965c.th").config.segment_seconds == 8


# -- what the originals offer to programmers, on our network ------------------------------------------------


def triangle(power: int = 1) -> Tensor:
    weight = torch.tensor([*range(1, SEGMENT // 2 + 1), *range(SEGMENT - SEGMENT // 2, 0, -1)]).float()
    return (weight / weight.max()) ** power


def test_another_overlap_under_squared_triangles() -> None:
    """The engine has triangles only."""
    model, mix, weight = load(V2, "package.th", drop_tail=True), mix_of(V2)[:, :25013], triangle(2)
    total, weights = torch.zeros(4, *mix.shape), torch.zeros(mix.shape[1])
    for start in range(0, mix.shape[1], int(0.9 * SEGMENT)):
        output = whole(model, mix[:, start : start + SEGMENT], AS_IT_IS)
        part = slice(start, start + output.shape[-1])
        total[..., part] += weight[: output.shape[-1]] * output
        weights[part] += weight[: output.shape[-1]]
    assert_equal(V2, "apply_split_overlap01_power2", total / weights)


def test_version_1_shifted() -> None:
    model, mix, shift = load(V1, "model.th", drop_tail=True), mix_of(V1)[:, :20011], 2205 // 2
    offsets = list(range(shift))
    random.seed(1234)
    random.shuffle(offsets)
    assert offsets[:2] == facts(V1)["shifts2_offsets"]
    padded = F.pad(mix, (shift, shift))
    length = mix.shape[1] + shift
    shifted = [whole(model, padded[:, offset : offset + length], AS_IT_IS) for offset in offsets[:2]]
    outputs = [s[..., shift - o :][..., : mix.shape[1]] for s, o in zip(shifted, offsets, strict=False)]
    assert_equal(V1, "apply_shifts2", torch.stack(outputs).mean(0))


def test_version_2_shifted_in_segments() -> None:
    """Each segment is shifted by itself, within real surroundings of half a second."""
    model, mix, shift, weight = load(V2, "package.th", drop_tail=True), mix_of(V2)[:, :25013], 2205 // 2, triangle()
    padded = F.pad(mix, (shift, shift))
    random.seed(1234)
    total, weights, drawn = torch.zeros(4, *mix.shape), torch.zeros(mix.shape[1]), []
    for start in range(0, mix.shape[1], STRIDE):
        length = min(SEGMENT, mix.shape[1] - start)
        surrounded = padded[:, start : start + length + 2 * shift]
        drawn.append([random.randint(0, shift), random.randint(0, shift)])
        outputs = [
            whole(model, surrounded[:, offset : length + shift], AS_IT_IS)[..., shift - offset :]
            for offset in drawn[-1]
        ]
        total[..., start : start + length] += weight[:length] * torch.stack(outputs).mean(0)
        weights[start : start + length] += weight[:length]
    assert drawn == facts(V2)["split_shifts2_offsets"]
    assert_equal(V2, "apply_split_shifts2", total / weights)


# -- asteroid -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["asteroid_convtasnet_2src", "asteroid_convtasnet_4src"])
def test_asteroid(name: str) -> None:
    assert_asteroid_is_equal(name)
