"""MMDenseNet and MMDenseLSTM: multi-scale, multi-band dense networks on magnitude spectra, one per target.

Papers: N. Takahashi, Y. Mitsufuji, "Multi-scale multi-band DenseNets for audio source separation", WASPAA 2017
(arXiv 1706.09588); N. Takahashi, N. Goswami, Y. Mitsufuji, "MMDenseLSTM: an efficient combination of convolutional
and recurrent neural networks for audio source separation", IWAENC 2018 (arXiv 1805.02410), entered in SiSEC 2018 as
TAK1. Their authors never released code.
Reference code: github tky823/DNN-based_source_separation at 8663d6f, ``src/models/mm_densenet.py``,
``mm_dense_rnn.py``, ``m_densenet.py``, ``dense_rnn.py`` (licence not stated): a community re-implementation, not the
authors' own. Both systems are therefore *reconstructions*: equality with the goldens proves the same reading of the
papers, no more.

Shapes: magnitudes ``[B, C, frames, bins]`` -> affine per bin -> each band and the full spectrum through a small U-Net
of dense blocks -> the bands side by side in frequency, the full spectrum's features beside them -> a last dense
block, normalisation, a gated 1x1 convolution, affine per bin, ReLU -> ``[B, C, frames, bins]``.

A dense block is written the way Sony's D3Net code and the reference code have it: each layer computes its part of
the input of all later layers in one convolution, and the parts are summed; so layer i's normalisation sees the sum,
and the block's output is the last layer's part alone. A network with an LSTM squeezes a block's channels to one, runs
along time over the bins, and sets the outcome beside the dense block's output as one more channel.

Hyper-parameters (`MMDENSENET`, `TAK1`): bands, widths, depths, LSTM sizes, kernel sizes, the dilated last block, the
epsilon 1e-12 of normalisations and of the filter, average pooling: *code (community)*. One network per target, frames
of 4096 samples every 1024, LSTMs of at most 128 cells, a multichannel Wiener filter: *paper* (SiSEC 2018
description). Number of EM steps and the filter's windows: *inferred*.

Parameters: MMDenseNet 339,468 (paper: 0.33 M, from memory), MMDenseLSTM 1,370,784 (paper: 1.22 M, from memory).
Printed elsewhere, nothing measured here: SDR in dB of vocals, drums, bass, other on MUSDB18: TAK1 6.60, 6.41, 5.16,
4.15 (table of Meta-TasNet's paper, arXiv 2002.07016); the community's weights 6.87, 6.22, 4.80, 4.43 (their README).

Deviations: the filter's statistics are taken over windows of 304 frames, not over the whole song as in the reference
code (`wiener_window_frames` None). Without an LSTM the context is finite; 304 is a multiple of the pooling, so a song
in segments comes out as in one pass, at the price of reading up to 14 s around a segment. With one it is unbounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from iseparate.errors import CheckpointError
from iseparate.models._magnitude import MagnitudeConfig, MagnitudeSeparator
from iseparate.models._registry import register
from iseparate.types import Checkpoint, CheckpointFile

LstmPlace = Literal["parallel", "after", "before"]

_EPSILON = 1e-12
"""Of normalisations, of the input's scale, and of the filter."""


