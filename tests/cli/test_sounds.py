"""`iseparate data sounds` and `data synthesize --sounds`, as a user runs them."""

from __future__ import annotations

import dataclasses

import pytest

from iseparate.data.synthetic.sampled import sources


@pytest.fixture
def nothing_here(monkeypatch):
    table = tuple(dataclasses.replace(source, files=("/nowhere",)) for source in sources.SOURCES)
    monkeypatch.setattr(sources, "SOURCES", table)


def test_what_is_missing_and_how_to_get_it(iseparate, nothing_here):
    outcome = iseparate("data", "sounds")
    assert outcome.status == 0
    assert "apt install fluid-soundfont-gm" in outcome.out
    assert "pip install pysinsy pyworld" in outcome.out
    assert "GPL-2.0-only does not let weights be shipped" in outcome.out
    assert "0 of 4 sources that may be used are here" in outcome.out
    rows = {row["name"]: row for row in iseparate("data", "sounds", "--json").json}
    assert not any(row["used"] for row in rows.values())
    assert rows["fluidr3-gm"]["allowed"]
    assert not rows["hydrogen-audiophob"]["allowed"]


def test_the_notice_credits_what_is_here(iseparate, nothing_here):
    outcome = iseparate("data", "sounds", "--notice")
    assert "- iseparate synthesis: MIT" in outcome.out
    assert "Frank Wen" not in outcome.out


def test_asking_for_sounds_that_are_not_here(iseparate, here, nothing_here):
    words = ("data", "synthesize", "--hours", "0.0008", "--song-seconds", "1.5", "-o", "band", "--sounds")
    outcome = iseparate(*words, "installed")
    assert outcome.status == 2
    assert "iseparate data sounds" in outcome.sentence
    assert not (here / "band").exists()
    assert "borrowed" in iseparate(*words, "borrowed").sentence
