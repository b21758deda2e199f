"""MUSDB18, and its sample set of 7 seconds from each track: five AAC streams in one ``.stem.mp4`` a track.

Layout: ``{train,test}/ARTIST - TITLE.stem.mp4``, 44.1 kHz stereo; streams mixture, drums, bass, other, vocals. The
streams were encoded one by one, so that the stems sum to the mixture only as well as the codec allows.

Subsets: here a track has one. ``train`` are the 86 tracks that train and ``valid`` the 14 of the same folder that
validate; musdb calls all 100 ``train``, which is ``train+valid`` here. ``test`` are the 50 that published scores mean.

Citation: Z. Rafii, A. Liutkus, F.-R. Stöter, S. I. Mimilakis, R. Bittner: The MUSDB18 corpus for music separation,
2017, https://doi.org/10.5281/zenodo.1117372. Licence and facts: see ``_musdb.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from iseparate.data.clip import Clip
from iseparate.data.datasets._musdb import LICENCE, STEMS, SUBSETS, WHOLE, stem_mp4_files, stem_mp4_tracks
from iseparate.data.kinds import dataset
from iseparate.data.track import Track
from iseparate.errors import AudioError

SOUGHT = "train/NAME.stem.mp4 and test/NAME.stem.mp4"
RESIDUAL_LIMIT_DB = -20.0
"""Above what AAC leaves (-30 to -50 dB), and below most stems that are wrong."""

_SAMPLE_SECONDS = 8.0


def _first_seconds(root: Path) -> float | None:
    files = stem_mp4_files(root / "train") or stem_mp4_files(root / "test")
    try:
        sound = Clip(files[0]).sound if files else None
    except AudioError:
        return None
    return sound.samples / sound.sample_rate if sound else None


def _is_full(root: Path) -> bool:
    return bool(stem_mp4_files(root / "train") or stem_mp4_files(root / "test"))


def _is_sample(root: Path) -> bool:
    seconds = _first_seconds(root)
    return seconds is not None and seconds <= _SAMPLE_SECONDS


@dataset(
    "musdb18",
    sought=SOUGHT,
    recognises=_is_full,
    subsets=SUBSETS,
    stems=STEMS,
    whole=WHOLE,
    residual_limit_db=RESIDUAL_LIMIT_DB,
    licence=LICENCE,
    precedence=20,
)
def musdb18(root: Path) -> Iterator[Track]:
    """Whole tracks."""
    return stem_mp4_tracks(root)


@dataset(
    "musdb18-7s",
    sought=SOUGHT,
    recognises=_is_sample,
    subsets=SUBSETS,
    stems=STEMS,
    residual_limit_db=RESIDUAL_LIMIT_DB,
    licence=LICENCE,
    precedence=10,
)
def musdb18_7s(root: Path) -> Iterator[Track]:
    """Seven seconds of each track: to try things out. Scores on it are not those of the literature."""
    return stem_mp4_tracks(root)
