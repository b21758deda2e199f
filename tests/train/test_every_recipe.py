"""Every shipped recipe takes two steps with a tiny network and its own loss, optimizer, schedule, augmentations."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from iseparate.data.open import open_dataset
from iseparate.models._registry import Architecture
from iseparate.train import fit, load_recipe, recipe_names
from iseparate.train.checkpoint import read_checkpoint
from iseparate.train.initial import load_initial
from iseparate.train.module import sums_of
from iseparate.train.recipe import Recipe, network_config, parse_recipe
from iseparate.weights.load import Weights, make_config, write_weights

EXCERPT_SECONDS = 0.15
_KEPT = ("targets", "stems", "residual", "sources")
"""Of the real Config, so that what is trained is what the recipe trains."""


def tiny_config(arch: Architecture, config: object):
    """The architecture's tiny network, for the recipe's stems."""
    tiny = arch.config.tiny()
    own, real = asdict(tiny), asdict(config)
    values = {name: real[name] for name in _KEPT if name in own and name in real}
    count = len(own.get("targets", ()))
    for name, value in own.items():  # what is told of each target has as many parts as there are targets now
        if isinstance(value, tuple) and len(value) == count and name not in values and not isinstance(value[0], str):
            values[name] = tuple(value[i % count] for i in range(len(values["targets"])))
    if "wiener_iterations" in own and len(values.get("targets", ())) + bool(values.get("residual")) < 2:
        values["wiener_iterations"] = 0
    return make_config(arch, {**own, **values}, ValueError)


def shortened(recipe: Recipe) -> tuple[Recipe, Architecture, object]:
    """The recipe for a tiny network, short excerpts and two steps; all else is the recipe's own."""
    arch, config = network_config(recipe)
    tiny = tiny_config(arch, config)
    content = recipe.model_dump(mode="json")
    content["provenance"], content["reconstruction"] = {}, True
    content["model"] = {"arch": arch.name, "config": asdict(tiny)}
    groups = [part.arguments.get("group", 4) for part in recipe.data.batch_augment if part.name == "remix"]
    batch = max([2, *groups])
    content["loop"] |= {"batch_size": batch, "max_steps": 2, "epochs": 1, "accumulate_batches": 1}
    content["data"] |= {"excerpt_seconds": EXCERPT_SECONDS, "excerpt_samples": None}
    content["data"] |= {"sampling": "random", "stride_seconds": None, "repeat": 1}
    content["data"] |= {"excerpts_per_song": batch, "excerpts_per_epoch": None}
    content["data"] |= {"subset": "train", "validation_subset": "valid"}
    content["data"]["augment"] = [_short(part) for part in content["data"]["augment"]]
    content["data"]["batch_augment"] = [_short(part) for part in content["data"]["batch_augment"]]
    content["validation"] |= {"metric": None, "choose_by": "loss", "every_epochs": 1}
    if "trim_samples" in content["loss"]:
        content["loss"]["trim_samples"] = 10
    import yaml

    return parse_recipe(yaml.safe_dump(content), recipe.name), arch, tiny


def _short(part: dict) -> dict:
    return part | ({"max_seconds": 0.01} if part["name"] == "shift" else {})


@pytest.fixture(scope="module")
def data_for(tmp_path_factory):
    """Two songs of noise with any stems, at any rate; made once for all recipes that ask for the same."""
    made: dict[tuple, Path] = {}

    def data(stems: tuple[str, ...], rate: int, channels: int):
        key = (stems, rate, channels)
        if key not in made:
            root = made[key] = tmp_path_factory.mktemp("songs")
            rng = np.random.default_rng(0)
            for number in range(3):
                (root / f"song {number}").mkdir()
                for stem in stems:
                    sound = 0.1 * rng.standard_normal((round(0.5 * rate), channels))
                    soundfile.write(root / f"song {number}" / f"{stem}.wav", sound, rate, subtype="FLOAT")
        opened = open_dataset(f"folder:{made[key]}")
        subsets = ("train", "train", "valid")
        return replace(opened, tracks=tuple(replace(t, subset=s) for t, s in zip(opened.tracks, subsets, strict=True)))

    return data


@pytest.mark.parametrize("name", recipe_names())
def test_a_smoke_epoch(name, data_for, tmp_path, monkeypatch):
    monkeypatch.setenv("ISEPARATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("iseparate.train.board.is_here", lambda: False)
    recipe, arch, config = shortened(load_recipe(name))
    torch.manual_seed(recipe.loop.seed)
    before = arch.model(config)
    spec = before.spec
    stems = tuple(dict.fromkeys([*spec.stems, *before.trained_stems]))
    start = None
    if recipe.starts_from is not None:
        assert network_config(load_recipe(recipe.starts_from)) == network_config(load_recipe(name))
        start = tmp_path / "start.safetensors"
        write_weights(start, Weights(arch.name, asdict(config), before.state_dict()))
    heard = tuple(s for s in stems if s != "accompaniment") + _rest(stems) + (recipe.data.also_heard or ())
    data = data_for(heard, spec.sample_rate, spec.channels)
    assert sums_of(before.trained_stems, data.stems)

    result = fit(recipe, data, tmp_path / "out", device="cpu", workers=0, start_from=start)

    assert result.steps == 2
    assert all(np.isfinite(float(result.history[0][figure])) for figure in ("train/loss", "valid/loss"))
    after = arch.model(config)
    load_initial(after, arch.name, result.best)
    state = read_checkpoint(result.last)["state_dict"]
    moved = [n for n, p in before.named_parameters() if p.requires_grad and not torch.equal(p, state[f"network.{n}"])]
    assert len(moved) >= 0.5 * sum(p.requires_grad for p in before.parameters()), moved


def _rest(stems: tuple[str, ...]) -> tuple[str, ...]:
    """What else is in the mixture: what an accompaniment is made of, or one stem beside a lone one."""
    if "accompaniment" in stems:
        return ("drums", "bass")
    return () if len(stems) > 1 else ("drums",) if stems != ("drums",) else ("bass",)
