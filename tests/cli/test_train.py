"""`iseparate train` as a user meets it."""

from __future__ import annotations

import json
import re
import signal
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
import torch

from iseparate.cli.train import as_typed, separate_live
from iseparate.engine.separator import Separator
from iseparate.models._registry import architecture
from iseparate.train.checkpoint import read_checkpoint

RATE = 8_000
RECIPE = """
name: small
title: A small one
source: ours
model:
  arch: uhl
  config:
    {targets: [vocals], residual: null, wiener_iterations: 0, frame_samples: 64, hop_samples: 32, sample_rate: 8000,
     blend: [feed_forward], blend_weights: [1.0], feed_forward_units: 8, context_frames: 1}
data: {excerpt_seconds: 0.1, excerpts_per_song: 4}
loss: {name: mse, domain: magnitude}
optimizer: {name: adam, lr: 1e-2}
loop: {epochs: 2, batch_size: 2}
validation: {metric: usdr}
"""


@pytest.fixture
def songs(here) -> Path:
    root, rng = here / "songs", np.random.default_rng(0)
    for number in range(4):
        (root / f"song {number}").mkdir(parents=True)
        for stem in ("drums", "vocals"):
            sound = 0.1 * rng.standard_normal((RATE, 2))
            soundfile.write(root / f"song {number}" / f"{stem}.wav", sound, RATE, subtype="FLOAT")
    return root


@pytest.fixture
def recipe(here) -> Path:
    path = here / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def train(iseparate, songs, recipe):
    return lambda *words: iseparate("train", recipe, "--data", songs, "--workers", "0", "-d", "cpu", *words)


def test_from_nothing_to_a_scored_model(train, here):
    outcome = train()
    assert outcome.status == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0] == "✓ trained/small: 2 epochs, 12 steps of small"
    assert lines[1].startswith("  loss fell from ")
    figure = r"-?\d+\.\d\d dB"
    assert any(re.fullmatch(f"  usdr of vocals: {figure}, of the mixture itself {figure}", line) for line in lines)
    (best,) = (here / "trained" / "small").glob("best-*.ckpt")
    assert f"  best checkpoint: trained/small/{best.name}" in lines
    assert lines[-1] == f"  next: iseparate models export trained/small/{best.name} -o small.safetensors"
    assert "note: the data has no songs for validation, so 1 of 4 are held out (song 3)" in outcome.err
    scores = read_checkpoint(best)["iseparate"]
    assert scores["scores"].keys() >= {"valid/score/vocals", "valid/loss", "train/loss"}
    assert scores["baseline"]["vocals"] == pytest.approx(0.0, abs=1.0)  # two stems as loud as each other


def test_once_more_is_refused_and_resume_goes_on(train):
    assert train().status == 0
    again = train()
    assert (again.status, again.sentence.endswith("go on with it by --resume, or choose another -o")) == (2, True)
    longer = train("--resume", "--set", "loop.epochs=3")
    assert longer.status == 0
    assert "3 epochs, 18 steps" in longer.out
    other = train("--resume", "--set", "optimizer.lr=1")
    assert other.status == 2
    assert "has optimizer.lr 0.01, and the recipe now 1" in other.sentence


def test_another_folder_and_other_values(train, here):
    assert train("-o", "elsewhere", "--set", "loop.epochs=1", "--set", "optimizer.lr=1e-3").status == 0
    text = (here / "elsewhere" / "recipe.yaml").read_text()
    assert "epochs: 1" in text
    assert "lr: 0.001" in text


def test_training_on_with_what_was_trained(train, here):
    assert train().status == 0
    more = train("-o", "more", "--start-from", "trained/small/last.ckpt", "--set", "loop.epochs=1")
    assert more.status == 0, more.err
    refused = train("-o", "none", "--start-from", "no.ckpt")
    assert refused.status == 2
    assert "there is no file no.ckpt to train on from" in refused.err
    folder = train("-o", "none", "--start-from", "trained/small")
    assert folder.status == 2
    assert "trained/small is a folder, and training on takes a file; name a checkpoint, such as" in folder.err
    assert not (here / "none").exists()


