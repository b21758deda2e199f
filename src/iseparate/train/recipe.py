"""Recipes: how a system is trained, in YAML that is checked wholly before anything starts.

A recipe names its parts (a network, a loss, an optimizer, augmentations) and gives their arguments. What may be named
stands in the tables of the rooms that own the parts, so a new part needs no word here. Every fault is one sentence with
file, line and the nearest word that would have been right.

Shipped recipes lie in ``iseparate/recipes``; a path to a file of one's own does as well. ``extends: NAME`` takes all of
another recipe but what is said anew: tables are joined key by key, all else is replaced, and so is a part of another
name. What such a recipe or ``--set`` changes counts as `ours` unless its own ``provenance`` says otherwise.
"""

from __future__ import annotations

import difflib
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from iseparate.errors import BackendError, UnknownModelError, UsageError

if TYPE_CHECKING:
    from iseparate.models._registry import Architecture

MAX_BYTES = 1 << 20
"""A recipe is a page; a larger file is something else."""
_DEEPEST = 12
"""Nested tables and lists; recipes that extend each other."""

# Strict: True is no number, "3" is none either.
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Positive = Annotated[int, Field(gt=0, lt=2**53, strict=True)]
Number = Annotated[float, Field(strict=True)]
Share = Annotated[Number, Field(ge=0, le=1)]
Flag = Annotated[bool, Field(strict=True)]
Where = Literal["paper", "code", "inferred", "ours"]
"""Where a value comes from: the paper, published code, a guess where neither says it, or a choice of one's own."""
_VALUES = ("model", "data", "loss", "optimizer", "schedule", "initial_weights", "initialise", "loop")
"""The keys below which values have a provenance."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Part(BaseModel):
    """Something that is named and given arguments, such as ``{name: adam, lr: 0.001}``."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: Text

    @property
    def arguments(self) -> dict[str, Any]:
        """All but the name."""
        return dict(self.model_extra or {})


class ModelRecipe(_Strict):
    """Which network: a published system, or an architecture, with settings of its Config that differ."""

    system: Text | None = None
    arch: Text | None = None
    config: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.system is None) == (self.arch is None):
            raise ValueError("give either system (see `iseparate models systems`) or arch")
        return self


class SilenceRecipe(_Strict):
    """Excerpts in which a stem is hardly there are drawn anew; see `iseparate.data.excerpts.Silence`."""

    threshold_db: Annotated[Number, Field(ge=-200, le=0)] = -60.0
    least_active_share: Annotated[Number, Field(gt=0, le=1)] = 0.1
    keep: Share = 0.1
    redraws: Positive = 8