@dataclass(frozen=True)
class Band:
    """A U-Net of dense blocks over some of the bins: as many blocks down as up, one at the bottom between them."""

    bins: int
    features: int
    """Channels of the first convolution."""
    growth: tuple[int, ...]
    """Channels that a layer of each block adds, and the block's output; 0 at a bottom that is an LSTM alone."""
    depth: tuple[int, ...]
    """Layers of each block."""
    lstm_cells: tuple[int, ...] = ()
    """Cells per direction beside each block, 0 for none; at the bottom and on the way up only. Empty: none at all."""
    kernel: tuple[int, int] = (3, 3)
    """Frames and bins."""

    def __post_init__(self) -> None:
        blocks = len(self.growth)
        if blocks < 3 or blocks % 2 == 0:
            raise ValueError(f"a band has 3 blocks, 5, 7 or so, half down and half up; got {blocks}")
        if len(self.depth) != blocks or len(self.lstm_cells) not in (0, blocks):
            raise ValueError(
                f"growth is of {blocks} blocks, but depth of {len(self.depth)} and lstm_cells of {len(self.lstm_cells)}"
            )
        if min(self.bins, self.features, *self.kernel) < 1 or min(*self.growth, *self.depth, *self.cells) < 0:
            raise ValueError("a band's bins, features and kernel are 1 or more, and no other number is negative")
        _refuse_excess(blocks, *self.depth, *self.kernel)
        bottom = blocks // 2
        if any(self.cells[:bottom]) or self.cells[-1]:
            raise ValueError("an LSTM stands at the bottom of a band or on its way up, but not in its last block")
        for i, (growth, depth, cells) in enumerate(zip(self.growth, self.depth, self.cells, strict=True)):
            alone = i == bottom and cells > 0 and growth == depth == 0
            if not alone and min(growth, depth) < 1:
                raise ValueError("growth and depth of a block are 1 or more, or both 0 at a bottom that has an LSTM")

    @property
    def cells(self) -> tuple[int, ...]:
        """Of the LSTMs, one number per block."""
        return self.lstm_cells or (0,) * len(self.growth)

    @property
    def halvings(self) -> int:
        """How often frames and bins are halved on the way down."""
        return len(self.growth) // 2

    @property
    def reach_frames(self) -> int:
        """How far to either side, at most, an output frame can see through the convolutions."""
        per_layer = self.kernel[0] // 2
        levels = [*range(self.halvings), self.halvings, *reversed(range(self.halvings))]
        through_blocks: int = sum(depth * per_layer << level for depth, level in zip(self.depth, levels, strict=True))
        return per_layer + through_blocks + (1 << self.halvings) - 1


