"""``iseparate models list|info|pull|remove|import|export``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from iseparate.cli import console
from iseparate.cli.console import download_bar, note, out
from iseparate.cli.options import complete_model, open_store
from iseparate.errors import OutputError, UsageError

if TYPE_CHECKING:
    from iseparate.cli.catalogue import Claim
    from iseparate.train.publish import Statements
    from iseparate.weights.card import Card, MeasuredScore, PublishedScore
    from iseparate.weights.systems import PublishedSystem

models = typer.Typer(no_args_is_help=True, help="The models: which there are, their licences, their weights.")

Id = Annotated[str, typer.Argument(metavar="MODEL", autocompletion=complete_model)]
Json = Annotated[bool, typer.Option("--json", metavar="", help="Print as JSON.")]
Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="FILE", readable=False, help="File to write, ending in .safetensors.")
]

MARKS = {
    "trained with iseparate": "",
    "real weights run here": "",
    "format proven by golden": " *",
    "format read off the code": " **",
}
"""After the word on a model's weights in the list: what its status is."""
CARD = "Of the checkpoint of a training: its card"


@models.command("list")
def list_models(as_json: Json = False) -> None:
    """Every model: stems with published scores, network, parity measured, licence, and whether its weights are here."""
    from iseparate.cli.catalogue import claims_of, entries, system_of
    from iseparate.weights.card import OFFICIAL_SUFFIX, cards_of, load_cards

    cards = sorted(load_cards().values(), key=lambda card: card.id)
    cached_weights = {entry.weights_id for entry in open_store().list()}
    here = {
        card.id
        for card in cards
        if all(part.in_package or part.weights_id in cached_weights for part in cards_of(card))
    }
    official = {card.variant_of: card for card in cards if card.variant_of}
    if as_json:
        rows = [{**_for_machines(card), "cached": card.id in here} for card in cards]
        typer.echo(json.dumps(rows, indent=2))
        return
    table = _list_table("weights", "their licence")
    stacked = console.out.is_terminal
    for card in cards:
        if stacked and card.variant_of:
            continue
        variant = official.get(card.id) if stacked else None  # on a terminal it shares the model's row
        cached = "here" if card.id in here else "to fetch"
        licence = escape(_without_remarks(card.weights_licence)) + ("" if card.commercial_use else " (not commercial)")
        name = f"{card.id}\n  {OFFICIAL_SUFFIX}" if variant else card.id
        scored = _scored(card.stems, claims_of([card, variant] if variant else [card]))
        table.add_row(name, scored, *_network_cells(system_of(card)), _stack(cached + MARKS[card.status], licence))
    console.print_table(table)
    if without := [entry for entry in entries() if not entry.models]:
        console.print_prose("\nSystems without published weights, which `iseparate.build_model` builds for training:\n")
        table = _list_table()
        for entry in without:
            name = entry.system.name + (" †" if entry.system.reconstruction else "")
            table.add_row(name, _scored(entry.system.stems, entry.claims), *_network_cells(entry.system))
        console.print_table(table)
    console.print_prose(
        "\nSDR in dB, [bold]claimed[/bold]: as others printed it, of the official setting. "
        "Parity, [bold]measured[/bold]: the largest difference from the original program's output on any golden of "
        "the network, full scale being 1. `iseparate models info MODEL` names papers and sources, and remarks on the "
        "licence.\n"
        f"{OFFICIAL_SUFFIX}  the same weights, run as their publisher runs them: a model of its own\n"
        "*  format proven by golden: these very weights were never run by the project, small ones like them were\n"
        "**  format read off the code: no file that the original program wrote was at hand\n"
        "†  reconstruction: neither paper nor code gives all of its hyper-parameters\n"
        "?  printed elsewhere, not yet checked at its source"
    )


