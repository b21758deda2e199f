"""CRC-32C (Castagnoli), the checksum of LevelDB tables and TensorFlow checkpoints, fast in NumPy.

A CRC is the remainder of the message, read as a polynomial over GF(2), by a fixed polynomial P. Multiplying a
word by x^(32 k) modulo P moves it k words further along without changing the remainder, so a long message
folds: its first k words, so moved, are added (XOR) to the next k. Each fold is two table look-ups per word,
over whole rows at a time (about 1 GB/s).

Source of facts: RFC 3720, appendix B.4 (polynomial and test vectors); LevelDB's ``util/crc32c.h`` (how stored
values are masked).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]

_POLYNOMIAL = 0x82F63B78  # bits reversed: the lowest bit is the highest power of x
_ROW_WORDS = 1 << 15
_SHORT_BYTES = 1024
_ALL_ONES = 0xFFFFFFFF


def crc32c(data: bytes | memoryview | NDArray[np.uint8]) -> int:
    """Return the CRC-32C of `data`, in [0, 2^32)."""
    octets = np.frombuffer(data, dtype=np.uint8)
    if octets.size <= _SHORT_BYTES:
        return _advance(_ALL_ONES, octets.tobytes()) ^ _ALL_ONES
    whole_bytes = octets.size // 4 * 4
    words = octets[:whole_bytes].view("<u4")
    # The register starts as all ones, which is the same as inverting the first word and starting from zero;
    # and from zero, the zeros that fill up the first row do not count.
    first_words = words.size % _ROW_WORDS or _ROW_WORDS
    row = np.zeros(_ROW_WORDS, dtype=np.uint32)
    row[-first_words:] = words[:first_words]
    row[-first_words] ^= _ALL_ONES
    low, high = _row_tables()
    for following in words[first_words:].reshape(-1, _ROW_WORDS):
        row = low[row & 0xFFFF] ^ high[row >> 16] ^ following
    while row.size > 16:
        half = row.size // 2
        row = _times(_powers(half), row[:half]) ^ row[half:]
    return _advance(_advance(0, row.astype("<u4").tobytes()), octets[whole_bytes:].tobytes()) ^ _ALL_ONES


def unmasked(stored: int) -> int:
    """Return the checksum behind what LevelDB and TensorFlow store, which is rotated and offset."""
    rotated = (stored - 0xA282EAD8) & _ALL_ONES
    return (rotated >> 17 | rotated << 15) & _ALL_ONES


def _advance(register: int, data: bytes) -> int:
    table = _byte_table()
    for octet in data:
        register = table[(register ^ octet) & 0xFF] ^ (register >> 8)
    return register


@cache
def _byte_table() -> list[int]:
    table = []
    for register in range(256):
        for _ in range(8):
            register = register >> 1 ^ (_POLYNOMIAL if register & 1 else 0)  # noqa: PLW2901
        table.append(register)
    return table


def _times(columns: Words, words: Words) -> Words:
    """Apply a linear map, given by the images of the 32 single bits, to each of `words`."""
    product = np.zeros_like(words)
    for bit, image in enumerate(columns):
        product ^= (words >> np.uint32(bit) & np.uint32(1)) * image
    return product


@cache
def _powers(words: int) -> Words:
    """Multiplication by x^(32 `words`) modulo P, `words` a power of two, as a linear map."""
    if words == 1:
        return np.array([_advance(1 << bit, bytes(4)) for bit in range(32)], dtype=np.uint32)
    half = _powers(words // 2)
    return _times(half, half)


@cache
def _row_tables() -> tuple[Words, Words]:
    """Multiplication by x^(32 `_ROW_WORDS`), tabulated for the lower and the upper 16 bits of a word."""
    tables = []
    for columns in np.split(_powers(_ROW_WORDS), 2):
        table = np.zeros(1, dtype=np.uint32)
        for image in columns:
            table = np.concatenate([table, table ^ image])
        tables.append(table)
    return tables[0], tables[1]
