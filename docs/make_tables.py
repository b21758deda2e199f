"""The page of the literature's tables: what papers printed, beside what a command of this repository measured.

    python docs/make_tables.py

Writes ``docs/tables.md`` out of ``src/iseparate/evaluate/tables`` and ``bench/results/reproduced``; a build of the
site does the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from iseparate.evaluate.published import (
    PublishedRow,
    PublishedTable,
    Reproduction,
    measured,
    published_tables,
    read_reproductions,
)

PAGE = Path(__file__).parent / "tables.md"
REPRODUCED = Path(__file__).parent.parent / "bench" / "results" / "reproduced"

INTRODUCTION = """\
# The literature's tables

Two papers print the tables that this project set out to reproduce. Their figures are *claims*: somebody else's,
copied. The last column, **measured here**, is empty until `iseparate reproduce ROW --data musdb18:PATH` has filled it
from the official weights on a machine that has the data set; nobody types into it.

- *stated*: a page or README states the figures. *Recomputed*: out of published results of each song. *From memory*:
  not yet looked up in the paper, so *unverified*; check before quoting. The papers' full texts were not at hand: which
  systems a table lists is to be checked as well.
- *Reconstruction*: neither paper nor code gives all hyper-parameters of the system, so what `iseparate.build_model`
  builds under the name is a guess in parts.
- All scores are SDR in dB. Scores by another definition do not belong beside them
  (see [Real songs](explanation/benchmarks.md#real-songs) for what is measured here on other songs).
"""


def page(reproduced: Path = REPRODUCED) -> str:
    """The whole page in Markdown."""
    records = read_reproductions(reproduced)
    lines = [INTRODUCTION]
    for table in published_tables():
        lines += _table(table, records)
    lines += _ways()
    return "\n".join(lines).rstrip() + "\n"


def write() -> None:
    """Write the page, if it has changed: a server that watches the folder builds anew at each write."""
    text = page()
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        PAGE.write_text(text, encoding="utf-8")


def _table(table: PublishedTable, records: Mapping[str, Reproduction]) -> Iterator[str]:
    yield from (f"## {table.title} {{: #{table.id} }}", "")
    yield from (f"**Published:** {_linked(table.printed_in)}.", "", f"{table.metric_definition}.", "")
    headings = ("row", "system", "extra data", *table.stems, "mean", "**measured here**")
    yield "| " + " | ".join(headings) + " |"
    yield "|" + " --- |" * len(headings)
    births = []
    for row in table.rows:
        found = measured(records, table, row)
        yield "| " + " | ".join(_cells(table, row, found)) + " |"
        if found is not None:
            births.append(f"- `{row.id}`: {_birth(found)}")
    yield ""
    for reason in table.left_out:
        yield f"Left out: {reason}."
        yield ""
    if births:
        yield from ("**Measured:**", "", *births, "")
    yield from ("Where the published figures were read:", "")
    for row in table.rows:
        yield f"- `{row.id}`: {row.origin}." + (f" {row.note}" if row.note else "")
    yield ""


def _cells(table: PublishedTable, row: PublishedRow, found: Reproduction | None) -> Iterator[str]:
    yield f"`{row.id}`"
    marks = ["unverified"] * (row.evidence == "from memory") + ["reconstruction"] * row.reconstruction
    yield row.system + (f" *({', '.join(marks)})*" if marks else "")
    yield row.extra_data or ""
    for stem in table.stems:
        yield f"{row.sdr[stem]:.2f}" if stem in row.sdr else ""
    yield "" if row.average is None else f"{row.average:.2f}"
    if found is None:
        yield ""
    else:
        stems = " / ".join(f"{found.sdr[stem]:.2f}" for stem in table.stems)
        yield f"**{stems}, mean {found.average:.2f}**"


def _birth(found: Reproduction) -> str:
    weights = f", weights `{found.weights_sha256[:16]}…`" if found.weights_sha256 else ""
    return f"`{found.command}`, {found.machine}, commit {found.commit}, {found.date}{weights}"


def _ways() -> Iterator[str]:
    """How each system can be had here: once for both tables."""
    yield from ("## What can be run {: #run }", "")
    yield from ("| row | official weights | built for training as | |", "| --- | --- | --- | --- |")
    rows = {row.id: row for table in published_tables() for row in reversed(table.rows)}
    for row in sorted(rows.values(), key=lambda row: row.id):
        if row.card:
            way = f"[`{row.card}`](zoo.md#{row.card})"
        else:
            way = f"oracle `{row.oracle}`, which needs none" if row.oracle else f"none: {row.unavailable}"
        built = f"`{row.builds}`" if row.builds else ""
        yield f"| `{row.id}` | {way} | {built} | {'reconstruction' if row.reconstruction else ''} |"
    yield ""


def _linked(text: str) -> str:
    """A sentence with its addresses made links."""
    words = []
    for word in text.split():
        address = word.rstrip(";,")
        words.append(f"<{address}>{word[len(address) :]}" if "://" in word else word)
    return " ".join(words)


if __name__ == "__main__":
    write()
