"""MUSDB18-HQ: MUSDB18 uncompressed, a folder of WAV files for each track.

Layout: ``{train,test}/ARTIST - TITLE/{mixture,drums,bass,other,vocals}.wav``, 44.1 kHz stereo, 16 bits. FLAC files of
the same names are read too. The bandwidth is the full one, where MUSDB18 ends at 16 kHz.

Subsets and citation as in ``musdb18.py``, and: Z. Rafii et al.: MUSDB18-HQ, an uncompressed version of MUSDB18, 2019,
https://doi.org/10.5281/zenodo.3338373. Licence and facts: see ``_musdb.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from iseparate.data.clip import Clip
from iseparate.data.datasets._musdb import LICENCE, STEMS, SUBSETS, VALIDATION, WHOLE, subset_of
from iseparate.data.folders import sound_files, subfolders
from iseparate.data.kinds import dataset
from iseparate.data.track import MIXTURE, Track

_FILES = frozenset(f"{source}.wav" for source in (MIXTURE, *STEMS))


def _recognises(root: Path) -> bool:
    """Tell MUSDB18 from songs of one's own in its layout, by a track it is known to have, or the folder's name."""
    songs = [path for folder in ("train", "test") if (root / folder).is_dir() for path in subfolders(root / folder)]
    has_layout = any(_FILES.issubset(file.name.lower() for file in sound_files(song)) for song in songs)
    return has_layout and ("musdb" in root.resolve().name.lower() or not VALIDATION.isdisjoint(s.name for s in songs))


@dataset(
    "musdb18hq",
    sought="train/NAME/ and test/NAME/, each with mixture.wav, drums.wav, bass.wav, other.wav and vocals.wav",
    recognises=_recognises,
    subsets=SUBSETS,
    stems=STEMS,
    whole=WHOLE,
    residual_limit_db=-50.0,
    licence=LICENCE,
)
def musdb18hq(root: Path) -> Iterator[Track]:
    """Every folder below ``train`` and ``test``, complete or not."""
    for folder in ("train", "test"):
        if not (root / folder).is_dir():
            continue
        for song in subfolders(root / folder):
            files = {path.stem.lower(): path for path in sound_files(song, (".flac", ".wav"))}  # sorted: the WAV wins
            clips = {stem: (Clip(files[stem]),) for stem in STEMS if stem in files}
            mixture = (Clip(files[MIXTURE]),) if MIXTURE in files else ()
            yield Track(song.name, subset_of(folder, song.name), clips, mixture)
