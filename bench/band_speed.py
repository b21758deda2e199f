"""What the models trained here cost: time and memory of whole separations, at two lengths.

    python bench/band_speed.py [--models ID ...] [--runs 3] [--minutes 3 30]

Beside them stands the first part of each, `spleeter-2stems`, and the official Spleeter's two stems, where
`bench/make_peers.py` has made it. Programs, song and measures are those of bench/end_to_end.py.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import end_to_end
import report
from end_to_end import Run

MODELS = ("band-4stems", "d3net-band", "spleeter-2stems")


def main() -> None:
    """Measure, and write results/band_speed.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", metavar="ID", default=MODELS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--minutes", type=int, nargs="+", default=[3, 30], help="lengths of the song")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        peer = end_to_end.commands(Path(folder))[end_to_end.PEER]
        for minutes in options.minutes:
            song = end_to_end.make_song(Path(folder) / "song.wav", 60 * minutes)
            commands = {model: [*end_to_end.ours(model, Path(folder)), str(song)] for model in options.models}
            if peer is not None and minutes == options.minutes[0]:
                commands[end_to_end.PEER] = [*peer[:2], str(song), *peer[2:]]
            runs: dict[str, list[Run]] = {name: [] for name in commands}
            for number in range(options.runs + 1):  # the first is a warm-up: disk caches
                for name, command in commands.items():
                    run = end_to_end.measure(command)
                    if number:
                        runs[name].append(run)
            rows += [row(name, minutes, of_one) for name, of_one in runs.items()]
    report.write(
        "band_speed",
        "Time and memory of the models trained here",
        [
            f"`python bench/band_speed.py --runs {options.runs}`: medians of {options.runs} runs in turn after a "
            "warm-up; whole processes, imports included; 16-bit stereo wav at 44.1 kHz in, such stems out.",
            "Four stems of the first two, two of the others.",
        ],
        rows,
    )


def row(name: str, minutes: int, runs: list[Run]) -> dict[str, str]:
    """One program's figures for one song."""
    wall = statistics.median(run.wall_seconds for run in runs)
    return {
        "program": name,
        "song, min": str(minutes),
        "CPU s": f"{statistics.median(run.cpu_seconds for run in runs):.1f}",
        "wall s": f"{wall:.1f}",
        "times real time": f"{60 * minutes / wall:.1f}",
        "peak memory MB": f"{max(run.peak_bytes for run in runs) / 1e6:.0f}",
    }


if __name__ == "__main__":
    main()
