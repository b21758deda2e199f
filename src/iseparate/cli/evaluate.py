"""``iseparate evaluate``."""

from __future__ import annotations

import fnmatch
import shlex
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from iseparate.cli import console
from iseparate.cli.console import fail, note
from iseparate.cli.options import (
    ENGINE_PANEL,
    BackendOption,
    Device,
    Overlap,
    Precision,
    PrecisionOption,
    Runtime,
    Segment,
    Shifts,
    complete_model,
    open_separator,
)
from iseparate.cli.synthesize import rendering
from iseparate.errors import UnknownModelError, UsageError

if TYPE_CHECKING:
    from iseparate.data import Dataset
    from iseparate.data.track import Track
    from iseparate.engine.separator import Separator
    from iseparate.evaluate.estimators import Estimator, Report
    from iseparate.evaluate.metrics import Metric
    from iseparate.evaluate.run import TrackResult
    from iseparate.evaluate.summary import Summary
    from iseparate.types import Samples

_TRACKS = "Which tracks"
ALL = "all"


def evaluate(
    data: Annotated[
        str,
        typer.Option(
            metavar="KIND:PATH",
            help="The songs with their true stems, such as musdb18hq:PATH or folder:PATH. A path alone will do where "
            "the kind can be told.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            "-n",
            metavar="MODEL",
            autocompletion=complete_model,
            help="A model's id or weights file, an oracle (irm1, irm2, ibm1, ibm2, mwf), or mixture: the mixture as "
            "the estimate of everything.",
            show_default=False,
        ),
    ] = None,
    estimates: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            readable=False,
            help="Score stems on disk instead: a folder for each track, with vocals.wav and the like.",
        ),
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(metavar="A,B", help="What is measured: bss_eval_v4, bss_eval_v3, usdr, si_sdr, log_wmse."),
    ] = "bss_eval_v4",
    out_dir: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", readable=False, help="Folder for results.")
    ] = Path("evaluated"),
    resume: Annotated[
        bool, typer.Option("--resume", metavar="", help="Go on with a run that was stopped, or take in more tracks.")
    ] = False,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN",
            help="Set beside it an earlier run's folder, or published:ROW, a row of the literature's tables. "
            "Can be given several times.",
        ),
    ] = None,
    subset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_TRACKS,
            help="Subset of the data set, or all.",
            show_default="test, where there is one",
        ),
    ] = None,
    tracks: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", rich_help_panel=_TRACKS, help="Only tracks whose name is like this: 'A*'."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", rich_help_panel=_TRACKS, help="Only the first N of them.")
    ] = None,
    device: Device = "auto",
    precision: PrecisionOption = Precision.auto,
    backend: BackendOption = Runtime.auto,
    overlap: Overlap = None,
    segment: Segment = None,
    shifts: Shifts = 0,
    seed: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=ENGINE_PANEL, help="Of the shifts and of the intervals.")
    ] = 0,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs", "-j", metavar="N", rich_help_panel=ENGINE_PANEL, help="Tracks at a time, each held in memory."
        ),
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print the summary as JSON on stdout.")] = False,
) -> None:
    """Score a model on songs whose true stems are known.

    Writes DIR/MODEL/DATA-SUBSET: a museval file per track, a summary, all frames, and report.html.
    A track that fails does not stop the others. A run that was stopped goes on with --resume.

    [bold]Examples[/bold]
    iseparate evaluate -n spleeter-2stems --data musdb18hq:musdb18hq
    iseparate evaluate -n irm1 --data folder:songs --metrics bss_eval_v4,usdr
    iseparate evaluate --estimates stems --data songs --resume
    """
    from iseparate.data import open_dataset
    from iseparate.engine.jobs import run_jobs
    from iseparate.evaluate.compare import read_baseline
    from iseparate.evaluate.metrics import metric
    from iseparate.evaluate.report import Report as Page
    from iseparate.evaluate.results import PAGE, SUMMARY_JSON, write_results
    from iseparate.evaluate.run import Asked, open_run, this_session, tracks_sha256
    from iseparate.evaluate.track_audio import readable

    # All that can be wrong with the words is said before weights are fetched or a song is opened.
    measured = [metric(word.strip()) for word in dict.fromkeys(metrics.split(",")) if word.strip()]
    if not measured:
        raise UsageError("--metrics names none; give one or more, such as bss_eval_v4")
    _try_out(measured)
    if jobs < 1:
        raise UsageError(f"jobs is 1 or more; got {jobs}")
    if limit is not None and limit < 1:
        raise UsageError(f"--limit is 1 or more; got {limit}")
    if seed < 0:
        raise UsageError(f"--seed is 0 or more; got {seed}")
    baselines = [read_baseline(words) for words in compare or ()]
    with rendering() as progress:
        everything = open_dataset(data, progress=progress)
    dataset = _with_default_subset(everything, subset, lambda chosen: open_dataset(data, chosen))
    dataset.require_songs()
    chosen = _chosen(dataset, tracks, limit)
    _say_what_is_missing(dataset)
    engine = {
        "device": device,
        "precision": precision.value,
        "backend": backend.value,
        "overlap": overlap,
        "segment_seconds": segment,
        "shifts": shifts,
    }
    cancelled = threading.Event()
    with ExitStack() as stack:
        estimator = _estimator(name, estimates, chosen, engine, seed, stack)
        label = dataset.subset or dataset.root.resolve().name
        folder = out_dir / _folder_name(estimator.name) / _folder_name(f"{dataset.kind}-{label}")
        session = this_session(shlex.join(["iseparate", *sys.argv[1:]]))
        asked = Asked(
            estimator=estimator.name,
            kind=estimator.kind,
            identity=dict(estimator.identity),
            data=readable(f"{dataset.kind}:{dataset.root.resolve()}"),
            subset=dataset.subset or "",
            tracks_sha256=tracks_sha256(dataset.tracks),
            metrics={metric.name: metric.definition for metric in measured},
            iseparate=session.versions["iseparate"],
        )
        run = stack.enter_context(open_run(folder, asked, session, dataset.tracks, chosen, resume))
        bars = stack.enter_context(TrackBars(len(chosen), enabled=not as_json))

        def finished(result: TrackResult) -> None:
            bars.remove(result.track)
            if not as_json:
                _print_track(result, measured)

        results = run.run(
            estimator,
            measured,
            required_stems=dataset.stems if dataset.stems_are_fixed else (),
            in_jobs=lambda work, tasks: run_jobs(work, tasks, jobs, cancelled),
            on_stage=bars.update,
            on_result=finished,
            cancelled=cancelled,
        )
        page = Page(run.record, results, measured, baselines, seed)
        summary = write_results(run, page)
    if as_json:
        typer.echo((folder / SUMMARY_JSON).read_text(encoding="utf-8"), nl=False)
    else:
        _print_summary(summary, page)
        console.print_prose(f"[green]✓[/green] [bold]{console.plain(str(folder / PAGE))}[/bold]")
    raise typer.Exit(1 if page.failed else 0)