class DataRecipe(_Strict):
    """What the network hears."""

    excerpt_seconds: Annotated[Number, Field(gt=0, le=600)] | None = None
    excerpt_samples: Positive | None = None
    """In place of the seconds where the literature counts samples, at the model's rate."""
    sampling: Literal["random", "sequential"] = "random"
    """From anywhere in a song, or one after the other from its start to its end."""
    excerpts_per_song: Positive | None = None
    """Of `random` sampling, in an epoch; None: one."""
    excerpts_per_epoch: Positive | None = None
    """In place of the former: of all songs together, each drawn anew."""
    stride_seconds: Annotated[Number, Field(gt=0)] | None = None
    """Of `sequential` sampling, from start to start; None: excerpts abut."""
    repeat: Positive = 1
    """Of `sequential` sampling: how often an epoch goes through the songs."""
    own_mixture: Flag = False
    """The network hears the songs' own mixtures, which need not be the sum of the stems; nothing may change these."""
    also_heard: tuple[Text, ...] | None = None
    """Stems of the data that make up the mixture beside those that are trained; None: all that the data has."""
    mix_songs: Share = 0.0
    """Chance that the stems of an example come from different songs."""
    silence: SilenceRecipe | None = None
    augment: tuple[Part, ...] = ()
    """Applied in this order to each example, by the loader."""
    batch_augment: tuple[Part, ...] = ()
    """Applied in this order to each batch, on the device."""
    subset: Text = "train"
    """The songs to train on; several subsets are joined by +."""
    validation_subset: Text | None = "valid"
    """The songs to judge by, never trained on; None: nothing is judged, and the last checkpoint is the result."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.excerpt_seconds is None) == (self.excerpt_samples is None):
            raise ValueError("give either excerpt_seconds or excerpt_samples")
        if self.excerpts_per_song and self.excerpts_per_epoch:
            raise ValueError("give either excerpts_per_song or excerpts_per_epoch")
        if self.sampling == "random" and (self.stride_seconds or self.repeat > 1):
            raise ValueError("stride_seconds and repeat go with sampling: sequential")
        if self.sampling == "sequential" and (self.excerpts_per_song or self.excerpts_per_epoch):
            raise ValueError("excerpts_per_song and excerpts_per_epoch go with sampling: random")
        if self.own_mixture and (self.mix_songs or self.augment or self.batch_augment):
            raise ValueError("own_mixture goes with unchanged songs only; leave mix_songs and augmentations out")
        if self.own_mixture and self.also_heard is not None:
            raise ValueError("own_mixture is heard as it is, so also_heard has no say in it; leave one of them out")
        if len(set(self.also_heard or ())) < len(self.also_heard or ()):
            raise ValueError("also_heard names a stem twice; leave one out")
        return self

    def excerpt_length(self, sample_rate: int) -> int:
        """In samples, for a network at `sample_rate`."""
        if self.excerpt_samples is not None:
            return self.excerpt_samples
        assert self.excerpt_seconds is not None
        return max(1, round(self.excerpt_seconds * sample_rate))


class AverageRecipe(_Strict):
    """One exponential moving average of the weights."""

    decay: Annotated[Number, Field(gt=0, lt=1)]
    every: Literal["step", "epoch"] = "step"


class LoopRecipe(_Strict):
    """How long, how wide, how exact."""

    epochs: Positive | None = None
    """None: as many as `max_steps` take."""
    batch_size: Positive
    """Of all processes together."""
    accumulate_batches: Positive = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    clip_norm: Annotated[Number, Field(gt=0)] | None = None
    averages: tuple[AverageRecipe, ...] = ()
    early_stopping_epochs: Positive | None = None
    max_steps: Positive | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)] = 0

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.epochs is None and self.max_steps is None:
            raise ValueError("say how long: epochs, max_steps, or whichever comes first of both")
        return self


class ValidationRecipe(_Strict):
    """How a checkpoint is judged."""

    every_epochs: Positive = 1
    metric: Text | None = "usdr"
    """A metric of `iseparate evaluate` on whole songs separated by the engine; None: the loss alone."""
    songs: Positive | None = None
    """The first so many only."""
    choose_by: Literal["loss", "score"] = "loss"
    """What is best, what schedules and early stopping look at: the loss on excerpts, or the metric."""
    keep_best: Positive = 1

    @model_validator(mode="after")
    def _there_is_a_score(self) -> Self:
        if self.choose_by == "score" and self.metric is None:
            raise ValueError("choose_by is score, but metric is null; name a metric such as usdr")
        return self


class Recipe(_Strict):
    """Everything that decides about a training but the songs and the machine."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    title: Text
    source: Text
    """Paper and code that the values come from."""
    notes: Text | None = None
    reconstruction: Flag = False
    """True where a value had to be inferred."""
    provenance: dict[str, Where] = Field(default_factory=dict)
    """Where each value comes from, by its dotted key or the key above it."""
    starts_from: Text | None = None
    """The recipe whose trained network this one goes on with; None: random weights."""
    model: ModelRecipe
    data: DataRecipe
    loss: Part
    optimizer: Part
    schedule: Part = Part(name="constant")
    initial_weights: Literal["default", "xavier_normal"] = "default"
    """``xavier_normal``: of convolutions and linear layers, whose biases are 0 (Glorot and Bengio 2010)."""
    initialise: Literal["default", "input_statistics"] = "default"
    """``input_statistics``: the network's input scaling is set from the training songs' spectra first."""
    loop: LoopRecipe
    validation: ValidationRecipe = ValidationRecipe()

    @model_validator(mode="after")
    def _provenance_is_true(self) -> Self:
        content = self.model_dump()
        for key in self.provenance:
            if key.partition(".")[0] not in _VALUES or not _leads_somewhere(content, key.split(".")):
                raise ValueError(f"provenance has {key[:80]!r}, which is no key of this recipe")
        if "inferred" in self.provenance.values() and not self.reconstruction:
            raise ValueError("a value is inferred, so reconstruction must be true")
        return self

    def provenance_of(self, key: str) -> Where | None:
        """Where the value at a dotted key comes from; None: nobody said."""
        steps = key.split(".")
        above = (".".join(steps[:count]) for count in range(len(steps), 0, -1))
        return next((self.provenance[k] for k in above if k in self.provenance), None)

    def to_yaml(self) -> str:
        """The resolved recipe, every default written out: what a checkpoint keeps."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def network_config(recipe: Recipe) -> tuple[Architecture, Any]:
    """The architecture that a recipe names, and its Config; UsageError, UnknownModelError."""
    from iseparate.models._registry import architecture, published_config
    from iseparate.weights.load import make_config

    model = recipe.model
    if model.system is not None:
        arch, config = published_config(model.system)
        return arch, make_config(arch, {**asdict(config), **model.config}, UsageError) if model.config else config
    assert model.arch is not None
    arch = architecture(model.arch)
    return arch, make_config(arch, model.config, UsageError)


def recipe_names() -> list[str]:
    """The shipped recipes."""
    return sorted(_shipped())


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        name: of a shipped recipe, or the path of a file.
        overrides: ``a.b=value`` each, the value in YAML.

    Raises:
        UsageError: there is none such, or it has a fault: which, in which line, and the nearest word that would do.
    """
    text, origin, folder = _read(name)
    return _checked(_page(text, origin, folder), overrides)


