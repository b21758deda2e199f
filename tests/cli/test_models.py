"""`iseparate models`, with a card of the test's own whose files lie on this disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
from rich.console import Console
from stage import left_behind, write_wav

from iseparate.cli import console
from iseparate.weights.card import load_cards
from iseparate.weights.parity import measured_parity

CHECKPOINT = Path(__file__).parents[1] / "parity/goldens/spleeter-4stems-tiny/checkpoint"
CARD = """
id = "toy"
arch = "spleeter"
title = "A toy"
summary = "Four stems of nothing."
notes = "Only [for] tests."
stems = ["vocals", "drums", "bass", "other"]
sample_rate_hz = 44100
channels = 2
code_licence = "MIT"
weights_licence = "CC BY-NC 4.0"
commercial_use = false
training_data = "None at all."
status = "format proven by golden"

[settings]
mask_extension = "average"

[[files]]
name = "model.index"
source = "file:{folder}/model.index"

[[files]]
name = "model.data-00000-of-00001"
source = "file:{folder}/model.data-00000-of-00001"

[official.settings]
mask_extension = "zeros"
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    folder = tmp_path / "cards"
    folder.mkdir()
    card = folder / "toy.toml"
    card.write_text(CARD.format(folder=CHECKPOINT))
    monkeypatch.setenv("ISEPARATE_CARDS", str(folder))
    monkeypatch.delenv("ISEPARATE_OFFLINE")
    return card


def test_the_list_has_a_line_for_each_model(iseparate, toy):
    outcome = iseparate("models", "list")
    assert (outcome.status, outcome.err) == (0, "")
    lines = {line.split()[0]: line for line in outcome.out.splitlines() if line}
    assert "vocals, accompaniment" in lines["spleeter-2stems"]
    assert "to fetch *" in lines["toy"]
    assert "CC BY-NC 4.0 (not commercial)" in lines["toy"]
    assert "toy-official" in lines
    assert "format proven by golden" in lines["*"]
    names = [name for name in lines if name.startswith("spleeter")]
    assert names == sorted(names)


def test_weights_in_the_package_are_not_to_be_fetched(iseparate):
    lines = {line.split()[0]: line for line in iseparate("models", "list").out.splitlines() if line}
    assert " here, MIT" in lines["band"]
    assert " to fetch, MIT" in lines["band-4stems"]  # its first part
    assert "come with this package" in iseparate("models", "info", "band").out
    told = iseparate("models", "info", "band-4stems").out
    assert "to fetch: iseparate models pull spleeter-2stems" in told
    assert "to fetch: iseparate models pull band" not in told


def test_the_list_keeps_claims_and_measurements_apart(iseparate, toy):
    toy.write_text(toy.read_text().replace('title = "A toy"', 'title = "A toy"\nsystems = ["spleeter-4stems"]'))
    outcome = iseparate("models", "list")
    lines = {line.split()[0]: line for line in outcome.out.splitlines() if line}
    header = next(line for line in outcome.out.splitlines() if line.startswith("model "))
    measured, claimed = header.index("parity, measured"), header.index("stems, SDR claimed")
    worst = measured_parity().worst(["spleeter-4stems"])
    assert lines["toy"][measured:].startswith(f"{worst.error:.1e}")
    assert lines["toy"][claimed:].startswith("vocals, drums, bass, other")
    assert "spectrogram, 39.3 M" in lines["toy"]
    assert lines["d3net-official"][claimed:].startswith("vocals 7.14, drums 6.85, bass 5.32, other 4.82 ")
    assert lines["d3net"][claimed:].startswith("vocals, drums, bass, other ")
    # Systems that nobody published weights of, with what their papers claim.
    assert lines["uhl2"].split()[:4] == ["uhl2", "†", "vocals", "5.93?,"]
    assert "spectrogram, 42.3 M" in lines["gru-dilation-1"]
    assert "not yet checked at its source" in lines["?"]


def test_the_list_in_a_file_is_not_wider_than_it_need_be(iseparate):
    """Remarks on a licence are longer than a line, and are told by `models info`."""
    outcome = iseparate("models", "list")
    tables, _, _ = outcome.out.partition("\nSDR in dB")
    assert max(map(len, tables.splitlines())) <= 170
    assert {line.split()[-1] for line in tables.splitlines() if line.startswith("conv-tasnet")} >= {"MIT"}
    assert "README of the repository" in iseparate("models", "info", "conv-tasnet").out


