"""Pooling, and that it is museval's; the table of frames."""

from __future__ import annotations

import io
import json
import math
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from scored_songs import BSS, RATE, asked, noisy, session, song

from iseparate.evaluate.frames import frames_parquet
from iseparate.evaluate.run import open_run
from iseparate.evaluate.summary import (
    average_over_stems,
    summarise,
    summary_json,
    summary_markdown,
    track_medians,
)
from iseparate.evaluate.track_scores import TrackScores

NAN, INF = math.nan, math.inf


def scored(track, stems, metric="m", value="SDR", subset="test"):
    """A track's scores, made up: stem -> frames."""
    return TrackScores(
        track=track,
        subset=subset,
        sample_rate_hz=10,
        channels=2,
        samples=30,
        stems=tuple(stems),
        seconds=0,
        notes=(),
        museval_metric=None,
        scores={metric: {stem: {value: frames} for stem, frames in stems.items()}},
    )


def test_the_four_rules():
    # Medians 2, 10, 3 and means 4, 10, 3.
    scores = [scored("a", {"bass": [1, 2, 9]}), scored("b", {"bass": [10, NAN, INF]}), scored("c", {"bass": [3]})]
    pooled = summarise(scores)["m"]["bass"]["SDR"]
    assert (pooled.median_of_medians, pooled.mean_of_medians) == (3, 5)
    assert (pooled.median_of_means, pooled.mean_of_means) == (4, pytest.approx(17 / 3))
    assert (pooled.tracks, pooled.frames, pooled.undefined_frames) == (3, 7, 2)


def test_a_stem_that_is_never_defined_has_no_figure():
    summary = summarise([scored("a", {"bass": [NAN, -INF], "vocals": [1]})])
    pooled = summary["m"]["bass"]["SDR"]
    assert (pooled.median_of_medians, pooled.tracks, pooled.undefined_frames) == (None, 0, 2)
    assert math.isnan(track_medians([scored("a", {"bass": [NAN]})], "m", "bass", "SDR")["a"])
    assert average_over_stems(summary["m"], "SDR") is None
    document = json.loads(summary_json(summary, {"m": "what it is"}, {"b": "b: broken"}, 1), parse_constant=pytest.fail)
    assert document["metrics"]["m"]["stems"]["bass"]["SDR"]["median_of_medians"] is None
    assert document["failed"] == {"b": "b: broken"}
    assert "| bass | SDR | – | – | – | – | 0 | 2 of 2 |" in summary_markdown("t", summary, {"m": "it"}, {}, 1)


def test_stems_stand_in_the_fields_order_and_the_accompaniment_is_no_part_of_the_mean():
    names = ["accompaniment", "piano", "other", "bass", "drums", "vocals"]
    summary = summarise([scored("a", {name: [index] for index, name in enumerate(names)})])
    assert list(summary["m"]) == ["vocals", "drums", "bass", "other", "piano", "accompaniment"]
    assert average_over_stems(summary["m"], "SDR") == 3
    pair = summarise([scored("a", {"vocals": [1], "accompaniment": [4]})])
    assert average_over_stems(pair["m"], "SDR") == 2.5


def test_names_cannot_break_a_table():
    summary = summarise([scored("a", {"b|a<s>\ns": [1]})])
    text = summary_markdown("x\n# y", summary, {"m": "it"}, {"t": "<b>|t"}, 1)
    assert "| b\\|a\\<s\\> s | SDR |" in text
    assert "\n# y" not in text
    assert "- \\<b\\>\\|t" in text


@pytest.fixture
def museval(monkeypatch):
    """museval, without musdb, which looks for an FFmpeg program when it is imported."""
    pytest.importorskip("simplejson")
    monkeypatch.setitem(sys.modules, "musdb", ModuleType("musdb"))
    return pytest.importorskip("museval")


def test_files_and_medians_are_those_of_museval(museval, tmp_path):
    """Its own program over the same estimates: the same file, to its rounding; and its stores read ours."""
    tracks = [
        song("one", channels=1, stems=("vocals", "drums", "bass")),
        song("two", channels=1, stems=("vocals", "drums", "bass")),
    ]
    estimator = noisy()
    with open_run(tmp_path / "ours", asked(estimator, tracks, (BSS,)), session(), tracks, tracks, False) as run:
        results = run.run(estimator, [BSS])
    for track in tracks:
        sounds = {**track.sounds, "accompaniment": track.sounds["drums"] + track.sounds["bass"]}
        estimates = dict(
            estimator.estimate(SimpleNamespace(track=track, stems=track.sounds, mix=track.read("mixture")), print)
        )
        estimates["accompaniment"] = estimates["drums"] + estimates["bass"]
        theirs = SimpleNamespace(
            name=track.name,
            subset="test",
            rate=RATE,
            targets={name: SimpleNamespace(audio=sound.T) for name, sound in sounds.items()},
        )
        user = {name: estimate.T for name, estimate in estimates.items()}
        museval.eval_mus_track(theirs, user, output_dir=str(tmp_path / "museval"))
        ours, reference = (
            json.loads((tmp_path / folder / f"test/{track.name}.json").read_text()) for folder in ("ours", "museval")
        )
        flat = [
            {
                (target["name"], frame["time"], frame["duration"], name): value
                for target in document["targets"]
                for frame in target["frames"]
                for name, value in frame["metrics"].items()
            }
            for document in (ours, reference)
        ]
        assert flat[0] == pytest.approx(flat[1], abs=2e-4)
    stores = []
    for folder in ("ours", "museval"):
        store = museval.EvalStore()
        store.add_eval_dir(tmp_path / folder)
        stores.append(store.agg_frames_tracks_scores())
    assert stores[0].to_dict() == pytest.approx(stores[1].to_dict(), abs=2e-4)
    summary = summarise([result.scores for result in results])["bss_eval_v4"]
    pooled = {(stem, value): p.median_of_medians for stem, values in summary.items() for value, p in values.items()}
    assert pooled == pytest.approx(stores[1].to_dict(), abs=2e-4)


def test_every_frame_is_in_the_table():
    parquet = pytest.importorskip("pyarrow.parquet")
    scores = [scored("a", {"bass": [1, NAN, INF]}), scored("b", {"bass": [2]}, "whole", subset="")]
    table = parquet.read_table(io.BytesIO(frames_parquet(scores, frozenset({"m"})))).to_pydict()
    assert table["track"] == ["a", "a", "a", "b"]
    assert table["subset"] == ["test", "test", "test", ""]
    assert table["metric"] == ["m", "m", "m", "whole"]
    assert table["time_seconds"] == [0, 1, 2, 0]
    assert table["duration_seconds"] == [1, 1, 1, 3]
    np.testing.assert_array_equal(table["score"], [1, NAN, INF, 2])
    short = scored("c", {"bass": [1]}).model_copy(update={"samples": 5})
    table = parquet.read_table(io.BytesIO(frames_parquet([short], frozenset({"m"})))).to_pydict()
    assert table["duration_seconds"] == [0.5]
