"""Wave-U-Net: a U-Net of one-dimensional convolutions on the waveform, without padding.

Paper: D. Stoller, S. Ewert, S. Dixon, "Wave-U-Net: A Multi-Scale Neural Network for End-to-End Audio Source
Separation", ISMIR 2018, arXiv 1806.03185. Reference code: github f90/Wave-U-Net at fe50c52 (MIT, TensorFlow 1):
``Models/UnetAudioSeparator.py``, ``Models/OutputLayer.py``, ``Models/InterpolationLayer.py``, ``Config.py``,
``Evaluate.py``. Weights: in the repository's own storage (MIT), or linked from its README without a licence.

Shapes: ``[B, C, T]`` -> `levels` times: convolution of `down_kernel` taps to ``filters * (i + 1)`` channels, then every
second sample -> one more convolution -> `levels` times: a sample between each two, beside the cropped output of the
same level's way down, convolution of `up_kernel` taps -> beside the cropped input, 1x1, tanh -> all stems but the last,
which is what they leave of the mixture. No convolution pads, so an output needs 65,527 samples to either side.

All hyper-parameters are *code*: M3 to M7 of the paper's table, and M5 at 44.1 kHz, which the paper has not. M1 and M2,
whose convolutions pad, are not here; no weights of them were published.

Deviations: none in the ``-official`` setting but the resampler (SciPy's there). It slides by an output window of
16,389 samples, moves the last one back to end with the song, and clips; it takes up to an hour of a song at once. Each
of its windows starts elsewhere on the grid of 2^`levels` samples on which the network looks the same, so where two of
them meet there is a seam. By default segments start on that grid and so equal one pass over the song; the last stem is
not clipped, so the stems sum to the mixture. Most samples in between are never made: they are weighted sums of their
neighbours, and the sums are taken over the next convolution's weights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iseparate.errors import CheckpointError
from iseparate.models._base import SeparationModel
from iseparate.models._registry import register
from iseparate.types import Checkpoint, CheckpointFile, ModelSpec, TrackStatistics

VOICE = ("accompaniment", "vocals")
INSTRUMENTS = ("bass", "drums", "other", "vocals")
"""Stems in the reference's order (*code*: ``Config.py``); the last is what the others leave."""
_WORTH_COMBINING_SAMPLES = 512