class TrackBars:
    """A bar over all tracks, and a line for each that is in work."""

    def __init__(self, total: int, enabled: bool = True):
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[stage]}"),
            TimeRemainingColumn(compact=True),
            console=console.err,
            disable=not enabled or not console.err.is_terminal,
            transient=True,
        )
        self._all = self._progress.add_task("tracks", total=total, stage=f"0 / {total}")
        self._total, self._done = total, 0
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> TrackBars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, track: str, stage: str, done_seconds: float, total_seconds: float) -> None:
        """Move a track's bar; called from whichever thread works on it."""
        with self._lock:
            if track not in self._tasks:
                self._tasks[track] = self._progress.add_task(console.plain(track), total=total_seconds, stage=stage)
            self._progress.update(self._tasks[track], completed=done_seconds, stage=stage)

    def remove(self, track: str) -> None:
        """A track is over."""
        with self._lock:
            if (task := self._tasks.pop(track, None)) is not None:
                self._progress.remove_task(task)
            self._done += 1
            self._progress.update(self._all, completed=self._done, stage=f"{self._done} / {self._total}")


def _estimator(
    name: str | None,
    estimates: Path | None,
    tracks: Sequence[Track],
    engine: dict[str, Any],
    seed: int,
    stack: ExitStack,
) -> Estimator:
    """What is scored; a model is opened, and its weights fetched."""
    from iseparate.evaluate import estimators
    from iseparate.evaluate.oracle import ORACLES, is_oracle

    is_model = estimates is None and name is not None and name != estimators.MIXTURE and not is_oracle(name)
    given = [word for word in ("overlap", "segment_seconds", "shifts") if engine[word]]
    if given and not is_model:
        option = given[0].partition("_")[0]
        raise UsageError(f"--{option} is for models, and nothing else has it; leave it out")
    if estimates is not None:
        return estimators.stored_estimates(estimates, tracks, name)
    if name is None:
        raise UsageError("nothing to score: give a model with -n, or stems on disk with --estimates")
    if name == estimators.MIXTURE:
        return estimators.mixture_estimator()
    if is_oracle(name):
        return estimators.oracle_estimator(name)
    try:
        separator = stack.enter_context(open_separator(name, **engine, seed=seed))
    except UnknownModelError as error:
        raise UnknownModelError(
            f"{str(error).rstrip('.')}; {', '.join(ORACLES)} are oracles, {estimators.MIXTURE} is the mixture itself"
        ) from error
    return model_estimator(separator)


