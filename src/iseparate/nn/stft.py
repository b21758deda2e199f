"""Frames, spectra and back, without centring: the caller decides what lies before the first sample.

A centred transform is this one on a padded signal, so every convention of the field can be built on it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def hann(frame_samples: int) -> Tensor:
    """The periodic Hann window, float32 ``[frame_samples]``."""
    return torch.hann_window(frame_samples, periodic=True, dtype=torch.float64).float()


def spectrum(signal: Tensor, window: Tensor, hop_samples: int) -> Tensor:
    """Short-time spectra of every frame that fits whole into the signal.

    Args:
        signal: ``[..., samples]``, samples >= len(window).
        window: ``[frame_samples]``, multiplied onto each frame.
        hop_samples: distance between the starts of two frames.

    Returns:
        complex ``[..., frames, frame_samples // 2 + 1]``, unscaled; frame k starts at sample ``k * hop_samples``.
    """
    spectra: Tensor = torch.fft.rfft(signal.unfold(-1, len(window), hop_samples) * window)
    return spectra


def overlap_frames(spectra: Tensor, window: Tensor, hop_samples: int) -> Tensor:
    """The weighted sum of overlapping frames: the inverse of `spectrum` up to the windows' own sum.

    Nothing is normalised: the first and last ``frame - hop`` samples are partial sums, which the frames of a
    neighbouring stretch complete by plain addition. That is what makes chunked processing exact.

    Args:
        spectra: complex ``[..., frames, frame_samples // 2 + 1]``.
        window: ``[frame_samples]``, multiplied onto each frame; hop_samples must divide its length.
        hop_samples: distance between the starts of two frames.

    Returns:
        ``[..., (frames - 1) * hop_samples + frame_samples]``.
    """
    frame_samples = len(window)
    overlap, rest = divmod(frame_samples, hop_samples)
    if rest:
        raise ValueError(f"the hop ({hop_samples}) must divide the frame ({frame_samples})")
    frames = torch.fft.irfft(spectra, n=frame_samples) * window
    pieces = frames.unflatten(-1, (overlap, hop_samples))
    count = frames.shape[-2]
    total = frames.new_zeros(*frames.shape[:-2], count + overlap - 1, hop_samples)
    for i in range(overlap):
        total[..., i : i + count, :] += pieces[..., i, :]
    signal: Tensor = total.flatten(-2)
    return signal
