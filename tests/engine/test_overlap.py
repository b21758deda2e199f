from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plan import SAMPLES, plans
from toy_models import cut

from iseparate.engine.overlap import Chunker, OverlapAdd
from iseparate.engine.plan import Plan
from iseparate.types import ModelSpec

BLOCKS = st.lists(st.integers(1, 90), min_size=1, max_size=4)


def chunks(plan, song, block_samples):
    chunker = Chunker(plan)
    for block in cut(song, block_samples):
        yield from chunker.push(block)
    yield from chunker.flush()


def put_together(plan, song, block_samples, network=lambda chunk: chunk):
    """The song after a network that sees one chunk at a time."""
    overlap_add = OverlapAdd(plan)
    done = [overlap_add.push(span, network(chunk)) for span, chunk in chunks(plan, song, block_samples)]
    # The last span may reach beyond the end.
    return np.concatenate([*done, overlap_add.flush(song.shape[-1])], -1)[..., : song.shape[-1]]


@given(plans(), SAMPLES, BLOCKS)
def test_chunks_are_what_the_plan_says_whatever_the_blocks(plan, samples, block_samples):
    song = np.arange(1, samples + 1, dtype=np.float32)[None]
    found = list(chunks(plan, song, block_samples))
    assert [span for span, _ in found] == list(plan.spans(samples))
    for span, chunk in found:
        at = np.arange(span.start, span.stop)
        inside = (at >= 0) & (at < samples)
        assert np.array_equal(chunk[0], np.where(inside, at + 1, 0))


@settings(deadline=None)
@given(plans(), SAMPLES, BLOCKS)
def test_the_identity_is_put_together_exactly(plan, samples, block_samples):
    if plan.mode == "partial_sums" and plan.trim_samples:
        return  # its outputs fade by themselves: test_stream has such a network
    song = np.random.default_rng(samples).standard_normal((2, samples)).astype(np.float32)
    found = put_together(plan, song, block_samples)
    assert found.shape == song.shape
    assert np.abs(found - song).max() < 1e-5
    if plan.mode != "overlap":
        assert np.array_equal(found, song)


@given(plans(), SAMPLES)
def test_a_constant_stays_one(plan, samples):
    if plan.mode != "overlap":
        return
    found = put_together(plan, np.zeros((1, samples), np.float32), 64, np.ones_like)
    assert np.abs(found - 1).max() < 1e-6


def test_overlapping_outputs_are_averaged_under_their_triangles():
    plan = Plan("overlap", segment_samples=4, stride_samples=2, first_start=0, trim_samples=0)
    turns = iter([0.0, 6.0])
    found = put_together(plan, np.zeros((1, 6), np.float32), 6, lambda chunk: np.full_like(chunk, next(turns)))
    # Weights 1 2 2 1 and, two samples on, 1 2 2 1.
    assert found[0].tolist() == pytest.approx([0, 0, 2, 4, 6, 6])


def test_finished_samples_are_let_go_at_once():
    plan = Plan("overlap", segment_samples=8, stride_samples=6, first_start=0, trim_samples=0)
    overlap_add = OverlapAdd(plan)
    span = plan.span(0)
    assert overlap_add.push(span, np.ones((1, 8), np.float32)).shape == (1, 6)
    assert overlap_add.push(plan.span(1), np.ones((1, 8), np.float32)).shape == (1, 6)


def test_the_chunker_holds_no_more_than_a_segment_and_a_block():
    plan = Plan("overlap", segment_samples=100, stride_samples=75, first_start=0, trim_samples=0)
    chunker = Chunker(plan)
    for _ in range(200):
        list(chunker.push(np.zeros((2, 10), np.float32)))
        held = chunker._held
        assert held.shape[-1] <= 110
        assert held.base is None or held.base.shape[-1] <= 110


def test_nothing_in_nothing_out():
    assert list(chunks(Plan("overlap", 8, 6, 0, 0), np.zeros((2, 0), np.float32), 4)) == []


def test_abutting_segments_of_an_hour_need_no_weights():
    spec = ModelSpec(("vocals",), 44_100, 2, default_segment_seconds=3600.0, default_overlap=0.0, window="rectangular")
    tracemalloc.start()
    try:
        OverlapAdd(Plan.for_model(spec))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
