"""Resampling by a ratio of small whole numbers, with a windowed sinc.

Definition: ``resample_frac`` of the PyPI package julius 0.2.8 (A. Défossez, MIT), which Demucs v2 and v3 call: for a
ratio of `new` to `old`, reduced, with ``rate = rolloff * min(new, old)``, phase i of the output is the input weighted
by ``sinc(t) cos²(t / (2 zeros))``, ``t = π rate (k / old - i / new)``, as far as |t| < π zeros, the weights summing to
1; beyond its ends the input goes on at its last value.

Here a block of outputs is one row of a matrix product, the weights standing in a band: several times as fast as a
convolution with one channel, and the samples come out in order.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_STEPS = 32
"""Steps of `old` input samples in a block: longer ones waste work beside the band, shorter ones make thin matrices."""


class SincResampler(nn.Module):
    """``[..., T]`` at a rate of `old` -> ``[..., floor(T * new / old)]`` at a rate of `new`; T >= 1.

    Args:
        old: rate of the input, > 0. Only its ratio to `new` counts.
        new: rate of the output, > 0.
        zeros: zero crossings of the sinc to either side.
        rolloff: where the low-pass ends, as a share of the lower rate.
    """

    weight: Tensor

    def __init__(self, old: int, new: int, zeros: int = 24, rolloff: float = 0.945):
        super().__init__()
        divisor = math.gcd(old, new)
        self._old, self._new = old // divisor, new // divisor
        rate = rolloff * min(self._old, self._new)
        self._reach = math.ceil(zeros * self._old / rate)
        at = torch.arange(-self._reach, self._reach + self._old, dtype=torch.float64) / self._old
        phases = []
        for phase in range(self._new):
            t = ((at - phase / self._new) * rate).clamp(-zeros, zeros)
            taps = torch.sinc(t) * torch.cos(t * (math.pi / (2 * zeros))).square()
            phases.append(taps / taps.sum())
        kernel = torch.stack(phases, 1)  # [taps, new]
        band = torch.zeros((_STEPS - 1) * self._old + len(kernel), _STEPS, self._new, dtype=torch.float64)
        for step in range(_STEPS):
            band[step * self._old : step * self._old + len(kernel), step] = kernel
        self.register_buffer("weight", band.flatten(1).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        samples = x.shape[-1]
        count = samples * self._new // self._old
        blocks = max(1, -(-count // (_STEPS * self._new)))
        hop, width = _STEPS * self._old, self.weight.shape[0]
        flat = F.pad(x.reshape(1, -1, samples), (self._reach, self._reach + self._old), mode="replicate")[0]
        flat = F.pad(flat, (0, max(0, (blocks - 1) * hop + width - flat.shape[-1])))
        # In training with half precision, waveforms keep theirs.
        with torch.autocast(x.device.type, enabled=False):
            resampled = flat.to(self.weight.dtype).unfold(-1, width, hop)[:, :blocks] @ self.weight
        return resampled.reshape(*x.shape[:-1], blocks * _STEPS * self._new)[..., :count]
