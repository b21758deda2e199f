"""Networks that estimate each target's magnitude spectrum: what they share around the network.

Waveform -> centred spectra -> magnitudes -> one estimate per target -> Wiener filter -> waveforms. Open-Unmix, X-UMX,
D3Net, MMDenseNet and their kin differ in the network, in framing and in the filter, all of which their Config says.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iseparate.errors import UsageError
from iseparate.models._base import SeparationModel
from iseparate.nn.stft import centred_signal, centred_spectrum, hann, overlap_frames
from iseparate.nn.wiener import WienerRule, wiener, wiener_in_blocks
from iseparate.types import ModelSpec, TrackStatistics, TwoPass

_FRAMES_AT_A_TIME = 64
"""That leave `MagnitudeSeparator.analyse` together; it changes memory only."""


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


@runtime_checkable
class ScalesItsInput(Protocol):
    """A network that normalises each bin before it looks."""

    def scale_input(self, mean: Tensor, deviation: Tensor) -> None:
        """Take the training mixtures' mean and deviation, ``[bins]``; those of bins it does not see are left out."""


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

    @property
    def trained_stems(self) -> tuple[str, ...]:
        return self.config.targets

    @property
    def input_transform(self) -> tuple[int, int] | None:
        scaled = any(isinstance(module, ScalesItsInput) for module in self.modules())
        return (self.config.frame_samples, self.config.hop_samples) if scaled else None

    @torch.no_grad()
    def set_input_statistics(self, mean: Tensor, deviation: Tensor) -> None:
        networks = [module for module in self.modules() if isinstance(module, ScalesItsInput)]
        if not networks:
            super().set_input_statistics(mean, deviation)
        bins = self.config.bins
        if mean.shape != (bins,) or deviation.shape != (bins,) or not (deviation > 0).all():
            raise UsageError(
                f"statistics of {list(mean.shape)} and {list(deviation.shape)} bins came; expected a mean and a "
                f"deviation above 0 for each of {bins}"
            )
        for network in networks:
            network.scale_input(mean, deviation)

    def estimate_in_training(self, magnitudes: Tensor) -> Tensor:
        """As `estimate`; for subclasses that go over a song in a way that excerpts do not call for."""
        return self.estimate(magnitudes)

    def training_loss(self, mix: Tensor, stems: Tensor, criterion: nn.Module) -> dict[str, Tensor]:
        """As the base. Waveforms are the estimates with the mixture's phase: the filter is not trained through."""
        config = self.config
        if criterion.domain not in ("waveform", "magnitude", "both"):
            return super().training_loss(mix, stems, criterion)
        spectra = centred_spectrum(mix, self.window, config.hop_samples, config.padding)
        # In half precision a sum of squares over a spectrum soon is infinite.
        estimates = self.estimate_in_training(spectra.abs())[:, : len(config.targets)].float()
        truth = None
        if criterion.domain != "waveform":
            truth = centred_spectrum(stems.flatten(0, 1), self.window, config.hop_samples, config.padding)
            truth = truth.abs().view(*stems.shape[:2], *truth.shape[1:])
        if criterion.domain == "magnitude":
            return {"loss": criterion(estimates, truth, spectra.abs())}
        phased = estimates * torch.sgn(spectra)[:, None]
        waveforms = centred_signal(phased, self.window, config.hop_samples, mix.shape[-1])
        if criterion.domain == "both":
            parts: dict[str, Tensor] = criterion.of_both(waveforms, stems, estimates, truth, mix)  # type: ignore[operator]
            return parts
        return {"loss": criterion(waveforms, stems, mix)}

    def estimate(self, magnitudes: Tensor) -> Tensor:
        """The targets' magnitudes: ``[B, C, frames, bins]`` of the mixture -> ``[B, S, C, frames, bins]``."""
        return torch.stack([network(magnitudes) for network in self.networks.values()], 1)

    def filtered(self, magnitudes: Tensor, mix: Tensor) -> Tensor:
        """Complex stems of one song: ``[S, C, frames, bins]``, ``[C, frames, bins]`` -> ``[S', C, frames, bins]``."""
        window = self.config.wiener_window_frames or mix.shape[1]
        windows = zip(torch.split(magnitudes, window, 2), torch.split(mix, window, 1), strict=True)
        return torch.cat([wiener(m, x, **self.filter_settings()) for m, x in windows], 2)

    def filter_settings(self) -> dict[str, Any]:
        """Arguments of the Wiener filter."""
        config = self.config
        return {
            "iterations": config.wiener_iterations,
            "use_softmask": config.wiener_softmask,
            "residual": config.residual is not None,
            "rule": WienerRule[config.wiener_rule.upper()],
            "eps": config.wiener_epsilon,
        }

    def _two_pass(self, context_samples: int, estimates: int) -> TwoPass:
        """For subclasses whose filter takes its statistics from the whole song: what ``spec.two_pass`` says.

        Args:
            context_samples: how far the networks see.
            estimates: magnitudes that `estimate` makes.
        """
        config = self.config
        values = (2 + estimates) * config.channels * config.bins  # a complex spectrum is two
        return TwoPass(config.hop_samples, values, context_samples)

    def analyse(self, mix: Tensor, start: int, stop: int) -> Iterator[Tensor]:
        """A frame is the mixture's spectrum, then the estimates."""
        spectra = centred_spectrum(mix, self.window, self.config.hop_samples, self.config.padding)
        magnitudes = self.estimate(spectra.abs())
        for first in range(start, stop, _FRAMES_AT_A_TIME):
            part = slice(first, min(first + _FRAMES_AT_A_TIME, stop))
            mixture = torch.view_as_real(spectra[:, :, part]).transpose(1, 2)
            estimates = magnitudes[:, :, :, part].permute(0, 3, 1, 2, 4)
            yield torch.cat([mixture.flatten(2), estimates.flatten(2)], -1)

    def synthesise(self, read: Callable[[], Iterable[Tensor]], samples: int) -> Iterator[Tensor]:
        """The filter and the inverse transform, as in `forward`, block by block."""
        channels, bins = self.config.channels, self.config.bins

        def spectra() -> Iterator[tuple[Tensor, Tensor]]:
            for frames in read():
                mixture, magnitudes = frames.tensor_split([2 * channels * bins], -1)
                mixture = mixture.reshape(-1, channels, bins, 2).transpose(0, 1).contiguous()
                magnitudes = magnitudes.reshape(len(frames), -1, channels, bins).permute(1, 2, 0, 3)
                yield magnitudes, torch.view_as_complex(mixture)

        filtered = wiener_in_blocks(spectra, **self.filter_settings())
        yield from _centred_signal_in_blocks(filtered, self.window, self.config.hop_samples, samples)

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


