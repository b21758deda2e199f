"""Small data sets, written on the spot."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

RATE = 44_100
STEMS = ("drums", "bass", "other", "vocals")


def sound(seed: int, seconds: float = 0.3, channels: int = 2, rate: int = RATE):
    """Two tones and a little noise, [channels, samples] float32 well below full scale."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    tones = [np.sin(2 * np.pi * rng.uniform(80, 2000) * time + k) for k in range(channels)]
    return (0.15 * np.stack(tones) + 0.01 * rng.standard_normal((channels, len(time)))).astype("f4")


def write(path: Path, samples, rate: int = RATE, subtype: str = "PCM_16") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples.T, rate, subtype)
    return path


def write_song(folder: Path, seed: int = 0, seconds: float = 0.3, stems=STEMS, mixture: bool = True) -> Path:
    """A folder of WAV files, of which the mixture is the sum."""
    parts = {stem: sound(100 * seed + k, seconds) for k, stem in enumerate(stems)}
    for stem, part in parts.items():
        write(folder / f"{stem}.wav", part)
    if mixture:
        write(folder / "mixture.wav", sum(parts.values()))
    return folder


def write_hq(root: Path, train=("A", "Leaf - Summerghost"), test=("B",)) -> Path:
    for k, name in enumerate([*(f"train/{n}" for n in train), *(f"test/{n}" for n in test)]):
        write_song(root / name, seed=k + 1)
    return root


def write_coded(
    path: Path,
    tracks,
    rate: int = RATE,
    muxer: str = "mp4",
    codec: str = "aac",
    bit_rate: int = 256_000,
    noise_substitution: bool = False,
):
    """A file with one coded sound track for each array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"aac_pns": str(int(noise_substitution))} if codec == "aac" else {}
    kind = "s16p" if codec == "alac" else "flt" if codec == "libopus" else "fltp"
    with path.open("wb") as file:
        container = av.open(file, "w", format=muxer)
        streams = []
        for samples in tracks:
            layout = {1: "mono", 2: "stereo"}[samples.shape[0]]
            stream = container.add_stream(codec, rate=rate, layout=layout, options=options)
            stream.bit_rate = bit_rate
            stream.codec_context.format = kind
            streams.append((stream, layout))
        for (stream, layout), samples in zip(streams, tracks, strict=True):
            values = np.rint(samples * 32768).astype("i2") if kind == "s16p" else samples
            values = values if kind.endswith("p") else values.T.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(values), kind, layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            container.mux(stream.encode(frame))
        for stream, _ in streams:
            container.mux(stream.encode(None))
        container.close()
    return path


def write_stem_mp4(path: Path, seed: int = 0, seconds: float = 0.5) -> Path:
    """The five streams of MUSDB18: mixture, drums, bass, other, vocals."""
    parts = [sound(100 * seed + k, seconds) for k in range(4)]
    return write_coded(path, [np.sum(parts, axis=0), *parts])
