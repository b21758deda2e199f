"""Reads TensorFlow's V2 checkpoints (tensor bundles) without TensorFlow.

A bundle named ``model`` is ``model.index``, a LevelDB table from tensor names to descriptions, and
``model.data-00000-of-00001`` and so on, the shards with the raw numbers. The table is a file of blocks, found
from a footer by way of an index block; in a block each key is stored as what differs from the key before it.
The descriptions are protocol buffers. Every block and every tensor has a CRC-32C, and all are verified.

Sources of the facts: LevelDB's ``doc/table_format.md`` (footer, blocks, trailers) and TensorFlow's
``core/protobuf/tensor_bundle.proto``, ``core/framework/tensor_shape.proto``, ``types.proto`` and
``core/util/tensor_bundle/tensor_bundle.h`` (names of shards, masked checksums).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError
from .crc32c import crc32c, unmasked
from .guards import explaining, printable

FOOTER_MAGIC = bytes.fromhex("57fb808b247547db")
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5
_MAX_INDEX_BYTES = 64 << 20
_MAX_KEY_BYTES = 4096
_MAX_SHARDS = 1000
_MAX_AXES = 32
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # TensorFlow 2 keeps its own book-keeping here, as a string

_BFLOAT16 = 14
_DTYPES: dict[int, np.dtype[Any]] = {
    number: np.dtype(name)
    for number, name in {
        **{1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 8: "<c8", 9: "<i8", 10: "?"},
        **{_BFLOAT16: "<u2", 17: "<u2", 18: "<c16", 19: "<f2", 22: "<u4", 23: "<u8"},
    }.items()
}

Fields = dict[int, list[int | bytes]]
"""The fields of a protocol buffer by number, in the order of their coming."""


@dataclass(frozen=True)
class _Entry:
    """Where a tensor lies and what it is: a BundleEntryProto."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset_bytes: int
    size_bytes: int
    checksum: int


def read_tensor_bundle(index_path: Path) -> dict[str, NDArray[Any]]:
    """Read every tensor of a bundle.

    Args:
        index_path: the file that ends in ``.index``; the shards must lie beside it.

    Returns:
        The tensors by name, in alphabetical order; writable, in this machine's byte order; bfloat16 as
        float32.

    Raises:
        CheckpointError: a file is missing or damaged, a checksum does not match, or a tensor is not an
            undivided block of numbers.

    """
    with explaining(index_path):
        table = _read_table(index_path)
        shard_count = _shard_count(table.pop(b"", b""))
        entries = {
            _tensor_name(key): _entry(key, value) for key, value in table.items() if key != _OBJECT_GRAPH.encode()
        }
        prefix = index_path.name.removesuffix(".index")
        shards = [
            index_path.with_name(f"{prefix}.data-{number:05}-of-{shard_count:05}") for number in range(shard_count)
        ]
        return _read_tensors(entries, shards)


def _read_tensors(entries: dict[str, _Entry], shards: list[Path]) -> dict[str, NDArray[Any]]:
    for shard in shards:
        if not shard.is_file():
            raise CheckpointError(f"its data file {printable(shard.name)} is missing; put it beside the index")
    sizes_bytes = [shard.stat().st_size for shard in shards]
    if sum(entry.size_bytes for entry in entries.values()) > sum(sizes_bytes):
        raise CheckpointError("its tensors are larger than its data files; one is cut short: fetch it again")
    tensors: dict[str, NDArray[Any]] = {}
    for name, entry in entries.items():
        if entry.shard >= len(shards) or entry.offset_bytes + entry.size_bytes > sizes_bytes[entry.shard]:
            raise CheckpointError(f"tensor {printable(name)} reaches past its data file; fetch it again")
        tensors[name] = _read_tensor(name, entry, shards[entry.shard])
    return tensors


def _read_tensor(name: str, entry: _Entry, shard: Path) -> NDArray[Any]:
    dtype = _DTYPES[entry.dtype]
    if math.prod(entry.shape) * dtype.itemsize != entry.size_bytes:
        raise CheckpointError(f"tensor {printable(name)} has a size that does not match its shape; it is damaged")
    octets = np.fromfile(shard, dtype=np.uint8, count=entry.size_bytes, offset=entry.offset_bytes)
    if octets.size != entry.size_bytes or crc32c(octets) != unmasked(entry.checksum):
        raise CheckpointError(f"tensor {printable(name)} does not match its checksum; fetch the checkpoint again")
    values = octets.view(dtype).reshape(entry.shape)
    if entry.dtype == _BFLOAT16:  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(dtype.newbyteorder("="), copy=False)


# The bundle's records.


