from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from iseparate.errors import CheckpointError
from iseparate.weights.crc32c import crc32c
from iseparate.weights.tensor_bundle import FOOTER_MAGIC, read_tensor_bundle

# A writer of tensor bundles, small and by the book, with a handle for every lie that a test wants to tell.

TYPES = {
    "float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "complex64": 8, "int64": 9,
    "bool": 10, "uint16": 17, "complex128": 18, "float16": 19, "uint32": 22, "uint64": 23,
}  # fmt: skip


def masked(data: bytes) -> int:
    checksum = crc32c(data)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    octets = []
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*octets, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def entry(dtype: int, shape, shard: int, offset: int, size: int, checksum: int) -> bytes:
    dimensions = b"".join(message(2, number(1, length)) for length in shape)
    return (
        number(1, dtype) + message(2, dimensions) + number(3, shard) + number(4, offset) + number(5, size)
        + varint(6 << 3 | 5) + struct.pack("<I", checksum)
    )  # fmt: skip


def block(pairs, compression: int = 0) -> bytes:
    body, last = b"", b""
    for key, value in pairs:
        shared = 0
        while shared < min(len(key), len(last)) and key[shared] == last[shared]:
            shared += 1
        body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    body += struct.pack("<II", 0, 1)
    kind = bytes([compression])
    return body + kind + struct.pack("<I", masked(body + kind))


def table(pairs, per_block: int = 3, compression: int = 0) -> bytes:
    pairs = sorted(pairs)
    out, handles = b"", []
    for start in range(0, len(pairs), per_block):
        chunk = pairs[start : start + per_block]
        written = block(chunk, compression)
        handles.append((chunk[-1][0], varint(len(out)) + varint(len(written) - 5)))
        out += written
    footer = b""
    for written in (block([]), block(handles)):
        footer += varint(len(out)) + varint(len(written) - 5)
        out += written
    return out + footer.ljust(40, b"\0") + FOOTER_MAGIC


def write_bundle(folder: Path, tensors: dict[str, np.ndarray], shards: int = 1, lies=(), **options) -> Path:
    """Lies are (key, value) pairs of the index that replace the true ones or join them."""
    data = [b""] * shards
    pairs = {b"": number(1, shards) + message(3, number(1, 1))}
    for index, (name, array) in enumerate(tensors.items()):
        shard, raw = index % shards, array.tobytes()
        pairs[name.encode()] = entry(
            TYPES[str(array.dtype)], array.shape, shard, len(data[shard]), len(raw), masked(raw)
        )
        data[shard] += raw
    pairs.update(lies)
    (folder / "model.index").write_bytes(table(pairs.items(), **options))
    for shard, raw in enumerate(data):
        (folder / f"model.data-{shard:05}-of-{shards:05}").write_bytes(raw)
    return folder / "model.index"


def some_tensors() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    tensors = {
        f"layer_{index}/kernel": generator.standard_normal((3, index + 1, 2)).astype(np.float32) for index in range(12)
    }
    return {**tensors, "step": np.int64(7) * np.ones((), np.int64), "empty": np.zeros((0, 5), np.float32)}


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("per_block", [1, 4, 100])
def test_round_trip(tmp_path, shards, per_block):
    tensors = some_tensors()
    read = read_tensor_bundle(write_bundle(tmp_path, tensors, shards, per_block=per_block))
    assert list(read) == sorted(tensors)
    for name, expected in tensors.items():
        assert read[name].dtype == expected.dtype
        np.testing.assert_array_equal(read[name], expected)
    read["layer_0/kernel"][:] = 1  # writable


@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_of_number(tmp_path, dtype):
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    read = read_tensor_bundle(write_bundle(tmp_path, {"x": values}))["x"]
    assert read.dtype == values.dtype
    np.testing.assert_array_equal(read, values)


def test_bfloat16_becomes_float32(tmp_path):
    values = np.array([1.0, -2.5, 0.0, 3.0e38], np.float32)
    upper = (values.view(np.uint32) >> 16).astype(np.uint16)
    index = write_bundle(tmp_path, {"x": upper}, lies=[(b"x", entry(14, (4,), 0, 0, 8, masked(upper.tobytes())))])
    read = read_tensor_bundle(index)["x"]
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, values, rtol=2**-7)


def test_a_shared_prefix_of_keys_is_restored_across_a_long_table(tmp_path):
    tensors = {f"model/unet/conv2d_{index:03}/bias": np.full(3, index, np.float32) for index in range(200)}
    read = read_tensor_bundle(write_bundle(tmp_path, tensors, per_block=17))
    assert {name: int(values[0]) for name, values in read.items()} == {
        name: int(values[0]) for name, values in tensors.items()
    }


def test_the_object_graph_of_tensorflow_2_is_passed_over(tmp_path):
    graph = entry(7, (), 0, 0, 4, 0)
    index = write_bundle(tmp_path, some_tensors(), lies=[(b"_CHECKPOINTABLE_OBJECT_GRAPH", graph)])
    assert "_CHECKPOINTABLE_OBJECT_GRAPH" not in read_tensor_bundle(index)


