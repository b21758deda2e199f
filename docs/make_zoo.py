"""The page of the models, out of their cards and of what the benchmarks wrote.

    python docs/make_zoo.py

Writes ``docs/zoo.md``; a build of the site does the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from iseparate.cli.catalogue import Entry, entries, short_paper, split_paper, system_of
from iseparate.weights.card import Card, CardFile, MeasuredScore, PublishedScore, load_cards
from iseparate.weights.parity import measured_parity

PAGE = Path(__file__).parent / "zoo.md"
RESULTS = Path(__file__).parent.parent / "bench" / "results"
FOUR = ("vocals", "drums", "bass", "other")

INTRODUCTION = """\
---
hide: [toc]
---

<style>.md-typeset table:not([class]) :is(th, td) { min-width: 0; padding: 0.5em 0.6em }</style>

# Models

Every system of the literature that iseparate builds, and every *card*: a file that says where weights lie, what they
were trained on, and what may be done with them. This page is made of them. `iseparate models list` shows the same,
`iseparate models info MODEL` one model.

- **Claimed**: printed by somebody else, and copied. **Measured**: printed by a command of this repository, which is
  named. The two are never mixed.
- *Reconstruction*: neither paper nor code gives all hyper-parameters of the system; its file says which are inferred.
- An id that ends in `-official` runs the same weights in their publisher's own setting.
"""

COLUMNS = """\
- **parameters**: counted, of all targets' networks together.
- **published weights**: the models that have them, or hold them among others.
- **parity, measured**: largest difference from the original program's output over all goldens of the system, full
  scale being 1; the [tolerance](explanation/parity.md) in brackets. Where no golden stands for a system, nothing was
  compared with an original: no program is published. The place of Wave-U-Net's, which wants TensorFlow 1, takes a
  second implementation of its graph in NumPy, equal within 1e-5. MMDenseNet's and MMDenseLSTM's are those of a
  community re-implementation, so there parity proves the same reading of the papers, no more.
- **one pass, measured**: how far a song in the engine's default segments is from one pass over all of it: energy of the
  difference against the stem's in dB, worst stem. *Exact*: a network of finite context, below -100 dB, which is
  rounding. *One segment*: it holds all of the song, so nothing was compared. *Random weights*: none were at hand; a
  trained network may remember longer, so the figure is an order of magnitude at best.
- **SDR, claimed**: of vocals, drums, bass, other in dB where nothing else is said, in the official setting; its source
  below.
"""

STATUS = """\
*Trained with iseparate*: there is no other program to compare it with; what it does to real songs was measured. *Real
weights run here*: the project has fetched these very weights and compared their output with the original program's.
*Format proven by golden*: the project has never run these very files; their format is read, and the network proven
equal, on small checkpoints that the original program wrote (see [Parity](explanation/parity.md)). *Format read off
the code*: neither these files nor any that the original program wrote were at hand; the format follows the program's
source code, and the model's notes say what the network was compared with instead.
"""


def page() -> str:
    """The whole page in Markdown."""
    cards = sorted(load_cards().values(), key=lambda card: card.id)
    songs, chunking = _results("songs"), _results("chunking")
    lines = [INTRODUCTION, *_systems(chunking), *_overview(cards)]
    for card in cards:
        lines += _section(card, songs, chunking)
    return "\n".join(lines).rstrip() + "\n"


def _results(name: str) -> dict[str, Any] | None:
    """What a benchmark wrote, if it ever ran."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write() -> None:
    """Write the page, if it has changed: a server that watches the folder builds anew at each write."""
    text = page()
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        PAGE.write_text(text, encoding="utf-8")


def _systems(chunking: dict[str, Any] | None) -> Iterator[str]:
    """One row per system, and where its figures come from."""
    found = entries()
    yield from ("## Systems of the literature {: #systems }", "")
    yield from (
        "| system | paper | domain | parameters | published weights | parity, measured | one pass, measured "
        "| SDR, claimed | licence of the weights |",
        "| --- | --- | --- | ---: | --- | --- | --- | --- | --- |",
    )
    notes: list[str] = []
    for entry in found:
        yield "| " + " | ".join(_system_cells(entry, chunking, notes)) + " |"
    record = measured_parity()
    yield from ("", COLUMNS)
    birth = f"{record.date}, commit {record.commit}, {record.processor}"
    yield f"**Measured:** parity by `docs/measure_parity.py`, {birth}."
    if chunking:
        yield f"One pass by `bench/chunking.py` ({chunking['title']}), {_birth(chunking)}."
    yield from ("", "**Claimed:** sources of the scores", "", *notes, "")
    yield from (
        "`iseparate.build_model(NAME)` builds each with its published hyper-parameters and random weights, ready for",
        "training.",
        "",
    )


