"""``iseparate data strip``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iseparate.cli.console import counted, note, out, plain
from iseparate.cli.options import complete_model, open_separator
from iseparate.cli.synthesize import rendering, song_bar
from iseparate.errors import UnknownStemError

if TYPE_CHECKING:
    from iseparate.types import Samples


def strip(
    spec: Annotated[
        str, typer.Argument(metavar="KIND:PATH", show_default=False, help="Songs with their stems, vocals among them.")
    ],
    out_folder: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", readable=False, show_default=False, help="Empty folder, or one to go on with."
        ),
    ],
    name: Annotated[
        str, typer.Option("--name", "-n", metavar="MODEL", autocompletion=complete_model, help="The first model.")
    ] = "spleeter-2stems",
    stem: Annotated[str, typer.Option(metavar="NAME", help="What it takes.")] = "vocals",
) -> None:
    """Take a stem out of songs by a model, to train the network that comes after it: then use [bold]folder:DIR[/bold].

    The songs keep their other stems, and get one more, residue: how what the model left differs from their sum.
    A run that was stopped is gone on with by the same command.
    """
    from iseparate.data import open_dataset
    from iseparate.data.strip import strip as strip_all

    with open_separator(name) as separator:
        if stem not in separator.stems:
            raise UnknownStemError(f"{name} has no stem {stem!r}, it has {', '.join(separator.stems)}")
        with rendering() as progress:
            dataset = open_dataset(spec, progress=progress)

        def estimate(mix: Samples, sample_rate: int) -> Samples:
            return separator.separate(mix, sample_rate, stems=[stem])[stem]

        weights = f"{separator.ready.id} {separator.ready.weights_sha256}"
        with song_bar("stripping") as progress:
            result = strip_all(dataset, out_folder, stem, estimate, weights, progress)
    for title, sentence in result.failed.items():
        note(f"{plain(title)} is left out: {plain(sentence)}")
    kept = result.songs - result.fresh
    out.print(
        f"[green]✓[/green] folder:{plain(str(out_folder))}: {counted(result.songs, 'song')} "
        f"without {plain(stem)}" + (f" ({kept} of them were there already)" if kept else "")
    )
