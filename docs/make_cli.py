"""The reference of the command line, out of the command line itself.

    python docs/make_cli.py

Writes ``docs/reference/cli.md``; a build of the site does the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from iseparate.cli import app

PAGE = Path(__file__).parent / "reference" / "cli.md"

# What the settings of the environment do is said where they are read; this is the one list of them.
ENVIRONMENT = """
## Environment

| variable | meaning |
| --- | --- |
| `ISEPARATE_CACHE` | Folder of the weights, instead of the user's cache. |
| `ISEPARATE_OFFLINE` | `1`: nothing is fetched. |
| `ISEPARATE_CARDS` | A folder with model cards of your own; see [Model cards](cards.md). |
| `HF_ENDPOINT`, `HF_TOKEN` | Address and token of the hub that `hf:` sources lie on. |
"""


def page() -> str:
    """The whole page in Markdown."""
    root: Any = typer.main.get_command(app)
    lines = ["# Command line", "", _prose(root.help), "", _prose(root.epilog), ""]
    for name, command in _commands(root, "iseparate"):
        lines += [f"## {name}", "", _usage(name, command), "", *_help(command), "", *_tables(command)]
    return "\n".join(lines) + ENVIRONMENT


def write() -> None:
    """Write the page, if it has changed: a server that watches the folder builds anew at each write."""
    text = page()
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        PAGE.write_text(text, encoding="utf-8")


def _commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _usage(name: str, command: Any) -> str:
    words = [name, "[OPTIONS]"]
    for argument in _parameters(command, "argument"):
        word = (argument.metavar or argument.name).upper() + ("..." if argument.nargs == -1 else "")
        words.append(word if argument.required else f"[{word}]")
    return f"```text\n{' '.join(words)}\n```"


def _help(command: Any) -> Iterator[str]:
    """The help text; what follows its line of examples is code."""
    text, _, examples = command.help.partition("[bold]Examples[/bold]")
    yield _prose(text.strip())
    if examples:
        yield f"\n```console\n{re.sub('^', '$ ', examples.strip(), flags=re.MULTILINE)}\n```"


def _tables(command: Any) -> Iterator[str]:
    arguments = [p for p in _parameters(command, "argument") if p.help]
    if arguments:
        yield from ("| argument | meaning |", "| --- | --- |")
        yield from (f"| `{(p.metavar or p.name).upper()}` | {_cell(p)} |" for p in arguments)
        yield ""
    panels: dict[str, list[Any]] = {}
    for option in _parameters(command, "option"):
        panels.setdefault(option.rich_help_panel or "", []).append(option)
    for panel, options in panels.items():
        if panel:
            yield from (f"**{panel}**", "")
        yield from ("| option | meaning |", "| --- | --- |")
        for option in options:
            names = ", ".join(f"`{name}`" for name in sorted(option.opts, key=len))
            value = "" if option.is_flag else f" *{option.metavar or 'TEXT'}*"
            yield f"| {names}{value} | {_cell(option)} |"
        yield ""


def _cell(parameter: Any) -> str:
    text = _prose(parameter.help or "").replace("|", "\\|")
    default = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    if parameter.required or default is None or default is False or callable(default):
        return text + (" Needed." if parameter.required and parameter.param_type_name == "option" else "")
    plain = isinstance(parameter.show_default, str)
    shown = default if plain else f"`{getattr(default, 'value', default)}`"
    return f"{text} Default: {shown}."


def _parameters(command: Any, kind: str) -> list[Any]:
    return [p for p in command.params if p.param_type_name == kind and "--help" not in p.opts]


def _prose(text: str) -> str:
    """Typer's markup as Markdown: what is bold in a terminal is code here; names in braces are literal."""
    text = re.sub(r"\[bold\](.*?)\[/bold\]", r"`\1`", text)
    return re.sub(r"((?:\{\w+\} ?)+)", lambda m: f"`{m[1].strip()}`", text)


if __name__ == "__main__":
    write()