@models.command()
def systems(as_json: Json = False) -> None:
    """The systems of the literature that iseparate.build_model builds, for training, with their sizes."""
    from dataclasses import asdict

    from iseparate.weights.systems import published_systems

    found = sorted(published_systems(), key=lambda system: system.name)
    if as_json:
        typer.echo(json.dumps([asdict(system) for system in found], indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("system", no_wrap=True)
    table.add_column("stems")
    table.add_column("parameters", justify="right", no_wrap=True)
    for system in found:
        mark = " *" if system.reconstruction else ""
        table.add_row(system.name + mark, ", ".join(system.stems), f"{system.parameters:,}")
    console.print_table(table)
    console.print_prose("\n* reconstruction: neither paper nor code gives all of its hyper-parameters")


@models.command()
def info(model: Id, as_json: Json = False) -> None:
    """All that is known of a model: origin, settings, licences, training data, scores."""
    from iseparate.weights.card import cards_of, find_card

    card = find_card(model)
    entries = {entry.weights_id: entry for entry in open_store().list()}
    parts = [(part, entries.get(part.weights_id)) for part in cards_of(card)]
    if as_json:
        places = [{"path": str(entry.path), "sha256": entry.weights_sha256} for _, entry in parts if entry]
        cached = None if len(places) < len(parts) else {"parts": places} if card.parts else places[0]
        typer.echo(json.dumps({**_for_machines(card), "cached": cached}, indent=2))
        return
    console.print_prose(f"[bold]{escape(card.id)}[/bold]  {escape(card.title)}\n\n{escape(card.summary)}\n")
    if card.notes:
        console.print_prose(escape(card.notes.strip()) + "\n")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _facts(card).items():
        table.add_row(name, escape(value))
    for part, entry in parts:
        name = f"weights of {part.id}" if card.parts else "weights"
        if entry:
            place = f"{entry.path} ({console.megabytes(entry.size_bytes)})"
        else:
            place = "come with this package" if part.in_package else f"to fetch: iseparate models pull {part.id}"
        table.add_row(name, escape(place))
        if entry:
            table.add_row("sha256", entry.weights_sha256)
    console.print_table(table)


@models.command()
def pull(
    names: Annotated[list[str], typer.Argument(metavar="MODEL", autocompletion=complete_model)],
    force: Annotated[bool, typer.Option("--force", metavar="", help="Fetch anew what is here already.")] = False,
) -> None:
    """Fetch and verify weights, for use offline."""
    from iseparate.weights import load
    from iseparate.weights.card import cards_of, find_card

    store = open_store()
    for card in [part for name in names for part in cards_of(find_card(name))]:
        with download_bar() as bar:
            entry = load.pull(card, store, bar, force)
        out.print(f"[green]✓[/green] {card.id}: {console.megabytes(entry.size_bytes)} in {escape(str(entry.path))}")
        console.print_prose(
            f"  licence of the weights: {escape(card.weights_licence)}; trained on: {escape(card.training_data)}"
        )


@models.command()
def remove(model: Id) -> None:
    """Delete a model's weights from the cache."""
    from iseparate.weights.card import find_card

    card = find_card(model)
    if card.parts:
        raise UsageError(f"{card.id} has no weights of its own: it is made of {' and '.join(card.parts)}; remove these")
    if open_store().remove(card.weights_id):
        out.print(f"[green]✓[/green] the weights of {card.weights_id} are removed")
    else:
        note(f"the weights of {card.weights_id} were not here")


@models.command("import")
def import_(
    checkpoint: Annotated[
        Path, typer.Argument(readable=False, help="An official checkpoint: a file, or the folder of several.")
    ],
    out_file: Out,
    arch: Annotated[str | None, typer.Option(help="Architecture, where the files do not tell.")] = None,
) -> None:
    """Convert an official checkpoint to a weights file for [bold]-n FILE[/bold]."""
    from iseparate.weights.load import import_weights, write_weights

    _check_target(out_file)
    weights = import_weights([checkpoint], arch)
    _place(out_file, lambda path: write_weights(path, weights))
    out.print(f"[green]✓[/green] {escape(str(out_file))}: {weights.arch}, {len(weights.state)} tensors")


@models.command()
def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete_model,
            help="A model's id, a weights file, or a checkpoint of a training.",
        ),
    ],
    out_file: Out,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Title on the card.", rich_help_panel=CARD)] = None,
    licence: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Licence of the weights, such as CC-BY-4.0.", rich_help_panel=CARD),
    ] = None,
    commercial_use: Annotated[
        bool, typer.Option("--commercial-use", metavar="", help="The licence allows it.", rich_help_panel=CARD)
    ] = False,
    training_data: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What it was trained on.", rich_help_panel=CARD)
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Where others will find the file: hf:..., https:...", rich_help_panel=CARD),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", metavar="", help="In 16-bit floating point: a file of half the size.")
    ] = False,
    readme: Annotated[
        bool,
        typer.Option("--readme", metavar="", help="Write a README.md for a model hub as well.", rich_help_panel=CARD),
    ] = False,
    average: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which moving average of the weights; none: the weights themselves. By default what was validated.",
            rich_help_panel=CARD,
        ),
    ] = None,
) -> None:
    """Write a model, weights and settings, to a file for [bold]-n FILE[/bold]; of a training, a card beside it."""
    from iseparate.train.publish import Statements, is_training_checkpoint
    from iseparate.weights import load

    _check_target(out_file)
    if is_training_checkpoint(Path(model)):
        statements = Statements(title, licence, commercial_use, training_data, source)
        _publish(Path(model), out_file, statements, readme, average, half)
        return
    if model.endswith(".ckpt") and not _exists(model):
        raise UsageError(f"there is no file {model}; the checkpoints of a training lie in the folder that it named")
    if any([title, licence, commercial_use, training_data, source, readme, average]):
        raise UsageError(
            f"{model} is no checkpoint of a training, whose card these options fill; leave them out, or name one such "
            "as trained/demo/last.ckpt"
        )
    with download_bar() as bar:
        ready = load.load_ready(model, store=open_store(), progress=bar)
    _place(out_file, lambda path: load.write_weights(path, ready.weights(), half=half))
    out.print(f"[green]✓[/green] {escape(str(out_file))}")


