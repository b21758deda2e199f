"""Open-Unmix beside openunmix 1.3.0: the same random weights of umxhq's size, the same song, the same run.

    python bench/open_unmix.py [--runs 5] [--seconds 120]

The peer writes the weights in its own format, ours are read from that by the shipped importer. Each separation is a
process of its own, in turn (A B C A B C ...), so that a slow spell of the machine falls on all of them; times are
medians, and what can be quoted are the ratios. "separation" is the call alone, "process" includes imports, loading
and files. How far our output is from the peer's is in the table too, so that speed is not bought with another result;
random weights forget sooner than trained ones may, so the deviation of the segments is a figure of this signal and
these weights.
"""

from __future__ import annotations

import argparse
import json
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
import torch

import report
from end_to_end import make_song
from iseparate.engine.separator import Separator
from iseparate.weights.load import import_checkpoint, import_weights, write_weights

HERE = Path(__file__).resolve().parent
PEER = HERE / ".peers" / "openunmix" / "venv" / "bin" / "python"
RUNNER = HERE / "peers" / "openunmix_torch.py"
OFFICIAL, ONE_PASS, SEGMENTS = "openunmix 1.3.0", "iseparate, one pass", "iseparate, default segments"
BF16 = "iseparate, default segments, bf16"


@dataclass(frozen=True)
class Run:
    """One finished process: of the whole, what the system accounted; of the separation, what it printed."""

    process_cpu_seconds: float
    process_wall_seconds: float
    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=120, help="length of the song")
    parser.add_argument("--ours", nargs=4, metavar=("HOW", "WEIGHTS", "SONG", "OUTPUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        separate(options.ours[0], *map(Path, options.ours[1:]))
        return
    if not PEER.exists():
        sys.exit("openunmix is missing: run `python bench/make_peers.py openunmix` first")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        song = make_song(folder / "song.wav", options.seconds)
        subprocess.run([PEER, RUNNER, "make", folder / "weights"], check=True)
        ours = [sys.executable, str(HERE / "open_unmix.py"), "--ours"]
        commands = {OFFICIAL: [str(PEER), str(RUNNER), "separate"]}
        commands |= {how: [*ours, how] for how in (ONE_PASS, SEGMENTS, BF16)}
        runs: dict[str, list[Run]] = {how: [] for how in commands}
        for round_number in range(options.runs + 1):  # the first is a warm-up: disk caches
            for how, command in commands.items():
                run = measure([*command, str(folder / "weights"), str(song), str(folder / f"{how}.npy")])
                if round_number:
                    runs[how].append(run)
        outputs = {how: np.load(folder / f"{how}.npy", mmap_mode="r") for how in commands}
        rows = [row(how, runs, outputs) for how in commands]
    report.write(
        "open_unmix",
        f"Open-Unmix (four targets of umxhq's size) on a {options.seconds} s song",
        [
            f"`python bench/open_unmix.py --runs {options.runs} --seconds {options.seconds}`: medians of "
            f"{options.runs} runs in turn after a warm-up, on {torch.get_num_threads()} threads; CPU is "
            "user + system seconds; ratios are ours to openunmix's, paired run by run, of the separation alone.",
            "One pass is what openunmix does. The default segments overlap by a quarter, so they compute a third more, "
            "and take the same memory for a song of any length.",
            "Random weights on a real song; the deviation is that of the worst stem: difference against openunmix's "
            "output, in dB of its energy.",
        ],
        rows,
    )


def separate(how: str, weights: Path, song: Path, output: Path) -> None:
    """Our side: load, separate, print the seconds, write the stems ``[S, C, T]``."""
    audio, rate = soundfile.read(song, dtype="float32", always_2d=True)
    mix = audio.T.copy()
    if how == ONE_PASS:
        model = import_checkpoint(weights)
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            stems = model(torch.from_numpy(mix)[None])[0].numpy()
    else:
        path = output.with_suffix(".safetensors")
        write_weights(path, import_weights([weights]))
        separator = Separator(path, precision="bf16" if how == BF16 else "fp32")
        wall, cpu = time.perf_counter(), time.process_time()
        stems = np.stack(list(separator.separate(mix, rate).values()))
    print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}))
    np.save(output, stems)


def measure(command: list[str]) -> Run:
    """Run a process to its end and ask the system, and itself, what it took."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    inner = json.loads(said.splitlines()[-1])
    return Run(usage.ru_utime + usage.ru_stime, wall, inner["cpu"], inner["wall"], usage.ru_maxrss * 1024)


def row(how: str, runs: dict[str, list[Run]], outputs: dict[str, np.ndarray]) -> dict[str, str]:
    """One program's line."""
    mine, theirs = runs[how], runs[OFFICIAL]

    def median(figure: str) -> float:
        middle: float = statistics.median(getattr(run, figure) for run in mine)
        return middle

    def ratio(figure: str) -> str:
        pairs = zip(mine, theirs, strict=True)
        return f"{statistics.median(getattr(a, figure) / getattr(b, figure) for a, b in pairs):.2f}"

    worst = max(
        10 * np.log10(np.square(a - b, dtype=np.float64).sum() / np.square(b, dtype=np.float64).sum() + 1e-30)
        for a, b in zip(outputs[how], outputs[OFFICIAL], strict=True)
    )
    return {
        "program": how,
        "separation CPU s": f"{median('cpu_seconds'):.2f}",
        "separation wall s": f"{median('wall_seconds'):.2f}",
        "CPU, ratio": ratio("cpu_seconds"),
        "wall, ratio": ratio("wall_seconds"),
        "process CPU s": f"{median('process_cpu_seconds'):.2f}",
        "process wall s": f"{median('process_wall_seconds'):.2f}",
        "peak memory MB": f"{max(run.peak_bytes for run in mine) / 1e6:.0f}",
        "deviation dB": "" if how == OFFICIAL else f"{worst:.1f}",
    }


if __name__ == "__main__":
    main()
