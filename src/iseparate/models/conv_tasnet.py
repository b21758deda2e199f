"""Conv-TasNet: masks by a stack of dilated convolutions, on the outputs of learned filters.

Paper: Y. Luo, N. Mesgarani, "Conv-TasNet: Surpassing Ideal Time-Frequency Magnitude Masking for Speech Separation",
IEEE/ACM TASLP 27(8), 2019, arXiv 1809.07454. For music: A. Défossez, N. Usunier, L. Bottou, F. Bach, "Music Source
Separation in the Waveform Domain", arXiv 1911.13254. Reference code: github facebookresearch/demucs, branches v1
(110f8fe) and v2 (64ed2cb), ``demucs/tasnet.py`` (MIT; after github kaituoxu/Conv-TasNet, MIT), and, for the paper's
own network, asteroid 0.7.0, ``asteroid/models/conv_tasnet.py`` (MIT). Weights of the music version: licence not stated.

Shapes: ``[B, C, T]`` -> filters ``[B, N, frames]`` -> normalised, 1x1 to `bottleneck` -> `repeats` times `blocks`
residual blocks (1x1 to `hidden`, PReLU, norm, depthwise with dilation 2^x, PReLU, norm, 1x1 back) -> 1x1 to S masks.
The network of the paper adds up what a second 1x1 of each block gives (`skip`); the music version has no such path
and no biases, normalises the filters' output frame by frame, and hears both channels at once.

Hyper-parameters: the music version's are *code* (``pretrained.py``: X = 10; class default: X = 8), training aside.

Deviations: none in the ``-official`` setting. By default zeros complete the last frame, whose samples the reference
leaves silent. Global norms know of the whole segment, so songs run in segments of 8 s, those of the reference (*code*:
``segment_length``), overlapping by a quarter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iseparate.errors import CheckpointError
from iseparate.models._registry import register
from iseparate.models._tasnet import (
    MUSIC,
    NORM_PARTS,
    Activation,
    AsteroidFile,
    TasNet,
    TasNetConfig,
    activate,
    refusing,
    renamed,
)
from iseparate.nn.norms import NormKind, layer_norm
from iseparate.types import Checkpoint, CheckpointFile


@dataclass(frozen=True, kw_only=True)
class Config(TasNetConfig):
    """Hyper-parameters. All defaults are the music version's (*code*)."""

    bottleneck: int = 256
    hidden: int = 512
    skip: int = 0
    """Width of the path that adds up what each block gives; 0: masks are made of the last block's output."""
    kernel: int = 3
    blocks: int = 10
    """In a repeat: the dilation doubles from one to the next."""
    repeats: int = 4
    norm: NormKind = "global"
    first_norm: NormKind = "channel"
    """Of the filters' output."""
    bias: bool = False
    mask_prelu: bool = False
    """A PReLU before the masks' 1x1."""
    causal: bool = False
    """No frame looks ahead (the norms may)."""
    track_normalised: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._bound("bottleneck", "hidden")
        self._bound("skip", least=0)
        self._bound("blocks", most=20)
        self._bound("repeats", "kernel", most=64)
        if not self.causal and self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}; expected an odd number where it looks both ways")

    @classmethod
    def tiny(cls) -> Config:
        """A network of the same shape that runs in milliseconds, for tests."""
        return cls(filters=12, bottleneck=8, hidden=10, blocks=3, repeats=2)


