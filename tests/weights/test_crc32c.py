from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iseparate.weights.crc32c import crc32c, unmasked


def bitwise(data: bytes) -> int:
    """The definition, one bit at a time."""
    register = 0xFFFFFFFF
    for octet in data:
        register ^= octet
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_published_vectors(data, expected):
    assert crc32c(data) == expected


@given(st.binary(max_size=64))
def test_short_data_match_the_definition(data):
    assert crc32c(data) == bitwise(data)


@pytest.mark.parametrize("size", [1023, 1024, 1025, 1026, 1027, 1028, 4 * 32768, 4 * 32768 + 1, 300_003])
def test_every_way_through_the_folding_matches_the_definition(size):
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()
    assert crc32c(data) == bitwise(data)
    assert crc32c(np.frombuffer(data, np.uint8)) == bitwise(data)


def test_one_bit_in_a_long_message_changes_the_sum():
    data = bytearray(500_000)
    whole = crc32c(bytes(data))
    data[123_457] ^= 1
    assert crc32c(bytes(data)) != whole


def test_unmasking_undoes_the_masking_of_leveldb():
    for checksum in (0, 1, 0xE3069283, 0xFFFFFFFF):
        masked = ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
        assert unmasked(masked) == checksum
