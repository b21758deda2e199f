"""The metrics by name: one shape of result, no mixing of conventions, a sentence for bad input."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from iseparate.errors import AudioFormatError, UsageError
from iseparate.evaluate.log_wmse import log_wmse
from iseparate.evaluate.metrics import METRICS, metric, pooled

RATE = 2000
FAST = [name for name in METRICS if name != "log_wmse"]


@pytest.fixture
def track():
    """References, estimates, mixture: 3.5 s of three mono stems."""
    random = np.random.default_rng(0)
    references = {
        name: (random.normal(size=(1, 7000)) * 0.1).astype(np.float32) for name in ("vocals", "drums", "bass")
    }
    mix = np.sum(list(references.values()), axis=0)
    estimates = {
        name: (0.9 * stem + 0.1 * mix + 0.01 * random.normal(size=stem.shape)).astype(np.float32)
        for name, stem in references.items()
    }
    return references, estimates, mix


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_returns_its_values_for_every_stem(name, track):
    if name == "log_wmse":
        pytest.importorskip("log_wmse_audio_quality")
    scoring = metric(name)
    scores = scoring.score(*track, RATE)
    assert list(scores) == ["vocals", "drums", "bass"]
    for values in scores.values():
        assert tuple(values) == scoring.values
        for frames in values.values():
            assert frames.dtype == np.float64
            assert frames.shape == ((3,) if scoring.framewise else (1,))
            assert np.isfinite(frames).all()


def test_no_two_metrics_share_a_definition_and_each_says_how_a_track_is_summed_up():
    assert len({entry.definition for entry in METRICS.values()}) == len(METRICS)
    for name, entry in METRICS.items():
        assert entry.name == name
        assert "track" in entry.definition
        assert ("median" in entry.definition) == entry.framewise
    assert metric("usdr").values == ("uSDR",)
    assert metric("bss_eval_v4").values == ("SDR", "ISR", "SIR", "SAR")


def test_a_better_estimate_scores_better_everywhere(track):
    references, estimates, mix = track
    better = {name: 0.5 * (stem + estimates[name]) for name, stem in references.items()}
    for name in FAST:
        value = metric(name).values[0]
        worse, best = (metric(name).score(references, e, mix, RATE)["drums"][value] for e in (estimates, better))
        assert (best > worse + 3).all()


def test_conventions_differ(track):
    v4, v3 = (metric(name).score(*track, RATE)["vocals"]["SIR"] for name in ("bss_eval_v4", "bss_eval_v3"))
    assert (v3 > v4 + 0.01).all()


@pytest.mark.parametrize("name", METRICS)
def test_a_silent_stem_is_a_result(name, track):
    if name == "log_wmse":
        pytest.importorskip("log_wmse_audio_quality")
    references, estimates, mix = track
    references["bass"] = np.zeros_like(mix)
    scores = metric(name).score(references, estimates, mix, RATE)
    defined = name in ("usdr", "log_wmse")
    for value in metric(name).values:
        assert np.isfinite(scores["bass"][value]).all() == defined
        assert np.isfinite(scores["vocals"][value]).all()


@pytest.mark.parametrize("name", FAST)
def test_a_track_shorter_than_a_window_has_one_value(name, track):
    short = [{k: v[:, :900] for k, v in group.items()} for group in track[:2]]
    scores = metric(name).score(*short, track[2][:, :900], RATE)
    for frames in scores["vocals"].values():
        assert frames.shape == (1,)
        assert np.isfinite(frames).all()


@pytest.mark.parametrize("name", FAST)
def test_lengths_may_differ_by_a_second(name, track):
    references, estimates, mix = track
    longer = {k: np.pad(v, [(0, 0), (0, 1500)], constant_values=0.5) for k, v in estimates.items()}
    cut = {k: np.concatenate([v[:, :6500], np.zeros((1, 500), np.float32)], 1) for k, v in estimates.items()}
    shorter = {k: v[:, :6500] for k, v in estimates.items()}
    for changed, same in ((longer, estimates), (shorter, cut)):
        ours, theirs = (metric(name).score(references, e, mix, RATE) for e in (changed, same))
        for stem in references:
            for value in metric(name).values:
                np.testing.assert_array_equal(ours[stem][value], theirs[stem][value])


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (
            lambda r, e, m: (r, {"vocals": e["vocals"]}, m, RATE),
            AudioFormatError,
            r"no estimate of drums, bass \(there is",
        ),
        (lambda r, e, m: (r, {}, m, RATE), AudioFormatError, r"there is: none\)"),
        (lambda r, e, m: ({}, e, m, RATE), AudioFormatError, "no references"),
        (
            lambda r, e, m: (r, e | {"drums": m.repeat(2, 0)}, m, RATE),
            AudioFormatError,
            "estimate of 'drums' has the shape",
        ),
        (lambda r, e, m: (r, e | {"drums": m * np.nan}, m, RATE), AudioFormatError, "estimate of 'drums' holds NaN"),
        (lambda r, e, m: (r, e | {"drums": m[:, :0]}, m, RATE), AudioFormatError, "none of them 0"),
        (
            lambda r, e, m: (r, e | {"drums": m[:, :4000]}, m, RATE),
            AudioFormatError,
            "1.50 s shorter than the references",
        ),
        (lambda r, e, m: (r | {"drums": m[:, 1:]}, e, m, RATE), AudioFormatError, "reference 'drums' has the shape"),
        (
            lambda r, e, m: (r | {"drums": m + np.inf}, e, m, RATE),
            AudioFormatError,
            "reference 'drums' holds NaN or inf",
        ),
        (lambda r, e, m: (r, e, m.repeat(2, 0), RATE), AudioFormatError, "the mixture has the shape"),
        (lambda r, e, m: (r, e, m, 0), UsageError, "sample rate is 0"),
    ],
)
@pytest.mark.parametrize("name", METRICS)
def test_bad_input_gets_a_sentence_before_any_work(name, change, error, sentence, track):
    with pytest.raises(error, match=sentence):
        metric(name).score(*change(*track))


def test_an_unknown_name_gets_those_there_are():
    with pytest.raises(UsageError, match="no metric is called 'BSS-eval'; there is bss_eval_v4"):
        metric("BSS-eval")
    with pytest.raises(UsageError, match="there is bss_eval_v4, bss_eval_v3, usdr, si_sdr, log_wmse"):
        metric("sdr")
    with pytest.raises(UsageError, match="si_sdr"):
        metric("loudness, please")


def test_pooled_is_the_median_of_what_is_finite():
    assert pooled(np.array([1.0, np.nan, 3.0, np.inf, 8.0, -np.inf])) == 3
    assert math.isnan(pooled(np.array([np.nan, np.inf])))
    assert math.isnan(pooled(np.array([])))


def test_log_wmse_rewards_silence_where_silence_is_due(track):
    pytest.importorskip("log_wmse_audio_quality")
    _, estimates, mix = track
    silence = np.zeros_like(mix)
    scores = [log_wmse(silence, gain * estimates["bass"], mix, 44100) for gain in (1, 0.1, 0.01, 0)]
    assert scores == sorted(scores)
    assert scores[1] - scores[0] == pytest.approx(-4 * math.log(0.01), abs=0.1)
    assert scores[-1] == pytest.approx(-4 * math.log(1e-8), abs=1e-3)


def test_log_wmse_without_its_package_says_what_to_install(track, monkeypatch):
    monkeypatch.setitem(sys.modules, "log_wmse_audio_quality", None)
    with pytest.raises(UsageError, match="pip install --no-deps log-wmse-audio-quality"):
        metric("log_wmse").score(*track, RATE)
