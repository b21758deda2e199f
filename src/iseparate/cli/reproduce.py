"""``iseparate reproduce``: a row of the literature's tables, measured again from official weights."""

from __future__ import annotations

import shlex
import statistics
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

import iseparate
from iseparate.checkout import commit
from iseparate.cli import console
from iseparate.cli.console import note, plain
from iseparate.cli.evaluate import TrackBars, model_estimator
from iseparate.cli.options import Device, OutDir, open_separator
from iseparate.cli.synthesize import rendering
from iseparate.errors import AudioError, UsageError
from iseparate.machine import in_words

if TYPE_CHECKING:
    from iseparate.data import Dataset, Track
    from iseparate.evaluate.estimators import Estimator
    from iseparate.evaluate.published import PublishedRow, PublishedTable, Reproduction
    from iseparate.evaluate.run import TrackResult

SHORT_SECONDS = 60
"""Songs whose median is shorter are excerpts: the 7 s sample set has as many as the whole one."""

Row = Annotated[str | None, typer.Argument(metavar="ROW", show_default=False, help="As --list shows them.")]
Data = Annotated[
    str | None,
    typer.Option(metavar="KIND:PATH", show_default=False, help="The data set, such as musdb18:PATH."),
]
Record = Annotated[
    Path | None,
    typer.Option(
        "--record",
        metavar="DIR",
        readable=False,
        show_default="bench/results/reproduced in a checkout, else reproduced",
        help="Folder for the record of the measurement.",
    ),
]


def reproduce(
    row: Row = None,
    data: Data = None,
    show_list: Annotated[bool, typer.Option("--list", metavar="", help="Show the rows and what can be run.")] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", metavar="", help="Run on other data; the result is partial and fills no table.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only the first N songs; the result is partial.")
    ] = None,
    out: OutDir = Path("evaluated"),
    record_folder: Record = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", metavar="N", min=1, help="Songs at a time.")] = 1,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print as JSON.")] = False,
) -> None:
    """Measure a row of the literature's tables: official weights, official settings, the row's data and metric.

    A killed call goes on where it stopped; `iseparate evaluate --resume` makes a report of the same run.
    The record says command, machine, commit and date; only one over the row's whole data set fills the table
    in the documentation.
    """
    if show_list:
        _list(row, as_json)
        return
    from iseparate.engine.names import safe_name
    from iseparate.evaluate.published import find_row, write_reproduction

    if row is None:
        raise UsageError("reproduce takes a row of the literature's tables; `iseparate reproduce --list` shows them")
    table, found = find_row(row)
    _refuse_unavailable(found)
    if data is None:
        raise UsageError(
            f"the row {found.id} is measured on {table.data}; say where it lies, as in `iseparate reproduce {found.id} "
            f"--data {table.data}:PATH`"
        )
    dataset = _open(data, table)
    faults = _faults(dataset, table, limit)
    if faults and not anyway:
        raise UsageError(f"the row {found.id} was printed for other data: {faults[0]}; --anyway runs it all the same")
    tracks = dataset.tracks[:limit]
    partial = bool(faults) or len(tracks) < len(dataset.tracks)
    if partial:
        note(f"the result will be partial and fill no table: {faults[0] if faults else f'{limit} songs of the set'}")
    command = _command(found.id, dataset.kind, anyway, limit)
    with _estimator(found, device) as (estimator, weights_sha256):
        # The folder that `iseparate evaluate` uses, so that each goes on with the other's work; but a run over fewer
        # songs has a folder of its own, as it would be refused beside the whole one.
        folder = (out / f"first-{limit}" if limit else out) / estimator.name
        folder /= safe_name(f"{dataset.kind}-{dataset.subset or dataset.root.resolve().name}")
        results = _run(estimator, dataset, table, tracks, folder, jobs, command)
    failed = [result for result in results if result.status == "failed"]
    for result in failed:
        console.fail(result.error or result.track)
    record = _record(table, found, dataset, results, partial or bool(failed), command, weights_sha256)
    path = write_reproduction(record, record_folder or _default_folder())
    if as_json:
        typer.echo(record.model_dump_json(indent=2))
    else:
        _show(table, found, record)
        console.out.print(f"[green]✓[/green] {plain(str(path))}")
    if failed:
        raise typer.Exit(1)


