"""UHL1 and UHL2: recurrent networks on magnitude spectra, blended, then a Wiener filter. A reconstruction.

Papers: S. Uhlich, M. Porcu, F. Giron, M. Enenkl, T. Kemp, N. Takahashi, Y. Mitsufuji, "Improving music source
separation based on deep neural networks through data augmentation and network blending", ICASSP 2017; a feed-forward
predecessor: S. Uhlich, F. Giron, Y. Mitsufuji, "Deep neural network based instrument extraction from music",
ICASSP 2015. The systems are entries of SiSEC 2018, described in github sigsep/sigsep-mus-2018 at aef77eb,
``submissions/{UHL1,UHL2}/description.md``. Neither code nor weights were ever released; below, *paper* is what these
descriptions and the papers' abstracts say, *inferred* is our choice, so no figure of theirs can be expected of ours.

The sources disagree about the blend, so it is a setting:

===================  ===============================================================================================
``uhl1``             one recurrent network per target (SiSEC 2018)
``uhl2``             the mean of two such sets of networks, trained from different seeds (SiSEC 2018)
``uhl2-icassp2017``  a recurrent and a feed-forward network per target, combined linearly (ICASSP 2017)
``uhl-fnn``          the feed-forward networks alone (ICASSP 2017)
===================  ===============================================================================================

Shapes: waveform ``[B, C, T]`` -> magnitudes ``[B, C, frames, bins]``, both channels in one vector per frame, each bin
normalised (*inferred*) -> per target, networks that each put out magnitudes -> their weighted sum, *before* the filter
(*paper*) -> multichannel Wiener filter with powers and spatial covariances from these estimates (*paper*, after
A. A. Nugraha, A. Liutkus, E. Vincent, "Multichannel music separation with deep neural networks", EUSIPCO 2016)
-> ``[B, S, C, T]``. All parameters of a target: 13,773,392 (``uhl1``), 27,546,784 (``uhl2``), 51,173,284
(``uhl2-icassp2017``), 37,399,892 (``uhl-fnn``); nobody published theirs.

SDR of UHL2 on MUSDB18 (museval, medians) as later papers quote it, not checked at its source: vocals 5.93, drums
5.92, bass 5.03, other 4.19.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iseparate.models._magnitude import MagnitudeConfig, MagnitudeSeparator
from iseparate.models._registry import register

Kind = Literal["recurrent", "feed_forward"]


@dataclass(frozen=True, kw_only=True)
class Config(MagnitudeConfig):
    """Hyper-parameters. The defaults are UHL1's; frame, hop and the filter are the base's (*paper*: 4096, 1024)."""

    blend: tuple[Kind, ...] = ("recurrent",)
    """The networks of each target (*paper*)."""
    blend_weights: tuple[float, ...] = (1.0,)
    """Of their outputs: 1/2 each for UHL2 (*paper*); 3/4 and 1/4 for ICASSP 2017 (*inferred*)."""
    recurrent_layers: int = 3
    """Bidirectional LSTM layers (*paper*)."""
    recurrent_cells: int = 500
    """Per layer (*paper*), of which either direction has half (*inferred*: the text gives one number per layer)."""
    dropout: float = 0.25
    """Between LSTM layers, in training (*paper*: there is one, tuned on 14 songs; its rate is *inferred*)."""
    feed_forward_layers: int = 3
    """Hidden ones (*inferred*), rectified linear (*paper*, 2015)."""
    feed_forward_units: int = 500
    """Per hidden layer (*inferred*)."""
    context_frames: int = 8
    """Frames to either side that the feed-forward network sees beside the one it estimates (*inferred*)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.blend or len(self.blend) != len(self.blend_weights):
            raise ValueError(
                f"blend names {len(self.blend)} networks and blend_weights has {len(self.blend_weights)} numbers; "
                "expected one number for each network, and one network at least"
            )
        if abs(sum(self.blend_weights) - 1) > 1e-6:
            raise ValueError(f"blend_weights is {self.blend_weights}; expected numbers that sum to 1")
        sizes = (self.recurrent_layers, self.recurrent_cells, self.feed_forward_layers, self.feed_forward_units)
        if min(sizes) < 1 or self.recurrent_cells % 2 or self.context_frames < 0:
            raise ValueError(
                "layers, cells and units are 1 or more, recurrent_cells even, context_frames 0 or more; got "
                f"{', '.join(map(str, sizes))} and {self.context_frames}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; expected a share in [0, 1)")
        self._refuse_a_lone_filter()

    @classmethod
    def tiny(cls) -> Config:
        """Both kinds of network, small enough to run in milliseconds, for tests."""
        return cls(
            targets=("vocals", "drums", "bass"),
            blend=("recurrent", "feed_forward"),
            blend_weights=(0.75, 0.25),
            frame_samples=64,
            hop_samples=16,
            wiener_window_frames=20,
            recurrent_cells=8,
            feed_forward_units=8,
            context_frames=2,
        )


