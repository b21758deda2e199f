"""`iseparate evaluate` as a researcher runs it."""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np
import pytest
import soundfile
from stage import music

from iseparate.evaluate.track_scores import read_track_scores

RATE = 8000


def write_song(folder, stems=("vocals", "other"), seconds=1.5, rate=RATE):
    folder.mkdir(parents=True, exist_ok=True)
    for seed, stem in enumerate(stems):
        soundfile.write(folder / f"{stem}.wav", music(2, seconds, rate, seed) / 4, rate, "FLOAT")


@pytest.fixture
def songs(here):
    for name in ("a", "b", "c"):
        write_song(here / "songs" / name)
    return here / "songs"


@pytest.fixture
def evaluate(iseparate, tiny):
    return lambda *words: iseparate(
        "evaluate", *(words if "-n" in words or "--estimates" in words else ("-n", tiny, *words))
    )


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_run_leaves_scores_summary_frames_and_report(evaluate, songs, here):
    pytest.importorskip("pyarrow")
    outcome = evaluate("--data", "folder:songs", "--metrics", "usdr,si_sdr")
    assert (outcome.status, outcome.err) == (0, "")
    assert "✓ a: uSDR vocals " in outcome.out
    assert "accompaniment" in outcome.out
    run = here / "evaluated/tiny/folder-songs"
    names = ["frames.parquet", "report.html", "run.json", "spectra/test/a.npz", "summary.json", "summary.md"]
    assert {*names, "test/a.json", "test/b.json", "test/c.json"} <= set(files(run))
    record = json.loads((run / "run.json").read_text())
    assert record["sessions"][0]["command"].startswith("iseparate evaluate -n ")
    assert len(record["asked"]["identity"]["weights_sha256"]) == 64
    assert record["asked"]["data"] == f"folder:{songs}"


def test_the_test_songs_are_the_ones_that_are_scored_unless_told_otherwise(evaluate, here):
    for subset in ("train", "test"):
        write_song(here / "set" / subset / f"of {subset}")
    assert "tracks" in evaluate("-n", "mixture", "--data", "folder:set", "--metrics", "usdr").out
    assert files(here / "evaluated/mixture/folder-test/test") == ["of test.json"]
    evaluate("-n", "mixture", "--data", "folder:set", "--metrics", "usdr", "--subset", "all")
    assert "train/of train.json" in files(here / "evaluated/mixture/folder-set")


def test_json_is_the_summary(evaluate, songs):
    outcome = evaluate("-n", "irm2", "--data", "songs", "--metrics", "usdr", "--json", "-j", "2")
    assert outcome.err == ""
    stems = outcome.json["metrics"]["usdr"]["stems"]
    assert stems["vocals"]["uSDR"]["tracks"] == 3
    assert stems["vocals"]["uSDR"]["median_of_medians"] > 3


def test_an_oracle_is_better_than_the_mixture_and_the_report_says_so(evaluate, songs, here):
    evaluate("-n", "mixture", "--data", "songs", "--metrics", "usdr")
    outcome = evaluate(
        *("-n", "irm2", "--data", "songs", "--metrics", "usdr", "--json"),
        *("--compare", "evaluated/mixture/folder-songs", "--compare", "published:irm"),
    )
    assert outcome.status == 0
    paired = outcome.json["comparisons"][0]["paired"]
    assert {row["stem"] for row in paired} >= {"vocals", "other"}
    assert all(row["low"] > 0 and row["better"] == 3 for row in paired)


def test_one_broken_song_is_one_sentence(evaluate, songs, here):
    (songs / "b/vocals.wav").write_text("not sound")
    outcome = evaluate("--data", "songs", "--metrics", "usdr")
    assert outcome.status == 1
    assert outcome.sentence.startswith("b: ")
    assert "1 of 3 tracks failed" in outcome.out
    assert "1 failed" in (here / "evaluated/tiny/folder-songs/report.html").read_text()
    write_song(songs / "b")
    assert evaluate("--data", "songs", "--metrics", "usdr", "--resume").status == 0


def test_stems_on_disk_are_scored(evaluate, songs, here):
    for name in "abc":
        write_song(here / "stems" / name, ("vocals", "other"))
    outcome = evaluate("--estimates", "stems", "--data", "songs", "--metrics", "usdr", "--json")
    assert outcome.status == 0
    # They are the truth, and uSDR ends where its epsilon is.
    assert outcome.json["metrics"]["usdr"]["stems"]["vocals"]["uSDR"]["median_of_medians"] > 60
    assert (here / "evaluated/stems/folder-songs/test/a.json").exists()


