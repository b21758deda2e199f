"""Meta-TasNet: three TasNets at rising sample rates, whose kernels are generated from embeddings of the instruments.

Paper: D. Samuel, A. Ganeshan, J. Naradowsky, "Meta-learning Extractors for Music Source Separation", ICASSP 2020.
Reference code: github pfnet-research/meta-tasnet at 30eba96 (MIT, as its README says). The resampler is resampy 0.2.2's
with the filter ``kaiser_best`` (ISC), which its program calls through librosa.

Shapes: one channel at 8, 16 and 32 kHz, each stage with frames of 2.5 ms: waveform ``[B, 1, T]`` -> three convolutions
of different lengths and a log-power spectrum brought to the same frames -> `latents` per frame, twice as many at twice
the rate -> masks of all four instruments, which see the masked latents of the stage below too -> latents of each
instrument -> three transposed convolutions -> ``[B, S, T]``. The highest stage's signals are the result, each scaled
so that together they sum best to the mixture (least squares): the loss knows no scale.

Hyper-parameters are the released model's (*code*: ``train.py``), named in *paper* as far as it gives them.

Deviations: none in the ``-official`` setting, which resamples from 44.1 kHz itself, divides each rate by a deviation of
its own, runs eight chunks with 8 s more to either side, and takes the gains over the whole song; only where the
original stops (a silent channel, an end that its framing lost) are there samples here. The default lets the engine
resample to 32 kHz and cut the song into segments of 24 s that overlap by a quarter. The lower rates come from that by
the same resampler, all are divided by the deviation of the whole channel at 32 kHz, and the gains are the segment's.

What the original does in more steps is folded: a normalisation before a 1x1 convolution goes into its kernel, the
mixture's latents are read once for all four instruments, residual and skip are one product, and lower stages are not
decoded where nobody listens. Kernels are generated at each call: beside a segment that takes no time, and no copy can
go stale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from iseparate.errors import CheckpointError
from iseparate.models._base import SeparationModel
from iseparate.models._registry import register
from iseparate.types import Checkpoint, CheckpointFile, ModelSpec, TrackStatistics

_GROUPS = 8
"""Of each instrument's channels, in every normalisation."""
_EPS = 1e-8
_SPECTRUM_SAMPLES, _SPECTRUM_HOP = 1024, 256
"""Of a stage at 8 kHz; twice as long at twice the rate."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyper-parameters. All defaults are those of the released model (*code*) but those of the engine's segments."""

    stems: tuple[str, ...] = ("drums", "bass", "other", "vocals")
    base_rate: int = 8000
    """Of the first stage, in Hz; each further stage has twice that of the one before."""
    stages: int = 3
    latents: int = 440
    """Of the first stage per frame (N); doubled from stage to stage."""
    kernel_samples: int = 20
    """Shortest encoder and decoder kernel of the first stage (L); each further kernel is twice as long."""
    stride_samples: int = 20
    """Of the first stage (W)."""
    filters: int = 3
    """Kernels of different length."""
    mels: int = 256
    """Features that a stage takes from its spectrum; the matrix is learned."""
    bottleneck: int = 160
    """Channels between the layers of a mask (B)."""
    hidden: int = 160
    """Channels inside a layer (H)."""
    layers: int = 6
    """Of a stack; each has twice the dilation of the one before."""
    stacks: int = 3
    generated: bool = True
    """Kernels are generated from an embedding of the instrument; False: each instrument has its own."""
    embedding: int = 8
    """Numbers that describe an instrument (E_1)."""
    embedding_bottleneck: int = 5
    """Numbers that a layer makes of them (E_2)."""
    residual_bias: bool = False
    resampling: Literal["engine", "resampy"] = "engine"
    """``engine``: the model's rate is that of the last stage. ``resampy``: it is 44.1 kHz, and the model resamples and
    scales each rate as the reference's program does."""
    chunks: int = 1
    """In how many parts a stage runs what it is given, each with 8 s more to either side."""
    segment_seconds: float = 24.0
    """Length of the engine's segments: an excerpt of training, 8 s, and the 8 s that the reference adds either side."""
    segment_overlap: float = 0.25
    """Share of a segment in common with the next; 0: each is separated by itself."""

    def __post_init__(self) -> None:
        if not self.stems or len(set(self.stems)) != len(self.stems):
            raise ValueError(f"stems are {self.stems}; expected different names")
        sizes = {
            name: getattr(self, name)
            for name in (
                *("stages", "latents", "kernel_samples", "stride_samples", "filters", "mels", "bottleneck"),
                *("hidden", "layers", "stacks", "embedding", "embedding_bottleneck", "chunks"),
            )
        }
        largest = {"stages": 4, "filters": 4, "layers": 12}
        for name, size in sizes.items():
            if not 1 <= size <= largest.get(name, 1 << 14):
                raise ValueError(f"{name} is {size}; expected 1 to {largest.get(name, 1 << 14)}")
        if self.base_rate % 8000 or not 8000 <= self.base_rate <= 48000:
            raise ValueError(f"base_rate is {self.base_rate}; expected a multiple of 8000 up to 48000")
        if self.latents % _GROUPS or self.bottleneck % _GROUPS or self.hidden % _GROUPS:
            raise ValueError(
                f"latents is {self.latents}, bottleneck {self.bottleneck}, hidden {self.hidden}; expected multiples "
                f"of {_GROUPS}"
            )
        if self.latents >> self.filters < 1 or self.stride_samples % 2 or self.kernel_samples % 2:
            raise ValueError("expected even kernel_samples and stride_samples, and latents that filters can share")
        if self.kernel_samples < self.stride_samples:
            raise ValueError(
                f"kernel_samples is {self.kernel_samples}; expected stride_samples ({self.stride_samples}) or more"
            )
        if not 0 < self.segment_seconds <= 3600 or not 0 <= self.segment_overlap < 1:
            raise ValueError(
                f"segment_seconds is {self.segment_seconds}, segment_overlap {self.segment_overlap}; expected more "
                "than 0 and at most 3600 seconds, and a share in [0, 1)"
            )

    @property
    def rates(self) -> tuple[int, ...]:
        """Sample rates of the stages, Hz."""
        return tuple(self.base_rate << stage for stage in range(self.stages))

    @classmethod
    def tiny(cls) -> Config:
        """A network of the same shape that runs in milliseconds, for tests."""
        return cls(latents=16, mels=4, bottleneck=8, hidden=8, layers=2, stacks=1, embedding=3, embedding_bottleneck=2)


