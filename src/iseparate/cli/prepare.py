"""``iseparate data prepare``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from iseparate.cli.console import err, fail, megabytes, note, out, plain
from iseparate.cli.synthesize import rendering


class SampleFormat(StrEnum):
    """How samples are kept."""

    int16 = "int16"
    float32 = "float32"


def prepare(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="KIND:PATH",
            show_default=False,
            help="A data set, such as musdb18:PATH; a plain PATH is recognised by its files.",
        ),
    ],
    out_folder: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", readable=False, show_default=False, help="New folder for the result."
        ),
    ],
    subset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Such as train, or several joined by +; else all.", show_default=False),
    ] = None,
    sample_rate: Annotated[int, typer.Option(metavar="HZ", help="Sample rate of the result.")] = 44_100,
    sample_format: Annotated[
        SampleFormat,
        typer.Option(metavar="NAME", help="int16, or float32 in twice the space."),
    ] = SampleFormat.int16,
    jobs: Annotated[int, typer.Option("--jobs", "-j", metavar="N", help="Songs at a time.")] = 1,
) -> None:
    """Decode and resample a data set once, for training that never waits: then train on [bold]prepared:DIR[/bold].

    A run that was stopped is gone on with by the same command.
    """
    from iseparate.data import open_dataset
    from iseparate.data import prepare as preparing

    with rendering() as progress:
        dataset = open_dataset(spec, subset, progress=progress)
    with _bytes_bar() as progress:
        result = preparing.prepare(
            dataset,
            out_folder,
            sample_rate=sample_rate,
            sample_format=sample_format.value,
            jobs=jobs,
            progress=progress,
        )
    for title, sentence in result.failed.items():
        fail(f"{title} is left out: {sentence}")
    kept = result.songs - result.made
    out.print(
        f"[green]✓[/green] prepared:{plain(str(out_folder))}: {result.songs} songs, {megabytes(result.size_bytes)}"
        + (f" ({kept} of them were there already)" if kept else "")
    )
    note(f"licence of the data: {dataset.licence_note}")
    if result.failed:
        raise typer.Exit(1)


@contextmanager
def _bytes_bar() -> Iterator[Callable[[int, int], None]]:
    bar = Progress(
        TextColumn("preparing"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(compact=True),
        console=err,
        disable=not err.is_terminal,
        transient=True,
    )
    task = bar.add_task("preparing", total=None)
    with bar:
        yield lambda done, total: bar.update(task, completed=done, total=total)