def test_a_dry_run_leaves_nothing(train, here):
    before = {path.name for path in here.iterdir()}
    outcome = train("--dry-run", "--set", "loop.batch_size=3")
    assert outcome.status == 0
    assert "batch_size: 3" in outcome.out
    assert "would train vocals" in outcome.err
    assert "12 excerpts or 4 steps an epoch, for 2 epochs; 1 song is for validation" in outcome.err
    assert {path.name for path in here.iterdir()} == before


def test_what_a_dry_run_prints_is_a_recipe(train, iseparate, here):
    (here / "again.yaml").write_text(train("--dry-run").out)
    assert iseparate("train", "again.yaml", "--data", "songs", "--dry-run").status == 0


def test_the_recipes_there_are(iseparate):
    outcome = iseparate("train", "--list")
    assert outcome.status == 0
    assert any(line.split()[:2] == ["umx-vocals", "Open-Unmix,"] for line in outcome.out.splitlines())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "name one recipe"),
        (["umx-vocal"], "there is no recipe 'umx-vocal': did you mean umx-vocals"),
        (["small.yaml", "--from-iseparate", "x.yaml"], "name one recipe"),
        (["small.yaml", "--set", "loop.epoch=3"], "did you mean epochs?"),
        (["small.yaml", "--workers", "-1"], "--workers is 0 or more; got -1"),
        (["small.yaml", "--data", "nothing:here"], "there is no kind of data set called 'nothing'"),
        (["small.yaml", "--data", "songs", "-d", "tpu"], "there is no device 'tpu'"),
        (["small.yaml", "--data", "songs", "--set", "validation.metric=sdrr"], "no metric is called 'sdrr'"),
        (["small.yaml", "--data", "songs", "--resume"], "holds no last.ckpt to go on from"),
        (["small.yaml", "--data", "songs", "--set", "loop.batch_size=100"], "does not fill one batch of 100"),
    ],
)
def test_wrong_words(words, sentence, iseparate, songs, recipe):
    outcome = iseparate("train", *words)
    assert outcome.status == 2
    assert sentence in next(line for line in outcome.err.splitlines() if line.startswith("error: "))
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ({}, "iseparate train umx --data synthetic"),
        ({"data": "synthetic:0.5@7"}, "iseparate train umx --data synthetic:0.5@7"),
        ({"data": "folder:HERE"}, "iseparate train umx --data folder:PATH"),
        ({"data": "HERE"}, "iseparate train umx --data PATH"),
        ({"recipe": "HERE/mine.yaml"}, "iseparate train mine.yaml --data synthetic"),
        (
            {"overrides": ["optimizer.lr=1e-3", "model.config.targets=[bass, drums]"]},
            "iseparate train umx --data synthetic --set optimizer.lr=1e-3 --set 'model.config.targets=[bass, drums]'",
        ),
        ({"start_from": "HERE/best-0001.ckpt"}, "iseparate train umx --data synthetic --start-from best-0001.ckpt"),
        (
            {"recipe": None, "from_iseparate": "HERE/vocals.yaml"},
            "iseparate train --from-iseparate vocals.yaml --data synthetic",
        ),
    ],
)
def test_a_checkpoint_is_told_what_was_typed_and_no_paths(typed, kept, here):
    plain: dict[str, Any] = {
        "recipe": "umx",
        "from_iseparate": None,
        "data": "synthetic",
        "overrides": (),
        "start_from": None,
    }
    for name, value in typed.items():
        said = value.replace("HERE", str(here)) if isinstance(value, str) else value
        plain[name] = Path(said) if name in ("from_iseparate", "start_from") else said
    assert as_typed(**plain) == kept


