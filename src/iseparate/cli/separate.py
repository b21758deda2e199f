"""``iseparate separate SONG...``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iseparate.cli import console
from iseparate.cli.console import SongBars, fail, out
from iseparate.cli.options import (
    ENGINE_PANEL,
    BackendOption,
    BitDepth,
    Clip,
    Device,
    Format,
    Model,
    OutDir,
    Overlap,
    Precision,
    PrecisionOption,
    Runtime,
    Segment,
    Shifts,
    Songs,
    open_separator,
)
from iseparate.errors import IseparateError, UsageError

if TYPE_CHECKING:
    from iseparate.audio.excerpt import Excerpt
    from iseparate.engine.results import SongResult

_CHOICE, _FILES, _PART = "Which stems", "Files", "Part of a song"


def separate(
    songs: Songs,
    name: Model = "band-4stems",
    out_dir: OutDir = Path("separated"),
    stems: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            rich_help_panel=_CHOICE,
            help="Only these stems. Accompaniment and instrumental mean all but the vocals.",
        ),
    ] = None,
    two_stems: Annotated[
        str | None,
        typer.Option(metavar="STEM", rich_help_panel=_CHOICE, help="This stem and no_STEM, everything else."),
    ] = None,
    residual: Annotated[
        bool,
        typer.Option("--residual", metavar="", rich_help_panel=_CHOICE, help="Also what the stems leave of the song."),
    ] = False,
    format: Annotated[
        Format,
        typer.Option(
            "--format", "-f", metavar="FORMAT", rich_help_panel=_FILES, help="wav, flac, mp3, m4a, ogg or opus."
        ),
    ] = Format.wav,
    bit_depth: Annotated[
        BitDepth | None,
        typer.Option(
            metavar="BITS",
            rich_help_panel=_FILES,
            help="16, 24 or 32f (floating-point), for wav and flac.",
            show_default="the song's own",
        ),
    ] = None,
    bitrate: Annotated[
        int | None, typer.Option(metavar="KBPS", rich_help_panel=_FILES, help="For mp3, m4a, ogg and opus.")
    ] = None,
    codec: Annotated[
        str | None, typer.Option(metavar="NAME", rich_help_panel=_FILES, help="For m4a: aac or alac.")
    ] = None,
    clip: Annotated[
        Clip,
        typer.Option(
            metavar="HOW",
            rich_help_panel=_FILES,
            help="Beyond full scale: turn all stems of the song down alike (rescale), cut each off (clamp), or leave "
            "it (none).",
        ),
    ] = Clip.rescale,
    filename: Annotated[
        str,
        typer.Option(
            metavar="TEMPLATE",
            rich_help_panel=_FILES,
            help="Path of a stem below DIR/MODEL, of {track} {stem} {ext} {model} {title} {artist} {album}.",
        ),
    ] = "{track}/{stem}.{ext}",
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing", metavar="", rich_help_panel=_FILES, help="Make only what is missing or damaged."
        ),
    ] = False,
    recursive: Annotated[
        bool,
        typer.Option("--recursive", "-r", metavar="", rich_help_panel=_FILES, help="Search folders to the bottom."),
    ] = False,
    plot: Annotated[
        bool,
        typer.Option(
            "--plot", metavar="", rich_help_panel=_FILES, help="Also a picture of the song's and stems' spectra."
        ),
    ] = False,
    start: Annotated[float, typer.Option(metavar="S", rich_help_panel=_PART, help="Start this many seconds in.")] = 0.0,
    duration: Annotated[
        float | None, typer.Option(metavar="S", rich_help_panel=_PART, help="Stop after this many seconds.")
    ] = None,
    stream: Annotated[int, typer.Option(metavar="N", rich_help_panel=_PART, help="Which sound track of a file.")] = 0,
    allow_truncated: Annotated[
        bool,
        typer.Option(
            "--allow-truncated", metavar="", rich_help_panel=_PART, help="Take what can be read of a damaged song."
        ),
    ] = False,
    device: Device = "auto",
    precision: PrecisionOption = Precision.auto,
    backend: BackendOption = Runtime.auto,
    overlap: Overlap = None,
    segment: Segment = None,
    shifts: Shifts = 0,
    seed: Annotated[int, typer.Option(metavar="N", rich_help_panel=ENGINE_PANEL, help="Of the shifts.")] = 0,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            rich_help_panel=ENGINE_PANEL,
            help="Segments at a time.",
            show_default="what the model runs fastest with",
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", metavar="N", rich_help_panel=ENGINE_PANEL, help="Songs at a time.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print the results as JSON on stdout.")] = False,
) -> None:
    """Separate songs into stems (this is what [bold]iseparate SONG[/bold] does).

    Stems keep the song's sample rate, channels, length, tags and cover.
    Beside them lies iseparate.json, which says how they were made.
    A song that fails does not stop the others.

    [bold]Examples[/bold]
    iseparate song.mp3
    iseparate album/ -o stems --format flac --skip-existing
    iseparate song.m4a --two-stems vocals --start 60 --duration 30
    """
    with _error_as_json(as_json, len(songs)):
        if plot:
            _require_matplotlib()
        storage: dict[str, Any] = {
            "format": format.value,
            "bit_depth": bit_depth.value if bit_depth else None,
            "bitrate_kbps": bitrate,
            "codec": codec,
            "clip": clip.value,
        }
        excerpt = _check_before_fetching(name, storage, filename, stream, start, duration, allow_truncated)
        pictures_failed = 0
        results = _none_there(songs)
        if results:
            for result in results if not as_json else ():
                print_result(result)
        else:
            with (
                open_separator(
                    name,
                    device=device,
                    precision=precision.value,
                    backend=backend.value,
                    overlap=overlap,
                    segment_seconds=segment,
                    shifts=shifts,
                    seed=seed,
                    batch_size=batch_size,
                ) as separator,
                SongBars(enabled=not as_json) as bars,
            ):

                def report(result: SongResult) -> None:
                    nonlocal pictures_failed
                    bars.remove(str(result.song))
                    if not as_json:
                        print_result(result)
                    if plot and (result.status == "done" or (result.status == "skipped" and not _is_drawn(result))):
                        pictures_failed += not _picture(result, excerpt)

                results = separator.separate_to_files(
                    songs,
                    out_dir,
                    **storage,
                    stems=[stem.strip() for stem in stems.split(",") if stem.strip()] if stems is not None else None,
                    two_stems=two_stems,
                    residual=residual,
                    filename=filename,
                    recursive=recursive,
                    skip_existing=skip_existing,
                    excerpt=excerpt,
                    jobs=jobs,
                    callback=bars.update,
                    on_result=report,
                )
    failed = sum(result.status == "failed" for result in results)
    if as_json:
        typer.echo(json.dumps({"songs": [_as_json(result) for result in results], "failed": failed}, indent=2))
    elif len(results) > 1:
        out.print(_summary(results))
    raise typer.Exit(1 if failed or pictures_failed else 0)


def print_result(result: SongResult) -> None:
    """One song's outcome, for people."""
    song = console.plain(result.song.name)
    if result.status == "failed":
        fail(result.error or "failed")
        return
    manifest = result.manifest
    assert manifest is not None
    folders = sorted({str(path.parent) for path in result.files.values()})
    facts = [console.plain(", ".join(path.name for path in result.files.values()))]
    verb = "kept" if result.status == "skipped" else "→"
    # Not wrapped: a path is there to be copied.
    console.beside_bars().print(f"[green]✓[/green] {song} {verb} [bold]{console.plain(', '.join(folders))}[/bold]")
    if result.status == "done":
        speed = result.song_seconds / max(result.seconds, 1e-9)
        facts.append(
            f"{console.clock(result.song_seconds)} of music in {result.seconds:.1f} s ({speed:.1f} × real time)"
        )
        if manifest.null_db is not None and len(result.files) > 1:
            facts.append(f"stems null to {manifest.null_db:.0f} dB")
        if manifest.gain_db:
            turned_down = f"{-manifest.gain_db:.1f} dB" if manifest.gain_db <= -0.05 else "less than 0.1 dB"
            facts.append(f"all stems turned down by {turned_down} so that none clips")
    console.print_prose("  " + "; ".join(facts), console.beside_bars())
    for sentence in manifest.notes:
        console.note(sentence)


