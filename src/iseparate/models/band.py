"""Band: drums, bass and the rest of a song without its singer, by masks that share out the spectrum.

This project's own, for songs whose vocals another network has taken (`iseparate.models.cascade`). Two networks to
choose from, with the same input, the same masks and the same losses, so that they can be compared:

- ``u_net``: residual convolutions with a linear layer along frequency (W. Choi et al., "Investigating U-Nets with
  various intermediate blocks for spectrogram-based singing voice separation", ISMIR 2020, the TFC-TDF block), skips
  that add, and a recurrent layer at the bottom that hears the whole stretch.
- ``d3net``: the densely connected, multi-dilated U-Nets of D3Net (Takahashi and Mitsufuji, CVPR 2021;
  `iseparate.models.d3net`) in a compact size, a band below, a band above and one over all.

Shapes: waveform ``[B, 2, T]`` -> centred spectra ``[B, 2, frames, 2049]`` -> bands: the lowest `linear_bins` one by
one, those above in groups of `group_bins` -> compressed magnitudes of left, right, middle and side -> shares
``[B, S, 2, frames, bands]`` that sum to one over the stems -> waveforms ``[B, S, 2, T]``. So the stems sum to the
input, whatever the network says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iseparate.models._base import SeparationModel
from iseparate.models._registry import register
from iseparate.nn.dense import D2Block, MD3Net
from iseparate.nn.stft import centred_signal, centred_spectrum, hann, masked
from iseparate.types import ModelSpec, TrackStatistics

_INPUTS = 4
"""Left, right, middle and side."""
_COMPRESSION = 0.3
_FOLD_FRAMES, _FOLD_BANDS = 2, 4
"""The networks see tiles of so many frames and bands as one point with more channels."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyper-parameters; all are our own."""

    stems: tuple[str, ...] = ("drums", "bass", "other")
    body: Literal["u_net", "d3net"] = "u_net"
    widths: tuple[int, ...] = (32, 64, 128, 192, 256)
    """``u_net``: channels at each resolution, the finest first; each has half the bands of the one before."""
    halve_frames: tuple[bool, ...] = (True, True, True, False)
    """``u_net``: whether a step down halves the frames too."""
    narrowing: int = 8
    """``u_net``: by how much the linear layers along frequency narrow."""
    recurrent_size: int = 256
    """``u_net``: cells of the GRU in each direction."""
    growth: tuple[int, ...] = (16,) * 7
    """``d3net``: of its blocks on the way down, at the bottom and up, of all three U-Nets. Multiples of 16: with others
    the gradients of dilated convolutions in bfloat16 are not numbers (PyTorch 2.13 on a CPU)."""
    layers: int = 4
    """``d3net``: in each of them; in the upper band's, half as many."""
    start: int = 32
    """``d3net``: channels before them."""
    linear_bins: int = 1024
    group_bins: int = 8
    frame_samples: int = 4096
    hop_samples: int = 1024
    sample_rate: int = 44100

    def __post_init__(self) -> None:
        if len(self.stems) < 2 or len(set(self.stems)) < len(self.stems):
            raise ValueError(f"stems must be two or more different names; got {self.stems}")
        if len(self.widths) != len(self.halve_frames) + 1 or min(*self.widths, self.recurrent_size) < 1:
            raise ValueError("widths are 1 or more, and one more than halve_frames")
        if len(self.growth) % 2 == 0 or min(*self.growth, self.start) < 1 or self.layers < 2:
            raise ValueError("growth is of odd length; growth and start are 1 or more, layers 2 or more")
        if min(self.narrowing, self.group_bins, self.linear_bins, self.hop_samples) < 1:
            raise ValueError("narrowing, group_bins, linear_bins and hop_samples are 1 or more")
        if self.frame_samples % (2 * self.hop_samples):
            raise ValueError(f"twice hop_samples ({self.hop_samples}) must divide frame_samples ({self.frame_samples})")
        above = self.frame_samples // 2 - self.linear_bins
        if above < 0 or above % self.group_bins:
            raise ValueError(f"the {above} bins above linear_bins are no groups of {self.group_bins}")
        coarsest = self.narrowing if self.body == "u_net" else 2
        if self.bands % (_FOLD_BANDS * 2**self.halvings) or self.bands // _FOLD_BANDS < coarsest * 2**self.halvings:
            raise ValueError(f"{self.bands} bands cannot be halved {self.halvings} times after tiles of {_FOLD_BANDS}")

    @property
    def bands(self) -> int:
        """Columns of the masks."""
        return self.linear_bins + (self.frame_samples // 2 - self.linear_bins) // self.group_bins

    @property
    def halvings(self) -> int:
        """Of the bands, on the way down."""
        return len(self.halve_frames) if self.body == "u_net" else len(self.growth) // 2

    @property
    def frame_multiple(self) -> int:
        """What the number of frames is rounded up to."""
        halvings = sum(self.halve_frames) if self.body == "u_net" else self.halvings
        return int(_FOLD_FRAMES * 2**halvings)

    @classmethod
    def tiny(cls) -> Config:
        """A network of the same shape that runs in milliseconds, for tests."""
        return cls(
            widths=(4, 6, 8),
            halve_frames=(True, False),
            narrowing=2,
            recurrent_size=4,
            growth=(2, 3, 2),
            layers=2,
            start=4,
            linear_bins=96,
            group_bins=2,
            frame_samples=256,
            hop_samples=64,
        )


class Residual(nn.Module):
    """Two convolutions around a linear layer along frequency: ``[B, C, frames, bands]`` -> the same shape.

    One normalisation is enough, since the block starts close to the identity.
    """

    def __init__(self, channels: int, bands: int, narrowing: int):
        super().__init__()
        narrow = bands // narrowing
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.narrow = nn.Parameter(torch.empty(narrow, bands))
        self.widen = nn.Parameter(torch.empty(bands, narrow))
        self.bias = nn.Parameter(torch.zeros(bands))
        nn.init.normal_(self.narrow, std=bands**-0.5)
        nn.init.normal_(self.widen, std=0.01)
        nn.init.normal_(self.second.weight, std=0.1 / (9 * channels) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.first(x)))
        # By einsum: as it lies in memory, channels last, this needs the fewest copies.
        along = F.relu(torch.einsum("nf,bctf->bctn", self.narrow, y))
        y = y + torch.einsum("fn,bctn->bctf", self.widen, along) + self.bias
        return F.relu(x + self.second(y))


