"""Frames of learned filterbanks and chunks of sequences, and back: windows are for the caller to multiply on."""

from __future__ import annotations

import torch
from torch import Tensor


def whole_frames(samples: int, frame_samples: int, hop_samples: int) -> int:
    """The length, at least `samples`, that frames fill to the last sample."""
    return max(0, -(-(samples - frame_samples) // hop_samples)) * hop_samples + frame_samples


def overlap_add(frames: Tensor, hop_samples: int) -> Tensor:
    """Add up frames, each `hop_samples` after the one before.

    Args:
        frames: ``[..., frames, frame_samples]``.
        hop_samples: >= 1; it need not divide the frame.

    Returns:
        ``[..., (frames - 1) * hop_samples + frame_samples]``.
    """
    count, frame_samples = frames.shape[-2:]
    if frame_samples == hop_samples:
        return frames.flatten(-2)
    pieces = -(-frame_samples // hop_samples)
    total = frames.new_zeros(*frames.shape[:-2], count + pieces - 1, hop_samples)
    for i, piece in enumerate(torch.split(frames, hop_samples, -1)):  # the last one may be narrower
        total[..., i : i + count, : piece.shape[-1]] += piece
    signal: Tensor = total.flatten(-2)[..., : (count - 1) * hop_samples + frame_samples]
    return signal