def _summary(results: list[SongResult]) -> str:
    counts = {status: sum(r.status == status for r in results) for status in ("done", "skipped", "failed")}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


def _as_json(result: SongResult) -> dict[str, Any]:
    return {
        "song": str(result.song),
        "status": result.status,
        "error": result.error,
        "files": {stem: str(path) for stem, path in result.files.items()},
        "seconds": round(result.seconds, 3),
        "song_seconds": round(result.song_seconds, 3),
        "manifest_path": str(result.manifest_path) if result.manifest_path else None,
        "null_db": result.manifest.null_db if result.manifest else None,
        "gain_db": result.manifest.gain_db if result.manifest else None,
        "manifest": result.manifest.model_dump() if result.manifest else None,
    }


@contextmanager
def _error_as_json(as_json: bool, songs: int) -> Iterator[None]:
    """Whoever reads stdout as JSON finds there why nothing was done."""
    try:
        yield
    except IseparateError as error:
        if as_json:
            typer.echo(json.dumps({"songs": [], "failed": songs, "error": str(error)}, indent=2))
        raise


def _check_before_fetching(
    model: str,
    storage: dict[str, Any],
    filename: str,
    stream: int,
    start: float,
    duration: float | None,
    allow_truncated: bool,
) -> Excerpt:
    """Raise for what is wrong whatever the model and the songs: nobody should wait for weights to hear of it."""
    from iseparate.audio.excerpt import Excerpt
    from iseparate.engine.names import Naming
    from iseparate.engine.outputs import Storage
    from iseparate.evaluate.oracle import is_oracle

    if is_oracle(model):
        raise UsageError(
            f"{model} is an oracle: it needs the true stems, so it can be scored but cannot separate a song; "
            f"use iseparate.evaluate.oracle in Python, or a model of `iseparate models list`"
        )
    Storage(**storage).check()
    Naming(Path(), filename, model)
    return Excerpt(stream, start, duration, allow_truncated)


