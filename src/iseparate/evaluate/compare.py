"""A run beside earlier runs and beside published scores.

Two runs over the same tracks are compared track by track, since tracks differ far more than systems do. Published
scores come without tracks: of them there is only the difference of two pooled figures, which has no interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iseparate.errors import UsageError
from iseparate.evaluate.published import find_row
from iseparate.evaluate.run import RunRecord, read_run, stored_scores
from iseparate.evaluate.summary import Summary, summarise, track_medians
from iseparate.evaluate.track_scores import TrackScores

PUBLISHED = "published:"
RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class EarlierRun:
    """Another run, read from its folder."""

    label: str
    record: RunRecord
    scores: list[TrackScores]
    summary: Summary


@dataclass(frozen=True)
class PublishedScores:
    """One row of the literature's tables."""

    label: str
    metric: str
    definition: str
    origin: str
    data: str
    figures: dict[str, float]
    """SDR by stem."""


Baseline = EarlierRun | PublishedScores


@dataclass(frozen=True)
class PairedDifference:
    """How much better this run is than an earlier one, of one value of one stem, over the tracks that both have."""

    stem: str
    value: str
    tracks: int
    mean: float
    low: float
    high: float
    """`low` to `high`: the confidence interval of the mean by percentile bootstrap over tracks."""
    median: float
    better: int
    """On so many tracks this run is better."""


def read_baseline(name: str) -> Baseline:
    """A run's folder, or ``published:ROW`` of the literature's tables.

    Raises:
        UsageError: neither a run nor a row.
    """
    if name.startswith(PUBLISHED):
        table, row = find_row(name.removeprefix(PUBLISHED))
        data = f"{table.data}, {table.subset}, {table.tracks} tracks"
        return PublishedScores(row.system, table.metric, table.metric_definition, row.origin, data, dict(row.sdr))
    folder = Path(name)
    record = read_run(folder)
    scores = stored_scores(folder)
    if not scores:
        raise UsageError(f"{folder} holds a run of which no track is done; finish it before comparing with it")
    return EarlierRun(record.asked.estimator, record, scores, summarise(scores))


def paired_differences(
    ours: Sequence[TrackScores], theirs: Sequence[TrackScores], metric: str, summary: Summary, seed: int = 0
) -> list[PairedDifference]:
    """What this run is ahead of an earlier one, for every stem and value that both have on at least one track.

    Args:
        ours, theirs: scores of the tracks.
        metric: its name.
        summary: of this run: which stems and values there are, and in which order.
        seed: of the bootstrap.
    """
    found = []
    for stem, values in summary.get(metric, {}).items():
        for value in values:
            here, there = (track_medians(scores, metric, stem, value) for scores in (ours, theirs))
            pairs = [here[track] - there[track] for track in here.keys() & there.keys()]
            differences = np.array(sorted(pair for pair in pairs if math.isfinite(pair)))
            if not len(differences):
                continue
            low, high = bootstrap_interval(differences, seed)
            found.append(
                PairedDifference(
                    stem,
                    value,
                    len(differences),
                    float(differences.mean()),
                    low,
                    high,
                    float(np.median(differences)),
                    int((differences > 0).sum()),
                )
            )
    return found


def bootstrap_interval(values: NDArray[Any], seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the mean at `CONFIDENCE`, over `RESAMPLES` resamples; the same for the same seed.

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. NaN for fewer than two values.
    """
    if len(values) < 2:
        return math.nan, math.nan
    chance = np.random.default_rng(seed)
    means = values[chance.integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def refusal(baseline: Baseline, metric: str) -> str | None:
    """Why scores cannot be compared by a metric, as a sentence without its stop; None where they can."""
    if isinstance(baseline, PublishedScores):
        return None if baseline.metric == metric else f"{baseline.label} was published by {baseline.metric}"
    return None if metric in baseline.record.asked.metrics else f"{baseline.label} was not scored by {metric}"
