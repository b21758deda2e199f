"""HDF5 is a file system in a file: what a checkpoint needs of it is read, the rest is refused in words."""

from __future__ import annotations

import gzip
import os
import struct

import h5py
import numpy as np
import pytest
import torch

from iseparate.errors import CheckpointError
from iseparate.weights.hdf5 import read_hdf5
from iseparate.weights.read import read_checkpoint


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.h5"


def refused(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


# What is read


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_tensors_are_named_by_the_path_of_groups(path, packed):
    weight = np.random.default_rng(0).standard_normal((3, 2, 1)).astype(np.float32)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("vocals/0/conv/W", data=weight)
        dataset.attrs["index"] = 4
        dataset.attrs["need_grad"] = True
        dataset.attrs["note"] = "text is passed over"
        dataset.attrs["lot"] = np.zeros(3)
        file["vocals/b"] = np.arange(3)
    if packed:
        plain, path = path, path.with_name("model.h5.gz")
        path.write_bytes(gzip.compress(plain.read_bytes()))
    ((name, file),) = read_checkpoint(path).items()
    assert name == file.name == path.name
    assert file.format == "hdf5"
    assert set(file.tensors) == {"vocals/0/conv/W", "vocals/b"}
    assert torch.equal(file.tensors["vocals/0/conv/W"], torch.from_numpy(weight))
    assert file.metadata == {"vocals/0/conv/W": {"index": 4, "need_grad": True}}


@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">f8", "<f2", "<i8", ">i2", "u1", "?"])
def test_every_kind_of_number_comes_in_native_byte_order(path, dtype):
    numbers = np.array([[0, 1, 1], [1, 0, 1]], dtype)
    with h5py.File(path, "w", track_order=True, libver="latest") as file:
        file["x"] = numbers
        file["scalar"] = numbers[0, 1]
        file["none"] = numbers[:0]
    tensors, _ = read_hdf5(path)
    assert tensors["x"].dtype.isnative
    assert np.array_equal(tensors["x"], numbers)
    assert tensors["scalar"].shape == ()
    assert tensors["none"].shape == (0, 3)
    torch.from_numpy(tensors["x"]).add_(1 if dtype != "?" else True)  # writable


def test_a_dataset_inside_its_own_header_is_read(path):
    with h5py.File(path, "w") as file:
        storage = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        storage.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((5,))
        dataset = h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, space, storage)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(5, dtype=np.float32))
    assert np.array_equal(read_hdf5(path)[0]["x"], np.arange(5))


def test_a_tensor_may_have_two_names(path):
    with h5py.File(path, "w") as file:
        file["a"] = np.arange(3.0)
        file["group/b"] = file["a"]
    tensors, _ = read_hdf5(path)
    assert np.array_equal(tensors["a"], tensors["group/b"])


# What is not


def soft_link(file, _other):
    file["real/x"] = np.ones(3)
    file["x"] = h5py.SoftLink("/real/x")


def external_link(file, other):
    file["x"] = h5py.ExternalLink(str(other), "/secret")


def external_storage(file, other):
    file.create_dataset("x", (4,), "f4", external=[(str(other), 0, 16)])


def virtual_dataset(file, other):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(other), "secret", (4,))
    file.create_virtual_dataset("x", layout)


def endless_virtual_dataset(file, other):
    """Asking for the shape of this one opens the other file."""
    layout = h5py.VirtualLayout((4,), "f4", maxshape=(None,))
    source = h5py.VirtualSource(str(other), "secret", (4,), maxshape=(None,))
    layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
    file.create_virtual_dataset("x", layout)


def gzipped(file, _other):
    file.create_dataset("x", data=np.zeros(10_000), compression="gzip")


def foreign_filter(file, _other):
    storage = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    storage.set_chunk((4,))
    storage.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, ())
    h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4,)), storage)


def never_written(file, _other):
    file.create_dataset("x", (1 << 40,), "f4")


def text(file, _other):
    file["x"] = "words"


def texts(file, _other):
    file["x"] = np.array([b"ab", b"cd"])


def ragged(file, _other):
    file.create_dataset("x", (2,), h5py.vlen_dtype(np.float32))[0] = [1, 2, 3]


def references(file, _other):
    file["y"] = np.ones(2)
    file.create_dataset("x", (1,), h5py.ref_dtype)[0] = file["y"].ref


def table(file, _other):
    file["x"] = np.zeros(2, [("a", "f4"), ("b", "i4")])


