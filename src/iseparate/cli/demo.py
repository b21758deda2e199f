"""``iseparate demo``: the first song."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iseparate.cli.console import SongBars, download_bar, out
from iseparate.cli.options import OutDir, open_separator, open_store
from iseparate.cli.separate import print_result


def demo(
    song: Annotated[
        Path | None, typer.Argument(readable=False, help="A song of yours.", show_default="Spleeter's example")
    ] = None,
    out_dir: OutDir = Path("separated"),
) -> None:
    """Fetch the default model's weights and an example song, and separate it."""
    from iseparate.engine.separator import DEFAULT_MODEL
    from iseparate.weights.card import find_card

    with open_separator(DEFAULT_MODEL) as separator:
        if song is None:
            example = find_card(DEFAULT_MODEL).examples[0]
            with download_bar() as bar:
                song = open_store().fetch_file(example.source, example.sha256, example.name, progress=bar)
        with SongBars() as bars:
            results = separator.separate_to_files(song, out_dir, callback=bars.update)
    for result in results:
        print_result(result)
        for path in result.files.values():
            out.print(f"  {path}")
    raise typer.Exit(1 if any(result.status == "failed" for result in results) else 0)
