"""Demucs, versions 1 and 2: a convolutional U-Net on the waveform with a recurrent bottleneck.

Paper: A. Défossez, N. Usunier, L. Bottou, F. Bach, "Music Source Separation in the Waveform Domain", 2019 (version 1)
and 2021 (version 2), https://arxiv.org/abs/1911.13254. Reference code: github facebookresearch/demucs, branch v1 at
110f8fe and v2 at 64ed2cb (MIT); quantised weights: A. Défossez, Y. Adi, G. Synnaeve, "Differentiable Model Compression
via Pseudo Quantization Noise", 2021, with the PyPI package diffq 0.1.1. The predecessor of this project, github
media-comp/2022-iSeparate at 920077b, has a variant, whose checkpoints are read too;
docs/explanation/predecessor-demucs.md says in what it differs.

Shapes: waveform ``[B, C, T]``, made level with the whole song (mean 0, deviation 1 of its mono mix) -> twice the rate
(version 2) -> per encoder layer a convolution of 8 samples every 4, ReLU, a 1 x 1 convolution, GLU -> two
bidirectional LSTM layers, back to their input's width -> per decoder layer the encoder's output added, cut to the
middle, a convolution of 3, GLU, a transposed convolution of 8 every 4, ReLU -> the old rate -> ``[B, S, C, T]``. No
convolution pads, so the input is made longer first (`Config.input_samples`): by silence, or inside a song by what lies
beside the segment.

Hyper-parameters: all *code*; `widths` (64, doubled by each of 6 layers; 100 in version 1), kernel, stride, LSTM and
context also *paper*. Defaults are those of version 2.

Deviations, none in the ``-official`` settings: segments of 10 s, the length of the training excerpts, overlapping by a
quarter, in place of version 2's 40 s and of version 1's 10 s without overlap or surroundings: the LSTM's memory has no
bound, the network's own grows with the segment. Fresh weights are scaled by the deviation they are drawn with, where
the reference takes that of the drawn numbers. In training the level is that of the excerpt, not of its song.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iseparate.errors import CheckpointError
from iseparate.models._base import SeparationModel
from iseparate.models._diffq import is_quantised, small_tensors, unquantised
from iseparate.models._registry import register
from iseparate.nn.sinc_resample import SincResampler
from iseparate.types import Checkpoint, CheckpointFile, ModelSpec, TrackStatistics

STEMS = ("drums", "bass", "other", "vocals")
"""The order of the released models (*code*)."""
_BATCH_SECONDS = 40.0
"""That run together: the LSTM reads all of its weights at every step, for one segment or for four. As much as version
2's program takes at a time, so memory is what it was there."""
_QUIETEST_TRAINED = 0.01
"""Deviation up to which excerpts are brought to 1 in training: a quiet one of a loud song must stay quiet."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyper-parameters. All defaults are those of version 2's ``demucs``."""

    stems: tuple[str, ...] = STEMS
    sample_rate: int = 44100
    channels: int = 2
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    """Channels of each encoder layer, from the outermost."""
    kernel_size: int = 8
    stride: int = 4
    context: int = 3
    """Frames that a decoder layer's first convolution sees."""
    rewrite: bool = True
    """The 1 x 1 and the context convolutions are there."""
    glu: bool = True
    """Gates after them; else ReLU, and half as many outputs."""
    lstm_layers: int = 2
    lstm_width: int | None = None
    """Of each direction; None: that of the innermost layer."""
    resample: bool = True
    """Work at twice the sample rate (version 2)."""
    interpolate: bool = False
    """Version 1's ablation after Wave-U-Net: convolutions at every sample, of which every `stride`-th is kept, and
    linear interpolation in place of transposed convolutions."""
    normalise: Literal["none", "mono", "all"] = "none"
    """Level inside the network, padding included: none, of the mono mix (version 2's option), or of all channels
    together (the predecessor)."""
    epsilon: float = 1e-5
    """Added to the deviation that version 2 divides by, even where it does not normalise and divides by 1."""
    track_normalised: bool = True
    """Bring the song to mean 0 and deviation 1 before, and back after."""
    sixteen_bit: bool = False
    """Round the input to 16 bits, as version 1's program does."""
    framing: Literal["valid", "doubled"] = "valid"
    """How the input is made longer: to a length that all convolutions divide; or, as the predecessor does, by half of
    what it takes for one on either side, which twice as long an input need not be."""
    segment_seconds: float = 10.0
    """Of the engine's segments, without what is read beside them."""
    overlap: float = 0.25
    """Share of a segment in common with the next."""
    neighbours: bool = True
    """A segment is made longer by what lies beside it in the song; else by silence."""
    closing_segment: bool = False
    """Segments start until the song's end, even where one before has reached it (the program of version 2)."""
    init_deviation: float = 0.1
    """Fresh convolutions are scaled half way (in decibels) to this deviation; 0: left as PyTorch draws them."""

    def __post_init__(self) -> None:
        if not self.stems or len(set(self.stems)) != len(self.stems) or not all(self.stems):
            raise ValueError(f"stems are {list(self.stems)}; expected one name or more, none of them twice")
        if not 1 <= self.channels <= 8 or not 100 <= self.sample_rate <= 768_000:
            raise ValueError(
                f"channels is {self.channels}, sample_rate {self.sample_rate}; expected 1 to 8, and 100 to 768000 Hz"
            )
        if not 1 <= len(self.widths) <= 12 or not all(1 <= width <= 1 << 15 for width in self.widths):
            raise ValueError(f"widths are {list(self.widths)}; expected 1 to 12 layers of 1 to 32768 channels")
        if not 1 <= self.stride <= self.kernel_size <= 64:
            raise ValueError(
                f"kernel_size is {self.kernel_size}, stride {self.stride}; expected 1 to 64, no less than the stride"
            )
        if self.stride ** len(self.widths) > 1 << 24:
            raise ValueError(f"{len(self.widths)} layers of stride {self.stride} leave nothing of a song; take fewer")
        if not 1 <= self.context <= 15 or not 0 <= self.lstm_layers <= 8 or not 1 <= (self.lstm_width or 1) <= 1 << 15:
            raise ValueError(
                f"context is {self.context}, lstm_layers {self.lstm_layers}, lstm_width {self.lstm_width}; expected "
                "1 to 15, 0 to 8, and 1 to 32768"
            )
        if self.resample and self.interpolate:
            raise ValueError("resample and interpolate are both on; one system has the one, the other the other")
        if not 0 <= self.epsilon <= 1 or not 0 <= self.init_deviation <= 10:
            raise ValueError(
                f"epsilon is {self.epsilon}, init_deviation {self.init_deviation}; expected 0 to 1, 0 to 10"
            )
        if not 0 < self.segment_seconds <= 3600 or not 0 <= self.overlap < 1:
            raise ValueError(
                f"segment_seconds is {self.segment_seconds}, overlap {self.overlap}; expected more than 0 and at most "
                "3600 seconds, and a share in [0, 1)"
            )
        if self.framing == "doubled" and self.overlap:
            raise ValueError("framing doubled cuts no song into segments that overlap; set overlap to 0")

    @classmethod
    def tiny(cls) -> Config:
        """A network of the same shape that runs in milliseconds, for tests."""
        return cls(widths=(4, 6, 8), segment_seconds=0.02)

    def input_samples(self, samples: int) -> int:
        """The length, `samples` or more, on which the network's convolutions leave nothing over.

        Its output is shorter by what the context takes, and has `samples` in the middle.
        """
        rate = 2 if self.resample else 1
        frames = rate * samples
        for _ in self.widths:
            if self.interpolate:
                frames = -(-frames // self.stride) + self.kernel_size - 1
            else:
                frames = -(-(frames - self.kernel_size) // self.stride) + 1
            frames = max(1, frames) + self.context - 1
        return -(-self._outward(frames) // rate)

    def doubled_samples(self, samples: int) -> int:
        """The predecessor's length of the input: context is left out, and the padding is that of twice the song."""
        rate = 2 if self.resample else 1
        frames = rate * samples
        for _ in self.widths:
            frames = max(1, -(-(frames - self.kernel_size) // self.stride) + 1)
        return samples + 2 * (-(-self._outward(frames) // rate) // 2)

    def _outward(self, frames: int) -> int:
        """From the innermost frames to samples, at the network's rate."""
        for _ in self.widths:
            if self.interpolate:
                frames = frames * self.stride + self.kernel_size - 1
            else:
                frames = (frames - 1) * self.stride + self.kernel_size
        return frames

    @property
    def surroundings_samples(self) -> int:
        """The most that any length is made longer by on one side: what the engine reads beside each segment."""
        start, longest = 1, self.input_samples(1) - 1
        for _ in range(3):  # the excess is greatest where the length has just jumped, and the same at all later jumps
            ahead = range(start, start + 2 * self.stride ** len(self.widths) + self.kernel_size)
            start += bisect_right(ahead, self.input_samples(start), key=self.input_samples)
            longest = max(longest, self.input_samples(start) - start)
        return -(-longest // 2)


class Convolution(nn.Module):
    """``[B, T, in]`` -> ``[B, (T - taps) // stride + 1, out]``; weights ``[out, taps, in]``, as the memory runs."""

    def __init__(self, inputs: int, outputs: int, taps: int, stride: int = 1):
        super().__init__()
        self._stride = stride
        self.weight = nn.Parameter(torch.empty(outputs, taps, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        # As an image of one row: with channels last, nothing is reordered on the way in or out.
        image, weight = x.transpose(1, 2)[:, :, None], self.weight.transpose(1, 2)[:, :, None]
        return F.conv2d(image, weight, self.bias, stride=(1, self._stride))[:, :, 0].transpose(1, 2)


class TransposedConvolution(nn.Module):
    """``[B, T, in]`` -> ``[B, (T - 1) * stride + taps, out]``, as matrix products.

    Weights ``[taps // stride, in, stride * out]``: the outputs of one input frame, `stride` samples at a time; in
    `rest` those of the samples that are left, ``[in, (taps % stride) * out]``.
    """

    def __init__(self, inputs: int, outputs: int, taps: int, stride: int):
        super().__init__()
        whole, rest = divmod(taps, stride)
        self.taps, self._stride = taps, stride
        self.weight = nn.Parameter(torch.empty(whole, inputs, stride * outputs))
        self.rest = nn.Parameter(torch.empty(inputs, rest * outputs)) if rest else None
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        batch, frames, _ = x.shape
        outputs = self.bias.shape[0]
        pieces = list(self.weight.to(x.dtype))  # in half precision, in-place products do not cast
        if self.rest is not None:
            pieces.append(self.rest.to(x.dtype))
        bias = self.bias.to(x.dtype).repeat(self._stride)
        total = bias.expand(batch, frames + len(pieces) - 1, -1).contiguous()
        for i, piece in enumerate(pieces):
            total[:, i : i + frames, : piece.shape[1]].baddbmm_(x, piece.expand(batch, -1, -1))
        return total.view(batch, -1, outputs)[:, : (frames - 1) * self._stride + self.taps]


def _gate(glu: bool) -> nn.Module:
    return nn.GLU(2) if glu else nn.ReLU()


class EncoderLayer(nn.Module):
    """``[B, T, in]`` -> ``[B, T', width]``."""

    def __init__(self, config: Config, inputs: int, width: int):
        super().__init__()
        self.conv = Convolution(inputs, width, config.kernel_size, 1 if config.interpolate else config.stride)
        self.rewrite = nn.Linear(width, width * (1 + config.glu)) if config.rewrite else None
        self.gate = _gate(config.glu)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.conv(x))
        return x if self.rewrite is None else self.gate(self.rewrite(x))


class DecoderLayer(nn.Module):
    """``[B, T, width]`` -> ``[B, T', out]``; the outermost has no ReLU."""

    def __init__(self, config: Config, width: int, outputs: int, outermost: bool):
        super().__init__()
        self.rewrite = Convolution(width, width * (1 + config.glu), config.context) if config.rewrite else None
        self.gate = _gate(config.glu)
        if config.interpolate:
            self.conv: nn.Module = Convolution(width, outputs, config.kernel_size)
        else:
            self.conv = TransposedConvolution(width, outputs, config.kernel_size, config.stride)
        self._outermost = outermost

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x if self.rewrite is None else self.gate(self.rewrite(x)))
        return x if self._outermost else F.relu_(x)


class Network(nn.Module):
    """``[B, T, C]`` -> ``[B, T', S * C]``, T being of `Config.input_samples`, at the network's rate.

    Channels are last throughout, so that most of the work is products of large matrices.
    """

    def __init__(self, config: Config):
        super().__init__()
        self._keep_every = config.stride if config.interpolate else 1
        out = len(config.stems) * config.channels
        widths = config.widths
        inputs = (config.channels, *widths[:-1])
        outputs = (widths[0] if config.interpolate else out, *widths[:-1])
        self.encoder = nn.ModuleList(EncoderLayer(config, i, w) for i, w in zip(inputs, widths, strict=True))
        self.lstm, self.projection = None, None
        if config.lstm_layers:
            hidden = config.lstm_width or widths[-1]
            self.lstm = nn.LSTM(widths[-1], hidden, config.lstm_layers, bidirectional=True, batch_first=True)
            self.projection = nn.Linear(2 * hidden, widths[-1])
        layers = [DecoderLayer(config, w, o, i == 0) for i, (w, o) in enumerate(zip(widths, outputs, strict=True))]
        self.decoder = nn.ModuleList(reversed(layers))
        self.final = nn.Linear(widths[0] + config.channels, out) if config.interpolate else None
        self._initialise(config.init_deviation)

    def forward(self, x: Tensor) -> Tensor:
        mix, skips = x, []
        for layer in self.encoder:
            x = layer(x)
            skips.append(x)
            x = x[:, :: self._keep_every]
        if self.lstm is not None and self.projection is not None:
            x = self.projection(self.lstm(x)[0])
        for layer in self.decoder:
            if self.final is not None:
                x = _interpolated(x, self._keep_every)
            x = layer(x + _middle(skips.pop(), x.shape[1]))
        if self.final is not None:
            x = self.final(torch.cat([x, _middle(mix, x.shape[1])], 2))
        return x

    def _initialise(self, deviation: float) -> None:
        """PyTorch's own bounds for convolutions, then half way to `deviation`, weights and biases alike."""
        parts = [part for layer in (*self.encoder, *self.decoder) for part in (layer.conv, layer.rewrite)]
        for part in (*parts, self.final):
            if part is None:
                continue
            transposed = isinstance(part, TransposedConvolution)  # of which PyTorch counts the outputs
            fan = part.taps * part.bias.shape[0] if transposed else part.weight[0].numel()
            bound = fan**-0.5
            if deviation:
                bound = math.sqrt(bound * math.sqrt(3) * deviation)  # evenly distributed in ±b, the deviation is b / √3
            for parameter in part.parameters():
                nn.init.uniform_(parameter, -bound, bound)


def _middle(x: Tensor, length: int, dim: int = 1) -> Tensor:
    """Cut to the middle; of an odd excess the larger half goes at the end."""
    return x.narrow(dim, (x.shape[dim] - length) // 2, length)


def _interpolated(x: Tensor, times: int) -> Tensor:
    """``[B, T, C]`` -> ``[B, (T - 1) * times, C]``: straight lines between frames."""
    share = torch.arange(times, device=x.device, dtype=x.dtype)[:, None] / times
    return torch.lerp(x[:, :-1, None], x[:, 1:, None], share).flatten(1, 2)


PUBLISHED = {
    "demucs-v1": Config(widths=tuple(100 << i for i in range(6)), resample=False, epsilon=0.0),
    "demucs-v1-light": Config(resample=False, epsilon=0.0),
    "demucs-v2": Config(),
    "demucs-v2-48": Config(widths=tuple(48 << i for i in range(6))),
}


# Reading checkpoints.

_OURS = (
    (r"encoder\.(\d+)\.0\.", r"encoder.\1.conv."),
    (r"encoder\.(\d+)\.2\.", r"encoder.\1.rewrite."),
    (r"decoder\.(\d+)\.0\.", r"decoder.\1.rewrite."),  # or conv, where it has no 2
    (r"decoder\.(\d+)\.2\.", r"decoder.\1.conv."),
    (r"lstm\.lstm\.", "lstm."),
    (r"lstm\.linear\.", "projection."),
    (r"final\.", "final."),
)
"""The reference's names and ours, below ``network.``."""
_PREDECESSORS = (
    (r"encoder\.encoder_layers\.", "encoder."),
    (r"decoder\.decoder_layers\.", "decoder."),
    (r"center_blstm\.", "lstm.lstm."),
    (r"center_projection\.", "lstm.linear."),
)
"""The predecessor's names and the reference's."""
_THEIRS = re.compile(
    r"(encoder|decoder)\.\d{1,2}\.[02]\.(weight|bias)"
    r"|lstm\.lstm\.(weight|bias)_(ih|hh)_l\d(_reverse)?|lstm\.linear\.(weight|bias)|final\.(weight|bias)"
)
_MARKS = frozenset({"encoder.0.0.weight", "decoder.0.0.weight"})


class Version1:
    """The files of version 1: a tuple of class, arguments, keyword arguments and state, also inside gzip."""

    name = "Demucs v1 .th"

    def recognises(self, files: Checkpoint) -> bool:
        content = _content(files)
        return isinstance(content, tuple | list) and len(content) == 4 and _is_demucs(content[0])

    def convert(self, files: Checkpoint) -> tuple[Config, dict[str, Tensor]]:
        file = _one(files, self)
        _, args, kwargs, _ = file.metadata
        said = _arguments(file, args, kwargs, _POSITIONAL_1)
        state = {name[2:]: tensor for name, tensor in file.tensors.items() if name.startswith("3.")}
        return _converted(file, state, said, resample=False, epsilon=0.0)


class Version2:
    """The packages that version 2's training writes: class, arguments, state, and the training's options.

    The state is in single or half precision, or quantised by DiffQ or to a fixed number of bits.
    """

    name = "Demucs v2 package .th"

    def recognises(self, files: Checkpoint) -> bool:
        content = _content(files)
        return isinstance(content, dict) and {"kwargs", "state"} <= set(content) and _is_demucs(content.get("klass"))

    def convert(self, files: Checkpoint) -> tuple[Config, dict[str, Tensor]]:
        file = _one(files, self)
        content = file.metadata
        said = _arguments(file, content.get("args", ()), content["kwargs"], _POSITIONAL_2)
        if is_quantised(content["state"]):
            options = getattr(content.get("training_args"), "state", None)
            bits = options.get("qat") if isinstance(options, dict) else None
            return _unquantised(file, content["state"], said, bits)
        # What lies beside the state, training_args, are the options of the training.
        state = {name[6:]: tensor for name, tensor in file.tensors.items() if name.startswith("state.")}
        return _converted(file, state, said)


class Version2State:
    """The published files of version 2: a bare state, quantised or not. Its tensors tell all sizes but the stride."""

    name = "Demucs v2 state .th"

    def recognises(self, files: Checkpoint) -> bool:
        content = _content(files)
        if is_quantised(content):
            return _layers_of(content) is not None
        file = next(iter(files.values()), None)
        return (
            file is not None
            and len(files) == 1
            and set(file.tensors) >= _MARKS
            and ("encoder.0.2.weight" in file.tensors) == ("decoder.0.2.weight" in file.tensors)
            and all(map(_THEIRS.fullmatch, file.tensors))
        )

    def convert(self, files: Checkpoint) -> tuple[Config, dict[str, Tensor]]:
        file = _one(files, self)
        if is_quantised(file.metadata):
            return _unquantised(file, file.metadata, {}, None)
        return _converted(file, dict(file.tensors), {})


class Predecessor:
    """The checkpoints of the predecessor's training (``checkpoint_Demucs_*.pt``), which keep their arguments."""

    name = "iSeparate 2022 Demucs .pt"

    def recognises(self, files: Checkpoint) -> bool:
        file = next(iter(files.values()), None)
        marks = {"state_dict.encoder.encoder_layers.0.0.weight", "state_dict.center_projection.weight"}
        return file is not None and len(files) == 1 and file.format == "torch" and marks <= set(file.tensors)

    def convert(self, files: Checkpoint) -> tuple[Config, dict[str, Tensor]]:
        file = _one(files, self)
        try:
            arguments = file.metadata["config"].state
            training, sizes = arguments["data_loader_args"]["train"], arguments["model_args"]
            said: dict[str, Any] = {"stems": tuple(training["target_sources"]), "sample_rate": training["sample_rate"]}
            said |= {"resample": sizes["resample"], "stride": sizes["encoder_params"]["encoder_stride"]}
            gates = {sizes[f"{side}_params"][f"{side}_nonlinearity"] for side in ("encoder", "decoder")}
        except (AttributeError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{file.name} does not say how its network was made ({error}); expected the arguments of its training "
                "under config"
            ) from None
        if gates != {"glu"}:
            raise CheckpointError(f"{file.name} has {' and '.join(map(str, gates))} for gates; only glu is read here")
        # What lies beside state_dict, optimizer and scaler, is the training's.
        state = {
            _translated(name.removeprefix("state_dict."), _PREDECESSORS): tensor
            for name, tensor in file.tensors.items()
            if name.startswith("state_dict.")
        }
        return _converted(file, state, said, normalise="all", track_normalised=False)


@register(
    "demucs",
    config=Config,
    paper="Défossez, Usunier, Bottou, Bach, 2021, https://arxiv.org/abs/1911.13254",
    papers=dict.fromkeys(
        ("demucs-v1", "demucs-v1-light"), "Défossez, Usunier, Bottou, Bach, 2019, https://arxiv.org/abs/1911.13254v1"
    ),
    domain="waveform",
    importers=(Version1(), Version2(), Version2State(), Predecessor()),
    published=PUBLISHED,
)
class Demucs(SeparationModel):
    """The published systems: level, rate, network, and back."""

    config: Config
    kernels: tuple[str, ...] = ("network",)

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.network = Network(config)
        self.up = SincResampler(1, 2) if config.resample else None
        self.down = SincResampler(2, 1) if config.resample else None
        beside = config.surroundings_samples if config.neighbours and config.framing == "valid" else 0
        kept = round(config.segment_seconds * config.sample_rate)
        self.spec = ModelSpec(
            stems=config.stems,
            sample_rate=config.sample_rate,
            channels=config.channels,
            default_segment_seconds=(max(1, kept) + 2 * beside) / config.sample_rate,
            batch_seconds=_BATCH_SECONDS if config.lstm_layers else 0.0,
            lead_samples=beside,
            edge_samples=beside,
            default_overlap=config.overlap,
            window="triangular" if config.overlap else "rectangular",
            starts_to_the_end=config.closing_segment,
            track_statistics="mono_mean_std" if config.track_normalised else "none",
        )

    def forward(self, mix: Tensor, track: TrackStatistics | None = None) -> Tensor:
        """``[B, C, T]`` -> ``[B, S, C, T]``; beyond the ends there is silence."""
        config, samples = self.config, mix.shape[-1]
        length = config.input_samples(samples) if config.framing == "valid" else config.doubled_samples(samples)
        before = (length - samples) // 2
        x, mean, std = self._levelled(mix, track)
        x = F.pad(x, (before, length - samples - before))
        return _middle(self.separate_exactly(x), samples, 3) * std[..., None] + mean[..., None]

    def separate_segment(self, mix: Tensor, track: TrackStatistics | None = None) -> Tensor:
        """As the base: the edges are what is read beside the segment, and come out as nothing."""
        beside = self.spec.edge_samples
        if not beside:
            return self.forward(mix, track)
        samples = mix.shape[-1] - 2 * beside
        length = self.config.input_samples(samples)
        mix = mix.narrow(2, beside - (length - samples) // 2, length)
        x, mean, std = self._levelled(mix, track)
        # Beyond the song there is silence at the network's level: 0 now, not what the song's mean makes of it.
        stems = self.separate_exactly(x * _within_song(mix))
        stems = _middle(stems, samples, 3) * std[..., None] + mean[..., None]
        return F.pad(stems, (beside, beside))

    def separate_exactly(self, x: Tensor) -> Tensor:
        """What the reference calls the model: ``[B, C, T]`` -> ``[B, S, C, T']``, T being a valid length.

        Neither brought to a level nor made longer before; T' is shorter, and belongs to the middle of T.
        """
        mean, std = self._inner_level(x)
        x = (x - mean) / (std + self.config.epsilon)
        if self.up is not None:
            x = self.up(x)
        x = self.network(x.transpose(1, 2).contiguous()).float().transpose(1, 2)
        if self.down is not None:
            x = self.down(x)
        return (x * std + mean).view(len(x), len(self.config.stems), self.config.channels, -1)

    def training_loss(self, mix: Tensor, stems: Tensor, criterion: nn.Module) -> dict[str, Tensor]:
        """As the base, at the network's level, so that a quiet song counts as much as a loud one.

        Where the excerpt is long enough, only its middle is compared: the network hears no silence around it.
        """
        samples = mix.shape[-1]
        while samples > 0 and self.config.input_samples(samples) > mix.shape[-1]:
            samples -= max(1, (self.config.input_samples(samples) - mix.shape[-1]) // 2)
        if samples <= 0 or criterion.domain != "waveform":
            return super().training_loss(mix, stems, criterion)
        length = self.config.input_samples(samples)
        x, mean, std = self._levelled(_middle(mix, length, 2), None, least=_QUIETEST_TRAINED)
        references = (_middle(stems, length, 3) - mean[..., None]) / std[..., None]
        estimates = self.separate_exactly(x)
        heard = estimates.shape[3]
        return {"loss": criterion(estimates, _middle(references, heard, 3), _middle(x, heard, 2))}

    def _levelled(
        self, mix: Tensor, track: TrackStatistics | None, least: float = 1e-8
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The mix at mean 0 and deviation 1 of its song, and both ``[B, 1, 1]``."""
        if self.config.sixteen_bit:
            mix = (mix * 32768).round() / 32768
        if not self.config.track_normalised:
            return mix, mix.new_zeros(1, 1, 1), mix.new_ones(1, 1, 1)
        if track is not None:
            mean, std = mix.new_full((1, 1, 1), track.mean), mix.new_full((1, 1, 1), track.std)
        else:
            mean, std = _level(mix.mean(1, keepdim=True))
        std = std.clamp_min(least)  # digital silence has none
        return (mix - mean) / std, mean, std

    def _inner_level(self, x: Tensor) -> tuple[Tensor, Tensor]:
        match self.config.normalise:
            case "mono":
                return _level(x.mean(1, keepdim=True))
            case "all":
                return _level(x.flatten(1)[:, None])
        return x.new_zeros(1, 1, 1), x.new_ones(1, 1, 1)


def _level(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased deviation of ``[B, 1, n]``, each ``[B, 1, 1]``; of one sample the deviation is 0."""
    std, mean = torch.std_mean(x, 2, keepdim=True, correction=min(1, x.shape[2] - 1))
    return mean, std


def _within_song(mix: Tensor) -> Tensor:
    """0 before the first sample that sounds and after the last, 1 between: ``[B, 1, T]``."""
    sounds = (mix != 0).any(1, keepdim=True)
    return (sounds.cumsum(2) > 0) & (sounds.flip(2).cumsum(2).flip(2) > 0)


def _content(files: Checkpoint) -> Any:
    """What the only file holds, if there is one and PyTorch wrote it."""
    file = next(iter(files.values()), None)
    return file.metadata if file is not None and len(files) == 1 and file.format == "torch" else None


def _one(files: Checkpoint, importer: Any) -> CheckpointFile:
    if not importer.recognises(files):
        raise CheckpointError(
            f"{', '.join(files) or 'nothing'} is not one file of {importer.name}; check what was given"
        )
    return next(iter(files.values()))


def _is_demucs(named: Any) -> bool:
    """Whether this is the class of versions 1 and 2, which is called as others of later versions are."""
    return getattr(named, "path", None) == "demucs.model.Demucs"


_BEFORE = ("sources", "audio_channels", "channels", "depth", "rewrite", "glu")
_AFTER = ("kernel_size", "stride", "growth", "lstm_layers", "context")
_POSITIONAL_1 = (*_BEFORE, "upsample", "rescale", *_AFTER, "samplerate")
_POSITIONAL_2 = (*_BEFORE, "rescale", "resample", *_AFTER, "normalize", "samplerate", "segment_length")
"""The arguments of the reference's classes, in order."""


def _arguments(file: CheckpointFile, args: Any, kwargs: Any, names: Sequence[str]) -> dict[str, Any]:
    """What the reference's arguments say that the tensors do not, in our Config's words."""
    if not isinstance(args, tuple | list) or not isinstance(kwargs, dict) or len(args) > len(names):
        raise CheckpointError(f"{file.name} has no arguments of a Demucs; it is damaged: fetch it again")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    said: dict[str, Any] = {}
    sources = given.get("sources")
    if isinstance(sources, tuple | list):
        said["stems"] = tuple(sources)
    plain = {
        "samplerate": "sample_rate",
        "stride": "stride",
        "resample": "resample",
        "upsample": "interpolate",
        "rescale": "init_deviation",
        "audio_channels": "channels",
    }
    said |= {ours: given[theirs] for theirs, ours in plain.items() if given.get(theirs) is not None}
    if "normalize" in given:
        said["normalise"] = "mono" if given["normalize"] else "none"
    if given.get("segment_length") is not None:  # the reference keeps four times what it trained on
        said["segment_seconds"] = (
            _number(file, given["segment_length"]) / 4 / _number(file, given.get("samplerate", 44100))
        )
    width, widths = int(_number(file, given.get("channels", 64))), []
    for _ in range(min(64, int(_number(file, given.get("depth", 6))))):
        widths.append(width)
        width = min(1 << 20, int(_number(file, given.get("growth", 2.0)) * width))
    said["widths"] = tuple(widths)
    said |= {key: given[key] for key in ("rewrite", "glu", "context", "kernel_size", "lstm_layers") if key in given}
    return said


def _number(file: CheckpointFile, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1 << 40:
        raise CheckpointError(f"{file.name} has {str(value)[:40]!r} among its sizes; expected a number above 0")
    return value


def _config(file: CheckpointFile, **values: Any) -> Config:
    whole = ("sample_rate", "stride", "channels", "kernel_size", "context", "lstm_layers")
    try:
        for key in whole:
            if type(value := values.get(key, 1)) not in (int, float) or value != int(value):
                raise ValueError(f"{key} is {str(value)[:40]!r}")
            values |= {key: int(value)} if key in values else {}
        for key in ("resample", "interpolate", "rewrite", "glu"):
            if key in values and type(values[key]) is not bool:
                raise ValueError(f"{key} is {str(values[key])[:40]!r}")
        if "stems" in values and not all(
            isinstance(s, str) and re.fullmatch(r"\w[\w -]{0,63}", s) for s in values["stems"]
        ):
            raise ValueError("its stems are no names")
        return Config(**values)
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{file.name} is not a Demucs that can be built: {error}") from None


def _converted(
    file: CheckpointFile, state: Mapping[str, Tensor], said: Mapping[str, Any], **fixed: Any
) -> tuple[Config, dict[str, Tensor]]:
    """Config and state; sizes are taken from the tensors, whatever the arguments say of them."""
    if strangers := [name for name in state if not _THEIRS.fullmatch(name)]:
        raise CheckpointError(f"{file.name} holds a tensor that Demucs has not: {strangers[0][:80]}")
    depth = 1 + max((int(n.split(".")[1]) for n in state if n.startswith("encoder.")), default=-1)
    first, rewrite = _shape(file, state, "encoder.0.0.weight"), "encoder.0.2.weight" in state
    widths = tuple(_shape(file, state, f"encoder.{i}.0.weight")[0] for i in range(depth))
    interpolates = "final.weight" in state
    last = "final.weight" if interpolates else f"decoder.{depth - 1}.{2 if rewrite else 0}.weight"
    outputs = _shape(file, state, last)[0 if interpolates else 1]
    lstm = [name for name in state if re.fullmatch(r"lstm\.lstm\.weight_hh_l\d", name)]
    values = {
        **{key: value for key, value in said.items() if key not in ("widths", "channels")},
        "channels": first[1],
        "widths": widths,
        "kernel_size": first[2],
        "rewrite": rewrite,
        "interpolate": interpolates,
        "lstm_layers": len(lstm),
        **fixed,
    }
    if rewrite:
        values["context"] = _shape(file, state, "decoder.0.0.weight")[2]
        values["glu"] = _shape(file, state, "encoder.0.2.weight")[0] != widths[0]
    if lstm and (width := _shape(file, state, lstm[0], 2)[1]) != widths[-1]:
        values["lstm_width"] = width
    values.setdefault("stems", STEMS if outputs == 4 * first[1] else _numbered(file, outputs, first[1]))
    config = _config(file, **values)
    return config, _renamed(file, state, config)


def _numbered(file: CheckpointFile, outputs: int, channels: int) -> tuple[str, ...]:
    if not outputs or outputs % channels or outputs > 64 * channels:
        raise CheckpointError(f"{file.name} has {outputs} outputs, which are no stems of {channels} channels")
    return tuple(f"stem {i + 1}" for i in range(outputs // channels))


def _shape(file: CheckpointFile, state: Mapping[str, Tensor], name: str, dimensions: int = 3) -> Sequence[int]:
    if name not in state or state[name].ndim != dimensions or not state[name].numel():
        came = f"has shape {list(state[name].shape)}" if name in state else "is missing"
        raise CheckpointError(f"{file.name}: {name} {came}; a tensor of {dimensions} dimensions was expected")
    return state[name].shape


def _translated(name: str, table: Sequence[tuple[str, str]]) -> str:
    for theirs, ours in table:
        name = re.sub(f"^{theirs}", ours, name)
    return name


def _renamed(file: CheckpointFile, state: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """The reference's tensors under our names, their axes in our order."""
    renamed: dict[str, Tensor] = {}
    for theirs, tensor in state.items():
        name = _translated(theirs, _OURS)
        if not config.rewrite and name.startswith("decoder"):
            name = name.replace("rewrite", "conv")
        is_convolution = name.endswith(("conv.weight", "rewrite.weight", "final.weight"))
        turned = _turned(file, theirs, name, tensor, config) if is_convolution else {name: tensor}
        renamed |= {f"network.{ours}": part for ours, part in turned.items()}
    return renamed


def _turned(file: CheckpointFile, theirs: str, name: str, tensor: Tensor, config: Config) -> dict[str, Tensor]:
    """Weights of a convolution, which PyTorch keeps as ``[out, in, taps]``, or ``[in, out, taps]`` if transposed."""
    single = name.startswith("final") or (name.startswith("encoder") and "rewrite" in name)
    transposed = name.startswith("decoder") and "conv" in name and not config.interpolate
    taps = _shape(file, {theirs: tensor}, theirs)[2]
    expected = 1 if single else config.kernel_size if transposed else taps
    if taps != expected:
        raise CheckpointError(f"{file.name}: {theirs} has {taps} taps where {expected} were expected")
    if single:
        return {name: tensor[:, :, 0].contiguous()}
    if transposed:
        whole, rest = torch.split(tensor, [taps - taps % config.stride, taps % config.stride], 2)
        pieces = whole.reshape(*tensor.shape[:2], -1, config.stride)
        ours = {name: pieces.permute(2, 0, 3, 1).flatten(2)}
        return ours | ({f"{name[:-6]}rest": rest.transpose(1, 2).flatten(1)} if rest.numel() else {})
    return {name: tensor.transpose(1, 2).contiguous()}


def _unquantised(
    file: CheckpointFile, content: Mapping[str, Any], said: Mapping[str, Any], bits: Any
) -> tuple[Config, dict[str, Tensor]]:
    """As `_converted`, of parameters without names: the arguments tell the sizes, or the biases do."""
    values = dict(said)
    if "widths" not in values:
        found = _layers_of(content)
        first = next(iter(small_tensors(content)), None)
        if found is None or first is None or first.ndim != 3:
            raise CheckpointError(f"{file.name} holds quantised weights that do not tell their network")
        values["widths"], outputs, values["lstm_layers"] = found
        values["channels"] = first.shape[1]
        values["stems"] = STEMS if outputs == 4 * first.shape[1] else _numbered(file, outputs, first.shape[1])
    config = _config(file, **values)
    fixed_bits = bits if type(bits) is int and 1 <= bits <= 15 else None
    return config, _renamed(file, unquantised(content, _reference_shapes(config), fixed_bits), config)


def _layers_of(content: Mapping[str, Any]) -> tuple[tuple[int, ...], int, int] | None:
    """Widths, outputs and LSTM layers, as the lengths of the biases tell them; None: they are not of a Demucs."""
    sizes = [t.shape[0] for t in content["others"] if isinstance(t, Tensor) and t.ndim == 1]
    for depth in range(1, 13):
        widths = sizes[0 : 2 * depth : 2]
        outward = [
            size
            for width, narrower in zip(widths[::-1], widths[-2::-1], strict=False)
            for size in (2 * width, narrower)
        ]
        rest = sizes[2 * depth + len(outward) :]
        fits = sizes[1 : 2 * depth : 2] == [2 * width for width in widths]
        if not fits or len(widths) < depth or sizes[2 * depth :][: len(outward)] != outward or len(rest) < 3:
            continue
        layers, over = divmod(len(rest) - 3, 4)
        if rest[0] == 2 * widths[0] and not over and rest[2:] == [4 * widths[-1]] * (4 * layers) + [widths[-1]]:
            return tuple(widths), rest[1], layers
    return None


def _reference_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The reference's parameters in the order of its modules."""
    shapes: dict[str, tuple[int, ...]] = {}
    rows = 1 + config.glu
    inputs = (config.channels, *config.widths[:-1])
    outputs = (len(config.stems) * config.channels, *config.widths[:-1])
    for i, (before, width) in enumerate(zip(inputs, config.widths, strict=True)):
        shapes |= {f"encoder.{i}.0.weight": (width, before, config.kernel_size), f"encoder.{i}.0.bias": (width,)}
        if config.rewrite:
            shapes |= {f"encoder.{i}.2.weight": (rows * width, width, 1), f"encoder.{i}.2.bias": (rows * width,)}
    for i, (after, width) in enumerate(zip(outputs[::-1], config.widths[::-1], strict=True)):
        if config.rewrite:
            shapes |= {
                f"decoder.{i}.0.weight": (rows * width, width, config.context),
                f"decoder.{i}.0.bias": (rows * width,),
            }
        conv = f"decoder.{i}.{2 if config.rewrite else 0}"
        shapes |= {f"{conv}.weight": (width, after, config.kernel_size), f"{conv}.bias": (after,)}
    width = config.widths[-1]
    hidden = config.lstm_width or width
    for layer in range(config.lstm_layers):
        for side in ("", "_reverse"):
            shapes[f"lstm.lstm.weight_ih_l{layer}{side}"] = (4 * hidden, 2 * hidden if layer else width)
            shapes[f"lstm.lstm.weight_hh_l{layer}{side}"] = (4 * hidden, hidden)
            shapes[f"lstm.lstm.bias_ih_l{layer}{side}"] = shapes[f"lstm.lstm.bias_hh_l{layer}{side}"] = (4 * hidden,)
    if config.lstm_layers:
        shapes |= {"lstm.linear.weight": (width, 2 * hidden), "lstm.linear.bias": (width,)}
    return shapes
