"""BSS Eval v4 of a four-stem song: ours beside museval, each in a process of its own on one thread.

    python bench/bss_eval.py [--seconds 240] [--runs 2] [--songs FOLDER]

The song is synthetic: noise of four colours that swells and fades like music, 44.1 kHz stereo; the estimates hold
leakage, filtering and noise. Runs alternate, so that what else the machine does falls on both alike; the best of each
is taken. Memory is the peak of the whole process minus that of one that only loads the song and the libraries, as
float32; museval gets it in float64, as its own reader gives it.

FOLDER holds ``zone/`` and ``mdn-funk/``. There both score the same oracle over the first seconds, on stems as a wav
file of 16 bits would hold them, and on the floats that the decoder gives: of those museval's own figures move with the
gain, as the band that the codec left empty makes its equations all but singular. How far is shown beside.
Writes ``bench/results/bss_eval.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
from numpy.typing import NDArray

import report
from iseparate.evaluate.bsseval import bss_eval

# museval imports musdb, which wants an ffmpeg program; the metric itself needs neither.
sys.modules.setdefault("musdb", MagicMock())
import museval.metrics as museval_metrics  # noqa: E402

RATE = 44100
NAMES = ("SDR", "ISR", "SIR", "SAR")
TOLERANCE_DB = 1e-3
REAL_SECONDS = 20
ROUNDED = "16 bits"
COLUMNS = ("song", "program", "seconds", "CPU seconds", "times as fast", "CPU ratio", "memory MB", "difference dB")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Signals = NDArray[np.float32]
Scores = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--songs", type=Path, help="folder with real multitrack songs")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker[0], Path(options.worker[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(folder), options.seconds, options.runs)
        rows = [speed_row(name, measured, options.seconds) for name in ("museval 0.4.1", "iseparate")]
        rows += [real_row(name, references) for name, references in real_songs(options.songs)]
    report.write(
        "bss_eval",
        "BSS Eval v4: ours beside museval",
        [
            f"`python bench/bss_eval.py --seconds {options.seconds:g} --songs FOLDER`: four stereo stems of "
            f"{options.seconds:g} s at 44.1 kHz, one thread each, the best of {options.runs} runs, which alternate",
            "memory: peak of the process less that of one that only loads song and libraries; museval takes float64",
            "difference: the largest over all frames, stems and the four scores, NaN being at the same places",
        ],
        rows,
    )


def speed_row(name: str, measured: dict[str, dict[str, Any]], seconds: float) -> dict[str, str]:
    this, theirs, nothing = measured[name], measured["museval 0.4.1"], measured["nothing"]
    cells = (
        f"synthetic, {seconds:g} s",
        name,
        f"{this['wall']:.1f}",
        f"{this['cpu']:.1f}",
        f"{theirs['wall'] / this['wall']:.1f}",
        f"{theirs['cpu'] / this['cpu']:.1f}",
        f"{this['peak_mb'] - nothing['peak_mb']:.0f}",
        f"{difference(this['scores'], theirs['scores']):.1e}",
    )
    return dict(zip(COLUMNS, cells, strict=True))


def measure(folder: Path, seconds: float, runs: int) -> dict[str, dict[str, Any]]:
    """The best of each program's runs."""
    best: dict[str, dict[str, Any]] = {}
    for name, signals in zip(("references", "estimates"), song(round(seconds * RATE)), strict=True):
        np.save(folder / f"{name}.npy", signals)
    for _ in range(runs):
        for program in ("nothing", "iseparate", "museval 0.4.1"):
            target = folder / "run.json"
            command = [sys.executable, __file__, "--worker", program, str(target)]
            subprocess.run(command, check=True, env=os.environ | dict.fromkeys(THREADS, "1"))
            found = json.loads(target.read_text())
            if program not in best or found["wall"] < best[program]["wall"]:
                best[program] = found
    return best


def work(program: str, target: Path) -> None:
    """One program in this process."""
    references, estimates = (np.load(target.with_name(f"{name}.npy")) for name in ("references", "estimates"))
    score = {"nothing": lambda *_: np.zeros(0), "iseparate": ours, "museval 0.4.1": museval}[program]
    wall, cpu = time.perf_counter(), time.process_time()
    scores = score(references, estimates)
    found = {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "scores": scores.tolist(),
    }
    target.write_text(json.dumps(found))


