"""Box plots as SVG: one row per stem and system, over tracks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW, _GAP, _BOTTOM = 640, 150, 24, 10, 30, 12, 44
_LABEL, _SERIES = 16, 6


@dataclass(frozen=True)
class Row:
    """The figures of one row."""

    label: str
    figures: dict[str, float]
    """By track."""
    series: int = 0
    """Which colour: 0 for this run, 1, 2 ... for those it is compared with."""
    system: str = ""
    """Whose figures they are; shown instead of the label where it is not this run."""


@dataclass(frozen=True)
class Box:
    """Quartiles; whiskers reach to the last figure within one and a half of the box's length (Tukey)."""

    low: float
    first: float
    middle: float
    third: float
    high: float


def box(figures: Sequence[float]) -> Box:
    """Of finite figures, one at least."""
    values = np.sort(np.asarray(figures, float))
    first, middle, third = (float(q) for q in np.quantile(values, [0.25, 0.5, 0.75]))
    reach = 1.5 * (third - first)
    inside = values[(values >= first - reach) & (values <= third + reach)]
    return Box(float(inside.min()), first, middle, third, float(inside.max()))


def box_plot(title: str, rows: Sequence[Row]) -> str:
    """An SVG, its colours given by the page's style (classes ``s0``, ``s1`` ...); empty where there are no figures.

    Every name in it is escaped. What it shows is said in its description too, for those who cannot see it.
    """
    rows = [row for row in rows if any(map(math.isfinite, row.figures.values()))]
    finite = {index: {t: f for t, f in row.figures.items() if math.isfinite(f)} for index, row in enumerate(rows)}
    every = [figure for figures in finite.values() for figure in figures.values()]
    if not every:
        return ""
    ticks = _ticks(min(every), max(every))
    lowest, highest = ticks[0], ticks[-1]
    # Rows of one stem stand together.
    groups = [index for index, row in enumerate(rows) if index and not row.series and any(r.series for r in rows)]
    tops = [_TOP + _ROW * index + _GAP * sum(group <= index for group in groups) for index in range(len(rows))]
    bottom = tops[-1] + _ROW
    height = bottom + _BOTTOM

    def x(figure: float) -> str:
        share = (figure - lowest) / (highest - lowest)
        return f"{_LEFT + share * (_WIDTH - _LEFT - _RIGHT):.1f}"

    lines, words = [], []
    for tick in ticks:
        lines.append(f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{_TOP}" y2="{bottom}"/>')
        lines.append(f'<text class="tick" x="{x(tick)}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    middle_x = (_LEFT + _WIDTH - _RIGHT) / 2
    lines.append(f'<text class="tick" x="{middle_x}" y="{height - 8}" text-anchor="middle">{escape(title)}</text>')
    for index, row in enumerate(rows):
        figures = finite[index]
        y = tops[index] + _ROW / 2
        label, kind = (row.system, "label of") if row.series else (row.label, "label")
        label = label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…"
        text = f'<text class="{kind}" x="{_LEFT - 10}" y="{y + 5}" text-anchor="end">{escape(label)}</text>'
        stats = box(list(figures.values()))
        of = f" of {row.system}" if row.series else ""
        words.append(
            f"{row.label}{of}: median {stats.middle:.2f}, quartiles {stats.first:.2f} and {stats.third:.2f}, from "
            f"{min(figures.values()):.2f} to {max(figures.values()):.2f}"
        )
        lines.append(f'<g class="s{row.series % _SERIES}">{text}{_marks(stats, figures, x, y)}</g>')
    description = escape(f"Box plot of {title} over tracks. " + "; ".join(words) + ".")
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{description}">'
        f"<desc>{description}</desc>{''.join(lines)}</svg>"
    )


def _marks(stats: Box, figures: dict[str, float], x: object, y: float) -> str:
    assert callable(x)
    half = 9
    marks = [
        f'<line class="whisker" x1="{x(stats.low)}" x2="{x(stats.first)}" y1="{y}" y2="{y}"/>',
        f'<line class="whisker" x1="{x(stats.third)}" x2="{x(stats.high)}" y1="{y}" y2="{y}"/>',
    ]
    width = max(float(x(stats.third)) - float(x(stats.first)), 1)
    marks.append(f'<rect class="box" x="{x(stats.first)}" y="{y - half}" width="{width:.1f}" height="{2 * half}"/>')
    for number, (track, figure) in enumerate(sorted(figures.items())):
        # Spread by rule, not by chance: the same run draws the same picture.
        place = y + (number * 5 % 11 - 5)
        marks.append(
            f'<circle class="dot" cx="{x(figure)}" cy="{place:.1f}" r="2.5">'
            f"<title>{escape(track)}: {figure:.2f}</title></circle>"
        )
    marks.append(
        f'<line class="median" x1="{x(stats.middle)}" x2="{x(stats.middle)}" y1="{y - half}" y2="{y + half}"/>'
    )
    return "".join(marks)


def _ticks(lowest: float, highest: float) -> list[float]:
    """Round figures around all of them, about six."""
    span = max(highest - lowest, 1e-3)
    raw = span / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first, last = math.floor(lowest / step), math.ceil(highest / step)
    return [round(index * step, 9) for index in range(first, max(last, first + 1) + 1)]
