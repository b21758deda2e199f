"""The whole of a training: recipe and data in, checkpoints and a table of figures out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning.pytorch as pl
import torch

from iseparate.data.open import Dataset, open_dataset
from iseparate.data.track import Track
from iseparate.errors import OutputError, UsageError
from iseparate.train import board
from iseparate.train.average import Averages
from iseparate.train.checkpoint import about
from iseparate.train.examples import choose_songs, heard_stems, loaders
from iseparate.train.initial import check_start, draw_weights, load_initial, set_statistics
from iseparate.train.judge import Judge, Score, Separate, baseline
from iseparate.train.keeper import SAVE_MINUTES, Choice, Keeper
from iseparate.train.machine import choose_device, in_words, make_trainer, quiet
from iseparate.train.module import LAST, TrainingModule
from iseparate.train.processes import Processes
from iseparate.train.progress import Teller, TrainingProgress
from iseparate.train.recipe import Recipe, load_recipe, network_config
from iseparate.train.resume import alone, manifest_of, starting_point
from iseparate.train.table import Row, Table, read_table
from iseparate.whole_file import write_whole

RECIPE = "recipe.yaml"
METRICS = "metrics.csv"


@dataclass(frozen=True)
class FitResult:
    """What came of a training."""

    folder: Path
    last: Path
    best: Path | None
    """The checkpoint that was chosen; None where nothing was validated yet."""
    epochs: int
    """That are finished, in all."""
    steps: int
    stopped: bool
    """True where the user ended it; ``--resume`` goes on."""
    history: tuple[Row, ...]
    """The rows of ``metrics.csv``."""
    baseline: Mapping[str, float]
    """Scores of the mixture as the estimate, by stem; empty where no songs were scored."""


def fit(
    recipe: Recipe | str | Path,
    data: str | Path | Dataset,
    out: str | Path,
    *,
    resume: bool = False,
    start_from: str | Path | None = None,
    device: str = "auto",
    command: str | None = None,
    workers: int | None = None,
    separate: Separate | None = None,
    score: Score | None = None,
    report: Callable[[str], None] = lambda _: None,
    progress: Callable[[TrainingProgress], None] | None = None,
    save_minutes: float = SAVE_MINUTES,
    stop: Callable[[], bool] = lambda: False,
) -> FitResult:
    """Train a network.

    Under ``torchrun`` each process calls this alike; the first one writes and speaks.

    Args:
        recipe: what and how; a name or a file is read by `iseparate.train.recipe.load_recipe`.
        data: ``KIND:PATH`` or a data set.
        out: a folder for checkpoints and figures.
        resume: go on from its ``last.ckpt``.
        start_from: a checkpoint or weights file whose network is trained on, instead of random weights.
        device: auto, cpu, cuda, cuda:N or mps.
        command: what the user typed, for the checkpoints: a card names it beside the scores.
        workers: processes that read ahead; None: one less than there are cores, four at most.
        separate, score: how whole songs are judged; without them only the loss is.
        report: told in sentences what the user should know, each once.
        progress: called after each batch.
        save_minutes: between two saves within an epoch.
        stop: asked between batches whether to save and end.

    Returns:
        what came of it, after the last epoch or where it was stopped.

    Raises:
        UsageError: recipe and data do not go together, or the folder holds another training.
        TrainingError: it cannot go on; the last checkpoint is whole.
        AudioError: songs cannot be read.
        OutputError: a checkpoint cannot be written.
        BackendError: the device or a package is not here, or a worker died.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    folder, processes = Path(out), Processes.of()
    report = _once(report) if processes.is_first else lambda _: None
    chosen = choose_device(device, recipe.loop.precision)
    arch, config = network_config(recipe)
    with alone(folder, processes.is_first):
        before = starting_point(folder, recipe, resume)
        dataset = data if isinstance(data, Dataset) else open_dataset(data)
        if before is None:
            check_start(recipe, Path(start_from) if start_from is not None else None)
        torch.manual_seed(recipe.loop.seed)
        network = arch.model(config)
        draw_weights(network, recipe.initial_weights)
        if start_from is not None and before is None:
            load_initial(network, arch.name, Path(start_from))
        train_songs, valid_songs, heard = choose_songs(dataset, recipe, network, report)
        batches, valid_batches = loaders(
            recipe, network, heard, train_songs, valid_songs, processes, workers, chosen[0] == "cuda", report
        )
        manifest = manifest_of(dataset, folder, before, report) if processes.is_first else None
        if recipe.initialise == "input_statistics" and before is None and start_from is None and manifest is not None:
            # The other processes get the first one's network.
            set_statistics(network, train_songs, f"{manifest.total_sha256} {' '.join(heard)}", report)
        judged = _judged(recipe, dataset, valid_songs, separate, score, report)
        facts = about(
            recipe,
            arch=arch.name,
            config=asdict(config),
            data={
                "spec": dataset.spec,
                "manifest_sha256": manifest.total_sha256 if manifest is not None else "",
                "manifest": manifest.text() if manifest is not None else "",
                "songs": len(train_songs),
                "seconds": sum(track.samples / track.sample_rate for track in train_songs),
            },
            averages=Averages(recipe.loop.averages).names(),
            command=command,
        )
        mixture_scores: Mapping[str, float] = {}
        if before is not None:
            mixture_scores = before["baseline"]
        elif judged and score is not None and processes.is_first:
            mixture_scores = baseline(network, judged, score, report)
        facts |= {
            "baseline": dict(mixture_scores),
            "judged_by": {"metric": recipe.validation.metric, "songs": len(judged)} if judged else None,
        }
        keeper = Keeper(
            folder,
            facts,
            choice=_choice(recipe, bool(judged), bool(valid_songs)),
            keep_best=recipe.validation.keep_best if valid_songs else 0,
            patience_epochs=recipe.loop.early_stopping_epochs,
            save_minutes=save_minutes,
            stop=stop,
        )
        callbacks: list[pl.Callback] = [Averages(recipe.loop.averages)]
        if judged and separate is not None and score is not None:
            callbacks.append(Judge(judged, separate, score, report))
        if board.is_here():
            excerpt = next(iter(valid_batches)) if valid_batches is not None and processes.is_first else None
            callbacks.append(board.Board(folder, excerpt))
        callbacks += [Table(folder / METRICS), keeper]
        if progress is not None:
            callbacks.append(Teller(progress, recipe.loop.epochs))
        if processes.is_first:
            _write_recipe(folder / RECIPE, recipe)
        module = TrainingModule(network, recipe, heard, recipe.data.excerpt_length(network.spec.sample_rate))
        with quiet():
            trainer = make_trainer(recipe, folder, callbacks, chosen, processes, valid_batches is not None)
            with in_words(folder, stop):
                position = folder / LAST if before is not None else None
                trainer.fit(module, batches, valid_batches, ckpt_path=position, weights_only=True)
        loop, steps = recipe.loop, trainer.global_step
        finished = keeper.epochs == loop.epochs or steps == loop.max_steps
        return FitResult(
            folder,
            folder / LAST,
            folder / keeper.best[0][1] if keeper.best else None,
            keeper.epochs,
            steps,
            stop() and not finished,
            tuple(read_table(folder / METRICS)),
            mixture_scores,
        )


