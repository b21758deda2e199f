from __future__ import annotations

import pytest
import torch

from iseparate.nn.framing import overlap_add, whole_frames


@pytest.mark.parametrize(("frame", "hop"), [(1, 1), (6, 6), (6, 3), (6, 2), (7, 3), (7, 1), (5, 4)])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_overlap_add_is_the_sum_of_shifted_frames(frame, hop, count):
    frames = torch.randn(2, 3, count, frame)
    expected = torch.zeros(2, 3, (count - 1) * hop + frame)
    for i in range(count):
        expected[..., i * hop : i * hop + frame] += frames[:, :, i]
    assert torch.allclose(overlap_add(frames, hop), expected, atol=1e-6)


@pytest.mark.parametrize(("frame", "hop"), [(1, 1), (6, 3), (7, 3), (20, 10), (220, 220)])
@pytest.mark.parametrize("samples", [1, 5, 6, 7, 20, 21, 441, 1000])
def test_whole_frames_cover_all_and_no_more_than_needed(frame, hop, samples):
    length = whole_frames(samples, frame, hop)
    assert length >= max(samples, frame)
    assert (length - frame) % hop == 0
    assert length == frame or length - hop < samples
