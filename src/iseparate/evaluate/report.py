"""``report.html``: a whole run on one page that asks nothing of the network.

The page's own policy (Content-Security-Policy, by hash) allows its one style and its one script and nothing else, and
every name is escaped by the template, so that a track called ``<script>`` is only a track.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iseparate.evaluate.boxplot import Row, box_plot
from iseparate.evaluate.compare import (
    CONFIDENCE,
    RESAMPLES,
    Baseline,
    EarlierRun,
    PairedDifference,
    PublishedScores,
    paired_differences,
    refusal,
)
from iseparate.evaluate.run import RunRecord, TrackResult
from iseparate.evaluate.spectra import FLOOR_DB, LOWEST_HZ, BandLevels
from iseparate.evaluate.summary import (
    RULES,
    Summary,
    average_over_stems,
    shown,
    summarise,
    track_medians,
    value_names,
)
from iseparate.evaluate.track_scores import TrackScores

if TYPE_CHECKING:
    from iseparate.evaluate.metrics import Metric

_TEMPLATE, _STYLE, _SCRIPT = "report.html.j2", "report.css", "report.js"


@dataclass(frozen=True)
class Report:
    """A finished run, and what it is compared with."""

    record: RunRecord
    results: Sequence[TrackResult]
    metrics: Sequence[Metric]
    baselines: Sequence[Baseline] = ()
    seed: int = 0
    """Of the bootstrap."""

    @property
    def title(self) -> str:
        """System and data."""
        asked = self.record.asked
        return f"{asked.estimator} on {_data_name(asked.data)}" + (f", {asked.subset}" if asked.subset else "")

    @property
    def scores(self) -> list[TrackScores]:
        """Of the tracks that are done."""
        return [result.scores for result in self.results if result.scores]

    @property
    def failed(self) -> dict[str, str]:
        """A sentence by track."""
        return {result.track: result.error for result in self.results if result.error}

    @property
    def definitions(self) -> dict[str, str]:
        """By metric."""
        return {metric.name: metric.definition for metric in self.metrics}

    def comparisons(self, summary: Summary) -> list[Comparison]:
        """Every baseline by every metric."""
        return [
            _comparison(self, baseline, metric, summary)
            for baseline in self.baselines
            for metric in self.metrics
            if not isinstance(baseline, PublishedScores) or baseline.metric == metric.name
        ] + [
            Comparison(
                baseline.label,
                "",
                refused=f"{baseline.label} was published by {baseline.metric}, which was not "
                "among the metrics of this run",
            )
            for baseline in self.baselines
            if isinstance(baseline, PublishedScores) and baseline.metric not in self.definitions
        ]


@dataclass(frozen=True)
class Comparison:
    """A run beside one baseline, by one metric."""

    label: str
    metric: str
    caption: str = ""
    paired: Sequence[PairedDifference] = ()
    unpaired: Sequence[tuple[str, float | None, float]] = ()
    """Stem, this run's median of medians, the published figure."""
    refused: str | None = None
    """Why there is nothing to compare."""

    def as_json(self) -> dict[str, Any]:
        """For ``summary.json``."""
        return {
            "with": self.label,
            "metric": self.metric,
            "paired": [_without_nan(vars(difference)) for difference in self.paired],
            "unpaired": [
                {"stem": stem, "value": "SDR", "here": here, "published": published}
                for stem, here, published in self.unpaired
            ],
            "refused": self.refused,
        }