@dataclass(frozen=True)
class Network:
    """Hyper-parameters of one target's network."""

    bands: tuple[Band, ...]
    """From the lowest bins up; they abut."""
    full: Band
    """Over the bins of all bands."""
    growth: int
    """Of the last dense block."""
    depth: int
    kernel: tuple[int, int]
    """Frames and bins."""
    dilated: bool = False
    """Whether layer i of the last dense block is dilated by 2 to the power of i."""
    lstm_place: LstmPlace = "after"
    """Whether an LSTM hears the output of its dense block, its input, or comes before it."""

    def __post_init__(self) -> None:
        bins = sum(band.bins for band in self.bands)
        if not self.bands or bins != self.full.bins:
            raise ValueError(f"the bands have {bins} bins together, and full has {self.full.bins}; expected the same")
        if min(self.growth, self.depth, *self.kernel) < 1:
            raise ValueError("growth, depth and kernel of the last block are 1 or more")
        _refuse_excess(len(self.bands), self.depth, *self.kernel)

    @property
    def recurrent(self) -> bool:
        """True where there is an LSTM."""
        return any(any(band.cells) for band in (*self.bands, self.full))

    @property
    def halvings(self) -> int:
        """The most of any band."""
        return max(band.halvings for band in (*self.bands, self.full))

    @property
    def reach_frames(self) -> int:
        """How far to either side, at most, an output frame can see through the convolutions."""
        dilations = (1 << i if self.dilated else 1 for i in range(self.depth))
        last = sum(dilation * (self.kernel[0] - 1) - dilation * (self.kernel[0] - 1) // 2 for dilation in dilations)
        return last + max(band.reach_frames for band in (*self.bands, self.full))


def _refuse_excess(*counts: int) -> None:
    """Of layers, blocks and taps, before a hostile file has any built."""
    if max(counts) > _MOST:
        raise ValueError(f"a network has at most {_MOST} bands, blocks, layers per block and taps; got {max(counts)}")


_MOST = 24

MMDENSENET = Network(
    bands=(
        Band(512, 32, growth=(14, *(16,) * 6), depth=(4,) * 7, kernel=(3, 4)),
        Band(513, 32, growth=(10,) * 7, depth=(3,) * 7),
    ),
    full=Band(1025, 32, growth=(6,) * 7, depth=(2, 2, 2, 4, 2, 2, 2), kernel=(3, 4)),
    growth=4,
    depth=2,
    kernel=(1, 2),
)
"""MMDenseNet on frames of 2048 samples (*code (community)*: egs/musdb18/mm-densenet/config/paper/vocals.yaml)."""

TAK1 = Network(
    bands=(
        Band(380, 32, growth=(14,) * 7, depth=(5,) * 7, lstm_cells=(0, 0, 0, 64, 0, 64, 0)),
        Band(644, 32, growth=(4,) * 7, depth=(4,) * 7, lstm_cells=(0, 0, 0, 16, 0, 0, 0)),
        Band(1025, 32, growth=(2, 2, 0, 2, 2), depth=(1, 1, 0, 1, 1), lstm_cells=(0, 0, 4, 0, 0)),
    ),
    full=Band(2049, 8, growth=(7,) * 9, depth=(3, 3, 4, 5, 5, 5, 4, 3, 3), lstm_cells=(0, 0, 0, 0, 64, 0, 0, 64, 0)),
    growth=12,
    depth=3,
    kernel=(3, 3),
    dilated=True,
)
"""MMDenseLSTM, LSTMs after their dense blocks ("Sa") (*code (community)*: egs/musdb18/mm-dense-lstm/config)."""


@dataclass(frozen=True, kw_only=True)
class Config(MagnitudeConfig):
    """Networks, framing and filter; TAK1 by default."""

    networks: tuple[Network, ...] = (TAK1,)
    """One for all targets, or one for each in their order."""
    wiener_softmask: bool = True
    wiener_epsilon: float | None = _EPSILON
    wiener_window_frames: int | None = 304

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.networks) not in (1, len(self.targets)):
            raise ValueError(
                f"{len(self.networks)} networks for {len(self.targets)} targets; expected one, or one each"
            )
        most = max(network.full.bins for network in self.networks)
        if most > self.bins:
            raise ValueError(f"a network looks at {most} bins; a frame of {self.frame_samples} samples has {self.bins}")

    @property
    def of_target(self) -> dict[str, Network]:
        """Each target's network."""
        each = self.networks if len(self.networks) > 1 else self.networks * len(self.targets)
        return dict(zip(self.targets, each, strict=True))

    @classmethod
    def tiny(cls) -> Config:
        """A network of the same shape that runs in milliseconds, for tests."""
        network = Network(
            bands=(
                Band(20, 3, growth=(2, 2, 3), depth=(2, 1, 1), lstm_cells=(0, 3, 0)),
                Band(42, 2, growth=(2, 0, 2), depth=(1, 0, 2), lstm_cells=(0, 2, 0)),
            ),
            full=Band(62, 2, growth=(2, 2, 2, 2, 2), depth=(1, 1, 1, 2, 1), lstm_cells=(0, 0, 0, 3, 0)),
            growth=3,
            depth=2,
            kernel=(3, 3),
            dilated=True,
        )
        return cls(
            targets=("vocals", "other"), networks=(network,), frame_samples=128, hop_samples=32, wiener_window_frames=8
        )


