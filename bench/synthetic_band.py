"""How fast the synthetic band plays: seconds of four stems per second of processor time.

    python bench/synthetic_band.py [--songs 12] [--seconds 60] [--first-seed 0]

Each song is rendered once, in memory, by one process; the time is the process's own, so that other work on the machine
counts little. Writing to disk is not in it.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

import report
from iseparate.data.synthetic.band import render
from iseparate.data.synthetic.version import VERSION


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    render(options.first_seed, 1.0)  # imports and tables
    spent: dict[str, list[float]] = defaultdict(list)
    for seed in range(options.first_seed, options.first_seed + options.songs):
        before = time.process_time()
        song = render(seed, options.seconds)
        spent[str(song.facts["genre"])].append(time.process_time() - before)
        print(seed, song.facts["genre"], f"{options.seconds / spent[str(song.facts['genre'])][-1]:.1f}", flush=True)
    spent = dict(sorted(spent.items())) | {"all": [each for times in spent.values() for each in times]}
    report.write(
        "synthetic_band",
        "The synthetic band's speed",
        [
            f"`python bench/synthetic_band.py --songs {options.songs} --seconds {options.seconds:g}"
            f" --first-seed {options.first_seed}`: version {VERSION} of the band, songs of {options.seconds:g} s, four "
            "stems of 44.1 kHz stereo, one process.",
            "Seconds of music per second of processor time.",
        ],
        [
            {
                "genre": genre,
                "songs": len(times),
                "slowest": f"{options.seconds / max(times):.1f}",
                "mean": f"{options.seconds * len(times) / sum(times):.1f}",
                "fastest": f"{options.seconds / min(times):.1f}",
            }
            for genre, times in spent.items()
        ],
    )


if __name__ == "__main__":
    main()
