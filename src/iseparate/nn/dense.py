"""Densely connected blocks of dilated convolutions: the D2 and D3 blocks of D3Net, trained and at inference.

Source of facts: Takahashi, Mitsufuji, "Densely connected multi-dilated convolutional networks for dense prediction
tasks" (arXiv 2011.11844), and Sony's code, github sony/ai-research-code at cfe96df, ``d3net/``.

In a D2 block of growth g and L layers, layer l is the sum over the block's input and all layers before it, each
convolved with a dilation of its own. Turned around, each of these sources is convolved once for all layers that are
to come; the result's chunks of g channels are added to them.

Every convolution follows a normalisation and a ReLU, and nearly every normalisation follows nothing but sums of
convolutions. So at inference it is folded into them (`FoldedD2`, `FoldedD3`), and what remains is convolve, add,
rectify.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Dilation = Literal["multi", "none", "standard", "per_block"]
"""multi: each source has a dilation of its own (D2). none: all are 1. standard: each layer has one dilation, 2**l, for
all its sources. per_block: the m-th D2 block of a D3 block uses 2**m throughout."""


def dilations(kind: Dilation, source: int, layers: int, block: int = 0) -> tuple[int, ...]:
    """Dilations with which a source is convolved for each layer after it.

    Args:
        kind: see `Dilation`.
        source: 0 for the block's input, l + 1 for layer l.
        layers: of the block.
        block: number of the D2 block within its D3 block.

    Returns:
        one dilation per layer from `source` on.
    """
    targets = range(source, layers)
    if kind == "multi":
        return tuple(2**source for _ in targets)
    if kind == "standard":
        return tuple(2**layer for layer in targets)
    return tuple(2**block if kind == "per_block" else 1 for _ in targets)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, dilations: Sequence[int]) -> Tensor:
    """Convolve, "same" padding, with one dilation per chunk of output channels: one convolution if they are equal."""
    if len(set(dilations)) == 1:
        (d,) = set(dilations)
        return F.conv2d(x, weight, bias, padding=d * (weight.shape[-1] // 2), dilation=d)
    biases = [None] * len(dilations) if bias is None else bias.chunk(len(dilations))
    parts = [convolve(x, w, b, (d,)) for w, b, d in zip(weight.chunk(len(dilations)), biases, dilations, strict=True)]
    return torch.cat(parts, 1)


class NormConv(nn.Module):
    """Batch normalisation, ReLU, convolution: ``[B, in, H, W]`` -> ``[B, out, H, W]``."""

    def __init__(self, channels_in: int, channels_out: int, dilations: Sequence[int] = (1,), kernel: int = 3):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels_in)
        self.conv = nn.Conv2d(channels_in, channels_out, kernel)
        self.dilations = tuple(dilations)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(F.relu(self.norm(x)), self.conv.weight, self.conv.bias, self.dilations)


class D2Block(nn.Module):
    """Multi-dilated dense block: ``[B, in, H, W]`` -> ``[B, growth, H, W]``, the last layer's output.

    Args:
        channels_in: of the input.
        growth: channels of each layer.
        layers: their number, >= 1.
        dilation: see `Dilation`.
        block: number of this block within a D3 block, for ``per_block``.
    """

    def __init__(self, channels_in: int, growth: int, layers: int, dilation: Dilation = "multi", block: int = 0):
        super().__init__()
        self.growth = growth
        self.first = NormConv(channels_in, growth * layers, dilations(dilation, 0, layers, block))
        self.rest = nn.ModuleList(
            NormConv(growth, growth * (layers - source), dilations(dilation, source, layers, block))
            for source in range(1, layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        return _densely(self.first(x), self.growth, self.rest)


class D3Block(nn.Module):
    """D2 blocks, densely connected: ``[B, in, H, W]`` -> ``[B, growth, H, W]``.

    Args:
        channels_in: of the input.
        growth: channels that each D2 block gives to each block after it.
        layers: of each D2 block.
        blocks: number of D2 blocks, >= 1.
        dilation: see `Dilation`.
    """

    def __init__(self, channels_in: int, growth: int, layers: int, blocks: int, dilation: Dilation = "multi"):
        super().__init__()
        self.growth = growth
        self.first = D2Block(channels_in, growth * blocks, layers, dilation)
        self.rest = nn.ModuleList(
            D2Block(growth, growth * (blocks - block), layers, dilation, block) for block in range(1, blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        return _densely(self.first(x), self.growth, self.rest)


def _densely(start: Tensor, growth: int, rest: nn.ModuleList) -> Tensor:
    """Add each group's outcome to the groups after it; the last group is the result."""
    groups: list[Tensor] = list(start.split_with_sizes([growth] * (len(rest) + 1), 1))
    for i, layer in enumerate(rest):
        parts = layer(groups[i]).split_with_sizes([growth] * (len(rest) - i), 1)
        groups[i + 1 :] = [group + part for group, part in zip(groups[i + 1 :], parts, strict=True)]
    return groups[-1]


