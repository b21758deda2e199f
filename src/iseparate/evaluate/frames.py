"""Every frame of every track as one Parquet table."""

from __future__ import annotations

import importlib.util
import io
import itertools
from collections.abc import Iterable

from iseparate.evaluate.track_scores import FRAME_SECONDS, TrackScores


def can_write_parquet() -> bool:
    """True where pyarrow is installed."""
    return importlib.util.find_spec("pyarrow") is not None


def frames_parquet(scores: Iterable[TrackScores], framewise: frozenset[str]) -> bytes:
    """A file with a row per frame: track, subset, metric, stem, value, frame, time_seconds, duration_seconds, score.

    Args:
        scores: of the tracks.
        framewise: names of the metrics that have frames of a second; others have one figure, over the whole track.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    words = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema(
        [
            *((name, words) for name in ("track", "subset", "metric", "stem", "value")),
            ("frame", pa.int32()),
            *((name, pa.float64()) for name in ("time_seconds", "duration_seconds", "score")),
        ]
    )
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        for track in scores:
            columns: dict[str, list[object]] = {name: [] for name in schema.names}
            length_seconds = track.samples / track.sample_rate_hz
            for metric, stem, value, figures in _values(track):
                count = len(figures)
                # A track shorter than a frame is one frame, as long as itself.
                duration = min(FRAME_SECONDS, length_seconds) if metric in framewise else length_seconds
                row = (track.track, track.subset, metric, stem, value)
                for name, word in zip(schema.names, row, strict=False):
                    columns[name] += itertools.repeat(word, count)
                columns["frame"] += range(count)
                columns["time_seconds"] += [index * duration for index in range(count)]
                columns["duration_seconds"] += itertools.repeat(duration, count)
                columns["score"] += figures
            writer.write_table(pa.table(columns, schema=schema))
    return buffer.getvalue()


def _values(track: TrackScores) -> Iterable[tuple[str, str, str, list[float]]]:
    for metric, stems in track.scores.items():
        for stem, values in stems.items():
            for value, figures in values.items():
                yield metric, stem, value, figures
