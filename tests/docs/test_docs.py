"""The documentation says what the program does: its options, its fields, its snippets."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from iseparate.cli import app
from iseparate.engine.manifest import Manifest, StoredStem
from iseparate.weights.card import load_cards, parse_card
from iseparate.weights.parity import measured_parity
from iseparate.weights.systems import published_systems

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GENERATED = {DOCS / "zoo.md", DOCS / "tables.md", DOCS / "reference" / "cli.md", DOCS / "reference" / "recipes.md"}
WRITTEN = sorted({*DOCS.rglob("*.md")} - GENERATED)
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def load(name: str) -> ModuleType:
    """A script of the documentation as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page: Path, *languages: str) -> Iterator[str]:
    for _, language, code in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield code


def command_lines(page: Path) -> Iterator[str]:
    """Every `iseparate ...` of a page, in code blocks and in running text."""
    text = page.read_text(encoding="utf-8")
    for code in blocks(page, "console"):
        for line in code.splitlines():
            if match := re.search(r"\biseparate .*", line):
                yield match[0].partition(" #")[0]
    for span in re.findall(r"`([^`]+)`", FENCE.sub("", text)):
        if match := re.fullmatch(r"(?:\w+=\S+ )?(iseparate\s.*)", span, re.DOTALL):
            yield match[1]


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that a line calls, and the words that are its own."""
    command: Any = typer.main.get_command(app)
    root = command
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    own = {name for parameter in root.params for name in parameter.opts}
    if command is root and words and words[0] not in own and "-completion" not in words[0]:
        command = root.commands["separate"]
    return command, words


def options_of(command: Any) -> set[str]:
    names = {name for parameter in command.params for name in parameter.opts}
    return names | {"--help", "-h", "--install-completion", "--show-completion"}


def test_pages_are_found() -> None:
    assert len(WRITTEN) > 15
    assert sum(1 for page in WRITTEN for _ in command_lines(page)) > 30


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(DOCS)))
def test_options_of_command_lines_exist(page: Path) -> None:
    for line in command_lines(page):
        command, words = command_of(shlex.split(line)[1:])
        used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert used <= options_of(command), f"{page.name}: {line}"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(DOCS)))
def test_options_in_running_text_exist(page: Path) -> None:
    every: set[str] = {"--find-links", "--no-deps"}  # pip's
    pending: list[Any] = [typer.main.get_command(app)]
    while pending:
        command = pending.pop()
        every |= options_of(command)
        pending += getattr(command, "commands", {}).values()
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    used = {match for span in re.findall(r"`([^`]+)`", text) for match in re.findall(r"(?<!\S)--[a-z][a-z-]*", span)}
    assert used <= every


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(DOCS)))
def test_snippets_compile(page: Path) -> None:
    for code in blocks(page, "python"):
        compile(code, str(page), "exec")


def test_snippets_import_what_there_is() -> None:
    import iseparate

    imported = {
        name.strip()
        for page in WRITTEN
        for code in blocks(page, "python")
        for names in re.findall(r"^from iseparate import (.+)$", code, re.MULTILINE)
        for name in names.split(",")
    }
    assert {"Separator", "load_model", "import_checkpoint"} <= imported <= set(iseparate.__all__)


def table(page: Path, heading: str | None) -> list[str]:
    """First column of the table below a heading; of the page's first one."""
    text = page.read_text(encoding="utf-8")
    if heading:
        text = text.partition(f"## {heading}\n")[2]
    text = text.partition("\n## ")[0]
    return [name for cell in re.findall(r"^\| (`.+?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)]


def test_manifest_reference_lists_every_field() -> None:
    page = DOCS / "reference" / "manifest.md"
    assert table(page, None) == list(Manifest.model_fields)
    assert table(page, "stems") == list(StoredStem.model_fields)


def test_manifest_reference_lists_every_setting() -> None:
    from dataclasses import fields

    from iseparate import Excerpt
    from iseparate.engine.outputs import Storage

    listed = set(table(DOCS / "reference" / "manifest.md", "settings"))
    of_separator = {"precision", "backend", "overlap", "segment_samples", "shifts", "seed"}
    assert listed == of_separator | {field.name for kind in (Storage, Excerpt) for field in fields(kind)}


def test_example_card_is_valid() -> None:
    page = DOCS / "reference" / "cards.md"
    (example,) = blocks(page, "toml")
    ours, official = parse_card(example.encode(), f"{tomllib.loads(example)['id']}.toml")
    assert official.id == f"{ours.id}-official"
    assert official.settings["frequency_bins"] != ours.settings["frequency_bins"]


def test_card_reference_names_every_field() -> None:
    from iseparate.weights.card import CardFile, MeasuredScore, _CardTable

    text = (DOCS / "reference" / "cards.md").read_text(encoding="utf-8")
    for model in (_CardTable, CardFile, MeasuredScore):
        for field in model.model_fields:
            assert re.search(rf"\b{field}\b", text), field


def test_zoo_has_every_model_and_both_kinds_of_scores() -> None:
    page = load("make_zoo").page()
    cards = load_cards()
    assert re.findall(r"^## .*\{: #(.+) \}$", page, re.MULTILINE) == ["systems", "models", *sorted(cards)]
    for card in cards.values():
        section = page.partition(f"{{: #{card.id} }}")[2].partition("\n## ")[0]
        assert card.training_data in section
        assert section.count("**Claimed:**") == len(card.published_scores)
        assert all(file.source in section for file in card.files)


def test_zoo_has_a_row_for_every_system() -> None:
    page = load("make_zoo").page()
    rows = {cells[1].split("`")[1]: cells for cells in table_rows(page, "systems")}
    record = measured_parity()
    assert set(rows) == {system.name for system in published_systems()}
    for system in published_systems():
        _, name, paper, domain, parameters, weights, parity, _, _, licence, _ = rows[system.name]
        assert ("reconstruction" in name) == system.reconstruction
        assert system.paper.rpartition(", ")[2] in paper
        assert (domain.strip(), parameters.strip()) == (system.domain, f"{system.parameters:,}")
        worst = record.worst([system.name])
        assert (f"{worst.error:.1e}" in parity) if worst else not parity.strip()
        models = [card for card in load_cards().values() if system.name in card.systems and not card.variant_of]
        assert all(f"#{card.id})" in weights and card.weights_licence in licence for card in models)
        assert bool(models) != ("none published" in weights)
    assert "7.14 / 6.85 / 5.32 / 4.82" in rows["d3net"][8]
    assert not rows["d3net-vocals"][8].strip()  # the joint filter's score is not the lone network's
    assert "unverified" in rows["uhl2"][8]


def table_rows(page: str, anchor: str) -> Iterator[list[str]]:
    """Cells of the first table below a heading, its head left out."""
    lines = page.partition(f"{{: #{anchor} }}")[2].lstrip("\n").partition("\n\n")[0].splitlines()
    assert lines[1].startswith("| --- |")
    yield from (re.split(r"(?<!\\)\|", line) for line in lines[2:])


def test_zoo_shows_what_the_bench_of_segments_wrote() -> None:
    zoo = load("make_zoo")
    row = {"system": "umx, umxhq", "weights": "random", "deviation dB": "-61"}
    chunking = {"title": "Segments", "date": "today", "commit": "abc", "processor": "a", "cores": "2", "rows": [row]}
    rows = {cells[1].split("`")[1]: cells for cells in table_rows("\n".join(zoo._systems(chunking)), "systems")}
    assert rows["umxhq"][7].strip() == "-61<br>*random weights*"
    assert rows["umxl"][7].strip() == "*not measured*"
    facts = list(zoo._section(load_cards()["umx"], None, chunking))
    assert "| one pass, measured | -61<br>*random weights* |" in facts


def test_parity_is_recorded_for_what_goldens_prove() -> None:
    """Whatever the record says of a system was measured on a golden that says it stands for it."""
    names = {system.name for system in published_systems()}
    comparisons = measured_parity().comparisons
    proves = tomllib.loads((ROOT / "tests" / "parity" / "proves.toml").read_text(encoding="utf-8"))
    for comparison in comparisons:
        assert list(comparison.proves) == proves[comparison.golden]
        assert set(comparison.proves) <= names
        assert comparison.error <= comparison.tolerance
    assert {comparison.golden for comparison in comparisons} == set(proves)
    table = (DOCS / "measured" / "parity.md").read_text(encoding="utf-8")
    shown = [f"| `{c.golden}` | {c.variant} | {c.error:.1e} | {c.tolerance:.0e} |" for c in comparisons]
    assert [line for line in table.splitlines() if line.startswith("| `")] == shown


def test_zoo_marks_weights_that_forbid_commercial_use() -> None:
    zoo = load("make_zoo")
    card = load_cards()["spleeter-2stems"].model_copy(update={"commercial_use": False})
    assert "| commercial use | **forbidden** |" in list(zoo._section(card, None))


def test_command_line_reference_has_every_option() -> None:
    page = load("make_cli").page()
    pending: list[tuple[str, Any]] = [("iseparate", typer.main.get_command(app))]
    while pending:
        name, command = pending.pop()
        if hasattr(command, "commands"):
            pending += [(f"{name} {child}", of_it) for child, of_it in command.commands.items()]
            continue
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        for option in options_of(command) - {"--help", "-h", "--install-completion", "--show-completion"}:
            if option.startswith("-"):
                assert f"`{option}`" in section, (name, option)
    assert "[bold]" not in page


def test_nothing_is_fetched_when_a_page_is_opened() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert re.search(r"^  font: false", text, re.MULTILINE)
    for page in WRITTEN:
        assert not re.search(r"(src=|!\[[^\]]*\]\()[\"']?https?:", page.read_text(encoding="utf-8")), page


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Links, anchors, snippets and the names that mkdocstrings shows: a strict build knows them all."""
    pytest.importorskip("mkdocs")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "zoo.html").exists()
