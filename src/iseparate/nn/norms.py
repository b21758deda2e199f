"""Normalisations of the TasNet family, over ``[B, C, frames]``.

The global one (gLN) is ``torch.nn.GroupNorm(1, channels, EPSILON)``, that of each channel (asteroid's fgLN) the same
with as many groups as channels; `layer_norm` makes them.
Source: Luo, Mesgarani, "Conv-TasNet", TASLP 2019, section II-C; ``asteroid/masknn/norms.py`` (0.7.0).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

EPSILON = 1e-8
"""Added to variances, in all published code of the family."""

NormKind = Literal["global", "channel", "cumulative", "feature", "batch", "none"]
"""Statistics of all channels and frames, of each frame by itself, of each frame and all before it, of each channel by
itself, or of each channel in training; ``none`` leaves all as it is."""


def layer_norm(kind: NormKind, channels: int) -> nn.Module:
    """A normalisation with a gain (`weight`) and shift (`bias`) per channel, ``[B, C, frames]`` -> the same."""
    match kind:
        case "global" | "feature":
            return nn.GroupNorm(1 if kind == "global" else channels, channels, EPSILON)
        case "channel":
            return ChannelNorm(channels)
        case "cumulative":
            return CumulativeNorm(channels)
        case "batch":
            return nn.BatchNorm1d(channels)
        case "none":
            return nn.Identity()


class _Affine(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def scaled(self, centred: Tensor, variance: Tensor) -> Tensor:
        """``[B, C, frames]`` whose mean is 0, and its variance ``[B, 1, frames]`` -> the layer's output."""
        normed = centred * torch.rsqrt(variance + EPSILON)
        return torch.addcmul(self.bias[:, None], normed, self.weight[:, None])


class ChannelNorm(_Affine):
    """cLN: each frame has the mean and variance of its own channels removed."""

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return self.scaled(centred, centred.square().mean(1, keepdim=True))


class CumulativeNorm(_Affine):
    """cgLN: each frame has the mean and variance of all channels up to and with itself removed."""

    def forward(self, x: Tensor) -> Tensor:
        frames = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
        mean = x.mean(1, keepdim=True).cumsum(-1) / frames
        power = x.square().mean(1, keepdim=True).cumsum(-1) / frames
        return self.scaled(x - mean, (power - mean.square()).clamp_min(0))
