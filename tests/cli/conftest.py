"""The command as a user runs it, on a network small enough to be made on the spot."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from iseparate.cli import main
from iseparate.models.spleeter import Config, Spleeter
from iseparate.weights.load import Weights, write_weights


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


@pytest.fixture(autouse=True)
def one_thread():
    """So small a network only loses by sharing its work among cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
