"""A whole training: what it writes, and what it learns."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_training import FEED_FORWARD, assert_same, recipe, train, what_decides, write_songs

import iseparate.train
from iseparate import checkout
from iseparate.data.open import open_dataset
from iseparate.errors import BackendError, CheckpointError, TrainingError, UsageError
from iseparate.train.checkpoint import read_checkpoint
from iseparate.train.examples import split
from iseparate.train.initial import check_start, draw_weights
from iseparate.train.recipe import load_recipe, network_config, parse_recipe
from iseparate.train.run import survey
from iseparate.train.table import read_table
from iseparate.weights.load import Weights, write_weights


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    return write_songs(tmp_path_factory.mktemp("songs"))


def test_what_a_training_leaves(songs, tmp_path):
    still = ("data.mix_songs=0", "data.augment=[]")
    plan = recipe("loop.epochs=3", "loop.averages=[{decay: 0.9}]", *still, model=FEED_FORWARD)
    told, said = [], []
    result = train(plan, songs, tmp_path / "out", progress=told.append, report=said.append)

    assert (result.epochs, result.steps, result.stopped, result.baseline) == (3, 18, False, {})
    left = {path.name for path in (tmp_path / "out").iterdir()} - {"tensorboard", ".lock"}
    assert left == {"last.ckpt", result.best.name, "metrics.csv", "recipe.yaml", "data.json"}
    assert load_recipe(tmp_path / "out" / "recipe.yaml") == plan

    assert [row["epoch"] for row in result.history] == ["1", "2", "3"]
    assert [row["step"] for row in result.history] == ["6", "12", "18"]
    losses = [float(row["train/loss"]) for row in result.history]
    assert losses[-1] < losses[0]
    assert all(float(row["valid/loss"]) > 0 for row in result.history)
    best = min(result.history, key=lambda row: float(row["valid/loss"]))
    assert result.best.name == f"best-{int(best['epoch']):04}.ckpt"

    assert [p.batch for p in told if not p.judging] == [1, 2, 3, 4, 5, 6] * 3
    assert {(p.epochs, p.batches) for p in told} == {(3, 6)}
    assert [p.epoch for p in told if p.judging] == [1, 2, 3]
    assert len([s for s in said if "1 of 4 are held out (song 3)" in s]) == 1


def test_what_a_checkpoint_says(songs, tmp_path):
    plan = recipe("loop.averages=[{decay: 0.9}, {decay: 0.5, every: epoch}]", "loop.seed=7")
    result = train(plan, songs, tmp_path / "out", command="as it was typed")
    content = read_checkpoint(result.best)
    about = content["iseparate"]
    assert parse_recipe(about["recipe"], "checkpoint") == plan
    assert about["arch"] == "open_unmix"
    assert about["config"]["targets"] == ["vocals"] or about["config"]["targets"] == ("vocals",)
    assert about["averages"] == ["step-0.9", "epoch-0.5"]
    assert about["data"]["songs"] == 3
    assert about["data"]["seconds"] == pytest.approx(1.5)
    manifest = json.loads(about["data"]["manifest"])
    assert manifest == json.loads((tmp_path / "out" / "data.json").read_text())
    assert manifest["total_sha256"] == about["data"]["manifest_sha256"]
    assert about["scores"].keys() == {"train/loss", "valid/loss"}
    assert about["judged_by"] is None
    assert about["versions"]["torch"] == torch.__version__
    assert about["commit"] == checkout.commit()
    assert about["command"] == "as it was typed"
    assert (content["epoch"], content["optimizer_states"][0]["state"] != {}) == (int(result.best.stem[-4:]) - 1, True)


def test_the_same_seed_is_the_same_training(songs, tmp_path):
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        train(recipe(f"loop.seed={seed}", "loop.epochs=1"), songs, tmp_path / name)
    weights = {p.parent.name: read_checkpoint(p)["state_dict"] for p in tmp_path.glob("*/last.ckpt")}
    assert_same(weights["one"], weights["again"])
    with pytest.raises(AssertionError):
        assert_same(weights["one"], weights["other"])


def test_workers_change_nothing(songs, tmp_path):
    train(recipe(), songs, tmp_path / "none")
    train(recipe(), songs, tmp_path / "two", workers=2)
    assert_same(what_decides(tmp_path / "none" / "last.ckpt"), what_decides(tmp_path / "two" / "last.ckpt"))


def test_accumulated_batches_are_one_larger_one(songs, tmp_path):
    sizes = {"whole": ("loop.batch_size=4",), "parts": ("loop.batch_size=2", "loop.accumulate_batches=2")}
    for name, overrides in sizes.items():
        result = train(recipe(*overrides, "loop.clip_norm=0.5", model=FEED_FORWARD), songs, tmp_path / name)
        assert result.steps == 6
    whole, parts = (read_checkpoint(tmp_path / name / "last.ckpt")["state_dict"] for name in sizes)
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-6)


def test_bf16_trains(songs, tmp_path):
    result = train(recipe("loop.precision=bf16", "loop.epochs=1"), songs, tmp_path / "out")
    exact = train(recipe("loop.epochs=1"), songs, tmp_path / "exact")
    loss, exact_loss = (float(r.history[0]["train/loss"]) for r in (result, exact))
    assert loss == pytest.approx(exact_loss, rel=0.1)
    assert loss != exact_loss
    assert all(t.dtype in (torch.float32, torch.int64) for t in read_checkpoint(result.last)["state_dict"].values())


def test_early_stopping(songs, tmp_path):
    overrides = ["loop.epochs=50", "loop.early_stopping_epochs=2", "optimizer={name: sgd, lr: 1e-30}"]
    result = train(recipe(*overrides, model=FEED_FORWARD), songs, tmp_path / "out")
    assert (result.epochs, result.best.name) == (3, "best-0001.ckpt")
    again = train(recipe(*overrides, model=FEED_FORWARD), songs, tmp_path / "out", resume=True)
    assert (again.epochs, again.steps) == (3, result.steps)
    overrides[1] = "loop.early_stopping_epochs=4"
    longer = train(recipe(*overrides, model=FEED_FORWARD), songs, tmp_path / "out", resume=True)
    assert longer.epochs == 5


def test_epochs_without_validation_have_no_figures_of_it(songs, tmp_path):
    result = train(recipe("loop.epochs=4", "validation.every_epochs=2"), songs, tmp_path / "out")
    assert ["valid/loss" in row for row in result.history] == [False, True, False, True]
    assert result.best.name in ("best-0002.ckpt", "best-0004.ckpt")
    last_but_one = read_table(tmp_path / "out" / "metrics.csv")[2]
    assert "valid/loss" not in last_but_one


def test_as_many_of_the_best_as_are_asked_for(songs, tmp_path):
    result = train(recipe("loop.epochs=4", "validation.keep_best=2"), songs, tmp_path / "out")
    ranked = sorted(result.history, key=lambda row: float(row["valid/loss"]))
    expected = sorted(f"best-{int(row['epoch']):04}.ckpt" for row in ranked[:2])
    assert sorted(p.name for p in (tmp_path / "out").glob("best-*")) == expected
    assert result.best.name == f"best-{int(ranked[0]['epoch']):04}.ckpt"


def test_without_validation_the_last_is_the_result(songs, tmp_path):
    result = train(recipe("data.validation_subset=null"), songs, tmp_path / "out")
    assert result.best is None
    assert result.last.exists()
    assert not list((tmp_path / "out").glob("best-*"))
    assert read_checkpoint(result.last)["iseparate"]["data"]["songs"] == 4


def test_whole_songs_are_judged(songs, tmp_path):
    """Scores come from the functions that are passed in; the first average is what they are given."""
    heard = []

    def separate(network, mix, sample_rate):
        assert not network.training
        assert sample_rate == 8000
        heard.append(next(network.parameters()).clone())
        return {"vocals": mix * np.float32(0.5)}

    def score(references, estimates, mix, sample_rate):
        assert references.keys() == {"vocals"}
        return {"vocals": float(len(heard)) if estimates["vocals"].max() < mix.max() else -10.0}

    plan = recipe(
        "validation={metric: usdr, choose_by: score, songs: 1}", "loop.epochs=3", "loop.averages=[{decay: 0.99}]"
    )
    result = train(plan, songs, tmp_path / "out", separate=separate, score=score)
    assert result.baseline == {"vocals": -10.0}
    assert [row["valid/score"] for row in result.history] == ["1", "2", "3"]
    assert result.best.name == "best-0003.ckpt"
    content = read_checkpoint(result.best)
    assert content["iseparate"]["scores"]["valid/score/vocals"] == 3.0
    assert content["iseparate"]["judged_by"] == {"metric": "usdr", "songs": 1}
    first = next(name for name in content["state_dict"])
    average = content["callbacks"]["Averages"]["averages"][0]["tensors"][first.removeprefix("network.")]
    assert torch.equal(heard[-1], average)
    assert not torch.equal(heard[-1], content["state_dict"][first])


def test_nobody_to_judge_is_said(songs, tmp_path):
    said = []
    plan = recipe("validation={metric: usdr, choose_by: score}", "loop.epochs=1")
    result = train(plan, songs, tmp_path / "out", report=said.append)
    assert any("chosen by the loss" in sentence for sentence in said)
    assert result.best is not None


def test_input_statistics_come_first(songs, tmp_path, monkeypatch):
    monkeypatch.setenv("ISEPARATE_CACHE", str(tmp_path / "cache"))
    plan = recipe("initialise=input_statistics", "optimizer={name: sgd, lr: 1e-30}", "loop.epochs=1")
    said: list[str] = []
    result = train(plan, songs, tmp_path / "out", report=said.append)
    scale = read_checkpoint(result.last)["state_dict"]["network.networks.vocals.input_scale"]
    assert not torch.equal(scale, torch.ones_like(scale))
    assert "statistics of 3 songs are being computed; they are kept for later trainings" in said

    said.clear()
    again = train(plan, songs, tmp_path / "again", report=said.append)
    assert torch.equal(read_checkpoint(again.last)["state_dict"]["network.networks.vocals.input_scale"], scale)
    assert not any("statistics" in sentence for sentence in said)


def test_xavier_weights(songs):
    arch, config = network_config(recipe(model=FEED_FORWARD))
    network = arch.model(config)
    before = [p.clone() for p in network.parameters()]
    draw_weights(network, "default")
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    draw_weights(network, "xavier_normal")
    layers = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
    assert layers
    for layer in layers:
        deviation = (2 / sum(layer.weight.shape)) ** 0.5
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.25)
        assert layer.bias is None or not layer.bias.any()


def test_going_on_with_a_trained_network(songs, tmp_path):
    frozen = "optimizer={name: sgd, lr: 1e-30}"
    first = train(recipe("loop.averages=[{decay: 0.9}]", model=FEED_FORWARD), songs, tmp_path / "first")
    average = read_checkpoint(first.last)["callbacks"]["Averages"]["averages"][0]["tensors"]
    second = train(
        recipe(frozen, "loop.epochs=1", model=FEED_FORWARD), songs, tmp_path / "second", start_from=first.last
    )
    after = read_checkpoint(second.last)["state_dict"]
    for name, tensor in average.items():
        torch.testing.assert_close(after[f"network.{name}"], tensor)

    arch, config = network_config(recipe(model=FEED_FORWARD))
    network = arch.model(config)
    file = tmp_path / "weights.safetensors"
    write_weights(file, Weights(arch.name, dict(vars(config)), network.state_dict()))
    third = train(recipe(frozen, "loop.epochs=1", model=FEED_FORWARD), songs, tmp_path / "third", start_from=file)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(read_checkpoint(third.last)["state_dict"][f"network.{name}"], tensor)

    with pytest.raises(UsageError, match="is of the architecture uhl, and the recipe's network is open_unmix"):
        train(recipe(), songs, tmp_path / "fourth", start_from=first.last)
    wider = recipe("model.config.feed_forward_units=9", model=FEED_FORWARD)
    with pytest.raises(CheckpointError, match="does not fit the network"):
        train(wider, songs, tmp_path / "fifth", start_from=first.last)
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(TrainingError, match="is not a checkpoint"):
        train(recipe(), songs, tmp_path / "sixth", start_from=tmp_path / "text.ckpt")


def test_what_is_trained_on_is_a_file(tmp_path):
    plan, folder = recipe(), tmp_path / "folder"
    folder.mkdir()

    def refused(path: Path) -> str:
        with pytest.raises(UsageError) as refusal:
            check_start(plan, path)
        return str(refusal.value)

    words = f"{folder} is a folder, and training on takes a file; name a checkpoint, "
    assert refused(folder) == words + "or a weights file"
    (folder / "last.ckpt").touch()
    assert refused(folder) == words + f"such as {folder / 'last.ckpt'}"
    for epoch in (3, 12):
        (folder / f"best-{epoch:04}.ckpt").touch()
    assert refused(folder) == words + f"such as {folder / 'best-0012.ckpt'}"
    assert refused(tmp_path / "none.ckpt").startswith(f"there is no file {tmp_path / 'none.ckpt'}")
    check_start(plan, folder / "last.ckpt")


def test_a_recipe_that_goes_on_needs_a_start(songs, tmp_path):
    with pytest.raises(UsageError, match=r"goes on with the trained network of other; .* --start-from"):
        train(recipe("starts_from=other"), songs, tmp_path / "out")


def test_subsets_decide_who_is_trained_on_and_who_judges(songs):
    everything = open_dataset(songs)
    named = [replace(t, subset=s) for t, s in zip(everything.tracks, ("train", "valid", "test", "train"), strict=True)]

    def titles(tracks, *overrides):
        said = []
        found = split(replace(everything, tracks=tuple(tracks)), recipe(*overrides), said.append)
        return [[t.name for t in part] for part in found], said

    assert titles(named) == ([["song 0", "song 3"], ["song 1"]], [])
    assert titles(named, "data.subset=train+valid", "data.validation_subset=null") == (
        [["song 0", "song 1", "song 3"], []],
        [],
    )
    (train_songs, valid_songs), said = titles([t for t in named if t.subset != "valid"])
    assert (train_songs, valid_songs, len(said)) == (["song 0"], ["song 3"], 1)
    many = [replace(everything.tracks[0], name=f"{number:02}") for number in range(25)]
    (train_songs, valid_songs), _ = titles(many)
    assert (len(train_songs), valid_songs) == (23, ["09", "19"])
    with pytest.raises(UsageError, match="has no songs to train on"):
        titles([t for t in named if t.subset == "valid"])


def test_a_survey_trains_nothing(songs, tmp_path):
    found = survey(recipe(), songs)
    assert (found.stems, found.train_songs, found.valid_songs) == (("vocals",), 3, 1)
    assert (found.examples, found.batches) == (12, 6)
    assert found.train_seconds == pytest.approx(1.5)
    arch, config = network_config(recipe())
    assert found.parameters == sum(p.numel() for p in arch.model(config).parameters())


def test_importing_the_package_is_light():
    code = "import sys, iseparate.train; assert not {'torch', 'lightning', 'yaml'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lightning_missing_is_said_in_words(monkeypatch):
    monkeypatch.setattr(iseparate.train, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"pip install 'iseparate\[train\]'"):
        _ = iseparate.train.fit
    with pytest.raises(AttributeError):
        _ = iseparate.train.nothing
