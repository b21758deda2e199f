"""The command line: ``iseparate SONG``, and the verbs around it."""

from __future__ import annotations

import io
import signal
import sys
from types import FrameType
from typing import Annotated, Any

import typer

import iseparate
from iseparate.cli.console import fail
from iseparate.cli.data import data
from iseparate.cli.default_command import DefaultCommandGroup
from iseparate.cli.demo import demo
from iseparate.cli.doctor import doctor
from iseparate.cli.evaluate import evaluate
from iseparate.cli.models import models
from iseparate.cli.reproduce import reproduce
from iseparate.cli.separate import separate
from iseparate.cli.train import train
from iseparate.errors import IseparateError, UsageError

# What Typer raises for wrong words; its public name is that of one subclass only.
_WordsError: Any = typer.BadParameter.__base__

app = typer.Typer(
    cls=DefaultCommandGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Music source separation: a song goes in, its stems come out.\n\n"
    "[bold]iseparate song.mp3[/bold] writes vocals, drums, bass and other into separated/band-4stems/song/.",
    epilog="Exit status: 0 all done, 1 some input failed (the others are done), 2 usage.",
)
app.command()(separate)
app.command()(train)
app.command()(evaluate)
app.add_typer(models, name="models")
app.add_typer(data, name="data")
app.command()(reproduce)
app.command()(doctor)
app.command()(demo)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(iseparate.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; what `iseparate` and ``python -m iseparate`` call."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A song's name can be any bytes, and a terminal may know no arrow.
            stream.reconfigure(errors="backslashreplace")
    # However the user or the system ends the run, it cleans up behind itself.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # nohup means it
            signal.signal(number, _stop)
    try:
        sys.exit(app(prog_name="iseparate", standalone_mode=False))
    except _Stopped as stopped:
        fail("stopped; finished songs are kept, and no stem is left half-written")
        sys.exit(stopped.code)
    except _WordsError as error:
        if type(error).__name__ != "NoArgsIsHelpError":  # the help was shown
            fail(_sentence(error))
        sys.exit(2)
    except UsageError as error:
        fail(str(error))
        sys.exit(2)
    except IseparateError as error:
        fail(str(error))
        sys.exit(1)


class _Stopped(SystemExit):
    """A signal asked for the end; the code is 128 + its number, as shells have it."""


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    raise _Stopped(128 + number)


def _sentence(error: Any) -> str:
    """Typer's complaint about the words on the command line, as one sentence like all others."""
    complaint = error.format_message().replace("Value error, ", "").strip().rstrip(".")
    verb = error.ctx.command_path if error.ctx else "iseparate"
    return f"{complaint[:1].lower()}{complaint[1:]}; `{verb} --help` shows what there is"
