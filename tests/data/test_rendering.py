"""Songs that are made when a data set is opened, and who is told of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_data import write_song

from iseparate.data.kinds import _TABLE, dataset, kinds
from iseparate.data.open import open_dataset
from iseparate.data.rendering import telling, told


@pytest.fixture
def rendered(tmp_path, monkeypatch):
    """A kind of data set whose one song is written when somebody asks for it."""
    known = dict(kinds())
    monkeypatch.setattr("iseparate.data.open.kinds", lambda: known)

    def locate(words: str) -> Path:
        progress = told()
        for done in range(3):
            if progress:
                progress(done, 2)
        write_song(tmp_path / "made" / words)
        return tmp_path / "made"

    dataset("made", sought="anything", locate=locate)(known["folder"].list_tracks)
    known["made"] = _TABLE.pop("made")
    return known


def test_whoever_opens_it_is_told(rendered):
    heard = []
    data = open_dataset("made:words", progress=lambda done, total: heard.append((done, total)))
    assert [track.name for track in data.tracks] == ["words"]
    assert heard == [(0, 2), (1, 2), (2, 2)]


def test_nobody_has_to_listen(rendered):
    assert len(open_dataset("made:words").tracks) == 1
    assert told() is None


def test_only_inside_of_the_block():
    def one(done: int, total: int) -> None: ...

    def other(done: int, total: int) -> None: ...

    with telling(one):
        assert told() is one
        with telling(other):
            assert told() is other
        with pytest.raises(KeyError), telling(other):
            raise KeyError
        assert told() is one
    assert told() is None
