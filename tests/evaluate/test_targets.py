"""What is scored together: museval's rule, and what it does not say."""

from __future__ import annotations

import numpy as np
import pytest

from iseparate.errors import AudioFormatError, AudioReadError
from iseparate.evaluate.targets import Target, canonical, scoring_plan

FOUR = ("vocals", "drums", "bass", "other")


def shape(plan):
    """Names of each scenario; in brackets what is not reported."""
    return [[t.name if t.is_reported else f"({t.name})" for t in scenario] for scenario in plan.scenarios]


@pytest.mark.parametrize("estimates", [FOUR, (*FOUR, "accompaniment")])
def test_four_stems_are_joint_and_vocals_with_accompaniment_a_second_scenario(estimates):
    plan = scoring_plan(FOUR, estimates)
    assert shape(plan) == [["(vocals)", "drums", "bass", "other"], ["vocals", "accompaniment"]]
    accompaniment = plan.scenarios[1][1]
    assert accompaniment.stems == FOUR[1:]
    assert accompaniment.estimates == (("accompaniment",) if len(estimates) > 4 else FOUR[1:])
    assert plan.notes == ()


def test_a_two_stem_model_is_scored_as_a_pair():
    assert shape(scoring_plan(FOUR, ("vocals", "accompaniment"))) == [["vocals", "accompaniment"]]
    assert shape(scoring_plan(("vocals", "accompaniment"), ("vocals", "accompaniment"))) == [
        ["vocals", "accompaniment"]
    ]


def test_three_of_four_stems_are_scored_without_an_accompaniment():
    assert shape(scoring_plan(FOUR, ("vocals", "drums", "bass"))) == [["vocals", "drums", "bass"]]


def test_a_lone_stem_is_scored_against_the_rest_of_the_mixture():
    plan = scoring_plan(FOUR, ("vocals",))
    assert shape(plan) == [["vocals", "accompaniment"]]
    rest = plan.scenarios[0][1]
    mix, vocals = np.full((1, 3), 5, np.float32), np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(rest.estimate({"vocals": vocals}, mix), mix - 1)
    assert plan.notes == ("the estimate of accompaniment is the mixture without the estimate of vocals",)
    assert shape(scoring_plan(FOUR, ("drums",))) == [["drums", "no_drums"]]
    assert shape(scoring_plan(FOUR, ("accompaniment",))) == [["accompaniment", "vocals"]]


def test_a_track_without_vocals_has_no_score_of_them():
    plan = scoring_plan(FOUR[1:], ("vocals", "accompaniment"))
    assert shape(plan) == [["accompaniment"]]
    assert plan.notes == ("vocals were not scored: the track has none",)
    assert shape(scoring_plan(FOUR[1:], FOUR)) == [["drums", "bass", "other"]]


def test_what_a_finer_model_tells_apart_belongs_to_other():
    plan = scoring_plan(FOUR, (*FOUR, "guitar", "piano"))
    other = next(target for target in plan.scenarios[0] if target.name == "other")
    assert other.estimates == ("other", "guitar", "piano")
    assert plan.scenarios[1][1].estimates == ("drums", "bass", "other", "guitar", "piano")
    assert plan.notes == ("the estimate of other is the sum of other, guitar, piano, as the track has no such stems",)
    assert scoring_plan(("vocals", "bass"), ("vocals", "bass", "piano")).notes == (
        "piano was not scored: the track has no such stem",
    )


def test_sums_leave_the_signals_alone():
    signals = {name: np.full((1, 2), index, np.float32) for index, name in enumerate(FOUR)}
    before = {name: signal.copy() for name, signal in signals.items()}
    np.testing.assert_array_equal(Target("all", FOUR, FOUR).reference(signals), np.full((1, 2), 6))
    for name, signal in signals.items():
        np.testing.assert_array_equal(signal, before[name])


def test_nothing_in_common_is_a_sentence():
    with pytest.raises(AudioFormatError, match="estimates are speech and the track's stems vocals, bass: none can be"):
        scoring_plan(("vocals", "bass"), ("speech",))
    with pytest.raises(AudioReadError, match="there is no estimate"):
        scoring_plan(FOUR, ())


def test_the_accompaniment_has_several_names():
    assert [canonical(name) for name in ("instrumental", "no_vocals", "vocals")] == ["accompaniment"] * 2 + ["vocals"]
