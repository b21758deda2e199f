"""Validation on whole songs, by whatever separates and scores them: the door passes both in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from iseparate.data.track import MIXTURE, Track
from iseparate.errors import AudioError
from iseparate.models._base import SeparationModel
from iseparate.train.module import TrainingModule
from iseparate.types import Samples

Separate = Callable[[SeparationModel, Samples, int], Mapping[str, Samples]]
"""A network in eval mode, a mixture ``[C, T]`` and its rate -> the stems ``[C, T]``."""
Score = Callable[[Mapping[str, Samples], Mapping[str, Samples], Samples, int], Mapping[str, float]]
"""References, estimates, mixture, rate -> a number per stem; more is better."""


class Judge(Callback):
    """Scores the network on songs after each validation on excerpts.

    The figures are ``valid/score``, the mean over songs and stems, and ``valid/score/STEM``.

    Args:
        songs: what it is judged by.
        separate, score: see `Separate`, `Score`.
        report: told of songs that cannot be read: they are left out.
    """

    def __init__(
        self,
        songs: Sequence[Track],
        separate: Separate,
        score: Score,
        report: Callable[[str], None] = lambda _: None,
    ):
        self._songs, self._separate, self._score, self._report = list(songs), separate, score, report

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        # One process judges; the others wait for its word.
        means: dict[str, float] = {}
        if trainer.is_global_zero:
            means = scores(pl_module.network, self._songs, self._separate, self._score, self._report)
        pl_module.figures |= figures(trainer.strategy.broadcast(means))


def figures(means: Mapping[str, float]) -> dict[str, float]:
    """Scores by stem, as they are called in tables and checkpoints."""
    if not means:
        return {}
    return {
        "valid/score": sum(means.values()) / len(means),
        **{f"valid/score/{stem}": value for stem, value in means.items()},
    }


def scores(
    network: SeparationModel,
    songs: Sequence[Track],
    separate: Separate,
    score: Score,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """The mean over songs of each stem's score; a stem that has one in no song is left out."""
    was_training = network.training
    network.eval()
    found: dict[str, list[float]] = {}
    try:
        with torch.inference_mode():
            for song in songs:
                try:
                    mix, references = song.read(MIXTURE), references_of(song, network.trained_stems)
                except AudioError as error:
                    report(f"{song.title} is left out of the validation: {error}")
                    continue
                estimates = separate(network, mix, song.sample_rate)
                for stem, value in score(references, estimates, mix, song.sample_rate).items():
                    if math.isfinite(value):  # it is not where the stem is silent, for some metrics
                        found.setdefault(stem, []).append(value)
    finally:
        network.train(was_training)
    return {stem: sum(values) / len(values) for stem, values in found.items()}


def baseline(
    network: SeparationModel, songs: Sequence[Track], score: Score, report: Callable[[str], None] = lambda _: None
) -> dict[str, float]:
    """The same of the mixture as the estimate of every stem: what any network must beat."""
    return scores(network, songs, lambda _, mix, __: dict.fromkeys(network.trained_stems, mix), score, report)


def references_of(song: Track, stems: Sequence[str]) -> dict[str, Samples]:
    """The true stems of a song."""
    return {stem: song.read(stem) for stem in stems}
