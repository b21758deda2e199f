"""The models trained here, on real songs: MDN funk and Zone to choose by, Falcon 69 once for each release.

    python bench/band.py --songs FOLDER [--models ID ...]

Songs and scores are those of bench/songs.py, but that of Zone's drums and bass the sum is known (rhythm). Beside the
models stand what the project aims at, the mixture as the estimate, an oracle, and Spleeter, which takes the vocals. Of
Falcon 69 every frame is printed. `tools/ship_band.py` puts the scores onto the cards.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

import report
import songs
from iseparate import Separator
from iseparate.evaluate.metrics import metric
from iseparate.evaluate.oracle import oracle
from iseparate.weights.card import cards_of, find_card

MODELS = ("band-4stems", "d3net-band")
SPLEETER = "spleeter-2stems"
VALIDATION, TEST = "validation", "test"
AIMS = {
    "MDN funk": {"drums": 4.0, "bass": 6.5, "other": 11.0},
    "Falcon 69, sum of its stems": {"drums": 7.0, "bass": 3.5, "other": 2.0},
}
COLUMNS = (songs.VOCALS, "drums", "bass", songs.RHYTHM, "other", songs.ACCOMPANIMENT)


def main() -> None:
    """Score, and write results/band.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=Path, required=True, help="folder with real multitrack songs")
    parser.add_argument("--models", nargs="+", metavar="ID", default=MODELS)
    options = parser.parse_args()
    rows, frames = [], []
    for song, role in (
        (songs.zone_in_three(options.songs), VALIDATION),
        (songs.funk(options.songs), VALIDATION),
        (songs.falcon(), TEST),
    ):
        if song is None:
            sys.exit(f"a song is missing in {options.songs}, or Falcon 69 cannot be fetched; see bench/songs.py")
        named = f"{song.name} ({role}, {song.mix.shape[1] / song.sample_rate:.0f} s)"
        if song.name in AIMS:
            rows.append(row(named, "aim", {stem: f"{aim:.1f}" for stem, aim in AIMS[song.name].items()}))
        for estimate, stems in estimates(song, options.models):
            found = songs.scores(song, stems)
            null = None if estimate == songs.MIXTURE else songs.null_db(song.mix, stems)
            cells = songs.row(named, estimate, found, null, COLUMNS)
            rows.append(cells | {"weights": weights(estimate) if estimate in options.models else ""})
            if role == TEST and estimate in options.models:
                frames += [f"{song.name}, {estimate}, {stem}, frame by frame: {listed(found[stem])}" for stem in found]
    report.write(
        "band",
        "Four stems of real songs",
        [
            "`python bench/band.py --songs FOLDER`. Validation: songs by which checkpoints and settings were chosen. "
            "Test: scored once for each release.",
            f"dB: SDR of {metric('bss_eval_v4').definition}",
            metric("usdr").definition,
            "Aim: what the project wanted of these models; of vocals, what Spleeter's two stems have. `irm1` is an "
            "oracle that knows the true stems; the mixture as the estimate needs no model. Rhythm: drums and bass "
            "together. Null: energy of the mixture minus all stems against the mixture's.",
            "Weights: the first digits of the SHA-256 of each part's.",
            *frames,
        ],
        rows,
    )


def row(song: str, estimate: str, cells: Mapping[str, str]) -> dict[str, str]:
    """A row with some cells, by stem, and no others."""
    empty = songs.row(song, estimate, {}, None, COLUMNS)
    return empty | {f"{stem} dB": cell for stem, cell in cells.items()} | {"weights": ""}


def estimates(song: songs.Song, models: list[str]) -> Iterator[tuple[str, Mapping[str, songs.Samples]]]:
    """Every estimate with the name of what made it."""
    yield songs.MIXTURE, dict.fromkeys((*song.stems, songs.ACCOMPANIMENT), song.mix)
    yield "irm1", oracle("irm1").separate(song.mix, song.stems)
    for model in (SPLEETER, *models):
        stems = dict(Separator(model).separate(song.mix, sample_rate=song.sample_rate))
        if songs.RHYTHM in song.stems and "drums" in stems:
            stems[songs.RHYTHM] = stems.pop("drums") + stems.pop("bass")
        yield model, stems


def weights(model: str) -> str:
    """What tells a model's weights from others."""
    return ", ".join((part.files[0].sha256 or "")[:8] for part in cards_of(find_card(model)))


def listed(score: songs.Score) -> str:
    """The frames of a score."""
    return ", ".join("–" if np.isnan(value) else f"{value:.1f}" for value in score.frames)


if __name__ == "__main__":
    main()
