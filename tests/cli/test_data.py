"""`iseparate data check|manifest`, as a user runs it."""

from __future__ import annotations

import json

import pytest
import soundfile
from stage import music


@pytest.fixture
def songs(here):
    """Two songs whose mixtures are the sums of their stems."""
    for k, name in enumerate(("one", "two")):
        folder = here / "songs" / name
        folder.mkdir(parents=True)
        bass, vocals = (0.4 * music(seed=10 * k + j) for j in range(2))
        for stem, samples in {"bass": bass, "vocals": vocals, "mixture": bass + vocals}.items():
            soundfile.write(folder / f"{stem}.wav", samples, 44_100, "PCM_16")
    return here / "songs"


def test_nothing_is_wrong(iseparate, songs):
    outcome = iseparate("data", "check", "folder:songs", "-j", "2")
    assert outcome.status == 0
    assert outcome.out == "✓ folder:songs: 2 tracks, 0 faults, 0 remarks\n"
    assert outcome.err == "note: licence of the data: unknown: it is the owner's\n"


def test_a_fault_has_its_line_and_status_1(iseparate, songs):
    (songs / "two" / "bass.wav").write_text("no sound")
    outcome = iseparate("data", "check", "songs")
    assert outcome.status == 1
    lines = outcome.out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("fault unreadable: two bass: ")
    assert lines[1] == "✗ folder:songs: 2 tracks, 1 fault, 0 remarks"


def test_remarks_count_if_asked(iseparate, songs):
    (songs / "notes").mkdir()
    outcome = iseparate("data", "check", "songs")
    assert outcome.status == 0
    assert "remark passed-over: songs/notes holds no sound file, and is passed over" in outcome.out
    assert iseparate("data", "check", "songs", "--strict").status == 1


def test_the_limit_of_the_residual(iseparate, songs):
    outcome = iseparate("data", "check", "songs", "--residual-db", "-150")
    assert outcome.status == 1
    assert outcome.out.count("fault residual: ") == 2


def test_for_a_program(iseparate, songs):
    (songs / "two" / "bass.wav").unlink()
    found = iseparate("data", "check", "songs", "--json")
    assert found.status == 1
    report = found.json
    assert (report["data"], report["faults"], report["remarks"]) == ("folder:songs", 1, 0)
    assert {key: report["findings"][0][key] for key in ("level", "code", "track", "source")} == {
        "level": "fault",
        "code": "residual",
        "track": "two",
        "source": "",
    }
    assert report["tracks"][0]["title"] == "one"
    assert report["tracks"][0]["residual_db"] < -60
    assert set(report["tracks"][0]["sources"]) == {"mixture", "bass", "vocals"}


def test_hostile_names_do_not_drive_the_terminal(iseparate, songs):
    (songs / "one").rename(songs / "[red]\x1b[31mone\n[bold]")
    (songs / "two" / "bass.wav").rename(songs / "two" / "bass [bold].wav")
    (songs / "[red]\x1b[31mone\n[bold]" / "bass.wav").write_text("no sound")
    outcome = iseparate("data", "check", "songs")
    assert outcome.status == 1
    assert "\x1b" not in outcome.out
    assert "[red]\ufffd[31mone\ufffd[bold]" in outcome.out
    assert len(outcome.out.splitlines()) == 2


def test_a_manifest_and_its_verification(iseparate, songs, here):
    made = iseparate("data", "manifest", "songs", "-o", "m.json")
    assert (made.status, made.err) == (0, "")
    total = json.loads((here / "m.json").read_text())["total_sha256"]
    assert made.out == f"✓ m.json: 2 tracks, sha256 {total}\n"
    assert iseparate("data", "manifest", "folder:songs", "-j", "2").out == (here / "m.json").read_text()
    same = iseparate("data", "manifest", "songs", "--verify", "m.json")
    assert (same.status, same.out) == (0, "✓ 2 tracks as in the manifest\n")
    soundfile.write(songs / "one" / "bass.wav", music(seed=5), 44_100, "PCM_16")
    changed = iseparate("data", "manifest", "songs", "--verify", "m.json")
    assert changed.status == 1
    assert "✗ one: one/bass.wav (bass) has changed" in changed.out
    assert changed.sentence == "the data differ from the manifest in 1 place"


def test_a_manifest_of_a_subset_is_verified_with_that_subset(iseparate, songs, here):
    (songs / "test").mkdir()
    (songs / "two").rename(songs / "test" / "two")
    assert iseparate("data", "manifest", "songs", "--subset", "test", "-o", "m.json").status == 0
    assert iseparate("data", "manifest", "songs", "--verify", "m.json").out == "✓ 1 track as in the manifest\n"
    outcome = iseparate("data", "manifest", "songs", "--verify", "m.json", "--subset", "train")
    assert outcome.status == 2
    assert "is of test, not of train" in outcome.sentence


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["check", "nowhere"], 2, "nowhere does not exist: expected the folder of a data set"),
        (["check", "foldr:songs"], 2, "no kind of data set called 'foldr': did you mean folder?"),
        (["check", "songs", "--subset", "tets"], 2, "folder has no subset 'tets'"),
        (["check", "songs", "-j", "0"], 2, "jobs is 1 or more; got 0"),
        (["check", "songs", "--residual-db", "nan"], 2, "a number of decibels"),
        (["check"], 2, "missing argument"),
        (["manifest", "songs", "-j", "0"], 2, "jobs is 1 or more; got 0"),
        (["manifest", "songs", "--verify", "none.json"], 2, "the manifest none.json cannot be read"),
        (["manifest", "songs", "--verify", "a", "-o", "b"], 2, "exclude each other"),
        (["manifest", "songs", "-o", "no/where.json"], 1, "no/where.json cannot be written"),
    ],
)
def test_wrong_words(iseparate, songs, words, status, sentence):
    outcome = iseparate("data", *words)
    assert outcome.status == status
    assert sentence in outcome.sentence
    assert not outcome.out


@pytest.mark.parametrize("verb", [[], ["check"], ["manifest"]])
def test_help_fits_a_terminal(iseparate, verb):
    outcome = iseparate("data", *verb, "--help")
    assert outcome.status == 0
    assert max(map(len, outcome.out.splitlines())) <= 80


def test_no_torch_is_needed(songs):
    import subprocess
    import sys

    code = (
        "import sys; from iseparate.data import open_dataset; open_dataset('songs').tracks[0].read('mixture')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=songs.parent, timeout=60)
