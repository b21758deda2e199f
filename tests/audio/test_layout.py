from __future__ import annotations

import pytest

from iseparate.audio.layout import separation_groups, unnamed_layout


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (("FC",), [(0,)]),
        (("FL", "FR"), [(0, 1)]),
        (("FL", "FR", "FC", "LFE", "BL", "BR"), [(0, 1), (2,), (4, 5)]),
        (("FL", "FR", "FC", "LFE", "SL", "SR"), [(0, 1), (2,), (4, 5)]),
        (("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"), [(0, 1), (2,), (4, 5), (6, 7)]),
        (("FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC"), [(0, 1), (2,), (4, 5), (6, 7)]),
        (("FL", "FC", "FR", "BC"), [(0, 2), (1,), (3,)]),
        (("FC", "FR", "FL"), [(0,), (2, 1)]),  # left is named first, wherever it stands
        (("FL", "LFE"), [(0,)]),
        (("DL", "DR"), [(0, 1)]),
        (("LFE",), []),
        (("FL", "FL", "FR"), [(0,), (1,), (2,)]),
        (("CH1", "CH2", "CH3"), [(0,), (1,), (2,)]),
    ],
)
def test_pairs_singles_and_the_subwoofer(names, groups):
    assert separation_groups(names) == groups


def test_unnamed_channels_are_mono_stereo_or_numbered():
    assert unnamed_layout(1) == ("FC",)
    assert unnamed_layout(2) == ("FL", "FR")
    assert unnamed_layout(4) == ("CH1", "CH2", "CH3", "CH4")
    assert separation_groups(unnamed_layout(4)) == [(0,), (1,), (2,), (3,)]
