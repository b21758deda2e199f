"""What the models trained here cost: time and memory of whole separations, of a short and of a long song.

    python bench/band_speed.py [--models ID ...] [--runs 3] [--minutes 3] [--long-minutes 30]

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
    parser.add_argument("--minutes", type=int, default=3, help="length of the song")
    parser.add_argument("--long-minutes", type=int, default=30, help="length of the song that each runs once; 0: none")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        ours = {model: end_to_end.ours(model, Path(folder)) for model in options.models}
        peer = end_to_end.commands(Path(folder))[end_to_end.PEER]
        song = str(end_to_end.make_song(Path(folder) / "song.wav", 60 * options.minutes))
        commands = {model: [*command, song] for model, command in ours.items()}
        if peer is not None:
            commands[end_to_end.PEER] = [*peer[:2], song, *peer[2:]]
        runs: dict[str, list[Run]] = {name: [] for name in commands}
        for number in range(options.runs + 1):  # the first is a warm-up: disk caches
            for name, command in commands.items():
                run = end_to_end.measure(command)
                if number:
                    runs[name].append(run)
        rows += [row(name, options.minutes, of_one) for name, of_one in runs.items()]
        if peer is None:
            rows.append(dict.fromkeys(rows[0], "missing") | {"program": end_to_end.PEER})
        if options.long_minutes:
            song = str(end_to_end.make_song(Path(folder) / "long.wav", 60 * options.long_minutes))
            rows += [
                row(model, options.long_minutes, [end_to_end.measure([*command, song])])
                for model, command in ours.items()
            ]
    report.write(
        "band_speed",
        "Time and memory of the models trained here",
        [
            f"`python bench/band_speed.py --runs {options.runs}`: medians of {options.runs} runs in turn after a "
            "warm-up, and one run of the long song; whole processes, imports included; 16-bit stereo wav at 44.1 kHz "
            "in, such stems out.",
            "Four stems of the models trained here, two of Spleeter's.",
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
