"""D3Net's network written out plainly: modules in the order of the paper, nothing fused, nothing folded.

What a first implementation is, and what `bench/d3net.py` compares ours with. Its parameters have our names, so one
state dict fits both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from iseparate.models.d3net import NetworkSizes, UNetSizes


class NormConv(nn.Module):
    """Normalisation, ReLU, convolution."""

    def __init__(self, channels_in: int, channels_out: int, dilation: int = 1):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels_in)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.relu(self.norm(x)))


class D2(nn.Module):
    """Multi-dilated dense block."""

    def __init__(self, channels_in: int, growth: int, layers: int):
        super().__init__()
        self.growth = growth
        self.first = NormConv(channels_in, growth * layers)
        self.rest = nn.ModuleList(NormConv(growth, growth * (layers - i), 2**i) for i in range(1, layers))

    def forward(self, x: Tensor) -> Tensor:
        return dense(self.first(x), self.growth, self.rest)


class D3(nn.Module):
    """D2 blocks, densely connected."""

    def __init__(self, channels_in: int, growth: int, layers: int, blocks: int):
        super().__init__()
        self.growth = growth
        self.first = D2(channels_in, growth * blocks, layers)
        self.rest = nn.ModuleList(D2(growth, growth * (blocks - i), layers) for i in range(1, blocks))

    def forward(self, x: Tensor) -> Tensor:
        return dense(self.first(x), self.growth, self.rest)


def dense(x: Tensor, growth: int, rest: nn.ModuleList) -> Tensor:
    groups = list(torch.split(x, growth, 1))
    for i, layer in enumerate(rest):
        for j, part in enumerate(torch.split(layer(groups[i]), growth, 1), i + 1):
            groups[j] = groups[j] + part
    return groups[-1]


class Upsample(nn.Module):
    """Normalisation and transposed convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.ConvTranspose2d(channels, channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))


class UNet(nn.Module):
    """D3 blocks down and up."""

    def __init__(self, sizes: UNetSizes):
        super().__init__()
        growth, depth = sizes.growth, sizes.halvings
        inputs = [sizes.start, *growth[:depth]]
        inputs += [growth[depth + i] + growth[depth - 1 - i] for i in range(depth)]
        blocks = [D3(*each) for each in zip(inputs, growth, sizes.layers, sizes.blocks, strict=True)]
        self.down, self.bottom = nn.ModuleList(blocks[:depth]), blocks[depth]
        self.upsample = nn.ModuleList(Upsample(g) for g in growth[depth:-1])
        self.up = nn.ModuleList(blocks[depth + 1 :])
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            skips.append(block(x))
            x = self.pool(skips[-1])
        x = self.bottom(x)
        for upsample, block in zip(self.upsample, self.up, strict=True):
            x = block(torch.cat([upsample(x), skips.pop()], 1))
        return x


class Match(nn.Module):
    """Brings a band to as many channels as the widest."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels_in)
        self.conv = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))


class Branch(nn.Module):
    """One band, or all bins."""

    def __init__(self, sizes: UNetSizes, out: int):
        super().__init__()
        self.start = nn.Conv2d(2, sizes.start, 3, padding=1)
        self.net = UNet(sizes)
        self.match = Match(sizes.growth[-1], out) if sizes.growth[-1] < out else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.net(self.start(x))
        return self.match(x) if self.match else x


class PlainD3Net(nn.Module):
    """One target's magnitudes from the mixture's: ``[B, 2, frames, 2049]`` -> the same shape."""

    def __init__(self, sizes: NetworkSizes):
        super().__init__()
        self.sizes = sizes
        out = max(band.growth[-1] for band in sizes.bands)
        self.offset, self.scale = (nn.Parameter(f(sizes.normalised_bins)) for f in (torch.zeros, torch.ones))
        self.bands = nn.ModuleList(Branch(band, out) for band in sizes.bands)
        self.full = Branch(sizes.full, 0)
        self.final = D2(out + sizes.full.growth[-1], sizes.final_growth, sizes.final_layers)
        self.out_norm = nn.BatchNorm2d(sizes.final_growth)
        self.gate, self.filter = (nn.Conv2d(sizes.final_growth, 2, 1) for _ in range(2))
        self.gain, self.bias = (nn.Parameter(torch.ones(sizes.used_bins)) for _ in range(2))

    def forward(self, magnitudes: Tensor) -> Tensor:
        x = ((magnitudes - self.offset) / self.scale)[..., : self.sizes.used_bins]
        edges = self.sizes.edges
        bands = torch.cat([b(x[..., i:j]) for b, i, j in zip(self.bands, edges, edges[1:], strict=False)], 3)
        x = self.out_norm(self.final(torch.cat([bands, self.full(x)], 1)))
        x = torch.relu(torch.sigmoid(self.gate(x)) * self.filter(x) * self.gain + self.bias)
        return torch.cat([x, magnitudes[..., self.sizes.used_bins :]], 3)
