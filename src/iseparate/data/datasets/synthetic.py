"""The synthetic band: what ``iseparate data synthesize`` writes.

Layout: see `iseparate.data.synthetic.folder`; each song is a folder of stems and their mixture, whose sum is exact.
There is no published division: songs whose number ends in 8 are ``valid``, those ending in 9 ``test``, all others
``train``. ``HOURS@SEED``, such as ``0.5@7``, stands for a folder in the cache that `rendered_once` makes.

Licence: none is needed; the songs and their sounds are made by this program from rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from iseparate.cache_folder import cache_folder
from iseparate.data.datasets.folder import folder
from iseparate.data.kinds import PassedOver, dataset
from iseparate.data.track import Track
from iseparate.errors import UsageError

_BAND_FILE = "band.json"
_CACHED_SONG_SECONDS = 60.0


BAND_WORDS = re.compile(r"(\d+(?:\.\d+)?)@(\d+)")
"""``HOURS@SEED``."""


def rendered_once(words: str, jobs: int = 1) -> Path:
    """The folder in the cache that ``HOURS@SEED`` stands for, rendered now if it is not there or not finished.

    Raises UsageError where the words are of another form, OutputError where the cache cannot be written.
    """
    match = BAND_WORDS.fullmatch(words)
    if not match:
        raise UsageError(
            f"there is no folder {words[:80]!r}, nor is it HOURS@SEED, such as 0.5@7: name a folder that "
            "`iseparate data synthesize` has made, or so many hours"
        )
    from iseparate.data.synthetic.folder import BandSettings, render_folder
    from iseparate.data.synthetic.version import VERSION

    hours, seed = float(match[1]), int(match[2])
    # hours are in the name: less of a band must not become more of it by what was asked before
    root = cache_folder() / "synthetic" / f"v{VERSION}-{hours:g}h@{seed}"
    settings = BandSettings(seed=seed, song_seconds=_CACHED_SONG_SECONDS)
    return render_folder(root, hours, settings, jobs).root


@dataset(
    "synthetic",
    sought=f"{_BAND_FILE} and song-00000/ and so on, as `iseparate data synthesize` writes them",
    recognises=lambda root: (root / _BAND_FILE).is_file(),
    subsets=("train", "valid", "test"),
    residual_limit_db=-100.0,
    licence="none needed: made by rule, with sounds of the program's own (see NOTICE.txt beside the songs)",
    precedence=-1,
    locate=rendered_once,
)
def synthetic(root: Path) -> Iterator[Track | PassedOver]:
    """Every finished song, by number."""
    for found in folder(root):
        if isinstance(found, Track):
            yield replace(found, subset={"8": "valid", "9": "test"}.get(found.name[-1], "train"))
        else:
            yield found
