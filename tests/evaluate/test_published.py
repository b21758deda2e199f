"""The literature's tables are what they say, and only a whole measurement fills one of their rows."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from iseparate.errors import OutputError, UsageError
from iseparate.evaluate.oracle import is_oracle
from iseparate.evaluate.published import (
    Reproduction,
    find_row,
    measured,
    parse_table,
    published_rows,
    published_tables,
    read_reproductions,
    write_reproduction,
)
from iseparate.models._registry import architectures
from iseparate.weights.card import load_cards

DOCS = Path(__file__).parents[2] / "docs"
TABLE = """
id = "toy"
title = "A toy"
printed_in = "Nowhere"
data = "musdb18"
subset = "test"
tracks = 50
stems = ["vocals", "other"]
metric = "bss_eval_v4"
metric_definition = "SDR"

[[rows]]
id = "best"
system = "Best"
sdr = { vocals = 9.0, other = 8.0 }
average = 8.5
evidence = "stated"
read_in = "a page"
oracle = "irm2"
"""


def record(**changes) -> Reproduction:
    """A whole measurement of the Open-Unmix row."""
    fields = {
        "row": "umx",
        "estimator": "umx-official",
        "data": "musdb18",
        "subset": "test",
        "tracks": 50,
        "partial": False,
        "metric": "bss_eval_v4",
        "metric_definition": "SDR and more",
        "sdr": {"vocals": 6.311, "drums": 5.722, "bass": 5.233, "other": 4.044},
        "average": 5.3275,
        "weights_sha256": "ab" * 32,
        "command": "iseparate reproduce umx --data musdb18:PATH",
        "machine": "a machine, 2 cores",
        "commit": "0123abc",
        "date": "2026-01-02",
        "versions": {"python": "3.11"},
    }
    return Reproduction.model_validate(fields | changes)


def test_both_tables_of_the_literature_are_here():
    d3net, demucs = published_tables()
    assert (d3net.id, demucs.id) == ("d3net", "demucs")
    for table in (d3net, demucs):
        assert table.stems == ("vocals", "drums", "bass", "other")
        assert (table.data, table.subset, table.tracks) == ("musdb18", "test", 50)


def test_figures_that_somebody_can_check():
    figures = {(table.id, row.id): row for table, row in published_rows()}
    assert figures["d3net", "d3net"].sdr == {"vocals": 7.24, "drums": 7.01, "bass": 5.25, "other": 4.53}
    assert figures["d3net", "d3net"].average == 6.01
    assert figures["demucs", "demucs-v2"].average == 6.28
    assert figures["demucs", "irm"].oracle == "irm2"
    assert "other" not in figures["demucs", "conv-tasnet-extra"].sdr  # read nowhere, so not made up


def test_what_a_row_names_exists():
    cards = load_cards()
    systems = {name: arch.is_reconstruction(name) for arch in architectures().values() for name in arch.published}
    for _, row in published_rows():
        assert row.card is None or (row.card in cards and row.card.endswith("-official"))
        assert row.oracle is None or is_oracle(row.oracle)
        if row.builds is not None:
            assert row.reconstruction == systems[row.builds], row.id


def test_every_row_that_runs_has_the_stems_of_its_table():
    cards = load_cards()
    for table, row in published_rows():
        if row.card:
            assert set(cards[row.card].stems) == set(table.stems), row.id


def test_figures_agree_with_those_on_the_cards():
    """The cards name the paper as the source of the same figures; one of the two would be a slip."""
    cards = load_cards()
    for _, row in published_rows():
        if row.card:
            printed = [score.values for score in cards[row.card].published_scores]
            assert row.sdr in printed, row.id


def test_rows_are_found_by_id_and_near_names_are_offered():
    table, row = find_row("umx")
    assert (table.id, row.card) == ("d3net", "umx-official")
    assert find_row("irm")[0].id == "demucs"
    with pytest.raises(UsageError, match="did you mean d3net"):
        find_row("d3-net")
    with pytest.raises(UsageError, match="did you mean umx"):
        find_row("Open-Unmix")
    with pytest.raises(UsageError, match=r"--list` shows them") as refused:
        find_row("q" * 10_000)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('oracle = "irm2"', "", "exactly one of card, oracle and unavailable"),
        ('oracle = "irm2"', 'oracle = "irm2"\ncard = "umx-official"', "exactly one of card, oracle and unavailable"),
        ("average = 8.5", "average = 8.6", "has the average 8.6, its stems 8.500"),
        ("vocals = 9.0, other", "drums = 9.0, other", "scores 'drums', not one of vocals, other"),
        ("average = 8.5", "average = nan", "average"),
        ("average = 8.5", 'average = "8.5"', "average"),
        ('evidence = "stated"', 'evidence = "guessed"', "evidence"),
        ('read_in = "a page"', "", "read_in"),
        ("tracks = 50", "tracks = 0", "tracks"),
        ("[[rows]]", "[[rows", "not valid TOML"),
        ("[[rows]]", TABLE.partition("\n\n")[2] + "[[rows]]", "'best' occurs twice"),
        ('title = "A toy"', 'title = "A toy"\ncolour = "red"', "colour"),
    ],
)
def test_a_table_with_a_slip_is_refused_in_one_sentence(old, new, complaint):
    assert parse_table(TABLE.encode(), "toy.toml").rows[0].system == "Best"
    with pytest.raises(UsageError, match=r"The table toy\.toml") as refused:
        parse_table(TABLE.replace(old, new).encode(), "toy.toml")
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value) or complaint == "not valid TOML"


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(UsageError, match=r"toy\.toml is not valid TOML"):
        parse_table(b"\xff\xfe", "toy.toml")


def test_a_measurement_fills_its_row_in_both_tables(tmp_path):
    assert read_reproductions(tmp_path / "nothing") == {}
    path = write_reproduction(record(), tmp_path / "made")
    assert path.name == "umx.json"
    records = read_reproductions(tmp_path / "made")
    filled = [(t.id, row.id) for t, row in published_rows() if measured(records, t, row)]
    assert filled == [("d3net", "umx"), ("demucs", "umx")]


@pytest.mark.parametrize(
    "changes",
    [
        {"partial": True},
        {"tracks": 49},
        {"data": "musdb18hq"},
        {"subset": "train"},
        {"metric": "usdr"},
        {"estimator": "umx"},
        {"sdr": {"vocals": 6.3}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_any_other_measurement_fills_nothing(changes):
    records = {"umx": record(**changes)}
    assert not any(measured(records, table, row) for table, row in published_rows())


def test_a_partial_result_leaves_a_whole_one_alone(tmp_path):
    write_reproduction(record(), tmp_path)
    assert write_reproduction(record(partial=True, tracks=3), tmp_path).name == "umx.partial.json"
    assert read_reproductions(tmp_path)["umx"].tracks == 50


def test_records_that_are_none_are_named(tmp_path):
    path = write_reproduction(record(), tmp_path)
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"average": "high"}))
    with pytest.raises(UsageError, match=r"umx\.json is not a record.*average"):
        read_reproductions(tmp_path)
    path.write_text("{")
    with pytest.raises(UsageError, match=r"umx\.json is not a record"):
        read_reproductions(tmp_path)
    path.write_text(json.dumps(fields))
    path.rename(tmp_path / "d3net.json")
    with pytest.raises(UsageError, match=r"should be named umx\.json"):
        read_reproductions(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another folder with --record"):
        write_reproduction(record(), tmp_path / "file" / "below")


def page(folder: Path) -> str:
    spec = importlib.util.spec_from_file_location("make_tables", DOCS / "make_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page(folder)


def cells(text: str, row: str) -> list[list[str]]:
    """Of every line of the two tables that is about the row."""
    lines = text.partition("## What can be run")[0].splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith(f"| `{row}` |")]


def test_the_page_shows_claims_and_an_empty_column(tmp_path):
    text = page(tmp_path)
    for table in published_tables():
        assert f"{{: #{table.id} }}" in text
    for _, row in published_rows():
        for line in cells(text, row.id):
            assert line[-1] == ""
            assert (row.evidence == "from memory") == ("unverified" in line[1])
            assert row.reconstruction == ("reconstruction" in line[1])
    assert "**Measured:**" not in text


def test_the_page_shows_a_measurement_apart_from_the_claims(tmp_path):
    write_reproduction(record(), tmp_path)
    write_reproduction(record(row="d3net", estimator="d3net-official", partial=True), tmp_path)
    text = page(tmp_path)
    lines = cells(text, "umx")
    assert len(lines) == 2
    for line in lines:
        assert line[3:8] == ["6.32", "5.73", "5.23", "4.02", "5.33"]
        assert line[-1] == "**6.31 / 5.72 / 5.23 / 4.04, mean 5.33**"
    assert [line[-1] for line in cells(text, "d3net")] == ["", ""]
    assert text.count("`iseparate reproduce umx --data musdb18:PATH`, a machine, 2 cores, commit 0123abc") == 2
