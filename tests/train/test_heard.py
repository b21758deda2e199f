"""What the network hears beside what it is trained for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from small_training import RATE, Recipe, recipe, train, write_songs

from iseparate.data.open import Dataset, open_dataset
from iseparate.errors import UsageError
from iseparate.models._base import SeparationModel
from iseparate.train.examples import as_heard, excerpts_of, heard_stems
from iseparate.train.judge import baseline
from iseparate.train.recipe import network_config

STILL = ("data.mix_songs=0", "data.augment=[]")
LEVELS = {"drums": 0.5, "vocals": 0.25, "residue": 0.125, "choir": 0.0625}
"""Stems that are constants, so any sum of them tells what it is made of."""


@pytest.fixture
def songs(tmp_path) -> Path:
    for number in range(3):
        folder = tmp_path / "songs" / f"song {number}"
        folder.mkdir(parents=True)
        for stem, level in LEVELS.items():
            soundfile.write(folder / f"{stem}.wav", np.full((RATE // 2, 2), level), RATE, subtype="FLOAT")
        soundfile.write(folder / "mixture.wav", np.full((RATE // 2, 2), 0.9), RATE, subtype="FLOAT")
    return tmp_path / "songs"


def network_of(plan: Recipe) -> SeparationModel:
    arch, config = network_config(plan)
    model = arch.model(config)
    assert isinstance(model, SeparationModel)
    return model


def first_example(plan: Recipe, data: Dataset) -> tuple[Sequence[str], torch.Tensor]:
    network = network_of(plan)
    heard = heard_stems(data.stems, data.spec, plan, network)
    example = excerpts_of(plan, as_heard(data.tracks, plan, heard), network, heard, True)[0, 0]
    assert example.mixture is None
    return heard, example.stems[:, 0, 0]


@pytest.mark.parametrize(
    ("also", "heard", "level"),
    [
        ("null", {"drums", "vocals", "residue", "choir"}, 0.9375),
        ("[residue]", {"vocals", "residue"}, 0.375),
        ("[residue, drums]", {"drums", "vocals", "residue"}, 0.875),
        ("[]", {"vocals"}, 0.25),
    ],
)
def test_the_mixture_is_what_is_trained_and_what_is_also_heard(also, heard, level, songs):
    found, stems = first_example(recipe(f"data.also_heard={also}", *STILL), open_dataset(songs))
    assert set(found) == heard
    assert stems.tolist() == [LEVELS[stem] for stem in found]
    assert stems.sum() == level


def test_what_is_only_heard_is_no_target(songs, tmp_path, monkeypatch):
    plan = recipe("data.also_heard=[residue]", *STILL, "loop.epochs=1")
    kind, heard = type(network_of(plan)), []
    loss = kind.training_loss

    def spied(network, mix, stems, criterion):
        heard.append((mix.unique().tolist(), stems.shape[1], stems.unique().tolist()))
        return loss(network, mix, stems, criterion)

    monkeypatch.setattr(kind, "training_loss", spied)
    result = train(plan, songs, tmp_path / "out")
    # the last excerpt of a validation song reaches beyond its end
    assert [0.375] in [mix for mix, _, _ in heard]
    assert all(set(mix) <= {0.0, 0.375} and set(stems) <= {0.0, 0.25} for mix, _, stems in heard)
    assert {count for _, count, _ in heard} == {1}
    assert result.best is not None


def test_whole_songs_are_judged_by_the_same_mixture(songs):
    plan = recipe("data.also_heard=[residue]")
    network, data = network_of(plan), open_dataset(songs)
    tracks = as_heard(data.tracks, plan, heard_stems(data.stems, data.spec, plan, network))
    mixtures = []

    def score(references, estimates, mix, sample_rate):
        mixtures.append(float(mix[0, 0]))
        return {"vocals": float(references["vocals"][0, 0])}

    assert baseline(network, tracks, score) == {"vocals": 0.25}
    assert mixtures == [0.375] * 3


def test_without_a_word_of_it_the_songs_are_left_as_they_are(songs):
    data, plan = open_dataset(songs), recipe("data.own_mixture=true", *STILL)
    network = network_of(plan)
    heard = heard_stems(data.stems, data.spec, plan, network)
    assert as_heard(data.tracks, plan, heard) == list(data.tracks)
    example = excerpts_of(plan, data.tracks, network, heard, True)[0, 0]
    assert float(example.mixture[0, 0]) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("also", "words"),
    [
        ("[noise]", r"names noise, which folder:.* has not: its stems are choir, drums, residue, vocals"),
        ("[vocals]", r"names vocals, which is part of what the network is trained for \(vocals\)"),
    ],
)
def test_what_cannot_be_heard_is_refused(also, words, songs, tmp_path):
    with pytest.raises(UsageError, match=words):
        train(recipe(f"data.also_heard={also}", *STILL), songs, tmp_path / "out")


@pytest.mark.parametrize("mix_songs", [0, 1])
def test_a_song_without_it_is_named(mix_songs, songs, tmp_path):
    (songs / "song 1" / "residue.wav").unlink()
    plan = recipe("data.also_heard=[residue]", "data.augment=[]", f"data.mix_songs={mix_songs}")
    with pytest.raises(UsageError, match=r"song 1 has no residue, of which mixtures are made \(data\.also_heard\)"):
        train(plan, songs, tmp_path / "out")


def test_a_song_s_own_mixture_is_heard_as_it_is():
    with pytest.raises(UsageError, match="so also_heard has no say in it"):
        recipe("data.own_mixture=true", "data.also_heard=[residue]", *STILL)


def test_accompaniment_is_not_taken_apart(songs):
    plan, data = recipe("data.also_heard=[residue]", "model.config.targets=[accompaniment]"), open_dataset(songs)
    with pytest.raises(UsageError, match=r"residue, which is part of .* \(accompaniment\)"):
        heard_stems(data.stems, data.spec, plan, network_of(plan))


def test_silence_in_it_draws_nothing_anew(tmp_path):
    """A residue may be digital silence throughout: only what is trained has to be there."""
    songs = write_songs(tmp_path / "songs")
    for number in range(4):
        soundfile.write(songs / f"song {number}" / "residue.wav", np.zeros((RATE // 2, 2)), RATE, subtype="FLOAT")
    plan = recipe("data.also_heard=[residue]", *STILL, "data.silence={keep: 0.0}")
    data = open_dataset(songs)
    network = network_of(plan)
    heard = heard_stems(data.stems, data.spec, plan, network)
    excerpts = excerpts_of(plan, as_heard(data.tracks, plan, heard), network, heard, True)
    undisturbed = replace(excerpts, silence=None)
    assert all(torch.equal(excerpts[0, i].stems, undisturbed[0, i].stems) for i in range(len(excerpts)))