def _none_there(songs: list[Path]) -> list[SongResult]:
    """A failure for each song where there is not one of them; nothing where there is work to do."""
    from iseparate.audio.decode import probe
    from iseparate.engine.results import SongResult

    if any(os.path.exists(song) for song in songs):  # noqa: PTH110 - Path's raises for a name that is too long
        return []
    if len(songs) == 1 and len(songs[0].parts) == 1 and not songs[0].suffix:
        raise UsageError(f"{songs[0]} is neither a file nor a command; `iseparate --help` shows the commands")
    results = []
    for song in songs:
        try:
            probe(song)
        except IseparateError as error:
            results.append(SongResult(song, "failed", error=str(error)))
    return results


def _is_drawn(result: SongResult) -> bool:
    from iseparate.cli.plot import picture_path

    return result.manifest_path is not None and picture_path(result.manifest_path).exists()


def _picture(result: SongResult, excerpt: Excerpt) -> bool:
    from iseparate.cli.plot import plot_result

    try:
        plot_result(result, excerpt)
    except IseparateError as error:
        fail(str(error))
        return False
    return True


def _require_matplotlib() -> None:
    import importlib.util

    if not importlib.util.find_spec("matplotlib"):
        raise UsageError("--plot needs matplotlib: pip install 'iseparate[plot]'")