class Block(nn.Module):
    """``[B, bottleneck, frames]`` -> what is added to it, and what is added to the skip path; None: nothing.

    Args:
        config: of the network.
        dilation: of the depthwise convolution.
        last: nothing comes after it.
    """

    def __init__(self, config: Config, dilation: int, last: bool):
        super().__init__()
        hidden, bias = config.hidden, config.bias
        self.expand = nn.Conv1d(config.bottleneck, hidden, 1, bias=bias)
        self.first_prelu, self.second_prelu = nn.PReLU(), nn.PReLU()
        self.first_norm, self.second_norm = layer_norm(config.norm, hidden), layer_norm(config.norm, hidden)
        reach = (config.kernel - 1) * dilation
        self._before = reach if config.causal else reach // 2
        self.depthwise = nn.Conv1d(
            hidden, hidden, config.kernel, dilation=dilation, padding=self._before, groups=hidden, bias=bias
        )
        # With a skip path nobody reads the sum after the last block.
        self.project = None if last and config.skip else nn.Conv1d(hidden, config.bottleneck, 1, bias=bias)
        self.skip = nn.Conv1d(hidden, config.skip, 1, bias=bias) if config.skip else None

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        h = self.first_norm(self.first_prelu(self.expand(x)))
        h = self.second_norm(self.second_prelu(self._along_time(h)))
        if self.project is None or self.skip is None:
            return (self.project(h) if self.project else None), (self.skip(h) if self.skip else None)
        # Both read the widest tensor there is: once will do.
        weight = torch.cat([self.project.weight, self.skip.weight])
        biases = [bias for bias in (self.project.bias, self.skip.bias) if bias is not None]
        both = F.conv1d(h, weight, torch.cat(biases) if biases else None)
        return both[:, : self.project.out_channels], both[:, self.project.out_channels :]

    def _along_time(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            convolved: Tensor = self.depthwise(x)[..., : x.shape[-1]]
            return convolved
        # A tap is one multiplication per number; the library's convolution takes twice as long where it is dilated.
        (dilation,), (kernel,) = self.depthwise.dilation, self.depthwise.kernel_size
        centre = self._before // dilation
        weight, bias, frames = self.depthwise.weight, self.depthwise.bias, x.shape[-1]
        out = x * weight[:, 0, centre, None]
        if bias is not None:
            out += bias[:, None]
        for tap in range(kernel):
            offset = (tap - centre) * dilation
            if tap != centre and abs(offset) < frames:
                into, read = (
                    (slice(-offset, None), slice(offset)) if offset < 0 else (slice(-offset), slice(offset, None))
                )
                out[..., into].addcmul_(x[..., read], weight[:, 0, tap, None])
        return out


class Separator(nn.Module):
    """The filters' output ``[B, N, frames]`` -> masks ``[B, S, N, frames]``."""

    def __init__(self, config: Config):
        super().__init__()
        self._stems, self._activation = len(config.stems), config.mask
        self.norm = layer_norm(config.first_norm, config.filters)
        self.bottleneck = nn.Conv1d(config.filters, config.bottleneck, 1, bias=config.bias)
        count = config.repeats * config.blocks
        self.blocks = nn.ModuleList(Block(config, 2 ** (i % config.blocks), i == count - 1) for i in range(count))
        self.mask_prelu = nn.PReLU() if config.mask_prelu else nn.Identity()
        width = config.skip or config.bottleneck
        self.mask = nn.Conv1d(width, self._stems * config.filters, 1, bias=config.bias)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)  # as the reference does

    def forward(self, filtered: Tensor) -> Tensor:
        x = self.bottleneck(self.norm(filtered))
        skipped: Tensor | None = None
        for block in self.blocks:
            residual, skip = block(x)
            if residual is not None:
                x = residual.add_(x)
            if skip is not None:
                skipped = skip if skipped is None else skipped + skip
        scores = self.mask(self.mask_prelu(x if skipped is None else skipped))
        return activate(scores.unflatten(1, (self._stems, -1)), self._activation)