def _centred_signal_in_blocks(
    blocks: Iterable[Tensor], window: Tensor, hop_samples: int, samples: int
) -> Iterator[Tensor]:
    """As `centred_signal`, of spectra ``[..., frames, bins]`` that come a few frames at a time."""
    ones = torch.fft.rfft(window)
    tail: Tensor | None = None  # the last frames' signal and weight, to which the next ones add
    position = -(len(window) // 2)

    def inside(both: Tensor, start: int) -> Tensor:
        part = both[:, max(0, -start) : max(0, samples - start)]
        return part[:-1] / part[-1].clamp_min(1e-11)

    for spectra in blocks:
        count = spectra.shape[-2]
        summed = overlap_frames(spectra, window, hop_samples)
        weight = overlap_frames(ones.expand(count, -1), window, hop_samples)
        both = torch.cat([summed.flatten(0, -2), weight[None]])
        if tail is not None:
            both[:, : tail.shape[-1]] += tail
        done, tail = both.tensor_split([count * hop_samples], -1)
        yield inside(done, position).reshape(*spectra.shape[:-2], -1)
        position += count * hop_samples
    if tail is not None:
        missing = max(0, samples - position - tail.shape[-1])
        yield F.pad(inside(tail, position), (0, missing)).reshape(*spectra.shape[:-2], -1)
