"""What the shipped four-stem model was trained on and how that went: the figures of its page.

    python tools/describe_band.py [--trained FOLDER]

Reads what `make train-band` left in FOLDER (trained): the songs' facts and levels, and the tables of both trainings.
Writes docs/measured/band.md, docs/pictures/band-training.png, and NOTICE.txt beside the shipped weights.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parent.parent
STEMS = ("drums", "bass", "other", "vocals")
RECIPES = {"band": "U-Net", "band-d3net": "D3Net"}
Row = dict[str, float]


def main() -> None:
    """Read the trainings' folder and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", type=Path, default=ROOT / "trained")
    trained: Path = parser.parse_args().trained
    songs = trained / "band-songs"
    curves = {name: list(read_curve(trained / name / "metrics.csv")) for name in RECIPES}
    lines = [*training(curves), "", *sounds(songs), "", *levels(songs)]
    (ROOT / "docs" / "measured" / "band.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(curves, ROOT / "docs" / "pictures" / "band-training.png")
    notice = (songs / "NOTICE.txt").read_text(encoding="utf-8")
    shipped = ROOT / "src" / "iseparate" / "weights" / "shipped"
    (shipped / "NOTICE.txt").write_text(notice.replace("Songs made", "These weights learnt from songs made", 1))


def read_curve(path: Path) -> Iterator[Row]:
    """The figures of each epoch."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield {name: float(value) for name, value in row.items() if value}


def training(curves: dict[str, list[Row]]) -> list[str]:
    """What each network cost, and how it came out on held-out songs."""
    lines = ["| network | steps | hours | validation loss | uSDR, dB: drums | bass | other |", "|" + " --- |" * 7]
    for name, curve in curves.items():
        last = curve[-1]
        scores = " | ".join(f"{last[f'valid/score/{stem}']:.2f}" for stem in STEMS[:3])
        hours = sum(row["seconds"] for row in curve) / 3600
        lines.append(
            f"| {RECIPES[name]} (`{name}`) | {last['step']:.0f} | {hours:.2f} | {last['valid/loss']:.3f} | {scores} |"
        )
    return lines


def sounds(folder: Path) -> list[str]:
    """Who plays in how many songs."""
    facts = json.loads((folder / "band.json").read_text(encoding="utf-8"))
    songs = facts["songs"]
    genres = Counter(song["genre"] for song in songs)
    used = Counter(sound["name"] for song in songs for sound in song["sounds"])
    hours = sum(song["seconds"] for song in songs) / 3600
    lines = [f"{len(songs)} songs, {hours:.2f} hours: " + ", ".join(f"{n} {g}" for g, n in genres.most_common()) + "."]
    lines += ["", "| sounds | songs |", "| --- | --- |"]
    return lines + [f"| {name} | {count} |" for name, count in used.most_common()]


def levels(folder: Path) -> list[str]:
    """How loud the stems are, and where their energy lies."""
    found: dict[str, list[tuple[float, float]]] = {stem: [] for stem in STEMS}
    for home in sorted(folder.glob("song-*")):
        powers, centres = {}, {}
        for stem in STEMS:
            sound = soundfile.read(home / f"{stem}.wav", dtype="float32")[0].mean(1)
            spectrum = np.square(np.abs(np.fft.rfft(sound[: 1 << 21])))
            powers[stem] = float(spectrum.sum())
            centres[stem] = float(np.average(np.linspace(0, 22050, len(spectrum)), weights=spectrum + 1e-20))
        for stem in STEMS:
            rest = sum(power for name, power in powers.items() if name != stem)
            if powers[stem] > 0 < rest:
                found[stem].append((10 * np.log10(powers[stem] / rest), centres[stem]))
    lines = ["| stem | level beside the others, dB (mean, deviation) | centre of its spectrum, Hz (median) |"]
    lines.append("|" + " --- |" * 3)
    for stem, values in found.items():
        level, centre = np.array(values).T
        lines.append(f"| {stem} | {level.mean():.1f}, {level.std():.1f} | {np.median(centre):.0f} |")
    return lines


def draw(curves: dict[str, list[Row]], path: Path) -> None:
    """Score on held-out songs of the band, epoch by epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axis, stem in zip(figure.subplots(1, 3, sharey=True), STEMS[:3], strict=True):
        for name, curve in curves.items():
            steps = [row["step"] for row in curve]
            axis.plot(steps, [row[f"valid/score/{stem}"] for row in curve], marker="o", label=RECIPES[name])
        axis.set_title(stem, loc="left")
        axis.set_xlabel("steps")
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("uSDR on held-out songs, dB")
    figure.axes[0].legend()
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
