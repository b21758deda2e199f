"""`iseparate reproduce`, on a table, a model and songs small enough to be made here."""

from __future__ import annotations

import json
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import soundfile
from stage import left_behind, music

from iseparate.evaluate import metrics, published
from iseparate.evaluate.published import measured, parse_table, read_reproductions

# The package holds the function of that name, so the module is asked for by its path.
door = import_module("iseparate.cli.reproduce")
CHECKPOINT = Path(__file__).parents[1] / "parity/goldens/spleeter-4stems-tiny/checkpoint"
RATE = 44_100
STEMS = ("vocals", "drums", "bass", "other")
TABLE = """
id = "toys"
title = "A table of toys"
printed_in = "Nowhere"
data = "musdb18hq"
subset = "test"
tracks = 2
stems = ["vocals", "drums", "bass", "other"]
metric = "bss_eval_v4"
metric_definition = "SDR in dB"

[[rows]]
id = "toy"
system = "Toy [official]"
sdr = { vocals = 1.0, drums = 2.0, bass = 3.0, other = 4.0 }
average = 2.5
evidence = "stated"
read_in = "a page"
card = "toy-official"
note = "Printed with the left hand."

[[rows]]
id = "mask"
system = "Ideal mask"
sdr = { vocals = 9.0, drums = 9.0, bass = 9.0, other = 9.0 }
evidence = "stated"
read_in = "a page"
oracle = "irm2"

[[rows]]
id = "lost"
system = "Lost system"
sdr = { vocals = 1.0 }
evidence = "from memory"
read_in = "a page"
builds = "uhl2"
unavailable = "its authors released no weights"
"""
CARD = """
id = "toy"
arch = "spleeter"
title = "A toy"
summary = "Four stems of nothing."
stems = ["vocals", "drums", "bass", "other"]
sample_rate_hz = 44100
channels = 2
code_licence = "MIT"
weights_licence = "MIT"
commercial_use = true
training_data = "None at all."
status = "format proven by golden"

[[files]]
name = "model.index"
source = "file:{folder}/model.index"

[[files]]
name = "model.data-00000-of-00001"
source = "file:{folder}/model.data-00000-of-00001"

[official.settings]
mask_extension = "zeros"
"""


@pytest.fixture(autouse=True)
def toys(tmp_path, monkeypatch):
    """The toys' table in place of the literature's, and a card for their model."""
    table = parse_table(TABLE.encode(), "toys.toml")
    monkeypatch.setattr(published, "published_tables", lambda: (table,))
    monkeypatch.setattr(door, "SHORT_SECONDS", 1)
    # SDR knows no filters, and 512 taps of four stereo stems take seconds.
    monkeypatch.setattr(metrics, "bss_eval", partial(metrics.bss_eval, filter_length=2))
    cards = tmp_path / "cards"
    cards.mkdir()
    (cards / "toy.toml").write_text(CARD.format(folder=CHECKPOINT))
    monkeypatch.setenv("ISEPARATE_CARDS", str(cards))
    monkeypatch.delenv("ISEPARATE_OFFLINE")
    return table


def write_song(folder: Path, seed: int, seconds: float = 2.2) -> None:
    folder.mkdir(parents=True)
    stems = {stem: 0.4 * music(seconds=seconds, seed=seed + 10 * k) * (0.3 + k) / 3 for k, stem in enumerate(STEMS)}
    for stem, samples in stems.items():
        soundfile.write(folder / f"{stem}.wav", samples, RATE, "FLOAT")
    soundfile.write(folder / "mixture.wav", np.sum(list(stems.values()), axis=0), RATE, "FLOAT")


@pytest.fixture
def songs(tmp_path) -> Path:
    """Two songs in the layout of MUSDB18-HQ."""
    root = tmp_path / "data"
    for seed, name in enumerate(("A - First", "B - Second [live]")):
        write_song(root / "test" / name, seed)
    return root


def records(here: Path):
    return read_reproductions(here / "kept")


