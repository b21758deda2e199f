"""Sound and files for the tests of this folder, made on the spot."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from iseparate.audio.decode import Decoder


def music(channels: int, samples: int, rate: int, seed: int = 0):
    """A chord and noise, different in each channel, [channels, samples] float32 below full scale."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / rate
    tones = [np.sin(2 * np.pi * (220 + 170 * k) * time + k) for k in range(channels)]
    return (0.3 * np.stack(tones) + 0.1 * rng.standard_normal((channels, samples))).clip(-0.99, 0.99).astype("f4")


def decode(path, **options):
    with Decoder(path, **options) as decoder:
        return np.concatenate(list(decoder.blocks()), axis=1)


def lag_samples(reference, found):
    """By how many samples `found` comes after `reference`, from the peak of their cross-correlation."""
    length = min(reference.shape[1], found.shape[1])
    a, b = np.fft.rfft(reference[0, :length], 2 * length), np.fft.rfft(found[0, :length], 2 * length)
    peak = int(np.fft.irfft(b * a.conj()).argmax())
    return peak if peak < length else peak - 2 * length


def encode_raw(
    path: Path,
    samples,
    rate,
    *,
    muxer,
    codec,
    kind="fltp",
    frame_kind=None,
    layout="stereo",
    options=None,
    metadata=None,
):
    """A file by FFmpeg's own defaults: what other people's programs leave on disk."""
    with path.open("wb") as file:
        container = av.open(file, "w", format=muxer, container_options=options or {})
        stream = container.add_stream(codec, rate=rate, layout=layout)
        stream.codec_context.format = kind
        container.metadata.update(metadata or {})
        kind = frame_kind or kind
        values = samples
        if kind.startswith("s16"):
            values = np.rint(samples * 32768).clip(-32768, 32767).astype(np.int16)
        if kind.startswith("s32"):
            values = np.rint(samples.astype("f8") * 2**31).clip(-(2**31), 2**31 - 1).astype(np.int32)
        if not kind.endswith("p"):
            values = values.T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(values), kind, layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        container.close()
    return path


def picture(codec="mjpeg", pixels="yuvj420p", width=64, height=48):
    """A small image file, as bytes."""
    buffer = io.BytesIO()
    container = av.open(buffer, "w", format="image2pipe")
    stream = container.add_stream(codec, rate=1, width=width, height=height, pix_fmt=pixels)
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
    container.mux(stream.encode(None))
    container.close()
    return buffer.getvalue()