def parse_recipe(text: str, origin: str, overrides: Sequence[str] = ()) -> Recipe:
    """As `load_recipe`, of a text; `origin` names it in complaints. It may extend shipped recipes only."""
    return _checked(_page(text, origin, None), overrides)


KeyPath = tuple[Any, ...]
"""Keys and list indices that lead to a value."""


@dataclass
class _Page:
    """What stands in a recipe and those it extends, not yet checked, and in which file and line."""

    content: dict[str, Any]
    lines: dict[KeyPath, tuple[str, int]]


def _checked(page: _Page, overrides: Sequence[str]) -> Recipe:
    for override in overrides:
        _override(page.content, override)
    locate = _Locator(page.lines, overrides)
    try:
        recipe = Recipe.model_validate(page.content)
    except ValidationError as error:
        raise UsageError(_fault(error, locate)) from None
    _check_model(recipe, locate)
    _check_parts(recipe, locate)
    return recipe


def _page(text: str, origin: str, folder: Path | None, inside: tuple[str, ...] = ()) -> _Page:
    """Read a text and all that it extends; `inside` are those that extend it in turn."""
    try:
        content, node = _yaml(text)
        lines = {path: (origin, line) for path, line in _lines(node)} if node is not None else {}
    except _UnreadableError as error:
        line = f", line {error.line}" if error.line else ""
        raise UsageError(f"{origin}{line} is not a recipe's YAML: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{origin} holds no table of keys; a recipe starts with `name: ...`")
    page = _Page(content, lines)
    if "extends" not in content:
        return page
    base = content.pop("extends")
    where = f"{origin}, line {lines[('extends',)][1]}"
    if not isinstance(base, str):
        raise UsageError(f"{where}: extends is {_shown(base)}: expected the name of a recipe")
    if len(inside) >= _DEEPEST or base in inside:
        raise UsageError(f"{where}: recipes extend each other in a circle: {' -> '.join((*inside[-3:], base))}")
    try:
        below = _read(base if folder is None or base in _shipped() else folder / base, files=folder is not None)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return _joined(_page(*below, (*inside, base)), page)


def _joined(base: _Page, own: _Page) -> _Page:
    """What `own` says, and for the rest `base`."""
    content, lines = base.content, base.lines
    changed: list[str] = []

    def take(into: dict[str, Any], said: dict[str, Any], above: KeyPath) -> None:
        for key, value in said.items():
            path, old = (*above, key), into.get(key)
            renamed = isinstance(value, dict) and above and "name" in value and value.get("name") != _name(old)
            if isinstance(value, dict) and isinstance(old, dict) and not renamed:
                take(old, value, path)
                continue
            if key not in into or old != value:
                changed.append(".".join(map(str, path)))
            into[key] = value
            for gone in [known for known in lines if known[: len(path)] == path]:
                del lines[gone]

    take(content, own.content, ())
    lines.update(own.lines)
    _mark(content, changed, own.content.get("provenance"))
    return _Page(content, lines)


def _name(part: Any) -> Any:
    return part.get("name") if isinstance(part, dict) else None