def _list(wanted: str | None, as_json: bool) -> None:
    """All rows, or what is known of one in every table that prints it."""
    import json

    from iseparate.evaluate.published import find_row, published_rows

    known = list(published_rows())
    if wanted is not None:
        row_id = find_row(wanted)[1].id
        known = [(table, row) for table, row in known if row.id == row_id]
    if as_json:
        rows = [{"table": table.id, **row.model_dump(mode="json")} for table, row in known]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("row", "table", "system", "mean dB", "runs"):
        shown.add_column(heading, justify="right" if heading == "mean dB" else "left", no_wrap=heading != "runs")
    for table, row in known:
        mean = "" if row.average is None else f"{row.average:.2f}"
        system = row.system + (f", {row.extra_data} more" if row.extra_data else "")
        runs = row.estimator or f"nothing: {row.unavailable}"
        shown.add_row(row.id, table.id, plain(system), mean, plain(runs))
    console.print_table(shown)
    if wanted is None:
        return
    for table, row in known:
        console.out.print(f"\n{plain(table.title)}: {plain(_printed(table, row))} ({plain(row.origin)})")
        if row.note:
            console.out.print(f"note: {plain(row.note)}")


def _printed(table: PublishedTable, row: PublishedRow) -> str:
    figures = (f"{stem} {row.sdr[stem]:.2f}" for stem in table.stems if stem in row.sdr)
    return f"SDR in dB of {', '.join(figures)}"


def _refuse_unavailable(row: PublishedRow) -> None:
    if row.unavailable is None:
        return
    builds = f'; iseparate.build_model("{row.builds}") builds the system for training' if row.builds else ""
    raise UsageError(f"the row {row.id} ({row.system}) cannot be reproduced: {row.unavailable}{builds}")


def _open(data: str, table: PublishedTable) -> Dataset:
    """The row's subset, or all songs of a data set that knows no subsets."""
    from iseparate.data import open_dataset

    with rendering() as progress:
        dataset = open_dataset(data, progress=progress)
    if any(track.subset for track in dataset.tracks):
        dataset = open_dataset(data, table.subset)
    dataset.require_songs()
    return dataset


def _faults(dataset: Dataset, table: PublishedTable, limit: int | None) -> list[str]:
    """What keeps the data from being the row's, a sentence's part each."""
    faults = []
    if dataset.kind != table.data:
        faults.append(f"it takes {table.data}, and the data are {dataset.kind}")
    if len(dataset.tracks) != table.tracks:
        faults.append(
            f"it takes the {table.tracks} songs of the {table.subset} set of {table.data}, and there are "
            f"{len(dataset.tracks)}"
        )
    lengths = []
    for track in dataset.tracks[:limit]:
        with suppress(AudioError):  # it will fail by itself, and the others are scored
            lengths.append(track.samples / track.sample_rate)
    if lengths and statistics.median(lengths) < SHORT_SECONDS:
        faults.append(f"it takes whole songs, and the median of these lasts {statistics.median(lengths):.0f} s")
    return faults


@contextmanager
def _estimator(row: PublishedRow, device: str) -> Iterator[tuple[Estimator, str | None]]:
    """What makes the row's estimates, and the hash of its weights."""
    from iseparate.evaluate.estimators import oracle_estimator

    if row.card is None:
        yield oracle_estimator(str(row.oracle)), None
        return
    with open_separator(row.card, device=device) as separator:
        yield model_estimator(separator), separator.ready.weights_sha256


