"""From frames to one figure per stem, by every rule that the literature uses, each under its own name.

The rule of museval and SiSEC 2018 is `median_of_medians`: over the frames of a track, then over tracks. Frames without
a finite value (a silent reference or estimate; a perfect estimate) take no part, and neither do tracks that have none;
both are counted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from iseparate.evaluate.metrics import pooled
from iseparate.evaluate.targets import ACCOMPANIMENT, VOCALS
from iseparate.evaluate.track_scores import TrackScores

_ORDER = {name: index for index, name in enumerate((VOCALS, "drums", "bass", "other"))}
RULES = {
    "median_of_medians": "median over the frames of a track, then median over tracks",
    "mean_of_medians": "median over the frames of a track, then mean over tracks",
    "median_of_means": "mean over the frames of a track, then median over tracks",
    "mean_of_means": "mean over the frames of a track, then mean over tracks",
}


@dataclass(frozen=True)
class Pooled:
    """One value of one stem over all tracks; None where no track has it."""

    median_of_medians: float | None
    mean_of_medians: float | None
    median_of_means: float | None
    mean_of_means: float | None
    tracks: int
    """That have a figure."""
    frames: int
    undefined_frames: int
    """Without a finite value, of `frames`."""


Summary = dict[str, dict[str, dict[str, Pooled]]]
"""metric -> stem -> value."""
TrackFigures = dict[str, float]
"""Median over frames by track; NaN where no frame is defined."""


def summarise(scores: Sequence[TrackScores]) -> Summary:
    """Pool the scores of tracks."""
    return {
        metric: {stem: {value: _pooled(scores, metric, stem, value) for value in values} for stem, values in stems}
        for metric, stems in _shapes(scores)
    }


def track_medians(scores: Iterable[TrackScores], metric: str, stem: str, value: str) -> TrackFigures:
    """One figure per track that has the stem."""
    return {
        track.track: pooled(np.asarray(frames))
        for track in scores
        if (frames := track.scores.get(metric, {}).get(stem, {}).get(value)) is not None
    }


def average_over_stems(stems: Mapping[str, Mapping[str, Pooled]], value: str) -> float | None:
    """Mean of the stems' `median_of_medians`, without the accompaniment beside its own parts; None: a stem has none."""
    names = [stem for stem in stems if stem != ACCOMPANIMENT or len(stems) <= 2]
    figures = [stems[name][value].median_of_medians for name in names if value in stems[name]]
    if len(figures) < 2 or None in figures:
        return None
    return float(np.mean([figure for figure in figures if figure is not None]))


def summary_json(
    summary: Summary,
    definitions: Mapping[str, str],
    failed: Mapping[str, str],
    tracks: int,
    comparisons: Sequence[Mapping[str, Any]] = (),
) -> str:
    """``summary.json``: strict JSON, ``null`` where there is no figure."""
    document = {
        "tracks": tracks,
        "failed": dict(failed),
        "rules": RULES,
        "metrics": {
            metric: {
                "definition": definitions[metric],
                "stems": {
                    stem: {value: asdict(figures) for value, figures in values.items()}
                    for stem, values in stems.items()
                },
                "average_over_stems": {value: average_over_stems(stems, value) for value in value_names(stems)},
            }
            for metric, stems in summary.items()
        },
        "comparisons": list(comparisons),
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def summary_markdown(
    title: str, summary: Summary, definitions: Mapping[str, str], failed: Mapping[str, str], tracks: int
) -> str:
    """``summary.md``."""
    lines = [f"# {_cell(title)}", "", f"{tracks} tracks scored, {len(failed)} failed.", ""]
    for metric, stems in summary.items():
        lines += [f"## {metric}", "", definitions[metric], ""]
        headings = ["stem", "value", *(rule.replace("_", " ") for rule in RULES), "tracks", "undefined frames"]
        lines += [f"| {' | '.join(headings)} |", "| --- | --- |" + " ---: |" * (len(headings) - 2)]
        for stem, values in stems.items():
            for value, over_tracks in values.items():
                figures = " | ".join(shown(getattr(over_tracks, rule)) for rule in RULES)
                counts = f"{over_tracks.tracks} | {over_tracks.undefined_frames} of {over_tracks.frames}"
                lines.append(f"| {_cell(stem)} | {value} | {figures} | {counts} |")
        averages = [f"{value} {shown(average_over_stems(stems, value))}" for value in value_names(stems)]
        if not averages[0].endswith("–"):
            lines += ["", f"Mean over stems of the median of medians: {', '.join(averages)}."]
        lines.append("")
    lines += [*(f"- {rule.replace('_', ' ')}: {meaning}" for rule, meaning in RULES.items()), ""]
    lines += ["Frames without a finite value (silence, a perfect estimate) are left out and counted as undefined.", ""]
    if failed:
        lines += ["## Failed", "", *(f"- {_cell(sentence)}" for sentence in failed.values()), ""]
    return "\n".join(lines)


def value_names(stems: Mapping[str, Mapping[str, Pooled]]) -> list[str]:
    """Names of a metric's values."""
    return list(next(iter(stems.values()), {}))


def shown(figure: float | None) -> str:
    """A figure in two decimals; a dash where there is none."""
    return "–" if figure is None or not math.isfinite(figure) else f"{figure:.2f}"


def _shapes(scores: Sequence[TrackScores]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Metrics, stems and values in the order in which they are shown."""
    metrics: dict[str, dict[str, list[str]]] = {}
    for track in scores:
        for metric, stems in track.scores.items():
            for stem, values in stems.items():
                metrics.setdefault(metric, {}).setdefault(stem, list(values))
    return [(metric, sorted(stems.items(), key=lambda item: _rank(item[0]))) for metric, stems in metrics.items()]


def _rank(stem: str) -> tuple[int, str]:
    """Vocals, drums, bass, other, further stems, accompaniment."""
    return (len(_ORDER) + 1 if stem == ACCOMPANIMENT else _ORDER.get(stem, len(_ORDER)), stem)


def _pooled(scores: Sequence[TrackScores], metric: str, stem: str, value: str) -> Pooled:
    frames = [found for track in scores if (found := track.scores.get(metric, {}).get(stem, {}).get(value)) is not None]
    medians = _finite(pooled(np.asarray(track)) for track in frames)
    means = _finite(float(np.mean(finite)) if (finite := _finite(track)) else math.nan for track in frames)
    count = sum(len(track) for track in frames)
    return Pooled(
        median_of_medians=float(np.median(medians)) if medians else None,
        mean_of_medians=float(np.mean(medians)) if medians else None,
        median_of_means=float(np.median(means)) if means else None,
        mean_of_means=float(np.mean(means)) if means else None,
        tracks=len(medians),
        frames=count,
        undefined_frames=count - sum(len(_finite(track)) for track in frames),
    )


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _cell(text: str) -> str:
    """A name inside Markdown: on one line, and neither markup nor a column of its own."""
    flat = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\`*_[]|<>#" else c for c in flat)
