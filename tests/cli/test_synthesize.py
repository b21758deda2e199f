"""`iseparate data synthesize`, as a user runs it."""

from __future__ import annotations

import io
import json
import signal

import pytest
from rich.console import Console

from iseparate.cli.synthesize import rendering

SHORT = ("--hours", "0.0008", "--song-seconds", "1.5", "--stems", "drums,bass")


def test_songs_and_then_none_to_make(iseparate, here):
    outcome = iseparate("data", "synthesize", *SHORT, "--seed", "5", "-o", "band")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == "✓ synthetic:band: 2 songs, 0:03\n"
    assert sorted(path.name for path in (here / "band/song-00000").glob("*.flac")) == [
        "bass.flac",
        "drums.flac",
        "mixture.flac",
    ]
    assert json.loads((here / "band/band.json").read_text())["settings"]["seed"] == 5
    again = iseparate("data", "synthesize", *SHORT, "--seed", "5", "-o", "band")
    assert again.out == "✓ synthetic:band: 2 songs, 0:03 (2 of them were there already)\n"
    checked = iseparate("data", "check", "synthetic:band", "--json")
    assert (checked.status, checked.json["faults"]) == (0, 0)
    other = iseparate("data", "synthesize", *SHORT, "--seed", "6", "-o", "band")
    assert other.status == 2
    assert "seed 5 instead of 6" in other.sentence


def test_wrong_words(iseparate, here):
    for words, complaint in (
        (("--hours", "0"), "0 hours"),
        (("--hours", "nan"), "nan hours"),
        (("--hours", "1", "--stems", "drums,kazoo"), "no stem 'kazoo'"),
        (("--hours", "1", "--stems", ","), "at least one"),
        (("--hours", "1", "--song-seconds", "0.1"), "0.1 seconds"),
        (("--hours", "1", "--seed", "-3"), "seed is -3"),
        (("--hours", "1", "-j", "0"), "0 jobs"),
        (("--hours", "1", "--format", "mp3"), "mp3"),
        (("--hours", "many"), "valid number"),
        ((), "--hours"),
    ):
        outcome = iseparate("data", "synthesize", *words, "-o", "band")
        assert outcome.status == 2, words
        assert complaint in outcome.sentence
    assert not (here / "band").exists()


def test_a_place_that_cannot_be(iseparate, here):
    (here / "file").touch()
    outcome = iseparate("data", "synthesize", *SHORT, "-o", "file/band")
    assert outcome.status == 1
    assert "-o" in outcome.sentence


@pytest.mark.parametrize("command", [("evaluate", "-n", "mixture"), ("reproduce", "umx", "--anyway")])
def test_who_opens_a_band_is_told_how_far_it_is(command, iseparate, monkeypatch):
    """Where it is stopped, the command says so: it had been told."""

    def render(root, hours, settings, jobs, progress):
        progress(1, 30)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("iseparate.data.synthetic.folder.render_folder", render)
    stopped = iseparate(*command, "--data", "synthetic:0.5@3")
    assert stopped.status == 128 + signal.SIGTERM
    assert stopped.sentence.startswith("stopped while songs were rendered; those that are finished are kept")


def test_what_is_stopped_before_or_after_is_not_rendering():
    def stopped(*steps: tuple[int, int]) -> None:
        with rendering() as progress:
            for step in steps:
                progress(*step)
            raise SystemExit(143)

    for steps in ((), ((0, 1), (1, 1))):
        with pytest.raises(SystemExit) as ended:
            stopped(*steps)
        assert ended.value.code == 143


def test_a_bar_is_there_only_while_songs_are_rendered(monkeypatch):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr("iseparate.cli.synthesize.err", terminal)
    with rendering() as progress:
        progress(2, 2)
    assert "rendering" not in terminal.file.getvalue()
    with rendering() as progress:
        progress(1, 2)
    assert "rendering songs" in terminal.file.getvalue()
