"""The pages on data sets name what the program knows."""

from __future__ import annotations

import re
from pathlib import Path

from iseparate.data.check import CODES
from iseparate.data.datasets.folder import ALIASES
from iseparate.data.kinds import kinds

DOCS = Path(__file__).parents[2] / "docs"


def rows(page: str):
    text = (DOCS / page).read_text(encoding="utf-8")
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line[:2] == "| "]


def test_every_code_is_explained():
    listed = [code for row in rows("how-to/data.md") for code in re.findall(r"`([a-z-]+)`", row[0])]
    assert sorted(listed) == sorted(CODES)


def test_every_spelling_is_listed():
    table = {row[0].strip("`"): tuple(row[1].split(", ")) for row in rows("reference/datasets.md") if len(row) == 2}
    assert {name: table.get(name) for name in ALIASES} == ALIASES


def test_the_kinds_that_are_listed_exist():
    listed = {row[0].strip("`") for row in rows("reference/datasets.md") if len(row) == 4} - {"kind", "---"}
    assert listed <= set(kinds())
    assert {"musdb18", "musdb18hq", "folder", "msst-3"} <= listed
