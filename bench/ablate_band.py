"""What each part of the band's training is worth: short trainings that differ in one thing, scored on real songs.

    python bench/ablate_band.py --songs FOLDER [--only NAME ...] [--seeds 0 1] [--steps 700]

Needs songs in trained/, which `make ablate-band SONGS=FOLDER` renders first. Each training lies in trained/ablations
and is done once: the command goes on where it was, and its table has all that is finished. On two cores two of them
run well side by side, each with OMP_NUM_THREADS=1; rows are comparable because they count steps, not seconds.

    python bench/ablate_band.py --songs FOLDER --inference MODEL [MODEL ...]

What may be done to a network's estimates afterwards, and what settings of the engine do: for weights files or ids of
networks that take what Spleeter leaves. Writes results/band_inference.md.

Songs are validation songs: MDN funk, and Zone, whose drums and bass are known as a sum only ("rhythm"). Falcon 69 is
kept for releases (bench/band.py).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import report
import songs
from iseparate import Separator
from iseparate.evaluate.metrics import metric, pooled
from iseparate.nn.stft import centred_signal, centred_spectrum, hann
from iseparate.nn.wiener import expectation_maximisation
from iseparate.whole_file import write_whole

TRAINED = Path(__file__).resolve().parent.parent / "trained"
BATCH = 8


@dataclass(frozen=True)
class Variant:
    """What differs from the recipe."""

    about: str
    changes: tuple[str, ...] = ()
    """As after --set."""
    data: str = "folder:band-stripped"
    """Kind and folder, in trained/."""


VARIANTS = {
    "recipe": Variant("as `make train-band`"),
    "kits": Variant("own sounds only: no sampled drums, instruments or voice", data="folder:own-stripped"),
    "effects": Variant("no equalisers, compressors, reverbs, delays, rooms or codecs", data="folder:dry-stripped"),
    "remixing": Variant("stems of one song always together", ("data.mix_songs=0",)),
    "remixing always": Variant("stems of one song never together", ("data.mix_songs=1",)),
    "degraded input": Variant(
        "songs without their vocals as they are, not as Spleeter leaves them",
        ("data.also_heard=[]",),
        "synthetic:band-songs",
    ),
    "residue": Variant(
        "what Spleeter leaves of the vocals is a stem of its own, in place of being heard only",
        ("model.config={stems: [drums, bass, other, residue]}", "data.also_heard=[]"),
    ),
    "loss": Variant("mean absolute error of waveforms", ("loss={name: l1}",)),
    "levels": Variant(
        "gains from 0.5 to 1.5 in place of 0.15 to 1.6", ("data.augment.0={name: gain, low: 0.5, high: 1.5}",)
    ),
    "speed": Variant("pitch and tempo as they are", ("data.augment.5.probability=0",)),
    "rooms and drive": Variant(
        "a third of the stems in a room, a third through a soft clipper, drawn anew each time",
        (
            "data.augment=[{name: gain, low: 0.15, high: 1.6}, {name: swap_channels}, {name: flip_sign}, "
            "{name: narrow, probability: 0.3}, {name: saturate}, {name: room}, {name: smooth_eq}, "
            "{name: speed, probability: 0.3, low: 0.87, high: 1.15}]",
        ),
    ),
    "own speeds": Variant(
        "half of the stems faster or slower, each by itself, by 0.8 to 1.25",
        ("data.augment.5={name: speed, probability: 0.5, low: 0.8, high: 1.25, together: false}",),
    ),
}


def main() -> None:
    """Train what is missing, score it, and write results/band_ablations.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=Path, required=True, help="folder with real multitrack songs")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=700, help="of each training")
    parser.add_argument("--inference", nargs="+", metavar="MODEL", help="settings at inference instead")
    options = parser.parse_args()
    validation(options.songs)  # missing songs end it now, not after the first training
    if options.inference:
        write_inference(options.inference, options.songs)
        return
    for name in options.only:
        for seed in options.seeds:
            home = TRAINED / "ablations" / f"{name.replace(' ', '-')}-{seed}-{options.steps}"
            if not (home / "scores.json").exists() and train(VARIANTS[name], seed, options.steps, home):
                found = scored(options.songs, estimator(str(home / "band.safetensors")))
                write_whole(home / "scores.json", json.dumps(found, indent=1) + "\n")
    write(options.steps)


def train(variant: Variant, seed: int, steps: int, home: Path) -> bool:
    """Train and export; False where the songs are not there."""
    kind, _, folder = variant.data.partition(":")
    if not (TRAINED / folder).is_dir():
        print(f"{home.name}: {TRAINED / folder} is missing; `make ablate-band` renders it")
        return False
    settings = (
        *variant.changes,
        f"loop.seed={seed}",
        "loop.epochs=1",
        f"data.excerpts_per_epoch={steps * BATCH}",
        f"schedule.steps={steps}",
        "validation={every_epochs: 1, metric: null, choose_by: loss}",
    )
    command = ["iseparate", "train", "band", "--data", f"{kind}:{TRAINED / folder}", "-o", str(home)]
    command += [word for setting in settings for word in ("--set", setting)]
    run(command + (["--resume"] if (home / "last.ckpt").exists() else []))
    run(["iseparate", "models", "export", str(home / "last.ckpt"), "-o", str(home / "band.safetensors")])
    return True


