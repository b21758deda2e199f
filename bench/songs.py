"""How well real songs with known stems are separated, by every model whose weights are here.

    python bench/songs.py --songs FOLDER [--models ID ...]

FOLDER holds ``zone/`` (Vocals30.mp3 and the other stems of the song of the waveform-playlist repository) and
``mdn-funk/`` (bassguitar, clav, drums, horns and leadguitar.mp3 of mdn/webaudio-examples). The Easton Ellises'
"Falcon 69" comes out of the PyPI package stempeg. The mixture is the sum of the stems. Songs that are not there are
printed as missing. Nothing here is used for training.

Beside the models stand the mixture as the estimate of everything, and the oracles, so that a figure can be placed
between what needs no model and what no mask can exceed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import report
from iseparate import Separator
from iseparate.audio.decode import Decoder
from iseparate.errors import IseparateError
from iseparate.evaluate.metrics import metric, pooled
from iseparate.evaluate.oracle import oracle
from iseparate.weights.card import load_cards
from iseparate.weights.store import Store

ALWAYS = ("spleeter-2stems", "spleeter-2stems-official")
"""Fetched if they are not here; of other models, those run whose weights are."""
ORACLES = ("irm1", "irm2", "ibm1", "ibm2", "mwf")
MIXTURE = "mixture as estimate"
VOCALS, ACCOMPANIMENT = "vocals", "accompaniment"
RHYTHM = "rhythm"
"""Drums and bass together."""
COLUMNS = (VOCALS, "drums", "bass", "other", ACCOMPANIMENT)
FALCON = "wheel:stempeg==0.2.6/stempeg/data/The Easton Ellises - Falcon 69.stem.mp4"
FALCON_SHA256 = "874a2552f4d6e2421789e9816f0db58337e97e20539579e34a6100029e3cde5d"
FALCON_STEMS = ("mixture", "drums", "bass", "other", VOCALS)
FALCON_GLITCH_SAMPLES = 4096
"""The file's drums, bass and other have decoder glitches of this length at either end."""

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Song:
    """A mixture and its true stems, ``[channels, samples]``.

    A song whose stems do not tell drums, bass and the rest apart has one stem `accompaniment` beside the vocals.
    """

    name: str
    mix: Samples
    stems: Mapping[str, Samples]
    sample_rate: int
    glitch_samples: int = 0
    """At either end, not scored where drums, bass and other are."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=Path, help="folder with real multitrack songs")
    parser.add_argument("--models", nargs="+", metavar="ID", help="run these models instead of all that are here")
    options = parser.parse_args()
    models = options.models or models_here()
    rows = []
    for name, load in songs(options.songs).items():
        song = load()
        if song is None:
            rows.append(row(name, "missing", {}, None))
            continue
        for estimate, stems in estimates(song, models):
            null = None if estimate == MIXTURE else null_db(song.mix, stems)
            rows.append(row(name, estimate, scores(song, stems), null))
    report.write(
        "songs",
        "Separation of real songs",
        [
            "`python bench/songs.py --songs FOLDER`. What a model or a song has not is left empty; accompaniment: all "
            "but the vocals; of a song without any, what did not leak into a model's vocals.",
            "The mixture as the estimate and the oracles (`irm1` to `mwf`), told the true stems, frame the models.",
            f"dB: SDR of {metric('bss_eval_v4').definition}",
            metric("usdr").definition,
            "Null: energy of the mixture minus all stems against the mixture's, on float samples.",
        ],
        rows,
    )


def models_here() -> list[str]:
    """Ids of the models whose weights are in the cache, and those that always run."""
    cached = {entry.weights_id for entry in Store().list()}
    return sorted({card.id for card in load_cards().values() if card.weights_id in cached} | set(ALWAYS))


def estimates(song: Song, models: list[str]) -> Iterator[tuple[str, Mapping[str, Samples]]]:
    """Every estimate of the song's stems with the name of what made it."""
    yield MIXTURE, dict.fromkeys((*song.stems, ACCOMPANIMENT), song.mix)
    for name in ORACLES:
        yield name, oracle(name).separate(song.mix, song.stems)
    for model in models:
        yield model, dict(Separator(model).separate(song.mix, sample_rate=song.sample_rate))


@dataclass(frozen=True)
class Score:
    """How well one stem was found, in dB."""

    frames: NDArray[np.float64]
    """SDR of each second; nan where a second has none."""
    whole: float
    """uSDR."""

    @property
    def pooled(self) -> float:
        """The median of the frames."""
        return pooled(self.frames)


def scores(song: Song, stems: Mapping[str, Samples]) -> dict[str, Score]:
    """By stem: the stems jointly, and vocals with accompaniment as a pair, as museval does."""
    found: dict[str, Score] = {}
    together = {name: stems[name] for name in song.stems if name in stems and name not in (VOCALS, ACCOMPANIMENT)}
    if together:
        if VOCALS in song.stems and VOCALS in stems:
            together[VOCALS] = stems[VOCALS]
        inside = slice(song.glitch_samples, song.mix.shape[1] - song.glitch_samples)
        found |= _scores(song, {name: song.stems[name] for name in together}, together, inside)
    if VOCALS not in song.stems and VOCALS not in stems:
        return found  # all there is of such a song is the accompaniment, and nothing could have been lost of it
    # After the joint scores, whose vocals these replace. Of a song without vocals: how much of it leaked into them.
    pair = {ACCOMPANIMENT: stems.get(ACCOMPANIMENT, _sum(stems, but=VOCALS))}
    truth = {ACCOMPANIMENT: song.stems.get(ACCOMPANIMENT, _sum(song.stems, but=VOCALS))}
    if VOCALS in song.stems and VOCALS in stems:
        pair[VOCALS], truth[VOCALS] = stems[VOCALS], song.stems[VOCALS]
    return found | _scores(song, truth, pair, slice(None))


