"""D3Net: U-Nets of densely connected, multi-dilated convolutions on magnitude spectra, one network per target.

Papers: N. Takahashi, Y. Mitsufuji, "D3Net: Densely connected multidilated DenseNet for music source separation"
(arXiv 2010.01733); "Densely connected multi-dilated convolutional networks for dense prediction tasks" (arXiv
2011.11844, CVPR 2021). Reference code: github sony/ai-research-code at cfe96df (Apache 2.0),
``d3net/music-source-separation``, for nnabla. The second family of weights is that of github
media-comp/2022-iSeparate at 920077b, in PyTorch.

Shapes: waveform ``[B, 2, T]`` -> centred spectra ``[B, 2, frames, 2049]`` -> magnitudes in patches of `patch_frames`,
half overlapping, of which the network sees the lowest 1600 bins -> averaged magnitudes per target -> Wiener filter ->
waveforms ``[B, S, 2, T]``. The network gives a magnitude, not a mask.

The two families differ in the layer that matches the bands' channels (`NetworkSizes.match`), in how many bins have an
offset and a scale, and in what surrounds the network: Sony averages over both orders of the channels and filters the
four targets by its own multichannel Wiener filter; iSeparate uses norbert's, with the accompaniment as what the vocals
leave of the mixture.

Settings: by default the filter's statistics are taken over windows of 128 frames on the track's grid, so an output
sample depends on the input within ``patch + window`` frames, and a song in segments gives what one pass over it
gives. The segments are so long that reading their surroundings twice costs about a third. The official setting takes
the statistics over all of the song, for which the engine goes through it twice (`spec.two_pass`), and has Sony's
`halved_tail` and `sounding_silence`.

Deviations: outputs have the input's length (the originals end up to 1023 samples early, at the last frame's centre);
where the mixture's spectrum is exactly zero, unfiltered estimates are zero too. The iSeparate checkpoint's ``-mean``
and ``1 / std`` are stored as offset and scale.

Ablations of the papers, for which no code is published: *without dilation* (all dilations 1) and *standard dilation*,
which is read here as one dilation 2**l for all inputs of layer l, as the papers' figure of naive dilation in a
DenseNet has it (*inferred*); the reading of a community re-implementation (github
tky823/DNN-based_source_separation), the m-th D2 block dilated by 2**m throughout, is the option ``per_block``.

Hyper-parameters are Sony's (*code*: ``configs/*.yaml``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iseparate.errors import CheckpointError
from iseparate.models._magnitude import MagnitudeConfig, MagnitudeSeparator
from iseparate.models._registry import register
from iseparate.nn.dense import Affine, D2Block, Dilation, FoldedD2, FoldedMD3, MD3Net, NormConv, convolve, room
from iseparate.nn.stft import centred_spectrum, overlap_frames
from iseparate.nn.wiener import wiener
from iseparate.types import Checkpoint, CheckpointFile, TrackStatistics


@dataclass(frozen=True, kw_only=True)
class UNetSizes:
    """One U-Net of D3 blocks; each list counts them on the way down, at the bottom and on the way up."""

    start: int
    """Channels of the convolution before it."""
    growth: tuple[int, ...]
    layers: tuple[int, ...]
    blocks: tuple[int, ...]
    """D2 blocks in each D3 block."""

    def __post_init__(self) -> None:
        if not len(self.growth) == len(self.layers) == len(self.blocks) or len(self.growth) % 2 == 0:
            raise ValueError("growth, layers and blocks of a U-Net are of the same, odd length")
        if min(self.start, *self.growth, *self.layers, *self.blocks) < 1:
            raise ValueError("start, growth, layers and blocks of a U-Net are 1 or more")

    @property
    def halvings(self) -> int:
        """On the way down."""
        return len(self.growth) // 2


@dataclass(frozen=True, kw_only=True)
class NetworkSizes:
    """One target's network."""

    bands: tuple[UNetSizes, ...]
    """From the lowest on."""
    band_edges: tuple[int, ...]
    """First bins of all bands but the lowest."""
    full: UNetSizes
    final_growth: int = 12
    final_layers: int = 3
    used_bins: int = 1600
    """The network sees and makes these; above, the mixture passes."""
    normalised_bins: int = 2049
    """Bins that have an offset and a scale: all (Sony), or those used (iSeparate)."""
    match: Literal["linear", "rectified"] = "linear"
    """What brings a band to as many channels as the widest: normalisation and a 1x1 convolution (Sony), or
    normalisation, ReLU and a 3x3 convolution (iSeparate)."""

    def __post_init__(self) -> None:
        edges = self.edges
        if len(self.band_edges) != len(self.bands) - 1 or sorted({*edges}) != [*edges]:
            raise ValueError(f"{len(self.bands)} bands need rising edges between 0 and used_bins; got {edges}")
        if self.normalised_bins < self.used_bins or min(self.final_growth, self.final_layers) < 1:
            raise ValueError("normalised_bins is used_bins or more; final_growth and final_layers are 1 or more")
        for net, start, stop in [*zip(self.bands, edges, edges[1:], strict=False), (self.full, 0, self.used_bins)]:
            if (stop - start) % 2**net.halvings:
                raise ValueError(f"bins {start} to {stop} cannot be halved {net.halvings} times")

    @property
    def edges(self) -> tuple[int, ...]:
        """Of all bands, both ends included."""
        return (0, *self.band_edges, self.used_bins)

    @property
    def halvings(self) -> int:
        """The most of any of its U-Nets."""
        return max(net.halvings for net in (*self.bands, self.full))