@pytest.mark.parametrize(
    ("world", "local", "start"),
    [(2, 2, "torchrun --nproc-per-node=2 -m iseparate"), (8, 4, "torchrun --nnodes=2 --nproc-per-node=4 -m iseparate")],
)
def test_processes_that_train_together_are_typed_too(world, local, start, monkeypatch):
    told = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": world, "RANK": 0, "LOCAL_WORLD_SIZE": local}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))
    assert as_typed("umx", None, "synthetic", (), None) == f"{start} train umx --data synthetic"


def test_what_was_typed_reaches_the_card(train, iseparate, here):
    assert train("--set", "loop.epochs=1").status == 0
    exported = iseparate("models", "export", "trained/small/last.ckpt", "-o", "mine.safetensors")
    assert exported.status == 0, exported.err
    card = tomllib.loads((here / "mine.toml").read_text())
    (measured,) = card["measured_scores"]
    assert measured["command"] == "iseparate train small.yaml --data PATH --set loop.epochs=1"


def test_the_synthetic_band_is_rendered_once(iseparate, recipe, here):
    recipe.write_text(RECIPE.replace("sample_rate: 8000", "sample_rate: 44100"))
    words = ("train", recipe, "--data", "synthetic:0.01@3", "--dry-run")
    first = iseparate(*words)
    assert first.status == 0, first.err
    assert "0.01 hours of it, seed 3" in first.err
    rendered = {path: path.stat().st_mtime_ns for path in (here.parent / "cache").rglob("*.flac")}
    assert rendered
    assert iseparate(*words).status == 0
    assert {path: path.stat().st_mtime_ns for path in (here.parent / "cache").rglob("*.flac")} == rendered


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "trained/small holds a training already"),
        (("--resume", "--set", "optimizer.lr=1"), "has optimizer.lr 0.01, and the recipe now 1"),
        (("-o", "new", "--resume"), "holds no last.ckpt to go on from"),
        (("-o", "new", "--start-from", "trained/small"), "is a folder"),
        (("-o", "new", "-d", "tpu"), "there is no device 'tpu'"),
        (("-o", "new", "--set", "validation.metric=sdrr"), "no metric is called 'sdrr'"),
        (("-o", "new"), "iseparate data prepare synthetic:0.5@3 --sample-rate 8000"),
        (("-o", "new", "--dry-run"), "synthetic:0.5@3 has a sample rate of 44100 Hz and the network one of 8000"),
        (("-o", "new", "--set", "model.config.targets=[piano]"), "trained for piano, which the data has not"),
        (("-o", "new", "--set", "data.also_heard=[residue]"), "residue, which synthetic:0.5@3 has not"),
    ],
)
def test_nothing_is_rendered_for_a_training_that_cannot_be(words, sentence, train, iseparate, recipe, monkeypatch):
    assert train("--set", "loop.epochs=1").status == 0

    def render(*_: object) -> None:
        raise AssertionError("songs are rendered")

    monkeypatch.setattr("iseparate.data.synthetic.folder.render_folder", render)
    refused = iseparate("train", recipe, "--data", "synthetic:0.5@3", *words)
    assert refused.status == 2
    assert sentence in refused.sentence
    with pytest.raises(AssertionError, match="songs are rendered"):
        iseparate("train", recipe, "--data", "synthetic:0.5@3", "-o", "new", "--set", "model.config.sample_rate=44100")


def test_stopped_while_songs_are_rendered(iseparate, recipe, here, monkeypatch):
    def render(root, hours, settings, jobs, progress):
        progress(1, 30)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("iseparate.data.synthetic.folder.render_folder", render)
    stopped = iseparate("train", recipe, "--data", "synthetic:0.5@3", "--set", "model.config.sample_rate=44100")
    assert stopped.status == 128 + signal.SIGTERM
    *_, last = stopped.err.splitlines()
    assert last == (
        "error: stopped while songs were rendered; those that are finished are kept, the same command goes on"
    )
    assert not (here / "trained").exists()