GOOD = masked(np.zeros(4, np.float32).tobytes())
LIES = {
    "strings": (b"x", entry(7, (4,), 0, 0, 16, GOOD), "type 7"),
    "wrong checksum": (b"x", entry(1, (4,), 0, 0, 16, GOOD ^ 1), "checksum"),
    "shape too large": (b"x", entry(1, (5,), 0, 0, 16, GOOD), "shape"),
    "absurd shape": (b"x", entry(1, (1 << 60, 1 << 60), 0, 0, 16, GOOD), "shape"),
    "negative length": (b"x", entry(1, ((1 << 64) - 1,), 0, 0, 16, GOOD), "damaged"),
    "many axes": (b"x", entry(1, (1,) * 40 + (4,), 0, 0, 16, GOOD), "41 axes"),
    "past the end": (b"x", entry(1, (4,), 0, 4, 16, GOOD), "past"),
    "far past the end": (b"x", entry(1, (4,), 0, 1 << 61, 16, GOOD), "past"),
    "huge": (b"x", entry(1, (1 << 40,), 0, 0, 1 << 42, GOOD), "larger than its data"),
    "read twice": (b"y", entry(1, (4,), 0, 0, 16, GOOD), "larger than its data"),
    "no such shard": (b"x", entry(1, (4,), 9, 0, 16, GOOD), "past"),
    "slices": (b"x", entry(1, (4,), 0, 0, 16, GOOD) + message(7, b""), "slices"),
    "unknown rank": (b"x", number(1, 1) + message(2, number(3, 1)), "definite shape"),
    "not a message": (b"x", b"\xff" * 12, "damaged"),
    "shape is a number": (b"x", number(1, 1) + number(2, 5), "damaged"),
    "message cut short": (b"x", b"\x12\x7f", "damaged"),
    "name is not text": (b"\xff\xfe", entry(1, (0,), 0, 0, 0, masked(b"")), "UTF-8"),
    "no shards": (b"", number(1, 0), "0 data files"),
    "a million shards": (b"", number(1, 1_000_000), "1000000 data files"),
    "missing shard": (b"", number(1, 2), "missing"),
    "big-endian": (b"", number(1, 1) + number(2, 1), "big-endian"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_in_the_index(tmp_path, lie):
    key, value, reason = LIES[lie]
    index = write_bundle(tmp_path, {"x": np.zeros(4, np.float32)}, lies=[(key, value)])
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_tensor_bundle(index)
    assert str(caught.value).startswith(f"{index}: ")


def test_the_bundle_that_the_lies_are_told_about_is_otherwise_good(tmp_path):
    assert list(read_tensor_bundle(write_bundle(tmp_path, {"x": np.zeros(4, np.float32)}))) == ["x"]


def test_snappy_is_named(tmp_path):
    index = write_bundle(tmp_path, some_tensors(), compression=1)
    with pytest.raises(CheckpointError, match="Snappy"):
        read_tensor_bundle(index)


def test_one_block_cannot_be_read_many_times(tmp_path):
    data = block([(b"", number(1, 1))])
    handle = varint(0) + varint(len(data) - 5)
    index_block = block([(bytes([letter]), handle) for letter in range(65, 90)])
    footer = varint(0) + varint(0) + varint(len(data)) + varint(len(index_block) - 5)
    path = tmp_path / "model.index"
    path.write_bytes(data + index_block + footer.ljust(40, b"\0") + FOOTER_MAGIC)
    with pytest.raises(CheckpointError, match="damaged"):
        read_tensor_bundle(path)


def test_data_cut_short(tmp_path):
    index = write_bundle(tmp_path, some_tensors())
    data = tmp_path / "model.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cut short"):
        read_tensor_bundle(index)


def test_one_wrong_bit_in_the_data_names_the_tensor(tmp_path):
    index = write_bundle(tmp_path, {"a": np.zeros(400, np.float32), "b": np.zeros(400, np.float32)})
    data = tmp_path / "model.data-00000-of-00001"
    raw = bytearray(data.read_bytes())
    raw[1700] ^= 4
    data.write_bytes(raw)
    with pytest.raises(CheckpointError, match="tensor b does not match its checksum"):
        read_tensor_bundle(index)


def test_no_damage_to_the_index_gives_wrong_numbers(tmp_path):
    tensors = {"first/kernel": np.ones((2, 3), np.float32), "second/bias": np.ones(4, np.float64)}
    index = write_bundle(tmp_path, tensors, per_block=1)
    whole, unnoticed = index.read_bytes(), 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        index.write_bytes(damaged)
        try:
            read = read_tensor_bundle(index)
        except CheckpointError:
            continue
        unnoticed += 1
        assert read.keys() == tensors.keys()
        assert all(np.array_equal(read[name], tensors[name]) for name in tensors)
    assert unnoticed < 60  # the footer's padding, and the block of meta data, which has no use
    for length in range(len(whole)):
        index.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_tensor_bundle(index)


def test_missing_index(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_tensor_bundle(tmp_path / "model.index")
