"""Which channels of a song belong together.

A separation network is trained on stereo; a film mix has five speakers and a subwoofer. Each left/right pair
is separated as a stereo signal, each lone speaker as mono, and the subwoofer (LFE) is not separated at all.
Channel names are FFmpeg's: FL front left, SL side left, BL back left, FC front centre, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence

PAIRS = (
    ("FL", "FR"),
    ("FLC", "FRC"),
    ("SL", "SR"),
    ("BL", "BR"),
    ("WL", "WR"),
    ("TFL", "TFR"),
    ("TBL", "TBR"),
    ("TSL", "TSR"),
    ("BFL", "BFR"),
    ("SDL", "SDR"),
    ("DL", "DR"),
)
"""Names that make a stereo pair, left first. DL and DR are a stereo downmix."""

CHANNEL_ORDER = tuple(
    name
    for row in (
        ("FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR"),
        ("TC", "TFL", "TFC", "TFR", "TBL", "TBC", "TBR"),
        ("DL", "DR", "WL", "WR", "SDL", "SDR", "LFE2", "TSL", "TSR", "BFC", "BFL", "BFR"),
    )
    for name in row
)
"""Every named channel in the order in which FFmpeg (and WAVE_FORMAT_EXTENSIBLE) keeps them."""

LOW_FREQUENCY = frozenset({"LFE", "LFE2"})
"""Subwoofer channels: they carry no voice to find, so they go to the residual stem as they are."""

_DEFAULT_NAMES = {1: ("FC",), 2: ("FL", "FR")}


def unnamed_layout(channels: int) -> tuple[str, ...]:
    """Names for `channels` channels that a file does not label: mono, stereo, or CH1, CH2, ..."""
    return _DEFAULT_NAMES.get(channels) or tuple(f"CH{index + 1}" for index in range(channels))


def separation_groups(names: Sequence[str]) -> list[tuple[int, ...]]:
    """Group channels for separation.

    Args:
        names: the name of each channel, in the order of the samples.

    Returns:
        Tuples of channel indices, in the order in which the first channel of each group appears: two indices
        (left, right) for a stereo pair, one for a channel that is separated as mono. Subwoofers are in no
        group. A name that appears twice cannot be paired and stands alone.

    """
    index_of = {name: index for index, name in enumerate(names) if list(names).count(name) == 1}
    partner = {left: right for left, right in PAIRS if left in index_of and right in index_of}
    paired_right = set(partner.values())
    groups: list[tuple[int, ...]] = []
    for index, name in enumerate(names):
        if name in LOW_FREQUENCY:
            continue
        if name in partner:
            groups.append((index, index_of[partner[name]]))
        elif name not in paired_right:
            groups.append((index,))
    # A pair whose right channel comes first in the file belongs where that channel stands.
    return sorted(groups, key=min)
