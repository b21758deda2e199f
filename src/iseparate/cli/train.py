"""``iseparate train``: a recipe and songs go in, a scored checkpoint comes out."""

from __future__ import annotations

import os
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from iseparate.cli import console
from iseparate.cli.console import clock, counted, fail, note, out, plain
from iseparate.cli.options import ENGINE_PANEL
from iseparate.cli.synthesize import rendering
from iseparate.errors import UsageError

if TYPE_CHECKING:
    from iseparate.models._base import SeparationModel
    from iseparate.train.judge import Score
    from iseparate.train.progress import TrainingProgress
    from iseparate.train.recipe import Recipe
    from iseparate.train.run import FitResult
    from iseparate.types import Samples

_RENDERED = "0.5@0"
"""Hours and seed of the synthetic band that stands in for data of one's own."""


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="A recipe's name (see --list), or a YAML file.", show_default=False),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            metavar="KIND:PATH", help="Songs with their stems, such as musdb18hq:PATH; synthetic renders half an hour."
        ),
    ] = "synthetic",
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", readable=False, help="Folder for checkpoints.", show_default="trained/RECIPE"
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another value, such as optimizer.lr=3e-4; may be repeated."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", metavar="", help="Go on from DIR/last.ckpt.")] = False,
    start_from: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Train on from this checkpoint's or file's weights.", show_default=False),
    ] = None,
    from_iseparate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A YAML of the predecessor project, in place of RECIPE.", show_default=False),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(metavar="N", help="Save and stop after so long; --resume goes on.", show_default=False),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            "--device", "-d", metavar="NAME", rich_help_panel=ENGINE_PANEL, help="auto, cpu, cuda, cuda:N or mps."
        ),
    ] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            rich_help_panel=ENGINE_PANEL,
            help="Processes that read ahead.",
            show_default="cores - 1, 4 at most",
        ),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", metavar="", help="Show the recipes there are.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Check recipe and data, print the whole recipe, and stop.")
    ] = False,
) -> None:
    """Train a network by a recipe.

    Writes last.ckpt, the best checkpoints, metrics.csv and TensorBoard's events.
    A run that was stopped or killed goes on with --resume, as if nothing had been.
    Several processes: [bold]torchrun --nproc-per-node=2 -m iseparate train ...[/bold]

    [bold]Examples[/bold]
    iseparate train --list
    iseparate train umx-vocals --data musdb18hq:musdb18hq
    iseparate train mine.yaml --data folder:songs --set loop.batch_size=8
    """
    if listed:
        _print_recipes()
        return
    plan = _plan(recipe, from_iseparate, overrides or ())
    folder = out_dir or Path("trained") / plan.name
    if workers is not None and workers < 0:
        raise UsageError(f"--workers is 0 or more; got {workers}")
    if hours is not None and not hours > 0:
        raise UsageError(f"--hours is more than 0; got {hours:g}")
    from iseparate.engine.memory import reuse_large_blocks
    from iseparate.train import fit  # says in a sentence that Lightning is missing
    from iseparate.train.run import check_before_data

    if dry_run:
        _print_survey(plan, _songs(data, plan))
        return
    score = _scoring(plan.validation.metric)
    check_before_data(plan, folder, resume=resume, start_from=start_from, device=device)
    songs = _songs(data, plan)
    reuse_large_blocks()  # a quarter of the time of a training step (LOG.md)
    end = None if hours is None else time.monotonic() + 3600 * hours
    with _stopping(folder) as stopped, _bar() as progress:
        result = fit(
            plan,
            songs,
            folder,
            resume=resume,
            start_from=start_from,
            device=device,
            command=as_typed(recipe, from_iseparate, data, overrides or (), start_from),
            workers=workers,
            separate=separate_live if score else None,
            score=score,
            report=note,
            progress=progress,
            stop=lambda: bool(stopped) or (end is not None and time.monotonic() >= end),
        )
    if _is_first():
        _print_result(plan, result)
        if result.stopped:
            note(f"stopped and saved; the same command with --resume goes on ({plain(str(folder))})")
    if stopped:
        raise typer.Exit(128 + stopped[0])