@dataclass(frozen=True)
class Config:
    """Hyper-parameters. All defaults are those of M4, vocals in stereo (*code*)."""

    stems: tuple[str, ...] = VOICE
    channels: int = 2
    sample_rate: int = 22050
    levels: int = 12
    filters: int = 24
    """Channels of the first level; level i has i + 1 times as many."""
    down_kernel: int = 15
    up_kernel: int = 5
    upsampling: Literal["linear", "learned"] = "linear"
    """What lies between two samples: their mean, or a weighting of both that each channel learns."""
    kept_samples: int = 393216
    """How much of a song the engine separates at a time, beside the context: 96 times the grid of M4, 18 s."""
    window_samples: int = 16384
    """With `windows`, the least length of an output window; the network's own lengths decide (16,389)."""
    windows: bool = False
    """Slide by whole windows from the first sample, the last one moved back, as the reference does."""
    clip: bool = False
    """Clip the last stem at full scale, as the reference does when it separates."""

    def __post_init__(self) -> None:
        if len(self.stems) < 2 or len(set(self.stems)) != len(self.stems):
            raise ValueError(f"stems must be different names, two at least; got {self.stems}")
        if self.channels not in (1, 2) or not 1 <= self.levels <= 20 or not 1 <= self.filters <= 4096:
            raise ValueError(
                f"channels is {self.channels}, levels {self.levels}, filters {self.filters}; expected 1 or 2, 1 to 20, "
                "and 1 to 4096"
            )
        for name in ("down_kernel", "up_kernel"):
            taps = getattr(self, name)
            if not 1 <= taps <= 1001 or taps % 2 == 0:
                raise ValueError(f"{name} is {taps}; expected an odd number of taps up to 1001, which has a middle")
        if not 8000 <= self.sample_rate <= 384000:
            raise ValueError(f"sample_rate is {self.sample_rate}; expected 8000 to 384000")
        for name in ("kept_samples", "window_samples"):
            if not 1 <= getattr(self, name) <= 1 << 28:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 to {1 << 28}")

    @classmethod
    def tiny(cls) -> Config:
        """A network of the same shape that runs in milliseconds, for tests."""
        return cls(
            stems=INSTRUMENTS, levels=3, filters=4, down_kernel=5, up_kernel=3, kept_samples=500, window_samples=100
        )

    @property
    def grid_samples(self) -> int:
        """Moved by this much, the input gives the same output, moved."""
        return 1 << self.levels

    def lengths(self, innermost: int) -> tuple[int, int]:
        """Input and output samples of a network whose innermost features have `innermost` >= 2 samples."""
        inside, outside = innermost + self.down_kernel - 1, innermost
        for _ in range(self.levels):
            inside = 2 * inside - 1 + self.down_kernel - 1
            outside = 2 * outside - 1 - (self.up_kernel - 1)
        return inside, outside

    def _innermost(self, output_samples: int) -> int:
        """The fewest innermost samples that give that much output."""
        _, shortest = self.lengths(2)
        return 2 + max(0, -(-(output_samples - shortest) // self.grid_samples))

    @property
    def window(self) -> tuple[int, int]:
        """Input and output samples of the reference's windows."""
        return self.lengths(self._innermost(self.window_samples))

    @property
    def context_samples(self) -> int:
        """What the output is shorter than the input by, at either end."""
        inside, outside = self.lengths(2)
        return (inside - outside) // 2

    @property
    def least_input_samples(self) -> int:
        """Shorter inputs have no output."""
        return self.lengths(self._innermost(1))[0]


class Down(nn.Conv1d):
    """A level's way down: ``[B, C, n]`` -> ``[B, C', n - taps + 1]``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(x), 0.2, inplace=True)


class Up(nn.Conv1d):
    """A level's way up: features ``[B, C, n]`` and the skip ``[B, C', m]`` -> ``[B, C', 2n - taps]``.

    The features get a sample between each two, then come behind the skip's middle, then both are convolved. The
    convolution is linear and so is what makes the samples in between: output 2p sees features p, p + 1, ... through
    one set of combined weights, output 2p + 1 through another. Two short convolutions of half the length do. Of few
    samples, combining the weights would take longer than it saves.
    """

    def __init__(self, features: int, skips: int, taps: int, learned: bool):
        super().__init__(skips + features, skips, taps)
        self.interpolation = nn.Parameter(torch.empty(features)) if learned else None
        if self.interpolation is not None:  # as TensorFlow 1 fills a variable of one axis (Glorot)
            bound = (3 / features) ** 0.5
            nn.init.uniform_(self.interpolation, -bound, bound)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        skips, spare = self.out_channels, skip.shape[-1] - (2 * x.shape[-1] - 1)
        middle = skip[..., spare // 2 : skip.shape[-1] - spare // 2]
        left = 0.5 if self.interpolation is None else self.interpolation.sigmoid()[:, None]
        if x.shape[-1] < _WORTH_COMBINING_SAMPLES:
            between = left * x[..., :-1] + (1 - left) * x[..., 1:]
            doubled = torch.stack([x[..., :-1], between], -1).flatten(-2)
            output = super().forward(torch.cat([middle, torch.cat([doubled, x[..., -1:]], -1)], 1))
            return F.leaky_relu(output, 0.2, inplace=True)
        output = F.conv1d(middle, self.weight[:, :skips], self.bias)
        weight = self.weight[:, skips:]
        on, between = weight[..., ::2], weight[..., 1::2]  # taps that meet a sample, or what lies between two
        even = on + F.pad(left * between, (0, 1)) + F.pad((1 - left) * between, (1, 0))
        odd = F.pad(left * on, (0, 1)) + F.pad((1 - left) * on + F.pad(between, (0, 1)), (1, 0))
        output[..., ::2] += F.conv1d(x, even)
        output[..., 1::2] += F.conv1d(x, odd)
        return F.leaky_relu(output, 0.2, inplace=True)


class Network(nn.Module):
    """The reference's graph: a mixture ``[B, C, n]`` -> all stems but the last, ``[B, (S - 1) * C, m]``.

    n and m are a pair of `Config.lengths`.
    """

    def __init__(self, config: Config):
        super().__init__()
        widths = [config.filters * (i + 1) for i in range(config.levels + 1)]
        self.down = nn.ModuleList(
            Down(i, o, config.down_kernel) for i, o in zip([config.channels, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            Up(widths[i + 1], widths[i], config.up_kernel, config.upsampling == "learned")
            for i in reversed(range(config.levels))
        )
        self.heads = nn.Conv1d(config.channels + config.filters, (len(config.stems) - 1) * config.channels, 1)
        for layer in (*self.down, *self.up):
            assert isinstance(layer, nn.Conv1d)
            _initialise(layer, layer.out_channels)
        _initialise(self.heads, config.channels)  # one layer per stem there

    def forward(self, mix: Tensor) -> Tensor:
        x, skips = mix, []
        for level, conv in enumerate(self.down):
            x = conv(x)
            if level < len(self.up):
                skips.append(x)
                x = x[..., ::2]
        for conv in self.up:
            x = conv(x, skips.pop())
        channels, cut = mix.shape[1], (mix.shape[-1] - x.shape[-1]) // 2
        logits = F.conv1d(x, self.heads.weight[:, channels:], self.heads.bias)
        logits = logits + F.conv1d(mix[..., cut : cut + x.shape[-1]], self.heads.weight[:, :channels])
        return logits.tanh()


def _initialise(layer: nn.Conv1d, channels_out: int) -> None:
    """As TensorFlow 1 does by default (Glorot, uniform), for one layer of so many outputs."""
    fans = (layer.in_channels + channels_out) * layer.kernel_size[0]
    bound = (6 / fans) ** 0.5
    nn.init.uniform_(layer.weight, -bound, bound)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


class TensorFlowBundle:
    """The reference's checkpoints: the convolutions are numbered in the order in which the graph makes them.

    The graph's sizes follow from the tensors'. The sampling rate does not: it is that of the published network of
    those sizes. A network with learned upsampling is taken for the released one, at 44.1 kHz; the paper's M5 needs
    ``sample_rate = 22050``. M2 has the tensors of M3 and cannot be told from it.
    """

    name = "Wave-U-Net TensorFlow checkpoint"

    def recognises(self, files: Checkpoint) -> bool:
        return len(files) == 1 and all(
            f.format == "tensorflow" and {"separator/conv1d/kernel", "separator/conv1d_1/kernel"} <= set(f.tensors)
            for f in files.values()
        )

    def convert(self, files: Checkpoint) -> tuple[Config, dict[str, Tensor]]:
        if len(files) != 1:
            raise CheckpointError(f"expected one TensorFlow checkpoint; got {', '.join(files) or 'no files'}")
        (file,) = files.values()
        layers, interpolations = _tensorflow_layers(file)
        config = _config_of(file, [kernel for kernel, _ in layers], bool(interpolations))
        state = {}
        for i, (kernel, bias) in enumerate(layers[: 2 * config.levels + 1]):
            place = f"down.{i}" if i <= config.levels else f"up.{i - config.levels - 1}"
            state[f"network.{place}.weight"] = kernel.permute(2, 1, 0).contiguous()
            state[f"network.{place}.bias"] = bias
        heads = layers[2 * config.levels + 1 :]
        state["network.heads.weight"] = torch.cat([kernel for kernel, _ in heads], 2).permute(2, 1, 0).contiguous()
        state["network.heads.bias"] = torch.cat([bias for _, bias in heads])
        state |= {f"network.up.{i}.interpolation": weights for i, weights in interpolations.items()}
        return config, state


@register(
    "wave_u_net",
    config=Config,
    paper="Stoller, Ewert, Dixon, ISMIR 2018, https://arxiv.org/abs/1806.03185",
    domain="waveform",
    importers=(TensorFlowBundle(),),
    published={
        "wave-u-net-m3": Config(channels=1),
        "wave-u-net-m4": Config(),
        "wave-u-net-m5": Config(upsampling="learned"),
        "wave-u-net-m5-44khz": Config(upsampling="learned", sample_rate=44100),
        "wave-u-net-m6": Config(stems=INSTRUMENTS),
        "wave-u-net-m7": Config(channels=1, filters=34, sample_rate=8192, window_samples=98560),
    },
)
class WaveUNet(SeparationModel):
    """The published system: the network with its context, and the last stem as what the others leave."""

    kernels: tuple[str, ...] = ("network",)
    config: Config

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.network = Network(config)
        grid = config.grid_samples
        # What a segment is cut short by to have a length of the network's, and context enough for either end of it.
        self._spare = -config.lengths(2)[0] % grid
        self._edge = -(-(config.context_samples + (self._spare + 1) // 2) // grid) * grid
        kept = -(-config.kept_samples // grid) * grid
        residual = next((stem for stem in ("accompaniment", "other") if stem in config.stems), None)
        exact = not config.clip and not config.windows
        self.spec = ModelSpec(
            stems=config.stems,
            sample_rate=config.sample_rate,
            channels=config.channels,
            segment_samples=None if config.windows else kept + 2 * self._edge,
            default_segment_seconds=3600.0,  # only `windows` leaves the length free, and then counts from the start
            start_grid_samples=1 if config.windows else grid,
            lead_samples=0 if config.windows else self._edge,
            edge_samples=0 if config.windows else self._edge,
            context_samples=None if config.windows else self._edge + grid,
            default_overlap=0.0,
            window="rectangular",
            couples=(config.stems,),
            mixture_consistent=not config.clip,
            residual_stem=residual if exact else None,
        )

    def forward(self, mix: Tensor, track: TrackStatistics | None = None) -> Tensor:
        """``[B, C, T]`` -> ``[B, S, C, T]``; what lies outside is silence."""
        if self.config.windows:
            return self._slide(mix)
        samples = mix.shape[-1]
        padded = F.pad(mix, (self._edge, self._edge + -samples % self.config.grid_samples))
        return self.separate_segment(padded, track)[..., self._edge : self._edge + samples]

    def separate_segment(self, mix: Tensor, track: TrackStatistics | None = None) -> Tensor:
        """As `forward`; of a segment of the engine's the edges, which lack context, are left at zero."""
        if self.config.windows:
            return self(mix, track)  # type: ignore[no-any-return]
        first = self._spare // 2
        stems = self._inner(mix[..., first : mix.shape[-1] - (self._spare - first)])
        first += self.config.context_samples
        return F.pad(stems, (first, mix.shape[-1] - first - stems.shape[-1]))

    def training_loss(self, mix: Tensor, stems: Tensor, criterion: nn.Module) -> dict[str, Tensor]:
        """As the base, on the part of the excerpt for which the excerpt itself is the context (*code*).

        Where the excerpt is too short to have such a part, silence is the context.
        """
        samples = mix.shape[-1]
        if criterion.domain != "waveform" or samples < self.config.least_input_samples:
            return super().training_loss(mix, stems, criterion)
        spare = (samples - self.config.lengths(2)[0]) % self.config.grid_samples
        mix, stems = (x[..., spare // 2 : samples - (spare - spare // 2)] for x in (mix, stems))
        estimates = self._inner(mix)
        cut = self.config.context_samples
        mix, stems = (x[..., cut : cut + estimates.shape[-1]] for x in (mix, stems))
        return {"loss": criterion(estimates, stems, mix)}

    def _inner(self, mix: Tensor) -> Tensor:
        """All stems, of an input and with an output length of the network's."""
        estimates = self.network(mix)
        estimates = estimates.view(len(mix), -1, self.config.channels, estimates.shape[-1])
        cut = self.config.context_samples
        rest = mix[..., cut : cut + estimates.shape[-1]] - estimates.sum(1)
        if self.config.clip and not self.training:
            rest = rest.clamp(-1, 1)
        return torch.cat([estimates, rest[:, None]], 1)

    def _slide(self, mix: Tensor) -> Tensor:
        inside, outside = self.config.window
        samples = mix.shape[-1]
        total = max(samples, inside)  # the reference's own rule for short songs
        context = self.config.context_samples
        padded = F.pad(mix, (context, context + total - samples))
        stems = mix.new_empty(mix.shape[0], len(self.config.stems), mix.shape[1], total)
        for start in range(0, total, outside):
            at = min(start, total - outside)
            stems[..., at : at + outside] = self._inner(padded[..., at : at + inside])
        return stems[..., :samples]


# Reading checkpoints.

_CONVOLUTION = re.compile(r"separator/conv1d(?:_(\d{1,3}))?/(kernel|bias)")
_INTERPOLATION = re.compile(r"separator/interp_(\d{1,3})")
_DROPPED = re.compile(r"global_step|separator_solver/.*|(.*/)?(Adam(_1)?|beta[12]_power)")
"""The count of steps and what the optimizer remembers."""


def _tensorflow_layers(file: CheckpointFile) -> tuple[list[tuple[Tensor, Tensor]], dict[int, Tensor]]:
    """Kernels ``[taps, in, out]`` with their biases in the graph's order, and the interpolations by level."""
    parts: dict[int, dict[str, Tensor]] = {}
    interpolations: dict[int, Tensor] = {}
    for name, tensor in file.tensors.items():
        if convolution := _CONVOLUTION.fullmatch(name):
            parts.setdefault(int(convolution[1] or 0), {})[convolution[2]] = tensor
        elif interpolation := _INTERPOLATION.fullmatch(name):
            interpolations[int(interpolation[1])] = tensor
        elif not _DROPPED.fullmatch(name):
            raise CheckpointError(f"{file.name} holds a tensor that Wave-U-Net has not: {name[:80]}")
    layers = []
    for number in range(len(parts)):
        part = parts.get(number, {})
        if set(part) != {"kernel", "bias"} or part["kernel"].ndim != 3 or part["bias"].ndim != 1:
            raise CheckpointError(
                f"{file.name} has {len(parts)} convolutions, but of number {number} not a kernel of three axes and a "
                "bias; it is damaged, or of another network"
            )
        layers.append((part["kernel"], part["bias"]))
    return layers, interpolations


def _config_of(file: CheckpointFile, kernels: list[Tensor], learned: bool) -> Config:
    """The sizes of the graph, from its kernels: the widest is the innermost of `levels` down and `levels` up."""
    widths = [kernel.shape[2] for kernel in kernels]
    levels = widths.index(max(widths)) if widths else 0
    stems = {1: VOICE, 3: INSTRUMENTS}.get(len(kernels) - (2 * levels + 1))
    if not levels or stems is None:
        raise CheckpointError(
            f"{file.name} has {len(kernels)} convolutions, the widest after {levels}; expected as many after it, "
            "and 1 or 3 outputs, one less than stems (M1, which has one for each, is not read here)"
        )
    upsampling: Literal["linear", "learned"] = "learned" if learned else "linear"
    try:
        return Config(
            stems=stems,
            channels=kernels[0].shape[1],
            sample_rate=44100 if learned else 8192 if widths[0] == 34 else 22050,  # M5 at 44.1 kHz, M7, all others
            levels=levels,
            filters=widths[0],
            down_kernel=kernels[0].shape[0],
            up_kernel=kernels[levels + 1].shape[0],
            upsampling=upsampling,
        )
    except ValueError as error:
        raise CheckpointError(f"the sizes in {file.name} make no network: {error}") from error
