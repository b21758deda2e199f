from __future__ import annotations

from dataclasses import replace
from itertools import count, takewhile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iseparate.engine.plan import Plan
from iseparate.errors import UsageError
from iseparate.types import ModelSpec

SPEC = ModelSpec(("vocals",), 1000, 2)


@st.composite
def plans(draw):
    """Every mode, with and without grids, edges, leads, overlaps and shifts."""
    grid = draw(st.integers(1, 8))
    shift = grid * draw(st.integers(0, 30))
    mode = draw(st.sampled_from(["context", "partial_sums", "overlap"]))
    edge = 0 if mode == "context" else grid * draw(st.integers(0, 4))
    lead = edge + draw(st.integers(0, 10))
    segment = 2 * edge + grid * draw(st.integers(1, 9))
    if mode == "context":
        spec = replace(SPEC, context_samples=draw(st.integers(0, 40)), start_grid_samples=grid)
        return Plan.for_model(spec, segment_seconds=segment / 1000).shifted(shift)
    spec = replace(
        SPEC,
        segment_samples=segment,
        edge_samples=edge,
        lead_samples=lead,
        start_grid_samples=grid,
        window="partial_sums" if mode == "partial_sums" else draw(st.sampled_from(["triangular", "rectangular"])),
    )
    overlap = 0.0 if mode == "partial_sums" else draw(st.floats(0.01, 0.95))
    return Plan.for_model(spec, overlap).shifted(shift)


SAMPLES = st.integers(1, 400)


@given(plans(), SAMPLES)
def test_every_sample_is_covered_and_weights_sum_to_one(plan, samples):
    covered = np.zeros(samples + 1000)
    for span in plan.spans(samples):
        kept = np.ones(span.keep_stop - span.keep_start)
        if plan.mode == "overlap":
            kept = np.array(plan.weights())
            assert len(kept) == span.keep_stop - span.keep_start
            assert kept.min() >= 1
        if plan.mode == "partial_sums" and plan.trim_samples:
            kept[: plan.trim_samples] = kept[-plan.trim_samples :] = 0.5
        before = max(0, -span.keep_start)
        covered[span.keep_start + before : span.keep_stop] += kept[before:]
    covered = covered[:samples]
    # Overlap-add divides by the sum of the weights, so there it must only never be zero.
    assert covered.min() >= 1
    if plan.mode != "overlap":
        assert (covered == 1).all()


@given(plans(), SAMPLES)
def test_spans_come_in_order_and_start_on_the_grid(plan, samples):
    spans = list(plan.spans(samples))
    assert [s.index for s in spans] == list(range(spans[0].index, spans[0].index + len(spans)))
    for span in spans:
        assert span.start <= span.keep_start < span.keep_stop <= span.stop
        assert (span.start - (plan.first_start if plan.mode != "context" else 0)) % plan.grid_samples == 0
        if plan.mode == "context":
            assert span.start >= 0
            assert span.stop <= samples
    starts = [s.keep_start for s in spans]
    assert starts == sorted(set(starts))


@given(plans(), SAMPLES)
def test_the_streaming_rule_ends_where_the_plan_does(plan, samples):
    streamed = takewhile(lambda index: plan.is_needed(index, samples), count())
    kept = [index for index in streamed if plan.span(index).keep_stop > 0]
    assert kept == [span.index for span in plan.spans(samples)]


@given(plans(), SAMPLES)
def test_no_span_is_run_for_nothing(plan, samples):
    spans = list(plan.spans(samples))
    assert spans[0].keep_stop > 0
    assert all(span.keep_start < samples for span in spans)


def test_without_overlap_a_spectrogram_network_runs_on_its_own_grid():
    spec = replace(
        SPEC, segment_samples=64, edge_samples=12, lead_samples=16, start_grid_samples=4, window="partial_sums"
    )
    plan = Plan.for_model(replace(spec, default_overlap=0.0))
    assert [(s.start, s.stop) for s in plan.spans(100)] == [(-16, 48), (36, 100), (88, 152)]


def test_with_overlap_the_unfinished_edges_are_cut_off():
    spec = replace(
        SPEC, segment_samples=64, edge_samples=12, lead_samples=16, start_grid_samples=4, window="partial_sums"
    )
    plan = Plan.for_model(spec, overlap=0.5)
    assert plan.mode == "overlap"
    assert [(s.keep_start, s.keep_stop) for s in plan.spans(80)] == [(-4, 36), (16, 56), (36, 76), (56, 96)]


def test_a_triangle_is_symmetric_and_peaks_in_the_middle():
    for length in (1, 2, 7, 8):
        weights = Plan("overlap", length, 1, 0, 0).weights()
        assert weights == weights[::-1]
        assert len(weights) == length
        assert weights[(length - 1) // 2] == max(weights)
        assert weights[0] == 1


def test_a_free_segment_is_ten_seconds_rounded_up_to_the_models_multiple():
    assert Plan.for_model(replace(SPEC, length_multiple=64)).segment_samples == 10048
    assert Plan.for_model(SPEC, segment_seconds=2.5).segment_samples == 2500


@pytest.mark.parametrize("overlap", [-0.1, 1.0, 25, float("nan")])
def test_an_overlap_out_of_range_is_refused(overlap):
    with pytest.raises(UsageError, match=r"overlap is a share of a segment in \[0, 1\)"):
        Plan.for_model(SPEC, overlap)


@pytest.mark.parametrize("seconds", [0, -1, 4000, float("nan"), float("inf")])
def test_an_absurd_segment_is_refused(seconds):
    with pytest.raises(UsageError, match="a segment lasts"):
        Plan.for_model(SPEC, segment_seconds=seconds)


def test_a_fixed_segment_cannot_be_changed():
    with pytest.raises(UsageError, match=r"segments are 0\.1 s long and cannot be changed"):
        Plan.for_model(replace(SPEC, segment_samples=100), segment_seconds=1)


@pytest.mark.parametrize("window", ["triangular", "partial_sums"])
def test_a_segment_too_short_for_the_models_frames_is_refused(window):
    spec = replace(SPEC, edge_samples=12, lead_samples=16, start_grid_samples=4, window=window, default_overlap=0.0)
    with pytest.raises(UsageError, match="too short"):
        Plan.for_model(spec, segment_seconds=0.012)
    assert Plan.for_model(spec, segment_seconds=0.040).stride_samples >= 4
