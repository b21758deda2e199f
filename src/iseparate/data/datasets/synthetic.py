"""The synthetic band: what ``iseparate data synthesize`` writes.

Layout: see `iseparate.data.synthetic.folder`; each song is a folder of stems and their mixture, whose sum is exact.
There is no published division: songs whose number ends in 8 are ``valid``, those ending in 9 ``test``, all others
``train``. ``HOURS@SEED``, such as ``0.5@7``, stands for a folder in the cache that `rendered_once` makes;
``HOURS@SEED+installed`` for one in which sampled sounds play too, as far as they are installed.

Licence: none is needed; the songs are made by this program from rules. Sampled sounds are credited in NOTICE.txt.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from iseparate.cache_folder import cache_folder
from iseparate.data.datasets.folder import folder
from iseparate.data.kinds import PassedOver, dataset
from iseparate.data.rendering import told
from iseparate.data.track import Track
from iseparate.errors import UsageError

_BAND_FILE = "band.json"
_CACHED_SONG_SECONDS = 60.0


BAND_WORDS = re.compile(r"(\d+(?:\.\d+)?)@(\d+)(\+installed)?")
"""``HOURS@SEED`` or ``HOURS@SEED+installed``."""


def rendered_once(words: str, jobs: int = 1) -> Path:
    """The folder in the cache that ``HOURS@SEED`` stands for, rendered now if it is not there or not finished.

    With ``+installed`` the sounds that are here are part of its name: other sounds are another folder.

    Raises UsageError where the words are of another form or no sampled sounds are here, OutputError where the cache
    cannot be written.
    """
    match = BAND_WORDS.fullmatch(words)
    if not match:
        raise UsageError(
            f"there is no folder {words[:80]!r}, nor is it HOURS@SEED, such as 0.5@7: name a folder that "
            "`iseparate data synthesize` has made, or so many hours"
        )
    from iseparate.data.synthetic.folder import BandSettings, render_folder
    from iseparate.data.synthetic.sampled.sources import fingerprints, installed, unplayed
    from iseparate.data.synthetic.version import VERSION

    hours, seed = float(match[1]), int(match[2])
    # hours are in the name: less of a band must not become more of it by what was asked before
    name = f"v{VERSION}-{hours:g}h@{seed}"
    sounds = fingerprints(installed()) if match[3] else ()
    if sounds:
        name += f"+{sha256(' '.join(sounds).encode()).hexdigest()[:8]}"
    root = cache_folder() / "synthetic" / name
    if sounds and not root.exists() and (sentence := unplayed(installed())):
        logging.getLogger("iseparate").warning(sentence)
    settings = BandSettings(seed=seed, song_seconds=_CACHED_SONG_SECONDS, sounds=sounds)
    return render_folder(root, hours, settings, jobs, told()).root


@dataset(
    "synthetic",
    sought=f"{_BAND_FILE} and song-00000/ and so on, as `iseparate data synthesize` writes them",
    recognises=lambda root: (root / _BAND_FILE).is_file(),
    subsets=("train", "valid", "test"),
    residual_limit_db=-100.0,
    licence="none needed: made by rule; NOTICE.txt beside the songs credits the sounds",
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
