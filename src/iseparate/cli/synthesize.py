"""``iseparate data synthesize``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from iseparate.cli.console import clock, counted, err, fail, note, out, plain


class Sounds(StrEnum):
    """Whose sounds the band plays."""

    own = "own"
    installed = "installed"


class SongFormat(StrEnum):
    """File formats of songs."""

    flac = "flac"
    wav = "wav"


def synthesize(
    hours: Annotated[float, typer.Option(metavar="N", show_default=False, help="How much music, rounded up to songs.")],
    out_folder: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", readable=False, show_default=False, help="Empty folder, or one to go on with."
        ),
    ],
    seed: Annotated[int, typer.Option(metavar="S", help="Which songs: the same seed gives the same.")] = 0,
    stems: Annotated[str, typer.Option(metavar="NAMES", help="Who plays.")] = "drums,bass,other,vocals",
    song_seconds: Annotated[float, typer.Option(metavar="S", help="Length of each song, 1 to 600.")] = 180.0,
    format_: Annotated[SongFormat, typer.Option("--format", metavar="NAME", help="flac or wav, of 24 bits.")] = (
        SongFormat.flac
    ),
    sounds: Annotated[
        Sounds,
        typer.Option(
            metavar="NAME",
            help="own, or installed: about half of the parts on sampled sounds (`iseparate data sounds`).",
        ),
    ] = Sounds.own,
    dry: Annotated[
        bool,
        typer.Option("--dry", metavar="", help="Without effects, rooms and codecs: to learn what these are worth."),
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", metavar="N", help="Processes; the songs do not change.")] = 1,
) -> None:
    """Render songs with their stems by rule, for training and tests: then use [bold]synthetic:DIR[/bold].

    A run that was stopped is gone on with by the same command; more hours add songs.
    """
    from iseparate.data.synthetic.folder import BandSettings, render_folder

    asked = tuple(name.strip() for name in stems.split(",") if name.strip())
    settings = BandSettings(
        seed, asked, song_seconds, format_.value, sounds=_sampled() if sounds == "installed" else (), dry=dry
    )
    with song_bar("rendering") as progress:
        result = render_folder(out_folder, hours, settings, jobs, progress)
    kept = result.songs - result.fresh
    out.print(
        f"[green]✓[/green] synthetic:{plain(str(out_folder))}: {counted(result.songs, 'song')}, "
        f"{clock(result.seconds)}" + (f" ({kept} of them were there already)" if kept else "")
    )


def _sampled() -> tuple[str, ...]:
    """The sampled sounds that are here; what none of them plays is said."""
    from iseparate.data.synthetic.sampled.sources import fingerprints, installed, unplayed

    here = installed()
    found = fingerprints(here)
    if sentence := unplayed(here):
        note(sentence)
    return found


@contextmanager
def rendering() -> Iterator[Callable[[int, int], None]]:
    """A bar for songs that a data set renders while it is opened, where it does, and a sentence where that is stopped.

    Raises ``typer.Exit`` with the status of the signal then.
    """
    begun = False
    with song_bar("rendering songs", shown=False) as move:

        def update(done: int, total: int) -> None:
            nonlocal begun
            begun = done < total
            move(done, total)

        try:
            yield update
        except SystemExit as stopped:  # what a signal becomes, see `iseparate.cli`
            if not begun:
                raise
            fail("stopped while songs were rendered; those that are finished are kept, the same command goes on")
            raise typer.Exit(stopped.code if isinstance(stopped.code, int) else 1) from None


@contextmanager
def song_bar(doing: str, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar over songs; nothing where stderr is no terminal.

    `shown` from the start; otherwise from when it is told of songs that are not done.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        console=err,
        disable=not err.is_terminal,
        transient=True,
    )
    task = bar.add_task(doing, total=None, visible=shown)

    def update(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total, visible=shown or done < total)

    with bar:
        yield update
