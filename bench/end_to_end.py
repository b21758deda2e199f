"""Time and memory of whole separations, ours beside the official Spleeter on TensorFlow.

    python bench/end_to_end.py [--runs 5] [--long-minutes 60]

Each program runs as a process of its own on the same wav file, in turn (A B C A B C ...), so that a slow spell of the
machine falls on all of them; times are medians, and what can be quoted are the ratios. Memory is the largest
resident set of the process. A peer that `bench/make_peers.py` could not make is printed as missing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

import report
from iseparate.audio.decode import Decoder
from iseparate.weights.card import find_card
from iseparate.weights.store import Store

HERE = Path(__file__).resolve().parent
RATE_HZ = 44100
PEER = "Spleeter 2.4.2, TensorFlow 2.12.1"


@dataclass(frozen=True)
class Run:
    """What the system accounted one finished process with."""

    user_seconds: float
    sys_seconds: float
    wall_seconds: float
    peak_bytes: int

    @property
    def cpu_seconds(self) -> float:
        return self.user_seconds + self.sys_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=180, help="length of the song")
    parser.add_argument("--long-minutes", type=int, default=60, help="length of the song for the memory row; 0: none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        song = make_song(Path(folder) / "song.wav", options.seconds)
        programs = commands(Path(folder))
        runs: dict[str, list[Run]] = {name: [] for name in programs}
        for round_number in range(options.runs + 1):  # the first is a warm-up: disk caches
            for name, command in programs.items():
                if command is not None:
                    run = measure(
                        [*command, str(song)]
                        if name.startswith("iseparate")
                        else [*command[:2], str(song), *command[2:]]
                    )
                    if round_number:
                        runs[name].append(run)
        longest = None
        if options.long_minutes:
            long_song = make_song(Path(folder) / "long.wav", options.long_minutes * 60)
            longest = measure([*ours("spleeter-2stems", Path(folder)), str(long_song)])
    rows = table(runs, longest, options.long_minutes)
    report.write(
        "end_to_end",
        f"Separating a {options.seconds} s song, end to end",
        [
            f"`python bench/end_to_end.py --runs {options.runs} --long-minutes {options.long_minutes}`: medians of "
            f"{options.runs} runs in turn after a warm-up; whole processes, imports included; "
            "16-bit stereo wav at 44.1 kHz in, two such stems out.",
            "CPU is user + system seconds. Ratios are to the official program, paired run by run.",
            "iseparate's default looks at half as many frequencies again as the official setting: 1536 bins, not 1024.",
        ],
        rows,
    )


def commands(folder: Path) -> dict[str, list[str] | None]:
    """Each program's command, without the song; None where the program is missing."""
    peer = HERE / ".peers" / "spleeter" / "venv" / "bin" / "python"
    runner = [str(peer), str(HERE / "peers" / "spleeter_tensorflow.py"), str(folder / "peer")]
    return {
        "iseparate, default": ours("spleeter-2stems", folder),
        "iseparate, official setting": ours("spleeter-2stems-official", folder),
        PEER: runner if peer.exists() else None,
    }


def ours(model: str, folder: Path) -> list[str]:
    """Our command line, without the song."""
    return [sys.executable, "-m", "iseparate", "separate", "-n", model, "-o", str(folder / "ours"), "--bit-depth", "16"]


def measure(command: list[str]) -> Run:
    """Run a process to its end and ask the system what it took."""
    # As a user has it: bytecode is compiled once, in the warm-up.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        complaint = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{complaint[-2000:]}")
    return Run(usage.ru_utime, usage.ru_stime, wall, usage.ru_maxrss * 1024)


def table(runs: dict[str, list[Run]], longest: Run | None, long_minutes: int) -> list[dict[str, str]]:
    official = next(reversed(runs.values()))
    rows = []
    for name, of_one in runs.items():
        if not of_one:
            rows.append(dict.fromkeys(_row("", 0, 0, 0, 0, 0, "", ""), "missing") | {"program": name})
            continue
        cpu, wall = "", ""
        if official:
            cpu = f"{_paired(of_one, official, 'cpu_seconds'):.2f}"
            wall = f"{_paired(of_one, official, 'wall_seconds'):.2f}"
        median = {
            f: statistics.median(getattr(run, f) for run in of_one)
            for f in ("user_seconds", "sys_seconds", "cpu_seconds", "wall_seconds")
        }
        rows.append(_row(name, *median.values(), max(run.peak_bytes for run in of_one), cpu, wall))
    if longest:
        of_short = max(run.peak_bytes for run in runs["iseparate, default"])
        growth = f"memory {100 * (longest.peak_bytes / of_short - 1):+.1f} %"
        rows.append(
            _row(f"iseparate, default, {long_minutes} min", longest.user_seconds, longest.sys_seconds,
                 longest.cpu_seconds, longest.wall_seconds, longest.peak_bytes, growth, "")
        )  # fmt: skip
    return rows


def _paired(ours: list[Run], theirs: list[Run], figure: str) -> float:
    return statistics.median(getattr(a, figure) / getattr(b, figure) for a, b in zip(ours, theirs, strict=True))


def _row(
    name: str, user: float, system: float, cpu: float, wall: float, peak: float, cpu_ratio: str, wall_ratio: str
) -> dict[str, str]:
    return {
        "program": name,
        "user s": f"{user:.1f}",
        "system s": f"{system:.1f}",
        "CPU s": f"{cpu:.1f}",
        "wall s": f"{wall:.1f}",
        "peak memory MB": f"{peak / 1e6:.0f}",
        "CPU, ratio": cpu_ratio,
        "wall, ratio": wall_ratio,
    }


def make_song(path: Path, seconds: int) -> Path:
    """Spleeter's example, looped to that length, as a 16-bit wav."""
    example = find_card("spleeter-2stems").examples[0]
    with Decoder(Store().fetch_file(example.source, example.sha256, example.name)) as decoder:
        once = np.concatenate(list(decoder.blocks()), 1).T
    left = seconds * RATE_HZ
    with soundfile.SoundFile(path, "w", RATE_HZ, 2, "PCM_16") as file:
        while left > 0:
            file.write(once[:left])
            left -= len(once)
    return path


if __name__ == "__main__":
    main()