class Memory(nn.Module):
    """A recurrent layer over all bands and channels at once: ``[B, C, frames, bands]`` -> the same shape."""

    def __init__(self, channels: int, bands: int, cells: int, narrow: int = 32):
        super().__init__()
        self.narrow = nn.Conv2d(channels, narrow, 1)
        self.enter = nn.Linear(narrow * bands, cells)
        self.gru = nn.GRU(cells, cells, 2, batch_first=True, bidirectional=True)
        self.leave = nn.Linear(2 * cells, narrow * bands)
        self.widen = nn.Conv2d(narrow, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.narrow(x)
        batch, channels, frames, bands = y.shape
        y = F.relu(self.enter(y.permute(0, 2, 3, 1).reshape(batch, frames, bands * channels)))
        with torch.autocast(x.device.type, enabled=False):  # recurrences lose too much in half precision
            y, _ = self.gru(y.float())
        y = self.leave(y).reshape(batch, frames, bands, channels).permute(0, 3, 1, 2)
        widened: Tensor = self.widen(y)
        return widened


class UNet(nn.Module):
    """``[B, in, frames, bands]`` -> ``[B, out, frames, bands]``."""

    def __init__(self, config: Config, channels_in: int, channels_out: int):
        super().__init__()
        widths = config.widths
        bands = config.bands // _FOLD_BANDS
        self.enter = nn.Conv2d(channels_in, widths[0], 1)
        self.down, self.shrink, self.grow, self.up = (nn.ModuleList() for _ in range(4))
        for (wide, narrow), halve in zip(zip(widths[1:], widths, strict=False), config.halve_frames, strict=True):
            step = (2 if halve else 1, 2)
            self.down.append(Residual(narrow, bands, config.narrowing))
            self.shrink.append(
                nn.Sequential(nn.Conv2d(narrow, wide, step, step, bias=False), nn.BatchNorm2d(wide), nn.ReLU())
            )
            self.grow.append(nn.ConvTranspose2d(wide, narrow, step, step, bias=False))
            self.up.append(Residual(narrow, bands, config.narrowing))
            bands //= 2
        self.before = Residual(widths[-1], bands, config.narrowing)
        self.memory = Memory(widths[-1], bands, config.recurrent_size)
        self.after = Residual(widths[-1], bands, config.narrowing)
        self.leave = nn.Conv2d(widths[0], channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        skips = []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            x = block(x)
            skips.append(x)
            x = shrink(x)
        x = self.before(x)
        x = self.after(x + self.memory(x))
        for block, grow, skip in zip(reversed(self.up), reversed(self.grow), reversed(skips), strict=True):
            x = block(F.relu(grow(x)) + skip)
        logits: Tensor = self.leave(x)
        return logits


class D3UNet(nn.Module):
    """D3Net's arrangement: a U-Net on the lower bands, a slighter one above, one on all, and a block that joins them.

    ``[B, in, frames, bands]`` -> ``[B, out, frames, bands]``.
    """

    def __init__(self, config: Config, channels_in: int, channels_out: int):
        super().__init__()
        step = 2 ** (len(config.growth) // 2)
        self.split = max(1, config.bands // _FOLD_BANDS // 4 // step) * step
        count = len(config.growth)

        def net(growth: tuple[int, ...], layers: int) -> nn.Sequential:
            start = nn.Conv2d(channels_in, config.start, 3, padding=1)
            return nn.Sequential(start, MD3Net(config.start, growth, (layers,) * count, (1,) * count, "multi"))

        slight = tuple(max(2, size // 2) for size in config.growth)
        self.low, self.full = net(config.growth, config.layers), net(config.growth, config.layers)
        self.high = net(slight, config.layers // 2)
        self.match = nn.Conv2d(slight[-1], config.growth[-1], 1)
        self.final = D2Block(2 * config.growth[-1], config.start, 3, "multi")
        self.leave = nn.Sequential(nn.BatchNorm2d(config.start), nn.Conv2d(config.start, channels_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.cat([self.low(x[..., : self.split]), self.match(self.high(x[..., self.split :]))], -1)
        logits: Tensor = self.leave(self.final(torch.cat([parts, self.full(x)], 1)))
        return logits


class Masks(nn.Module):
    """Shares of the stems from magnitudes: ``[B, 4, frames, bands]`` -> ``[B, S * 2, frames, bands]``.

    frames is a multiple of ``Config.frame_multiple``.
    """

    def __init__(self, config: Config):
        super().__init__()
        tile = _FOLD_FRAMES * _FOLD_BANDS
        self.stems = len(config.stems)
        self.norm = nn.BatchNorm1d(_INPUTS * config.bands)
        body = UNet if config.body == "u_net" else D3UNet
        self.body = body(config, _INPUTS * tile, 2 * self.stems * tile)

    def forward(self, magnitudes: Tensor) -> Tensor:
        batch, channels, frames, bands = magnitudes.shape
        x = magnitudes.permute(0, 2, 1, 3).reshape(batch * frames, channels * bands)
        x = self.norm(x).view(batch, frames // _FOLD_FRAMES, _FOLD_FRAMES, channels, bands // _FOLD_BANDS, _FOLD_BANDS)
        # The tiles become channels, and those lie last in memory.
        x = x.permute(0, 1, 4, 3, 2, 5).reshape(batch, frames // _FOLD_FRAMES, bands // _FOLD_BANDS, -1)
        x = self.body(x.permute(0, 3, 1, 2))
        x = x.permute(0, 2, 3, 1).reshape(
            batch, frames // _FOLD_FRAMES, bands // _FOLD_BANDS, self.stems, 2, _FOLD_FRAMES, _FOLD_BANDS
        )
        shares: Tensor = x.float().softmax(3)
        return shares.permute(0, 3, 4, 1, 5, 2, 6).reshape(batch, self.stems * 2, frames, bands)


@register(
    "band",
    config=Config,
    paper="This project, after Choi et al., ISMIR 2020, and Takahashi, Mitsufuji, CVPR 2021, https://arxiv.org/abs/2011.11844",
    domain="spectrogram",
    published={"band": Config(), "band-d3net": Config(body="d3net")},
)
class Band(SeparationModel):
    """Spectra, shares of the stems, and back."""

    kernels: tuple[str, ...] = ("masks",)
    kernels_in_bf16 = kernels
    config: Config
    window: Tensor

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.masks = Masks(config)
        self.register_buffer("window", hann(config.frame_samples), persistent=False)
        self.spec = ModelSpec(
            stems=config.stems,
            sample_rate=config.sample_rate,
            channels=2,
            default_segment_seconds=23.5,
            start_grid_samples=config.hop_samples,
            default_overlap=0.125,
            couples=(config.stems,),
            mixture_consistent=True,
            silence_to_silence=True,
            residual_stem="other" if "other" in config.stems else None,
        )

    def forward(self, mix: Tensor, track: TrackStatistics | None = None) -> Tensor:  # noqa: ARG002
        """``[B, 2, T]`` -> ``[B, S, 2, T]``."""
        spectra = centred_spectrum(mix, self.window, self.config.hop_samples)
        # The shares sum to one, so the last stem is what the others leave: one inverse transform less.
        shares = self._ungrouped(self._shares(spectra)[:, :-1])
        estimates = centred_signal(
            masked(spectra[:, None], shares), self.window, self.config.hop_samples, mix.shape[-1]
        )
        return torch.cat([estimates, (mix - estimates.sum(1))[:, None]], 1)

    def training_loss(self, mix: Tensor, stems: Tensor, criterion: nn.Module) -> dict[str, Tensor]:
        """As the base; on shares, what the network has before it makes waveforms of them."""
        if criterion.domain != "shares":
            return super().training_loss(mix, stems, criterion)
        spectra = centred_spectrum(mix, self.window, self.config.hop_samples)
        references = centred_spectrum(stems, self.window, self.config.hop_samples)
        shares = self._shares(spectra)
        mix_power = self._grouped(_power(spectra))
        likeness = self._grouped(_likeness(spectra[:, None], references))
        power = self._grouped(_power(references))
        loss: Tensor = criterion.of_shares(shares, mix_power, likeness, power)  # type: ignore[operator]
        return {"loss": loss}

    def _shares(self, spectra: Tensor) -> Tensor:
        """Complex ``[B, 2, frames, bins]`` -> shares ``[B, S, 2, frames, bands]``, 1 over all stems."""
        batch, _, frames, _ = spectra.shape
        missing = -frames % self.config.frame_multiple
        masks = self.masks(F.pad(self._features(spectra), (0, 0, 0, missing)))
        shares: Tensor = masks.view(batch, len(self.config.stems), 2, frames + missing, -1)[..., :frames, :]
        return shares

    def _features(self, spectra: Tensor) -> Tensor:
        """Compressed magnitudes ``[B, 4, frames, bands]`` at a level of their own."""
        left, right = spectra.unbind(1)
        four = torch.stack([left.abs(), right.abs(), (left + right).abs() / 2, (left - right).abs() / 2], 1)
        bands = self._grouped(four)
        level = (bands[:, :2].square().mean((1, 2, 3), keepdim=True) + 1e-12).sqrt()
        return (bands / level + 1e-8).pow(_COMPRESSION)

    def _grouped(self, bins: Tensor) -> Tensor:
        """``[..., bins]`` -> ``[..., bands]``: sums of the groups; the highest bin, at half the rate, is left out."""
        linear = self.config.linear_bins
        above = bins[..., linear:-1].reshape(*bins.shape[:-1], -1, self.config.group_bins).sum(-1)
        return torch.cat([bins[..., :linear], above], -1)

    def _ungrouped(self, bands: Tensor) -> Tensor:
        """``[..., bands]`` -> ``[..., bins]``: each group's value for all its bins."""
        linear = self.config.linear_bins
        above = bands[..., linear:].repeat_interleave(self.config.group_bins, -1)
        return torch.cat([bands[..., :linear], above, bands[..., -1:]], -1)


def _power(spectra: Tensor) -> Tensor:
    return _likeness(spectra, spectra)


def _likeness(one: Tensor, other: Tensor) -> Tensor:
    """``Re(one* other)``; of the parts of complex tensors, products are quicker than ``square``."""
    return (one.real * other.real).addcmul_(one.imag, other.imag)
