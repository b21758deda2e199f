"""A model that is made of others, by the command line and from Python."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
import soundfile
import torch

from iseparate import Separator
from iseparate.errors import UsageError
from iseparate.models.band import Band, Config
from iseparate.models.cascade import Config as Bundle
from iseparate.weights.card import cards_of, find_card
from iseparate.weights.load import Weights, load_model, load_ready, write_weights

COMMON = """title = "t"
summary = "s"
sample_rate_hz = 44100
channels = 2
code_licence = "MIT"
weights_licence = "MIT"
commercial_use = true
training_data = "none"
status = "real weights run here"
"""

FILE = """
[[files]]
name = "x.safetensors"
source = "file:{path}"
sha256 = "{sha256}"
"""


@pytest.fixture
def cards(tiny, tmp_path, monkeypatch):
    """Two tiny models, and the cascade of them."""
    torch.manual_seed(0)
    band = tmp_path / "band.safetensors"
    config = Config.tiny()
    write_weights(band, Weights("band", dataclasses.asdict(config), Band(config).state_dict()))
    folder = tmp_path / "cards"
    folder.mkdir()
    for name, arch, path, stems in (
        ("one", "spleeter", tiny, ["vocals", "accompaniment"]),
        ("two", "band", band, ["drums", "bass", "other"]),
    ):
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        file = FILE.format(path=path, sha256=sha256)
        (folder / f"{name}.toml").write_text(f'id = "{name}"\narch = "{arch}"\nstems = {stems}\n{COMMON}{file}')
    stems = ["vocals", "drums", "bass", "other"]
    text = f'id = "both"\narch = "cascade"\nstems = {stems}\nparts = ["one", "two"]\n{COMMON}'
    (folder / "both.toml").write_text(text)
    monkeypatch.setenv("ISEPARATE_CARDS", str(folder))
    return folder


@pytest.fixture
def song(here):
    samples = 0.1 * np.random.default_rng(0).standard_normal((30_000, 2))
    soundfile.write(here / "song.wav", samples, 44100, subtype="FLOAT")
    return here / "song.wav"


def test_four_stems_that_sum_to_the_song(cards, iseparate, song, here):
    assert iseparate(song, "-n", "both", "--format", "wav", "--bit-depth", "32f").status == 0
    folder = here / "separated" / "both" / "song"
    stems = {path.stem: soundfile.read(path)[0] for path in folder.glob("*.wav")}
    assert set(stems) == {"vocals", "drums", "bass", "other"}
    np.testing.assert_allclose(sum(stems.values()), soundfile.read(song)[0], atol=1e-6)


def test_vocals_are_the_first_models(cards, song):
    whole, first = Separator("both", overlap=0.0, precision="fp32"), Separator("one")
    mix = soundfile.read(song, dtype="float32")[0].T
    alone = whole.separate(mix, 44100, stems=["vocals"])["vocals"]
    np.testing.assert_allclose(alone, whole.separate(mix, 44100)["vocals"], atol=1e-6)
    np.testing.assert_allclose(alone, first.separate(mix, 44100)["vocals"], atol=1e-6)
    pair = whole.separate(mix, 44100, two_stems="vocals")
    np.testing.assert_allclose(pair["vocals"] + pair["no_vocals"], mix, atol=1e-6)


def test_parts_that_do_not_fit_are_refused_in_a_sentence(cards, iseparate, song):
    card = cards / "both.toml"
    card.write_text(card.read_text().replace('["one", "two"]', '["two", "one"]'))
    refused = iseparate(song, "-n", "both")
    assert refused.status != 0
    assert "cascade cannot be built: a part has no stem accompaniment to hand on" in refused.sentence


def test_a_cascades_own_file_whose_parts_do_not_fit_is_refused_in_a_sentence(iseparate, song, here):
    config = {**dataclasses.asdict(Bundle.tiny()), "hands_on": ["drums"]}
    write_weights(here / "odd.safetensors", Weights("cascade", config, {"x": torch.zeros(1)}))
    refused = iseparate(song, "-n", here / "odd.safetensors")
    assert refused.status != 0
    assert "cascade cannot be built: a part has no stem drums to hand on" in refused.sentence


def test_its_weights_are_its_parts(cards, iseparate):
    rows = {row["id"]: row for row in iseparate("models", "list", "--json").json}
    assert not rows["both"]["cached"]
    assert iseparate("models", "pull", "both").status == 0
    rows = {row["id"]: row for row in iseparate("models", "list", "--json").json}
    assert all(rows[name]["cached"] for name in ("one", "two", "both"))
    shown = iseparate("models", "info", "both")
    assert "weights of one" in shown.out
    assert "one, two" in shown.out
    assert len(iseparate("models", "info", "both", "--json").json["cached"]["parts"]) == 2
    refused = iseparate("models", "remove", "both")
    assert "made of one and two" in refused.sentence
    assert [card.id for card in cards_of(find_card("both"))] == ["one", "two"]


def test_a_bundle_of_bundles_is_refused(cards):
    text = (cards / "both.toml").read_text().replace('"both"', '"more"').replace('"two"', '"both"')
    (cards / "more.toml").write_text(text)
    with pytest.raises(UsageError, match="made of parts itself"):
        load_model("more")


@pytest.mark.parametrize("neither", [True, False])
def test_a_card_has_either_files_or_parts(cards, neither):
    text = (cards / "both.toml").read_text()
    text = (
        text.replace('parts = ["one", "two"]', "parts = []")
        if neither
        else text + FILE.format(path="/x", sha256=64 * "0")
    )
    (cards / "both.toml").write_text(text)
    with pytest.raises(UsageError, match="files, or parts"):
        load_model("both")


def test_a_bundle_can_be_exported_as_one_file(cards, iseparate, song, here):
    assert iseparate("models", "export", "both", "-o", "both.safetensors").status == 0
    mix = soundfile.read(song, dtype="float32")[0].T
    ours, exported = (Separator(name).separate(mix, 44100) for name in ("both", here / "both.safetensors"))
    for stem, samples in ours.items():
        np.testing.assert_array_equal(exported[stem], samples)


def test_half_the_size(cards, iseparate, song, here, tmp_path):
    for name, words in (("whole", ()), ("half", ("--half",))):
        assert iseparate("models", "export", "two", "-o", f"{name}.safetensors", *words).status == 0
    sizes = [len((here / f"{name}.safetensors").read_bytes()) for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    mix = soundfile.read(song, dtype="float32")[0].T
    whole, half = (Separator(here / f"{name}.safetensors").separate(mix, 44100) for name in ("whole", "half"))
    np.testing.assert_allclose(half["drums"], whole["drums"], atol=1e-3)
    weights = load_ready("two").weights()
    weights.state["masks.norm.bias"] += 1e6
    with pytest.raises(UsageError, match="beyond 65504"):
        write_weights(tmp_path / "huge.safetensors", weights, half=True)
