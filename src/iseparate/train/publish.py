"""From a checkpoint of a training to what others can use: weights in our format, a card, a page for a model hub.

What is said of the model comes from the checkpoint: recipe, data, scores and where they were measured. What the
checkpoint cannot know (a title, the licence) its owner says; a licence that nobody gave is not made up. A path on the
machine that trained it is not published.
"""

from __future__ import annotations

import datetime
import hashlib
import math
import re
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from iseparate.errors import BackendError, TrainingError, UsageError
from iseparate.models._registry import architecture
from iseparate.train.recipe import Recipe, parse_recipe
from iseparate.types import ModelSpec
from iseparate.weights.card import OFFICIAL_SUFFIX, parse_card
from iseparate.weights.load import Weights, build, in_float32
from iseparate.weights.source import parse_source

PLAIN = "none"
"""In place of an average's name: the weights themselves."""
NOT_STATED = "not stated"
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Statements:
    """What the owner of a model says of it."""

    title: str | None = None
    """None: the recipe's."""
    licence: str | None = None
    """Of the weights, such as ``CC-BY-4.0``."""
    commercial_use: bool = False
    """Whether the licence allows it."""
    training_data: str | None = None
    """None: the kind of data set, and how much of it."""
    source: str | None = None
    """Where others will find the file, such as ``hf:me/my-model/vocals.safetensors``; None: where it lies now."""

    def __post_init__(self) -> None:
        for name, text in (("title", self.title), ("licence", self.licence), ("training_data", self.training_data)):
            if text is not None and not text.strip():
                raise UsageError(f"the {name.replace('_', ' ')} is empty; say something, or leave it out")
        if self.source is not None:
            parse_source(self.source)


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    spec: str
    manifest_sha256: str
    songs: int
    seconds: float = math.nan


