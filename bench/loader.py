"""Whether reading keeps ahead of the network: training examples per second, by where they are read from.

    python bench/loader.py [--songs 8] [--seconds 60] [--batches 12] [--workers 0 1 2] [--excerpt-seconds 6]

The same seeded songs (four stems, 44.1 kHz stereo, 16 bits) lie on disk as ``prepared:``, WAV, FLAC and MUSDB18's
``.stem.mp4``. Examples are Open-Unmix's: 6 s, each stem from another song, gain and swapped channels, 16 to a batch.
Beside them, from the same WAV files and with the same workers, the predecessor's way (iSeparate 2022,
``iSeparate/datasets/sep_dataset.py``): decode each stem's whole file, then cut the excerpt out. That is what its
Demucs configuration does for each excerpt; its D3Net ones (``cache: true``) keep every file they have decoded, in each
worker by itself, so the row "all in memory" is what they reach once every song has been drawn, if there is room:
85 MB a minute of four stems, in each worker. And what a network eats: training steps of an Open-Unmix target of full
size on this processor. A GPU eats more; how much more is up to it, so the last column is a ratio of this machine alone.
Files are small enough to be in the system's cache: what is measured is decoding and copying, not the disk.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset

import report
from iseparate.data import open_dataset
from iseparate.data.augment import Gain, SwapChannels
from iseparate.data.excerpts import Excerpts, RandomSampling
from iseparate.data.loader import ExcerptLoader
from iseparate.data.prepare import prepare
from iseparate.models.open_unmix import Config, TargetNetwork
from iseparate.nn.stft import centred_spectrum, hann

RATE = 44_100
STEMS = ("vocals", "drums", "bass", "other")
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a song")
    parser.add_argument("--batches", type=int, default=12, help="measured after a warm-up")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--excerpt-seconds", type=float, default=6.0)
    options = parser.parse_args()
    samples = round(options.excerpt_seconds * RATE)
    appetite = network_appetite(samples)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        sources = write_songs(Path(name), options.songs, options.seconds)
        for source, spec in sources.items():
            for workers in options.workers:
                loader = ExcerptLoader(ours(spec, samples, options.batches), BATCH, workers=workers)
                rows.append(row(source, workers, rate_of(loader), appetite))
        for source, keeps in (("WAV, the predecessor's way", False), ("the same, all in memory", True)):
            for workers in options.workers:
                dataset = Predecessor(Path(name) / "hq" / "train", samples, (options.batches + 1) * BATCH, keeps)
                rate = rate_of(DataLoader(dataset, BATCH, num_workers=workers))
                rows.append(row(source, workers, rate, appetite))
    report.write(
        "loader",
        f"Training examples of {options.excerpt_seconds:g} s per second",
        [
            f"`python bench/loader.py --songs {options.songs} --seconds {options.seconds:g} --batches "
            f"{options.batches}`: four stems, songs mixed, gain and swap, {BATCH} to a batch; files in the system's "
            "cache.",
            f"Network: training steps of one Open-Unmix target (hidden size 512) on this processor with "
            f"{torch.get_num_threads()} threads take {appetite:.2f} examples per second, nothing else running. With "
            "0 workers reading and computing take turns.",
            "The predecessor's way decodes a stem's whole file for each excerpt; all in memory is what it reaches with "
            "its cache full, which holds 85 MB a minute of music in each worker.",
        ],
        rows,
    )


def row(source: str, workers: int, rate: float, appetite: float) -> dict[str, object]:
    line = {
        "read from": source,
        "workers": workers,
        "examples/s": f"{rate:.1f}",
        "× what the network eats": f"{rate / appetite:.1f}",
    }
    print(line, flush=True)
    return line


def ours(spec: str, samples: int, batches: int) -> Excerpts:
    return Excerpts(
        open_dataset(spec).tracks,
        STEMS,
        samples,
        RATE,
        sampling=RandomSampling(per_epoch=(batches + 1) * BATCH),
        mix_songs=1.0,
        augmentations=[Gain(), SwapChannels()],
    )


def rate_of(loader: Iterable[object]) -> float:
    """Examples per second, the first batch (starting workers, opening files) left out."""
    batches = iter(loader)
    next(batches)
    start, count = time.perf_counter(), 0
    for _ in batches:
        count += BATCH
    return count / (time.perf_counter() - start)


class Predecessor(Dataset[torch.Tensor]):
    """The predecessor's examples, written anew from its description: whole files are decoded for each excerpt.

    With `keeps`, each is decoded once. Here that is before anything is measured, and before workers start, which then
    share the memory as long as nobody writes to it; there each worker decodes for itself.
    """

    def __init__(self, folder: Path, samples: int, count: int, keeps: bool = False):
        self.songs, self.samples, self.count = sorted(folder.iterdir()), samples, count
        paths = [song / f"{stem}.wav" for song in self.songs for stem in STEMS] if keeps else []
        self.kept = {path: decoded(path) for path in paths}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        stems = []
        for stem in STEMS:
            path = random.choice(self.songs) / f"{stem}.wav"
            frames = soundfile.info(path).frames
            start = random.randint(0, max(0, frames - self.samples))
            whole = self.kept[path] if path in self.kept else decoded(path)
            sound = whole[:, start : start + self.samples] * random.uniform(0.25, 1.25)
            stems.append(sound.flip(0) if random.random() < 0.5 else sound)
        return torch.stack(stems)


def decoded(path: Path) -> torch.Tensor:
    """A whole file ``[C, T]``."""
    return torch.from_numpy(soundfile.read(path, dtype="float32")[0].T.copy())


def network_appetite(samples: int, steps: int = 3) -> float:
    """Examples per second that training an Open-Unmix target takes in."""
    config = Config(max_bin=1487)
    network = TargetNetwork(config).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    window = hann(config.frame_samples)
    stems = torch.randn(BATCH, len(STEMS), 2, samples) * 0.1
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        mix, target = (centred_spectrum(x, window, config.hop_samples).abs() for x in (stems.sum(1), stems[:, 0]))
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(network(mix), target).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return BATCH / min(seconds[1:])


def write_songs(folder: Path, songs: int, seconds: float) -> dict[str, str]:
    """The same songs in four kinds of files; where each is, as KIND:PATH."""
    for number in range(songs):
        stems = {stem: make_stem(10 * number + i, round(seconds * RATE)) for i, stem in enumerate(STEMS)}
        everything = {"mixture": np.sum(list(stems.values()), axis=0), **stems}
        for kind, suffix in (("hq", "wav"), ("flac", "flac")):
            home = folder / kind / "train" / f"song {number}"
            home.mkdir(parents=True)
            for source, sound in everything.items():
                soundfile.write(home / f"{source}.{suffix}", sound.T, RATE, subtype="PCM_16")
        (folder / "stem" / "train").mkdir(parents=True, exist_ok=True)
        order = ("mixture", "drums", "bass", "other", "vocals")
        write_stem_mp4(folder / "stem" / "train" / f"song {number}.stem.mp4", [everything[name] for name in order])
    prepare(open_dataset(f"musdb18hq:{folder / 'hq'}"), folder / "prepared")
    return {
        "prepared": f"prepared:{folder / 'prepared'}",
        "WAV": f"musdb18hq:{folder / 'hq'}",
        "FLAC": f"musdb18hq:{folder / 'flac'}",
        "stem.mp4 (AAC)": f"musdb18:{folder / 'stem'}",
    }


def make_stem(seed: int, samples: int) -> np.ndarray:
    """Notes that decay over a little noise: about as hard to compress as music."""
    rng = np.random.default_rng(seed)
    sound = rng.normal(0, 0.003, (2, samples))
    note = RATE // 4
    t = np.arange(note) / RATE
    for start in range(0, samples - note, note):
        hz = 55 * 2 ** (rng.integers(0, 48) / 12)
        partials = sum(np.sin(2 * np.pi * hz * k * t) / k for k in range(1, 6))
        sound[:, start : start + note] += rng.uniform(0.02, 0.08, (2, 1)) * np.exp(-6 * t) * partials
    return sound.astype(np.float32)


def write_stem_mp4(path: Path, sounds: list[np.ndarray]) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        streams = [container.add_stream("aac", rate=RATE, layout="stereo", options={"aac_pns": "0"}) for _ in sounds]
        for stream, sound in zip(streams, sounds, strict=True):
            stream.bit_rate = 256_000
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), "fltp", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))


if __name__ == "__main__":
    main()
