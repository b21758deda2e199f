"""``iseparate data sounds``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from iseparate.cli.console import out, plain, print_table


def sounds(
    notice: Annotated[bool, typer.Option("--notice", metavar="", help="Print the credits of those that are here.")] = (
        False
    ),
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print as JSON.")] = False,
) -> None:
    """List the sampled sounds the synthetic band can play: what is here, how to install the rest, and the licences.

    Songs play them with [bold]synthesize --sounds installed[/bold], or as [bold]synthetic:HOURS@SEED+installed[/bold].
    """
    from iseparate.data.synthetic.sampled.sources import OWN_SOUNDS, SOURCES, installed
    from iseparate.data.synthetic.sampled.sources import notice as notice_of

    if notice:
        typer.echo(notice_of([OWN_SOUNDS, *(source.credit_line() for source in installed())]), nl=False)
        return
    found = [(source, source.refusal()) for source in SOURCES]
    if as_json:
        rows = [
            {
                "name": source.name,
                "title": source.title,
                "plays": list(source.plays),
                "licence": source.licence,
                "credit": source.credit,
                "allowed": source.allowed,
                "used": not refusal,
                "reason": refusal,
                "install": source.install,
            }
            for source, refusal in found
        ]
        typer.echo(json.dumps(rows, indent=2))
        return

    from rich.table import Table

    table = Table("", "sounds", "play", "licence", "", box=None)
    for source, refusal in found:
        mark = (
            "[green]\u2713[/green]"
            if not refusal
            else "[yellow]\u2022[/yellow]"
            if source.allowed
            else "[red]\u2717[/red]"
        )
        why = f"{refusal}: {source.install}" if refusal and source.allowed else refusal
        table.add_row(mark, plain(source.title), ", ".join(source.plays), source.licence, plain(why))
    print_table(table)
    used = sum(not refusal for _, refusal in found)
    out.print(f"{used} of {sum(source.allowed for source, _ in found)} sources that may be used are here")
