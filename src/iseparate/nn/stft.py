"""Frames, spectra and back, without centring: the caller decides what lies before the first sample.

A centred transform is this one on a padded signal, so every convention of the field can be built on it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


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


def masked(spectra: Tensor, masks: Tensor) -> Tensor:
    """Complex spectra times real masks that fit their shape; faster than ``*``, which makes the masks complex first."""
    return torch.view_as_complex(torch.view_as_real(spectra) * masks[..., None])


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


def centred_spectrum(signal: Tensor, window: Tensor, hop_samples: int, padding: str = "reflect") -> Tensor:
    """Short-time spectra whose frame k is centred on sample ``k * hop_samples``.

    The convention of ``torch.stft`` and librosa with ``center=True``.

    Args:
        signal: ``[..., samples]``, any number of samples >= 1.
        window: ``[frame_samples]``.
        hop_samples: distance between two frames.
        padding: "reflect" or "zeros", what lies beyond the ends. A signal too short to be reflected is continued
            with zeros first, which is what the references' callers do.

    Returns:
        complex ``[..., samples // hop_samples + 1, frame_samples // 2 + 1]``, unscaled.
    """
    half = len(window) // 2
    flat = signal.reshape(-1, signal.shape[-1])
    if padding == "reflect":
        frames = flat.shape[-1] // hop_samples + 1
        short = max(0, half + 1 - flat.shape[-1])
        flat = F.pad(F.pad(flat, (0, short)), (half, half), mode="reflect")
        flat = flat[:, : (frames - 1) * hop_samples + len(window)]
    else:
        flat = F.pad(flat, (half, half))
    spectra = spectrum(flat, window, hop_samples)
    return spectra.reshape(*signal.shape[:-1], *spectra.shape[-2:])


def centred_signal(spectra: Tensor, window: Tensor, hop_samples: int, samples: int) -> Tensor:
    """The least-squares inverse of `centred_spectrum` (Griffin and Lim 1984), exactly `samples` long.

    Args:
        spectra: complex ``[..., frames, bins]``.
        window: the one of the analysis; hop_samples must divide its length.
        hop_samples: distance between two frames.
        samples: what the frames reach not is silence.

    Returns:
        ``[..., samples]``.
    """
    half = len(window) // 2
    summed = overlap_frames(spectra, window, hop_samples)
    ones = torch.fft.rfft(window.expand(spectra.shape[-2], -1))
    weight = overlap_frames(ones, window, hop_samples)
    inside = summed[..., half:] / weight[half:].clamp_min(1e-11)
    signal: Tensor = F.pad(inside[..., :samples], (0, max(0, samples - inside.shape[-1])))
    return signal