def _publish(
    checkpoint: Path, out_file: Path, statements: Statements, readme: bool, average: str | None, half: bool
) -> None:
    """Weights, card and page of a training's checkpoint."""
    from iseparate.train.publish import NOT_STATED, check_id, make_card, make_page, read_trained
    from iseparate.weights.load import write_weights

    check_id(out_file)
    page_file = out_file.with_name("README.md")
    if readme and page_file.exists():
        raise UsageError(f"{page_file} is there already and is not overwritten; choose a folder of its own with -o")
    trained = read_trained(checkpoint, average)
    made = [out_file, out_file.with_suffix(".toml")]
    _place(out_file, lambda path: write_weights(path, trained.weights, half=half))
    card = make_card(trained, out_file, statements)
    _place(made[1], lambda path: path.write_text(card, encoding="utf-8"))
    if readme:
        page = make_page(trained, card)
        _place(page_file, lambda path: path.write_text(page, encoding="utf-8"))
        made.append(page_file)
    for path in made:
        out.print(f"[green]✓[/green] {escape(str(path))}")
    if statements.licence is None:
        note(f"the card says that the licence is {NOT_STATED}: give --licence before you publish it")
    if not trained.scores:
        note("the card has no scores: these weights were not judged on whole songs when they were saved")


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # such as a name that is too long
        return False