def test_the_list_on_a_terminal(iseparate, monkeypatch):
    """No id is broken, and a model's official variant shares its row."""
    narrow = Console(width=80, force_terminal=True, color_system=None, highlight=False)
    monkeypatch.setattr(console, "out", narrow)
    lines = iseparate("models", "list").out.partition("\nSystems")[0].splitlines()
    assert max(map(len, lines)) == 80
    first = [line.split()[0] for line in lines if line and not line.startswith(" ")]
    models = [card.id for card in load_cards().values() if not card.variant_of]
    assert first[1 : 1 + len(models)] == sorted(models)
    official = [card.id for card in load_cards().values() if card.variant_of]
    assert sum(line.startswith("  -official ") for line in lines) == len(official)


def test_the_list_for_machines(iseparate, toy):
    rows = {row["id"]: row for row in iseparate("models", "list", "--json").json}
    assert rows["toy"]["cached"] is False
    iseparate("models", "pull", "toy")
    rows = {row["id"]: row for row in iseparate("models", "list", "--json").json}
    assert rows["toy"]["cached"] is True
    assert rows["toy-official"]["cached"] is True
    assert rows["spleeter-2stems"]["cached"] is False
    assert rows["toy"]["weights_licence"] == "CC BY-NC 4.0"
    assert (rows["toy"]["system"], rows["toy"]["measured_parity"]) == (None, None)
    assert rows["d3net"]["system"]["parameters"] == 11_227_920
    assert rows["d3net"]["system"]["paper"].startswith("Takahashi, Mitsufuji, 2020, https://")
    assert rows["d3net"]["measured_parity"]["golden"] == "sony-d3net-tiny"


def test_what_was_claimed_and_what_was_measured_stand_apart(iseparate):
    measured = iseparate("models", "info", "band-4stems").out
    line = next(line for line in measured.splitlines() if line.startswith("measured, MDN funk (validation, "))
    assert "drums " in line
    assert "python bench/band.py --songs FOLDER, 20" in line
    assert "published, " not in measured
    claimed = iseparate("models", "info", "d3net-official").out
    assert "published, MUSDB18" in claimed
    assert "measured, MUSDB18" not in claimed


def test_all_that_is_known_of_a_model(iseparate, toy):
    outcome = iseparate("models", "info", "toy")
    assert outcome.status == 0
    for fact in (
        "A toy",
        "Only [for] tests.",
        "CC BY-NC 4.0: not for commercial use",
        "None at all.",
        "models pull toy",
    ):
        assert fact in outcome.out
    assert iseparate("models", "info", "toy", "--json").json["cached"] is None
    iseparate("models", "pull", "toy")
    cached = iseparate("models", "info", "toy", "--json").json["cached"]
    assert len(cached["sha256"]) == 64
    assert cached["sha256"] in iseparate("models", "info", "toy").out


def test_all_scores_of_a_data_set_are_told(iseparate):
    told = iseparate("models", "info", "d3net-official").out
    assert "vocals 7.14" in told
    assert "vocals 7.24" in told
    assert "11,227,920 parameters" in told
    assert "tolerance 1e-05; golden sony-d3net-tiny" in told


def test_pulled_weights_are_used_offline_and_removed(iseparate, toy, here, monkeypatch):
    outcome = iseparate("models", "pull", "toy")
    assert outcome.status == 0
    assert "licence of the weights: CC BY-NC 4.0; trained on: None at all." in outcome.out
    assert "must not be used commercially" in outcome.err
    assert "trusted" in outcome.err
    monkeypatch.setenv("ISEPARATE_OFFLINE", "1")
    write_wav(here / "song.wav")
    assert iseparate("song.wav", "-n", "toy", "--stems", "bass,drums").status == 0
    assert set(left_behind(here / "separated/toy/song")) == {"bass.wav", "drums.wav", "iseparate.json"}
    assert iseparate("song.wav", "-n", "toy-official", "--two-stems", "vocals").status == 0
    manifest = json.loads((here / "separated/toy-official/song/iseparate.json").read_text())
    assert manifest["weights_sha256"] == iseparate("models", "info", "toy", "--json").json["cached"]["sha256"]
    assert "are removed" in iseparate("models", "remove", "toy-official").out
    assert "were not here" in iseparate("models", "remove", "toy").err
    assert iseparate("models", "info", "toy", "--json").json["cached"] is None


