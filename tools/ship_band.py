"""From what `make train-band` left in trained/ to what ships: weights, cards, credits, and the figures of their page.

    python tools/ship_band.py [--trained FOLDER]
    python bench/band.py --songs FOLDER
    python tools/ship_band.py --scores

The first writes weights of 16 bits and NOTICE.txt in src/iseparate/weights/shipped, the networks' cards, what the
cascades' cards say of their training, docs/measured/band.md and docs/pictures/band-training.png; the cascades lose the
scores they had. The last puts the scores of bench/results/band.json onto the cascades' cards, and refuses those of
other weights.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import tomli_w

from iseparate.models._registry import architecture
from iseparate.train.publish import Statements, make_card, read_trained
from iseparate.weights.load import write_weights

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "src" / "iseparate" / "weights"
PAGE = "explanation/band.md"
CREDITS = "credits of the sounds it learnt from: iseparate/weights/shipped/NOTICE.txt"
STEMS = ("drums", "bass", "other", "vocals")
Row = dict[str, float]


@dataclass(frozen=True)
class Network:
    """What is said of a network that ships."""

    recipe: str
    """Which is its id too."""
    short: str
    title: str
    cascade: str
    """Spleeter and this network."""
    summary: str = "Drums, bass and the rest of an accompaniment. Small, fast, and the stems sum to what went in."


NETWORKS = (
    Network("band", "U-Net", "Band: drums, bass and other of songs without vocals", "band-4stems"),
    Network("band-d3net", "D3Net", "Band by D3Net: drums, bass and other of songs without vocals", "d3net-band"),
)


def main() -> None:
    """Read the trainings' folder and write all that comes of it, or quote the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", type=Path, default=ROOT / "trained")
    parser.add_argument("--scores", action="store_true", help="only put measured scores onto the cascades' cards")
    options = parser.parse_args()
    if options.scores:
        for network in NETWORKS:
            quote_scores(network)
        return
    trained: Path = options.trained
    songs = trained / "band-songs"
    curves = {network: list(read_curve(trained / network.recipe / "metrics.csv")) for network in NETWORKS}
    heard = json.loads((songs / "band.json").read_text(encoding="utf-8"))
    for network, curve in curves.items():
        ship(network, trained / network.recipe / "last.ckpt", heard, hours(curve))
    lines = [*training(curves), "", *sounds(heard["songs"]), "", *levels(songs)]
    (ROOT / "docs" / "measured" / "band.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(curves, ROOT / "docs" / "pictures" / "band-training.png")
    files = " and ".join(f"{network.recipe}.safetensors" for network in NETWORKS)
    notice = (songs / "NOTICE.txt").read_text(encoding="utf-8")
    (WEIGHTS / "shipped" / "NOTICE.txt").write_text(
        f"{files}: weights under the MIT licence of iseparate, which learnt from these songs.\n\n{notice}",
        encoding="utf-8",
    )


def ship(network: Network, checkpoint: Path, heard: dict[str, Any], hours_spent: float) -> None:
    """Weights of 16 bits, the card, and what the cascade's card says of it."""
    trained = read_trained(checkpoint)
    file = WEIGHTS / "shipped" / f"{network.recipe}.safetensors"
    write_weights(file, trained.weights, half=True)
    file.chmod(0o644)
    minutes = sum(song["seconds"] for song in heard["songs"]) / 60
    sampled = "with sampled sounds, " if heard["settings"]["sounds"] else ""
    statements = Statements(
        title=network.title,
        licence=f"MIT ({CREDITS})",
        commercial_use=True,
        training_data=f"{minutes:.0f} minutes of the synthetic band, version {heard['settings']['version']}, seed "
        f"{heard['settings']['seed']}, {sampled}after Spleeter took the vocals; "
        f"{trained.about.data.songs} of {len(heard['songs'])} songs were trained on. No real song.",
        source=f"package:weights/shipped/{file.name}",
    )
    card = tomllib.loads(make_card(trained, file, statements))
    card["summary"] = network.summary
    training = (
        f"Trained by `make train-band BAND={network.recipe}` in {hours_spent:.1f} hours on one core. {card['notes']}"
    )
    card["notes"] = (
        f"The second part of {network.cascade}, for songs that have no vocals. Trained on songs made by rule alone, so "
        f"it knows the band's instruments better than yours; scores on real songs are those of {network.cascade}. "
        f"{training}"
    )
    card["references"] = [architecture(card["arch"]).paper]
    card["page"] = PAGE
    for score in card["measured_scores"]:
        score["dataset"] = f"synthetic band, {score['dataset'].partition(', ')[2]}, after Spleeter took the vocals"
        score["command"] = f"make train-band BAND={network.recipe}"
    write_card(card)
    cascade = read_card(network.cascade)
    cascade["notes"] = (
        f"Two models, one after the other, in overlapping segments: spleeter-2stems takes the vocals, {network.recipe} "
        "shares out what is left. Their weights are stored under their own names; those of the second come with the "
        f"package. The second was {training[0].lower()}{training[1:]}"
    )
    cascade["training_data"] = f"Vocals: songs of Deezer's, not published. The rest: {statements.training_data}"
    cascade["weights_licence"] = f"MIT (Deezer's, and iseparate's: {CREDITS})"
    cascade["measured_scores"] = []
    cascade["page"] = PAGE
    write_card(cascade)


def quote_scores(network: Network) -> None:
    """The scores on real songs, onto a cascade's card; SystemExit where they are those of other weights."""
    card = read_card(network.cascade)
    digest = read_card(network.recipe)["files"][0]["sha256"][:8]
    bench = json.loads((ROOT / "bench" / "results" / "band.json").read_text(encoding="utf-8"))
    card["measured_scores"] = [
        {
            "dataset": row["song"],
            "metric": "SDR of BSS Eval v4 in dB, median of the frames of one second",
            "values": {stem: float(row[f"{stem} dB"]) for stem in card["stems"] if row[f"{stem} dB"]},
            "command": "python bench/band.py --songs FOLDER",
            "machine": f"{bench['processor']}, {bench['cores']} cores",
            "commit": bench["commit"],
            "date": datetime.date.fromisoformat(bench["date"]),
        }
        for row in bench["rows"]
        if row["estimate"] == network.cascade and digest in row["weights"]
    ]
    if not card["measured_scores"]:
        sys.exit(
            f"bench/results/band.json has no scores of {network.cascade} with {digest}...; run bench/band.py first"
        )
    write_card(card)


def read_card(name: str) -> dict[str, Any]:
    """A card that is there already."""
    return tomllib.loads((WEIGHTS / "cards" / f"{name}.toml").read_text(encoding="utf-8"))


def write_card(card: dict[str, Any]) -> None:
    """Leave it where the package finds it."""
    (WEIGHTS / "cards" / f"{card['id']}.toml").write_text(tomli_w.dumps(card), encoding="utf-8")


def hours(curve: list[Row]) -> float:
    """What a training took."""
    return sum(row["seconds"] for row in curve) / 3600


def read_curve(path: Path) -> Iterator[Row]:
    """The figures of each epoch."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield {name: float(value) for name, value in row.items() if value}


def training(curves: dict[Network, list[Row]]) -> list[str]:
    """What each network cost, and how it came out on held-out songs."""
    lines = ["| network | steps | hours | validation loss | uSDR, dB: drums | bass | other |", "|" + " --- |" * 7]
    for network, curve in curves.items():
        last = curve[-1]
        scores = " | ".join(f"{last[f'valid/score/{stem}']:.2f}" for stem in STEMS[:3])
        cells = f"{last['step']:.0f} | {hours(curve):.2f} | {last['valid/loss']:.3f} | {scores}"
        lines.append(f"| {network.short} (`{network.recipe}`) | {cells} |")
    return lines


def sounds(songs: list[dict[str, Any]]) -> list[str]:
    """Who plays in how many songs."""
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
            spectrum = np.square(np.abs(np.fft.rfft(sound[: 1 << 21])))  # 48 s, a length that is quick to transform
            powers[stem] = float(spectrum.sum())
            centres[stem] = float(np.average(np.linspace(0, 22050, len(spectrum)), weights=spectrum + 1e-20))
        for stem in STEMS:
            rest = sum(power for name, power in powers.items() if name != stem)
            if powers[stem] > 0 < rest:
                found[stem].append((10 * np.log10(powers[stem] / rest), centres[stem]))
    lines = ["| stem | level beside the others, dB (mean, deviation) | centre of its spectrum, Hz (median) |"]
    lines.append("|" + " --- |" * 3)
    for stem, values in found.items():
        if not values:  # it never sounds, or alone
            continue
        level, centre = np.array(values).T
        lines.append(f"| {stem} | {level.mean():.1f}, {level.std():.1f} | {np.median(centre):.0f} |")
    return lines


def draw(curves: dict[Network, list[Row]], path: Path) -> None:
    """Score on held-out songs of the band, over what it cost."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axis, stem in zip(figure.subplots(1, 3, sharey=True), STEMS[:3], strict=True):
        for network, curve in curves.items():
            spent = np.cumsum([row["seconds"] for row in curve]) / 3600
            axis.plot(spent, [row[f"valid/score/{stem}"] for row in curve], marker="o", label=network.short)
        axis.set_title(stem, loc="left")
        axis.set_xlabel("hours on one core")
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("uSDR on held-out songs, dB")
    figure.axes[0].legend()
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