class DemucsCheckpoint:
    """The music version: a bare state dict (v2, as published), v2's package of class and arguments, or v1's tuple."""

    name = "Conv-TasNet, Demucs .th"

    def recognises(self, files: Checkpoint) -> bool:
        return len(files) == 1 and all(_prefix(file) is not None for file in files.values())

    def convert(self, files: Checkpoint) -> tuple[Config, dict[str, Tensor]]:
        found = [(file, prefix) for file in files.values() if (prefix := _prefix(file)) is not None]
        if len(files) != 1 or not found:
            raise CheckpointError(f"{', '.join(files) or 'no file'} is no Conv-TasNet of Demucs; give its one .th file")
        file, prefix = found[0]
        theirs = {name.removeprefix(prefix): t for name, t in file.tensors.items() if name.startswith(prefix)}
        blocks = [match for name in theirs if (match := _FIRST_OF_A_BLOCK.fullmatch(name))]
        repeats, per_repeat = (1 + max((int(m[i]) for m in blocks), default=-1) for i in (1, 2))
        if not 0 < repeats * per_repeat == len(blocks):
            raise CheckpointError(f"{file.name} holds {len(blocks)} blocks; expected as many in each repeat")
        renumbered = {
            _BLOCK.sub(lambda m: f"block.{int(m[1]) * per_repeat + int(m[2])}.", name): tensor
            for name, tensor in theirs.items()
        }
        causal = "block.0.3.net.4.weight" in renumbered
        if causal:  # one more step after the depthwise convolution, which cuts off what looks ahead
            renumbered = {_AFTER_THE_CUT.sub(lambda m: f"{m[1]}{int(m[2]) - 1}.", n): t for n, t in renumbered.items()}
        state = renamed("Conv-TasNet", renumbered, _DEMUCS, {})
        for name, tensor in state.items():
            if "norm." in name and tensor.ndim == 3:
                state[name] = tensor.flatten()  # stored as [1, N, 1]
        return _demucs_config(file, state, repeats, per_repeat, causal), state


class AsteroidCheckpoint:
    """asteroid's serialized ``ConvTasNet``."""

    name = "Conv-TasNet, asteroid"

    def recognises(self, files: Checkpoint) -> bool:
        return AsteroidFile.is_of(files, "ConvTasNet")

    def convert(self, files: Checkpoint) -> tuple[Config, dict[str, Tensor]]:
        file = AsteroidFile(files)
        norm, causal = file.norm(), file.flag("causal", False)
        if causal and norm not in ("channel", "cumulative"):
            norm = "channel"  # as the class puts right what it was asked for
        config: Config = refusing(
            Config,
            **file.settings(filters=512, mask="sigmoid"),
            bottleneck=file.number("bn_chan", 128),
            hidden=file.number("hid_chan", 512),
            skip=0 if file.is_none("skip_chan") else file.number("skip_chan", 128, least=0),
            kernel=file.number("conv_kernel_size", 3),
            blocks=file.number("n_blocks", 8),
            repeats=file.number("n_repeats", 3),
            norm=norm,
            first_norm=norm,
            bias=True,
            mask_prelu=True,
            causal=causal,
            track_normalised=False,
        )
        last = config.repeats * config.blocks - 1
        dropped = {}
        if config.skip:
            dropped = {rf"masker\.TCN\.{last}\.res_conv\.(weight|bias)": "adds to a sum that nothing reads"}
        state = file.renamed("Conv-TasNet", _ASTEROID, dropped)
        return config, state


@register(
    "conv_tasnet",
    config=Config,
    paper="Luo, Mesgarani, TASLP 2019, https://arxiv.org/abs/1809.07454",
    papers=dict.fromkeys(
        ("conv-tasnet", "conv-tasnet-x8"), "Défossez, Usunier, Bottou, Bach, 2019, https://arxiv.org/abs/1911.13254"
    ),
    domain="waveform",
    importers=(DemucsCheckpoint(), AsteroidCheckpoint()),
    published={"conv-tasnet": Config(), "conv-tasnet-x8": Config(blocks=8)},
)
class ConvTasNet(TasNet):
    """The published system."""

    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.separator = Separator(config)


# Reading checkpoints.