def test_damaged_files_of_a_card_are_refused(iseparate, toy, here):
    text = toy.read_text().replace('model.index"\n\n', f'model.index"\nsha256 = "{"0" * 64}"\n\n')
    toy.write_text(text)
    outcome = iseparate("models", "pull", "toy")
    assert outcome.status == 1
    assert "error: " in outcome.err
    assert "Traceback" not in outcome.err
    assert [row["cached"] for row in iseparate("models", "list", "--json").json if row["id"] == "toy"] == [False]


def test_a_broken_card_is_named(iseparate, toy):
    toy.write_text("id = ")
    outcome = iseparate("models", "list")
    assert outcome.status == 2
    assert "toy.toml is not valid TOML" in outcome.sentence


def test_an_imported_checkpoint_separates_a_song(iseparate, here):
    outcome = iseparate("models", "import", CHECKPOINT, "-o", "mine.safetensors")
    assert outcome.status == 0
    assert outcome.out.startswith("✓ mine.safetensors: spleeter")
    assert left_behind(here) == ["mine.safetensors"]
    write_wav(here / "song.wav")
    assert iseparate("song.wav", "-n", "mine.safetensors").status == 0
    stems = {path.name for path in (here / "separated/mine/song").iterdir()} - {"iseparate.json"}
    assert stems == {"vocals.wav", "drums.wav", "bass.wav", "other.wav"}
    assert soundfile.info(here / "separated/mine/song/drums.wav").frames == soundfile.info(here / "song.wav").frames
    # The official files do as well, unconverted.
    assert iseparate("song.wav", "-n", CHECKPOINT, "-o", "direct").status == 0
    (direct,) = (here / "direct").rglob("drums.wav")
    assert direct.read_bytes() == (here / "separated/mine/song/drums.wav").read_bytes()


@pytest.mark.parametrize("model", ["toy", "toy-official"])
def test_an_exported_model_separates_as_the_original(iseparate, toy, here, model):
    outcome = iseparate("models", "export", model, "-o", "copy.safetensors")
    assert outcome.status == 0
    assert outcome.out == "✓ copy.safetensors\n"
    assert left_behind(here) == ["copy.safetensors"]
    write_wav(here / "song.wav")
    for name in (model, "copy.safetensors", "toy"):
        assert iseparate("song.wav", "-n", name, "--stems", "bass").status == 0
    original, copy, plain = (
        (here / "separated" / name / "song/bass.wav").read_bytes() for name in (model, "copy", "toy")
    )
    assert copy == original
    assert (copy == plain) == (model == "toy")  # the settings went along


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        (["import", "song.wav", "-o", "x.safetensors"], 1, "song.wav"),
        (["import", "gone.pt", "-o", "x.safetensors"], 1, "gone.pt: there is no such file"),
        (["import", CHECKPOINT, "-o", "x.pt"], 2, "must end in .safetensors, got x.pt"),
        (["import", CHECKPOINT, "-o", "song.wav/x.safetensors"], 1, "song.wav/x.safetensors cannot be written"),
        (["import", CHECKPOINT, "-o", "x.safetensors", "--arch", "nonesuch"], 2, "nonesuch"),
        (["export", "spleeter-2stems", "-o", "x.safetensors"], 1, "downloads are switched off"),
        (["export", "nonesuch", "-o", "x.safetensors"], 2, "no model called 'nonesuch'"),
        (["info", "spleter-2stems"], 2, "did you mean spleeter-2stems"),
        (["pull", "spleeter-2stems", "nonesuch"], 2, "no model called 'nonesuch'"),
        (["remove", "nonesuch"], 2, "no model called 'nonesuch'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_words(iseparate, here, words, status, expected):
    write_wav(here / "song.wav")
    outcome = iseparate("models", *words)
    assert outcome.status == status
    assert expected in outcome.sentence
    assert left_behind(here) == ["song.wav"]
