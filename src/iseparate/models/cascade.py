"""Several models as one: a cascade, in which each takes stems out of what the one before has left.

Waveform in, waveforms out, as any model: each part runs as a whole pass over the segment, so parts need not share
frames or anything else but rate and channels. A card that has `parts` instead of files names the models that a bundle
is made of; their weights are stored once, under their own names.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import zip_longest
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from iseparate.models._base import SeparationModel
from iseparate.models._registry import architecture, register
from iseparate.types import ModelSpec, TrackStatistics

MOST_PARTS = 8
_ALIKE_IN_BF16 = ("band", "spleeter")
"""Architectures whose scores bf16 was seen not to move; in a cascade they have no original to be equal to."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One model of a bundle."""

    arch: str
    """Name of its architecture; no bundle."""
    config: dict[str, Any] = field(default_factory=dict)
    """Its Config, as plain data."""

    def __post_init__(self) -> None:
        # As a file would give it back: there are no tuples in JSON.
        object.__setattr__(self, "config", _as_lists(self.config))


def _as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_lists(inner) for key, inner in value.items()}
    return [_as_lists(inner) for inner in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which models, in which order, and what each hands on."""

    parts: tuple[Part, ...]
    hands_on: tuple[str, ...] = ("accompaniment",)
    """The stem that each part but the last leaves to the next; it is no stem of the whole."""
    segment_seconds: float = 11.79
    """Just what Spleeter makes one patch of, with the frame before it: more takes memory, less takes time."""
    overlap: float = 0.0625

    def __post_init__(self) -> None:
        if not 2 <= len(self.parts) <= MOST_PARTS or len(self.hands_on) != len(self.parts) - 1:
            raise ValueError(f"a cascade has 2 to {MOST_PARTS} parts, and hands on one stem between each two of them")
        if any(part.arch == "cascade" for part in self.parts):
            raise ValueError("a cascade is made of models that are none themselves; list their parts in its place")
        if not 0 < self.segment_seconds <= 600 or not 0 <= self.overlap < 1:
            raise ValueError("segment_seconds is above 0 and at most 600, overlap a share in [0, 1)")

    @classmethod
    def tiny(cls) -> Config:
        """Two small networks, for tests."""
        spleeter = {"filters": (2, 3), "segment_frames": 8, "frequency_bins": 64, "frame_samples": 256}
        band = {"widths": (4, 6), "halve_frames": (True,), "narrowing": 2, "recurrent_size": 4, "linear_bins": 96}
        return cls(
            parts=(
                Part(arch="spleeter", config={**spleeter, "hop_samples": 64, "mask_extension": "average"}),
                Part(arch="band", config={**band, "group_bins": 2, "frame_samples": 256, "hop_samples": 64}),
            ),
            segment_seconds=0.05,
        )


def _built(part: Part) -> SeparationModel:
    """The network of a part; ValueError where its settings will not do."""
    arch = architecture(part.arch)
    if unknown := sorted(set(part.config) - {field.name for field in fields(arch.config)}):
        raise ValueError(f"{part.arch} has no setting {', '.join(unknown)}")
    try:
        return arch.model(TypeAdapter(arch.config).validate_python(part.config))
    except ValidationError as fault:
        raise ValueError(f"{part.arch} cannot be built: {fault.errors(include_url=False)[0]['msg']}") from None
    except ArithmeticError as fault:  # a Config that divides before it looks
        raise ValueError(f"{part.arch} cannot be built: {fault}") from None


@register("cascade", config=Config, paper="This project: each part is a system of its own", domain="spectrogram")
class Cascade(SeparationModel):
    """Models one after the other, each on the stem that the one before hands on."""

    config: Config

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.parts = nn.ModuleList(_built(part) for part in config.parts)
        self._handed_on = config.hands_on
        specs = [part.spec for part in self._models]
        kernels = [
            (part.arch, f"parts.{number}.{kernel}")
            for number, part in enumerate(config.parts)
            for kernel in self._models[number].kernels
        ]
        self.kernels = tuple(name for _, name in kernels)
        self.kernels_in_bf16 = tuple(name for arch, name in kernels if arch in _ALIKE_IN_BF16)
        self.spec = _spec(config, specs)

    @property
    def _models(self) -> list[SeparationModel]:
        return list(self.parts)  # type: ignore[arg-type]

    def forward(self, mix: Tensor, track: TrackStatistics | None = None) -> Tensor:  # noqa: ARG002
        """``[B, C, T]`` -> ``[B, S, C, T]``."""
        stems: dict[str, Tensor] = {}
        for number, part in enumerate(self._models):
            stems |= dict(zip(part.spec.stems, part(mix).unbind(1), strict=True))
            if number < len(self._handed_on):
                mix = stems.pop(self._handed_on[number])
        return torch.stack([stems[stem] for stem in self.spec.stems], 1)

    def narrowed(self, stems: tuple[str, ...]) -> SeparationModel:
        """As the base: the parts that come after all of `stems` have been found are left out."""
        found, count = set[str](), 0
        for own in _own_stems([part.spec for part in self._models], self._handed_on):
            found |= set(own)
            count += 1
            if found >= set(stems):
                break
        if count == len(self.parts):
            return self
        shorter = copy.copy(self)
        shorter._modules = {**self._modules, "parts": nn.ModuleList(self._models[:count])}
        shorter._handed_on = self._handed_on[:count]  # what the last one would hand on is nobody's
        shorter.spec = replace(
            self.spec,
            stems=tuple(stem for stem in self.spec.stems if stem in found),
            couples=tuple(group for group in self.spec.couples if set(group) <= found),
            mixture_consistent=False,
            residual_stem=None,
        )
        return shorter


def _own_stems(specs: Sequence[ModelSpec], hands_on: Sequence[str]) -> list[tuple[str, ...]]:
    """Of each part, the stems that are the whole's too: all but the one it hands on."""
    return [
        tuple(stem for stem in spec.stems if stem != handed_on)
        for spec, handed_on in zip_longest(specs, hands_on[: len(specs)])
    ]


def _spec(config: Config, specs: list[ModelSpec]) -> ModelSpec:
    for spec, stem in zip(specs, config.hands_on, strict=False):
        if stem not in spec.stems:
            raise ValueError(f"a part has no stem {stem} to hand on; it has {', '.join(spec.stems)}")
    if len({(spec.sample_rate, spec.channels) for spec in specs}) > 1:
        raise ValueError("the parts of a cascade have one rate and one number of channels")
    if any(spec.track_statistics != "none" or spec.two_pass or spec.stems_in_any_order for spec in specs):
        raise ValueError("a part that must know the whole song beforehand cannot be in a cascade")
    own = _own_stems(specs, config.hands_on)
    stems = [stem for stems in own for stem in stems]
    if len(set(stems)) < len(stems):
        raise ValueError(f"two parts of the cascade give the same stem, of {', '.join(stems)}")
    consistent = all(spec.mixture_consistent for spec in specs)
    return ModelSpec(
        stems=tuple(stems),
        sample_rate=specs[0].sample_rate,
        channels=specs[0].channels,
        default_segment_seconds=config.segment_seconds,
        batch_seconds=max(spec.batch_seconds for spec in specs),
        start_grid_samples=math.lcm(*(spec.start_grid_samples for spec in specs)),
        default_overlap=config.overlap,
        couples=tuple(group for group in own if len(group) > 1),
        mixture_consistent=consistent,
        silence_to_silence=all(spec.silence_to_silence for spec in specs),
        residual_stem=specs[-1].residual_stem if consistent else None,
    )
