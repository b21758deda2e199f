"""`iseparate models export` of a training's checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from stage import left_behind, write_wav

from iseparate.train import fit
from iseparate.train.recipe import parse_recipe

RECIPE = """
name: small
title: small
source: ours
model: {arch: spleeter, config: {stems: [vocals, drums], filters: [2, 3], segment_frames: 8, frequency_bins: 64,
  frame_samples: 256, hop_samples: 64}}
data: {excerpt_seconds: 0.1}
loss: {name: l1}
optimizer: {name: adam, lr: 1e-3}
loop: {epochs: 1, batch_size: 1}
validation: {metric: null}
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    root = tmp_path_factory.mktemp("export")
    for number in range(2):
        folder = root / "songs" / f"song {number}"
        folder.mkdir(parents=True)
        for seed, stem in enumerate(("vocals", "drums")):
            sound = np.random.default_rng([number, seed]).normal(0, 0.1, (44100, 2))
            soundfile.write(folder / f"{stem}.wav", sound, 44100)
    return fit(parse_recipe(RECIPE, "small.yaml"), root / "songs", root / "out", device="cpu", workers=0).last


def test_weights_and_card_that_separate_a_song(iseparate, checkpoint, here, monkeypatch):
    outcome = iseparate("models", "export", checkpoint, "-o", "mine.safetensors")
    assert outcome.status == 0
    assert outcome.out.splitlines() == ["✓ mine.safetensors", "✓ mine.toml"]
    assert "give --licence before you publish it" in outcome.err
    assert "not judged on whole songs" in outcome.err
    assert left_behind(here) == ["mine.safetensors", "mine.toml"]
    write_wav(here / "song.wav")
    assert iseparate("separate", "song.wav", "-n", "mine.safetensors", "-o", "by-file").status == 0
    monkeypatch.setenv("ISEPARATE_CARDS", str(here))
    assert iseparate("separate", "song.wav", "-n", "mine", "-o", "by-id").status == 0
    by_file, by_id = (next((here / place).rglob("vocals.wav")) for place in ("by-file", "by-id"))
    assert by_file.read_bytes() == by_id.read_bytes()
    info = iseparate("models", "info", "mine", "--json").json
    assert info["weights_licence"] == "not stated"


def test_what_the_owner_says_is_on_the_card_and_the_page(iseparate, checkpoint, here):
    words = ["--title", "Mine", "--licence", "CC0-1.0", "--commercial-use", "--training-data", "Noise.", "--readme"]
    source = ["--source", "hf:me/mine/mine.safetensors", "--average", "none"]
    outcome = iseparate("models", "export", checkpoint, "-o", "mine.safetensors", *words, *source)
    assert outcome.status == 0
    assert "licence" not in outcome.err
    card, page = (here / "mine.toml").read_text(), (here / "README.md").read_text()
    for said in ('title = "Mine"', '"CC0-1.0"', "commercial_use = true", '"Noise."', '"hf:me/mine/mine.safetensors"'):
        assert said in card, said
    assert "# Mine\n" in page
    again = iseparate("models", "export", checkpoint, "-o", "other.safetensors", "--readme")
    assert again.status == 2
    assert "README.md is there already" in again.sentence
    assert (here / "README.md").read_text() == page
    assert not (here / "other.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-o", "My Model.safetensors"], "names the model 'My Model'"),
        (["-o", "x.safetensors", "--average", "best"], "no average 'best'"),
        (["-o", "x.safetensors", "--source", "ftp://x"], "not a source"),
        (["-o", "x.pt"], "must end in .safetensors"),
    ],
)
def test_wrong_words(iseparate, checkpoint, here, words, expected):
    outcome = iseparate("models", "export", checkpoint, *words)
    assert outcome.status == 2
    assert expected in outcome.sentence
    assert left_behind(here) == []


def test_a_card_is_made_for_a_training_only(iseparate, tiny, here):
    outcome = iseparate("models", "export", tiny, "-o", "x.safetensors", "--licence", "MIT")
    assert outcome.status == 2
    assert "no checkpoint of a training" in outcome.sentence
    assert left_behind(here) == []


@pytest.mark.parametrize("name", ["none.ckpt", "x" * 5000 + ".ckpt"])
def test_a_checkpoint_that_is_not_there(iseparate, here, name):
    outcome = iseparate("models", "export", name, "-o", "x.safetensors")
    assert outcome.status == 2
    assert "there is no file" in outcome.sentence