class RecurrentNetwork(nn.Module):
    """Bidirectional LSTM layers and one linear layer: ``[B, frames, C * bins]``, normalised -> the same shape."""

    def __init__(self, config: Config):
        super().__init__()
        size = config.channels * config.bins
        self.lstm = nn.LSTM(
            size,
            config.recurrent_cells // 2,
            config.recurrent_layers,
            batch_first=True,
            bidirectional=True,
            dropout=config.dropout if config.recurrent_layers > 1 else 0.0,
        )
        self.output = nn.Linear(config.recurrent_cells, size)

    def forward(self, x: Tensor) -> Tensor:
        estimate: Tensor = self.output(self.lstm(x)[0])
        return estimate


class FeedForwardNetwork(nn.Module):
    """Dense layers over a frame and its neighbours: ``[B, frames, C * bins]``, normalised -> the same shape.

    The first layer is written as a convolution over frames: the same sums, without a copy of each frame for every
    neighbour that sees it. Before the first frame and after the last, all bins are at their mean (*inferred*).
    """

    def __init__(self, config: Config):
        super().__init__()
        size, units = config.channels * config.bins, config.feed_forward_units
        self.context = nn.Conv1d(size, units, 2 * config.context_frames + 1, padding=config.context_frames)
        widths = [units] * config.feed_forward_layers
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))
        self.output = nn.Linear(units, size)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.context(x.transpose(1, 2))).transpose(1, 2)
        for layer in self.hidden:
            x = F.relu(layer(x))
        estimate: Tensor = self.output(x)
        return estimate


_KINDS = {"recurrent": RecurrentNetwork, "feed_forward": FeedForwardNetwork}


class BlendedNetwork(nn.Module):
    """One target's magnitudes from the mixture's: ``[B, C, frames, bins]`` -> the same shape.

    Each network has its own normalisation, since each was trained by itself, and its own rectifier: what is blended
    are magnitudes (*paper*: the raw outputs).
    """

    def __init__(self, config: Config):
        super().__init__()
        self.channels, self.weights = config.channels, config.blend_weights
        self.networks = nn.ModuleList(_KINDS[kind](config) for kind in config.blend)
        # Of the training set: the negated mean and the inverse deviation of mixtures, the deviation of targets.
        shape = len(config.blend), config.channels, 1, config.bins
        self.input_mean = nn.Parameter(torch.zeros(shape))
        self.input_scale = nn.Parameter(torch.ones(shape))
        self.output_scale = nn.Parameter(torch.ones(shape))

    def scale_input(self, mean: Tensor, deviation: Tensor) -> None:
        """See `iseparate.models._magnitude.ScalesItsInput`; outputs start at the mixtures' scale (*inferred*)."""
        self.input_mean.copy_(-mean)
        self.input_scale.copy_(1 / deviation)
        self.output_scale.copy_(deviation)

    def forward(self, magnitudes: Tensor) -> Tensor:
        blended = torch.zeros_like(magnitudes)
        for i, (network, weight) in enumerate(zip(self.networks, self.weights, strict=True)):
            x = (magnitudes + self.input_mean[i]) * self.input_scale[i]
            y = network(x.transpose(1, 2).flatten(2)).unflatten(2, (self.channels, -1)).transpose(1, 2)
            blended = blended + weight * F.relu(y * self.output_scale[i])
        return blended


@register(
    "uhl",
    config=Config,
    paper="Uhlich et al., ICASSP 2017, https://doi.org/10.1109/ICASSP.2017.7952158",
    domain="spectrogram",
    reconstruction=True,
    published={
        "uhl1": Config(),
        "uhl2": Config(blend=("recurrent", "recurrent"), blend_weights=(0.5, 0.5)),
        "uhl2-icassp2017": Config(blend=("recurrent", "feed_forward"), blend_weights=(0.75, 0.25)),
        "uhl-fnn": Config(blend=("feed_forward",)),
    },
)
class Uhl(MagnitudeSeparator):
    """Spectra, a blend of networks per target, the Wiener filter, and back."""

    config: Config

    def __init__(self, config: Config):
        window_seconds = config.hop_samples * (config.wiener_window_frames or 300) / config.sample_rate
        super().__init__(config, segment_seconds=4 * window_seconds)
        # The networks put out magnitudes of their own, so without the filter nothing holds them to the mixture's.
        silent = config.wiener_iterations > 0 or config.wiener_softmask
        self.spec = replace(self.spec, silence_to_silence=silent)
        self.networks = nn.ModuleDict({target: BlendedNetwork(config) for target in config.targets})
        self.kernels = tuple(f"networks.{target}" for target in config.targets)
