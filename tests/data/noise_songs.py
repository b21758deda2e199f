"""Small songs of seeded noise on disk, at 8 kHz, for the tests of the training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile

from iseparate.data.clip import Clip
from iseparate.data.track import Track
from iseparate.types import Samples

RATE = 8_000
STEMS = ("vocals", "drums", "bass", "other")


def noise(seed: int, samples: int, channels: int = 2, level: float = 0.1) -> Samples:
    """16-bit noise, so that WAV files of 16 bits hold it exactly."""
    sound = np.random.default_rng(seed).normal(0, level, (channels, samples))
    return (np.rint(np.clip(sound, -0.99, 0.99) * 32_768) / 32_768).astype(np.float32)


def write(path: Path, sound: Samples, rate: int = RATE, subtype: str = "PCM_16") -> Clip:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound.T, rate, subtype=subtype)
    return Clip(path)


def song(
    folder: Path,
    number: int = 0,
    samples: int = 3 * RATE,
    *,
    stems: Sequence[str] = STEMS,
    sounds: Mapping[str, Samples] | None = None,
    mixture: Samples | None = None,
    rate: int = RATE,
    channels: int = 2,
    subtype: str = "PCM_16",
) -> Track:
    """A song in the layout of MUSDB18-HQ below `folder`."""
    home = folder / "train" / f"song {number}"
    sounds = sounds or {s: noise(100 * number + i, samples, channels) for i, s in enumerate(stems)}
    clips = {stem: (write(home / f"{stem}.wav", sound, rate, subtype),) for stem, sound in sounds.items()}
    mixed = () if mixture is None else (write(home / "mixture.wav", mixture, rate, subtype),)
    return Track(home.name, "train", clips, mixed)