class Match(nn.Module):
    """Batch normalisation and a 1x1 convolution: ``[B, in, H, W]`` -> ``[B, out, H, W]``."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels_in)
        self.conv = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        matched: Tensor = self.conv(self.norm(x))
        return matched


class Branch(nn.Module):
    """A convolution, a U-Net, and a `Match` where that has fewer channels: ``[B, C, H, W]`` -> ``[B, out, H, W]``."""

    def __init__(self, channels: int, sizes: UNetSizes, out: int, match: str, dilation: Dilation):
        super().__init__()
        self.start = nn.Conv2d(channels, sizes.start, 3, padding=1)
        self.net = MD3Net(sizes.start, sizes.growth, sizes.layers, sizes.blocks, dilation)
        self.match: nn.Module | None = None
        if sizes.growth[-1] < out:
            self.match = (Match if match == "linear" else NormConv)(sizes.growth[-1], out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.net(self.start(x))
        return x if self.match is None else self.match(x)


class TargetNetwork(nn.Module):
    """One target's magnitudes from the mixture's: ``[B, C, frames, bins]`` -> the same shape.

    frames is a multiple of ``2 ** sizes.halvings``.
    """

    def __init__(self, sizes: NetworkSizes, channels: int, dilation: Dilation):
        super().__init__()
        self.sizes = sizes
        self.offset = nn.Parameter(torch.zeros(sizes.normalised_bins))
        self.scale = nn.Parameter(torch.ones(sizes.normalised_bins))
        out = max(band.growth[-1] for band in sizes.bands)
        self.bands = nn.ModuleList(Branch(channels, band, out, sizes.match, dilation) for band in sizes.bands)
        self.full = Branch(channels, sizes.full, 0, sizes.match, dilation)
        final: Dilation = "none" if dilation == "per_block" else dilation
        self.final = D2Block(out + sizes.full.growth[-1], sizes.final_growth, sizes.final_layers, final)
        self.out_norm = nn.BatchNorm2d(sizes.final_growth)
        self.gate = nn.Conv2d(sizes.final_growth, channels, 1)
        self.filter = nn.Conv2d(sizes.final_growth, channels, 1)
        self.gain = nn.Parameter(torch.ones(sizes.used_bins))
        self.bias = nn.Parameter(torch.ones(sizes.used_bins))
        self._folded: tuple[Any, _FoldedNetwork] | None = None

    def forward(self, magnitudes: Tensor) -> Tensor:
        used = self.sizes.used_bins
        x = (magnitudes[..., :used] - self.offset[:used]) / self.scale[:used]
        gate, filtered = self._plain(x) if self._must_be_plain() else self._fold()(x)
        y = torch.relu(gate.sigmoid() * filtered * self.gain + self.bias)
        return torch.cat([y, magnitudes[..., used:]], -1)

    def scale_input(self, mean: Tensor, deviation: Tensor) -> None:
        """As the originals do before training; see `iseparate.models._magnitude.ScalesItsInput`."""
        self.offset.copy_(mean[: len(self.offset)])
        self.scale.copy_(deviation[: len(self.scale)])

    def _plain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        edges = self.sizes.edges
        parts = [band(x[..., a:b]) for band, a, b in zip(self.bands, edges, edges[1:], strict=False)]
        y = self.out_norm(self.final(torch.cat([torch.cat(parts, -1), self.full(x)], 1)))
        return self.gate(y), self.filter(y)

    def _must_be_plain(self) -> bool:
        """Whether gradients flow, or somebody writes down what is computed and folds for themselves."""
        recorded = torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch._C._get_tracing_state()
        return bool(self.training or torch.is_grad_enabled() or recorded)

    def _fold(self) -> _FoldedNetwork:
        """The network with its normalisations folded, made anew when a tensor has changed."""
        tensors = [*self.parameters(), *self.buffers()]
        state = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
        if self._folded is None or self._folded[0] != state:
            self._folded = state, _FoldedNetwork(self)
        return self._folded[1]


class _FoldedNetwork:
    """A `TargetNetwork` at inference, from normalised bins to gate and filter."""

    def __init__(self, network: TargetNetwork):
        norm = Affine.of(network.final.first.norm)
        self.edges = network.sizes.edges
        self.channels = len(norm.scale)
        self.matched = self.channels - network.sizes.full.growth[-1]
        self.bands = [_FoldedBranch(b, norm.part(0, self.matched)) for b in network.bands]  # type: ignore[arg-type]
        self.full = _FoldedBranch(network.full, norm.part(self.matched))
        self.final = FoldedD2(network.final, Affine.of(network.out_norm))
        both = (network.gate, network.filter)
        self.out = torch.cat([conv.weight for conv in both]), torch.cat([_bias(conv) for conv in both])

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.contiguous(memory_format=torch.channels_last)
        full = self.full(x)
        joined = room(full, self.channels)
        torch.clamp_min(full, 0, out=joined[:, self.matched :])
        for band, a, b in zip(self.bands, self.edges, self.edges[1:], strict=False):
            torch.clamp_min(band(x[..., a:b]), 0, out=joined[:, : self.matched, :, a:b])
        gate, filtered = F.conv2d(self.final(joined), *self.out).chunk(2, 1)
        return gate, filtered


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


class _FoldedBranch:
    """A `Branch` at inference; `after` is the normalisation behind it."""

    def __init__(self, branch: Branch, after: Affine):
        blocks = [*branch.net.down, branch.net.bottom]
        self.start = Affine.of(blocks[0].first.first.norm).after(branch.start)
        self.match: tuple[Tensor, Tensor] | None = None
        match = branch.match
        if match is None:
            self.net = FoldedMD3(branch.net, after)
        else:
            self.net = FoldedMD3(branch.net, Affine.of(match.norm))  # type: ignore[arg-type]
            self.match = after.after(match.conv)  # type: ignore[arg-type]
        self.rectified = isinstance(match, NormConv)

    def __call__(self, x: Tensor) -> Tensor:
        y = self.net(convolve(x, *self.start, (1,)).relu_())
        if self.match is None:
            return y
        return convolve(y.relu() if self.rectified else y, *self.match, (1,))


FOUR = ("vocals", "drums", "bass", "other")
_EDGE = {"vocals": 256, "drums": 128, "bass": 192, "other": 256}
_PATCH_FRAMES = {"vocals": 256, "drums": 256, "bass": 384, "other": 256}


def _sizes(target: str) -> NetworkSizes:
    """Of Sony's networks (*code*)."""
    high = UNetSizes(start=8, growth=(2,) * 5, layers=(1,) * 5, blocks=(1,) * 5)
    low_growth: tuple[int, ...] = (16, 18, 20, 22, 20, 18, 16)
    low_layers: tuple[int, ...] = (5, 5, 5, 5, 4, 4, 4)
    growth: tuple[int, ...] = (13, 14, 15, 16, 17, 16, 14, 12, 11)
    layers: tuple[int, ...] = (4, 5, 6, 7, 8, 6, 5, 4, 4)
    if target == "drums":
        low_layers = (5, 5, 5, 4, 4, 4, 4)
        growth = (13, 14, 15, 16, 16, 16, 14, 12, 11)
        layers = (4, 5, 6, 7, 8, 6, 6, 4, 4)
    if target == "bass":
        high = UNetSizes(start=8, growth=(2,) * 7, layers=(1,) * 7, blocks=(1,) * 7)
        low_growth = (16, 18, 18, 20, 18, 16, 16)
        growth = (10, 10, 12, 14, 16, 14, 12, 8, 8)
        layers = (4, 5, 6, 7, 8, 6, 6, 4, 4)
    return NetworkSizes(
        bands=(UNetSizes(start=32, growth=low_growth, layers=low_layers, blocks=(2,) * 7), high),
        band_edges=(_EDGE[target],),
        full=UNetSizes(start=32, growth=growth, layers=layers, blocks=(2,) * 9),
    )


