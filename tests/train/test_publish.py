"""Checkpoints of a training as models of their own: weights, card, page."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
import torch
from small_training import recipe, train, write_songs

from iseparate.errors import BackendError, CheckpointError, TrainingError, UsageError
from iseparate.train import publish
from iseparate.train.checkpoint import read_checkpoint
from iseparate.train.publish import (
    PLAIN,
    Statements,
    check_id,
    is_training_checkpoint,
    make_card,
    make_page,
    read_trained,
)
from iseparate.weights.card import parse_card
from iseparate.weights.load import load_model, load_ready, write_weights
from iseparate.weights.store import Store

OVERRIDES = ("loop.averages=[{decay: 0.5}, {decay: 0.9, every: epoch}]", "validation={metric: usdr}")


def separate(model, samples, rate):
    stems = model(torch.from_numpy(samples)[None])[0]
    return {stem: sound.numpy() for stem, sound in zip(model.spec.stems, stems, strict=True)}


def score(references, estimates, mix, rate):
    """Of the trained network 3.25 dB, of the mixture 1.5."""
    return {stem: 1.5 if estimates[stem] is mix else 3.25 for stem in references}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("publish")
    songs = write_songs(root / "songs")
    train(recipe(*OVERRIDES), f"folder:{songs}", root / "out", separate=separate, score=score)
    return root / "out"


@pytest.fixture
def checkpoint(folder):
    return folder / "last.ckpt"


def altered(checkpoint, path, change):
    content = read_checkpoint(checkpoint)
    change(content)
    torch.save(content, path)
    return path


def published(trained, path, **statements):
    write_weights(path, trained.weights)
    text = make_card(trained, path, Statements(**statements))
    (card,) = parse_card(text.encode(), f"{path.stem}.toml")
    return card, text


class TestWeights:
    def test_the_first_average_unless_told_otherwise(self, checkpoint):
        content = read_checkpoint(checkpoint)
        kept = content["callbacks"]["Averages"]["averages"]
        name = "networks.vocals.fc1.weight"
        plain = content["state_dict"][f"network.{name}"]
        first, second = (average["tensors"][name] for average in kept)
        assert not torch.equal(first, plain)
        assert torch.equal(read_trained(checkpoint).weights.state[name], first)
        assert torch.equal(read_trained(checkpoint, "epoch-0.9").weights.state[name], second)
        assert torch.equal(read_trained(checkpoint, PLAIN).weights.state[name], plain)
        assert [read_trained(checkpoint, a).average for a in (None, PLAIN)] == ["step-0.5", None]

    def test_an_average_that_is_not_there_is_named_with_those_that_are(self, checkpoint):
        with pytest.raises(UsageError, match=r"no average 'best'.*step-0.5, epoch-0.9, none"):
            read_trained(checkpoint, "best")

    def test_the_file_loads_and_separates_as_the_network_did(self, checkpoint, tmp_path):
        trained = read_trained(checkpoint)
        write_weights(tmp_path / "small.safetensors", trained.weights)
        ready = load_ready(tmp_path / "small.safetensors")
        assert ready.arch == "open_unmix"
        assert dataclasses.asdict(ready.config)["targets"] == ("vocals",)
        mix = torch.randn(1, 2, 4000)
        with torch.inference_mode():
            assert ready.model(mix).abs().max() > 0
        assert set(ready.model.state_dict()) == set(trained.weights.state)


class TestCard:
    def test_says_what_the_checkpoint_knows(self, checkpoint, tmp_path):
        card, _ = published(read_trained(checkpoint), tmp_path / "small.safetensors")
        assert (card.id, card.arch, card.stems) == ("small", "open_unmix", ("vocals",))
        assert (card.title, card.sample_rate_hz, card.channels) == ("small", 8000, 2)
        assert card.training_data == "folder: 3 songs, 1.5 seconds."
        assert "Recipe small, seed 0, 12 steps; the moving average step-0.5" in card.notes
        assert card.references[0] == "ours"
        file = card.files[0]
        assert file.sha256 == hashlib.sha256((tmp_path / "small.safetensors").read_bytes()).hexdigest()

    @pytest.mark.parametrize(
        ("seconds", "words"), [(5400.0, "1.5 hours"), (150.0, "2.5 minutes"), (3.0, "3.0 seconds"), (None, "")]
    )
    def test_how_much_there_was_to_learn_from(self, checkpoint, tmp_path, seconds, words):
        def last(content):
            content["iseparate"]["data"].pop("seconds")
            content["iseparate"]["data"] |= {} if seconds is None else {"seconds": seconds}

        card, _ = published(read_trained(altered(checkpoint, tmp_path / "a.ckpt", last)), tmp_path / "a.safetensors")
        assert card.training_data == f"folder: 3 songs{', ' if words else ''}{words}."

    def test_nothing_of_the_training_machine_is_told(self, checkpoint, folder, tmp_path):
        trained = read_trained(checkpoint)
        _, text = published(trained, tmp_path / "small.safetensors", source="hf:me/model/small.safetensors")
        assert str(folder.parent) not in text + make_page(trained, text)

    def test_scores_have_a_birthplace(self, checkpoint, tmp_path):
        card, _ = published(read_trained(checkpoint), tmp_path / "small.safetensors")
        (measured,) = card.measured_scores
        assert measured.values == {"vocals": 3.25}
        assert measured.metric.startswith("usdr")
        assert "1 song held out" in measured.dataset
        assert measured.command == "iseparate.train.fit('small', 'folder:PATH')"
        assert measured.commit

    def test_where_the_checkpoint_knows_more_it_is_told(self, checkpoint, tmp_path):
        def add(content):
            content["iseparate"] |= {"command": "iseparate train x", "machine": "a toaster", "commit": None}
            content["iseparate"] |= {"date": "2026-01-02"}

        path = altered(checkpoint, tmp_path / "more.ckpt", add)
        card, _ = published(read_trained(path), tmp_path / "small.safetensors")
        (measured,) = card.measured_scores
        assert (measured.command, measured.machine, str(measured.date)) == (
            "iseparate train x",
            "a toaster",
            "2026-01-02",
        )
        assert measured.commit.startswith("iseparate ")

    @pytest.mark.parametrize("average", ["epoch-0.9", PLAIN])
    def test_weights_that_nobody_judged_have_no_scores(self, checkpoint, tmp_path, average):
        card, _ = published(read_trained(checkpoint, average), tmp_path / "small.safetensors")
        assert card.measured_scores == ()

    def test_a_score_that_is_no_number_is_none(self, checkpoint, tmp_path):
        def spoil(content):
            content["iseparate"]["scores"]["valid/score/vocals"] = float("nan")

        path = altered(checkpoint, tmp_path / "nan.ckpt", spoil)
        assert read_trained(path).scores == {}

    def test_a_licence_is_never_made_up(self, checkpoint, tmp_path):
        card, _ = published(read_trained(checkpoint), tmp_path / "small.safetensors")
        assert (card.weights_licence, card.commercial_use) == ("not stated", False)

    def test_says_what_the_owner_says(self, checkpoint, tmp_path):
        card, _ = published(
            read_trained(checkpoint),
            tmp_path / "small.safetensors",
            title='Größe "M" \\ \U0001f3b8\x7f',
            licence="CC-BY-4.0",
            commercial_use=True,
            training_data="Songs of mine.",
            source="https://example.org/small.safetensors",
        )
        assert card.title == 'Größe "M" \\ \U0001f3b8\x7f'
        assert (card.weights_licence, card.commercial_use) == ("CC-BY-4.0", True)
        assert card.training_data == "Songs of mine."
        assert card.files[0].source == "https://example.org/small.safetensors"

    def test_makes_a_model_that_is_fetched_by_its_id(self, checkpoint, tmp_path, monkeypatch):
        home = tmp_path / "cards"
        home.mkdir()
        trained = read_trained(checkpoint)
        _, text = published(trained, home / "my-small.safetensors")
        (home / "my-small.toml").write_text(text)
        monkeypatch.setenv("ISEPARATE_CARDS", str(home))
        model = load_model("my-small", store=Store(tmp_path / "cache"))
        name = "networks.vocals.fc1.weight"
        assert torch.equal(model.state_dict()[name], trained.weights.state[name])

    def test_weights_of_another_architecture_than_the_card_says_are_refused(self, checkpoint, tmp_path, monkeypatch):
        _, text = published(read_trained(checkpoint), tmp_path / "my-small.safetensors")
        (tmp_path / "my-small.toml").write_text(text.replace('arch = "open_unmix"', 'arch = "uhl"'))
        monkeypatch.setenv("ISEPARATE_CARDS", str(tmp_path))
        with pytest.raises(CheckpointError, match="of the architecture open_unmix; expected uhl"):
            load_model("my-small", store=Store(tmp_path / "cache"))

    @pytest.mark.parametrize("name", ["My Model", "x-official", "ä"])
    def test_a_name_that_is_no_id_is_refused(self, tmp_path, name):
        with pytest.raises(UsageError, match="choose another name"):
            check_id(tmp_path / f"{name}.safetensors")

    @pytest.mark.parametrize("wrong", [{"title": " "}, {"licence": ""}, {"source": "ftp:x"}])
    def test_statements_without_sense_are_refused(self, wrong):
        with pytest.raises(UsageError):
            Statements(**wrong)


class TestPage:
    def test_is_a_page_that_hubs_read(self, checkpoint, tmp_path):
        trained = read_trained(checkpoint)
        _, card = published(
            trained, tmp_path / "small.safetensors", licence="CC-BY-4.0", source="hf:me/model/small.safetensors"
        )
        page = make_page(trained, card)
        front = page.split("---")[1]
        assert "license: cc-by-4.0" in front
        assert "iseparate separate song.mp3 -n small.safetensors" in page
        assert "ISEPARATE_CARDS" in page
        assert "| vocals | 3.25 | 1.50 |" in page
        assert "name: small" in page  # the recipe

    def test_a_licence_without_an_identifier_is_another(self, checkpoint, tmp_path):
        trained = read_trained(checkpoint)
        _, card = published(trained, tmp_path / "small.safetensors", licence="Ask Anne's band: first")
        assert "license: other\nlicense_name: 'Ask Anne''s band: first'\n" in make_page(trained, card)

    def test_without_scores_it_has_no_table(self, checkpoint, tmp_path):
        trained = read_trained(checkpoint, PLAIN)
        _, card = published(trained, tmp_path / "small.safetensors")
        page = make_page(trained, card)
        assert "## Scores" not in page
        assert "license" not in page.split("---")[1]  # nor has anybody stated one


class Evil:
    """Would run code when it is unpickled."""

    def __reduce__(self):
        return EXECUTED.append, ("code",)


EXECUTED: list[str] = []
DAMAGE = {
    "no network": lambda c: c.pop("state_dict"),
    "no recipe": lambda c: c["iseparate"].pop("recipe"),
    "data is a word": lambda c: c["iseparate"].update(data="songs"),
    "averages are a number": lambda c: c["iseparate"].update(averages=3),
    "averages without tensors": lambda c: c["callbacks"].clear(),
    "steps in words": lambda c: c.update(global_step=[1]),
}


class TestFaults:
    def test_only_a_training_has_training_checkpoints(self, checkpoint, tmp_path):
        assert is_training_checkpoint(checkpoint)
        other = tmp_path / "other.ckpt"
        torch.save({"state_dict": {}}, other)
        evil = tmp_path / "evil.ckpt"
        torch.save({"iseparate": {"format": Evil()}}, evil)
        broken = tmp_path / "broken.ckpt"
        broken.write_bytes(checkpoint.read_bytes()[:5000])
        for path in (other, evil, broken, tmp_path, tmp_path / "none", tmp_path / ("x" * 5000)):
            assert not is_training_checkpoint(path), path
        assert EXECUTED == []

    @pytest.mark.parametrize("damage", DAMAGE)
    def test_damage_is_said_in_a_sentence(self, checkpoint, tmp_path, damage):
        path = altered(checkpoint, tmp_path / "damaged.ckpt", DAMAGE[damage])
        with pytest.raises(TrainingError, match="damaged checkpoint") as caught:
            read_trained(path)
        assert "\n" not in str(caught.value)

    def test_tensors_that_are_missing_or_no_numbers_are_named(self, checkpoint, tmp_path):
        def lose(content):
            del content["state_dict"]["network.networks.vocals.bn1.running_mean"]
            content["iseparate"]["averages"] = []

        with pytest.raises(CheckpointError, match=r"bn1\.running_mean"):
            read_trained(altered(checkpoint, tmp_path / "lost.ckpt", lose))

        def spoil(content):
            content["state_dict"]["network.networks.vocals.fc1.weight"].fill_(torch.nan)

        with pytest.raises(CheckpointError, match=r"fc1\.weight holds NaN"):
            read_trained(altered(checkpoint, tmp_path / "nan.ckpt", spoil), PLAIN)

    def test_a_package_that_is_missing_is_named(self, checkpoint, monkeypatch):
        monkeypatch.setattr(publish, "find_spec", lambda name: None if name == "tomli_w" else name)
        with pytest.raises(BackendError, match=r"tomli_w: pip install 'iseparate\[train\]'"):
            read_trained(checkpoint)