def can_draw_spectra() -> bool:
    """True where matplotlib, whose colours they have, is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def report_html(report: Report) -> str:
    """The page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    style, script = (_text(name) for name in (_STYLE, _SCRIPT))
    scores = report.scores
    summary = summarise(scores)
    environment = Environment(
        loader=PackageLoader("iseparate.evaluate", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": shown, "clock": _clock}
    asked = report.record.asked
    return environment.get_template(_TEMPLATE).render(
        report=report,
        asked=asked,
        data_name=_data_name(asked.data),
        sessions=report.record.sessions,
        sections=[_section(report, metric, summary) for metric in report.metrics if metric.name in summary],
        comparisons=report.comparisons(summary),
        spectra=list(_spectra(report, summary)),
        spectra_missing=not can_draw_spectra(),
        scores=scores,
        notes=_notes(scores),
        failed=report.failed,
        identity=_flat(asked.identity),
        rules=RULES,
        confidence=round(CONFIDENCE * 100),
        resamples=RESAMPLES,
        lowest_hz=LOWEST_HZ,
        floor_db=FLOOR_DB,
        # Ours, and hashed just below: the only two that are not escaped.
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
    )


def _section(report: Report, metric: Metric, summary: Summary) -> dict[str, Any]:
    """One metric: table, plots, tracks."""
    from markupsafe import Markup

    stems = summary[metric.name]
    values = value_names(stems)
    return {
        "metric": metric,
        "stems": stems,
        "values": values,
        "averages": [average_over_stems(stems, value) for value in values],
        # Drawn by `box_plot`, which escapes what it is given.
        "plots": [(value, Markup(svg)) for value in values if (svg := _plot(report, metric, stems, value))],  # noqa: S704
        "tables": [(value, _track_rows(report.scores, metric.name, list(stems), value)) for value in values],
    }


def _plot(report: Report, metric: Metric, stems: Mapping[str, Any], value: str) -> str:
    runs: list[tuple[str, Sequence[TrackScores]]] = [(report.record.asked.estimator, report.scores)]
    runs += [
        (baseline.label, baseline.scores)
        for baseline in report.baselines
        if isinstance(baseline, EarlierRun) and not refusal(baseline, metric.name)
    ]
    rows = [
        Row(stem, track_medians(scores, metric.name, stem, value), series, label)
        for stem in stems
        for series, (label, scores) in enumerate(runs)
    ]
    return box_plot(value, rows)


def _track_rows(
    scores: Sequence[TrackScores], metric: str, stems: Sequence[str], value: str
) -> list[tuple[TrackScores, list[float | None]]]:
    columns = [track_medians(scores, metric, stem, value) for stem in stems]
    return [(track, [column.get(track.track) for column in columns]) for track in scores]


def _comparison(report: Report, baseline: Baseline, metric: Metric, summary: Summary) -> Comparison:
    if refused := refusal(baseline, metric.name):
        return Comparison(baseline.label, metric.name, refused=refused)
    asked = report.record.asked
    if isinstance(baseline, PublishedScores):
        stems = summary.get(metric.name, {})
        figures = [
            (stem, stems[stem]["SDR"].median_of_medians, figure)
            for stem, figure in baseline.figures.items()
            if "SDR" in stems.get(stem, {})
        ]
        caption = (
            f"Published ({baseline.origin}): {baseline.definition}. Only pooled figures were published, so the tracks "
            f"cannot be paired and there is no interval. They are over {baseline.data}; this run is over {asked.data}, "
            f"{asked.subset or 'no subset'}, {len(report.scores)} tracks."
        )
        refused = None if figures else f"{baseline.label} and this run have no stem in common"
        return Comparison(baseline.label, metric.name, caption, unpaired=figures, refused=refused)
    paired = paired_differences(report.scores, baseline.scores, metric.name, summary, report.seed)
    other = baseline.record.asked
    caption = "This run minus the other, per track. Positive: this run is better."
    if (other.data, other.subset) != (asked.data, asked.subset):
        caption += f" The other is over {other.data}, {other.subset or 'no subset'}; tracks are paired by name."
    refused = None if paired else f"{baseline.label} and this run have no track in common"
    return Comparison(baseline.label, metric.name, caption, paired=paired, refused=refused)


def _spectra(report: Report, summary: Summary) -> Iterator[dict[str, Any]]:
    """Worst and best track by the first value of the first metric, mean over stems."""
    if not can_draw_spectra() or not summary:
        return
    metric = next(metric.name for metric in report.metrics if metric.name in summary)
    value = value_names(summary[metric])[0]
    columns = [track_medians(report.scores, metric, stem, value) for stem in summary[metric]]
    ranked: list[tuple[float, TrackResult]] = []
    for result in report.results:
        found = [column[result.track] for column in columns if math.isfinite(column.get(result.track, math.nan))]
        if result.scores and found:
            ranked.append((sum(found) / len(found), result))
    ranked.sort(key=lambda pair: pair[0])
    chosen = [("Worst", *ranked[0]), ("Best", *ranked[-1])] if len(ranked) > 1 else [("Only", *r) for r in ranked]
    for rank, figure, result in chosen:
        assert result.scores is not None
        spectra = result.spectra
        yield {
            "rank": rank,
            "track": result.track,
            "figure": figure,
            "value": value,
            "seconds": result.scores.samples / result.scores.sample_rate_hz,
            "highest_hz": result.scores.sample_rate_hz // 2,
            "stems": [
                (stem, shown(track_medians([result.scores], metric, stem, value).get(result.track)), *map(_png, pair))
                for stem, pair in sorted(spectra.items(), key=lambda item: list(summary[metric]).index(item[0]))
                if stem in summary[metric]
            ],
        }


def _png(levels: BandLevels) -> str:
    """A data URL."""
    from matplotlib import colormaps
    from PIL import Image

    picture = Image.fromarray(levels[::-1])
    picture = picture.convert("P")
    colours = colormaps["magma"](range(256), bytes=True)[:, :3]
    picture.putpalette(colours.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _notes(scores: Sequence[TrackScores]) -> list[tuple[str, list[str]]]:
    """Each sentence once, with the tracks it is true of."""
    tracks: dict[str, list[str]] = {}
    for track in scores:
        for note in track.notes:
            tracks.setdefault(note, []).append(track.track)
    return list(tracks.items())


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    return {name.replace("_", " "): "none" if value is None else str(value) for name, value in values.items()}


def _without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }


def _data_name(data: str) -> str:
    """Kind and folder: where that lies is said at the page's end."""
    kind, _, path = data.partition(":")
    return f"{kind}: {Path(path).name}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def _text(name: str) -> str:
    return resources.files("iseparate.evaluate").joinpath("page", name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(sha256(text.encode()).digest()).decode()
