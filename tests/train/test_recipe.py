"""Recipes: what is shipped is sound, and whatever is wrong with one is said in a sentence with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from iseparate.errors import UnknownModelError, UsageError
from iseparate.models._registry import architectures
from iseparate.train import recipe as recipes
from iseparate.train.recipe import Recipe, load_recipe, network_config, parse_recipe, recipe_names

PAGE = """\
name: mine
title: Mine
source: my own
model:
  arch: open_unmix
  config: {hidden_size: 8}
data:
  excerpt_seconds: 1.5
  augment:
    - {name: gain, low: 0.5, high: 1.0}
    - name: swap_channels
loss: {name: mse, domain: magnitude}
optimizer: {name: adam, lr: 1e-3}
schedule: {name: step, at_epochs: [3]}
loop: {epochs: 2, batch_size: 4}
"""


def with_line(old: str, new: str) -> str:
    assert PAGE.count(old) == 1
    return PAGE.replace(old, new)


def complaint(text: str, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(UsageError) as raised:
        parse_recipe(text, "mine.yaml", overrides)
    said = str(raised.value)
    assert "\n" not in said
    assert len(said) < 900
    return said


# What is shipped.


SHIPPED = {name: load_recipe(name) for name in recipe_names()}


@pytest.fixture(params=SHIPPED)
def shipped(request: pytest.FixtureRequest) -> Recipe:
    return SHIPPED[request.param]


@pytest.mark.parametrize("arch", ["d3net", "open_unmix", "x_umx", "mmdenselstm", "uhl", "dilated_gru", "spleeter"])
def test_every_system_of_the_spectrogram_networks_has_a_recipe(arch: str) -> None:
    blends = {"d3net", "uhl2", "uhl2-icassp2017"}  # of networks that other recipes train
    systems = set(architectures()[arch].published) - blends
    assert systems <= {recipe.model.system for recipe in SHIPPED.values()}


def test_a_recipe_is_called_as_its_file() -> None:
    assert [recipe.name for recipe in SHIPPED.values()] == list(SHIPPED)


def test_titles_differ() -> None:
    titles = [recipe.title for recipe in SHIPPED.values()]
    assert len(set(titles)) == len(titles)


def leaves(content: object, key: str = "") -> list[str]:
    if isinstance(content, dict) and content:
        return [leaf for k, value in content.items() for leaf in leaves(value, f"{key}.{k}" if key else k)]
    return [key]


def test_each_value_has_a_provenance(shipped: Recipe) -> None:
    values = shipped.model_dump(
        include={"model", "data", "loss", "optimizer", "schedule", "loop"}, exclude_unset=True, exclude_none=True
    )
    assert [key for key in leaves(values) if shipped.provenance_of(key) is None] == []


def test_of_a_reconstruction_nothing_else_is_said(shipped: Recipe) -> None:
    arch, _ = network_config(shipped)
    assert shipped.reconstruction or not arch.reconstruction


def test_the_network_is_trained_for_what_the_title_says(shipped: Recipe) -> None:
    _, config = network_config(shipped)
    targets = getattr(config, "targets", None)
    if targets and len(targets) == 1:
        assert targets[0] in shipped.title.replace(",", "").lower().split()


def test_what_is_kept_in_a_checkpoint_is_the_same_recipe(shipped: Recipe) -> None:
    assert parse_recipe(shipped.to_yaml(), "last.ckpt") == shipped


def test_published_values_are_not_mistyped() -> None:
    d3net, umx, spleeter = (load_recipe(name) for name in ("d3net-bass", "umx-drums", "spleeter-5stems"))
    assert d3net.optimizer.arguments == {"lr": 1e-3, "weight_decay": 1e-4}
    assert (d3net.loop.epochs, d3net.loop.batch_size, d3net.schedule.arguments["at_epochs"]) == (50, 6, [40])
    assert d3net.data.excerpt_length(44100) // 1024 + 1 == 256
    assert umx.data.excerpt_length(44100) == 264600
    assert network_config(umx)[1].targets == ("drums",)
    assert (umx.loop.epochs, umx.loop.batch_size, umx.loop.early_stopping_epochs) == (1000, 16, 140)
    assert (spleeter.data.excerpt_length(44100) - 4096) // 1024 + 1 == 512
    assert (spleeter.loop.max_steps, spleeter.loop.epochs, spleeter.loop.seed) == (2_500_000, None, 8)
    assert network_config(load_recipe("umxl-other"))[1].hidden_size == 1024


# Reading.


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(PAGE)
    recipe = load_recipe(path)
    assert recipe.optimizer.arguments == {"lr": 1e-3}
    assert recipe.data.augment[0].arguments == {"low": 0.5, "high": 1.0}
    assert network_config(recipe)[1].hidden_size == 8


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("loop:", "lop:", ["mine.yaml, line 15: lop is no key of a recipe; did you mean loop?"]),
        ("batch_size: 4", "batchsize: 4", ["line 15: loop.batchsize", "did you mean batch_size?"]),
        ("batch_size: 4", "batch_size: 0", ["line 15: loop.batch_size is '0'", "greater than 0"]),
        ("batch_size: 4", "batch_size: true", ["line 15: loop.batch_size is 'True'", "integer"]),
        ("batch_size: 4", "batch_size: four", ["line 15: loop.batch_size is 'four'", "integer"]),
        (", batch_size: 4", "", ["line 15: loop.batch_size is missing"]),
        ("epochs: 2, ", "", ["line 15: loop: say how long: epochs, max_steps"]),
        ("title: Mine\n", "", ["mine.yaml: title is missing"]),
        ("name: mine", "name: Not a name", ["line 1: name is 'Not a name'"]),
        ("excerpt_seconds: 1.5", "excerpt_seconds: .inf", ["line 8: data.excerpt_seconds is 'inf'"]),
        ("  excerpt_seconds: 1.5\n", "", ["line 7: data: give either excerpt_seconds or excerpt_samples"]),
        ("optimizer: {name: adam, lr: 1e-3}", "optimizer: adam", ["line 13: optimizer is 'adam': expected a table"]),
        ("name: adam", "name: adma", ["line 13: there is no optimizer 'adma'; did you mean adam?"]),
        ("lr: 1e-3", "rl: 1e-3", ["line 13: the optimizer adam takes no rl; did you mean lr?"]),
        (", lr: 1e-3", "", ["line 13: the optimizer adam needs lr"]),
        ("lr: 1e-3", "lr: fast", ["line 13: lr of the optimizer adam is 'fast'", "number"]),
        ("lr: 1e-3", "lr: 1e999", ["line 13: lr of the optimizer adam is 'inf'", "finite"]),
        ("lr: 1e-3", "lr: -1", ["line 13: the optimizer adam: lr is -1: expected more than 0"]),
        ("at_epochs: [3]", "at_epochs: 3", ["line 14: at_epochs of the schedule step is '3'", "list"]),
        ("name: step, at_epochs: [3]", "name: exponential, factor: 0.5, every_epochs: 0", ["schedule exponential"]),
        ("name: gain", "name: gian", ["line 10: there is no augmentation 'gian'; did you mean gain?"]),
        ("low: 0.5", "low: 2", ["line 10: the augmentation gain: low is 2 and high is 1"]),
        ("low: 0.5", "low: yes", ["line 10: low of the augmentation gain is 'True'", "number"]),
        ("name: mse", "name: mes", ["line 12: there is no loss 'mes'; did you mean mse?"]),
        ("domain: magnitude", "domain: phase", ["line 12: domain of the loss mse is 'phase'", "magnitude"]),
        ("arch: open_unmix", "arch: openunmix", ["line 5: no architecture is called 'openunmix'", "open_unmix"]),
        ("arch: open_unmix", "system: umxh", ["line 5: no published system is called 'umxh'", "umxhq"]),
        ("arch: open_unmix", "arch: open_unmix\n  system: umx", ["line 4: model: give either system"]),
        (
            "hidden_size: 8",
            "hiden_size: 8",
            ["line 6: open_unmix has no setting hiden_size; did you mean hidden_size?"],
        ),
        ("hidden_size: 8", "hidden_size: 7", ["line 6: open_unmix cannot be built", "even hidden_size"]),
        ("hidden_size: 8", "hop_samples: 0", ["line 6: ", "modulo"]),
        ("epochs: 2,", "epochs: 2, epochs: 3,", ["line 15", "epochs is there twice"]),
        ("epochs: 2,", "epochs: [2,", ["line 15", "mend that line"]),
        ("lr: 1e-3", "lr: &x 1e-3", ["line 13", "anchors"]),
        ("lr: 1e-3", "lr: !!python/name:os.system x", ["line 13", "tag"]),
        ("lr: 1e-3", "1: 1e-3", ["line 13", "a key is a word"]),
        ("lr: 1e-3", "[lr]: 1e-3", ["line 13", "a key is a word"]),
        ("lr: 1e-3", '"l\\nr": 1e-3', ["line 13", "a key is a word"]),
        ("excerpt_seconds: 1.5", "excerpt_seconds: 2020-13-45", ["month must be"]),
        ("source: my own", "source: my own\nprovenance: {loop.epoch: paper}", ["provenance has 'loop.epoch'"]),
        ("source: my own", "source: my own\nprovenance: {title: paper}", ["provenance has 'title'"]),
        ("source: my own", "source: my own\nprovenance: {loop: guess}", ["line 4: provenance.loop is 'guess'"]),
        ("source: my own", "source: my own\nprovenance: {loop: inferred}", ["reconstruction must be true"]),
        ("source: my own", "source: my own\nvalidation: {choose_by: score, metric: null}", ["name a metric"]),
        ("  excerpt", "  stride_seconds: 1\n  excerpt", ["stride_seconds and repeat go with sampling: sequential"]),
        ("  excerpt", "  own_mixture: true\n  excerpt", ["own_mixture goes with unchanged songs only"]),
        ("  excerpt", "  also_heard: [x, x]\n  excerpt", ["also_heard names a stem twice"]),
        ("  excerpt", "  also_heard: x\n  excerpt", ["data.also_heard is 'x': ", "tuple"]),
    ],
)
def test_a_fault_is_named_with_its_place_and_the_nearest_word(old: str, new: str, said: list[str]) -> None:
    words = complaint(with_line(old, new))
    for part in said:
        assert part in words


def test_what_is_no_table_is_refused() -> None:
    assert "holds no table" in complaint("")
    assert "holds no table" in complaint("- 1")
    assert "mine.yaml" in complaint("\0")


def test_a_file_that_cannot_be_a_recipe_is_refused(tmp_path: Path) -> None:
    huge, binary = tmp_path / "huge.yaml", tmp_path / "binary.yaml"
    huge.write_bytes(b"# " + b"x" * recipes.MAX_BYTES)
    binary.write_bytes(b"\xff\xfe\xff")
    for path, said in (
        (huge, "larger than 1 MB"),
        (binary, "UTF-8"),
        (tmp_path / "none.yaml", "cannot be read"),
        (tmp_path, "there is no recipe"),
        (Path("a\0b.yaml"), "cannot be read"),
    ):
        with pytest.raises(UsageError, match=said):
            load_recipe(path)


def test_an_unknown_name_is_told_its_neighbours() -> None:
    with pytest.raises(UsageError, match=r"did you mean umx-vocals"):
        load_recipe("umx-vocal")


@pytest.mark.timeout(20)
def test_bombs_stay_small() -> None:
    grown = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(8)
    )
    assert "anchors" in complaint(grown)
    assert "nested" in complaint("[" * 100_000)
    assert "nested" in complaint("a: " + "{b: " * 40 + "1" + "}" * 40)
    complaint(with_line("epochs: 2", f"epochs: {'9' * 10_000}"))
    assert "an endless number" in complaint(with_line("epochs: 2", f"epochs: 0x{'f' * 10_000}"))


# Overrides.


def test_overrides_change_values_and_their_provenance() -> None:
    recipe = load_recipe(
        "umx-vocals", ["optimizer.lr=3e-4", "data.augment.0.low=0.5", "data.silence.keep=0", "loop.epochs=3"]
    )
    assert recipe.optimizer.arguments["lr"] == 3e-4
    assert recipe.data.augment[0].arguments == {"low": 0.5, "high": 1.25}
    assert recipe.data.silence is not None
    assert recipe.data.silence.keep == 0
    assert [recipe.provenance_of(key) for key in ("optimizer.lr", "data.augment.0.low", "loop.epochs")] == ["ours"] * 3
    assert [recipe.provenance_of(key) for key in ("optimizer.weight_decay", "data.augment.0.high")] == ["code"] * 2


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimizer.lr", "--set takes key=value"),
        ("=3", "--set takes key=value"),
        ("optimizer..lr=3", "--set takes key=value"),
        ("optimizer.l\nr=3", "--set takes key=value"),
        ("optimizer.rl=3", "--set optimizer.rl: the optimizer adam takes no rl; did you mean lr?"),
        ("optimizer.lr=[1", "--set optimizer.lr: '[1' is not a value in YAML"),
        ("optimizer.lr=*x", "is not a value in YAML: anchors"),
        ("optimizer.lr=" + "[" * 50_000, "nested"),
        ("loop.epoch=3", "--set loop.epoch: loop.epoch is no key of a recipe; did you mean epochs?"),
        ("loop.epochs=0", "--set loop.epochs: loop.epochs is '0'"),
        ("loop.epochs.x=0", "--set loop.epochs.x: there is no epochs to set something in"),
        ("data.augment.7.low=0", "there is no 7 to set something in"),
        ("data.augment.7=0", "a list of 2 has no part 7"),
        ("data.augment.-1=0", "a list of 2 has no part -1"),
        ("optimizer=sgd", "--set optimizer: optimizer is 'sgd': expected a table"),
        (
            "model.config.hidden_size=7",
            "mine.yaml, line 6 with --set model.config.hidden_size: open_unmix cannot be built: hidden_size is 7",
        ),
        (".".join("a" * 60) + "=1", "nested"),
    ],
)
def test_a_faulty_override_is_named(override: str, said: str) -> None:
    assert said in complaint(PAGE, (override,))


# extends


def test_what_extends_another_takes_all_but_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(PAGE + "provenance: {loop: paper, optimizer: code, data: paper}\n")
    (tmp_path / "mine.yaml").write_text(
        "extends: base.yaml\nname: other\nloop: {epochs: 9, batch_size: 4}\n"
        "optimizer: {name: sgd, lr: 0.1, momentum: 0.9}\nprovenance: {optimizer: inferred}\nreconstruction: true\n"
    )
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert (recipe.name, recipe.title, recipe.loop.epochs, recipe.loop.batch_size) == ("other", "Mine", 9, 4)
    assert recipe.optimizer.arguments == {"lr": 0.1, "momentum": 0.9}  # another part: nothing of adam's is left
    keys = ("loop.epochs", "loop.batch_size", "optimizer.lr", "data.excerpt_seconds")
    assert [recipe.provenance_of(key) for key in keys] == ["ours", "paper", "inferred", "paper"]


def test_faults_are_placed_in_the_file_they_are_in(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(with_line("lr: 1e-3", "lr: fast"))
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\nloop:\n  epochs: 9\n")
    with pytest.raises(UsageError, match=r"base\.yaml, line 13: lr of"):
        load_recipe(tmp_path / "mine.yaml")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\noptimizer: {lr: 1.0}\nloop:\n  epochs: 0\n")
    with pytest.raises(UsageError, match=r"mine\.yaml, line 4: loop\.epochs is '0'"):
        load_recipe(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("extends", "said"),
    [
        ("umx-vocal", "did you mean umx-vocals"),
        ("[1]", "expected the name of a recipe"),
        ("other.yaml", "cannot be read"),
    ],
)
def test_a_base_that_is_none_is_refused(tmp_path: Path, extends: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"name: mine\nextends: {extends}\n")
    with pytest.raises(UsageError, match=said) as raised:
        load_recipe(tmp_path / "mine.yaml")
    assert "mine.yaml, line 2: " in str(raised.value)


def test_circles_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml")
    (tmp_path / "b.yaml").write_text("extends: a.yaml")
    with pytest.raises(UsageError, match="in a circle"):
        load_recipe(tmp_path / "a.yaml")


def test_a_text_alone_extends_no_files(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(PAGE)
    assert "there is no recipe" in complaint(f"extends: {tmp_path / 'base.yaml'}")


def test_an_unknown_system_keeps_its_class() -> None:
    with pytest.raises(UnknownModelError):
        parse_recipe(with_line("arch: open_unmix", "system: nothing"), "mine.yaml")


# Whatever comes in: a recipe or a sentence.

WORDS = st.sampled_from(
    [
        *yaml.safe_load(PAGE),
        "lr",
        "epochs",
        "adam",
        "gain",
        "augment",
        "config",
        "silence",
        "extends",
        "umx",
        "low",
        "x",
        "",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
PATHS = st.lists(WORDS | st.sampled_from("012"), min_size=1, max_size=4).map(".".join)


def recipe_or_sentence(text: str, overrides: list[str]) -> None:
    try:
        recipe = parse_recipe(text, "fuzz.yaml", overrides)
    except UsageError as error:
        said = str(error)
    else:
        said = ""
        assert parse_recipe(recipe.to_yaml(), "again") == recipe
    assert "\n" not in said


@settings(max_examples=60, deadline=None)
@given(key=WORDS, value=VALUES, inner=st.none() | WORDS)
def test_no_value_breaks_the_check(key: str, value: object, inner: str | None) -> None:
    content = yaml.safe_load(PAGE)
    if inner is not None and isinstance(content.get(key), dict):
        content[key][inner] = value
    else:
        content[key] = value
    recipe_or_sentence(yaml.safe_dump(content), [])


@settings(max_examples=60, deadline=None)
@given(path=PATHS, value=VALUES.map(lambda v: yaml.safe_dump(v, default_flow_style=True)) | st.text(max_size=12))
def test_no_override_breaks_the_check(path: str, value: str) -> None:
    recipe_or_sentence(PAGE, [f"{path}={value}"])


@settings(max_examples=80, deadline=None)
@given(at=st.integers(0, len(PAGE)), length=st.integers(0, 12), text=st.text(max_size=6))
def test_no_text_breaks_the_reader(at: int, length: int, text: str) -> None:
    recipe_or_sentence(PAGE[:at] + text + PAGE[at + length :], [])