def test_an_oracle_fills_its_row(iseparate, songs, here, toys):
    outcome = iseparate("reproduce", "mask", "--data", f"musdb18hq:{songs}", "--record", "kept", "--json")
    assert outcome.status == 0, outcome.err
    record = records(here)["mask"]
    assert json.loads(outcome.out) == json.loads(record.model_dump_json())
    assert measured({"mask": record}, toys, toys.rows[1]) is record
    assert (record.estimator, record.tracks, record.weights_sha256) == ("irm2", 2, None)
    assert set(record.sdr) == set(STEMS)
    assert record.average == pytest.approx(sum(record.sdr.values()) / 4)
    assert record.command == "iseparate reproduce mask --data musdb18hq:PATH"
    assert str(songs) not in record.model_dump_json()
    assert "median" in record.metric_definition.lower()


def test_the_scores_are_those_of_the_oracle(iseparate, songs, here):
    """Worked out beside the machinery: SDR of BSS Eval v4 is the energy of the stem over that of the error."""
    from iseparate.evaluate.oracle import oracle

    iseparate("reproduce", "mask", "--data", f"musdb18hq:{songs}", "--record", "kept")
    per_song = []
    for folder in sorted((songs / "test").iterdir()):
        truth = {stem: soundfile.read(folder / f"{stem}.wav", dtype="float32")[0].T for stem in STEMS}
        mix = soundfile.read(folder / "mixture.wav", dtype="float32")[0].T
        guess = oracle("irm2").separate(mix, truth)["vocals"]
        frames = []
        for start in range(0, mix.shape[1] - RATE + 1, RATE):
            part = slice(start, start + RATE)
            error = truth["vocals"][:, part] - guess[:, part]
            frames.append(10 * np.log10((truth["vocals"][:, part] ** 2).sum() / (error**2).sum()))
        per_song.append(np.median(frames))
    assert records(here)["mask"].sdr["vocals"] == pytest.approx(np.median(per_song), abs=0.02)


def test_a_model_runs_as_its_publisher_has_it(iseparate, songs, here):
    outcome = iseparate("reproduce", "toy", "--data", f"musdb18hq:{songs}", "--record", "kept", "-j", 2)
    assert outcome.status == 0, outcome.err
    record = records(here)["toy"]
    assert record.estimator == "toy-official"
    assert len(record.weights_sha256) == 64
    assert "published (stated)" in outcome.out
    assert "measured here" in outcome.out
    assert "Toy [official]" in outcome.out
    assert "note: Printed with the left hand." in outcome.out


def test_a_second_call_keeps_what_is_done(iseparate, songs, here):
    words = ("reproduce", "mask", "--data", f"musdb18hq:{songs}", "--record", "kept")
    iseparate(*words)
    first = records(here)["mask"]
    done = sorted((here / "evaluated/irm2/musdb18hq-test/test").glob("*.json"))
    assert len(done) == 2
    done[0].unlink()
    kept = done[1].stat().st_mtime_ns
    again = iseparate(*words)
    assert again.status == 0
    assert again.err.count("of an earlier call") == 1
    assert done[1].stat().st_mtime_ns == kept
    assert records(here)["mask"].sdr == first.sdr


def test_evaluate_goes_on_with_the_same_run(iseparate, songs, here):
    data = f"musdb18hq:{songs}"
    assert iseparate("reproduce", "mask", "--data", data, "--record", "kept").status == 0
    outcome = iseparate("evaluate", "-n", "irm2", "--data", data, "--metrics", "bss_eval_v4", "--resume")
    assert outcome.status == 0, outcome.err
    assert outcome.out.count(": kept ") == 2
    assert (here / "evaluated/irm2/musdb18hq-test/report.html").exists()


def test_other_data_are_refused_or_marked(iseparate, songs, here):
    other = f"folder:{songs / 'test'}"
    outcome = iseparate("reproduce", "mask", "--data", other, "--record", "kept")
    assert outcome.status == 2
    assert "it takes musdb18hq, and the data are folder; --anyway" in outcome.sentence
    assert left_behind(here) == []
    outcome = iseparate("reproduce", "mask", "--data", other, "--record", "kept", "--anyway")
    assert outcome.status == 0, outcome.err
    assert "partial" in outcome.err
    assert "(partial)" in outcome.out
    assert records(here) == {}
    assert (here / "kept/mask.partial.json").exists()