class Kernels(nn.Module):
    """The kernels of a convolution, one per instrument: ``[instruments, out, in / groups, taps]``.

    Generated from the instruments' embeddings, or its own where `config.generated` is false.
    """

    def __init__(self, config: Config, inputs: int, outputs: int, taps: int = 1, groups: int = 1, bias: bool = False):
        super().__init__()
        instruments = len(config.stems)
        self.shape = (instruments, outputs, inputs // groups, taps)
        if config.generated:
            self.bottleneck = nn.Linear(config.embedding, config.embedding_bottleneck)
            self.kernel = nn.Linear(config.embedding_bottleneck, math.prod(self.shape[1:]))
            self.bias = nn.Linear(config.embedding_bottleneck, outputs) if bias else None
        else:
            channels = instruments * inputs, instruments * outputs
            self.conv = nn.Conv1d(*channels, taps, groups=instruments * groups, bias=bias)

    def forward(self, embedding: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The kernels, and the offsets ``[instruments, out]`` if there are any."""
        if embedding is None:
            bias = self.conv.bias
            return self.conv.weight.view(self.shape), None if bias is None else bias.view(self.shape[:2])
        code = self.bottleneck(embedding)
        return self.kernel(code).view(self.shape), None if self.bias is None else self.bias(code)


class Affine(nn.Module):
    """Gain and offset of a group normalisation, ``[instruments, channels]`` each, generated or not as `Kernels` are."""

    def __init__(self, config: Config, channels: int):
        super().__init__()
        if config.generated:
            self.bottleneck = nn.Linear(config.embedding, config.embedding_bottleneck)
            self.affine = nn.Linear(config.embedding_bottleneck, 2 * channels)
        else:
            instruments = len(config.stems)
            self.group_norm = nn.GroupNorm(_GROUPS * instruments, channels * instruments, _EPS)
        self.channels = channels

    def forward(self, embedding: Tensor | None) -> tuple[Tensor, Tensor]:
        if embedding is None:
            return self.group_norm.weight.view(-1, self.channels), self.group_norm.bias.view(-1, self.channels)
        gain, offset = self.affine(self.bottleneck(embedding)).chunk(2, 1)
        return gain, offset


def _normalised(x: Tensor, affine: tuple[Tensor, Tensor]) -> Tensor:
    """Group normalisation of ``[B * instruments, channels, frames]``."""
    gain, offset = affine
    songs = x.view(-1, gain.numel(), x.shape[-1])
    return F.group_norm(songs, _GROUPS * len(gain), gain.flatten(), offset.flatten(), _EPS).view(x.shape)


def _folded(
    kernel: Tensor, affine: tuple[Tensor, Tensor], total: Tensor, squares: Tensor, frames: int
) -> tuple[Tensor, Tensor]:
    """A 1x1 convolution that normalises its input itself.

    Args:
        kernel: ``[instruments, out, in]``.
        affine: gain and offset of the normalisation, ``[instruments, in]`` each.
        total: sums over the frames of each input channel, ``[B, instruments, in]``.
        squares: the same of their squares.
        frames: how many.

    Returns:
        ``[B, instruments, out, in]`` and what it adds, ``[B, instruments, out]``.
    """
    grouped = (*total.shape[:2], _GROUPS, -1)
    mean = (total / frames).view(grouped).mean(3, keepdim=True)
    variance = ((squares / frames).view(grouped).mean(3, keepdim=True) - mean.square()).clamp_min(0)
    scale = torch.rsqrt(variance + _EPS)
    gain = (affine[0].view(1, *grouped[1:]) * scale).flatten(2)
    offset = affine[1] - gain * mean.expand(*grouped[:3], total.shape[2] // _GROUPS).flatten(2)
    return kernel * gain[:, :, None], (kernel @ offset[..., None])[..., 0]


def _may_overwrite(x: Tensor) -> bool:
    """False where a gradient needs the old values, or where autocast, which leaves such steps alone, has to act."""
    return not (torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type))


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the last axis of the values and of their squares."""
    x = x.float()  # where the rest is bf16, sums are not
    return x.sum(-1), torch.linalg.vecdot(x, x)


class Layer(nn.Module):
    """The parameters of one dilated layer of a mask."""

    def __init__(self, config: Config):
        super().__init__()
        width, hidden, bias = config.bottleneck, config.hidden, config.residual_bias
        self.norm_1 = Affine(config, hidden)
        self.prelu_1 = nn.PReLU()
        self.conv1d = Kernels(config, width, hidden)
        self.norm_2 = Affine(config, hidden)
        self.prelu_2 = nn.PReLU()
        self.dconv1d = Kernels(config, hidden, hidden, 3, hidden)
        self.res_out = Kernels(config, hidden, width, bias=bias)
        self.skip_out = Kernels(config, hidden, width, bias=bias)


class Mask(nn.Module):
    """The latents of each instrument, out of those of the mixture and those of the stage below.

    ``[B, latents + instruments * below, frames]`` -> ``[B, instruments * latents, frames]``.
    """

    def __init__(self, config: Config, latents: int, below: int):
        super().__init__()
        width = config.bottleneck
        self.latents, self.below, self.width, self.layers = latents, below, width, config.layers
        self.instruments = len(config.stems)
        self.instrument_embedding = nn.Embedding(self.instruments, config.embedding) if config.generated else None
        self.norm_1 = Affine(config, latents + below)
        self.prelu_1 = nn.PReLU()
        self.in_conv = Kernels(config, latents + below, width)
        self.norm_2 = Affine(config, width)
        self.prelu_2 = nn.PReLU()
        self.tcn = nn.ModuleList(Layer(config) for _ in range(config.stacks * config.layers))
        self.norm_3 = Affine(config, width)
        self.prelu_3 = nn.PReLU()
        self.mask_output = Kernels(config, width, latents)
        self.norm_4 = Affine(config, latents)
        self.prelu_4 = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        embedding = None if self.instrument_embedding is None else self.instrument_embedding.weight
        mix = x[:, : self.latents]
        inner = self._enter(self.prelu_1(x), embedding)
        state = torch.cat([inner, torch.zeros_like(inner)], 1)
        # What the layers add to every frame alike is kept aside: it goes through the next kernel as one column.
        added = state.new_zeros(*state.shape[:2], 1)
        for i, layer in enumerate(self.tcn):
            assert isinstance(layer, Layer)
            state, added = self._through(layer, 2 ** (i % self.layers), embedding, state, added)
        skip = self.prelu_3(state[:, self.width :] + added[:, self.width :])
        del state, inner
        # The largest tensors of all, four times the latents: one name, so that each is let go of at once.
        values = self._product(self.mask_output(embedding)[0], self.norm_3(embedding), skip)
        values = self.prelu_4(values)
        values = _normalised(values, self.norm_4(embedding))
        values = values.view(len(x), -1, *mix.shape[1:]).softmax(1)
        values = values.mul_(mix[:, None]) if _may_overwrite(values) else values * mix[:, None]
        return values.flatten(1, 2)

    def _enter(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """Down to ``[B * instruments, bottleneck, frames]``; the mixture's part is the same input for all."""
        songs, frames, sources = len(x), x.shape[-1], self.instruments
        sums = []
        for values in _moments(x):
            mix, below = torch.split(values, [self.latents, sources * self.below], 1)
            shared = mix[:, None].expand(-1, sources, -1)
            sums.append(torch.cat([shared, below.reshape(songs, sources, self.below)], 2))
        kernel, added = _folded(self.in_conv(embedding)[0][..., 0], self.norm_1(embedding), sums[0], sums[1], frames)
        of_mix, of_below = torch.split(kernel, [self.latents, self.below], 3)
        inner = torch.baddbmm(added.view(songs, -1, 1), of_mix.flatten(1, 2), x[:, : self.latents])
        inner = inner.view(songs * sources, self.width, frames)
        if self.below:
            own = x[:, self.latents :].reshape(songs * sources, self.below, frames)
            inner = torch.baddbmm(inner, of_below.flatten(0, 1), own)
        return _normalised(self.prelu_2(inner), self.norm_2(embedding))

    def _through(
        self, layer: Layer, dilation: int, embedding: Tensor | None, state: Tensor, added: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One layer. The upper half of `state` runs through, the lower one collects the skips."""
        songs = len(state) // self.instruments
        kernel = layer.conv1d(embedding)[0][..., 0].repeat(songs, 1, 1)
        x = torch.baddbmm(kernel @ added[:, : self.width], kernel, state[:, : self.width])
        x = _normalised(layer.prelu_1(x), layer.norm_1(embedding)).view(songs, -1, x.shape[-1])
        taps = layer.dconv1d(embedding)[0].flatten(0, 1)
        x = layer.prelu_2(F.conv1d(x, taps, padding=dilation, dilation=dilation, groups=len(taps)))
        x = x.view(len(state), -1, x.shape[-1])
        (residual, residual_bias), (skip, skip_bias) = layer.res_out(embedding), layer.skip_out(embedding)
        both, more = self._fold(torch.cat([residual, skip], 1)[..., 0], layer.norm_2(embedding), x)
        if residual_bias is not None:
            more = more + torch.cat([residual_bias, skip_bias], 1).repeat(songs, 1)[..., None]
        add = Tensor.baddbmm_ if _may_overwrite(state) else torch.baddbmm
        return add(state, both, x), added + more

    def _fold(self, kernel: Tensor, affine: tuple[Tensor, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """As `_folded`, for ``[B * instruments, in, frames]`` in one matrix per row, and a column of what is added."""
        total, squares = (part.view(-1, self.instruments, x.shape[1]) for part in _moments(x))
        folded, added = _folded(kernel, affine, total, squares, x.shape[-1])
        return folded.flatten(0, 1), added.flatten(0, 1)[..., None]

    def _product(self, kernel: Tensor, affine: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        folded, added = self._fold(kernel[..., 0], affine, x)
        return torch.baddbmm(added, folded, x)


class Spectrogram(nn.Module):
    """Features from the log-power spectrum, brought to the encoder's frames."""

    mean: Tensor
    std: Tensor

    def __init__(self, mels: int, rate: int):
        super().__init__()
        factor = rate // 8000
        self.frame_samples, self.hop_samples = _SPECTRUM_SAMPLES * factor, _SPECTRUM_HOP * factor
        bins = self.frame_samples // 2 + 1
        self.mel_transform = nn.Conv1d(bins, mels, 1)
        # Of the training songs' spectra; a deviation of zero throughout: not measured yet.
        self.register_buffer("mean", torch.zeros(1, bins, 1))
        self.register_buffer("std", torch.zeros(1, bins, 1))
        self.affine_bias = nn.Parameter(torch.zeros(1, bins, 1))
        self.affine_scale = nn.Parameter(torch.ones(1, bins, 1))

    def forward(self, signal: Tensor, frames: int) -> Tensor:
        """``[B, 1, T]`` -> ``[B, mels, frames]``."""
        gain = self.affine_scale / torch.where(self.std > 0, self.std, 1)
        matrix = self.mel_transform.weight * gain.mT.reshape(1, -1, 1)
        offset = self.affine_bias - gain * self.mean
        bias = self.mel_transform.weight[..., 0] @ offset[0] + self.mel_transform.bias[:, None]  # type: ignore[index]
        features = torch.baddbmm(
            bias.expand(len(signal), -1, -1), matrix[..., 0].expand(len(signal), -1, -1), self.power(signal)
        )
        return F.interpolate(features, size=frames, mode="linear", align_corners=True)

    def power(self, signal: Tensor) -> Tensor:
        """Decades of power, ``[B, bins, spectra]``."""
        window = torch.hann_window(self.frame_samples, device=signal.device, dtype=signal.dtype)
        spectrum = torch.stft(
            signal[:, 0], self.frame_samples, self.hop_samples, window=window, pad_mode="reflect", return_complex=True
        )
        return torch.log10(torch.view_as_real(spectrum).square().sum(-1) + 1e-8)

    @torch.no_grad()
    def measure(self, signal: Tensor) -> None:
        """Take mean and deviation from these signals, where they are not known yet."""
        if not self.std.any():
            power = self.power(signal)
            std, mean = torch.std_mean(power, (0, 2), keepdim=True)
            self.mean.copy_(mean)
            self.std.copy_(std)


class EncoderBottleneck(nn.Sequential):
    """Features ``[B, features, frames]``, filter after filter -> latents ``[B, latents, frames]``."""

    def __init__(self, filters: int, channels: int, mels: int, latents: int):
        first, last = (nn.Conv1d(inputs, latents, 1, bias=False) for inputs in (filters * channels + mels, latents))
        super().__init__(first, nn.ReLU(), last)
        self.filters, self.channels = filters, channels

    def forward(self, x: Tensor) -> Tensor:
        first, last = (self.get_parameter(name)[..., 0] for name in ("0.weight", "2.weight"))
        # The reference takes the filters' channels in turn: to move columns of the matrix is cheaper than features.
        own = self.filters * self.channels
        of_filters, of_spectrum = first[:, :own], first[:, own:]
        turned = of_filters.view(len(first), self.channels, self.filters).mT.flatten(1)
        inner = F.relu(torch.bmm(torch.cat([turned, of_spectrum], 1).expand(len(x), -1, -1), x))
        return torch.bmm(last.expand(len(x), -1, -1), inner)


class Encoder(nn.Module):
    """``[B, 1, T]`` -> latents ``[B, latents, T / stride]``."""

    def __init__(self, config: Config, latents: int, kernel: int, stride: int, rate: int):
        super().__init__()
        self.stride = stride
        self.spectrogram = Spectrogram(config.mels, rate)
        self.filters = nn.ModuleList(
            nn.Conv1d(1, latents // 4, kernel << i, stride, (((kernel << i) - stride) // 2), bias=False)
            for i in range(config.filters)
        )
        self.bottleneck = EncoderBottleneck(config.filters, latents // 4, config.mels, latents)

    def forward(self, signal: Tensor) -> Tensor:
        features = [F.relu(convolve(signal)) for convolve in self.filters]
        features.append(self.spectrogram(signal, signal.shape[-1] // self.stride))
        latents: Tensor = self.bottleneck(torch.cat(features, 1))
        return latents


class Decoder(nn.Module):
    """Latents ``[B, latents, frames]`` -> ``[B, 1, frames * stride]``."""

    def __init__(self, config: Config, latents: int, kernel: int, stride: int):
        super().__init__()
        self.widths = [latents >> (i + 1) for i in range(config.filters)]
        self.bottleneck = nn.Sequential(nn.ConvTranspose1d(latents, sum(self.widths), 1, bias=False), nn.ReLU())
        self.filters = nn.ModuleList(
            nn.ConvTranspose1d(width, 1, kernel << i, stride, ((kernel << i) - stride) // 2, bias=False)
            for i, width in enumerate(self.widths)
        )

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.bottleneck.get_parameter("0.weight")[..., 0].mT
        parts = torch.split(F.relu(torch.bmm(matrix.expand(len(x), -1, -1), x)), self.widths, 1)
        outputs = [convolve(part) for convolve, part in zip(self.filters, parts, strict=True)]
        return torch.stack(outputs).sum(0) if len(outputs) > 1 else outputs[0]


class Stage(nn.Module):
    """One TasNet, at one rate."""

    def __init__(self, config: Config, stage: int):
        super().__init__()
        latents, kernel, stride = (n << stage for n in (config.latents, config.kernel_samples, config.stride_samples))
        self.encoder = Encoder(config, latents, kernel, stride, config.rates[stage])
        self.mask = Mask(config, latents, latents // 2 if stage else 0)
        self.decoder = Decoder(config, latents, kernel, stride)

    def decode(self, latents: Tensor, sources: int) -> Tensor:
        """``[B, sources * latents, frames]`` -> ``[B, sources, T]``, one after the other for the memory's sake."""
        return torch.cat([self.decoder(part) for part in latents.chunk(sources, 1)], 1)


class Checkpoints:
    """The reference's files, ``best_checkpoint`` or as released ``best_model.pt``: with the training's arguments."""

    name = "Meta-TasNet .pt"

    def recognises(self, files: Checkpoint) -> bool:
        return len(files) == 1 and all(file.format == "torch" and set(file.tensors) >= _MARK for file in files.values())

    def convert(self, files: Checkpoint) -> tuple[Config, dict[str, Tensor]]:
        if not self.recognises(files):
            raise CheckpointError(f"{', '.join(files) or 'nothing'} is not one file of Meta-TasNet; give one such file")
        (file,) = files.values()
        state = {}
        for name, tensor in file.tensors.items():
            if not name.startswith(_STATE) or name.endswith(_DROPPED):
                continue
            state[name.removeprefix(_STATE).replace(".instrument_embedding.", ".mask.instrument_embedding.")] = tensor
        return _config_of(file), state


@register(
    "meta_tasnet",
    config=Config,
    paper="Samuel, Ganeshan, Naradowsky, ICASSP 2020, https://arxiv.org/abs/2002.07016",
    domain="waveform",
    importers=(Checkpoints(),),
    published={"meta-tasnet": Config()},
)
class MetaTasNet(SeparationModel):
    """All stages, of one channel."""

    config: Config

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        inside = config.resampling == "resampy"
        self.spec = ModelSpec(
            stems=config.stems,
            sample_rate=44100 if inside else config.rates[-1],
            channels=1,
            default_segment_seconds=config.segment_seconds,
            length_multiple=1 if inside else config.stride_samples << (config.stages - 1),
            default_overlap=config.segment_overlap,
            window="triangular" if config.segment_overlap else "rectangular",
            track_statistics="none" if inside else "mono_mean_std",
            couples=(config.stems,) if len(config.stems) > 1 else (),
            silence_to_silence=True,
        )
        self.stages = nn.ModuleList(Stage(config, stage) for stage in range(config.stages))
        stages, last = range(config.stages), config.stages - 1
        parts = [f"stages.{i}.{part}" for i in stages for part in ("encoder.bottleneck", "mask")]
        self.kernels = (*parts, f"stages.{last}.decoder")
        # What the last layer sends on nobody takes; the lower stages' decoders matter to the loss alone.
        nowhere = [f"stages.{i}.mask.tcn.{config.stacks * config.layers - 1}.res_out.*" for i in stages]
        self.without_output = (*nowhere, *(f"stages.{i}.decoder.*" for i in stages[:-1]))
        self._measured = False

    def forward(self, mix: Tensor, track: TrackStatistics | None = None) -> Tensor:
        signals = self._as_reference(mix) if self.config.resampling == "resampy" else self._at_all_rates(mix, track)
        stems = self.separate_rates(signals)[-1]
        if self.config.resampling == "resampy":
            stems = resampled(stems, self.config.rates[-1], 44100)
        stems = F.pad(stems, (0, mix.shape[-1] - stems.shape[-1]))  # or cut
        return (stems * _gains(stems, mix))[:, :, None]

    def separate_rates(self, signals: Sequence[Tensor], every_stage: bool = False) -> list[Tensor]:
        """Separate what was resampled and scaled already.

        Args:
            signals: ``[B, 1, T << stage]`` each.
            every_stage: decode all stages, not only the last one.

        Returns:
            ``[B, S, T']`` of the last stage, or of each, where T' is T but for a part of a frame at the end.
        """
        config, length = self.config, signals[0].shape[-1]
        borders = [int(length / config.chunks * c + 0.5) for c in range(config.chunks)] + [length]
        found: list[list[Tensor]] = []
        for start, stop in pairwise(borders):
            first, last = max(0, start - 8 * config.base_rate), min(length, stop + 8 * config.base_rate)
            excess = (last - first) % config.stride_samples
            first, last = (first + excess, last) if first else (first, last - excess)
            part = [signal[..., first << i : last << i] for i, signal in enumerate(signals)]
            outputs = self._run(part, every_stage)
            top = config.stages - len(outputs)
            found.append(
                [out[..., (start - first) << i : (stop - first) << i] for i, out in enumerate(outputs, start=top)]
            )
        return [torch.cat(parts, -1) for parts in zip(*found, strict=True)]

    def training_loss(self, mix: Tensor, stems: Tensor, criterion: nn.Module) -> dict[str, Tensor]:
        """As the base, or the sum over the stages of a criterion on ``stages``.

        The stems are judged at each stage's rate, divided by the excerpt's deviation (the reference divides by the
        song's). The first batch tells the spectra's mean and deviation, for which the reference takes 5000 excerpts.
        """
        if criterion.domain != "stages":
            return super().training_loss(mix, stems, criterion)
        scale = 1 / _deviation(mix)
        mixes = self._at_all_rates(mix, None)
        references = self._rates(self._padded(stems.flatten(0, 1)) * scale.repeat_interleave(stems.shape[1], 0))
        total: dict[str, Tensor] = {}
        hidden: Tensor | None = None
        sources = len(self.config.stems)
        for i, (stage, signal, true) in enumerate(zip(self.stages, mixes, references, strict=True)):
            assert isinstance(stage, Stage)
            if self.training and not self._measured:
                stage.encoder.spectrogram.measure(signal)
            latents = stage.encoder(signal)
            hidden = stage.mask(latents if hidden is None else torch.cat([latents, hidden], 1))
            parts = criterion.of_stage(  # type: ignore[operator]
                stage.decode(hidden, sources)[:, :, None],
                true.view(stems.shape[:3] + true.shape[-1:]),
                stage.encoder(true).view(*stems.shape[:2], *latents.shape[1:]),
                stage.decoder(latents),
                signal,
            )
            total["loss"] = total.get("loss", 0) + parts["loss"]
            total |= {f"stage{i + 1}_{name}": part for name, part in parts.items() if name != "loss"}
        self._measured = self._measured or self.training
        return total

    def _run(self, signals: Sequence[Tensor], every_stage: bool) -> list[Tensor]:
        """All stages in one pass."""
        outputs: list[Tensor] = []
        latents: Tensor | None = None
        for stage, signal in zip(self.stages, signals, strict=True):
            assert isinstance(stage, Stage)
            seen = stage.encoder(signal)
            latents = seen if latents is None else torch.cat([seen, latents], 1)
            del seen
            latents = stage.mask(latents)
            if every_stage or stage is self.stages[-1]:
                outputs.append(stage.decode(latents, len(self.config.stems)))
        return outputs

    def _padded(self, signal: Tensor) -> Tensor:
        """At the last stage's rate, to whole frames, and long enough for one spectrum."""
        config = self.config
        step, least = config.stride_samples << (config.stages - 1), self._least_samples << (config.stages - 1)
        return F.pad(signal, (0, -(-max(signal.shape[-1], least) // step) * step - signal.shape[-1]))

    @property
    def _least_samples(self) -> int:
        """Of the first stage: the ends of a spectrum are reflected."""
        return _SPECTRUM_SAMPLES // 2 * (self.config.base_rate // 8000) + 1

    def _rates(self, signal: Tensor) -> list[Tensor]:
        """``[B, 1, T]`` of the last stage at the rates of all."""
        rates = self.config.rates
        return [*(resampled(signal, rates[-1], rate) for rate in rates[:-1]), signal]

    def _at_all_rates(self, mix: Tensor, track: TrackStatistics | None) -> list[Tensor]:
        deviation = _deviation(mix) if track is None else (track.std or 1.0)
        return self._rates(self._padded(mix) / deviation)

    def _as_reference(self, mix: Tensor) -> list[Tensor]:
        """As the reference's ``evaluate.py``: from 44.1 kHz, each rate by its own deviation."""
        signals = [resampled(mix, 44100, rate) for rate in self.config.rates]
        length = max(signals[0].shape[-1] + 1, self._least_samples + self.config.stride_samples)
        signals = [F.pad(s, (0, (length << i) - s.shape[-1])) for i, s in enumerate(signals)]
        return [signal / _deviation(signal) for signal in signals]


def _deviation(signal: Tensor) -> Tensor:
    """Unbiased, per song; 1 where there is none."""
    if signal.shape[-1] < 2:
        return signal.new_ones(len(signal), 1, 1)
    deviation = signal.std(-1, keepdim=True)
    return torch.where(deviation > 0, deviation, 1)


@torch.no_grad()
def _gains(stems: Tensor, mix: Tensor) -> Tensor:
    """``[B, S, T]`` and ``[B, 1, T]`` -> the gains ``[B, S, 1]`` with which the stems sum best to the mixture.

    The normal equations, summed in float64 a stretch at a time: exact to 1e-8 unless stems are copies of each other.
    """
    sources = stems.shape[1]
    products = stems.new_zeros(len(stems), sources, sources + 1, dtype=torch.float64)
    for part, target in zip(torch.split(stems, 1 << 20, -1), torch.split(mix, 1 << 20, -1), strict=True):
        double = part.double()
        products += double @ torch.cat([double, target.double()], 1).mT
    gram, right = torch.split(products, [sources, 1], 2)
    gains: Tensor = torch.linalg.pinv(gram, rtol=1e-12, hermitian=True) @ right
    return gains.to(stems.dtype)


# Resampling, as resampy 0.2.2 does it with the filter kaiser_best.

_ZEROS, _TABLE = 64, 512
"""Zero crossings of the sinc to either side, and entries of its table from one to the next."""
_ROLLOFF, _BETA = 0.9475937167399596, 14.769656459379492


def resampled(signal: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """``[B, C, T]`` at another rate: ``[B, C, floor(T * to_hz / from_hz)]``. Outside the signal is silence.

    The filter is a table read in steps that are rounded down (resampy's), so between 44.1 and 8 kHz it is a hundredth
    too wide. An output that falls on an input sample is then not the same seen from that sample or from the one before;
    resampy's clock, a running sum, tells which it takes.
    """
    if from_hz == to_hz:
        return signal
    taps, before = _taps(from_hz, to_hz)
    divisor = math.gcd(from_hz, to_hz)
    source, target = from_hz // divisor, to_hz // divisor
    length = int(signal.shape[-1] * (to_hz / from_hz))
    if not length:
        return signal[..., :0]
    cycles = -(-length // target)
    kernel = torch.from_numpy(taps).to(signal)[:, None]
    after = max(0, (cycles - 1) * source + kernel.shape[-1] - before - signal.shape[-1])
    phases = F.conv1d(F.pad(signal.flatten(0, 1)[:, None], (before, after)), kernel, stride=source)[..., :cycles]
    if len(taps) > target:
        late = torch.from_numpy(_clock_is_late(from_hz, to_hz, cycles)).to(signal.device)
        phases = torch.cat([torch.where(late, phases[:, -1:], phases[:, :1]), phases[:, 1:-1]], 1)
    return phases.mT.flatten(1)[:, :length].view(*signal.shape[:2], length)


@cache
def _taps(from_hz: int, to_hz: int) -> tuple[NDArray[np.float32], int]:
    """Of each output sample in a cycle the weights of the input, and how many of these lie before the cycle's start.

    ``[phases, taps]``; where the table's steps are rounded, one row more: the first sample seen from one before.
    """
    divisor = math.gcd(from_hz, to_hz)
    source, target = from_hz // divisor, to_hz // divisor
    scale = min(1.0, target / source)
    entries = _ZEROS * _TABLE
    sinc, window = np.sinc(_ROLLOFF * np.linspace(0, _ZEROS, entries + 1)), np.kaiser(2 * entries + 1, _BETA)[entries:]
    table = scale * _ROLLOFF * sinc * window
    slope = np.append(np.diff(table), 0.0)
    step = int(scale * _TABLE)
    reach = len(table) // step + 2
    seen = [(*divmod(phase * source, target), target) for phase in range(target)]  # from which sample, how far away
    if step != scale * _TABLE:
        seen.append((-1, target, target))
    taps = np.zeros((len(seen), 2 * reach + source), np.float64)
    for row, (at, rest, whole) in zip(taps, seen, strict=True):
        left = scale * rest / whole
        for distance, sign, first in ((left, -1, at), (scale - left, 1, at + 1)):
            entry = int(distance * _TABLE)
            indices = entry + step * np.arange((len(table) - entry) // step)
            weights = table[indices] + (distance * _TABLE - entry) * slope[indices]
            row[reach + first + sign * np.arange(len(indices))] += weights
    return taps.astype(np.float32), reach


def _clock_is_late(from_hz: int, to_hz: int, cycles: int) -> NDArray[np.bool_]:
    """For the start of each cycle, whether a running sum of the time has not quite arrived there."""
    divisor = math.gcd(from_hz, to_hz)
    source, target = from_hz // divisor, to_hz // divisor
    clock = np.add.accumulate(np.append(0.0, np.full((cycles - 1) * target, 1.0 / (to_hz / from_hz))))
    late: NDArray[np.bool_] = clock[::target] < source * np.arange(cycles)
    return late


# Reading checkpoints. Names are the reference's, but the embedding lies inside the mask, where it is used.

_STATE = "state_dict."
_MARK = {f"{_STATE}stages.0.encoder.spectrogram.mel_transform.weight", f"{_STATE}stages.0.decoder.filters.0.weight"}
_DROPPED = ("encoder.spectrogram.window",)
"""The Hann window, a frozen parameter there; ours is made when it is needed."""
_SIZES = {
    "sampling_rate": "base_rate",
    "stages_num": "stages",
    "N": "latents",
    "L": "kernel_samples",
    "W": "stride_samples",
    "B": "bottleneck",
    "H": "hidden",
    "filters": "filters",
    "num_mels": "mels",
    "layers": "layers",
    "stack": "stacks",
}
"""Arguments of the reference's training and our names."""


def _config_of(file: CheckpointFile) -> Config:
    """From the arguments that the training was started with; CheckpointError."""
    document = file.metadata.get("args") if isinstance(file.metadata, Mapping) else None
    said = document if isinstance(document, Mapping) else getattr(document, "state", None)
    if not isinstance(said, Mapping):
        raise CheckpointError(
            f"{file.name} does not say what its training was started with (args), without which the layers of a stack "
            "are not known; give the whole checkpoint that the training wrote"
        )
    generated = not _flag(file, said, "independent_params")
    sizes: dict[str, Any] = {ours: _whole(file, said, theirs) for theirs, ours in _SIZES.items()}
    if generated:
        sizes |= {"embedding": _whole(file, said, "E_1"), "embedding_bottleneck": _whole(file, said, "E_2")}
    if (taps := _whole(file, said, "kernel")) != 3:
        raise CheckpointError(f"{file.name} has kernel {taps}; only 3 keeps the frames in step")
    try:
        return Config(**sizes, generated=generated, residual_bias=_flag(file, said, "residual_bias"))
    except ValueError as error:
        raise CheckpointError(f"{file.name} cannot be built: {error}") from error


def _whole(file: CheckpointFile, said: Mapping[Any, Any], name: str) -> int:
    value = said.get(name)
    if type(value) is not int or not 1 <= value <= 1 << 20:
        raise CheckpointError(f"{file.name} has {name} {value!r}; expected a whole number above 0")
    return value


def _flag(file: CheckpointFile, said: Mapping[Any, Any], name: str) -> bool:
    value = said.get(name, False)
    if type(value) is not bool:
        raise CheckpointError(f"{file.name} has {name} {value!r}; expected True or False")
    return value
