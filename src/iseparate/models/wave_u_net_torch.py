"""Wave-U-Net in PyTorch: its first author's later version, one normalised network per stem.

Paper: D. Stoller, S. Ewert, S. Dixon, "Wave-U-Net", ISMIR 2018, arXiv 1806.03185, of which this is a revision that no
paper describes and no published scores belong to. Reference code: github f90/Wave-U-Net-Pytorch at 86c113d (MIT):
``waveunet.py``, ``conv.py``, ``resample.py`` and ``utils.py`` in ``model``, ``test.py``, ``train.py``. Weights: linked
from the README, without a licence of their own.

Shapes: ``[B, C, T]`` -> per level: convolution (what the way up will see), convolution to the next width, low-pass and
every `stride`-th sample -> convolution -> per level: back to the higher rate, convolution to the lower width, behind
the way down's, convolution -> 1x1 -> ``[B, S, C, T]``. Each convolution is followed by a normalisation and a ReLU, and
pads nothing, so an output needs 4,776 samples to either side; only the low-pass filters mirror what is at their ends.

All hyper-parameters are *code* (defaults of ``train.py``).

Deviations: none in the ``-official`` setting, which abuts windows of 88,409 samples and clips. A group normalisation
knows of all of its window, so windows of that length stay, but overlap by a quarter and are cross-faded, which also
fades out what the mirroring did to their ends; the stems are not clipped. With batch normalisation, or none, segments
start on the grid on which the network looks the same, without what was mirrored, and equal one pass over the song.
The reference's option of several convolutions per block cannot run (the second gets twice its channels), so it is left
out.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iseparate.errors import CheckpointError
from iseparate.models._base import SeparationModel
from iseparate.models._registry import register
from iseparate.types import Checkpoint, CheckpointFile, ModelSpec, TrackStatistics

STEMS = ("bass", "drums", "other", "vocals")
"""In the reference's order (*code*); a network for all stems has its outputs in it."""
SHARED = "ALL"
"""The name of a network for all stems."""
_TAPS = 15
"""Of the low-pass filters."""
_CHANNELS_PER_GROUP = 8

Normalisation = Literal["group", "batch", "none"]
Resampling = Literal["fixed", "learned"]


