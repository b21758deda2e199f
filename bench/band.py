"""The models trained here, on real songs: MDN funk and Zone to choose by, Falcon 69 once for each release.

    python bench/band.py --songs FOLDER [--models ID ...]

Songs and scores are those of bench/songs.py. Of Falcon 69 every frame is printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

import report
import songs
from iseparate import Separator
from iseparate.evaluate.metrics import metric
from iseparate.evaluate.oracle import oracle

ROLES = {"MDN funk": "validation", "Zone": "validation", "Falcon 69, sum of its stems": "test"}
MODELS = ("band-4stems", "d3net-band")


def main() -> None:
    """Score, and write results/band.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=Path, help="folder with real multitrack songs")
    parser.add_argument("--models", nargs="+", metavar="ID", default=MODELS)
    options = parser.parse_args()
    rows, frames = [], []
    for name, load in songs.songs(options.songs).items():
        song = load() if name in ROLES else None
        if song is None:
            continue
        for estimate, stems in estimates(song, options.models):
            null = None if estimate == songs.MIXTURE else songs.null_db(song.mix, stems)
            cells = songs.row(name, estimate, songs.scores(song, stems), null)
            rows.append({"song": f"{name} ({ROLES[name]})", **{key: cells[key] for key in list(cells)[1:]}})
            if ROLES[name] == "test" and estimate in options.models:
                frames += [f"{estimate}, {stem}, frame by frame: {values}" for stem, values in framewise(song, stems)]
    report.write(
        "band",
        "Four stems of real songs",
        [
            "`python bench/band.py --songs FOLDER`. Validation: songs by which checkpoints and settings were chosen. "
            "Test: scored once for each release.",
            f"dB: SDR of {metric('bss_eval_v4').definition}",
            "`irm1` is an oracle that knows the true stems; the mixture as the estimate needs no model.",
            *frames,
        ],
        rows,
    )


def estimates(song: songs.Song, models: list[str]) -> Iterator[tuple[str, Mapping[str, songs.Samples]]]:
    """Every estimate with the name of what made it."""
    yield songs.MIXTURE, dict.fromkeys((*song.stems, songs.ACCOMPANIMENT), song.mix)
    yield "irm1", oracle("irm1").separate(song.mix, song.stems)
    for model in models:
        yield model, dict(Separator(model).separate(song.mix, sample_rate=song.sample_rate))


def framewise(song: songs.Song, stems: Mapping[str, songs.Samples]) -> Iterator[tuple[str, str]]:
    """The SDR of each second, by stem."""
    inside = slice(song.glitch_samples, song.mix.shape[1] - song.glitch_samples)
    truth = {name: stem[:, inside] for name, stem in song.stems.items()}
    found = {name: stems[name][:, inside] for name in truth}
    scored = metric("bss_eval_v4").score(truth, found, song.mix[:, inside], song.sample_rate)
    for name in truth:
        yield name, ", ".join("–" if np.isnan(value) else f"{value:.1f}" for value in scored[name]["SDR"])


if __name__ == "__main__":
    main()