def long_double(file, _other):
    file["x"] = np.zeros(2, np.longdouble)


def shapeless(file, _other):
    file["x"] = h5py.Empty("f4")


def named_type(file, _other):
    file["x"] = np.dtype("f4")


def group_in_itself(file, _other):
    group = file.create_group("a")
    group.create_group("b")["again"] = group


def root_in_itself(file, _other):
    file["a"] = file["/"]


def group_in_two_places(file, _other):
    """Thirty of these, one in another, would be a thousand million tensors."""
    file.create_group("a")
    file["b"] = file["a"]


def bottomless(file, _other):
    group = file
    for _ in range(102):
        group = group.create_group("a")


HOSTILE = [
    (soft_link, "'?x'? is a link to another place"),
    (external_link, "is a link to another file"),
    (external_storage, "is kept in another file"),
    (virtual_dataset, "compressed, scattered or virtual"),
    (endless_virtual_dataset, "compressed, scattered or virtual"),
    (gzipped, "compressed, scattered or virtual"),
    (foreign_filter, "compressed, scattered or virtual"),
    (never_written, "4398046511104 bytes, which the file does not hold"),
    (text, "not an array of numbers"),
    (texts, "not an array of numbers"),
    (ragged, "not an array of numbers"),
    (references, "not an array of numbers"),
    (table, "not an array of numbers"),
    (long_double, "not an array of numbers"),
    (shapeless, "without a shape"),
    (named_type, "neither a group nor a tensor"),
    (group_in_itself, "two ways or nested without end"),
    (root_in_itself, "two ways or nested without end"),
    (group_in_two_places, "two ways or nested without end"),
    (bottomless, "two ways or nested without end"),
]


@pytest.mark.parametrize(("write", "why"), HOSTILE, ids=[write.__name__ for write, _ in HOSTILE])
def test_anything_but_plain_tensors_is_refused(path, write, why):
    """The other file is one that blocks whoever opens it, so that opening it would show."""
    other = path.with_name("other.h5")
    with h5py.File(path, "w", libver="latest") as file:
        write(file, other)
    other.unlink(missing_ok=True)
    os.mkfifo(other)
    with pytest.raises(CheckpointError, match=why):
        read_checkpoint(path)
    refused(path)


def test_a_name_that_is_a_path_is_not_followed(path):
    """The library would follow it through the link that the loop over names was going to refuse."""
    with h5py.File(path, "w") as file:
        file["AzB"] = np.ones(3)
    data = path.read_bytes()
    assert data.count(b"AzB") == 1
    path.write_bytes(data.replace(b"AzB", b"A/B"))
    assert "no name" in refused(path)


def test_tensors_that_share_their_storage_count_each_time(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(1 << 19)
        for index in range(140):
            file[f"y{index}"] = file["x"]
    assert "far more than its own size" in refused(path)


def test_too_many_names(path, monkeypatch):
    monkeypatch.setattr("iseparate.weights.hdf5._MAX_LINKS", 10)
    with h5py.File(path, "w") as file:
        for index in range(6):
            file[f"a/{index}"] = index
            file[f"b/{index}"] = index
    assert "more than 10" in refused(path)


def test_storage_beyond_the_end_of_the_file(path):
    """The bytes of the address are forged; some versions of HDF5 notice, others leave it to the system."""
    with h5py.File(path, "w") as file:
        offset = file.create_dataset("x", data=np.arange(100.0)).id.get_offset()
    data = path.read_bytes()
    address = struct.pack("<Q", offset)
    places = [place for place in range(len(data) - 8) if data[place : place + 8] == address]
    assert places
    for place in places:
        path.write_bytes(data[:place] + struct.pack("<Q", len(data) - 8) + data[place + 8 :])
        refused(path)


def test_cut_short_anywhere(path):
    with h5py.File(path, "w") as file:
        for index in range(4):
            file[f"g/{index}"] = np.arange(50.0)
    data = path.read_bytes()
    for length in range(8, len(data), len(data) // 40):
        path.write_bytes(data[:length])
        refused(path)


def test_damage_anywhere_is_told_or_harmless(path):
    with h5py.File(path, "w") as file:
        for index in range(3):
            file[f"g/{index}"] = np.arange(20.0)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(1)
    told = 0
    for position in rng.integers(8, len(data), 300):
        damaged = bytearray(data)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except CheckpointError:
            told += 1
    assert told > 5
