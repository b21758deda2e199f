"""The command as a user runs it, on a network small enough to be made on the spot."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch

from iseparate.cli import main
from iseparate.models.spleeter import Config, Spleeter
from iseparate.weights.load import Weights, write_weights

RATE = 44_100

torch.set_num_threads(1)  # so small a network only loses by sharing its work


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """The one complaint on stderr, without its label."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: "), self.err
        assert "Traceback" not in self.err + self.out
        return lines[0].removeprefix("error: ")


def write_tiny_weights(path: Path, seed: int = 0) -> Path:
    """A network with Spleeter's shape and a few hundred parameters, whose stems sum to the song."""
    torch.manual_seed(seed)
    config = dataclasses.replace(
        Config.tiny(), frame_samples=1024, hop_samples=256, segment_frames=64, mask_extension="average"
    )
    write_weights(path, Weights("spleeter", dataclasses.asdict(config), Spleeter(config).state_dict()))
    return path


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


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return write_tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """A cache and a working folder of its own, and no way to the network."""
    monkeypatch.setenv("ISEPARATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ISEPARATE_OFFLINE", "1")
    for name in ("ISEPARATE_CARDS", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def here(apart) -> Path:
    return apart


@pytest.fixture
def iseparate(monkeypatch):
    """Run the command in this process."""

    def run(*words) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["iseparate", *map(str, words)])
        out, err = io.StringIO(), io.StringIO()
        at_term = signal.getsignal(signal.SIGTERM)
        try:
            with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
                main()
        finally:
            signal.signal(signal.SIGTERM, at_term)
        return Outcome(ended.value.code or 0, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def separate(iseparate, tiny):
    """`iseparate separate -n <tiny>`, with stems in ./separated/tiny."""
    return lambda *words: iseparate("separate", "-n", tiny, *words)


@pytest.fixture
def start():
    """Start the command in a process of its own."""
    running = []

    def run(*words, **options) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "iseparate", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
            **options,
        )
        running.append(process)
        return process

    yield run
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def execute(start):
    """Run the command in a process of its own and wait for its end."""

    def run(*words, **options) -> Outcome:
        process = start(*words, **options)
        out, err = process.communicate(timeout=60)
        return Outcome(process.returncode, out, err)

    return run
