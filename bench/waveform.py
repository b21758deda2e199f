"""The waveform-domain networks beside their originals: the same random weights of full size, the same input.

    python bench/waveform.py [--only demucs dprnn] [--runs 3] [--seconds 10] [--threads N]

The peer writes the weights in its own format; ours are read from that file by the shipped importer. Each separation,
in one pass, is a process of its own, ours and the peer's in turn, so that a slow spell of the machine falls on both.
What can be quoted are the ratios of the call alone, each the median of the runs' own: below 1, ours takes less. How far
our output is from the peer's is in the table too, so that speed is not bought with another result.

Needs `python bench/make_peers.py demucs-2 asteroid`; a system whose peer is missing is left out and named.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

import report
from end_to_end import make_song
from iseparate.weights.load import import_checkpoint
from peers.measured import measured

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class System:
    """A network of a peer's that ours is compared with."""

    title: str
    peer: str  # its folder in bench/.peers
    runner: str
    name: str  # as the runner knows it
    file_name: str
    rate_hz: int = 44100
    channels: int = 2

    @property
    def python(self) -> Path:
        """The interpreter of the peer's environment."""
        return HERE / ".peers" / self.peer / "venv" / "bin" / "python"


SYSTEMS = {
    "demucs": System("Demucs v2", "demucs-2", "demucs_torch.py", "demucs", "model.th"),
    "conv_tasnet": System("Conv-TasNet, music", "demucs-2", "demucs_torch.py", "conv-tasnet", "model.th"),
    "conv_tasnet_speech": System(
        "Conv-TasNet, speech", "asteroid", "asteroid_torch.py", "ConvTasNet", "model.pth", 8000, 1
    ),
    "dprnn": System("DPRNN", "asteroid", "asteroid_torch.py", "DPRNNTasNet", "model.pth", 8000, 1),
    "lstm_tasnet": System("TasNet (BLSTM)", "asteroid", "asteroid_torch.py", "LSTMTasNet", "model.pth", 8000, 1),
}
PROGRAMS = {"demucs-2": "demucs 2.0.3", "asteroid": "asteroid 0.7.0"}
WITHOUT_PEER = (
    "Not here: Wave-U-Net, Meta-TasNet and MulCat, whose programs are no packages on PyPI; Demucs v1, which no package "
    "has; and demucs 4.1.0, none of whose networks is one of these: its Demucs is version 3's, whose decoder pads "
    "convolutions that version 2's does not, and it has no Conv-TasNet any more."
)


@dataclass(frozen=True)
class Run:
    """What one separation took."""

    cpu: float
    wall: float
    peak_bytes: int
    process_peak_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="SYSTEM")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=10, help="length of the input")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--ours", nargs=3, type=Path, metavar=("WEIGHTS", "MIX", "OUTPUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        separate(*options.ours)
        return
    missing = sorted({SYSTEMS[name].peer for name in options.only if not SYSTEMS[name].python.exists()})
    for peer in missing:
        print(f"{peer} is missing: run `python bench/make_peers.py {peer}` first", file=sys.stderr)
    rows = [
        compare(SYSTEMS[name], options.runs, options.seconds, options.threads)
        for name in options.only
        if SYSTEMS[name].peer not in missing
    ]
    if not rows:
        sys.exit("nothing to compare with")
    report.write(
        "waveform",
        "Networks of the waveform domain beside their originals",
        [
            f"`python bench/waveform.py --runs {options.runs} --seconds {options.seconds}`: {options.seconds} s in one "
            f"pass, {options.threads} threads, each run a process of its own, in turn; seconds are medians of "
            f"{options.runs} runs, after a warm-up on a tenth of the input.",
            "Ratios are ours to the peer's, medians of the runs' own: below 1, ours takes less. Memory is the most "
            "that the process held during the call, weights and libraries included; loading and imports are counted "
            "in the last column only.",
            "Random weights of the published sizes, as the peer writes them; the music networks on stereo at 44.1 kHz, "
            "the others on one channel at 8 kHz, asteroid's defaults for two speakers.",
            "Deviation: the largest difference of any sample from the peer's, to the peer's largest sample; and the "
            "energy of the difference of the worst stem, in dB of that stem's.",
            WITHOUT_PEER,
            *(f"Left out, since {peer} was not there: see `bench/make_peers.py`." for peer in missing),
        ],
        rows,
    )