def separate_live(model: SeparationModel, samples: Samples, sample_rate: int) -> Mapping[str, Samples]:
    """A song ``[C, T]`` through the engine with a network as it stands: nothing of the network is changed."""
    import numpy as np

    from iseparate.audio.array import blocks_of
    from iseparate.audio.layout import unnamed_layout
    from iseparate.engine.plan import Plan
    from iseparate.engine.stream import BLOCK_SAMPLES, separate_blocks

    plans, layout = [Plan.for_model(model.spec)], unnamed_layout(len(samples))
    stretches = separate_blocks(model, plans, lambda: blocks_of(samples, BLOCK_SAMPLES), sample_rate, layout)
    blocks = [stretch.stems for stretch in stretches]
    return {stem: np.concatenate([block[stem] for block in blocks], 1) for stem in model.spec.stems}


def _scoring(name: str | None) -> Score | None:
    """A metric's first value for each stem, one figure a song."""
    if name is None:
        return None
    from iseparate.evaluate.metrics import metric, pooled

    chosen = metric(name)

    def score(
        references: Mapping[str, Samples], estimates: Mapping[str, Samples], mix: Samples, sample_rate: int
    ) -> Mapping[str, float]:
        scores = chosen.score(references, estimates, mix, sample_rate)
        return {stem: pooled(values[chosen.values[0]]) for stem, values in scores.items()}

    return score


def _plan(recipe: str | None, from_iseparate: Path | None, overrides: Sequence[str]) -> Recipe:
    if (recipe is None) == (from_iseparate is None):
        raise UsageError("name one recipe, such as `iseparate train umx-vocals`; `iseparate train --list` shows all")
    from iseparate.train.recipe import load_recipe, parse_recipe

    if recipe is not None:
        return load_recipe(recipe, overrides)
    from iseparate.train.from_iseparate import convert

    assert from_iseparate is not None
    plan, changes = convert(from_iseparate)
    for change in changes:
        note(change)
    return parse_recipe(plan.to_yaml(), str(from_iseparate), overrides) if overrides else plan


def _songs(data: str, plan: Recipe) -> str:
    """The data set's KIND:PATH; the synthetic band is rendered into the cache first, unless it is there."""
    from iseparate.data.datasets.synthetic import BAND_WORDS, rendered_once
    from iseparate.data.rendering import telling
    from iseparate.data.synthetic.folder import BandSettings
    from iseparate.data.synthetic.sounds import SAMPLE_RATE
    from iseparate.train.run import check_songs_to_be

    kind, _, words = data.partition(":")
    band = BAND_WORDS.fullmatch(words or _RENDERED)
    if kind != "synthetic" or band is None:
        return data
    check_songs_to_be(plan, f"synthetic:{band[0]}", BandSettings.stems, SAMPLE_RATE)
    if _is_first():
        hours, seed = band[1], band[2]
        note(f"the synthetic band is the data: {hours} hours of it, seed {seed}, rendered into the cache if not there")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with _one_at_a_time(), rendering() as progress, telling(progress):
        return f"synthetic:{rendered_once(band[0], jobs=cores)}"


def as_typed(
    recipe: str | None, from_iseparate: Path | None, data: str, overrides: Sequence[str], start_from: Path | None
) -> str:
    """What to type to get the same. Folders are other ones elsewhere, and whose they are here is nobody's business."""
    kind, colon, words = data.partition(":")
    if colon and (Path(words).exists() or not words):
        data = f"{kind}:PATH"
    elif not colon and data != "synthetic":
        data = "PATH"
    from iseparate.train.processes import Processes

    started = Processes.of()
    nodes = [f"--nnodes={started.world // started.local}"] if started.world > started.local else []
    together = ["torchrun", *nodes, f"--nproc-per-node={started.local}", "-m"] if started.world > 1 else []
    words_typed = [*together, "iseparate", "train"]
    words_typed += [Path(recipe).name] if recipe is not None else []
    words_typed += ["--from-iseparate", from_iseparate.name] if from_iseparate is not None else []
    words_typed += ["--data", data]
    for override in overrides:
        words_typed += ["--set", override]
    words_typed += ["--start-from", start_from.name] if start_from is not None else []
    return shlex.join(words_typed)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """One process after the other, among those that torchrun started on this machine."""
    import tempfile

    from filelock import FileLock

    run = re.sub(r"\W", "", os.environ.get("TORCHELASTIC_RUN_ID", ""))
    if not run:
        yield
        return
    port = os.environ.get("MASTER_PORT", "")
    with FileLock(Path(tempfile.gettempdir()) / f"iseparate-{run}-{port}.lock"):
        yield


def _is_first() -> bool:
    from iseparate.train.processes import Processes

    return Processes.of().is_first


class _AtOnce(BaseException):
    """A second signal: the user does not want to wait."""


