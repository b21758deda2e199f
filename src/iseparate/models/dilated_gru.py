"""Dilated convolution with dilated GRU ("GRU dilation 1"): one network for all targets on magnitude spectra.

Paper: J.-Y. Liu, Y.-H. Yang, "Dilated convolution with dilated GRU for music source separation", IJCAI 2019 (arXiv
1906.01203). Neither code nor weights were found, and only excerpts of the text were at hand: this is a
*reconstruction*, and nothing could be compared with the original.

Shapes: magnitudes ``[B, C, frames, bins]`` -> a sequence of ``C * bins`` features per frame -> `width` features ->
blocks -> ``[B, S, C, frames, bins]``, every target's magnitudes at once; then a Wiener filter.

Hyper-parameters:
- *paper*: magnitudes in, all targets' magnitudes out at once; a stack of blocks, each of dilated convolutions along
  time, grouped and weight-normalised, with leaky ReLUs, and after them a GRU whose hidden state comes from `k` frames
  back; k = 1, a plain GRU, in the system of this name; a skip from a block's input to its output.
- *inferred*: widths, number of blocks, layers, kernel, dilations and groups; both channels as one frame's features; the
  GRU runs in both directions, and its output, the convolutions' and the block's input are added up; 1x1 convolutions
  first and last, the latter rectified; frames of 4096 samples every 1024; the filter.

Printed elsewhere, nothing measured here: SDR in dB of vocals, drums, bass, other on MUSDB18, 6.85, 5.86, 4.86, 4.65
(paper, from memory).

The state of a GRU of dilation k meets only every k-th frame, so k interleaved sequences run side by side as one batch.
The context is unbounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from iseparate.models._magnitude import MagnitudeConfig, MagnitudeSeparator
from iseparate.models._registry import register


@dataclass(frozen=True, kw_only=True)
class Config(MagnitudeConfig):
    """Hyper-parameters; "GRU dilation 1" by default. Numbers are *inferred*, `gru_dilation` is the *paper*'s."""

    width: int = 1024
    """Features per frame within the blocks."""
    blocks: int = 3
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Of each block's convolutions."""
    kernel: int = 3
    """Taps of each, odd."""
    groups: int = 8
    """Into which each convolution's features are divided."""
    gru_dilation: int = 1
    """How many frames back a GRU's hidden state comes from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.width, self.blocks, self.groups, self.gru_dilation, *self.dilations, self.kernel) < 1:
            raise ValueError("width, blocks, groups, kernel and dilations are 1 or more")
        if not self.dilations or max(self.blocks, len(self.dilations), self.kernel) > 64:
            raise ValueError("there is one dilation or more; blocks, dilations per block and taps are at most 64")
        if not self.kernel % 2:
            raise ValueError(f"kernel is {self.kernel}; expected an odd number of taps, so that they are centred")
        if self.width % math.lcm(self.groups, 2):
            raise ValueError(f"width is {self.width}; it must be a multiple of 2 and of groups ({self.groups})")

    @property
    def reach_frames(self) -> int:
        """How far to either side an output frame sees through the convolutions alone."""
        return self.blocks * sum(self.dilations) * (self.kernel // 2)

    @classmethod
    def tiny(cls) -> Config:
        """A network of the same shape that runs in milliseconds, for tests."""
        return cls(
            targets=("vocals", "other"),
            width=8,
            blocks=2,
            dilations=(1, 2),
            groups=2,
            gru_dilation=3,
            frame_samples=128,
            hop_samples=32,
            wiener_window_frames=8,
        )


class DilatedGru(nn.Module):
    """A GRU in both directions whose hidden state comes from `dilation` steps away: ``[B, T, n]`` -> ``[B, T, n]``.

    Beyond the ends of the sequence the state is zero.
    """

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.dilation = dilation
        self.ahead = nn.GRU(width, width // 2, batch_first=True)
        self.back = nn.GRU(width, width // 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        # Each direction's padding comes after its last step, where no state can carry it into the result.
        back = self._run(self.back, x.flip(1)).flip(1)
        return torch.cat([self._run(self.ahead, x), back], -1)

    def _run(self, gru: nn.GRU, x: Tensor) -> Tensor:
        batch, steps, width = x.shape
        k = self.dilation
        lanes = F.pad(x, (0, 0, 0, -steps % k)).reshape(batch, -1, k, width).transpose(1, 2).flatten(0, 1)
        # In bf16 a CPU's GRU is an order of magnitude slower than in fp32, and a long recurrence gathers its roundings.
        with torch.autocast(x.device.type, enabled=False):
            states: Tensor = gru(lanes.to(next(gru.parameters()).dtype))[0]
        states = states.reshape(batch, k, -1, states.shape[-1]).transpose(1, 2).flatten(1, 2)
        return states[:, :steps]


class Block(nn.Module):
    """Dilated convolutions, then a dilated GRU: ``[B, width, T]`` -> ``[B, width, T]``."""

    def __init__(self, config: Config):
        super().__init__()
        self.convs = nn.ModuleList(
            weight_norm(
                nn.Conv1d(
                    config.width,
                    config.width,
                    config.kernel,
                    dilation=dilation,
                    padding=dilation * (config.kernel // 2),
                    groups=config.groups,
                )
            )
            for dilation in config.dilations
        )
        self.gru = DilatedGru(config.width, config.gru_dilation)

    def forward(self, x: Tensor) -> Tensor:
        heard = x
        for conv in self.convs:
            heard = F.leaky_relu(conv(heard), 0.01)
        recurrent: Tensor = self.gru(heard.transpose(1, 2))
        return x + heard + recurrent.transpose(1, 2)


class DilatedGruNetwork(nn.Module):
    """All targets' magnitudes from the mixture's: ``[B, C, frames, bins]`` -> ``[B, S, C, frames, bins]``."""

    def __init__(self, config: Config):
        super().__init__()
        self.outputs = (len(config.targets), config.channels)
        features = config.channels * config.bins
        self.first = weight_norm(nn.Conv1d(features, config.width, 1))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.last = weight_norm(nn.Conv1d(config.width, len(config.targets) * features, 1))

    def forward(self, magnitudes: Tensor) -> Tensor:
        x = F.leaky_relu(self.first(magnitudes.transpose(2, 3).flatten(1, 2)), 0.01)
        for block in self.blocks:
            x = block(x)
        batch, _, frames, bins = magnitudes.shape
        return F.relu(self.last(x)).view(batch, *self.outputs, bins, frames).transpose(3, 4)


@register(
    "dilated_gru",
    config=Config,
    paper="Liu, Yang, IJCAI 2019, https://arxiv.org/abs/1906.01203",
    domain="spectrogram",
    published={"gru-dilation-1": Config()},
    reconstruction=True,
)
class DilatedGruSeparator(MagnitudeSeparator):
    """Spectra, the network, a Wiener filter, and back."""

    kernels: tuple[str, ...] = ("network",)
    config: Config

    def __init__(self, config: Config):
        super().__init__(config, independent=False)
        self.network = DilatedGruNetwork(config)
        # The network adds its biases to silence; only the filter takes them away again.
        silent = config.wiener_softmask or config.wiener_iterations > 0
        self.spec = replace(self.spec, silence_to_silence=silent)

    def estimate(self, magnitudes: Tensor) -> Tensor:
        """The targets' magnitudes: ``[B, C, frames, bins]`` of the mixture -> ``[B, S, C, frames, bins]``."""
        estimates: Tensor = self.network(magnitudes)
        return estimates
