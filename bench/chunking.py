"""How far a song in segments is from one pass over all of it: the engine's default segments against ``model(mix)``.

    python bench/chunking.py [--songs FOLDER] [--seconds 60] [--only NAME ...]

For every model whose weights are in the cache, with those weights, and for every other published system with random
ones. Deviation: energy of the difference over that of the one-pass stem, worst stem. Where the context is finite it is
rounding, below -100 dB; where it is not, this is what cutting a song costs. Where a default segment would hold all of
the input, the engine is asked for a third of it.

FOLDER holds one song's stems, or such folders, of which the first is taken; without it the input is tones that change
and noise that comes and goes. NAME is a model's or system's, also one of several that share a row. Rows that an earlier
run over the same input left, and this one does not measure, stay in the table under that run's commit. One pass of
D3Net over a minute takes gigabytes.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import report
from iseparate import Separator
from iseparate.audio.decode import Decoder
from iseparate.audio.resample import resample
from iseparate.engine.memory import reuse_large_blocks
from iseparate.errors import AudioReadError, UsageError
from iseparate.models._base import SeparationModel
from iseparate.models._registry import architectures
from iseparate.weights.card import load_cards
from iseparate.weights.load import Weights, build_model, write_weights
from iseparate.weights.store import Store

Samples = NDArray[np.float32]

EXACT_DB = -100.0
"""A deviation below this is rounding."""
GAIN = 0.7
"""Random weights have a standard deviation of this over the root of the fan-in: larger ones make a network chaotic."""


@dataclass(frozen=True)
class Subject:
    """What one row is about: names that differ in nothing this measures."""

    names: tuple[str, ...]
    real: bool
    """Whether its weights are those of a model, or random."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=Path, help="folder of a song's stems, or of such folders")
    parser.add_argument("--seconds", type=float, default=60.0, help="how much of it")
    parser.add_argument("--only", nargs="*", help="names of models and systems")
    options = parser.parse_args()
    reuse_large_blocks()
    subjects = [s for s in found_subjects() if not options.only or set(options.only) & set(s.names)]
    if not subjects:
        parser.error("none of these is a model in the cache or a published system")
    commit = report.machine()["commit"]  # of what is imported by now
    for subject in subjects:
        with weights_of(subject) as weights:
            separator = Separator(weights)
            spec = separator.spec
            mix = song(options.songs, options.seconds, spec.sample_rate, spec.channels)
            default = separator.plan.segment_samples < mix.shape[1]
            if not default:
                with suppress(UsageError):  # too short for the network, or its segments are of one length only
                    separator = Separator(weights, segment_seconds=mix.shape[1] / spec.sample_rate / 3)
            measured = row(subject, separator, mix, default) | {"commit": commit}
            del separator
        gc.collect()
        write(measured, options.seconds, options.songs)  # after each: a run of an hour that is stopped loses nothing


def write(measured: dict[str, str], seconds: float, songs: Path | None) -> None:
    """Put one row into the table, in place of any that stands for the same."""
    title = f"Segments against one pass, {seconds:g} s of " + (
        f"the first song of {songs.name}" if songs else "tones and noise"
    )
    names = set(measured["system"].split(", "))
    others = [row for row in earlier_rows(title) if not names & set(row["system"].split(", "))]
    report.write(
        "chunking",
        title,
        [
            "`python bench/chunking.py" + (" --songs FOLDER" if songs else "") + f" --seconds {seconds:g}`: energy of "
            "the difference over that of the one-pass stem, worst stem.",
            f"*exact*: a network of finite context, below {EXACT_DB:g} dB, which is rounding. *One segment*: it held "
            "all of the input, so nothing was compared.",
            "Random weights (seeded, scaled by the fan-in): a trained network may remember longer, so the figure is an "
            "order of magnitude at best.",
            "*commit*: the one at which the row was measured; the line below the table is the last run's.",
        ],
        sorted([*others, measured], key=lambda row: row["system"]),
    )


def earlier_rows(title: str) -> list[dict[str, str]]:
    """What stands in the table, if it is of this input."""
    path = report.RESULTS / "chunking.json"
    if not path.exists():
        return []
    table = json.loads(path.read_text(encoding="utf-8"))
    if table["title"] != title:
        return []
    return [row | {"commit": row.get("commit", table["commit"])} for row in table["rows"]]


def found_subjects() -> Iterator[Subject]:
    """Models on hand, then every published Config that none of them stands for; equal Configs once."""
    here = {entry.weights_id for entry in Store().list()}
    real = [card for card in load_cards().values() if card.weights_id in here]
    for card in sorted(real, key=lambda card: card.id):
        system = card.systems[:1] if card.variant_of is None else ()
        yield Subject(tuple(dict.fromkeys((card.id, *system))), real=True)
    on_hand = {system for card in real for system in card.systems[:1]}
    for arch in architectures().values():
        names: dict[object, list[str]] = {}
        for name, config in arch.published.items():
            names.setdefault(config, []).append(name)
        for alike in names.values():
            if on_hand & set(alike):
                continue
            yield Subject(tuple(alike), real=False)