class DenseBlock(nn.Module):
    """Densely connected layers: ``[B, in, frames, bins]`` -> ``[B, growth, frames, bins]``.

    Layer i normalises, rectifies and convolves its input into its part of the inputs of all later layers. In eval mode
    the normalisations but the first, which follow nothing but sums of convolutions, are taken over by these.
    """

    def __init__(self, channels: int, growth: int, depth: int, kernel: tuple[int, int], dilated: bool = False):
        super().__init__()
        self.growth = growth
        self.out_channels = growth
        inputs = (channels, *(growth,) * (depth - 1))
        self.norms = nn.ModuleList(_norm(c) for c in inputs)
        self.convs = nn.ModuleList(
            nn.Conv2d(c, growth * (depth - i), kernel, dilation=2**i if dilated else 1) for i, c in enumerate(inputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.norms[0](x))
        return self._train(x) if self.training else self._infer(x)

    def _train(self, x: Tensor) -> Tensor:
        parts = _convolved(x, self.convs[0])
        for norm, conv in zip(self.norms[1:], self.convs[1:], strict=True):
            x, parts = parts[:, : self.growth], parts[:, self.growth :]
            parts = _convolved(F.relu_(norm(x)), conv).add_(parts)
        return parts

    def _infer(self, x: Tensor) -> Tensor:
        folded = [_affine(norm) for norm in self.norms[1:]]
        one = x.new_ones(self.growth)
        gains = torch.cat([*(gain for gain, _ in folded), one])
        shifts = torch.cat([*(shift for _, shift in folded), torch.zeros_like(one)])
        parts = _convolved(x, self.convs[0], gains, shifts)
        for conv in self.convs[1:]:
            gains = gains[self.growth :]
            x, parts = parts[:, : self.growth].relu(), parts[:, self.growth :]
            parts = _convolved(x, conv, gains).add_(parts)
        return parts


class LstmBlock(nn.Module):
    """A dense block with an LSTM along time: ``[B, in, frames, bins]`` -> ``[B, out_channels, frames, bins]``."""

    def __init__(
        self, channels: int, growth: int, depth: int, cells: int, bins: int, kernel: tuple[int, int], place: LstmPlace
    ):
        super().__init__()
        self.place = place
        self.dense = DenseBlock(channels + (place == "before"), growth, depth, kernel) if depth else None
        self.squeeze = nn.Conv2d(growth if depth and place == "after" else channels, 1, 1)
        self.lstm = nn.LSTM(bins, cells, batch_first=True, bidirectional=True)
        self.expand = nn.Linear(2 * cells, bins)
        self.out_channels = growth + (place != "before" or not depth)

    def forward(self, x: Tensor) -> Tensor:
        if self.dense is None:
            return self._recurrent(x)
        if self.place == "before":
            features: Tensor = self.dense(torch.cat([x, self._recurrent(x)], 1))
            return features
        features = self.dense(x)
        return torch.cat([features, self._recurrent(features if self.place == "after" else x)], 1)

    def _recurrent(self, x: Tensor) -> Tensor:
        sequence, _ = self.lstm(self.squeeze(x)[:, 0])
        bins: Tensor = self.expand(sequence)
        return bins[:, None]


class Up(nn.Module):
    """Doubles frames and bins, and puts the skip behind: ``[B, c, h, w]``, ``[B, s, H, W]`` -> ``[B, c + s, H, W]``."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = _norm(channels)
        self.conv = nn.ConvTranspose2d(channels, channels, 2, stride=2)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.conv(self.norm(x))
        return torch.cat([x[:, :, : skip.shape[2], : skip.shape[3]], skip], 1)


class BandNetwork(nn.Module):
    """``[B, C, frames, band.bins]`` -> ``[B, out_channels, frames, band.bins]``."""

    def __init__(self, channels: int, band: Band, place: LstmPlace, out_channels: int):
        super().__init__()
        blocks = list(zip(band.growth, band.depth, band.cells, strict=True))
        bins = [band.bins]
        for _ in range(band.halvings):
            bins.append(-(-bins[-1] // 2))
        self.first = nn.Conv2d(channels, band.features, band.kernel)
        width, skips = band.features, []
        self.down = nn.ModuleList()
        for growth, depth, _ in blocks[: band.halvings]:
            self.down.append(DenseBlock(width, growth, depth, band.kernel))
            width = growth
            skips.append(growth)

        def block(channels: int, level: int, growth: int, depth: int, cells: int) -> DenseBlock | LstmBlock:
            if cells:
                return LstmBlock(channels, growth, depth, cells, bins[level], band.kernel, place)
            return DenseBlock(channels, growth, depth, band.kernel)

        self.bottom = block(width, band.halvings, *blocks[band.halvings])
        width = self.bottom.out_channels
        self.ups, self.up = nn.ModuleList(), nn.ModuleList()
        for level, spec in zip(reversed(range(band.halvings)), blocks[band.halvings + 1 :], strict=True):
            self.ups.append(Up(width))
            self.up.append(added := block(width + skips[level], level, *spec))
            width = added.out_channels
        matches = width != out_channels
        self.match_norm = _norm(width) if matches else None
        self.match = nn.Conv2d(width, out_channels, 1) if matches else None

    def forward(self, x: Tensor) -> Tensor:
        x = _convolved(x, self.first)
        skips = []
        for block in self.down:
            frames, bins = x.shape[2:]
            x = block(F.pad(x, (0, bins % 2, 0, frames % 2)) if frames % 2 or bins % 2 else x)
            skips.append(x[:, :, :frames, :bins])
            x = F.avg_pool2d(x, 2)
        x = self.bottom(x)
        for up, block in zip(self.ups, self.up, strict=True):
            x = block(up(x, skips.pop()))
        if self.match is None or self.match_norm is None:
            return x
        return _pointwise(x, self.match_norm, self.match)


class MMDenseNetwork(nn.Module):
    """One target's magnitudes from the mixture's: ``[B, C, frames, bins]`` -> the same.

    Bins above those of `config` pass through unchanged.
    """

    def __init__(self, config: Network, channels: int):
        super().__init__()
        self.config = config
        bins, place = config.full.bins, config.lstm_place
        width = max(band.growth[-1] for band in config.bands)
        self.bias_in, self.scale_in = nn.Parameter(torch.zeros(bins)), nn.Parameter(torch.ones(bins))
        self.bias_out, self.scale_out = nn.Parameter(torch.zeros(bins)), nn.Parameter(torch.ones(bins))
        self.bands = nn.ModuleList(BandNetwork(channels, band, place, width) for band in config.bands)
        self.full = BandNetwork(channels, config.full, place, config.full.growth[-1])
        self.last = DenseBlock(
            width + config.full.growth[-1], config.growth, config.depth, config.kernel, config.dilated
        )
        self.last_norm = _norm(config.growth)
        self.value = nn.Conv2d(config.growth, channels, 1)
        self.gate = nn.Conv2d(config.growth, channels, 1)

    def scale_input(self, mean: Tensor, deviation: Tensor) -> None:
        """See `iseparate.models._magnitude.ScalesItsInput`; the reference code starts from 0 and 1 instead."""
        bins = self.config.full.bins
        self.bias_in.copy_(mean[:bins])
        self.scale_in.copy_(deviation[:bins])

    def forward(self, magnitudes: Tensor) -> Tensor:
        bins = self.config.full.bins
        x = (magnitudes[..., :bins] - self.bias_in) / (self.scale_in.abs() + _EPSILON)
        parts = torch.split(x, [band.bins for band in self.config.bands], -1)
        bands = torch.cat([network(part) for network, part in zip(self.bands, parts, strict=True)], -1)
        x = self.last(torch.cat([bands, self.full(x)], 1))
        x = F.glu(_pointwise(x, self.last_norm, self.value, self.gate), 1)
        x = F.relu_(x * self.scale_out + self.bias_out)
        return x if bins == magnitudes.shape[-1] else torch.cat([x, magnitudes[..., bins:]], -1)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_EPSILON)


def _convolved(x: Tensor, conv: nn.Module, gains: Tensor | None = None, shifts: Tensor | None = None) -> Tensor:
    """Convolve with zeros around, so that the size stays; where it cannot be even, one more after than before.

    Gains and shifts are those of an affine map per channel that is to follow.
    """
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    weight, bias = conv.weight, conv.bias
    if gains is not None:
        weight, bias = weight * gains[:, None, None, None], bias * gains
    if shifts is not None:
        bias = bias + shifts
    spans = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    y = F.conv2d(x, weight, bias, 1, [span - span // 2 for span in spans], conv.dilation)
    # Padding alike on both sides and dropping a row is cheaper than a padded copy.
    odd_frames, odd_bins = (span % 2 for span in spans)
    return y[:, :, odd_frames:, odd_bins:] if odd_frames or odd_bins else y


def _pointwise(x: Tensor, norm: nn.BatchNorm2d, *convs: nn.Conv2d) -> Tensor:
    """Normalise, then 1x1 convolutions side by side; in eval mode all in one."""
    weight = torch.cat([conv.weight for conv in convs])
    bias = torch.cat([conv.bias for conv in convs if conv.bias is not None])
    if norm.training:
        return F.conv2d(norm(x), weight, bias)
    gain, shift = _affine(norm)
    return F.conv2d(x, weight * gain[:, None, None], bias + weight[:, :, 0, 0] @ shift)


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """What a normalisation does in eval mode: gain and shift."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return gain, norm.bias - norm.running_mean * gain


@dataclass(frozen=True)
class _Theirs:
    """The hyper-parameters that a checkpoint of the reference code holds, under their names."""

    in_channels: int
    bands: tuple[str, ...]
    sections: tuple[int, ...]
    num_features: dict[str, int]
    growth_rate: dict[str, tuple[int, ...]]
    kernel_size: dict[str, int | tuple[int, int]]
    scale: dict[str, int | tuple[int, int]]
    dilated: dict[str, tuple[bool | None, ...]]
    norm: dict[str, tuple[bool | None, ...]]
    nonlinear: dict[str, tuple[str | None, ...]]
    depth: dict[str, tuple[int, ...]]
    growth_rate_final: int
    kernel_size_final: int | tuple[int, int]
    dilated_final: bool
    depth_final: int
    nonlinear_final: str = "relu"
    hidden_channels: dict[str, tuple[int, ...]] | None = None
    hidden_channels_final: int = 0
    causal: bool = False
    rnn_position: str = "parallel"
    eps: float = _EPSILON
    n_fft: int | None = None
    hop_length: int = 1024
    window_fn: str = "hann"

    def refuse_unknown(self) -> None:
        """ValueError for what no published system has and is not built here."""
        known = {
            "scale": all(scale in (2, (2, 2)) for scale in self.scale.values()),
            "dilated": not any(any(blocks) for blocks in self.dilated.values()),
            "norm": all(False not in blocks for blocks in self.norm.values()),
            "nonlinear": all({*blocks} <= {"relu", None} for blocks in self.nonlinear.values()),
            "nonlinear_final": self.nonlinear_final == "relu",
            "hidden_channels_final": self.hidden_channels_final == 0,
            "causal": not self.causal,
            "rnn_position": self.rnn_position in _PLACES,
            "eps": self.eps == _EPSILON,
            "window_fn": self.window_fn == "hann",
        }
        for name, is_known in known.items():
            if not is_known:
                raise ValueError(f"{name} is {getattr(self, name)}, which no published system has")
        if len(self.sections) != len(self.bands):
            raise ValueError(f"{len(self.sections)} sections for {len(self.bands)} bands")

    def network(self) -> Network:
        """The same in our terms."""

        def band(name: str, bins: int) -> Band:
            cells = self.hidden_channels[name] if self.hidden_channels else ()
            return Band(
                bins=bins,
                features=self.num_features[name],
                growth=self.growth_rate[name],
                depth=self.depth[name],
                lstm_cells=cells if any(cells) else (),
                kernel=_frames_first(self.kernel_size[name]),
            )

        return Network(
            bands=tuple(band(name, bins) for name, bins in zip(self.bands, self.sections, strict=True)),
            full=band("full", sum(self.sections)),
            growth=self.growth_rate_final,
            depth=self.depth_final,
            kernel=_frames_first(self.kernel_size_final),
            dilated=self.dilated_final,
            lstm_place=_PLACES[self.rnn_position],
        )


class Tky823:
    """The community re-implementation's ``.pth`` files: one per target, in a folder of the target's name."""

    name = "tky823 MMDenseNet/MMDenseLSTM .pth"

    def recognises(self, files: Checkpoint) -> bool:
        return bool(files) and all(
            f.format == "torch" and {f"{_STATE}scale_in", f"{_STATE}net.full.conv2d.weight"} <= set(f.tensors)
            for f in files.values()
        )

    def convert(self, files: Checkpoint) -> tuple[Config, dict[str, Tensor]]:
        networks: dict[str, Network] = {}
        state: dict[str, Tensor] = {}
        framings: set[tuple[int, int, int]] = set()
        for file in files.values():
            target = _target(file)
            if target in networks:
                raise CheckpointError(f"there are two files for {target}; give only one of them, such as best.pth")
            try:
                theirs = TypeAdapter(_Theirs).validate_python(_plain(file))
                theirs.refuse_unknown()
                networks[target] = theirs.network()
            except ValidationError as fault:
                first = fault.errors(include_url=False)[0]
                where = ".".join(map(str, first["loc"]))
                raise CheckpointError(f"{file.name} has a wrong or no {where}: {first['msg']}") from None
            except KeyError as missing:
                raise CheckpointError(f"{file.name} has no hyper-parameters for the band {missing}") from None
            except ValueError as fault:
                raise CheckpointError(f"{file.name} does not fit: {fault}") from None
            framings.add((theirs.n_fft or 2 * sum(theirs.sections) - 2, theirs.hop_length, theirs.in_channels))
            state |= {f"networks.{target}.{name}": tensor for name, tensor in _renamed(file, theirs.bands)}
        if len(framings) != 1:
            raise CheckpointError(
                f"the targets' files have (n_fft, hop_length, in_channels) {sorted(framings)}; expected the same of all"
            )
        ((frame_samples, hop_samples, channels),) = framings
        try:
            config = Config(
                targets=tuple(networks),
                networks=tuple(networks.values()),
                frame_samples=frame_samples,
                hop_samples=hop_samples,
                channels=channels,
            )
        except ValueError as fault:
            raise CheckpointError(f"the checkpoint does not fit: {fault}") from None
        return config, state


@register(
    "mmdenselstm",
    config=Config,
    paper="Takahashi, Goswami, Mitsufuji, IWAENC 2018, https://arxiv.org/abs/1805.02410",
    papers={"mmdensenet": "Takahashi, Mitsufuji, WASPAA 2017, https://arxiv.org/abs/1706.09588"},
    domain="spectrogram",
    importers=(Tky823(),),
    reconstruction=True,
    published={
        "mmdensenet": Config(networks=(MMDENSENET,), frame_samples=2048),
        "mmdenselstm": Config(),
    },
)
class MMDenseLSTM(MagnitudeSeparator):
    """The published systems: centred spectra, one network per target, and a multichannel Wiener filter."""

    config: Config

    def __init__(self, config: Config):
        networks = config.of_target
        context = _context_samples(config)
        super().__init__(config, segment_seconds=30.0 if context is None else 60.0)
        self.networks = nn.ModuleDict({t: MMDenseNetwork(n, config.channels) for t, n in networks.items()})
        # One kernel per target, so that a song's vocals alone need one network alone.
        self.kernels = tuple(f"networks.{target}" for target in networks)
        # A segment has to start where the whole song's pooling and the whole song's filter windows do.
        pooled_frames = 1 << max(network.halvings for network in networks.values())
        window_frames = (config.wiener_window_frames or 1) if config.wiener_iterations else 1
        self.spec = replace(
            self.spec,
            start_grid_samples=config.hop_samples * math.lcm(pooled_frames, window_frames),
            context_samples=context,
            # The networks add their biases to silence; only the filter takes them away again.
            silence_to_silence=config.wiener_softmask or config.wiener_iterations > 0,
        )


def _context_samples(config: Config) -> int | None:
    """How far an output sample sees: through the filter's window, the convolutions, and a frame at either end."""
    networks = config.of_target.values()
    window_frames = config.wiener_window_frames if config.wiener_iterations else 1
    if window_frames is None or any(network.recurrent for network in networks):
        return None
    reach_frames = max(network.reach_frames for network in networks) + window_frames - 1
    return reach_frames * config.hop_samples + config.frame_samples


# Reading checkpoints. Theirs holds hyper-parameters and, under state_dict, tensors; kernels are bins by frames.

_KEYS = (
    (r"(scale|bias)_(in|out)", r"\1_\2"),
    (r"net\.(\w+)\.conv2d\.", r"\1.first."),
    (r"net\.(\w+)\.pointwise_conv2d\.0\.", r"\1.match_norm."),
    (r"net\.(\w+)\.pointwise_conv2d\.1\.", r"\1.match."),
    (r"net\.(\w+)\.encoder\.net\.(\d+)\.dense_block\.", r"\1.down.\2."),
    (r"net\.(\w+)\.bottleneck_conv2d\.", r"\1.bottom."),
    (r"net\.(\w+)\.decoder\.net\.(\d+)\.norm2d\.", r"\1.ups.\2.norm."),
    (r"net\.(\w+)\.decoder\.net\.(\d+)\.upsample2d\.", r"\1.ups.\2.conv."),
    (r"net\.(\w+)\.decoder\.net\.(\d+)\.dense(?:_rnn)?_block\.", r"\1.up.\2."),
    (r"dense_block\.", r"last."),
    (r"norm2d\.", r"last_norm."),
    (r"glu2d\.map\.", r"value."),
    (r"glu2d\.map_gate\.", r"gate."),
)
"""How a name begins, theirs and ours; \\1 is a band."""
_BLOCK_KEYS = (
    (r"(dense_block\.)?net\.(\d+)\.norm2d\.", r"\1norms.\2."),
    (r"(dense_block\.)?net\.(\d+)\.conv2d\.", r"\1convs.\2."),
    (r"dense_block\.", r"dense."),
    (r"bottleneck_conv2d\.", r"squeeze."),
    (r"rnn\.", r"lstm."),
    (r"linear\.", r"expand."),
)
"""How it goes on, within a block."""
_STATE = "state_dict."
_PLACES: Mapping[str, LstmPlace] = {"parallel": "parallel", "after_dense": "after", "before_dense": "before"}


def _target(file: CheckpointFile) -> str:
    """What a file's network estimates: the name of its folder, or its own."""
    folder, _, name = file.name.rpartition("/")
    target = folder or name.partition(".")[0]
    if target in ("best", "last"):
        raise CheckpointError(
            f"{file.name} does not say which target it is of; give the folder that holds one folder per target"
        )
    return target


def _plain(file: CheckpointFile) -> dict[str, Any]:
    """Their hyper-parameters alone, without the tensors and the state of training that lie beside them."""
    if not isinstance(file.metadata, Mapping):
        raise CheckpointError(f"{file.name} holds no hyper-parameters; expected a file that the training code saved")
    wanted = {field.name for field in fields(_Theirs)}
    return {name: value for name, value in file.metadata.items() if name in wanted}


def _frames_first(kernel: int | tuple[int, int]) -> tuple[int, int]:
    return (kernel, kernel) if isinstance(kernel, int) else (kernel[1], kernel[0])


def _renamed(file: CheckpointFile, bands: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """Our names and tensors; what lies outside state_dict is the state of training."""
    places = {"full": "full", **{band: f"bands.{i}" for i, band in enumerate(bands)}}
    for name, tensor in file.tensors.items():
        if name.startswith(_STATE):
            key = _our_name(name.removeprefix(_STATE), places)
            if key is None:
                raise CheckpointError(f"{file.name}: no place in the network for {name}")
            yield key, tensor.transpose(2, 3) if tensor.ndim == 4 else tensor


def _our_name(name: str, places: Mapping[str, str]) -> str | None:
    for theirs, ours in _KEYS:
        if match := re.match(theirs, name):
            head, rest = match.expand(ours), name[match.end() :]
            band, dot, inside = head.partition(".")
            if theirs.startswith("net"):
                if band not in places:
                    return None
                head = places[band] + dot + inside
            for pattern, replacement in _BLOCK_KEYS:
                rest = re.sub(f"^{pattern}", replacement, rest)
            return head + rest
    return None