def _system_cells(entry: Entry, chunking: dict[str, Any] | None, notes: list[str]) -> Iterator[str]:
    system = entry.system
    words, address = split_paper(system.paper)
    yield f"`{system.name}`" + ("<br>*reconstruction*" if system.reconstruction else "")
    yield f'[{short_paper(system.paper)}]({address} "{words}")'
    yield system.domain
    yield f"{system.parameters:,}"
    own = [model for model in entry.models if model.variant_of is None]
    yield "<br>".join(f"[`{model.id}`](#{_anchor(model)})" for model in own) or "none published"
    worst = entry.parity
    yield f"{worst.error:.1e}<br>({worst.tolerance:.0e})" if worst else ""
    yield _deviation(system.name, chunking) or "*not measured*"
    yield _claimed(entry, notes)
    yield "<br>".join(dict.fromkeys(model.weights_licence for model in own))


def _deviation(name: str, chunking: dict[str, Any] | None) -> str:
    """What `bench/chunking.py` measured of a system or model, in words."""
    row = next((row for row in (chunking or {}).get("rows", []) if name in row["system"].split(", ")), None)
    if row is None:
        return ""
    if row["deviation dB"] == "one segment":
        return "*one segment*"  # nothing was compared
    return row["deviation dB"].replace(" (exact)", " *(exact)*") + (
        "" if row["weights"] == "real" else "<br>*random weights*"
    )


def _claimed(entry: Entry, notes: list[str]) -> str:
    """The first claim, and a note on the source of each; `notes` gathers them."""
    for claim in entry.claims:
        doubt = "" if claim.verified else " **Not yet checked at its source.**"
        values = ", ".join(f"{stem} {value:.2f}" for stem, value in claim.values.items())
        notes.append(f"- `{entry.system.name}`: {values}. {claim.metric}. Source: {_linked(claim.source)}.{doubt}")
    if not entry.claims:
        return ""
    first = entry.claims[0]
    if set(first.values) == set(FOUR):
        figures = " / ".join(f"{first.values[stem]:.2f}" for stem in FOUR)
    else:
        figures = ", ".join(f"{stem} {value:.2f}" for stem, value in first.values.items())
    return figures + ("" if first.verified else "<br>*unverified*")


def _overview(cards: Sequence[Card]) -> Iterator[str]:
    yield from ("## Models by card {: #models }", "", STATUS)
    yield from (
        "| model | stems | licence of the weights | commercial use | status |",
        "| --- | --- | --- | --- | --- |",
    )
    for card in cards:
        row = (f"[`{card.id}`](#{_anchor(card)})", ", ".join(card.stems), card.weights_licence)
        yield "| " + " | ".join((*row, _allowed(card), card.status)) + " |"
    yield ""


def _section(card: Card, songs: dict[str, Any] | None, chunking: dict[str, Any] | None = None) -> Iterator[str]:
    yield from (f"## {card.title} {{: #{_anchor(card)} }}", "", card.summary, "")
    if card.notes:
        yield from (card.notes.strip(), "")
    pull = "" if card.in_package else f"$ iseparate models pull {card.id}\n"
    yield from (f"```console\n{pull}$ iseparate song.mp3 -n {card.id}\n```", "")
    system = system_of(card)
    facts = {
        "id": f"`{card.id}`",
        "more": f"[data, training, measurements]({card.page})" if card.page else "",
        "made of": ", then ".join(f"[`{part}`](#{part})" for part in card.parts),
        "stems": ", ".join(card.stems),
        "status": card.status,
        "architecture": f"`{card.arch}`" + (", a reconstruction" if card.reconstruction else ""),
        "network": f"{system.domain}, {system.parameters:,} parameters; system `{system.name}`" if system else "",
        "paper": _linked(system.paper) if system else "",
        "parity, measured": _parity(system.name if system else ""),
        "one pass, measured": _deviation(card.id, chunking)
        or ("" if card.variant_of or not system else _deviation(system.name, chunking)),
        "sample rate": f"{card.sample_rate_hz} Hz, {card.channels} channels",
        "settings": ", ".join(f"`{name} = {value}`" for name, value in card.settings.items())
        or ("" if card.parts else "the checkpoint's"),
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


def _parity(system: str) -> str:
    worst = measured_parity().worst([system])
    if worst is None:
        return ""
    return f"{worst.error:.1e} of full scale at most (tolerance {worst.tolerance:.0e}); golden `{worst.golden}`"


def _published(scores: Sequence[PublishedScore]) -> Iterator[str]:
    for score in scores:
        yield from (f"**Claimed:** {score.dataset}. {score.metric}. Source: {score.source}.", "")
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
        f"`bench/songs.py`, {_birth(songs)}."
    )
    yield ""
    headings = [heading for heading in rows[0] if heading != "estimate"]
    yield "| " + " | ".join(headings) + " |"
    yield "|" + " --- |" * len(headings)
    yield from ("| " + " | ".join(row[heading] for heading in headings) + " |" for row in rows)
    yield ""


def _birth(result: dict[str, Any]) -> str:
    """When and where a benchmark ran."""
    return f"{result['date']}, commit {result['commit']}, {result['processor']}, {result['cores']} cores"


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
