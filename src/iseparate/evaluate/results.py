"""What a finished run leaves beside the tracks' files: summary, frames, report."""

from __future__ import annotations

from iseparate.evaluate.frames import can_write_parquet, frames_parquet
from iseparate.evaluate.report import Report, report_html
from iseparate.evaluate.run import EvaluationRun
from iseparate.evaluate.summary import Summary, summarise, summary_json, summary_markdown
from iseparate.evaluate.track_scores import write_in_run

SUMMARY_JSON, SUMMARY_MARKDOWN, FRAMES, PAGE = "summary.json", "summary.md", "frames.parquet", "report.html"


def write_results(run: EvaluationRun, report: Report) -> Summary:
    """Write ``summary.json``, ``summary.md``, ``report.html`` and, where pyarrow is installed, ``frames.parquet``.

    All are made anew from the tracks' files each time, so they are never those of an earlier session.

    Raises:
        OutputError: one cannot be written.
    """
    scores, failed = report.scores, report.failed
    summary = summarise(scores)
    comparisons = [comparison.as_json() for comparison in report.comparisons(summary)]
    document = summary_json(summary, report.definitions, failed, len(scores), comparisons)
    write_in_run(run.folder / SUMMARY_JSON, document)
    markdown = summary_markdown(report.title, summary, report.definitions, failed, len(scores))
    write_in_run(run.folder / SUMMARY_MARKDOWN, markdown)
    if can_write_parquet():
        framewise = frozenset(metric.name for metric in report.metrics if metric.framewise)
        write_in_run(run.folder / FRAMES, frames_parquet(scores, framewise))
    write_in_run(run.folder / PAGE, report_html(report))
    return summary