def _mark(content: dict[str, Any], changed: Sequence[str], said: Any = None) -> None:
    """Values that were changed are no longer the paper's, unless whoever changed them has `said` whose they are."""
    kept = content.setdefault("provenance", {})
    said = said if isinstance(said, dict) else {}
    if not isinstance(kept, dict):
        return  # the check will say so
    for key in changed:
        steps = key.split(".")
        if steps[0] in _VALUES and not any(".".join(steps[:count]) in said for count in range(1, len(steps) + 1)):
            for below in [known for known in kept if known.startswith(f"{key}.") and known not in said]:
                del kept[below]
            kept[key] = "ours"


_KEY = re.compile(r"[\w.-]{1,80}")
"""So complaints that quote a key stay short, and on one line."""


class _UnreadableError(Exception):
    """A text that is not YAML as recipes use it."""

    def __init__(self, problem: str, line: int | None = None):
        super().__init__(problem)
        self.line = line


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers (``1e-4`` is one), and of YAML what a recipe needs: no key twice, no aliases, no tags.

    Aliases let a small file stand for an enormous one, tags make other things than words, numbers, lists and tables.
    """

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _UnreadableError("anchors (&) and aliases (*) have no place in it; write the value out", line)
        if event.tag is not None:
            raise _UnreadableError(f"it has a tag ({event.tag[:40]}); leave it out", line)
        if self._depth > _DEEPEST:
            raise _UnreadableError("it is nested deeper than any recipe", line)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if (
                not isinstance(key, yaml.ScalarNode)
                or key.tag != "tag:yaml.org,2002:str"
                or not _KEY.fullmatch(key.value)
            ):
                raise _UnreadableError("a key is a word of letters, digits, dots and underscores", line)
            if key.value in seen:
                raise _UnreadableError(f"{key.value} is there twice; leave one out", line)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _yaml(text: str) -> tuple[Any, yaml.Node | None]:
    """What a text says, and the same with line numbers; `_UnreadableError`."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            return (None if node is None else loader.construct_document(node)), node
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = None if error.problem_mark is None else error.problem_mark.line + 1
        raise _UnreadableError(f"{error.problem or error.context}; mend that line", line) from None
    except (yaml.YAMLError, ValueError, ArithmeticError) as error:  # no text at all; a date that no calendar has
        raise _UnreadableError(" ".join(str(error).split())[:200]) from None


class _Locator:
    """Where in the files, or in which override, a key stands."""

    def __init__(self, lines: Mapping[KeyPath, tuple[str, int]], overrides: Sequence[str]):
        self._lines = lines
        self._origin = list(lines.values())[-1][0] if lines else "the recipe"
        self._overridden = [tuple(override.partition("=")[0].strip().split(".")) for override in overrides]

    def __call__(self, path: KeyPath) -> str:
        words = tuple(map(str, path))
        for override in self._overridden:
            if words[: len(override)] == override:
                return f"--set {'.'.join(override)}"[:120]
        below = [".".join(override)[:80] for override in self._overridden if override[: len(words)] == words]
        changed = f" with --set {below[0]}" if words and below else ""
        while path and path not in self._lines:
            path = path[:-1]
        return ("{}, line {}".format(*self._lines[path]) if path else self._origin) + changed


def _shipped() -> dict[str, Any]:
    folder = resources.files("iseparate") / "recipes"
    return {file.name.removesuffix(".yaml"): file for file in folder.iterdir() if file.name.endswith(".yaml")}


