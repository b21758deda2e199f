"""BSS Eval equals museval 0.4.1."""

from __future__ import annotations

import json

import numpy as np
import pytest
from golden import FOLDER

from iseparate.evaluate.bsseval import bss_eval, bss_eval_like_museval
from iseparate.evaluate.metrics import metric, pooled

GOLDEN = FOLDER / "museval"
FACTS = json.loads((GOLDEN / "facts.json").read_text())
CASES = FACTS["cases"]
NAMES = ("SDR", "ISR", "SIR", "SAR")
REFUSED = ("reference-all-zero", "estimate-all-zero", "reference-antiphase")
TOLERANCE_DB = 1e-4


@pytest.fixture(scope="module")
def signals():
    with np.load(GOLDEN / "input.npz") as arrays:
        return {key: arrays[key] / 32768 for key in arrays.files}


@pytest.fixture(scope="module")
def expected():
    with np.load(GOLDEN / "expected.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def scores_of(case, signals):
    references, estimates = signals[case["references"]], signals[case["estimates"]]
    if case["fn"] == "evaluate":
        options = {"win": case["win"], "hop": case["hop"], "mode": case["mode"]}
        values = bss_eval_like_museval(references.transpose(0, 2, 1), estimates.transpose(0, 2, 1), **options)
        return dict(zip(NAMES, values, strict=True))
    window, hop = (None if case[key] == "inf" else case[key] for key in ("window", "hop"))
    scores = bss_eval(
        references,
        estimates,
        window_samples=window,
        hop_samples=hop,
        mode="v3" if case.get("framewise_filters") else "v4",
        version="sources" if case.get("bsseval_sources_version") else "images",
        permute=case.get("compute_permutation", False),
    )
    return {name: getattr(scores, name.lower()) for name in NAMES} | {"perm": scores.permutation}


def test_every_case_and_key_of_the_golden_is_looked_at(expected):
    keys = {key.split("/")[0] for key in expected}
    assert keys == set(CASES) | {"track"}
    assert {key for key in expected if key.endswith("/error")} == {f"{case}/error" for case in REFUSED}


@pytest.mark.parametrize("name", [case for case in CASES if case not in REFUSED])
def test_equals_museval(name, signals, expected):
    ours = scores_of(CASES[name], signals)
    keys = [key for key in expected if key.startswith(f"{name}/")]
    assert len(keys) >= 4
    for key in keys:
        values, theirs = ours[key.partition("/")[2]], expected[key]
        if key.endswith("/perm"):
            np.testing.assert_array_equal(values, np.broadcast_to(theirs, values.shape))
            continue
        assert values.shape == theirs.shape
        if name == "perfect":
            assert (values > 100).all()
            np.testing.assert_array_equal(np.isinf(values), np.isinf(theirs))
            continue
        np.testing.assert_allclose(values, theirs, rtol=0, atol=TOLERANCE_DB, err_msg=key)


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_museval_refuses(name, signals, expected):
    assert expected[f"{name}/error"] == "ValueError"
    with pytest.raises(ValueError, match="silent"):
        scores_of(CASES[name], signals)


def test_a_track_of_musdb(signals, expected):
    """All stems jointly, and the vocals beside the accompaniment, whose scores are museval's vocals."""
    track = FACTS["track"]
    stems, estimates = (
        dict(zip(track["names"], signals[track[key]], strict=True)) for key in ("references", "estimates")
    )
    mix = sum(stems.values())
    whole = metric("bss_eval_v4").score(stems, estimates, mix, track["rate"])
    for group in (stems, estimates):
        group["accompaniment"] = group["drums"] + group["bass"] + group["other"]
    pair = {name: stems[name] for name in ("vocals", "accompaniment")}
    ours = whole | metric("bss_eval_v4").score(pair, estimates, mix, track["rate"])
    theirs = json.loads(str(expected["track/json"]))["targets"]
    assert {target["name"] for target in theirs} == set(ours)
    for target in theirs:
        for name in NAMES:
            frames = [float(frame["metrics"][name]) for frame in target["frames"]]
            np.testing.assert_allclose(ours[target["name"]][name], frames, rtol=0, atol=TOLERANCE_DB)


def test_medians_are_museval_s(expected):
    theirs = json.loads(str(expected["track/json"]))["targets"]
    medians = json.loads(str(expected["track/median"]))
    assert len(medians) == 4 * len(theirs)
    for target in theirs:
        for name in NAMES:
            frames = np.array([float(frame["metrics"][name]) for frame in target["frames"]])
            assert pooled(frames) == pytest.approx(medians[f"{target['name']}/{name}"], abs=1e-9)
