"""How well real songs with known stems are separated: museval's SDR (BSS Eval v4, medians of 1 s frames), and null.

    python bench/songs.py --songs FOLDER

FOLDER holds ``zone/`` (Vocals30.mp3 and the other stems of the song of the waveform-playlist repository). The Easton
Ellises' "Falcon 69" comes out of the PyPI package stempeg. The mixture is the sum of the stems. Songs that are not
there are printed as missing. Nothing here is used for training.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
from numpy.typing import NDArray

import report
from iseparate import Separator
from iseparate.audio.decode import Decoder
from iseparate.weights.store import Store

# museval imports musdb, which wants an ffmpeg program; the metric itself needs neither.
sys.modules.setdefault("musdb", MagicMock())
import museval.metrics  # noqa: E402

MODELS = ("spleeter-2stems", "spleeter-2stems-official")
FALCON = "wheel:stempeg==0.2.6/stempeg/data/The Easton Ellises - Falcon 69.stem.mp4"
FALCON_SHA256 = "874a2552f4d6e2421789e9816f0db58337e97e20539579e34a6100029e3cde5d"
FALCON_STEMS = ("mixture", "drums", "bass", "other", "vocals")

Samples = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=Path, help="folder with real multitrack songs")
    options = parser.parse_args()
    songs = {"Zone": zone(options.songs), "Falcon 69, sum of its stems": falcon(), "Falcon 69, mastered": falcon(True)}
    rows = []
    for name, song in songs.items():
        if song is None:
            rows.append({"song": name, "estimate": "missing", "vocals dB": "", "accompaniment dB": "", "null dB": ""})
            continue
        mix, references, rate = song
        rows.append(score(name, "mixture as estimate", mix, references, np.stack([mix, mix]), rate))
        for model in MODELS:
            stems = Separator(model).separate(mix, sample_rate=rate)
            estimates = np.stack([stems["vocals"], stems["accompaniment"]])
            rows.append(score(name, model, mix, references, estimates, rate))
    report.write(
        "songs",
        "Separation of real songs",
        ["`python bench/songs.py --songs FOLDER`: museval 0.4.1 SDR, framewise (1 s windows), median over frames.",
         "Null: energy of the mixture minus both stems against the mixture's, on float samples."],
        rows,
    )  # fmt: skip


def score(name: str, estimate: str, mix: Samples, references: Samples, estimates: Samples, rate: int) -> dict[str, str]:
    sdr, *_ = museval.metrics.bss_eval(
        references.transpose(0, 2, 1), estimates.transpose(0, 2, 1), window=rate, hop=rate
    )
    vocals, accompaniment = np.nanmedian(sdr, axis=1)
    rest = mix - estimates.sum(0)
    null = 10 * np.log10(np.square(rest, dtype=np.float64).sum() / np.square(mix, dtype=np.float64).sum())
    return {
        "song": name,
        "estimate": estimate,
        "vocals dB": f"{vocals:.2f}",
        "accompaniment dB": f"{accompaniment:.2f}",
        "null dB": f"{null:.0f}",
    }


def zone(folder: Path | None) -> tuple[Samples, Samples, int] | None:
    """Mixture, [vocals, accompaniment] and rate."""
    if folder is None or not (folder / "zone").is_dir():
        return None
    paths = sorted((folder / "zone").glob("*.mp3"))
    stems = {path.stem: decode(path) for path in paths}
    length = min(samples.shape[1] for samples, _ in stems.values())
    rate = next(rate for _, rate in stems.values())
    vocals = stems.pop("Vocals30")[0][:, :length]
    accompaniment = np.sum([samples[:, :length] for samples, _ in stems.values()], axis=0)
    return vocals + accompaniment, np.stack([vocals, accompaniment]), rate


def falcon(mastered: bool = False) -> tuple[Samples, Samples, int] | None:
    try:
        path = Store().fetch_file(FALCON, FALCON_SHA256, "falcon69.stem.mp4")
    except Exception as error:
        print(f"Falcon 69 is missing: {error}")
        return None
    tracks = {name: decode(path, stream)[0] for stream, name in enumerate(FALCON_STEMS)}
    accompaniment = tracks["drums"] + tracks["bass"] + tracks["other"]
    mix = tracks["mixture"] if mastered else accompaniment + tracks["vocals"]
    return mix, np.stack([tracks["vocals"], accompaniment]), 44100


def decode(path: Path, stream: int = 0) -> tuple[Samples, int]:
    with Decoder(path, stream=stream) as decoder:
        return np.concatenate(list(decoder.blocks()), 1), decoder.info.sample_rate


if __name__ == "__main__":
    main()
