"""A training that was killed goes on as if it had not been: bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_training import assert_same, figures, kill_me, killed, recipe, train, what_decides, write_songs

from iseparate.errors import TrainingError, UsageError
from iseparate.train.checkpoint import read_checkpoint

ALL_AT_ONCE = (
    "loop.epochs=3",
    "loop.batch_size=4",
    "loop.averages=[{decay: 0.9}, {decay: 0.5, every: epoch}]",
    "data.batch_augment=[{name: shift, max_seconds: 0.01}, {name: remix, group: 2}]",
    "schedule={name: cosine, steps: 9, warmup_steps: 3}",
)


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    return write_songs(tmp_path_factory.mktemp("songs"))


class After:
    """True, or death, at the n-th batch."""

    def __init__(self, batches: int, then=lambda: True):
        self.left, self._then = batches, then

    def __call__(self) -> bool:
        self.left -= 1
        return self._then() if self.left <= 0 else False


def compare(one: Path, other: Path) -> None:
    assert_same(what_decides(one / "last.ckpt"), what_decides(other / "last.ckpt"))
    assert figures(one) == figures(other)
    assert [p.name for p in sorted(one.glob("*.ckpt"))] == [p.name for p in sorted(other.glob("*.ckpt"))]
    for best in one.glob("best-*.ckpt"):
        assert_same(what_decides(best), what_decides(other / best.name))


@pytest.mark.parametrize(
    ("overrides", "batch"),
    [
        pytest.param(["loop.epochs=3"], 10, id="within an epoch"),
        pytest.param(["loop.epochs=3"], 7, id="at the start of an epoch"),
        pytest.param(ALL_AT_ONCE, 5, id="averages, remix, cosine"),
        pytest.param([*ALL_AT_ONCE, "loop.accumulate_batches=2", "loop.batch_size=2"], 5, id="accumulated"),
        pytest.param(
            [
                "loop.epochs=5",
                "schedule={name: plateau, factor: 0.5, patience_epochs: 0, cooldown_epochs: 0}",
                "validation.every_epochs=2",
                "validation.keep_best=2",
                "optimizer={name: sgd, lr: 0.3, momentum: 0.9}",
            ],
            21,
            id="plateau",
        ),
    ],
)
def test_a_killed_training_goes_on_on_the_same_trajectory(overrides, batch, songs, tmp_path):
    plan = recipe(*overrides)
    train(plan, songs, tmp_path / "whole")
    killed(lambda: train(plan, songs, tmp_path / "cut", save_minutes=0, stop=After(batch, kill_me)))
    assert read_checkpoint(tmp_path / "cut" / "last.ckpt")["global_step"] > 0
    train(plan, songs, tmp_path / "cut", resume=True)
    compare(tmp_path / "whole", tmp_path / "cut")


def test_what_was_seen_once_is_not_drawn_again(songs, tmp_path):
    """The comparison above can fail: another seed is another trajectory."""
    train(recipe(), songs, tmp_path / "one")
    train(recipe("loop.seed=1"), songs, tmp_path / "other")
    with pytest.raises(AssertionError):
        compare(tmp_path / "one", tmp_path / "other")


def test_killed_while_it_saves(songs, tmp_path, monkeypatch):
    plan = recipe()
    train(plan, songs, tmp_path / "whole")
    save, saves = torch.save, []

    def half(content, file):
        saves.append(None)
        if len(saves) < 3:
            save(content, file)
        else:
            file.write(b"half a checkpoint")
            file.flush()
            kill_me()

    monkeypatch.setattr(torch, "save", half)
    killed(lambda: train(plan, songs, tmp_path / "cut", save_minutes=0))
    monkeypatch.undo()
    assert (tmp_path / "cut" / ".last.ckpt.part").exists()
    train(plan, songs, tmp_path / "cut", resume=True)
    compare(tmp_path / "whole", tmp_path / "cut")
    assert not list((tmp_path / "cut").glob("*.part"))


def test_with_workers(songs, tmp_path):
    plan = recipe()
    train(plan, songs, tmp_path / "whole")
    killed(lambda: train(plan, songs, tmp_path / "cut", workers=2, save_minutes=0, stop=After(5, kill_me)))
    train(plan, songs, tmp_path / "cut", workers=1, resume=True)
    compare(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("batch", [3, 6, 7])
def test_stopped_by_its_user(batch, songs, tmp_path):
    plan = recipe()
    whole = train(plan, songs, tmp_path / "whole")
    stopped = train(plan, songs, tmp_path / "cut", stop=After(batch))
    assert stopped.stopped
    assert stopped.steps == batch
    assert not whole.stopped
    result = train(plan, songs, tmp_path / "cut", resume=True)
    assert (result.epochs, result.steps, result.best.name) == (whole.epochs, whole.steps, whole.best.name)
    compare(tmp_path / "whole", tmp_path / "cut")


def test_more_epochs_than_before(songs, tmp_path):
    train(recipe("loop.epochs=3"), songs, tmp_path / "whole")
    train(recipe(), songs, tmp_path / "cut")
    again = train(recipe(), songs, tmp_path / "cut", resume=True)
    assert (again.epochs, again.steps) == (2, 12)
    assert len(again.history) == 2
    train(recipe("loop.epochs=3"), songs, tmp_path / "cut", resume=True)
    compare(tmp_path / "whole", tmp_path / "cut")


def test_more_steps_than_before(songs, tmp_path):
    train(recipe("loop.epochs=null", "loop.max_steps=15"), songs, tmp_path / "whole")
    first = train(recipe("loop.epochs=null", "loop.max_steps=8"), songs, tmp_path / "cut")
    assert (first.epochs, first.steps, len(first.history)) == (1, 8, 1)
    last = train(recipe("loop.epochs=null", "loop.max_steps=15"), songs, tmp_path / "cut", resume=True)
    assert (last.epochs, last.steps, len(last.history)) == (2, 15, 2)
    compare(tmp_path / "whole", tmp_path / "cut")


@pytest.fixture
def begun(songs, tmp_path) -> Path:
    train(recipe("loop.epochs=1"), songs, tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("optimizer.lr=0.5", "has optimizer.lr 0.01, and the recipe now 0.5"),
        ("loop.seed=3", "has loop.seed 0, and the recipe now 3"),
        ("data.augment=[{name: gain, low: 0.5}]", "has data.augment "),
    ],
)
def test_another_recipe_is_refused(change, words, begun, songs):
    with pytest.raises(UsageError) as refusal:
        train(recipe(change), songs, begun, resume=True)
    assert words in str(refusal.value)
    assert "choose another -o" in str(refusal.value)


def test_words_about_a_recipe_may_change(begun, songs):
    assert train(recipe("title=another", "loop.epochs=2"), songs, begun, resume=True).epochs == 2


def test_other_data_are_refused(begun, songs, tmp_path):
    def refusal(data: Path) -> str:
        with pytest.raises(UsageError) as raised:
            train(recipe(), data, begun, resume=True)
        return str(raised.value)

    assert "song 3 is missing" in refusal(write_songs(tmp_path / "fewer", count=3))
    longer = write_songs(tmp_path / "longer", seconds=0.6)
    assert "song 0 has another drums" in refusal(longer)
    (begun / "data.json").write_text("{}")
    assert "manifest" in refusal(songs)


def test_a_folder_is_not_written_over(begun, songs):
    with pytest.raises(UsageError, match="holds a training already; go on with it by --resume"):
        train(recipe(), songs, begun)


def test_nothing_to_go_on_from(songs, tmp_path):
    with pytest.raises(UsageError, match=r"holds no last\.ckpt to go on from"):
        train(recipe(), songs, tmp_path / "nothing", resume=True)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", "foreign"])
def test_a_foreign_checkpoint_is_refused(content, songs, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    if content == "foreign":
        torch.save({"state_dict": {}}, out / "last.ckpt")
    else:
        (out / "last.ckpt").write_bytes(content)
    with pytest.raises(TrainingError, match=r"last\.ckpt is not a checkpoint of `iseparate train`"):
        train(recipe(), songs, out, resume=True)


def test_a_checkpoint_runs_no_code(songs, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.write_text, (tmp_path / "boom", "boom"))

    out = tmp_path / "out"
    out.mkdir()
    torch.save({"iseparate": {"format": 1}, "bomb": Bomb()}, out / "last.ckpt")
    with pytest.raises(TrainingError):
        train(recipe(), songs, out, resume=True)
    assert not (tmp_path / "boom").exists()