def _run(
    estimator: Estimator,
    dataset: Dataset,
    table: PublishedTable,
    tracks: Sequence[Track],
    folder: Path,
    jobs: int,
    command: str,
) -> list[TrackResult]:
    """Score the tracks; those that an earlier call has done are kept."""
    from iseparate.engine.jobs import run_jobs
    from iseparate.evaluate.metrics import metric
    from iseparate.evaluate.run import Asked, open_run, this_session, tracks_sha256
    from iseparate.evaluate.track_audio import readable

    measure = metric(table.metric)
    asked = Asked(
        estimator=estimator.name,
        kind=estimator.kind,
        identity=dict(estimator.identity),
        data=readable(f"{dataset.kind}:{dataset.root.resolve()}"),
        subset=dataset.subset or "",
        tracks_sha256=tracks_sha256(dataset.tracks),
        metrics={measure.name: measure.definition},
        iseparate=iseparate.__version__,
    )
    cancelled = threading.Event()
    with (
        open_run(folder, asked, this_session(command), dataset.tracks, tracks, resume=True) as run,
        TrackBars(len(tracks)) as bars,
    ):

        def on_result(result: TrackResult) -> None:
            bars.remove(result.track)
            if result.status != "failed":
                kept = " (of an earlier call)" if result.status == "kept" else ""
                console.err.print(f"[green]✓[/green] {plain(result.track)}{kept}")

        return run.run(
            estimator,
            [measure],
            required_stems=dataset.stems if dataset.stems_are_fixed else (),
            in_jobs=lambda work, tasks: run_jobs(work, tasks, jobs, cancelled),
            on_stage=bars.update,
            on_result=on_result,
            cancelled=cancelled,
        )


def _record(
    table: PublishedTable,
    row: PublishedRow,
    dataset: Dataset,
    results: Sequence[TrackResult],
    partial: bool,
    command: str,
    weights_sha256: str | None,
) -> Reproduction:
    from iseparate.evaluate.metrics import metric
    from iseparate.evaluate.published import Reproduction
    from iseparate.evaluate.run import this_session
    from iseparate.evaluate.summary import summarise
    from iseparate.versions import versions

    scores = [result.scores for result in results if result.scores is not None]
    pooled = summarise(scores).get(table.metric, {})
    sdr = {
        stem: figure
        for stem in table.stems
        if stem in pooled and (figure := pooled[stem]["SDR"].median_of_medians) is not None
    }
    if not sdr:
        raise AudioError(f"none of the {len(results)} songs could be scored by {table.metric}, so there is no result")
    machine = this_session(command).machine
    return Reproduction(
        row=row.id,
        estimator=str(row.estimator),
        data=dataset.kind,
        subset=dataset.subset or "all",
        tracks=len(scores),
        partial=partial,
        metric=table.metric,
        metric_definition=f"{metric(table.metric).definition} Over songs: the median.",
        sdr=sdr,
        average=statistics.fmean(sdr.values()),
        weights_sha256=weights_sha256,
        command=command,
        machine=in_words(machine),
        commit=commit(7) or f"release {iseparate.__version__}",
        date=datetime.now(UTC).date(),
        versions=versions(),
    )


def _show(table: PublishedTable, row: PublishedRow, record: Reproduction) -> None:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column(f"{plain(row.system)}, SDR in dB")
    for heading in (*table.stems, "mean"):
        shown.add_column(heading, justify="right")

    def line(name: str, sdr: Mapping[str, float], average: float | None) -> None:
        figures = [sdr.get(stem) for stem in table.stems]
        shown.add_row(name, *("" if figure is None else f"{figure:.2f}" for figure in (*figures, average)))

    line(f"published ({row.evidence})", row.sdr, row.average)
    line("measured here" + (" (partial)" if record.partial else ""), record.sdr, record.average)
    console.print_table(shown)
    if row.note:
        console.out.print(f"note: {plain(row.note)}")


def _command(row: str, kind: str, anyway: bool, limit: int | None) -> str:
    """What to type to get the same; the folder is another one elsewhere, and whose it is here is nobody's business."""
    words = ["iseparate", "reproduce", row, "--data", f"{kind}:PATH"]
    words += ["--anyway"] if anyway else []
    words += ["--limit", str(limit)] if limit is not None else []
    return shlex.join(words)


def _checkout() -> Path | None:
    """Folder of the repository that this package runs from; None where it was installed."""
    root = Path(iseparate.__file__).resolve().parents[2]
    return root if (root / "bench" / "results").is_dir() and (root / "pyproject.toml").is_file() else None


def _default_folder() -> Path:
    """Where the documentation looks for records, so that a run in a checkout fills the page."""
    root = _checkout()
    return root / "bench" / "results" / "reproduced" if root else Path("reproduced")