_FIRST_OF_A_BLOCK = re.compile(r"separator\.network\.2\.(\d{1,3})\.(\d{1,3})\.net\.0\.weight")
_BLOCK = re.compile(r"separator\.network\.2\.(\d{1,3})\.(\d{1,3})\.net\.")
_AFTER_THE_CUT = re.compile(r"(block\.\d+\.3\.net\.)([2-4])\.")
_DEMUCS = (
    (r"encoder\.conv1d_U\.weight", "encoder.weight"),
    (r"decoder\.basis_signals\.weight", "decoder.weight"),
    (r"separator\.network\.1\.weight", "separator.bottleneck.weight"),
    (r"separator\.network\.3\.weight", "separator.mask.weight"),
    (r"block\.(\d+)\.0\.weight", r"separator.blocks.\1.expand.weight"),
    (r"block\.(\d+)\.1\.weight", r"separator.blocks.\1.first_prelu.weight"),
    (r"block\.(\d+)\.3\.net\.0\.weight", r"separator.blocks.\1.depthwise.weight"),
    (r"block\.(\d+)\.3\.net\.1\.weight", r"separator.blocks.\1.second_prelu.weight"),
    (r"block\.(\d+)\.3\.net\.3\.weight", r"separator.blocks.\1.project.weight"),
    *((rf"separator\.network\.0\.{theirs}", f"separator.norm.{ours}") for theirs, ours in NORM_PARTS[:2]),
    *((rf"block\.(\d+)\.2\.{theirs}", rf"separator.blocks.\1.first_norm.{ours}") for theirs, ours in NORM_PARTS),
    *(
        (rf"block\.(\d+)\.3\.net\.2\.{theirs}", rf"separator.blocks.\1.second_norm.{ours}")
        for theirs, ours in NORM_PARTS
    ),
)
_ASTEROID = (
    (r"encoder\.filterbank\._filters", "encoder.weight"),
    (r"decoder\.filterbank\._filters", "decoder.weight"),
    (r"masker\.bottleneck\.1\.(\w+)", r"separator.bottleneck.\1"),
    (r"masker\.mask_net\.0\.weight", "separator.mask_prelu.weight"),
    (r"masker\.mask_net\.1\.(\w+)", r"separator.mask.\1"),
    (r"masker\.TCN\.(\d+)\.shared_block\.0\.(\w+)", r"separator.blocks.\1.expand.\2"),
    (r"masker\.TCN\.(\d+)\.shared_block\.1\.weight", r"separator.blocks.\1.first_prelu.weight"),
    (r"masker\.TCN\.(\d+)\.shared_block\.3\.(?:0\.)?(\w+)", r"separator.blocks.\1.depthwise.\2"),  # .0 where causal
    (r"masker\.TCN\.(\d+)\.shared_block\.4\.weight", r"separator.blocks.\1.second_prelu.weight"),
    (r"masker\.TCN\.(\d+)\.res_conv\.(\w+)", r"separator.blocks.\1.project.\2"),
    (r"masker\.TCN\.(\d+)\.skip_conv\.(\w+)", r"separator.blocks.\1.skip.\2"),
    *((rf"masker\.bottleneck\.0\.{theirs}", f"separator.norm.{ours}") for theirs, ours in NORM_PARTS),
    *(
        (rf"masker\.TCN\.(\d+)\.shared_block\.{place}\.{theirs}", rf"separator.blocks.\1.{norm}.{ours}")
        for place, norm in ((2, "first_norm"), (5, "second_norm"))
        for theirs, ours in NORM_PARTS
    ),
)
_DEMUCS_NORMS: Mapping[str, NormKind] = {"gLN": "global", "cLN": "channel", "id": "none"}
"""Whatever else ``norm_type`` says stands for batch normalisation there."""
_POSITIONAL_1 = ("N", "L", "B", "H", "P", "X", "R", "C", "audio_channels")
_POSITIONAL_2 = (
    *("sources", "N", "L", "B", "H", "P", "X", "R", "audio_channels"),
    *("norm_type", "causal", "mask_nonlinear", "samplerate", "segment_length"),
)
"""The arguments of the reference's classes, in order."""


def _prefix(file: CheckpointFile) -> str | None:
    """What stands before the network's names: nothing, a package's key, or the place in v1's tuple."""
    if file.format != "torch":
        return None
    marks = ("encoder.conv1d_U.weight", "separator.network.0.gamma", "decoder.basis_signals.weight")
    return next((p for p in ("", "state.", "3.") if all(p + mark in file.tensors for mark in marks)), None)