def test_scores_are_the_engine_s(tiny):
    """What validation separates is what the command will."""
    samples = np.random.default_rng(0).standard_normal((2, 60_000)).astype(np.float32) * 0.1
    separator = Separator(tiny)
    expected = separator.separate(samples, sample_rate=44_100)
    with torch.inference_mode():
        found = separate_live(separator.ready.model, samples, 44_100)
    assert found.keys() == expected.keys()
    for stem, sound in expected.items():
        np.testing.assert_allclose(found[stem], sound, atol=1e-6)


def test_judging_changes_nothing_of_the_network():
    arch = architecture("open_unmix")
    network = arch.model(arch.config.tiny()).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modules = [type(module) for module in network.modules()]
    samples = np.random.default_rng(0).standard_normal((2, 5_000)).astype(np.float32)
    with torch.inference_mode():
        stems = separate_live(network, samples, 22_050)
    assert all(stem.shape == samples.shape for stem in stems.values())
    assert [type(module) for module in network.modules()] == modules
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(p.requires_grad for p in network.parameters())


def wait_for(path: Path, process, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.02)
    assert path.exists(), process.communicate() if process.poll() is not None else "too slow"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_saves_and_ends(name, start, songs, recipe, train, here):
    number = getattr(signal, name)
    process = start("train", recipe, "--data", songs, "--workers", "0", "--set", "loop.epochs=100000")
    wait_for(here / "trained" / "small" / "last.ckpt", process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "stopping after this step; once more, and it stops at once" in err
    assert "stopped and saved; the same command with --resume goes on (trained/small)" in err
    assert "Traceback" not in err
    steps = int(out.split(" steps")[0].split()[-1])
    content = read_checkpoint(here / "trained" / "small" / "last.ckpt")
    assert content["global_step"] == steps
    epochs = 1 + content["epoch"]
    assert train("--resume", "--set", f"loop.epochs={epochs}").status == 0


def test_a_signal_to_all_processes_saves_too(start, songs, recipe, here):
    """As a service manager stops a program: whoever reads ahead is told as well."""
    process = start("train", recipe, "--data", songs, "--workers", "2", "--set", "loop.epochs=100000")
    wait_for(here / "trained" / "small" / "last.ckpt", process)
    for child in psutil.Process(process.pid).children(recursive=True):
        child.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "stopped and saved" in err
    steps = int(out.split(" steps")[0].split()[-1])
    assert read_checkpoint(here / "trained" / "small" / "last.ckpt")["global_step"] == steps


def test_a_second_signal_ends_at_once(start, songs, recipe, here):
    process = start(
        *("train", recipe, "--data", songs, "--workers", "0", "--set", "loop.epochs=100000"),
        *("--set", "data.excerpt_seconds=30", "--set", "loop.batch_size=12"),
    )
    folder = here / "trained" / "small"
    wait_for(folder / "data.json", process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (128 + signal.SIGINT, 128 + signal.SIGTERM), err
    assert "Traceback" not in err
    assert json.loads((folder / "data.json").read_text())["kind"] == "folder"


def test_a_configuration_of_the_predecessor(iseparate, here, songs):
    lines = ["exp_dir: exp/", "model_name: D3Net", "epochs: 3"]
    (here / "vocals.yaml").write_text("\n".join(lines))
    outcome = iseparate("train", "--from-iseparate", "vocals.yaml", "--data", songs)
    assert outcome.status == 2
    assert "vocals.yaml" in outcome.sentence


def test_it_stops_after_the_hours_it_was_given_and_goes_on(train, here):
    outcome = train("--hours", "1e-9", "--set", "loop.epochs=100000")
    assert outcome.status == 0
    assert "the same command with --resume goes on" in outcome.err
    steps = read_checkpoint(here / "trained" / "small" / "last.ckpt")["global_step"]
    assert steps < 10
    assert train("--hours", "1e-9", "--resume", "--set", "loop.epochs=100000").status == 0
    assert read_checkpoint(here / "trained" / "small" / "last.ckpt")["global_step"] > steps
    assert "--hours is more than 0" in train("--hours", "0").sentence