@contextmanager
def weights_of(subject: Subject) -> Iterator[str | Path]:
    """What the engine is to load: a model's id, or a file of random weights."""
    if subject.real:
        yield subject.names[0]
        return
    torch.manual_seed(0)
    model = build_model(subject.names[0])
    randomise(model)
    (arch,) = (arch.name for arch in architectures().values() if subject.names[0] in arch.published)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.safetensors"
        write_weights(path, Weights(arch, dataclasses.asdict(model.config), model.state_dict()))
        del model
        yield path


def randomise(model: nn.Module) -> None:
    """Draw every matrix and kernel anew; gains and offsets stay."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and not name.endswith("original0"):  # a weight normalisation's gain
                parameter.normal_(0, GAIN / parameter[0].numel() ** 0.5)


def row(subject: Subject, separator: Separator, mix: Samples, default: bool) -> dict[str, str]:
    spec = separator.spec
    # The engine has given the network's kernels to its runtime; the same ones serve the one pass.
    whole = one_pass(separator.model, mix)
    stems = separator.separate(mix, sample_rate=spec.sample_rate)
    deviations = {stem: deviation_db(stems[stem], whole[index]) for index, stem in enumerate(spec.stems)}
    worst = max(deviations, key=deviations.__getitem__)
    found = deviations[worst]
    # A random network may fall silent, which proves nothing.
    shown = {-np.inf: "identical", np.inf: "silent"}.get(found, f"{found:.0f}")
    if spec.context_samples is not None and -np.inf < found < EXACT_DB:
        shown += " (exact)"
    if separator.plan.segment_samples >= mix.shape[1]:
        shown = "one segment"
    return {
        "system": ", ".join(subject.names),
        "weights": "real" if subject.real else "random",
        "context s": "unbounded" if spec.context_samples is None else f"{spec.context_samples / spec.sample_rate:.1f}",
        "segment s": f"{separator.plan.segment_samples / spec.sample_rate:.1f}" + ("" if default else " (asked)"),
        "worst stem": worst,
        "deviation dB": shown,
    }


def one_pass(model: SeparationModel, mix: Samples) -> Samples:
    with torch.inference_mode():
        output: Samples = model(torch.from_numpy(mix)[None])[0].numpy()
    return output


def deviation_db(stem: Samples, reference: Samples) -> float:
    difference = np.square(stem - reference, dtype=np.float64).sum()
    energy = np.square(reference, dtype=np.float64).sum()
    if not energy:
        return np.inf
    return float(10 * np.log10(difference / energy)) if difference else -np.inf


def song(folder: Path | None, seconds: float, sample_rate: int, channels: int) -> Samples:
    """``[channels, seconds * sample_rate]``, or as much as there is; the same at every call."""
    samples = round(seconds * sample_rate)
    mix = tones_and_noise(samples, sample_rate) if folder is None else mixed(folder, seconds, sample_rate)
    mix = mix[:, :samples]
    return mix if channels == len(mix) else np.repeat(mix.mean(0, keepdims=True), channels, 0)


def mixed(folder: Path, seconds: float, sample_rate: int) -> Samples:
    """The sum of a song's stems in stereo."""
    stems = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix not in (".md", ".txt"))
    if not stems:
        songs = sorted(path for path in folder.iterdir() if path.is_dir())
        if not songs:
            raise AudioReadError(f"{folder} holds no song; expected audio files that are one song's stems")
        return mixed(songs[0], seconds, sample_rate)
    parts = []
    for path in stems:
        with Decoder(path) as decoder:
            rate = decoder.info.sample_rate
            part = np.concatenate(list(decoder.blocks()), 1)[:2, : round(seconds * rate)]
        parts.append(resample(np.broadcast_to(part, (2, part.shape[1])), rate, sample_rate))
    length = min(part.shape[1] for part in parts)
    return np.sum([part[:, :length] for part in parts], 0, dtype=np.float32)


def tones_and_noise(samples: int, sample_rate: int) -> Samples:
    """Chords that change twice a second under bursts of noise, so that no part of it is like another."""
    random = np.random.default_rng(0)
    step = sample_rate // 2
    mix = np.zeros((2, samples), np.float32)
    for start in range(0, samples, step):
        part = mix[:, start : start + step]
        time = np.arange(part.shape[1]) / sample_rate
        for _ in range(5):
            frequency, level, side = random.uniform(60, 4000), random.uniform(0.02, 0.15), random.uniform(0, 1)
            tone = level * np.sin(2 * np.pi * frequency * time) * np.exp(-3 * time)
            part += np.outer([side, 1 - side], tone).astype(np.float32)
        burst = random.uniform(0, 0.2) * random.standard_normal(part.shape) * np.exp(-time * random.uniform(2, 20))
        part += burst.astype(np.float32)
    return mix


if __name__ == "__main__":
    main()
