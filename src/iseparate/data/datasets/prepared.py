"""Prepared data: what ``iseparate data prepare`` writes, for training that is never slowed by decoding.

Layout: see `iseparate.data.shards`. The licence is that of the data it was made from.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from iseparate.data.kinds import dataset
from iseparate.data.shards import INDEX_NAME, read_index, tracks_of
from iseparate.data.track import Track


@dataset(
    "prepared",
    sought=f"{INDEX_NAME} and songs/, as `iseparate data prepare` writes them",
    recognises=lambda root: (root / INDEX_NAME).is_file(),
    subsets=("train", "valid", "test"),
    licence="that of the data it was made from",
    precedence=-1,
)
def prepared(root: Path) -> Iterator[Track]:
    """Every song of the index, in its order."""
    if (root / INDEX_NAME).is_file():
        yield from tracks_of(read_index(root), root)