# Inference.


@dataclass(frozen=True)
class Affine:
    """``x * scale + shift`` per channel, both ``[channels]``."""

    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> Affine:
        """What a batch normalisation does in eval mode."""
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = _exact(norm.weight) / (_exact(norm.running_var) + norm.eps).sqrt()
        return cls(scale, _exact(norm.bias) - _exact(norm.running_mean) * scale)

    @classmethod
    def identity(cls, channels: int) -> Affine:
        """What changes nothing."""
        return cls(torch.ones(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64))

    @classmethod
    def cat(cls, parts: Sequence[Affine]) -> Affine:
        """One after the other on the channels' axis."""
        return cls(torch.cat([p.scale for p in parts]), torch.cat([p.shift for p in parts]))

    def part(self, start: int, stop: int | None = None) -> Affine:
        """Of some channels."""
        return Affine(self.scale[start:stop], self.shift[start:stop])

    @property
    def unshifted(self) -> Affine:
        """For terms of a sum beside the first, which already has the shift."""
        return Affine(self.scale, torch.zeros_like(self.shift))

    def after(self, conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
        """Weight and bias of `conv` with this behind it."""
        assert conv.bias is not None
        weight = _exact(conv.weight) * self.scale[:, None, None, None]
        bias = _exact(conv.bias) * self.scale + self.shift
        packed = weight.to(conv.weight).contiguous(memory_format=torch.channels_last)
        return packed, bias.to(conv.bias)

    def ready(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift on the device and in the precision of `like`, for `torch.addcmul`."""
        scale, shift = (v.to(like)[:, None, None] for v in (self.scale, self.shift))
        return scale, shift


def _exact(tensor: Tensor) -> Tensor:
    """In double precision (folding multiplies what would be rounded step by step), which not every device has."""
    return tensor.detach().cpu().double()


class FoldedD2:
    """A D2 block at inference.

    Takes what the first normalisation and ReLU would give, so that the caller can fold the former further up, and
    gives what `after` makes of the block's output.
    """

    def __init__(self, block: D2Block, after: Affine):
        g = self.growth = block.growth
        layers: list[NormConv] = list(block.rest)  # type: ignore[arg-type]
        groups = Affine.cat([*(Affine.of(layer.norm) for layer in layers), after])
        self.first = (*groups.after(block.first.conv), block.first.dilations)
        self.rest = [
            (*groups.part(g * (i + 1)).unshifted.after(layer.conv), layer.dilations) for i, layer in enumerate(layers)
        ]

    def __call__(self, x: Tensor) -> Tensor:
        g = self.growth
        later = convolve(x, *self.first)
        if not self.rest:
            return later
        # Only the next group is needed at once: it lives in a tensor of its own, the same one for all.
        group = later[:, :g].relu()
        for conv in self.rest[:-1]:
            later, addend = later[:, g:], convolve(group, *conv)
            torch.add(later[:, :g], addend[:, :g], out=group).relu_()
            later[:, g:] += addend[:, g:]
        return torch.add(later[:, g:], convolve(group, *self.rest[-1]), out=group)


class FoldedD3:
    """A D3 block at inference; see `FoldedD2`."""

    def __init__(self, block: D3Block, after: Affine):
        g = self.growth = block.growth
        layers: list[D2Block] = list(block.rest)  # type: ignore[arg-type]
        groups = Affine.cat([*(Affine.of(layer.first.norm) for layer in layers), after])
        self.first = FoldedD2(block.first, groups)
        self.rest = [FoldedD2(layer, groups.part(g * (i + 1)).unshifted) for i, layer in enumerate(layers)]

    def __call__(self, x: Tensor) -> Tensor:
        g = self.growth
        groups = self.first(x)
        for i, layer in enumerate(self.rest):
            groups[:, g * (i + 1) :] += layer(groups[:, g * i : g * (i + 1)].relu())
        return groups[:, g * len(self.rest) :]


class MD3Net(nn.Module):
    """A U-Net of D3 blocks: ``[B, in, H, W]`` -> ``[B, growth[-1], H, W]``.

    Args:
        channels_in: of the input.
        growth: of each D3 block, down, bottom and up; an odd number of them.
        layers: of the D2 blocks of each.
        blocks: D2 blocks of each.
        dilation: see `Dilation`.
    """

    def __init__(
        self,
        channels_in: int,
        growth: Sequence[int],
        layers: Sequence[int],
        blocks: Sequence[int],
        dilation: Dilation = "multi",
    ):
        super().__init__()
        depth = len(growth) // 2
        inputs = [channels_in, *growth[:depth]]
        inputs += [before + skip for before, skip in zip(growth[depth:-1], growth[:depth][::-1], strict=True)]
        every = [D3Block(*sizes, dilation=dilation) for sizes in zip(inputs, growth, layers, blocks, strict=True)]
        self.down = nn.ModuleList(every[:depth])
        self.bottom = every[depth]
        self.upsample = nn.ModuleList(Upsample(g) for g in growth[depth:-1])
        self.up = nn.ModuleList(every[depth + 1 :])

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = F.avg_pool2d(x, 2)
        x = self.bottom(x)
        for upsample, block in zip(self.upsample, self.up, strict=True):
            x = block(torch.cat([upsample(x), skips.pop()], 1))
        return x


class Upsample(nn.Module):
    """Batch normalisation and a transposed convolution of stride 2: ``[B, C, H, W]`` -> ``[B, C, 2H, 2W]``."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.ConvTranspose2d(channels, channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = self.conv(self.norm(x))
        return doubled


class FoldedMD3:
    """An MD3Net at inference; see `FoldedD2`. Skips are normalised and rectified where they will be read."""

    def __init__(self, net: MD3Net, after: Affine):
        depth = self.depth = len(net.down)
        blocks: list[D3Block] = [*net.down, net.bottom, *net.up]
        norms = [Affine.of(block.first.first.norm) for block in blocks]
        # On the way down an outcome is read twice, so nothing can be folded into it.
        behind = [Affine.identity(block.growth) for block in blocks[:depth]]
        behind += [Affine.of(layer.norm) for layer in net.upsample]  # type: ignore[arg-type]
        self.blocks = [FoldedD3(block, a) for block, a in zip(blocks, [*behind, after], strict=True)]
        like = next(net.parameters())
        self.pooled = [norm.ready(like) for norm in norms[1 : depth + 1]]
        self.up: list[tuple[Tensor, Tensor]] = []
        self.skips: list[tuple[Tensor, Tensor]] = []
        for layer, norm in zip(net.upsample, norms[depth + 1 :], strict=True):
            conv: nn.ConvTranspose2d = layer.conv  # type: ignore[assignment]
            assert conv.bias is not None
            channels = len(conv.bias)
            weight = _exact(conv.weight) * norm.scale[:channels, None, None]
            bias = _exact(conv.bias) * norm.scale[:channels] + norm.shift[:channels]
            self.up.append((weight.to(like), bias.to(like)))
            self.skips.append(norm.part(channels).ready(like))

    def __call__(self, x: Tensor) -> Tensor:
        waiting: list[Tensor] = []
        for level in range(self.depth):
            y = self.blocks[level](x)
            skip = _affine(y, self.skips[-1 - level])
            joined = room(y, len(self.up[-1 - level][1]) + skip.shape[1])
            torch.clamp_min(skip, 0, out=joined[:, -skip.shape[1] :])
            waiting.append(joined)
            x = _affine(F.avg_pool2d(y, 2), self.pooled[level]).relu_()
        y = self.blocks[self.depth](x)
        for i, (weight, bias) in enumerate(self.up):
            joined = waiting.pop()
            doubled = F.conv_transpose2d(y, weight, bias, stride=2)
            torch.clamp_min(doubled, 0, out=joined[:, : len(bias)])
            y = self.blocks[self.depth + 1 + i](joined)
        return y


def _affine(x: Tensor, scale_and_shift: tuple[Tensor, Tensor]) -> Tensor:
    scale, shift = (v.to(x.dtype) for v in scale_and_shift)  # autocast leaves what is not a convolution alone
    return torch.addcmul(shift, x, scale)


def room(like: Tensor, channels: int) -> Tensor:
    """An empty tensor of that many channels, channels last."""
    batch, _, height, width = like.shape
    return torch.empty(
        (batch, channels, height, width), dtype=like.dtype, device=like.device, memory_format=torch.channels_last
    )
