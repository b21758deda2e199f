"""The page: whole in itself, safe whatever the names, and true."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from scored_songs import USDR, asked, noisy, session, song

from iseparate.errors import UsageError
from iseparate.evaluate import report as report_module
from iseparate.evaluate.boxplot import Row, box, box_plot
from iseparate.evaluate.compare import bootstrap_interval, paired_differences, read_baseline
from iseparate.evaluate.report import Report
from iseparate.evaluate.results import write_results
from iseparate.evaluate.run import open_run
from iseparate.evaluate.spectra import BANDS, COLUMNS, FLOOR_DB, band_levels, pack, unpack
from iseparate.evaluate.summary import summarise

HOSTILE = '<img src=x onerror="alert(1)"></script><script>alert(2)</script>&amp;{{ 7*7 }}\''


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.stack = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def evaluated(folder, tracks, level=0.1, name="noisy", baselines=(), metrics=(USDR,)):
    estimator = noisy(name, level)
    with open_run(folder, asked(estimator, tracks, metrics), session(), tracks, tracks, False) as run:
        page = Report(run.record, run.run(estimator, metrics), metrics, baselines)
        write_results(run, page)
    return page


def test_a_page_asks_nothing_of_the_network_and_allows_only_its_own_style_and_script(tmp_path):
    evaluated(tmp_path, [song("a", seconds=1), song("b", seconds=1)])
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    places = [a[key] for _, a in page.tags for key in ("src", "href", "action", "data") if a.get(key)]
    assert places
    assert all(place.startswith(("data:image/png;base64,", "#")) for place in places)
    assert not re.search(r"url\(|@import|https?://", text)
    assert not any(key.startswith("on") or key == "style" for _, a in page.tags for key in a)
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_hostile_names_are_only_names(tmp_path):
    tracks = [song(HOSTILE, seconds=1), song("b", stems=("vocals", HOSTILE), seconds=1)]
    baseline = evaluated(tmp_path / "earlier", tracks, 0.2, HOSTILE)
    assert baseline.scores
    evaluated(tmp_path / "now", tracks, name=HOSTILE, baselines=[read_baseline(str(tmp_path / "earlier"))])
    page = Page((tmp_path / "now/report.html").read_text())
    assert len(page.all("script")) == 1
    assert not [a for a in page.all("img") if a.get("onerror") or not a["src"].startswith("data:")]
    assert "".join(page.text).count(HOSTILE) > 5
    assert "49" not in "".join(t for t in page.text if "7*7" in t)


def test_a_page_can_be_read_by_everyone(tmp_path):
    pytest.importorskip("matplotlib")
    evaluated(tmp_path, [song("a", seconds=1), song("b", seconds=1)])
    page = Page((tmp_path / "report.html").read_text())
    assert page.all("html")[0]["lang"] == "en"
    assert page.all("meta")[2]["name"] == "viewport"
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    assert len(page.all("img")) == 2 * 5 * 2  # worst and best, five targets, reference and estimate
    assert all(a["alt"].startswith("Spectrogram of the ") for a in page.all("img"))
    for svg in page.all("svg"):
        assert svg["role"] == "img"
        assert re.search(r"median \d+\.\d\d, quartiles", svg["aria-label"])


def test_a_page_says_how_it_was_made_and_what_failed(tmp_path):
    broken = song("broken", seconds=1)
    broken.sounds = {**broken.sounds, "bass": broken.sounds["bass"] * np.nan}
    page = evaluated(tmp_path, [song("a", seconds=1), broken])
    text = "".join(Page((tmp_path / "report.html").read_text()).text)
    for fact in ("iseparate evaluate -n noisy --data folder:songs", "0" * 64, "torch", USDR.definition, "1 failed"):
        assert fact in text
    assert page.failed["broken"] in text
    assert "holds NaN" in page.failed["broken"]


def test_a_run_without_a_single_score_still_has_its_page(tmp_path):
    broken = song("broken", seconds=1)
    broken.sounds = {name: sound * np.nan for name, sound in broken.sounds.items()}
    evaluated(tmp_path, [broken])
    assert "0 tracks scored" in (tmp_path / "report.html").read_text()


def test_without_matplotlib_the_page_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(report_module, "can_draw_spectra", lambda: False)
    evaluated(tmp_path, [song("a", seconds=1)])
    assert "matplotlib is not installed" in (tmp_path / "report.html").read_text()


def test_runs_are_compared_track_by_track(tmp_path):
    tracks = [song(name, seconds=1) for name in "abcd"]
    evaluated(tmp_path / "earlier", tracks[:3], 0.2)
    earlier = read_baseline(str(tmp_path / "earlier"))
    page = evaluated(tmp_path / "now", tracks, 0.1, baselines=[earlier])
    summary = summarise(page.scores)
    differences = {d.stem: d for d in paired_differences(page.scores, earlier.scores, "usdr", summary)}
    # Half the noise is 6 dB.
    assert differences["vocals"].mean == pytest.approx(20 * np.log10(2), abs=0.01)
    assert (differences["vocals"].tracks, differences["vocals"].better) == (3, 3)
    assert differences["vocals"].low <= differences["vocals"].mean <= differences["vocals"].high
    (comparison,) = page.comparisons(summary)
    assert comparison.as_json()["paired"][0]["mean"] == pytest.approx(6.02, abs=0.01)
    assert "+6.02" in (tmp_path / "now/report.html").read_text()


def test_published_scores_are_set_beside_but_not_paired(tmp_path):
    page = evaluated(tmp_path, [song("a", seconds=1)], baselines=[read_baseline("published:irm")])
    (comparison,) = page.comparisons(summarise(page.scores))
    assert "was published by bss_eval_v4, which was not among the metrics of this run" in comparison.refused
    assert comparison.refused in "".join(Page((tmp_path / "report.html").read_text()).text)


def test_what_is_no_run_cannot_be_compared_with(tmp_path):
    with pytest.raises(UsageError, match="is not the folder of a run"):
        read_baseline(str(tmp_path))
    with pytest.raises(UsageError, match="no row of the literature's tables"):
        read_baseline("published:nobody")


def test_the_interval_is_that_of_the_mean():
    chance = np.random.default_rng(0)
    values = chance.normal(1, 2, 400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(values, seed=1) != (low, high)
    assert np.isnan(bootstrap_interval(values[:1])).all()


def test_a_box_is_tukeys():
    stats = box([1, 2, 3, 4, 5, 100])
    assert (stats.first, stats.middle, stats.third) == (2.25, 3.5, 4.75)
    assert (stats.low, stats.high) == (1, 5)


@pytest.mark.parametrize("figures", [[1.0], [1.0, 1.0], [-1e-9, 1e9], [float("nan"), 2.0]])
def test_any_figures_can_be_drawn(figures):
    svg = box_plot("SDR", [Row("vocals", {str(i): f for i, f in enumerate(figures)})])
    places = [float(x) for x in re.findall(r'cx="([^"]+)"', svg)]
    assert len(places) == sum(np.isfinite(figures))
    assert all(0 <= place <= 640 for place in places)
    assert "nan" not in svg


def test_no_figures_are_no_plot():
    assert box_plot("SDR", [Row("vocals", {"a": float("nan")})]) == ""


def test_a_tone_shows_where_it_is_and_how_loud(tmp_path):
    rate = 44100
    time = np.arange(20 * rate) / rate
    tone = np.stack([np.sin(2 * np.pi * 1000 * time)] * 2).astype(np.float32)
    tone[:, 10 * rate :] *= 0.01
    levels = band_levels(tone, rate)
    assert levels.shape == (BANDS, len(range(0, 20 * rate - 4095, 2048)))
    band = int(np.log(1000 / 40) / np.log(rate / 2 / 40) * BANDS)
    assert levels[:, 50].argmax() == pytest.approx(band, abs=1)
    assert levels[:, 50].max() == pytest.approx(255, abs=8)
    assert levels[:, -50].max() == pytest.approx(255 * (1 - 40 / -FLOOR_DB), abs=8)
    assert levels[90, 50] < 40
    assert band_levels(np.zeros((1, 60 * rate), np.float32), rate).shape == (BANDS, COLUMNS)
    assert band_levels(np.zeros((1, 1), np.float32), 8000).shape == (BANDS, 1)
    path = tmp_path / "spectra.npz"
    path.write_bytes(pack({"a/../b": (levels, levels)}))
    np.testing.assert_array_equal(unpack(path)["a/../b"][1], levels)
    path.write_bytes(b"PK damaged")
    assert unpack(path) == {}