class _Judged(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    metric: str
    songs: int


class _About(BaseModel):
    """`iseparate.train.checkpoint` tells what the fields mean."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    recipe: str
    arch: str
    config: dict[str, Any]
    data: _Data
    averages: tuple[str, ...] = ()
    scores: dict[str, float] = {}
    baseline: dict[str, float] = {}
    judged_by: _Judged | None = None
    commit: str | None = None
    versions: dict[str, str] = {}
    command: str | None = None
    machine: str | None = None
    date: datetime.date | None = None


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds of a network."""

    weights: Weights
    spec: ModelSpec
    recipe: Recipe
    steps: int
    """Of the optimizer."""
    average: str | None
    """Which moving average the weights are; None: the weights themselves."""
    scores: Mapping[str, float]
    """Of exactly these weights, by stem; empty where nobody judged them."""
    about: _About
    written: datetime.date


def is_training_checkpoint(path: Path) -> bool:
    """True for a checkpoint of `iseparate train`, of whatever version. Nothing in the file is executed."""
    try:
        if not (path.is_file() and zipfile.is_zipfile(path)):
            return False
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # whatever a damaged or foreign file makes PyTorch raise
        return False
    return isinstance(content, dict) and isinstance(content.get("iseparate"), dict)


def read_trained(path: Path, average: str | None = None) -> Trained:
    """Take a network out of a checkpoint.

    Args:
        path: such as ``trained/demo/best-0007.ckpt``.
        average: name of a moving average; None: the first one, which is what was validated, where there is any;
            `PLAIN`: the weights themselves.

    Raises:
        UsageError: it has no such average.
        TrainingError: not a checkpoint of a training.
        CheckpointError: its tensors do not fit its network, or are no numbers.
        BackendError: a package is not here that this, or the card, needs.
    """
    for package in ("lightning", "tomli_w"):
        if find_spec(package) is None:
            raise BackendError(f"a training's checkpoint needs the package {package}: pip install 'iseparate[train]'")
    from iseparate.train.average import averaged_tensors
    from iseparate.train.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(path)
    try:
        about = _About.model_validate(checkpoint["iseparate"])
        prefix = "network."
        state = {k.removeprefix(prefix): t for k, t in checkpoint["state_dict"].items() if k.startswith(prefix)}
        steps = int(checkpoint["global_step"])
        name = average or (about.averages[0] if about.averages else PLAIN)
        if name != PLAIN:
            averaged = averaged_tensors(checkpoint, name)
            if averaged is None:
                there = ", ".join([*about.averages, PLAIN])
                raise UsageError(f"{path} has no average {name!r} of its weights; there is {there}")
            state |= averaged
    except (ValidationError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise TrainingError(f"{path} is a damaged checkpoint ({type(error).__name__}); name another") from error
    recipe = parse_recipe(about.recipe, str(path))
    weights = Weights(about.arch, about.config, in_float32(state))
    model, _ = build(weights)
    # The first average is what was judged, or else the weights themselves.
    judged = name == (about.averages[0] if about.averages else PLAIN)
    return Trained(
        weights=weights,
        spec=model.spec,
        recipe=recipe,
        steps=steps,
        average=None if name == PLAIN else name,
        scores=_by_stem(about.scores, model.spec.stems) if judged and about.judged_by else {},
        about=about,
        written=datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).date(),
    )


def check_id(path: Path) -> str:
    """The id that a weights file gives its model: its name; UsageError where that cannot be one."""
    if not _ID.fullmatch(path.stem) or path.stem.endswith(OFFICIAL_SUFFIX):
        raise UsageError(
            f"{path.name} names the model {path.stem!r}; expected small letters, digits, dots and dashes, and no "
            f"{OFFICIAL_SUFFIX} at the end: choose another name with -o"
        )
    return path.stem


def make_card(trained: Trained, file: Path, statements: Statements) -> str:
    """A card in TOML for the weights of a training that lie in `file`; see `iseparate.weights.card`.

    Raises:
        UsageError: the file's name cannot be a model's id.
    """
    import tomli_w

    recipe, spec, about = trained.recipe, trained.spec, trained.about
    model_id = check_id(file)
    card: dict[str, Any] = {"id": model_id, "arch": trained.weights.arch}
    if recipe.model.system and not recipe.model.config:
        card["systems"] = [recipe.model.system]
    card |= {
        "title": statements.title or recipe.title,
        "summary": f"Separates {_listed(spec.stems)}. Trained with iseparate by the recipe {recipe.name}.",
        "notes": _notes(trained),
        "stems": list(spec.stems),
        "sample_rate_hz": spec.sample_rate,
        "channels": spec.channels,
        "code_licence": "MIT (iseparate)",
        "weights_licence": statements.licence or NOT_STATED,
        "commercial_use": statements.commercial_use,
        "training_data": statements.training_data or _data(about),
        "references": [recipe.source, architecture(trained.weights.arch).paper],
        "status": "trained with iseparate",
        "reconstruction": recipe.reconstruction,
        "files": [
            {
                "name": file.name,
                "source": statements.source or f"file:{file.resolve()}",
                "sha256": _sha256(file),
                "size_bytes": file.stat().st_size,
            }
        ],
    }
    if trained.scores:
        card["measured_scores"] = [_measured(trained)]
    text = tomli_w.dumps(card)
    parse_card(text.encode(), f"{model_id}.toml")
    return text


def make_page(trained: Trained, card: str) -> str:
    """A README for a model hub: front matter that hubs read, how to use it, scores, and the recipe."""
    facts = tomllib.loads(card)
    model_id, file = facts["id"], facts["files"][0]
    on_a_hub = not file["source"].startswith("file:")
    licence = facts["weights_licence"]
    if licence == NOT_STATED:
        front = []
    elif re.fullmatch(r"[A-Za-z0-9.-]+", licence):
        front = [f"license: {licence.lower()}"]
    else:
        front = ["license: other", f"license_name: {_quoted(licence)}"]
    lines = [
        "---",
        *front,
        "library_name: iseparate",
        f"tags: [audio, music-source-separation, {facts['arch']}]",
        "---",
        "",
        f"# {facts['title']}",
        "",
        facts["summary"],
        "",
        "```console",
        "$ pip install iseparate",
        f"$ iseparate separate song.mp3 -n {file['name']}",
        "```",
        "",
        f"`{file['name']}` is a safetensors file, SHA-256 `{file['sha256']}`.",
    ]
    if on_a_hub:
        lines += [
            f"With `{model_id}.toml` in a folder that the environment variable `ISEPARATE_CARDS` names, "
            f"`iseparate separate song.mp3 -n {model_id}` fetches it."
        ]
    for score in facts.get("measured_scores", []):
        baseline = trained.about.baseline
        lines += ["", "## Scores", "", f"{score['metric']}; {score['dataset']}.", ""]
        lines += ["| stem | measured | the mixture itself |", "| --- | ---: | ---: |"]
        lines += [
            f"| {stem} | {value:.2f} | {f'{baseline[stem]:.2f}' if stem in baseline else ''} |"
            for stem, value in score["values"].items()
        ]
        lines += ["", f"Measured by `{score['command']}` ({score['commit']}, {score['machine']}, {score['date']})."]
    lines += [
        "",
        "## Training",
        "",
        f"Data: {facts['training_data']}",
        "",
        facts["notes"],
        "",
        "The recipe, with every default written out:",
        "",
        "```yaml",
        trained.recipe.to_yaml().rstrip(),
        "```",
        "",
        "## Licence",
        "",
        f"Weights: {licence}{'' if facts['commercial_use'] else '; not for commercial use'}.",
        "",
        "Sources: " + "; ".join(facts["references"]) + ".",
        "",
    ]
    return "\n".join(lines)


def _by_stem(scores: Mapping[str, float], stems: tuple[str, ...]) -> dict[str, float]:
    """``valid/score/STEM`` by stem; a score that is no number is none."""
    values = {stem: scores.get(f"valid/score/{stem}", math.nan) for stem in stems}
    return {stem: round(value, 3) for stem, value in values.items() if math.isfinite(value)}


def _measured(trained: Trained) -> dict[str, Any]:
    """Of `iseparate.weights.card.MeasuredScore`."""
    about, recipe = trained.about, trained.recipe
    assert about.judged_by is not None
    return {
        "dataset": f"{_kind(about)}, {_songs(about.judged_by.songs)} held out for validation",
        "metric": f"{about.judged_by.metric} of whole songs as the engine separates them, mean over songs",
        "values": dict(trained.scores),
        "command": about.command or f"iseparate.train.fit({recipe.name!r}, '{_kind(about)}:PATH')",
        "machine": about.machine or "machine not recorded",
        "commit": about.commit or f"iseparate {about.versions.get('iseparate', 'of unknown version')}",
        "date": about.date or trained.written,
    }


def _notes(trained: Trained) -> str:
    about = trained.about
    weights = f"the moving average {trained.average} of the weights" if trained.average else "the weights themselves"
    made_by = ", ".join(f"{name} {about.versions[name]}" for name in ("iseparate", "torch") if name in about.versions)
    parts = [
        f"Recipe {trained.recipe.name}, seed {trained.recipe.loop.seed}, {trained.steps} steps; {weights}.",
        f"Manifest of the data: SHA-256 {about.data.manifest_sha256}.",
        f"Made by {made_by or 'iseparate'}" + (f", commit {about.commit}." if about.commit else "."),
    ]
    return " ".join(parts)


def _data(about: _About) -> str:
    lasting = f", {_duration(about.data.seconds)}" if math.isfinite(about.data.seconds) else ""
    return f"{_kind(about)}: {_songs(about.data.songs)}{lasting}."


def _duration(seconds: float) -> str:
    for unit, long in (("hours", 3600), ("minutes", 60)):
        if seconds >= long:
            return f"{seconds / long:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def _kind(about: _About) -> str:
    """Of the data set, without the path that follows it."""
    return about.data.spec.partition(":")[0] or "data"


def _songs(count: int) -> str:
    return "1 song" if count == 1 else f"{count} songs"


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _quoted(text: str) -> str:
    return "'" + " ".join(text.split()).replace("'", "''") + "'"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
