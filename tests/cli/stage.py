"""What the tests of the command act upon: small songs, and what is left in a folder afterwards."""

from __future__ import annotations

import functools
import io
from pathlib import Path

import av
import numpy as np
import soundfile

RATE = 44_100


def music(channels: int = 2, seconds: float = 0.3, rate: int = RATE, seed: int = 0):
    """A chord and noise, [samples, channels] float32 below full scale."""
    time = np.arange(round(seconds * rate)) / rate
    tones = np.stack([np.sin(2 * np.pi * (220 + 170 * k) * time + k + seed) for k in range(channels)], axis=1)
    noise = np.random.default_rng(seed).standard_normal(tones.shape)
    return (0.3 * tones + 0.1 * noise).clip(-0.99, 0.99).astype(np.float32)


def write_wav(path: Path, channels: int = 2, seconds: float = 0.3, rate: int = RATE, seed: int = 0, subtype="PCM_16"):
    soundfile.write(path, music(channels, seconds, rate, seed), rate, subtype)
    return path


@functools.cache
def picture() -> bytes:
    """A small PNG."""
    buffer = io.BytesIO()
    container = av.open(buffer, "w", format="image2pipe")
    stream = container.add_stream("png", rate=1, width=16, height=12, pix_fmt="rgb24")
    frame = av.VideoFrame.from_ndarray(np.full((12, 16, 3), 99, np.uint8), format="rgb24")
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
    container.close()
    return buffer.getvalue()


def left_behind(folder: Path) -> list[str]:
    """Everything below a folder, hidden things too, by relative path."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) if folder.exists() else []