def _check_target(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise UsageError(f"the weights file must end in .safetensors, got {path}")


def _place(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file that gets its name when it is whole."""
    from safetensors import SafetensorError

    fresh = path.with_name(path.name + ".part")
    try:
        write(fresh)
        fresh.replace(path)
    except (OSError, SafetensorError) as error:  # safetensors wraps the system's errors
        reason = error.strerror if isinstance(error, OSError) else error
        raise OutputError(f"{path} cannot be written ({reason}); choose another place with -o") from error
    finally:
        with suppress(OSError):
            fresh.unlink()


def _list_table(*last: str) -> Table:
    """An empty table; `last`: the lines of one more column's heading."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    network = ("network", "paper") if console.out.is_terminal else ("network",)
    for heading in (("stems", "SDR claimed"), network, ("parity", "measured"), *([last] if last else [])):
        table.add_column(_stack(*heading))
    return table


def _stack(*lines: str) -> str:
    """Facts of one cell: below each other on a terminal, on one line where it goes to a file."""
    return "\n".join(lines) if console.out.is_terminal else ", ".join(lines)


def _without_remarks(licence: str) -> str:
    """``"MIT (README of the repository)"`` as ``"MIT"``: a remark may be longer than a line."""
    return licence.partition(" (")[0]


def _scored(stems: Sequence[str], claims: Sequence[Claim]) -> str:
    """Stems, with what the first of the claims says of them."""
    if not claims:
        return ", ".join(stems)
    doubt = "" if claims[0].verified else "?"
    values = {stem: f" {value:.2f}{doubt}" for stem, value in claims[0].values.items()}
    return ", ".join(stem + values.get(stem, "") for stem in stems)


def _network_cells(system: PublishedSystem | None) -> tuple[str, str]:
    """Domain, size and, where there is a line for it, paper; parity."""
    from iseparate.cli.catalogue import short_paper
    from iseparate.weights.parity import measured_parity

    if system is None:
        return "", ""
    worst = measured_parity().worst([system.name])
    size = f"{system.domain}, {system.parameters / 1e6:.1f} M"
    network = f"{size}\n{escape(short_paper(system.paper))}" if console.out.is_terminal else size
    return network, f"{worst.error:.1e}" if worst else ""


def _for_machines(card: Card) -> dict[str, Any]:
    """A card with what is known of its network."""
    from dataclasses import asdict

    from iseparate.cli.catalogue import system_of
    from iseparate.weights.parity import measured_parity

    system = system_of(card)
    worst = measured_parity().worst([system.name]) if system else None
    return {
        **card.model_dump(mode="json"),
        "system": asdict(system) if system else None,
        "measured_parity": asdict(worst) if worst else None,
    }


def _facts(card: Card) -> dict[str, str]:
    from iseparate.cli.catalogue import system_of
    from iseparate.weights.parity import measured_parity

    system = system_of(card)
    worst = measured_parity().worst([system.name]) if system else None
    facts: dict[str, Any] = {
        "architecture": card.arch + (" (reconstruction)" if card.reconstruction else ""),
        "network": f"{system.domain}, {system.parameters:,} parameters" if system else "",
        "paper": system.paper if system else "",
        "stems": ", ".join(card.stems),
        "sample rate": f"{card.sample_rate_hz} Hz, {card.channels} channels",
        "settings": ", ".join(f"{name} = {value}" for name, value in card.settings.items())
        or ("" if card.status == "trained with iseparate" else "as published"),
        "status": card.status,
        "parity, measured": f"{worst.error:.1e} of full scale at most (tolerance {worst.tolerance:.0e}; golden "
        f"{worst.golden}, {worst.variant})"
        if worst
        else "",
        "licence of code": card.code_licence,
        "licence of weights": card.weights_licence + ("" if card.commercial_use else ": not for commercial use"),
        "training data": card.training_data,
        "made of": ", ".join(card.parts),
        "source": ", ".join(file.source for file in card.files),
        "references": ", ".join(card.references),
        "more": f"docs/{card.page}" if card.page else "",
    }
    scores: list[tuple[str, PublishedScore | MeasuredScore, str]] = [
        *((f"published, {score.dataset}", score, score.source) for score in card.published_scores),
        *((f"measured, {score.dataset}", score, f"{score.command}, {score.date}") for score in card.measured_scores),
    ]
    for name, score, origin in scores:
        values = ", ".join(f"{stem} {value}" for stem, value in score.values.items())
        before = f"{facts[name]}\n" if name in facts else ""
        facts[name] = f"{before}{values} ({score.metric}; {origin})"
    return {name: str(value) for name, value in facts.items() if value}