def _demucs_config(
    file: CheckpointFile, state: Mapping[str, Tensor], repeats: int, blocks: int, causal: bool
) -> Config:
    """The sizes, from the tensors; the rest from the arguments, where the file has them."""
    ranks = {"encoder.weight": 3, "separator.bottleneck.weight": 3, "separator.mask.weight": 3}
    ranks |= {"separator.blocks.0.expand.weight": 3, "separator.blocks.0.depthwise.weight": 3}
    for name, rank in ranks.items():
        if name not in state or state[name].ndim != rank or not state[name].numel():
            raise CheckpointError(
                f"{file.name}: the sizes cannot be told, since {name} is no tensor of {rank} dimensions"
            )
    filters, channels, length = state["encoder.weight"].shape
    count, rest = divmod(len(state["separator.mask.weight"]), filters)
    arguments = _arguments(file)
    stems = arguments.get("sources", MUSIC if count == len(MUSIC) else [f"stem {i + 1}" for i in range(min(count, 65))])
    if rest or not isinstance(stems, list | tuple) or len(stems) != count or not all(isinstance(s, str) for s in stems):
        raise CheckpointError(
            f"{file.name} makes {len(state['separator.mask.weight'])} masks of {filters} filters; expected one set per "
            f"stem of {str(stems)[:80]}"
        )
    kind = arguments.get("mask_nonlinear", "relu")
    if kind not in ("relu", "softmax"):
        raise CheckpointError(f"{file.name} has masks of {str(kind)[:40]!r}; expected relu or softmax")
    mask: Activation = kind
    settings: dict[str, Any] = {}
    rate, segment = arguments.get("samplerate", 44100), arguments.get("segment_length")
    for value in (rate, segment):
        if value is not None and (not isinstance(value, int) or not 1 <= value <= 1 << 32):
            raise CheckpointError(
                f"{file.name} has a samplerate or segment_length {str(value)[:40]}; expected a number"
            )
    if segment is not None:
        settings["segment_seconds"] = segment / rate
    config: Config = refusing(
        Config,
        stems=tuple(stems),
        sample_rate=rate,
        channels=channels,
        filters=filters,
        filter_samples=length,
        hop_samples=length // 2,
        bottleneck=len(state["separator.bottleneck.weight"]),
        hidden=len(state["separator.blocks.0.expand.weight"]),
        kernel=state["separator.blocks.0.depthwise.weight"].shape[2],
        blocks=blocks,
        repeats=repeats,
        mask=mask,
        norm=_demucs_norm(state, arguments),
        causal=causal,
        **settings,
    )
    return config


def _demucs_norm(state: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> NormKind:
    """Tensors tell batch normalisation, or none; which of the others it is, the arguments do."""
    norm = "separator.blocks.0.first_norm."
    if norm + "running_mean" in state:
        return "batch"
    if norm + "weight" not in state:
        return "none"
    return _DEMUCS_NORMS.get(str(arguments.get("norm_type", "gLN")), "batch")


def _arguments(file: CheckpointFile) -> Mapping[str, Any]:
    """What the class was called with, by name; a bare state dict tells nothing."""
    content = file.metadata
    args: Any = ()
    kwargs: Any = {}
    names: Sequence[str] = _POSITIONAL_2
    if isinstance(content, tuple | list) and len(content) == 4:
        args, kwargs, names = content[1], content[2], _POSITIONAL_1
    elif isinstance(content, dict) and "kwargs" in content:
        args, kwargs = content.get("args", ()), content["kwargs"]
    if not isinstance(args, tuple | list) or not isinstance(kwargs, dict) or len(args) > len(names):
        raise CheckpointError(f"{file.name} has no arguments of a Conv-TasNet; it is damaged: fetch it again")
    return {**dict(zip(names, args, strict=False)), **kwargs}