def _tensor_name(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise CheckpointError(
            f"its tensor {printable(key)} is not named in UTF-8; slices of variables are not read here"
        ) from None


def _shard_count(header: bytes) -> int:
    fields = _fields(header)
    count = _number(fields, 1)
    if not 1 <= count <= _MAX_SHARDS:
        raise CheckpointError(f"its header speaks of {count} data files, where 1 to {_MAX_SHARDS} were expected")
    if _number(fields, 2) != 0:
        raise CheckpointError("it was written on a big-endian machine; save it again on a common one")
    return count


def _entry(key: bytes, value: bytes) -> _Entry:
    fields = _fields(value)
    name = printable(_tensor_name(key))
    dtype = _number(fields, 1)
    if dtype not in _DTYPES:
        raise CheckpointError(f"tensor {name} is of TensorFlow's type {dtype}, where plain numbers were expected")
    if 7 in fields:
        raise CheckpointError(f"tensor {name} is stored in slices, which are not read here; save it in one piece")
    shape_fields = _fields(_message(fields, 2))
    if _number(shape_fields, 3):
        raise CheckpointError(f"tensor {name} has no definite shape; the checkpoint is damaged")
    dimensions = shape_fields.get(2, [])
    if len(dimensions) > _MAX_AXES:
        raise CheckpointError(f"tensor {name} has {len(dimensions)} axes, as no weights do; it is damaged")
    return _Entry(
        dtype=dtype,
        shape=tuple(_number(_fields(_octets(dimension)), 1) for dimension in dimensions),
        shard=_number(fields, 3),
        offset_bytes=_number(fields, 4),
        size_bytes=_number(fields, 5),
        checksum=_number(fields, 6),
    )


# Protocol buffers.


def _damaged() -> CheckpointError:
    return CheckpointError("its index is damaged; fetch it again")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Read a number of seven bits per byte, lowest first; return it and the position behind it."""
    value = 0
    for shift in range(0, 64, 7):
        if position >= len(data):
            break
        octet = data[position]
        position += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, position
    raise _damaged()


def _fields(message: bytes) -> Fields:
    """Decode the outermost layer of a protocol buffer."""
    fields: Fields = {}
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        value: int | bytes
        if tag & 7 == 0:
            value, position = _varint(message, position)
        elif tag & 7 == 2:
            length, position = _varint(message, position)
            value, position = _slice(message, position, length)
        elif tag & 7 in (1, 5):
            octets, position = _slice(message, position, 8 if tag & 7 == 1 else 4)
            value = int.from_bytes(octets, "little")
        else:
            raise _damaged()
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _slice(data: bytes, position: int, length: int) -> tuple[bytes, int]:
    if length > len(data) - position:
        raise _damaged()
    return data[position : position + length], position + length


def _number(fields: Fields, field: int) -> int:
    """Return a field that is a number of at most 62 bits; the last one counts, and an absent one is zero."""
    value = fields.get(field, [0])[-1]
    if not isinstance(value, int) or value >= 1 << 62:
        raise _damaged()
    return value


def _message(fields: Fields, field: int) -> bytes:
    return _octets(fields.get(field, [b""])[-1])


def _octets(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise _damaged()
    return value


# LevelDB's table.


def _read_table(path: Path) -> dict[bytes, bytes]:
    """Read all keys and values, which the format keeps in strictly rising order of keys."""
    if path.stat().st_size > _MAX_INDEX_BYTES:
        raise CheckpointError(f"it is larger than {_MAX_INDEX_BYTES >> 20} MiB, as no index of a checkpoint is")
    data = path.read_bytes()
    if len(data) < _FOOTER_BYTES or data[-len(FOOTER_MAGIC) :] != FOOTER_MAGIC:
        raise CheckpointError("it is not the index of a TensorFlow checkpoint, or is cut short; fetch it again")
    footer = data[-_FOOTER_BYTES:]
    _, position = _handle(footer, 0)  # of the block of meta data, which bundles do not use
    index_block, _ = _handle(footer, position)
    table: dict[bytes, bytes] = {}
    last_key: bytes | None = None
    for _, encoded_handle in _block(data, *index_block):
        data_block, _ = _handle(encoded_handle, 0)
        for key, value in _block(data, *data_block):
            if last_key is not None and key <= last_key:  # also keeps one block from being read many times
                raise _damaged()
            last_key = key
            table[key] = value
    return table


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    """Read where a block is: its offset and size in bytes; return them and the position behind."""
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return (offset, size), position


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of one block after verifying it."""
    if offset + size + _TRAILER_BYTES > len(data) - _FOOTER_BYTES:
        raise _damaged()
    block, trailer = data[offset : offset + size], data[offset + size : offset + size + _TRAILER_BYTES]
    if crc32c(block + trailer[:1]) != unmasked(int.from_bytes(trailer[1:], "little")):
        raise CheckpointError("its index does not match its checksum; fetch it again")
    if trailer[0] != 0:
        raise CheckpointError("its index is compressed (by Snappy), which is not read here; save it uncompressed")
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if len(block) < 4 or end < 0:
        raise _damaged()
    entries, position, key = block[:end], 0, b""
    while position < end:
        shared, position = _varint(entries, position)
        unshared, position = _varint(entries, position)
        value_bytes, position = _varint(entries, position)
        suffix, position = _slice(entries, position, unshared)
        if shared > len(key) or shared + unshared > _MAX_KEY_BYTES:
            raise _damaged()
        key = key[:shared] + suffix
        value, position = _slice(entries, position, value_bytes)
        yield key, value