def compare(system: System, runs: int, seconds: int, threads: int) -> dict[str, str]:
    """One system's line."""
    print(f"{system.title} ...", file=sys.stderr, flush=True)
    runner = HERE / "peers" / system.runner
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights, mix = folder / system.file_name, folder / "mix.npy"
        np.save(mix, make_mix(folder / "song.wav", system, seconds))
        subprocess.run([system.python, runner, "make", system.name, weights], check=True)
        outputs = {who: folder / f"{who}.npy" for who in ("theirs", "ours")}
        commands = {
            "theirs": [system.python, runner, "separate", weights, mix, outputs["theirs"]],
            "ours": [sys.executable, HERE / "waveform.py", "--ours", weights, mix, outputs["ours"]],
        }
        measures: dict[str, list[Run]] = {who: [] for who in commands}
        for _ in range(runs):
            for who, command in commands.items():
                measures[who].append(measure(list(map(str, command)), threads))
        theirs, ours = (np.load(outputs[who]).astype(np.float64) for who in ("theirs", "ours"))
    if theirs.shape != ours.shape:
        sys.exit(f"{system.title}: our output is {ours.shape}, the peer's {theirs.shape}")
    energies = np.square(ours - theirs).sum((1, 2)) / np.square(theirs).sum((1, 2))
    return {
        "network": system.title,
        "original": PROGRAMS[system.peer],
        "its CPU s": f"{median(measures, 'theirs', 'cpu'):.2f}",
        "our CPU s": f"{median(measures, 'ours', 'cpu'):.2f}",
        "CPU, ratio": ratio(measures, "cpu"),
        "wall, ratio": ratio(measures, "wall"),
        "its peak MB": f"{median(measures, 'theirs', 'peak_bytes') / 1e6:.0f}",
        "our peak MB": f"{median(measures, 'ours', 'peak_bytes') / 1e6:.0f}",
        "memory, ratio": ratio(measures, "peak_bytes"),
        "deviation": f"{np.abs(ours - theirs).max() / np.abs(theirs).max():.1e}",
        "deviation dB": f"{10 * np.log10(energies.max() + 1e-30):.1f}",
        "memory with loading, ratio": ratio(measures, "process_peak_bytes"),
    }


def make_mix(path: Path, system: System, seconds: int) -> np.ndarray:
    """``[C, T]`` of the example song, at the network's rate."""
    audio, rate_hz = soundfile.read(make_song(path, seconds), dtype="float32", always_2d=True)
    if system.channels == 1:
        audio = audio.mean(1, keepdims=True)
    if system.rate_hz != rate_hz:
        audio = soxr.resample(audio, rate_hz, system.rate_hz)
    return np.ascontiguousarray(audio[: seconds * system.rate_hz].T)


def separate(weights: Path, song: Path, output: Path) -> None:
    """Our side of one run."""
    network = import_checkpoint(weights).eval()
    mix = torch.from_numpy(np.load(song))[None]
    with torch.inference_mode():
        stems = measured(lambda: network(mix[..., : mix.shape[-1] // 10]), lambda: network(mix))
    np.save(output, stems[0].numpy())


def measure(command: list[str], threads: int) -> Run:
    """Run a process to its end; it says itself what it took."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def median(measures: dict[str, list[Run]], who: str, figure: str) -> float:
    middle: float = statistics.median(getattr(run, figure) for run in measures[who])
    return middle


def ratio(measures: dict[str, list[Run]], figure: str) -> str:
    pairs = zip(measures["ours"], measures["theirs"], strict=True)
    return f"{statistics.median(getattr(a, figure) / getattr(b, figure) for a, b in pairs):.2f}"


if __name__ == "__main__":
    main()
