"""The page of the models, out of their cards and of what the benchmarks wrote.

    python docs/make_zoo.py

Writes ``docs/zoo.md``; a build of the site does the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from iseparate.weights.card import Card, CardFile, MeasuredScore, PublishedScore, load_cards
from iseparate.weights.load import published_systems

PAGE = Path(__file__).parent / "zoo.md"
SONGS = Path(__file__).parent.parent / "bench" / "results" / "songs.json"

INTRODUCTION = """\
# Models

Each model is a *card*: a file that says where its weights lie, what they were trained on, and what may be done with
them. This page is made of the cards. `iseparate models info MODEL` prints one of them.

- *Real weights run here*: the project has fetched these very weights and compared their output with the original
  program's. *Format proven by golden*: the project has never run these very files; their format is read, and the
  network proven equal, on small checkpoints that the original program wrote (see [Parity](explanation/parity.md)).
- An id that ends in `-official` runs the same weights in their publisher's own setting.
- *Published* scores were printed by somebody else; *measured* ones by a command of this repository. The two are
  never mixed.
"""


def page() -> str:
    """The whole page in Markdown."""
    cards = sorted(load_cards().values(), key=lambda card: card.id)
    songs = json.loads(SONGS.read_text(encoding="utf-8")) if SONGS.exists() else None
    lines = [INTRODUCTION, *_overview(cards)]
    for card in cards:
        lines += _section(card, songs)
    lines += _systems()
    return "\n".join(lines).rstrip() + "\n"


def write() -> None:
    """Write the page, if it has changed: a server that watches the folder builds anew at each write."""
    text = page()
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        PAGE.write_text(text, encoding="utf-8")


def _systems() -> Iterator[str]:
    """What can be built without weights."""
    yield from (
        "## Systems of the literature {: #systems }",
        "",
        "`iseparate.build_model(NAME)` builds each with its published hyper-parameters and random weights, ready for",
        "training. *Reconstruction*: neither paper nor code gives all of its hyper-parameters; its file says which are",
        "inferred. Parameters are counted here, of all targets' networks together.",
        "",
        "| system | what | stems | parameters | |",
        "| --- | --- | --- | --- | --- |",
    )
    for system in sorted(published_systems(), key=lambda system: system.name):
        mark = "reconstruction" if system.reconstruction else ""
        row = (f"`{system.name}`", system.summary, ", ".join(system.stems), f"{system.parameters:,}", mark)
        yield "| " + " | ".join(row) + " |"


def _overview(cards: Sequence[Card]) -> Iterator[str]:
    yield from (
        "| model | stems | licence of the weights | commercial use | status |",
        "| --- | --- | --- | --- | --- |",
    )
    for card in cards:
        row = (f"[`{card.id}`](#{_anchor(card)})", ", ".join(card.stems), card.weights_licence)
        yield "| " + " | ".join((*row, _allowed(card), card.status)) + " |"
    yield ""


def _section(card: Card, songs: dict[str, Any] | None) -> Iterator[str]:
    yield from (f"## {card.title} {{: #{_anchor(card)} }}", "", card.summary, "")
    if card.notes:
        yield from (card.notes.strip(), "")
    yield from (f"```console\n$ iseparate models pull {card.id}\n$ iseparate song.mp3 -n {card.id}\n```", "")
    facts = {
        "id": f"`{card.id}`",
        "stems": ", ".join(card.stems),
        "status": card.status,
        "architecture": f"`{card.arch}`" + (", a reconstruction" if card.reconstruction else ""),
        "sample rate": f"{card.sample_rate_hz} Hz, {card.channels} channels",
        "settings": ", ".join(f"`{name} = {value}`" for name, value in card.settings.items()) or "the checkpoint's",
        "shares weights with": f"[`{card.variant_of}`](#{card.variant_of})" if card.variant_of else "",
        "licence of the code": card.code_licence,
        "licence of the weights": card.weights_licence,
        "commercial use": _allowed(card),
        "training data": card.training_data,
        "files": "<br>".join(_file(file) for file in card.files),
        "references": "<br>".join(_linked(reference) for reference in card.references),
    }
    yield from ("| fact | value |", "| --- | --- |")
    yield from (f"| {name} | {value} |" for name, value in facts.items() if value)
    yield ""
    yield from _published(card.published_scores)
    yield from _measured(card.measured_scores)
    if songs:
        yield from _songs(card, songs)


def _published(scores: Sequence[PublishedScore]) -> Iterator[str]:
    for score in scores:
        yield from (f"**Published:** {score.dataset}. {score.metric}. Source: {score.source}.", "")
        yield from _values(score.values)


def _measured(scores: Sequence[MeasuredScore]) -> Iterator[str]:
    for score in scores:
        birthplace = f"`{score.command}`, {score.machine}, commit {score.commit}, {score.date}"
        yield from (f"**Measured:** {score.dataset}. {score.metric}. {birthplace}.", "")
        yield from _values(score.values)


def _values(values: dict[str, float]) -> Iterator[str]:
    yield "| " + " | ".join(values) + " |"
    yield "|" + " --- |" * len(values)
    yield "| " + " | ".join(f"{value:.2f}" for value in values.values()) + " |"
    yield ""


def _songs(card: Card, songs: dict[str, Any]) -> Iterator[str]:
    """What `bench/songs.py` measured of this model, column by column as it wrote them."""
    rows = [row for row in songs["rows"] if row["estimate"] == card.id]
    if not rows:
        return
    yield (
        "**Measured:** real songs, SDR as museval computes it on windows of 1 s, median over the windows; null: energy "
        "of the song minus its stems against the song's. "
        f"`bench/songs.py`, {songs['date']}, commit {songs['commit']}, {songs['processor']}, {songs['cores']} cores."
    )
    yield ""
    headings = [heading for heading in rows[0] if heading != "estimate"]
    yield "| " + " | ".join(headings) + " |"
    yield "|" + " --- |" * len(headings)
    yield from ("| " + " | ".join(row[heading] for heading in headings) + " |" for row in rows)
    yield ""


def _file(file: CardFile) -> str:
    promised = file.sha256 or file.archive_sha256
    of = "" if file.sha256 or not promised else " of the archive"
    return f"`{file.source}`, " + (f"SHA-256{of} `{promised[:16]}…`" if promised else "no published SHA-256")


def _linked(reference: str) -> str:
    """A reference with its address made a link."""
    words = reference.split(" ")
    return " ".join(f"<{word}>" if word.startswith("https://") else word for word in words)


def _allowed(card: Card) -> str:
    return "allowed" if card.commercial_use else "**forbidden**"


def _anchor(card: Card) -> str:
    return card.id


if __name__ == "__main__":
    write()