@contextmanager
def _stopping(folder: Path) -> Iterator[list[int]]:
    """The signals that asked for the end so far. At the first the training saves and ends; the second ends it now."""
    received: list[int] = []
    owner = os.getpid()

    def receive(number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != owner:
            return  # a worker that reads ahead: a terminal sends Ctrl-C to all, and this one is still needed
        received.append(number)
        if len(received) > 1:
            raise _AtOnce
        if _is_first():
            note("stopping after this step; once more, and it stops at once")

    handlers = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        known = getattr(signal, name, None)
        if known is not None and signal.getsignal(known) != signal.SIG_IGN:
            handlers[known] = signal.signal(known, receive)
    try:
        yield received
    except _AtOnce:
        last = folder / "last.ckpt"
        fail("stopped at once; " + (f"{last} is whole: go on with --resume" if last.exists() else "nothing was saved"))
        raise typer.Exit(128 + received[0]) from None
    finally:
        for known, handler in handlers.items():
            signal.signal(known, handler)


@contextmanager
def _bar() -> Iterator[Callable[[TrainingProgress], None]]:
    """A bar for the batches of an epoch; nothing where stderr is no terminal."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[stand]}"),
        TimeRemainingColumn(compact=True),
        console=console.err,
        disable=not console.err.is_terminal,
        transient=True,
    )
    task = bar.add_task("starting", total=None, stand="")

    def update(progress: TrainingProgress) -> None:
        epoch = f"epoch {progress.epoch}" + (f" / {progress.epochs}" if progress.epochs else "")
        words = f"{epoch}, validation" if progress.judging else epoch
        stand = f"{progress.batch}/{progress.batches} loss {progress.loss:.4g}"
        bar.update(task, description=words, completed=progress.batch, total=progress.batches, stand=stand)

    with bar:
        yield update


def _print_recipes() -> None:
    from iseparate.train.recipe import load_recipe, recipe_names

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("recipe", "what it trains", "stand"):
        table.add_column(column, no_wrap=column == "recipe")
    for name in recipe_names():
        recipe = load_recipe(name)
        table.add_row(name, plain(recipe.title), "reconstruction" if recipe.reconstruction else "")
    console.print_table(table)


def _print_survey(recipe: Recipe, songs: str) -> None:
    from iseparate.train.run import survey

    found = survey(recipe, songs, note)
    typer.echo(recipe.to_yaml(), nl=False)
    loop = recipe.loop
    steps = -(-found.batches // loop.accumulate_batches)
    lasts = f"{loop.epochs} epochs" if loop.epochs else f"{loop.max_steps} steps"
    note(
        f"{recipe.name} would train {', '.join(found.stems)} ({found.parameters:,} parameters) on {found.train_songs} "
        f"songs ({clock(found.train_seconds)}), {found.examples} excerpts or {steps} steps an epoch, for {lasts}; "
        f"{found.valid_songs} song{' is' if found.valid_songs == 1 else 's are'} for validation"
    )


def _print_result(recipe: Recipe, result: FitResult) -> None:
    where = plain(str(result.folder))
    took = f"{counted(result.epochs, 'epoch')}, {counted(result.steps, 'step')}"
    out.print(f"[green]✓[/green] [bold]{where}[/bold]: {took} of {recipe.name}")
    for figure, words in (("train/loss", "loss"), ("valid/loss", "validation loss")):
        values = [float(row[figure]) for row in result.history if figure in row]
        if len(values) > 1:
            fell = "fell" if values[-1] < values[0] else "went"
            out.print(f"  {words} {fell} from {values[0]:.4g} to {values[-1]:.4g}")
    chosen = result.best if result.best is not None and result.best.exists() else result.last
    if not chosen.exists():
        return
    from iseparate.train.checkpoint import read_checkpoint

    scores = read_checkpoint(chosen)["iseparate"]["scores"]
    unit = "" if recipe.validation.metric == "log_wmse" else " dB"  # the only one in a unit of its own
    for stem, mixture in result.baseline.items():
        value = scores.get(f"valid/score/{stem}")
        if value is not None:
            figures = f"{value:.2f}{unit}, of the mixture itself {mixture:.2f}{unit}"
            out.print(f"  {recipe.validation.metric} of {plain(stem)}: {figures}")
    out.print(f"  {'best' if chosen == result.best else 'last'} checkpoint: {plain(str(chosen))}")
    if not result.stopped:
        out.print(f"  next: iseparate models export {plain(str(chosen))} -o {recipe.name}.safetensors")