def run(command: list[str]) -> None:
    """Run this checkout's program, or end with its status."""
    done = subprocess.run([sys.executable, "-m", *command], check=False)
    if done.returncode:
        sys.exit(done.returncode)


Stems = Mapping[str, songs.Samples]
Way = Callable[[songs.Samples, int], Stems]
"""An accompaniment ``[C, n]`` and its rate -> its stems."""


def estimator(model: str, **settings: Any) -> Way:
    """A network with settings of the engine."""
    separator = Separator(model, **settings)
    return lambda left, rate: dict(separator.separate(left, sample_rate=rate))


def scored(folder: Path, estimate: Way) -> dict[str, float]:
    """What a way makes of the songs after Spleeter: medians of museval's frames, dB."""
    found: dict[str, float] = {}
    for title, song in validation(folder).items():
        stems = dict(estimate(accompaniment(folder, title), song.sample_rate))
        if songs.RHYTHM in song.stems:
            stems[songs.RHYTHM] = stems["drums"] + stems["bass"]
        truth = {name: stem for name, stem in song.stems.items() if name != songs.VOCALS}
        framewise = metric("bss_eval_v4").score(truth, {n: stems[n] for n in truth}, song.mix, song.sample_rate)
        found |= {f"{title}: {name}": round(pooled(framewise[name]["SDR"]), 2) for name in truth}
    return found


def write_inference(models: Sequence[str], folder: Path) -> None:
    """The table of what may be done at inference."""
    rows = []
    for model in models:
        plain = estimator(model)
        ways = {
            "as it is": plain,
            "no overlap": estimator(model, overlap=0.0),
            "overlap of a half": estimator(model, overlap=0.5),
            "bf16": estimator(model, precision="bf16"),
            "mean of the song and the song with its sides swapped": mean(plain, swapped(plain)),
            "one step of a multichannel Wiener filter afterwards": filtered(plain),
        }
        rows += [{"network": Path(model).stem, "what is done": way, **scored(folder, of)} for way, of in ways.items()]
    if len(models) > 1:
        together = scored(folder, mean(*map(estimator, models)))
        rows.append({"network": " + ".join(Path(model).stem for model in models), "what is done": "mean", **together})
    report.write(
        "band_inference",
        "What may be done to the band's estimates",
        [
            f"`python bench/ablate_band.py --songs FOLDER --inference {' '.join(Path(m).name for m in models)}`: songs "
            "and figures as in the table of trainings.",
        ],
        rows,
    )


def mean(*ways: Way) -> Way:
    """The mean of several estimates."""

    def estimate(left: songs.Samples, rate: int) -> Stems:
        found = [way(left, rate) for way in ways]
        return {name: np.mean([one[name] for one in found], axis=0) for name in found[0]}

    return estimate


def swapped(way: Way) -> Way:
    """What comes of a song whose left is its right."""
    return lambda left, rate: {name: stem[::-1] for name, stem in way(left[::-1].copy(), rate).items()}


def filtered(way: Way) -> Way:
    """One step of expectation-maximisation, with statistics over the whole song."""
    window, hop = hann(4096), 1024

    def estimate(left: songs.Samples, rate: int) -> Stems:
        stems = way(left, rate)
        stacked = torch.from_numpy(np.stack(list(stems.values())))
        spectra = centred_spectrum(stacked, window, hop)
        refined = expectation_maximisation(spectra, centred_spectrum(torch.from_numpy(left)[None], window, hop)[0])
        signals = centred_signal(refined, window, hop, left.shape[1]).numpy()
        return dict(zip(stems, signals, strict=True))

    return estimate


@cache
def validation(folder: Path) -> Mapping[str, songs.Song]:
    """The songs that choices are made by."""
    funk, zone = songs.funk(folder), songs.zone_in_three(folder)
    if funk is None or zone is None:
        sys.exit(f"{folder} has no mdn-funk and zone; see bench/songs.py")
    return {"MDN": funk, "Zone": zone}


@cache
def accompaniment(folder: Path, title: str) -> songs.Samples:
    """What Spleeter leaves of a song."""
    song = validation(folder)[title]
    left: songs.Samples = Separator("spleeter-2stems").separate(song.mix, sample_rate=song.sample_rate)["accompaniment"]
    return left


def write(steps: int) -> None:
    """The table of all trainings of so many steps that are finished."""
    rows = []
    for name, variant in VARIANTS.items():
        homes = sorted((TRAINED / "ablations").glob(f"{name.replace(' ', '-')}-[0-9]*-{steps}/scores.json"))
        found = [json.loads(home.read_text()) for home in homes]
        if not found:
            continue
        cells = {column: " / ".join(f"{one[column]:.2f}" for one in found) for column in found[0]}
        over_all = np.mean([list(one.values()) for one in found])
        rows.append({"variant": name, "what differs": variant.about, **cells, "mean": f"{over_all:.2f}"})
    if not rows:
        sys.exit("no training is finished")
    report.write(
        "band_ablations",
        "What the band's training owes to its parts",
        [
            f"`python bench/ablate_band.py --songs FOLDER --steps {steps}`: trainings of {steps} steps of {BATCH} "
            "excerpts each; a figure for each seed, 0 and 1 where there are two, so that their difference shows the "
            "noise.",
            "Validation songs after Spleeter took the vocals, dB: medians of the frames of BSS Eval v4's SDR. Rhythm: "
            "drums and bass together.",
        ],
        rows,
    )


if __name__ == "__main__":
    main()