def check_before_data(
    recipe: Recipe, out: str | Path, *, resume: bool = False, start_from: str | Path | None = None, device: str = "auto"
) -> None:
    """Raise what `fit` would without a look at the songs: for who has to make these first, which takes minutes."""
    choose_device(device, recipe.loop.precision)
    if starting_point(Path(out), recipe, resume) is None:
        check_start(recipe, Path(start_from) if start_from is not None else None)


def check_songs_to_be(recipe: Recipe, spec: str, stems: Sequence[str], sample_rate: int) -> None:
    """Raise UsageError where songs of these stems, at this rate, would not do; before somebody makes them as `spec`."""
    arch, config = network_config(recipe)
    network = arch.model(config)
    heard_stems(stems, spec, recipe, network)
    if network.spec.sample_rate != sample_rate:
        raise UsageError(
            f"{spec} has a sample rate of {sample_rate} Hz and the network one of {network.spec.sample_rate}: run "
            f"`iseparate data prepare {spec} --sample-rate {network.spec.sample_rate} -o DIR` and train on its result"
        )


@dataclass(frozen=True)
class Survey:
    """What a training would be, found without starting it."""

    stems: tuple[str, ...]
    """That the network is trained for."""
    parameters: int
    """Trainable numbers."""
    train_songs: int
    train_seconds: float
    valid_songs: int
    examples: int
    """In an epoch."""
    batches: int
    """In an epoch."""


def survey(recipe: Recipe, data: str | Path | Dataset, report: Callable[[str], None] = lambda _: None) -> Survey:
    """Hold a recipe against data; raises as `fit` would before its first step."""
    arch, config = network_config(recipe)
    dataset = data if isinstance(data, Dataset) else open_dataset(data)
    network = arch.model(config)
    train_songs, valid_songs, heard = choose_songs(dataset, recipe, network, report)
    batches, _ = loaders(recipe, network, heard, train_songs, valid_songs, Processes(), 0, False, report)
    return Survey(
        network.trained_stems,
        sum(p.numel() for p in network.parameters() if p.requires_grad),
        len(train_songs),
        sum(track.samples / track.sample_rate for track in train_songs),
        len(valid_songs),
        len(batches.excerpts),
        len(batches),
    )


def _judged(
    recipe: Recipe,
    dataset: Dataset,
    songs: Sequence[Track],
    separate: Separate | None,
    score: Score | None,
    report: Callable[[str], None],
) -> list[Track]:
    """The songs that are separated and scored."""
    wanted = recipe.validation
    if wanted.metric is None or separate is None or score is None:
        why = "nobody was named to separate and score them"
    elif dataset.training_only:
        why = dataset.training_only
    elif not songs:
        why = "there are none for validation"
    else:
        return list(songs[: wanted.songs])
    if wanted.choose_by == "score":
        report(f"whole songs are not scored ({why}), so checkpoints are chosen by the loss")
    return []


def _choice(recipe: Recipe, judged: bool, validated: bool) -> Choice:
    if recipe.validation.choose_by == "score" and judged:
        return Choice("valid/score", more_is_better=True)
    return Choice("valid/loss" if validated else "train/loss")


def _write_recipe(path: Path, recipe: Recipe) -> None:
    try:
        write_whole(path, recipe.to_yaml())
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}); make room, or choose another -o") from error


def _once(report: Callable[[str], None]) -> Callable[[str], None]:
    """Passes on each sentence once."""
    said: set[str] = set()

    def say(sentence: str) -> None:
        if sentence not in said:
            said.add(sentence)
            report(sentence)

    return say