def _read(name: str | Path, files: bool = True) -> tuple[str, str, Path | None]:
    """The text of a recipe, what it is called, and the folder in which it may find others; UsageError."""
    shipped = _shipped()
    if str(name) in shipped:
        return shipped[str(name)].read_text(encoding="utf-8"), f"{name}.yaml", None
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") or not files:
        near = difflib.get_close_matches(path.name, shipped, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(
            f"there is no recipe {str(path.name)[:80]!r}: {hint}`iseparate train --list` shows those there are; a file "
            "of your own ends in .yaml"
        )
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UsageError(f"{path} is larger than {MAX_BYTES >> 20} MB; a recipe is a page of YAML")
        return data.decode(), str(path), path.parent
    except UnicodeDecodeError:
        raise UsageError(f"the recipe {path} is not UTF-8 text; save it as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file system takes
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"the recipe {str(path)[:200]!r} cannot be read ({reason}); check its path") from None


def _lines(node: yaml.Node, path: KeyPath = ()) -> Iterator[tuple[KeyPath, int]]:
    """Line numbers by the way to each key."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*path, key.value), key.start_mark.line + 1
            yield from _lines(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*path, index), value.start_mark.line + 1
            yield from _lines(value, (*path, index))


def _override(content: dict[str, Any], override: str) -> None:
    """Set ``a.b=value``; a part of a list goes by its number."""
    key, equals, text = override.partition("=")
    key = key.strip()
    path = key.split(".")
    if not equals or not all(map(_KEY.fullmatch, path)):
        raise UsageError(f"--set takes key=value, such as optimizer.lr=3e-4; got {override[:80]!r}")
    value = _value(key, path, text)
    at: Any = content
    for step in path[:-1]:
        if isinstance(at, dict) and at.get(step) is None:
            at[step] = {}
        at = _within(at, step)
        if not isinstance(at, dict | list):
            raise UsageError(f"--set {key}: there is no {step} to set something in")
    if isinstance(at, dict):
        at[path[-1]] = value
    elif (index := _index(at, path[-1])) is not None:
        at[index] = value
    else:
        raise UsageError(f"--set {key}: a list of {len(at)} has no part {path[-1]}")
    _mark(content, [key])


def _value(key: str, path: Sequence[str], text: str) -> Any:
    """The value of an override."""
    try:
        if len(path) > _DEEPEST:
            raise _UnreadableError("it is nested deeper than any recipe")
        return _yaml(text)[0]
    except _UnreadableError as error:
        raise UsageError(f"--set {key}: {text[:80]!r} is not a value in YAML: {error}") from None


def _within(at: Any, step: str) -> Any:
    """What stands at a key of a table or a place of a list; None: nothing."""
    if isinstance(at, dict):
        return at.get(step)
    return None if (index := _index(at, step)) is None else at[index]


def _index(values: Any, step: str) -> int | None:
    """A place in a list, by its number in words."""
    if not isinstance(values, list | tuple) or not re.fullmatch(r"[0-9]{1,6}", step) or int(step) >= len(values):
        return None
    return int(step)


def _leads_somewhere(content: Any, steps: Sequence[str]) -> bool:
    for step in steps:
        if isinstance(content, dict) and step not in content:
            return False
        content, above = _within(content, step), content
        if content is None and not isinstance(above, dict):
            return False
    return True


def _fault(error: ValidationError, locate: _Locator) -> str:
    """The first fault, the next run shows the next one; a mistyped key comes before what is missing for it."""
    faults = error.errors(include_url=False)
    fault = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    path = tuple(fault["loc"])
    key = ".".join(map(str, path)) or "the recipe"
    where = locate(path)
    if fault["type"] == "extra_forbidden":
        known = _keys_at(path[:-1])
        return f"{where}: {key} is no key of a recipe; {_nearest(str(path[-1]), known)}"
    if fault["type"] == "missing":
        return f"{where}: {key} is missing; add it"
    complaint = fault["msg"].removeprefix("Value error, ").rstrip(".")
    if fault["type"] == "value_error":
        return f"{where}: {key}: {complaint}"
    if fault["type"] in ("model_type", "dict_type"):
        complaint = "expected a table of keys, such as {name: ...}"
    return f"{where}: {key} is {_shown(fault['input'])}: {complaint[:1].lower()}{complaint[1:]}"


def _shown(value: Any) -> str:
    """A value in a complaint."""
    try:
        text = value if isinstance(value, str) else str(value)
    except ValueError:  # Python prints no number of thousands of digits
        return "an endless number"
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def _keys_at(path: tuple[Any, ...]) -> list[str]:
    """The keys that the recipe has at a place."""
    model: Any = Recipe
    for step in path:
        if isinstance(step, str):
            found = _model_in(model.model_fields[step].annotation)
            if found is None:
                return []
            model = found
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in typing.get_args(annotation) if (m := _model_in(a)) is not None), None)


# What a recipe may name.


@cache
def _tables() -> dict[str, Mapping[str, Callable[..., Any]]]:
    from iseparate.data.augment import AUGMENTATIONS, BATCH_AUGMENTATIONS
    from iseparate.losses import CRITERIA
    from iseparate.train.optimize import OPTIMIZERS, SCHEDULES

    return {
        "loss": CRITERIA,
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
        "augmentation": AUGMENTATIONS,
        "batch augmentation": BATCH_AUGMENTATIONS,
    }


def _parts(recipe: Recipe) -> Iterator[tuple[str, tuple[Any, ...], Part]]:
    yield "loss", ("loss",), recipe.loss
    yield "optimizer", ("optimizer",), recipe.optimizer
    yield "schedule", ("schedule",), recipe.schedule
    for i, part in enumerate(recipe.data.augment):
        yield "augmentation", ("data", "augment", i), part
    for i, part in enumerate(recipe.data.batch_augment):
        yield "batch augmentation", ("data", "batch_augment", i), part


def _check_model(recipe: Recipe, locate: _Locator) -> None:
    """The network exists and takes its settings."""
    from iseparate.models._registry import architecture, published_config

    model = recipe.model
    path = ("model", "arch" if model.system is None else "system")
    try:
        arch = published_config(model.system)[0] if model.system is not None else architecture(str(model.arch))
    except UnknownModelError as error:
        raise UnknownModelError(f"{locate(path)}: {error}") from None
    known = [field.name for field in fields(arch.config)]
    for setting in model.config:
        if setting not in known:
            raise UsageError(
                f"{locate(('model', 'config', setting))}: {arch.name} has no setting {setting}; "
                f"{_nearest(setting, known)}"
            )
    try:
        network_config(recipe)
    except Exception as error:  # a Config that divides by what it was given, for one
        raise UsageError(f"{locate(('model', 'config'))}: {_sentence(error)}") from None


def _check_parts(recipe: Recipe, locate: _Locator) -> None:
    """Every named part exists, takes the arguments it is given, and can be made of them."""
    for kind, path, part in _parts(recipe):
        table = _tables()[kind]
        if part.name not in table:
            raise UsageError(
                f"{locate((*path, 'name'))}: there is no {kind} {part.name[:80]!r}; {_nearest(part.name, list(table))}"
            )
        # Losses and augmentations are made of their arguments alone; the others also need what is made later.
        make, alone = table[part.name], kind not in ("optimizer", "schedule")
        known = _arguments(make, alone)
        for argument, value in part.arguments.items():
            where = locate((*path, argument))
            if argument not in known:
                hint = _nearest(argument, list(known)) if known else "it takes nothing"
                raise UsageError(f"{where}: the {kind} {part.name} takes no {argument}; {hint}")
            try:
                known[argument].kind.validate_python(value, strict=True)
            except ValidationError as error:
                complaint = error.errors(include_url=False)[0]["msg"]
                raise UsageError(
                    f"{where}: {argument} of the {kind} {part.name} is {_shown(value)}: "
                    f"{complaint[:1].lower()}{complaint[1:]}"
                ) from None
        missing = [name for name, a in known.items() if a.required and name not in part.arguments]
        if missing:
            raise UsageError(f"{locate(path)}: the {kind} {part.name} needs {missing[0]}")
        try:
            make(*([] if alone else [_stand_in(kind)]), **part.arguments)
        except BackendError:
            raise
        except Exception as error:  # whatever a library says to values out of range
            raise UsageError(f"{locate(path)}: the {kind} {part.name}: {_sentence(error)}") from None


def _stand_in(kind: str) -> Any:
    """What an optimizer or a schedule can be made of on trial."""
    import torch

    parameters = [torch.nn.Parameter(torch.zeros(1))]
    return parameters if kind == "optimizer" else torch.optim.SGD(parameters, lr=1.0)


def _sentence(error: Exception) -> str:
    """What an error says, on one line."""
    said = " ".join(str(error).replace("Value error, ", "").split())[:300]
    return said if isinstance(error, UsageError | ValueError) and said else f"these values do not do ({said})"


@dataclass(frozen=True)
class _Argument:
    kind: TypeAdapter[Any]
    required: bool


@cache
def _arguments(make: Callable[..., Any], alone: bool) -> dict[str, _Argument]:
    """The arguments that a recipe can give: of an optimizer or schedule the keyword-only ones."""
    kinds = (inspect.Parameter.KEYWORD_ONLY, *([inspect.Parameter.POSITIONAL_OR_KEYWORD] if alone else []))
    finite = ConfigDict(allow_inf_nan=False)
    return {
        p.name: _Argument(TypeAdapter(p.annotation, config=finite), p.default is p.empty)
        for p in inspect.signature(make, eval_str=True).parameters.values()
        if p.kind in kinds
    }