def ours(references: Signals, estimates: Signals) -> Scores:
    scores = bss_eval(references, estimates, window_samples=RATE)
    return np.stack([scores.sdr, scores.isr, scores.sir, scores.sar])


def museval(references: NDArray[Any], estimates: NDArray[Any]) -> Scores:
    # In float64, as soundfile reads a song for it: its transforms keep the type they get.
    stems = (signals.transpose(0, 2, 1).astype(np.float64) for signals in (references, estimates))
    return np.stack(museval_metrics.bss_eval(*stems, window=RATE, hop=RATE)[:4])


def song(samples: int) -> tuple[Signals, Signals]:
    """References and estimates ``[4, 2, samples]``, seeded."""
    random = np.random.default_rng(0)
    references = np.empty((4, 2, samples), np.float32)
    estimates = np.empty_like(references)
    halves = np.arange(0, samples + RATE // 2, RATE // 2)
    for stem, colour in enumerate((0.97, 0.9, 0.6, 0.2)):
        swell = np.interp(np.arange(samples), halves, random.uniform(0.002, 0.03, len(halves)))
        both = random.standard_normal(samples)
        for channel in range(2):
            noise = both + 0.5 * random.standard_normal(samples)
            # A few taps of a moving average give each stem a spectrum of its own.
            references[stem, channel] = swell * sum(colour**tap * np.roll(noise, tap) for tap in range(8))
    mix = references.sum(0)
    for stem in range(4):
        softened = 0.7 * references[stem] + 0.2 * np.roll(references[stem], 1, axis=-1)
        estimates[stem] = softened + 0.1 * mix + 0.002 * random.standard_normal((2, samples))
    return references, estimates


def real_songs(folder: Path | None) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name in ("zone", "mdn-funk"):
        stems = decoded(folder / name) if folder and (folder / name).is_dir() else None
        if stems is None:
            found.append((f"{name}: missing", None))
            continue
        found += [(f"{name}, {ROUNDED}", sixteen_bits(stems)), (f"{name}, floats as decoded", stems)]
    return found


def real_row(name: str, references: Signals | None) -> dict[str, str]:
    if references is None:
        return {**dict.fromkeys(COLUMNS, ""), "song": name}
    from iseparate.evaluate.oracle import oracle

    estimated = oracle("irm1").separate(references.sum(0), {str(i): stem for i, stem in enumerate(references)})
    estimates = np.stack(list(estimated.values()))
    is_rounded = name.endswith(ROUNDED)
    if is_rounded:
        estimates = sixteen_bits(estimates)
    theirs, found = museval(references, estimates), ours(references, estimates)
    gain = 0.7
    itself = difference(museval(*(gain * signals.astype(np.float64) for signals in (references, estimates))), theirs)
    error = difference(found, theirs)
    if is_rounded and error > TOLERANCE_DB:
        raise SystemExit(f"{name}: ours and museval differ by {error:.1e} dB")
    shown = f"{error:.1e} (museval from itself at a gain of {gain}: {itself:.1e})"
    return {**dict.fromkeys(COLUMNS, ""), "song": name, "program": "both", "difference dB": shown}


def sixteen_bits(signals: Signals) -> Signals:
    return (np.round(signals * 32768).clip(-32768, 32767) / 32768).astype(np.float32)


def decoded(folder: Path) -> Signals:
    """``[stems, 2, samples]`` of the first seconds of all files in a folder."""
    from iseparate.audio.decode import Decoder

    stems = []
    for path in sorted(folder.glob("*.mp3")):
        with Decoder(path) as decoder:
            samples = np.concatenate(list(decoder.blocks()), 1)
        stems.append(samples if len(samples) == 2 else samples[:1].repeat(2, 0))
    length = min(REAL_SECONDS * RATE, *(stem.shape[1] for stem in stems))
    return np.stack([stem[:, :length] for stem in stems])


def difference(one: Any, other: Any) -> float:
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if not np.array_equal(np.isnan(one), np.isnan(other)):
        raise SystemExit("NaN at different places")
    return float(np.nanmax(np.abs(one - other)))


if __name__ == "__main__":
    main()