@dataclass(frozen=True, kw_only=True)
class Config(MagnitudeConfig):
    """Hyper-parameters and inference; all defaults are Sony's but for the filter's windows."""

    networks: tuple[NetworkSizes, ...] = tuple(_sizes(target) for target in FOUR)
    """One per target."""
    dilation: Dilation = "multi"
    patch_frames: tuple[int, ...] = tuple(_PATCH_FRAMES[target] for target in FOUR)
    """What each target's network sees at once."""
    patch_overlap: int = 2
    """Patches that cover each frame; their outcomes are averaged."""
    flip_average: bool = True
    """Average the outcomes for both orders of the channels."""
    halved_tail: bool = False
    """Sony's bug: leave out the patch that would be the second over the last frames, and halve these."""
    sounding_silence: bool = False
    """The originals' unfiltered estimates where the mixture's spectrum is exactly zero and has no phase: keep them,
    with a phase of zero. Else they are zero too."""
    residual_of: tuple[str, ...] | None = None
    """The targets that the residual is what is left after; None: all."""
    wiener_rule: Literal["norbert", "open_unmix", "sony"] = "sony"
    wiener_window_frames: int | None = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.targets) == len(self.networks) == len(self.patch_frames):
            raise ValueError(
                f"one network and one patch length per target; got {len(self.networks)} and {len(self.patch_frames)} "
                f"for {', '.join(self.targets)}"
            )
        for target, network, frames in zip(self.targets, self.networks, self.patch_frames, strict=True):
            step = math.lcm(2**network.halvings, self.patch_overlap)
            if frames < 1 or frames % step:
                raise ValueError(f"patch_frames of {target} is {frames}; expected a multiple of {step}")
            if not network.used_bins <= self.bins >= network.normalised_bins:
                raise ValueError(f"the network of {target} needs more than the {self.bins} bins of a frame")
        if self.residual_of is not None and not {*self.residual_of} <= {*self.targets}:
            raise ValueError(f"residual_of names targets among {', '.join(self.targets)}; got {self.residual_of}")

    @property
    def shift_frames(self) -> tuple[int, ...]:
        """From patch to patch, per target."""
        return tuple(frames // self.patch_overlap for frames in self.patch_frames)

    @classmethod
    def of_target(cls, target: str, **changes: Any) -> Config:
        """One target by itself, without a filter; its network is Sony's."""
        return cls(
            targets=(target,),
            networks=(_sizes(target),),
            patch_frames=(_PATCH_FRAMES[target],),
            wiener_iterations=0,
            **changes,
        )

    @classmethod
    def tiny(cls) -> Config:
        """A network of the same shape that runs in milliseconds, for tests."""
        low = UNetSizes(start=3, growth=(2, 2, 3), layers=(3, 1, 2), blocks=(2, 1, 2))
        high = UNetSizes(start=2, growth=(2,) * 3, layers=(1,) * 3, blocks=(1,) * 3)
        full = UNetSizes(start=3, growth=(3, 2, 2, 2, 2), layers=(1, 2, 3, 2, 1), blocks=(2, 1, 2, 1, 2))
        sizes = NetworkSizes(
            bands=(low, high),
            band_edges=(16,),
            full=full,
            final_growth=3,
            final_layers=2,
            used_bins=96,
            normalised_bins=129,
        )
        return cls(
            targets=("vocals", "bass"),
            networks=(sizes, replace(sizes, band_edges=(32,))),
            patch_frames=(8, 12),
            frame_samples=256,
            hop_samples=64,
            wiener_window_frames=4,
        )


PUBLISHED = {
    "d3net": Config(),
    **{f"d3net-{target}": Config.of_target(target) for target in FOUR},
    "d3net-vocals-without-dilation": Config.of_target("vocals", dilation="none"),
    "d3net-vocals-standard-dilation": Config.of_target("vocals", dilation="standard"),
    "d3net-iseparate": Config(
        targets=("vocals",),
        networks=(replace(_sizes("vocals"), normalised_bins=1600, match="rectified"),),
        patch_frames=(_PATCH_FRAMES["vocals"],),
        flip_average=False,
        wiener_rule="norbert",
        residual="accompaniment",
        residual_of=("vocals",),
    ),
}


class SonyHdf5:
    """Sony's parameter files: one HDF5 file per target, every path in it beginning with the target's name."""

    name = "D3Net nnabla .h5"
    _names = (
        (r"features_init/(\d+)/conv", r"bands.\1.start"),
        (r"features_init_full/conv", "full.start"),
        (r"dense_band/(\d+)", r"bands.\1.net"),
        (r"dense_full", "full.net"),
        (r"match_fm_conv/(\d+)/norm/bn", r"bands.\1.match.norm"),
        (r"match_fm_conv/(\d+)/conv/conv", r"bands.\1.match.conv"),
        (r"ds_layers/dense_block(\d+)", r"down.\1"),
        (r"us_layers/dense_block(\d+)", r"up.\1"),  # counted through from the top: see convert
        (r"us_layers/upsample(\d+)/upsample/norm/bn", r"upsample.\1.norm"),
        (r"us_layers/upsample(\d+)/upsample/transconv/deconv", r"upsample.\1.conv"),
        (r"bottleneck_block", "bottom"),
        (r"final_dense", "final"),
        (r"initial_block", "first"),
        (r"initial_layer/bottleneck", "first"),
        (r"layers/layer(\d+)(?:/bottleneck)?", r"rest.\1"),  # counted from one
        (r"norm1/bn", "norm"),
        (r"conv1/conv", "conv"),
        (r"out_gate/bn/bn", "out_norm"),
        (r"out_gate/conv_gate/conv/conv", "gate"),
        (r"out_gate/conv_filt/conv/conv", "filter"),
        (r"in_(offset|scale)", r"\1"),
        (r"decode_scale", "gain"),
        (r"decode_bias", "bias"),
        (r"/W$", ".weight"),
        (r"/b$", ".bias"),
        (r"/gamma$", ".weight"),
        (r"/beta$", ".bias"),
        (r"/mean$", ".running_mean"),
        (r"/var$", ".running_var"),
        (r"/", "."),
    )

    def recognises(self, files: Checkpoint) -> bool:
        return bool(files) and all(f.format == "hdf5" and _sonys_target(f) is not None for f in files.values())

    def convert(self, files: Checkpoint) -> tuple[Config, dict[str, Tensor]]:
        networks: dict[str, dict[str, Tensor]] = {}
        for file in files.values():
            target = _sonys_target(file)
            if target not in FOUR:
                raise CheckpointError(
                    f"{file.name} is of {target or 'no target'}; expected vocals, drums, bass or other, since the file "
                    "does not say where the bands of others meet"
                )
            _once(target, networks, file)
            state: dict[str, Tensor] = {}
            for path, tensor in file.tensors.items():
                if not path.startswith(f"{target}/"):
                    raise CheckpointError(
                        f"{file.name} holds {path}, which is not of {target}; give one file per target"
                    )
                key = _translate(path.removeprefix(f"{target}/"), self._names)
                key = re.sub(r"\brest\.(\d+)", lambda m: f"rest.{int(m[1]) - 1}", key)
                state[key] = tensor.flatten() if re.search(r"norm\.\w+$|^\w+$", key) else tensor
            for net in {key.split(".net.")[0] + ".net" for key in state if ".net." in key}:
                depth = _count(state, f"{net}.down.{{}}.first.first.conv.weight")
                for key in [key for key in state if key.startswith(f"{net}.up.")]:
                    tensor = state.pop(key)
                    above = re.sub(r"\.up\.(\d+)", lambda m, d=depth: f".up.{int(m[1]) - d - 1}", key)  # type: ignore[misc]
                    state[above] = tensor
            networks[target] = state
        targets = tuple(target for target in FOUR if target in networks)
        sizes = {t: _sizes_of(networks[t], (_EDGE[t],), "linear", t) for t in targets}
        return _joined(
            networks,
            sizes,
            patch_frames=tuple(_PATCH_FRAMES[t] for t in targets),
            wiener_iterations=min(1, len(targets) - 1),  # a lone target's filter would pass the whole mixture
        )


class Iseparate:
    """iSeparate's checkpoints of 2022: one PyTorch file per target, with the arguments of its training."""

    name = "D3Net iSeparate .pt"
    _names = (
        (r"^input_mean", "offset"),
        (r"^input_scale", "scale"),
        (r"^output_scale", "gain"),
        (r"^output_mean", "bias"),
        (r"^full_net\.0", "full.start"),
        (r"^full_net\.1", "full.net"),
        (r"^band_nets\.(\d+)\.0\.", r"bands.\1.start."),
        (r"^band_nets\.(\d+)\.1\.1\.", r"bands.\1.match."),
        (r"^band_nets\.(\d+)\.1\.(?:0\.)?", r"bands.\1.net."),
        (r"downsample_blocks", "down"),
        (r"bottleneck_block", "bottom"),
        (r"upsample_blocks\.(\d+)\.upsample\.bn", r"upsample.\1.norm"),
        (r"upsample_blocks\.(\d+)\.upsample\.tconv", r"upsample.\1.conv"),
        (r"upsample_blocks\.(\d+)\.D3block", r"up.\1"),
        (r"^final_d2_block", "final"),
        (r"^bn_out", "out_norm"),
        (r"^gate_out\.0", "gate"),
        (r"^filter_out", "filter"),
        (r"init_(?:block|conv)\b", "first"),
        (r"\b(?:blocks|convs)\b", "rest"),
        (r"\.bn\.", ".norm."),
    )
    _dropped = re.compile(r"time_domain_wrapper\.(?:i?stft\.window|mel_scale_fn\.fb)")
    """The front end's windows, which are ours, and a mel matrix that nothing reads."""

    def recognises(self, files: Checkpoint) -> bool:
        marks = {"state_dict.input_mean", "state_dict.full_net.0.weight", "state_dict.gate_out.0.weight"}
        return bool(files) and all(f.format == "torch" and marks <= set(f.tensors) for f in files.values())

    def convert(self, files: Checkpoint) -> tuple[Config, dict[str, Tensor]]:
        networks: dict[str, dict[str, Tensor]] = {}
        sizes: dict[str, NetworkSizes] = {}
        patches: dict[str, int] = {}
        for file in files.values():
            target, edges, patch = _iseparates_arguments(file)
            _once(target, networks, file)
            state: dict[str, Tensor] = {}
            for path, tensor in file.tensors.items():
                name = path.removeprefix("state_dict.")
                if name != path and not self._dropped.fullmatch(name):
                    state[_translate(name, self._names)] = tensor
            if "scale" not in state:
                raise CheckpointError(f"{file.name} has no input_scale; it is not a whole checkpoint")
            state["offset"], state["scale"] = -state["offset"], 1 / state["scale"]
            networks[target], patches[target] = state, patch
            sizes[target] = _sizes_of(state, edges, "rectified", file.name)
        targets = _in_order(networks)
        accompanied = "vocals" in targets and len(targets) < len(FOUR)
        return _joined(
            networks,
            sizes,
            patch_frames=tuple(patches[t] for t in targets),
            flip_average=False,
            wiener_rule="norbert",
            wiener_iterations=1 if accompanied or len(targets) > 1 else 0,
            residual="accompaniment" if accompanied else None,
            residual_of=("vocals",) if accompanied else None,
        )


def _sonys_target(file: CheckpointFile) -> str | None:
    """The one target of a file that holds a D3Net."""
    for path in file.tensors:
        target, _, rest = path.partition("/")
        if rest == "decode_scale" and f"{target}/features_init_full/conv/W" in file.tensors:
            return target
    return None


def _iseparates_arguments(file: CheckpointFile) -> tuple[str, tuple[int, ...], int]:
    """Target, band edges and patch length, from the arguments kept in the file."""
    try:
        arguments = file.metadata["config"].state
        (target,) = arguments["data_loader_args"]["train"]["target_sources"]
        edges = tuple(int(edge) for edge in arguments["model_args"]["band_split_idxs"])
        patch = int(arguments["model_args"]["patch_length"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file.name} does not say its target, where its bands meet and how long its patches are ({error}); "
            "expected the arguments of its training under config"
        ) from None
    if not isinstance(target, str) or not re.fullmatch(r"[a-z]\w{0,63}", target):
        raise CheckpointError(f"{file.name} was trained for a target that is no name; expected one such as vocals")
    return target, edges, patch


def _once(target: str, networks: Mapping[str, Any], file: CheckpointFile) -> None:
    if target in networks:
        raise CheckpointError(f"{file.name} is a second file of {target}; give one per target")


def _translate(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for theirs, ours in table:
        name = re.sub(theirs, ours, name)
    return name


def _in_order(networks: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(networks, key=lambda t: (FOUR.index(t) if t in FOUR else len(FOUR), t)))


def _joined(
    networks: Mapping[str, dict[str, Tensor]], sizes: Mapping[str, NetworkSizes], **settings: Any
) -> tuple[Config, dict[str, Tensor]]:
    """One system out of its targets' networks."""
    targets = _in_order(networks)
    try:
        config = Config(targets=targets, networks=tuple(sizes[t] for t in targets), **settings)
    except ValueError as error:
        raise CheckpointError(f"the checkpoint's networks cannot be: {error}") from None
    return config, {f"networks.{t}.{key}": tensor for t in targets for key, tensor in networks[t].items()}


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    count = 0
    while pattern.format(count) in state:
        count += 1
    return count


def _sizes_of(state: Mapping[str, Tensor], edges: tuple[int, ...], match: str, name: str) -> NetworkSizes:
    """A network's hyper-parameters from the shapes of its tensors, which are named as ours."""

    def d2(prefix: str) -> tuple[int, int]:
        layers = 1 + _count(state, prefix + ".rest.{}.conv.weight")
        return state[f"{prefix}.first.conv.weight"].shape[0] // layers, layers

    def net(prefix: str) -> UNetSizes:
        depth = _count(state, prefix + ".net.down.{}.first.first.conv.weight")
        names = [*(f"down.{i}" for i in range(depth)), "bottom", *(f"up.{i}" for i in range(depth))]
        found = []
        for block in names:
            blocks = 1 + _count(state, f"{prefix}.net.{block}.rest.{{}}.first.conv.weight")
            width, layers = d2(f"{prefix}.net.{block}.first")
            found.append((width // blocks, layers, blocks))
        growth, layers_, blocks_ = zip(*found, strict=True)
        return UNetSizes(start=state[f"{prefix}.start.weight"].shape[0], growth=growth, layers=layers_, blocks=blocks_)

    try:
        final_growth, final_layers = d2("final")
        return NetworkSizes(
            bands=tuple(net(f"bands.{i}") for i in range(_count(state, "bands.{}.start.weight"))),
            band_edges=edges,
            full=net("full"),
            final_growth=final_growth,
            final_layers=final_layers,
            used_bins=state["gain"].shape[0],
            normalised_bins=state["offset"].shape[0],
            match="linear" if match == "linear" else "rectified",
        )
    except KeyError as missing:
        raise CheckpointError(f"{name}: the network has no {missing.args[0]}, which every D3Net has") from None
    except (IndexError, ValueError) as error:
        raise CheckpointError(f"{name}: the network's tensors are not those of a D3Net ({error})") from None


@register(
    "d3net",
    config=Config,
    paper="Takahashi, Mitsufuji, 2020, https://arxiv.org/abs/2010.01733",
    domain="spectrogram",
    importers=(SonyHdf5(), Iseparate()),
    published=PUBLISHED,
)
class D3Net(MagnitudeSeparator):
    """The published systems: networks on overlapping patches, joined by a Wiener filter."""

    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.networks = nn.ModuleDict(
            {
                target: TargetNetwork(sizes, config.channels, config.dilation)
                for target, sizes in zip(config.targets, config.networks, strict=True)
            }
        )
        self.kernels = tuple(f"networks.{target}" for target in config.targets)
        self._patches = dict(
            zip(config.targets, zip(config.patch_frames, config.shift_frames, strict=True), strict=True)
        )
        over_all = config.wiener_iterations > 0 and not config.wiener_window_frames
        window = config.wiener_window_frames or 1 if config.wiener_iterations else 1
        # Whether the tail is halved goes by the song's number of frames, counted in patches: a segment that starts
        # with a patch has the same answer.
        tiles = config.patch_frames if config.halved_tail else config.shift_frames
        grid = math.lcm(*tiles, window)
        # A sample is in frames, these in patches and windows, which reach to either side, and so back to samples.
        reach = max(config.patch_frames) + window - 2
        context = reach * config.hop_samples + config.frame_samples
        grid_samples = grid * config.hop_samples
        twice = context + -(-context // grid_samples) * grid_samples  # the engine starts reading on the grid
        self.spec = replace(
            self.spec,
            start_grid_samples=grid_samples,
            context_samples=None if over_all else context,
            two_pass=self._two_pass(context, len(config.stems)) if over_all else None,
            silence_to_silence=not config.sounding_silence,
            default_segment_seconds=round(3 * twice / grid_samples) * grid_samples / config.sample_rate,
        )

    def forward(self, mix: Tensor, track: TrackStatistics | None = None) -> Tensor:  # noqa: ARG002
        """``[B, C, T]`` -> ``[B, S, C, T]``."""
        config, hop = self.config, self.config.hop_samples
        spectra = centred_spectrum(mix, self.window, hop, config.padding)
        magnitudes = self.estimate(spectra.abs())
        frames = spectra.shape[2]
        size = config.wiener_window_frames or (frames if config.wiener_iterations else 128)
        # Window by window, so that the stems' spectra never exist all at once.
        total: Tensor | None = None
        for start in range(0, frames, size):
            part = slice(start, start + size)
            stems = torch.stack(
                [self.filtered(m[:, :, part], x[:, part]) for m, x in zip(magnitudes, spectra, strict=True)]
            )
            piece = overlap_frames(stems, self.window, hop)
            if total is None:
                total = piece.new_zeros(*piece.shape[:-1], (frames - 1) * hop + config.frame_samples)
            total[..., start * hop : start * hop + piece.shape[-1]] += piece
        assert total is not None
        squares = self.window.square()[None, None]
        weight = F.conv_transpose1d(squares.new_ones(1, 1, frames), squares, stride=hop)[0, 0]
        half = config.frame_samples // 2
        return (total / weight.clamp_min(1e-11))[..., half : half + mix.shape[-1]]

    def estimate(self, magnitudes: Tensor) -> Tensor:
        estimates = [self._in_patches(target, magnitudes) for target in self.networks]
        if self.config.residual:
            known = self.config.residual_of or self.config.targets
            removed = sum(e for t, e in zip(self.config.targets, estimates, strict=True) if t in known)
            estimates.append((magnitudes - removed).clamp_min(0))
        return torch.stack(estimates, 1)

    def estimate_in_training(self, magnitudes: Tensor) -> Tensor:
        """An excerpt is one patch: neither overlap nor both orders of the channels (*code*).

        It is continued with silence to whole halvings. The original cuts 6 s to 256 frames, which 261120 samples have.
        """
        frames = magnitudes.shape[2]
        step = math.lcm(*(2**sizes.halvings for sizes in self.config.networks))
        padded = F.pad(magnitudes, (0, 0, 0, -frames % step))
        return torch.stack([network(padded)[:, :, :frames] for network in self.networks.values()], 1)

    def _in_patches(self, target: str, magnitudes: Tensor) -> Tensor:
        """The average over the patches, the first of which starts so early that all frames are in equally many."""
        network, (size, shift) = self.networks[target], self._patches[target]
        batch, _, frames, _ = magnitudes.shape
        lead = size - shift
        count = -(-(frames + lead) // shift)
        if self.config.halved_tail:
            count = min(count, (frames + size - frames % size) // shift)
        padded = F.pad(magnitudes, (0, 0, lead, max(0, (count - 1) * shift + size - lead - frames)))
        total = torch.zeros_like(padded)
        for start in range(0, count * shift, shift):
            patch = padded[:, :, start : start + size]
            if self.config.flip_average:
                both = network(torch.cat([patch, patch.flip(1)]))
                outcome = (both[:batch] + both[batch:].flip(1)) / 2
            else:
                outcome = network(patch)
            total[:, :, start : start + size] += outcome
        return total[:, :, lead : lead + frames] / self.config.patch_overlap

    def filtered(self, magnitudes: Tensor, mix: Tensor) -> Tensor:
        config = self.config
        if not (config.wiener_iterations or config.wiener_softmask or config.sounding_silence):
            return magnitudes * torch.sgn(mix)
        return wiener(magnitudes, mix, **self.filter_settings())

    def filter_settings(self) -> dict[str, Any]:
        # The residual is an estimate like the others here.
        return super().filter_settings() | {"residual": False}