@dataclass(frozen=True)
class Config:
    """Hyper-parameters. All defaults are those of the released network (*code*)."""

    stems: tuple[str, ...] = STEMS
    channels: int = 2
    sample_rate: int = 44100
    widths: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    """Channels of each level, from the input on."""
    kernel: int = 5
    stride: int = 4
    """From level to level, samples become fewer by this factor."""
    normalisation: Normalisation = "group"
    resampling: Resampling = "fixed"
    """By a low-pass filter, or by a convolution of its own."""
    separate: bool = True
    """One network per stem; or one for all."""
    target_samples: int = 88200
    """The least length of an output window; the network's own lengths decide (88,409)."""
    overlap: float = 0.25
    """With group normalisation, share of a window in common with the next."""
    windows: bool = False
    """Abut whole windows from the first sample, as the reference does."""
    clip: bool = False
    """Clip at full scale, as the reference does when it separates."""

    def __post_init__(self) -> None:
        if not self.stems or len(set(self.stems)) != len(self.stems):
            raise ValueError(f"stems must be different names, one at least; got {self.stems}")
        if odd := [s for s in self.stems if not re.fullmatch(r"\w[\w -]{0,63}", s) or hasattr(nn.ModuleDict, s)]:
            raise ValueError(f"{odd[0][:80]!r} cannot be a stem's name; give a word such as vocals")
        if self.channels not in (1, 2) or not 8000 <= self.sample_rate <= 384000:
            raise ValueError(
                f"channels is {self.channels}, sample_rate {self.sample_rate}; expected 1 or 2, and 8000 to 384000"
            )
        if not 2 <= len(self.widths) <= 12 or not all(1 <= width <= 1 << 14 for width in self.widths):
            raise ValueError(f"widths is {self.widths}; expected the channels of 2 to 12 levels, up to {1 << 14} each")
        if self.normalisation == "group" and any(width % _CHANNELS_PER_GROUP for width in self.widths):
            raise ValueError(f"widths is {self.widths}; a group normalisation needs multiples of {_CHANNELS_PER_GROUP}")
        if not 1 <= self.kernel <= 1001 or self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}; expected an odd number of taps up to 1001, which has a middle")
        if not 2 <= self.stride <= 16 or self.grid_samples > 1 << 24:
            raise ValueError(
                f"stride is {self.stride} with {len(self.widths)} levels; expected 2 to 16, and no more than {1 << 24} "
                "samples between the innermost ones"
            )
        if not 1 <= self.target_samples <= 1 << 28 or not 0 <= self.overlap < 1:
            raise ValueError(
                f"target_samples is {self.target_samples}, overlap {self.overlap}; expected 1 to {1 << 28}, and a "
                "share in [0, 1)"
            )
        if self.windows and self.overlap:
            raise ValueError(f"windows that abut have overlap 0; got {self.overlap}")
        if any((skip - up) % 2 for skip, up in self._meetings(self._shortest)):
            raise ValueError(
                f"kernel {self.kernel} and stride {self.stride} give lengths without a common middle; change one"
            )

    @classmethod
    def tiny(cls) -> Config:
        """A network of the same shape that runs in milliseconds, for tests."""
        return cls(stems=("bass", "vocals"), widths=(8, 16, 16), kernel=3, stride=2, target_samples=400)

    @property
    def grid_samples(self) -> int:
        """Moved by this much, the input gives the same output, moved (but for what is normalised over all of it)."""
        return int(self.stride ** (len(self.widths) - 1))

    @property
    def is_seamless(self) -> bool:
        """True where an output depends on nothing but the input around it."""
        return self.normalisation != "group" and not self.windows

    def _meetings(self, innermost: int) -> list[tuple[int, int]]:
        """Lengths of what meets on the way up, innermost first: of the way down, and of the way up."""
        lost = self.kernel - 1
        lost_by_resampling = lost if self.resampling == "learned" else 0
        down, up, met = innermost + lost, innermost, []
        for _ in self.widths[1:]:
            before = (down - 1) * self.stride + 1 + lost_by_resampling  # of the low-pass filter
            skip = before + lost
            up = (up - 1) * self.stride + 1 - lost_by_resampling - lost
            met.append((skip, up))
            down, up = skip + lost, up - lost
        return met

    def lengths(self, innermost: int) -> tuple[int, int]:
        """Input and output samples of a network whose innermost features have `innermost` samples."""
        skip, up = self._meetings(innermost)[-1]
        return skip + self.kernel - 1, up - (self.kernel - 1)

    @property
    def _shortest(self) -> int:
        """The fewest innermost samples, of which each way up must leave some, enough to mirror where that is done."""
        least = 2
        lost = 2 * (self.kernel - 1) + (self.kernel - 1 if self.resampling == "learned" else 0)
        for _ in self.widths[1:]:  # from the output back
            least = max(
                -(-(least + lost - 1) // self.stride) + 1, 2 if self.resampling == "learned" else _TAPS // 2 + 1
            )
        return least

    def _innermost(self, output_samples: int) -> int:
        """The fewest innermost samples that give that much output."""
        _, least = self.lengths(self._shortest)
        return self._shortest + max(0, -(-(output_samples - least) // self.grid_samples))

    @property
    def window(self) -> tuple[int, int]:
        """Input and output samples of the reference's windows."""
        return self.lengths(self._innermost(self.target_samples))

    @property
    def context_samples(self) -> int:
        """What the output is shorter than the input by, at either end."""
        inside, outside = self.lengths(self._shortest)
        return (inside - outside) // 2

    @property
    def least_input_samples(self) -> int:
        """Shorter inputs have no output."""
        return self.lengths(self._shortest)[0]

    @property
    def mirrored_samples(self) -> int:
        """How many outputs at either end hear what the filters mirrored."""
        if self.resampling == "learned":
            return 0
        reach, count, on_the_way = _TAPS // 2, 0, []
        for _ in self.widths[1:]:
            on_the_way.append(count)
            count = -(-(count + reach) // self.stride)
        for skip, up in self._meetings(self._shortest):
            count = max(self.stride * (count - 1) + reach + 1, on_the_way.pop() - (skip - up) // 2, 0)
        return count


class Convolution(nn.Module):
    """Convolution, normalisation, activation: ``[B, C, n]`` -> ``[B, C', m]``, without padding.

    Args:
        stride: from output to output; with `upwards`, of the outputs between two inputs.
        upwards: the transposed convolution, without the ends that few inputs reach.
    """

    def __init__(self, config: Config, channels_in: int, channels_out: int, stride: int = 1, upwards: bool = False):
        super().__init__()
        taps = config.kernel
        self.filter = (
            nn.ConvTranspose1d(channels_in, channels_out, taps, stride, padding=taps - 1)
            if upwards
            else nn.Conv1d(channels_in, channels_out, taps, stride)
        )
        self.norm: nn.Module | None = None
        if config.normalisation == "group":
            self.norm = nn.GroupNorm(channels_out // _CHANNELS_PER_GROUP, channels_out)
        elif config.normalisation == "batch":
            self.norm = nn.BatchNorm1d(channels_out, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = self.filter(x)
        return F.leaky_relu(x, 0.01, inplace=True) if self.norm is None else F.relu(self.norm(x), inplace=True)


class LowPass(nn.Module):
    """The fixed filter on the way down: ``[B, C, (n - 1) * stride + 1]`` -> ``[B, C, n]``, and `upwards` back."""

    taps: Tensor

    def __init__(self, channels: int, stride: int, upwards: bool = False):
        super().__init__()
        self.stride, self.upwards = stride, upwards
        self.register_buffer("taps", low_pass(stride).expand(channels, 1, -1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        reach, channels = _TAPS // 2, x.shape[1]
        mirrored = F.pad(x, (reach, reach), mode="reflect")
        if not self.upwards:
            return F.conv1d(mirrored, self.taps, stride=self.stride, groups=channels)
        # The first input's place, and all before and behind the last one's is of what was mirrored.
        first = reach * self.stride + reach
        length = (x.shape[-1] - 1) * self.stride + 1
        return F.conv_transpose1d(mirrored, self.taps, stride=self.stride, groups=channels)[..., first : first + length]


def low_pass(stride: int) -> Tensor:
    """A sinc whose cutoff is half the lower rate, ``[15]``, its sum 1.

    The reference means a Blackman window, but the last of its terms is the same at all taps. What is left is Hann's.
    """
    places = torch.arange(_TAPS, dtype=torch.float64) - _TAPS // 2
    taps = torch.sinc(places / stride) * torch.hann_window(_TAPS, periodic=False, dtype=torch.float64)
    return (taps / taps.sum()).float()


class DownBlock(nn.Module):
    """One level down: ``[B, C, n]`` -> features at the lower rate, and what the way up will see."""

    def __init__(self, config: Config, channels_in: int, width: int, next_width: int):
        super().__init__()
        self.before = Convolution(config, channels_in, width)
        self.after = Convolution(config, width, next_width)
        self.resample = (
            LowPass(next_width, config.stride)
            if config.resampling == "fixed"
            else Convolution(config, next_width, next_width, config.stride)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skip = self.before(x)
        return self.resample(self.after(skip)), skip


class UpBlock(nn.Module):
    """One level up: features and the way down's ``[B, C, n]`` -> ``[B, C, m]``."""

    def __init__(self, config: Config, width: int, next_width: int):
        super().__init__()
        self.resample = (
            LowPass(width, config.stride, upwards=True)
            if config.resampling == "fixed"
            else Convolution(config, width, width, config.stride, upwards=True)
        )
        self.before = Convolution(config, width, next_width)
        self.after = Convolution(config, 2 * next_width, next_width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.before(self.resample(x))
        cut = (skip.shape[-1] - x.shape[-1]) // 2
        return self.after(torch.cat([skip[..., cut : cut + x.shape[-1]], x], 1))  # type: ignore[no-any-return]


class Network(nn.Module):
    """One of the reference's networks: a mixture ``[B, C, n]`` -> ``[B, outputs, m]``, a pair of `Config.lengths`."""

    def __init__(self, config: Config):
        super().__init__()
        levels = list(pairwise(config.widths))
        inputs = (config.channels, *config.widths[1:-1])
        self.down = nn.ModuleList(DownBlock(config, i, *level) for i, level in zip(inputs, levels, strict=True))
        self.bottleneck = Convolution(config, config.widths[-1], config.widths[-1])
        self.up = nn.ModuleList(UpBlock(config, lower, upper) for upper, lower in reversed(levels))
        outputs = config.channels * (1 if config.separate else len(config.stems))
        self.head = nn.Conv1d(config.widths[0], outputs, 1)

    def forward(self, mix: Tensor) -> Tensor:
        x, skips = mix, []
        for block in self.down:
            x, skip = block(x)
            skips.append(skip)
        x = self.bottleneck(x)
        for block in self.up:
            x = block(x, skips.pop())
        return self.head(x)  # type: ignore[no-any-return]


class TorchCheckpoint:
    """The reference's files: a state dict beside the optimizer's, without the hyper-parameters.

    They follow from names and shapes, the stride from the low-pass filters. Where resampling is learned, nothing tells
    the stride: it is taken for the reference's default, 4; so are `sample_rate` and `target_samples` always. Nor does
    a network for all stems tell their names: four are those of MUSDB18, others have numbers.
    """

    name = "Wave-U-Net PyTorch checkpoint"

    def recognises(self, files: Checkpoint) -> bool:
        return len(files) == 1 and all(f.format == "torch" and bool(_networks_of(f)) for f in files.values())

    def convert(self, files: Checkpoint) -> tuple[Config, dict[str, Tensor]]:
        if len(files) != 1:
            raise CheckpointError(f"expected one checkpoint; got {', '.join(files) or 'no files'}")
        (file,) = files.values()
        networks = _networks_of(file)
        if not networks:
            raise CheckpointError(f"{file.name} holds no model_state_dict of Wave-U-Nets")
        config = _config_of(file, networks)
        state = {}
        for network, tensors in networks.items():
            for name, tensor in tensors.items():
                if not _DROPPED.fullmatch(name):
                    state[f"networks.{network}.{_our_name(file, name)}"] = tensor
        return config, state


@register(
    "wave_u_net_torch",
    config=Config,
    paper="Stoller, Ewert, Dixon, ISMIR 2018, https://arxiv.org/abs/1806.03185",
    domain="waveform",
    importers=(TorchCheckpoint(),),
    published={"wave-u-net-pytorch": Config()},
)
class WaveUNetTorch(SeparationModel):
    """The whole system: one network per stem, or one for all, each with its context."""

    config: Config

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        names = config.stems if config.separate else (SHARED,)
        self.networks = nn.ModuleDict({name: Network(config) for name in names})
        # One kernel per network, so that a song's vocals alone need one network alone.
        self.kernels = tuple(f"networks.{name}" for name in names)
        grid, context = config.grid_samples, config.context_samples
        # Context enough that, from any start on the grid, a length of the network's fits and nothing mirrored is kept.
        least = -(-config.least_input_samples // 2)
        self._edge = -(-(max(context + config.mirrored_samples, least) + grid) // grid) * grid
        seamless = config.is_seamless
        kept = -(-config.target_samples // grid) * grid
        edge = self._edge if seamless else context
        self.spec = ModelSpec(
            stems=config.stems,
            sample_rate=config.sample_rate,
            channels=config.channels,
            segment_samples=kept + 2 * edge if seamless else config.window[0],
            start_grid_samples=grid if seamless else 1,
            lead_samples=edge,
            edge_samples=edge,
            context_samples=edge + grid if seamless else None,
            default_overlap=0.0 if seamless else config.overlap,
            window="rectangular" if seamless or config.windows else "triangular",
            couples=() if config.separate or len(config.stems) == 1 else (config.stems,),
        )

    def forward(self, mix: Tensor, track: TrackStatistics | None = None) -> Tensor:  # noqa: ARG002
        """``[B, C, T]`` -> ``[B, S, C, T]``; what lies outside is silence."""
        samples = mix.shape[-1]
        if self.config.windows:
            (inside, outside), context = self.config.window, self.config.context_samples
            padded = F.pad(mix, (context, context + -samples % outside))
            starts = range(0, samples, outside)
            return torch.cat([self._inner(padded[..., s : s + inside]) for s in starts], -1)[..., :samples]
        padded = F.pad(mix, (self._edge, self._edge + -samples % self.config.grid_samples))
        return self._middle(padded)[..., self._edge : self._edge + samples]

    def separate_segment(self, mix: Tensor, track: TrackStatistics | None = None) -> Tensor:  # noqa: ARG002
        """As `forward`, of a segment of the engine's; its edges, which lack context, are left at zero."""
        return self._middle(mix)

    def training_loss(self, mix: Tensor, stems: Tensor, criterion: nn.Module) -> dict[str, Tensor]:
        """As the base, on the part of the excerpt for which the excerpt itself is the context (*code*).

        Where the excerpt is too short to have such a part, silence is the context.
        """
        samples, least = mix.shape[-1], self.config.least_input_samples
        if criterion.domain != "waveform" or samples < least:
            return super().training_loss(mix, stems, criterion)
        spare = (samples - least) % self.config.grid_samples
        mix, stems = (x[..., spare // 2 : samples - (spare - spare // 2)] for x in (mix, stems))
        estimates = self._inner(mix)
        cut = self.config.context_samples
        mix, stems = (x[..., cut : cut + estimates.shape[-1]] for x in (mix, stems))
        return {"loss": criterion(estimates, stems, mix)}

    def narrowed(self, stems: tuple[str, ...]) -> SeparationModel:
        """The same system with the networks of `stems` only, where each has its own."""
        kept = tuple(stem for stem in self.spec.stems if stem in stems)
        if not self.config.separate or kept == self.spec.stems:
            return self
        # A view: it shares the networks that it has.
        view = copy.copy(self)
        view._modules = dict(self._modules)
        view.networks = nn.ModuleDict({stem: self.networks[stem] for stem in kept})
        view.kernels = tuple(f"networks.{stem}" for stem in kept)
        view.spec = replace(self.spec, stems=kept)
        return view

    def _middle(self, mix: Tensor) -> Tensor:
        """The stems of an input of any length that is not too short, zero where it lacks context."""
        spare = (mix.shape[-1] - self.config.window[0]) % self.config.grid_samples
        first = spare // 2
        stems = self._inner(mix[..., first : mix.shape[-1] - (spare - first)])
        first += self.config.context_samples
        return F.pad(stems, (first, mix.shape[-1] - first - stems.shape[-1]))

    def _inner(self, mix: Tensor) -> Tensor:
        """All stems, of an input and with an output length of the network's."""
        stems = torch.cat([network(mix) for network in self.networks.values()], 1)
        if self.config.clip and not self.training:
            stems = stems.clamp(-1, 1)
        return stems.view(len(stems), -1, self.config.channels, stems.shape[-1])


# Reading checkpoints.

_NAME = re.compile(r"waveunets\.([^.]+)\.(.+)")
_DROPPED = re.compile(r"(down|up)sampling_blocks\.\d{1,2}\.(down|up)conv\.filter")
"""The low-pass filters, which no training changes; ours are made from the stride."""
_BLOCK = re.compile(
    r"(down|up)sampling_blocks\.(\d{1,2})\.(pre_shortcut_convs\.0|post_shortcut_convs\.0|(?:down|up)conv)\.(.+)"
)
_PARTS = {
    "pre_shortcut_convs.0": "before",
    "post_shortcut_convs.0": "after",
    "downconv": "resample",
    "upconv": "resample",
}


def _networks_of(file: CheckpointFile) -> dict[str, dict[str, Tensor]]:
    """The state of each network; of a training checkpoint all but the optimizer's."""
    prefix = "model_state_dict."
    inside = {name.removeprefix(prefix): t for name, t in file.tensors.items() if name.startswith(prefix)}
    networks: dict[str, dict[str, Tensor]] = {}
    for name, tensor in (inside or file.tensors).items():
        if not (match := _NAME.fullmatch(name.removeprefix("module."))):  # how several GPUs' wrapper names all
            return {}
        networks.setdefault(match[1], {})[match[2]] = tensor
    return networks


def _our_name(file: CheckpointFile, name: str) -> str:
    if block := _BLOCK.fullmatch(name):
        return f"{block[1]}.{block[2]}.{_PARTS[block[3]]}.{block[4]}"
    for theirs, ours in (("bottlenecks.0.", "bottleneck."), ("output_conv.", "head.")):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    raise CheckpointError(f"{file.name} holds a tensor that Wave-U-Net has not: {name[:80]}")


def _config_of(file: CheckpointFile, networks: Mapping[str, Mapping[str, Tensor]]) -> Config:
    """What names and shapes of the networks tell; the first stands for all."""
    shared = list(networks) == [SHARED]
    first = next(iter(networks.values()))

    def shape(name: str) -> tuple[int, ...]:
        tensor = first.get(name)
        if tensor is None or tensor.ndim != 3 or not tensor.numel():
            came = "is missing" if tensor is None else f"has shape {list(tensor.shape)}"
            raise CheckpointError(f"{file.name} has no sizes to tell: {name} {came}; expected three axes")
        return tuple(tensor.shape)

    block = "downsampling_blocks.{}.{}_shortcut_convs.0.filter.weight"
    levels = len({name.split(".")[1] for name in first if name.startswith("downsampling_blocks.")})
    width, channels, kernel = shape(block.format(0, "pre"))
    outputs = shape("output_conv.weight")[0]
    widths = (width, *(shape(block.format(i, "post"))[0] for i in range(levels)))
    low_pass_filter = first.get("downsampling_blocks.0.downconv.filter")
    norm = "downsampling_blocks.0.pre_shortcut_convs.0.norm."
    normalisation: Normalisation = (
        "batch" if norm + "running_mean" in first else "group" if norm + "weight" in first else "none"
    )
    stems = tuple(sorted(networks, key=lambda s: STEMS.index(s) if s in STEMS else len(STEMS)))
    if shared:
        count, over = divmod(outputs, channels)
        if over or count > 64:
            raise CheckpointError(
                f"{file.name} has one network with {outputs} outputs; expected {channels} for each of up to 64 stems"
            )
        stems = STEMS if count == len(STEMS) else tuple(f"stem {i + 1}" for i in range(count))
    try:
        return Config(
            stems=stems,
            channels=channels,
            widths=widths,
            kernel=kernel,
            stride=4 if low_pass_filter is None else _stride_of(file, low_pass_filter),
            normalisation=normalisation,
            resampling="learned" if low_pass_filter is None else "fixed",
            separate=not shared,
        )
    except ValueError as error:
        raise CheckpointError(f"the sizes in {file.name} make no network: {error}") from error


def _stride_of(file: CheckpointFile, filters: Tensor) -> int:
    """The stride for which a low-pass filter was made."""
    if filters.ndim == 3 and filters.shape[1:] == (1, _TAPS):
        for stride in range(2, 17):
            if (filters - low_pass(stride)).abs().max() < 1e-4:
                return stride
    raise CheckpointError(
        f"{file.name} has low-pass filters of shape {list(filters.shape)} that are no sinc for a stride"
    )