def _scores(song: Song, truth: Mapping[str, Samples], stems: Mapping[str, Samples], inside: slice) -> dict[str, Score]:
    truth = {name: stem[:, inside] for name, stem in truth.items()}
    stems = {name: stem[:, inside] for name, stem in stems.items()}
    mix = song.mix[:, inside]
    framewise = metric("bss_eval_v4").score(truth, stems, mix, song.sample_rate)
    whole = metric("usdr").score(truth, stems, mix, song.sample_rate)
    return {name: Score(framewise[name]["SDR"], pooled(whole[name]["uSDR"])) for name in truth}


def row(
    song: str, estimate: str, found: Mapping[str, Score], null: float | None, columns: Sequence[str] = COLUMNS
) -> dict[str, str]:
    cells = {"song": song, "estimate": estimate}
    cells |= {f"{stem} dB": f"{found[stem].pooled:.2f}" if stem in found else "" for stem in columns}
    cells |= {f"{stem} uSDR dB": f"{found[stem].whole:.2f}" if stem in found else "" for stem in columns}
    return cells | {"null dB": "" if null is None else f"{null:.0f}"}


def null_db(mix: Samples, stems: Mapping[str, Samples]) -> float:
    rest = mix - _sum(stems)
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(np.square(rest, dtype=np.float64).sum() / np.square(mix, dtype=np.float64).sum()))


def songs(folder: Path | None) -> dict[str, Callable[[], Song | None]]:
    """What loads each song, by its name: one is held at a time."""
    return {
        "Zone": lambda: zone(folder),
        "MDN funk": lambda: funk(folder),
        "Falcon 69, sum of its stems": falcon,
        "Falcon 69, mastered": lambda: falcon(mastered=True),
    }


def zone(folder: Path | None) -> Song | None:
    song = zone_in_three(folder)
    if song is None:
        return None
    stems = {VOCALS: song.stems[VOCALS], ACCOMPANIMENT: _sum(song.stems, but=VOCALS)}
    return summed("Zone", stems, song.sample_rate)


def zone_in_three(folder: Path | None) -> Song | None:
    """Zone with drums and bass apart from the rest, as one stem: the song has no stem of either alone."""
    tracks = tracks_of(folder, "zone")
    if tracks is None:
        return None
    stems, rate = tracks
    vocals, rhythm = stems.pop("Vocals30"), stems.pop("BassDrums30")
    return summed("Zone", {VOCALS: vocals, RHYTHM: rhythm, "other": _sum(stems)}, rate)


def funk(folder: Path | None) -> Song | None:
    tracks = tracks_of(folder, "mdn-funk")
    if tracks is None:
        return None
    stems, rate = tracks
    drums, bass = stems.pop("drums"), stems.pop("bassguitar")
    return summed("MDN funk", {"drums": drums, "bass": bass, "other": _sum(stems)}, rate)


def falcon(mastered: bool = False) -> Song | None:
    try:
        path = Store().fetch_file(FALCON, FALCON_SHA256, "falcon69.stem.mp4")
    except IseparateError as error:
        print(f"Falcon 69 is missing: {error}")
        return None
    stems = {name: decode(path, stream)[0] for stream, name in enumerate(FALCON_STEMS)}
    mix = stems.pop("mixture")
    name = "Falcon 69, " + ("mastered" if mastered else "sum of its stems")
    return Song(name, mix if mastered else _sum(stems), stems, 44100, FALCON_GLITCH_SAMPLES)


def tracks_of(folder: Path | None, name: str) -> tuple[dict[str, Samples], int] | None:
    """The files of one song, cut to the shortest, and their rate."""
    paths = sorted((folder / name).glob("*.mp3")) if folder else []
    if not paths:
        return None
    decoded = {path.stem: decode(path) for path in paths}
    samples = min(track.shape[1] for track, _ in decoded.values())
    (rate,) = {rate for _, rate in decoded.values()}
    return {track_name: track[:, :samples] for track_name, (track, _) in decoded.items()}, rate


def summed(name: str, stems: Mapping[str, Samples], sample_rate: int) -> Song:
    return Song(name, _sum(stems), stems, sample_rate)


def _sum(stems: Mapping[str, Samples], but: str | None = None) -> Samples:
    return np.sum([stem for name, stem in stems.items() if name != but], axis=0, dtype=np.float32)


def decode(path: Path, stream: int = 0) -> tuple[Samples, int]:
    with Decoder(path, stream=stream) as decoder:
        return np.concatenate(list(decoder.blocks()), 1), decoder.info.sample_rate


if __name__ == "__main__":
    main()