def model_estimator(separator: Separator) -> Estimator:
    """What a model makes of the mixture, with all that decides about it."""
    from iseparate.evaluate.estimators import separating

    def separate(mix: Samples, sample_rate: int, report: Report) -> Mapping[str, Samples]:
        return separator.separate(mix, sample_rate, callback=lambda progress: report(progress.done_seconds))

    identity = {"weights_sha256": separator.ready.weights_sha256, **separator.settings}
    return separating(separator.ready.id, separate, identity)


def _try_out(metrics: Sequence[Metric]) -> None:
    """Score a moment of noise: a metric whose package is missing says so before anything starts."""
    import numpy as np

    noise = np.random.default_rng(0).standard_normal((1, 2048)).astype(np.float32)
    for metric in metrics:
        metric.score({"noise": noise}, {"noise": noise[:, ::-1]}, noise, 8000)


def _with_default_subset(everything: Dataset, subset: str | None, opened: Callable[[str], Dataset]) -> Dataset:
    """The test songs, where nothing is said and there are any."""
    if subset == ALL:
        return everything
    if subset is None:
        return opened("test") if any(track.subset == "test" for track in everything.tracks) else everything
    return opened(subset)


def _chosen(dataset: Dataset, pattern: str | None, limit: int | None) -> list[Track]:
    tracks = [track for track in dataset.tracks if pattern is None or fnmatch.fnmatchcase(track.name, pattern)]
    if not tracks:
        raise UsageError(
            f"none of the {len(dataset.tracks)} tracks is called like {pattern!r}; there is "
            f"{dataset.tracks[0].name!r}, for one"
        )
    return tracks[:limit]


def _say_what_is_missing(dataset: Dataset) -> None:
    from iseparate.evaluate.frames import can_write_parquet
    from iseparate.evaluate.report import can_draw_spectra

    for subset, count in dataset.missing.items():
        tracks = "track of the published set is" if count == 1 else "tracks of the published set are"
        note(f"{subset}: {count} {tracks} not in {dataset.root}, so the figures are not those of the whole set.")
    for item in dataset.passed_over:
        note(f"{item.path} {item.reason}; it is left out.")
    for is_there, package, what in (
        (can_write_parquet(), "pyarrow", "frames.parquet is not written"),
        (can_draw_spectra(), "matplotlib", "the report has no spectrograms"),
    ):
        if not is_there:
            note(
                f"{package} is not installed, so {what}; after pip install 'iseparate[evaluate]', --resume makes it "
                "without scoring anew."
            )


def _folder_name(name: str) -> str:
    from iseparate.engine.names import safe_name

    return safe_name(name)


def _print_track(result: TrackResult, metrics: Sequence[Metric]) -> None:
    import numpy as np

    from iseparate.evaluate.metrics import pooled
    from iseparate.evaluate.summary import shown

    if result.scores is None:
        fail(result.error or "failed")
        return
    value = metrics[0].values[0]
    stems = result.scores.scores[metrics[0].name]
    figures = ", ".join(
        f"{console.plain(stem)} {shown(pooled(np.asarray(values[value])))}"
        for stem, values in stems.items()
        if value in values
    )
    verb = "kept" if result.status == "kept" else value
    console.beside_bars().print(f"[green]✓[/green] {console.plain(result.track)}: {verb} {figures}")


def _print_summary(summary: Summary, page: Any) -> None:
    from iseparate.evaluate.summary import shown, value_names

    for metric, stems in summary.items():
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column(metric, no_wrap=True)
        for value in value_names(stems):
            table.add_column(value, justify="right", no_wrap=True)
        table.add_column("tracks", justify="right", no_wrap=True)
        for stem, values in stems.items():
            figures = [shown(pooled.median_of_medians) for pooled in values.values()]
            table.add_row(console.plain(stem), *figures, str(next(iter(values.values())).tracks))
        console.out.print()
        console.print_table(table)
    if summary:
        console.print_prose("\nMedian over frames, if the metric has frames, then over tracks.")
    if page.failed:
        console.print_prose(f"{len(page.failed)} of {len(page.results)} tracks failed.")
