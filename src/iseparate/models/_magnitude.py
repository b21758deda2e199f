"""Networks that estimate each target's magnitude spectrum: what they share around the network.

Waveform -> centred spectra -> magnitudes -> one estimate per target -> Wiener filter -> waveforms. Open-Unmix, X-UMX,
D3Net, MMDenseNet and their kin differ in the network, in framing and in the filter, all of which their Config says.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from iseparate.models._base import SeparationModel
from iseparate.nn.stft import centred_signal, centred_spectrum, hann
from iseparate.nn.wiener import WienerRule, wiener
from iseparate.types import ModelSpec, TrackStatistics


@dataclass(frozen=True, kw_only=True)
class MagnitudeConfig:
    """Framing and filter; a network's own Config adds its hyper-parameters."""

    targets: tuple[str, ...] = ("vocals", "drums", "bass", "other")
    """One network output each, in this order."""
    residual: str | None = None
    """Name of one more stem: what the targets leave of the mixture, taken part in the filter."""
    frame_samples: int = 4096
    hop_samples: int = 1024
    padding: Literal["reflect", "zeros"] = "reflect"
    """What lies beyond the ends of the signal."""
    wiener_rule: Literal["norbert", "open_unmix", "sony"] = "norbert"
    wiener_iterations: int = 1
    """0: the estimates take the mixture's phase (or, with softmask, their share of it)."""
    wiener_softmask: bool = False
    wiener_window_frames: int | None = 300
    """Frames over which the filter's statistics are taken; None (0 on a card): all frames given."""
    wiener_epsilon: float | None = None
    """What the filter's regularisation starts from; None: the rule's own."""
    sample_rate: int = 44100
    channels: int = 2

    def __post_init__(self) -> None:
        if self.frame_samples % self.hop_samples:
            raise ValueError(f"hop_samples ({self.hop_samples}) must divide frame_samples ({self.frame_samples})")
        if not 16 <= self.frame_samples <= 65536:
            raise ValueError(f"frame_samples is {self.frame_samples}; expected 16 to 65536")
        if self.wiener_iterations < 0 or (self.wiener_window_frames or 1) < 1:
            raise ValueError("wiener_iterations is 0 or more, wiener_window_frames 1 or more or None")
        if self.wiener_epsilon is not None and not 0 < self.wiener_epsilon < 1:
            raise ValueError(f"wiener_epsilon is between 0 and 1, such as 1e-10, or None; got {self.wiener_epsilon}")
        stems = self.stems
        if len(set(stems)) != len(stems) or not self.targets:
            raise ValueError(f"targets and residual must be different names, one target at least; got {stems}")

    def _refuse_a_lone_filter(self) -> None:
        """For systems whose filter is told all sources: given one alone it would hand it the whole mixture."""
        if len(self.stems) < 2 and self.wiener_iterations:
            raise ValueError(
                f"the filter cannot share the mixture among {self.stems} alone; name a residual, or set "
                "wiener_iterations to 0"
            )

    @property
    def stems(self) -> tuple[str, ...]:
        """Targets, then the residual."""
        return (*self.targets, self.residual) if self.residual else self.targets

    @property
    def bins(self) -> int:
        """Of a spectrum."""
        return self.frame_samples // 2 + 1


class MagnitudeSeparator(SeparationModel):
    """Everything but the networks.

    Subclasses fill `networks` with one module per target, magnitudes ``[B, C, frames, bins]`` -> the same, or override
    `estimate` where targets are computed together.

    Args:
        config: a Config of the subclass.
        independent: True where each target's network runs by itself.
        segment_seconds: length of the engine's segments.
    """

    window: Tensor
    config: MagnitudeConfig
    networks: nn.ModuleDict

    def __init__(
        self,
        config: MagnitudeConfig,
        *,
        independent: bool = True,
        segment_seconds: float = 30.0,
    ):
        super().__init__()
        self.config = config
        self.register_buffer("window", hann(config.frame_samples), persistent=False)
        self._independent = independent and config.wiener_iterations == 0 and not config.wiener_softmask
        grid = config.hop_samples * (config.wiener_window_frames or 1)
        self.spec = ModelSpec(
            stems=config.stems,
            sample_rate=config.sample_rate,
            channels=config.channels,
            start_grid_samples=grid,
            default_segment_seconds=segment_seconds,
            couples=() if self._independent and not config.residual else (config.stems,),
            silence_to_silence=True,
        )

    def forward(self, mix: Tensor, track: TrackStatistics | None = None) -> Tensor:  # noqa: ARG002
        """``[B, C, T]`` -> ``[B, S, C, T]``."""
        spectra = centred_spectrum(mix, self.window, self.config.hop_samples, self.config.padding)
        magnitudes = self.estimate(spectra.abs())
        stems = torch.stack([self.filtered(m, s) for m, s in zip(magnitudes, spectra, strict=True)])
        return centred_signal(stems, self.window, self.config.hop_samples, mix.shape[-1])

    def estimate(self, magnitudes: Tensor) -> Tensor:
        """The targets' magnitudes: ``[B, C, frames, bins]`` of the mixture -> ``[B, S, C, frames, bins]``."""
        return torch.stack([network(magnitudes) for network in self.networks.values()], 1)

    def filtered(self, magnitudes: Tensor, mix: Tensor) -> Tensor:
        """Complex stems of one song: ``[S, C, frames, bins]``, ``[C, frames, bins]`` -> ``[S', C, frames, bins]``."""
        config = self.config
        rule = WienerRule[config.wiener_rule.upper()]
        window = config.wiener_window_frames or mix.shape[1]
        parts = [
            wiener(
                m,
                x,
                iterations=config.wiener_iterations,
                use_softmask=config.wiener_softmask,
                residual=config.residual is not None,
                rule=rule,
                eps=config.wiener_epsilon,
            )
            for m, x in zip(torch.split(magnitudes, window, 2), torch.split(mix, window, 1), strict=True)
        ]
        return torch.cat(parts, 2)

    def narrowed(self, stems: tuple[str, ...]) -> SeparationModel:
        """The same system with the networks of `stems` only, where these need no others."""
        targets = tuple(target for target in self.config.targets if target in stems)
        if not self._independent or self.config.residual or targets == self.config.targets:
            return self
        # A view: it shares the networks that it has.
        view = copy.copy(self)
        view._modules = dict(self._modules)
        view.networks = nn.ModuleDict({target: self.networks[target] for target in targets})
        view.spec = ModelSpec(**{**self.spec.__dict__, "stems": targets})
        return view
