"""``iseparate data check|manifest``."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from iseparate.cli.console import counted, err, fail, note, out, plain
from iseparate.cli.prepare import prepare
from iseparate.cli.sounds import sounds
from iseparate.cli.strip import strip
from iseparate.cli.synthesize import rendering, synthesize
from iseparate.errors import UsageError

if TYPE_CHECKING:
    from iseparate.data.check import Report
    from iseparate.data.manifest import DataManifest

data = typer.Typer(
    no_args_is_help=True, help="Data sets: make them by rule, prepare them, say what is in them and what is wrong."
)
data.command()(prepare)
data.command()(sounds)
data.command()(strip)
data.command()(synthesize)

Spec = Annotated[
    str,
    typer.Argument(
        metavar="KIND:PATH",
        show_default=False,
        help="A data set, such as musdb18hq:PATH; a plain PATH is recognised by its files.",
    ),
]
Subset = Annotated[
    str | None, typer.Option(metavar="NAME", help="Such as test, or several joined by +; else all.", show_default=False)
]
Jobs = Annotated[int, typer.Option("--jobs", "-j", metavar="N", help="Tracks at a time.")]
Json = Annotated[bool, typer.Option("--json", metavar="", help="Print as JSON.")]


@data.command()
def check(
    spec: Spec,
    subset: Subset = None,
    jobs: Jobs = 1,
    residual: Annotated[
        float | None,
        typer.Option(
            "--residual-db",
            metavar="DB",
            show_default=False,
            help="How loud mixture minus stems may be beside the mixture; else as the kind of data has it.",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", metavar="", help="Remarks count as faults.")] = False,
    as_json: Json = False,
) -> None:
    """Decode every track once and list what is wrong: exit status 1 if anything is."""
    from iseparate.data import open_dataset
    from iseparate.data.check import check_dataset

    with rendering() as progress:
        dataset = open_dataset(spec, subset, progress=progress)
    with _track_bar("checking", len(dataset.tracks)) as progress:
        report = check_dataset(dataset, jobs=jobs, residual_limit_db=residual, progress=progress)
    if as_json:
        typer.echo(json.dumps(_as_dict(report), indent=2))
    else:
        _print(report, dataset.licence_note)
    if report.of_level("fault") or (strict and report.findings):
        raise typer.Exit(1)


@data.command()
def manifest(
    spec: Spec,
    out_file: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", readable=False, show_default=False, help="File to write; else it is printed."
        ),
    ] = None,
    verify: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            readable=False,
            show_default=False,
            help="Compare the data with this manifest instead: exit status 1 if they differ.",
        ),
    ] = None,
    subset: Subset = None,
    jobs: Jobs = 1,
) -> None:
    """List every file of a data set with its size and SHA-256, and one hash of all."""
    from iseparate.data import open_dataset
    from iseparate.data.manifest import make_manifest, read_manifest

    if out_file and verify:
        raise UsageError("--out and --verify exclude each other: write a manifest, or compare with one")
    expected = read_manifest(verify) if verify else None
    if expected and subset not in (None, expected.subset):
        raise UsageError(
            f"the manifest {verify} is of {expected.subset or 'all subsets'}, not of {subset}; leave --subset out"
        )
    with rendering() as progress:
        dataset = open_dataset(spec, expected.subset if expected else subset, progress=progress)
    with _track_bar("hashing", len(dataset.tracks)) as progress:
        found = make_manifest(dataset, jobs=jobs, progress=progress)
    if expected:
        _compare(expected, found)
    elif out_file:
        found.write(out_file)
        out.print(
            f"[green]✓[/green] {plain(str(out_file))}: {counted(len(found.tracks), 'track')}, "
            f"sha256 {found.total_sha256}"
        )
    else:
        typer.echo(found.text(), nl=False)


def _compare(expected: DataManifest, found: DataManifest) -> None:
    from iseparate.data.manifest import differences

    sentences = list(differences(expected, found))
    for sentence in sentences:
        out.print(f"[red]✗[/red] {plain(sentence)}")
    if sentences or expected.total_sha256 != found.total_sha256:
        fail(f"the data differ from the manifest in {counted(len(sentences), 'place')}")
        raise typer.Exit(1)
    out.print(f"[green]✓[/green] {counted(len(found.tracks), 'track')} as in the manifest")


def _print(report: Report, licence: str) -> None:
    colours = {"fault": "red", "remark": "yellow"}
    for finding in report.findings:
        where = " ".join(part for part in (finding.track, finding.source) if part)
        out.print(
            f"[{colours[finding.level]}]{finding.level}[/] {finding.code}: "
            f"{plain(where) + ': ' if where else ''}{plain(finding.sentence)}"
        )
    faults, remarks = len(report.of_level("fault")), len(report.of_level("remark"))
    mark = "[red]✗[/red]" if faults else "[green]✓[/green]"
    counts = (counted(len(report.tracks), "track"), counted(faults, "fault"), counted(remarks, "remark"))
    out.print(f"{mark} {plain(report.spec)}: {', '.join(counts)}")
    note(f"licence of the data: {licence}")


def _as_dict(report: Report) -> dict[str, object]:
    return {
        "data": report.spec,
        "faults": len(report.of_level("fault")),
        "remarks": len(report.of_level("remark")),
        "findings": [{"level": finding.level, **dataclasses.asdict(finding)} for finding in report.findings],
        "tracks": [dataclasses.asdict(track) for track in report.tracks],
    }


@contextmanager
def _track_bar(doing: str, tracks: int) -> Iterator[Callable[[str, float], None]]:
    """A bar over all tracks, which names the one that was heard of last."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[track]}"),
        console=err,
        disable=not err.is_terminal,
        transient=True,
    )
    task = bar.add_task(doing, total=tracks, track="")
    lock = threading.Lock()

    def advance(title: str, share: float) -> None:
        with lock:
            bar.update(task, advance=share, track=plain(title))

    with bar:
        yield advance