def test_what_is_wrong_with_stems_on_disk_is_said_for_each_song(evaluate, songs, here):
    write_song(here / "stems/a", ("vocals", "other"))
    write_song(here / "stems/b", ("vocals",))
    write_song(here / "stems/c", ("vocals", "other"), rate=16000)
    outcome = evaluate("--estimates", "stems", "--data", "songs", "--metrics", "usdr")
    assert outcome.status == 1
    sentences = outcome.err.splitlines()
    assert len(sentences) == 2
    assert "b: the estimate of other is missing: expected a file of that name in stems/b" in sentences[0]
    assert "stems/c/other.wav has 16000 Hz and its track 8000 Hz" in sentences[1]
    soundfile.write(here / "stems/b/other.flac", np.zeros((RATE, 2)), RATE)
    soundfile.write(here / "stems/b/other.wav", np.zeros((RATE, 2)), RATE)
    assert (
        "are both estimates of other"
        in evaluate("--estimates", "stems", "--data", "songs", "--resume", "--metrics", "usdr").err
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--data nowhere", "nowhere does not exist"),
        ("--data songs --metrics sdr", "no metric is called 'sdr'; there is bss_eval_v4, "),
        ("--data songs --metrics ,", "--metrics names none"),
        ("--data songs -j 0", "jobs is 1 or more; got 0"),
        ("--data songs --limit 0", "--limit is 1 or more; got 0"),
        ("--data songs --seed -1", "--seed is 0 or more; got -1"),
        ("--data songs --tracks Z*", "none of the 3 tracks is called like 'Z*'; there is 'a'"),
        ("--data songs --compare songs", "songs is not the folder of a run"),
        ("--data songs --compare published:nobody", "no row of the literature's tables"),
        ("--data songs -n nothing", "There is no model called 'nothing'"),
        ("--data songs -n irm3", "irm1, irm2, ibm1, "),
        ("--data songs --estimates nowhere", "nowhere is not a folder"),
        ("--data songs --estimates songs/a", "songs/a holds stems of none of the 3 tracks"),
        ("--data songs --subset test", "has no track of the subset test"),
        ("--data songs --overlap 2", "overlap"),
        ("--data songs -n irm1 --shifts 2", "--shifts is for models"),
    ],
)
def test_wrong_words_are_one_sentence_and_leave_nothing(evaluate, songs, here, words, sentence):
    outcome = evaluate(*words.split())
    assert outcome.status == 2
    assert sentence in outcome.sentence
    assert not (here / "evaluated").exists()


def test_without_anything_to_score_there_is_a_sentence(iseparate, songs):
    assert "give a model with -n" in iseparate("evaluate", "--data", "songs").sentence


def test_a_run_is_not_overwritten_or_mixed(evaluate, songs):
    evaluate("--data", "songs", "--metrics", "usdr", "--limit", "1")
    assert "holds a run already" in evaluate("--data", "songs", "--metrics", "usdr").sentence
    mixed = evaluate("--data", "songs", "--metrics", "usdr", "--shifts", "2", "--resume")
    assert "was made with identity.seed nothing and this call asks for 0" in mixed.sentence
    grown = evaluate("--data", "songs", "--metrics", "usdr", "--resume")
    assert "✓ a: kept vocals" in grown.out
    assert "✓ b: uSDR vocals" in grown.out
    assert (
        "holds scores that this call leaves out (2 of 3 tracks, such as a)"
        in evaluate("--data", "songs", "--metrics", "usdr", "--resume", "--tracks", "b").sentence
    )


def test_what_is_not_installed_is_said_first(evaluate, songs, here, monkeypatch):
    monkeypatch.setattr("iseparate.evaluate.frames.can_write_parquet", lambda: False)
    monkeypatch.setattr("iseparate.evaluate.results.can_write_parquet", lambda: False)
    outcome = evaluate("--data", "songs", "--metrics", "usdr")
    assert outcome.status == 0
    assert outcome.err == (
        "note: pyarrow is not installed, so frames.parquet is not written; after pip install 'iseparate[evaluate]', "
        "--resume makes it without scoring anew.\n"
    )
    assert not (here / "evaluated/tiny/folder-songs/frames.parquet").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_names_can_be_any_bytes(evaluate, here):
    place = os.fsdecode(b"so\xffngs")
    for seconds, name in ((1, b"a\xfe"), (2, b"a\xff")):
        write_song(here / "plain/song", seconds=seconds)  # soundfile writes to no such name
        (here / "plain/song").rename(here / "plain" / os.fsdecode(name))
    (here / "plain").rename(here / place)
    outcome = evaluate("--data", place, "--estimates", place, "--metrics", "usdr")
    assert (outcome.status, outcome.err) == (0, "")
    (run,) = (here / "evaluated").glob("*/*")
    assert json.loads((run / "run.json").read_text())["asked"]["data"].endswith("so\\udcffngs")
    page = (run / "report.html").read_text()
    assert "a\\udcfe" in page
    # Each is shown with figures of its own.
    lengths = {read_track_scores(path).track: read_track_scores(path).samples for path in run.glob("test/*.json")}
    assert lengths == {"a\\udcfe": RATE, "a\\udcff": 2 * RATE}
    assert page.count('<td class="n" data-v="1.0">0:01</td>') == page.count('<td class="n" data-v="2.0">0:02</td>') == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals as Unix has them")
def test_a_run_that_is_killed_goes_on_without_losing_or_repeating_a_track(start, evaluate, songs, here, tiny):
    write_song(songs / "b", seconds=20)  # long enough to be caught at
    words = ("--data", "songs", "--metrics", "usdr", "--shifts", "10")
    run = here / "evaluated/tiny/folder-songs"
    process = start("evaluate", "-n", tiny, *words)
    deadline = time.monotonic() + 60
    while not (run / "test/a.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate(timeout=30)
    assert [path for path in files(run) if path.startswith("test/")] == ["test/a.json"]
    whole = (run / "test/a.json").read_bytes()
    write_song(songs / "b")  # it is not done, so it may change: only to make the test short
    outcome = evaluate(*words, "--resume")
    assert outcome.status == 0
    assert "✓ a: kept" in outcome.out
    assert (run / "test/a.json").read_bytes() == whole
    # What two halves made is what one whole run makes.
    assert evaluate(*words, "-o", "again").status == 0
    for name in "abc":
        halves, one = (
            json.loads((here / place / f"tiny/folder-songs/test/{name}.json").read_text())["iseparate"]["scores"]
            for place in ("evaluated", "again")
        )
        for stem, values in one["usdr"].items():  # to rounding: sums go by threads
            assert halves["usdr"].pop(stem) == {"uSDR": pytest.approx(values["uSDR"], abs=1e-9)}
        assert not halves["usdr"]