def test_fewer_songs_than_printed_are_refused(iseparate, songs, here):
    for path in (songs / "test/A - First").iterdir():
        path.unlink()
    (songs / "test/A - First").rmdir()
    outcome = iseparate("reproduce", "mask", "--data", f"musdb18hq:{songs}")
    assert outcome.status == 2
    assert "the 2 songs of the test set of musdb18hq, and there are 1" in outcome.sentence


def test_excerpts_are_not_the_data_set(iseparate, songs, here, monkeypatch):
    monkeypatch.setattr(door, "SHORT_SECONDS", 60)
    outcome = iseparate("reproduce", "mask", "--data", f"musdb18hq:{songs}")
    assert outcome.status == 2
    assert "whole songs, and the median of these lasts 2 s" in outcome.sentence


def test_a_limit_makes_a_partial_result_and_leaves_the_whole_run_alone(iseparate, songs, here):
    words = ("reproduce", "mask", "--data", f"musdb18hq:{songs}", "--record", "kept")
    assert iseparate(*words).status == 0
    outcome = iseparate(*words, "--limit", 1)
    assert outcome.status == 0, outcome.err
    assert records(here)["mask"].tracks == 2
    partial = json.loads((here / "kept/mask.partial.json").read_text())
    assert (partial["tracks"], partial["partial"]) == (1, True)
    assert partial["command"].endswith("--limit 1")


def test_a_song_that_fails_keeps_the_row_empty(iseparate, songs, here):
    broken = songs / "test/A - First/drums.wav"
    samples, _ = soundfile.read(broken)
    samples[1000] = np.nan
    soundfile.write(broken, samples, RATE, "FLOAT")
    outcome = iseparate("reproduce", "mask", "--data", f"musdb18hq:{songs}", "--record", "kept")
    assert outcome.status == 1
    assert "A - First" in outcome.err
    assert "Traceback" not in outcome.err
    assert records(here) == {}
    assert (here / "kept/mask.partial.json").exists()


def test_the_list(iseparate):
    outcome = iseparate("reproduce", "--list")
    lines = {line.split()[0]: line for line in outcome.out.splitlines()}
    assert "toy-official" in lines["toy"]
    assert "Toy [official]" in lines["toy"]
    assert "irm2" in lines["mask"]
    assert "nothing: its authors released no weights" in lines["lost"]
    assert [row["id"] for row in iseparate("reproduce", "--list", "--json").json] == ["toy", "mask", "lost"]


def test_one_row_of_the_list_with_what_is_to_be_known_of_it(iseparate):
    outcome = iseparate("reproduce", "toy", "--list")
    assert outcome.status == 0
    assert "irm2" not in outcome.out
    assert "SDR in dB of" in outcome.out
    assert "note: Printed with the left hand." in outcome.out
    assert [row["id"] for row in iseparate("reproduce", "toy", "--list", "--json").json] == ["toy"]
    assert "note:" not in iseparate("reproduce", "mask", "--list").out
    refused = iseparate("reproduce", "tyo", "--list")
    assert (refused.status, "did you mean toy?" in refused.sentence) == (2, True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "reproduce takes a row of the literature's tables"),
        (("toy",), "as in `iseparate reproduce toy --data musdb18hq:PATH`"),
        (("tyo", "--data", "musdb18hq:."), "did you mean toy?"),
        (("lost", "--data", "musdb18hq:."), "cannot be reproduced: its authors released no weights; iseparate.build"),
        (("toy", "--data", "musdb18hq:gone"), "gone does not exist"),
        (("toy", "--data", "musdb81:."), "there is no kind of data set called 'musdb81'"),
        (("toy", "--data", "musdb18hq:.", "--limit", "0"), "limit"),
    ],
)
def test_wrong_words(iseparate, here, words, expected):
    outcome = iseparate("reproduce", *words)
    assert outcome.status == 2
    assert expected in outcome.sentence
    assert left_behind(here) == []
