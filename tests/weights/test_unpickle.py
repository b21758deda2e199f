from __future__ import annotations

import argparse
import collections
import fractions
import gzip
import io
import os
import pathlib
import pickle
import pickletools
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from iseparate.errors import CheckpointError, UnsafeCheckpointError
from iseparate.weights.guards import Allowance
from iseparate.weights.unpickle import ForeignClass, ForeignObject, load_torch

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Network(torch.nn.Module):
    """Stands for a class that the reader has never heard of."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv1d(2, 3, 4)


class Slotted:
    __slots__ = ("left", "right")

    def __init__(self):
        self.left, self.right = 1, [2]


class Keyworded:
    def __new__(cls, *, depth):
        made = super().__new__(cls)
        made.depth = depth
        return made

    def __getnewargs_ex__(self):
        return (), {"depth": self.depth}


def saved(path: Path, value, zipped: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def checkpoint():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 4, generator=generator)
    return {
        "klass": Network,
        "args": [4, fractions.Fraction(39, 5), None, True],
        "kwargs": {"sources": ("drums", "bass"), "rate": 44100, "gain": 0.5},
        "state": collections.OrderedDict(
            weight=weights, transposed=weights.T, row=weights[1], half=weights.half(), step=torch.tensor(3)
        ),
        "namespace": argparse.Namespace(hidden=64, folder=pathlib.PurePosixPath("a/b")),
    }


def assert_same(read, expected):
    if isinstance(expected, torch.Tensor):
        assert isinstance(read, torch.Tensor)
        assert (read.dtype, read.shape, read.stride()) == (expected.dtype, expected.shape, expected.stride())
        assert torch.equal(read, expected)
    elif isinstance(expected, np.ndarray):
        assert read.dtype == expected.dtype
        np.testing.assert_array_equal(read, expected)
    elif isinstance(expected, dict):
        assert list(read) == list(expected)
        for key in expected:
            assert_same(read[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert isinstance(read, type(expected))
        assert len(read) == len(expected)
        for one, other in zip(read, expected, strict=True):
            assert_same(one, other)
    else:
        assert type(read) is type(expected)
        assert read == expected


# What checkpoints hold


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_checkpoint_with_foreign_classes(tmp_path, zipped):
    original = checkpoint()
    read = load_torch(saved(tmp_path / "model.th", original, zipped))
    assert list(read) == list(original)
    assert isinstance(read["klass"], ForeignClass)
    assert (read["klass"].module, read["klass"].name) == (__name__, "Network")
    fraction = read["args"][1]
    assert isinstance(fraction, ForeignObject)
    assert (fraction.module, fraction.name) == ("fractions", "Fraction")
    assert fractions.Fraction(*fraction.args) == fractions.Fraction(39, 5)
    assert read["args"][0::2] == [4, None]
    assert read["namespace"].path == "argparse.Namespace"
    assert read["namespace"].state["hidden"] == 64
    assert read["namespace"].state["folder"].args == ("a", "b")
    assert_same(read["kwargs"], original["kwargs"])
    assert_same(dict(read["state"]), dict(original["state"]))
    assert isinstance(read["state"], collections.OrderedDict)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_tensors_that_share_a_storage_still_do(tmp_path, zipped):
    read = load_torch(saved(tmp_path / "model.th", checkpoint(), zipped))["state"]
    read["weight"][1, 2] = 42
    assert read["row"][2] == read["transposed"][2, 1] == 42


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_torch_save(tmp_path, protocol):
    torch.save(checkpoint(), tmp_path / "model.pt", pickle_protocol=protocol)
    assert_same(load_torch(tmp_path / "model.pt")["state"]["weight"], checkpoint()["state"]["weight"])


NUMBER_TYPES = ["float64", "float32", "float16", "bfloat16", "complex64", "complex128", "bool"]
NUMBER_TYPES += ["int64", "int32", "int16", "int8", "uint8"]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", NUMBER_TYPES)
def test_every_type_of_number(tmp_path, dtype, zipped):
    values = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    assert_same(load_torch(saved(tmp_path / "x.pt", [values], zipped)), [values])


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "float8_e5m2"])
def test_numbers_without_a_storage_class(tmp_path, dtype):
    values = torch.arange(6).to(torch.float32).to(getattr(torch, dtype))
    read = load_torch(saved(tmp_path / "x.pt", values))
    assert read.dtype == values.dtype
    assert torch.equal(read.view(torch.uint8), values.view(torch.uint8))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(1.5),
        torch.empty(0),
        torch.zeros(0, 3),
        torch.ones(1).expand(4, 5),
        torch.arange(24.0)[3::5],
    ],
    ids=["scalar", "empty", "no rows", "expanded", "strided"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_unusual_layouts(tmp_path, tensor, zipped):
    assert_same(load_torch(saved(tmp_path / "x.pt", tensor, zipped)), tensor)


def test_parameters_are_tensors(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(3))
    read = load_torch(saved(tmp_path / "x.pt", {"w": parameter}))
    assert type(read["w"]) is torch.Tensor
    assert not read["w"].requires_grad


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_pickles_of_arrays(tmp_path, protocol):
    original = {
        "f": np.arange(6, dtype=np.float32).reshape(2, 3),
        "by columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "one byte": np.array([7], np.uint8),
        "text": np.array(["vocals", "bass"]),
        "none": np.zeros((0, 4)),
    }
    read = load_torch(written(tmp_path / "x.pkl", pickle.dumps(original, protocol)))
    assert_same(read, original)
    swapped = load_torch(written(tmp_path / "y.pkl", pickle.dumps(np.arange(3, dtype=">i4"), protocol)))
    assert_same(swapped, np.arange(3, dtype=np.int32))
    assert not read["one byte"].flags.writeable  # or a write would reach every other b"\x07" of the process


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values(tmp_path, protocol):
    original = {
        "none": None, "yes": True, "no": False, "int": -(10**30), "small": 3, "float": -0.1,
        "complex": 1 + 2j,
        "text": "d\u00f6\u00e9\n\U0001f3b5", "bytes": b"\x00\xff", "nothing": b"", "list": [1, [2, []]],
        "tuple": (1, (), (2, 3, 4, 5)), "set": {1, 2}, "frozen": frozenset({"a"}), ("a", 1): "tuple key",
        "octets": bytearray(b"abc"), 5: {},
    }  # fmt: skip
    assert_same(load_torch(written(tmp_path / "x.pkl", pickle.dumps(original, protocol))), original)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_collections_and_scalars_come_as_plain_values(tmp_path, protocol):
    original = [
        collections.OrderedDict(a=1), collections.defaultdict(list, b=2), collections.Counter("aab"),
        torch.Size([2, 3]), torch.device("cuda", 1), np.float64(0.5), np.int32(7),
    ]  # fmt: skip
    read = load_torch(written(tmp_path / "x.pkl", pickle.dumps(original, protocol)))
    assert read == [{"a": 1}, {"b": 2}, {"a": 2, "b": 1}, (2, 3), "cuda:1", 0.5, 7]
    assert [type(value) for value in read[3:]] == [tuple, str, float, int]


@pytest.mark.parametrize("protocol", PROTOCOLS[2:])
def test_objects_of_many_kinds_become_stand_ins(tmp_path, protocol):
    deque = collections.deque([1, 2], maxlen=3)
    read = load_torch(written(tmp_path / "x.pkl", pickle.dumps([Slotted(), deque, slice(1, 2)], protocol)))
    assert all(isinstance(value, ForeignObject) for value in read)
    assert read[0].state == (None, {"left": 1, "right": [2]})
    assert read[1].elements == [1, 2]
    assert read[2].args == (1, 2, None)


def test_keyword_arguments_of_a_class_are_kept(tmp_path):
    read = load_torch(written(tmp_path / "x.pkl", pickle.dumps(Keyworded(depth=4), 4)))
    assert read.kwargs == {"depth": 4}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_module_pickled_whole(tmp_path, zipped):
    network = Network()
    read = load_torch(saved(tmp_path / "x.pt", network, zipped))
    assert (read.module, read.name) == (__name__, "Network")
    conv = read.state["_modules"]["conv"]
    assert_same(conv.state["_parameters"]["weight"], network.conv.weight.detach())


def test_tensors_in_a_plain_pickle(tmp_path):
    original = {"w": torch.arange(4.0)}
    assert_same(load_torch(written(tmp_path / "x.pkl", pickle.dumps(original))), original)


def test_gzip(tmp_path):
    saved(tmp_path / "x.th", checkpoint(), zipped=False)
    packed = written(tmp_path / "x.th.gz", gzip.compress((tmp_path / "x.th").read_bytes()))
    assert_same(load_torch(packed)["state"]["weight"], checkpoint()["state"]["weight"])


def test_deflated_archives(tmp_path):
    saved(tmp_path / "x.pt", checkpoint())
    with (
        zipfile.ZipFile(tmp_path / "x.pt") as old,
        zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert_same(load_torch(tmp_path / "y.pt")["state"]["weight"], checkpoint()["state"]["weight"])


def test_text_and_arrays_of_python_2(tmp_path):
    program = b"\x80\x02(cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(K\x02t"
    program += b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    program += b"U\x08\x00\x00\x80?\x00\x00\x00@tbU\x04nameU\x02\xc3\xb6l."
    values, name, umlaut = load_torch(written(tmp_path / "x.pkl", program))
    np.testing.assert_array_equal(values, np.array([1, 2], np.float32))
    assert (name, umlaut) == ("name", "\u00f6")


def test_a_parent_that_knows_its_children_who_know_it(tmp_path):
    parent = argparse.Namespace()
    parent.child = argparse.Namespace(parent=parent)
    read = load_torch(written(tmp_path / "x.pkl", pickle.dumps([parent])))
    assert read[0].state["child"].state["parent"] is read[0]
    assert "Namespace" in repr(read[0])


# Attacks


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.reduced = (function, args)

    def __reduce__(self):
        return self.reduced


def fires(canary: Path) -> str:
    return f"touch {canary}"


@pytest.mark.parametrize("zipped", [True, False, None], ids=["zip", "legacy", "plain"])
def test_os_system_does_not_run(tmp_path, zipped):
    canary = tmp_path / "canary"
    attack = {"weights": torch.zeros(2) if zipped is not None else 0, "x": Calls(os.system, fires(canary))}
    path = tmp_path / "model.pth"
    if zipped is None:
        path.write_bytes(pickle.dumps(attack))
    else:
        saved(path, attack, zipped)
    with pytest.raises(UnsafeCheckpointError, match=r"asks to run (posix|nt)\.system") as caught:
        load_torch(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert not canary.exists()
    if zipped is None:  # the attack is a real one
        pickle.loads(path.read_bytes())
        assert canary.exists()


TOUCH = b"X\x0c\x00\x00\x00touch canary"  # BINUNICODE
REFUSED = {
    "global and reduce": b"cos\nsystem\n(S'touch canary'\ntR.",
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + TOUCH + b"\x85R.",
    "inst": b"(S'touch canary'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'touch canary'\no.",
    "newobj": b"\x80\x02cos\nsystem\n" + TOUCH + b"\x85\x81.",
    "newobj_ex": b"\x80\x04cos\nsystem\n" + TOUCH + b"\x85}\x92.",
    "eval": b"cbuiltins\neval\n(S'1'\ntR.",
    "exec of python 2": b"c__builtin__\nexecfile\n(S'1'\ntR.",
    "import": b"cbuiltins\n__import__\n(S'os'\ntR.",
    "popen": b"csubprocess\nPopen\n(S'x'\ntR.",
    "run in a submodule": b"cos.path\njoin\n(S'x'\ntR.",
    "attribute of a module": b"cbuiltins\ngetattr\n(cos\nsystem\nS'x'\ntR(S'touch canary'\ntR.",
    "dotted name": b"\x80\x04\x8c\x02os\x8c\x10path.os.systemxx\x93" + TOUCH + b"\x85R.",
    "through copyreg": b"ccopyreg\n__newobj__\n(cos\nsystem\nS'touch canary'\ntR.",
    "through reconstructor": b"ccopy_reg\n_reconstructor\n(cos\nsystem\ncos\nsystem\nS'x'\ntR.",
    "through a tensor": b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nN(S'touch canary'\ntNtR.",
    "unpickling inside": b"cpickle\nloads\n(S'x'\ntR.",
    "torch.load": b"ctorch\nload\n(S'x'\ntR.",
    "code object": b"ctypes\nFunctionType\n(S'x'\ntR.",
    "call of a string": b"S'os.system'\n(S'touch canary'\ntR.",
    "call of a list": b"](S'x'\ntR.",
    "call of a result": b"cmodels\nmake\n(tR(tR.",
    "change of a class": b"cmodels\nNet\n}S'forward'\nNsb.",
    "change of a builder": b"ccollections\nOrderedDict\n}S'x'\nNsb.",
    "change of a name by slots": b"ctorch._utils\n_rebuild_tensor_v2\n(N}S'__defaults__'\nNstb.",
}


@pytest.mark.parametrize("attack", REFUSED)
def test_refused(tmp_path, attack, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "system", lambda *_: (tmp_path / "canary").touch())
    with pytest.raises(UnsafeCheckpointError):
        load_torch(written(tmp_path / "x.pkl", REFUSED[attack]))
    assert not (tmp_path / "canary").exists()


DAMAGED = {
    "extension registry": b"\x80\x02\x82\x01.",
    "long extension": b"\x80\x02\x84\x01\x00\x00\x00.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "persistent id in a plain pickle": b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\ntQ.",
    "textual persistent id": b"Pevil\n.",
    "hostile persistent id": b"]Q.",
    "append to a tuple": b")K\x01a.",
    "entry in a list": b"]K\x01K\x02s.",
    "list as a key": b"}]K\x01s.",
    "odd entries": b"}(K\x01u.",
    "unhashable set": b"\x80\x04\x8f(]\x90.",
    "missing memo": b"h\x07.",
    "empty stack": b".",
    "mark as a value": b"(.",
    "mark popped": b"(\x85.",
    "mark missing": b"K\x01t.",
    "no stop": b"K\x01",
    "unknown opcode": b"\xfe.",
    "long text": b"X\xff\xff\xff\x7fabc.",
    "longer text": b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "negative number of bytes": b"T\xff\xff\xff\xffabc.",
    "number of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "bytes out of a number": b"cbuiltins\nbytearray\n(L99999999999999L\ntR.",
    "list out of a string": b"cbuiltins\nlist\n(S'x'\ntR.",
    "object array": pickle.dumps(np.array([{}, []], dtype=object), 2),
    "structured array": pickle.dumps(np.zeros(2, dtype=[("a", "f4")]), 2),
    "quantized tensor": b"ctorch._utils\n_rebuild_qtensor\n(tR.",
    "sparse tensor": b"ctorch._utils\n_rebuild_sparse_tensor\n(tR.",
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged(tmp_path, case):
    with pytest.raises(CheckpointError) as caught:
        load_torch(written(tmp_path / "x.pkl", DAMAGED[case]))
    assert type(caught.value) is CheckpointError
    assert len(str(caught.value)) < 300 + len(str(tmp_path))
    assert str(caught.value).isprintable()


def towers(step: bytes, levels: int) -> bytes:
    """Repeats `step`, in which B and A stand for the memo's entries before and after."""
    return b"".join(step.replace(b"A", bytes([n])).replace(b"B", bytes([n - 1])) for n in range(1, levels))


ENDLESS = {
    "a list in itself": (b"]q\x00h\x00a.", "contains itself"),
    "a dict in itself": (b"}q\x00K\x01h\x00s.", "contains itself"),
    "deep": (b"]" * 5000 + b"a" * 4999 + b".", "nested"),
    "doubling lists": (b"]q\x00" + towers(b"]qA(hBhBe", 60) + b".", "values"),
    "doubling tuples as a key": (b"K\x01q\x00" + towers(b"hBhB\x86qA", 60) + b"}h\x3bK\x01s.", "came"),
    "text encoded again and again": (
        b"X\x00\x00\x20\x00" + b"a" * (1 << 21) + b"q\x00" + b"c_codecs\nencode\nh\x00\x85R" * 400 + b".",
        "unpacks to far more",
    ),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_small_files_that_stand_for_endless_data(tmp_path, case):
    program, reason = ENDLESS[case]
    with pytest.raises(CheckpointError, match=reason):
        load_torch(written(tmp_path / "x.pkl", program))


def test_names_in_messages_cannot_drive_the_terminal(tmp_path):
    name = b"\x1b]0;owned\x07\x1b[2J\nsystem"
    attack = b"\x80\x04\x8c\x02os\x8c" + bytes([len(name)]) + name + b"\x93)R."
    with pytest.raises(UnsafeCheckpointError, match="owned") as caught:
        load_torch(written(tmp_path / "x.pkl", attack))
    assert str(caught.value).isprintable()


def test_a_program_of_very_many_steps(tmp_path, monkeypatch):
    monkeypatch.setattr("iseparate.weights.pickle_machine._MAX_OPCODES", 1000)
    assert load_torch(written(tmp_path / "x.pkl", b"N0" * 400 + b"N.")) is None
    with pytest.raises(CheckpointError, match="more than 1000 steps"):
        load_torch(written(tmp_path / "x.pkl", b"N0" * 600 + b"N."))


# Containers that lie


def edited(path: Path, member: str, change) -> Path:
    """Rewrites one member of a zip archive; `change` maps its bytes to bytes or to None (left out)."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            new = change(data) if name.endswith(member) else data
            if new is not None:
                archive.writestr(name, new)
    return path


@pytest.mark.parametrize(
    ("member", "change", "reason"),
    [
        ("/data/0", lambda data: data[:-4], "bytes where"),
        ("/data/0", lambda data: data + b"more", "bytes where"),
        ("/data/0", lambda _: None, "missing"),
        ("/data.pkl", lambda _: None, "not written by torch.save"),
        ("/byteorder", lambda _: b"big", "big-endian"),
        ("/version", lambda _: b"constants.pkl", None),
    ],
)
def test_archives_that_lie(tmp_path, member, change, reason):
    path = edited(saved(tmp_path / "x.pt", {"w": torch.arange(8.0)}), member, change)
    if reason is None:
        assert torch.equal(load_torch(path)["w"], torch.arange(8.0))
        return
    with pytest.raises(CheckpointError, match=reason):
        load_torch(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "x.pt"))
    with pytest.raises(CheckpointError, match="TorchScript"):
        load_torch(tmp_path / "x.pt")


def test_a_bomb_of_zeros_is_not_unpacked(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x/data.pkl", "w") as member,
    ):
        for _ in range(300):
            member.write(bytes(1 << 20))
    with pytest.raises(CheckpointError, match="unpacks to far more"):
        load_torch(tmp_path / "x.pt")


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    with gzip.open(tmp_path / "x.gz", "wb", compresslevel=1) as file:
        for _ in range(300):
            file.write(bytes(1 << 20))
    with pytest.raises(CheckpointError, match="unpacks to far more"):
        load_torch(tmp_path / "x.gz")


def forged_tensor(size: int, stride: int, offset: int = 0, declared: int = 4) -> bytes:
    """A pickle of one tensor over storage "0", with any layout."""
    storage = b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nL%dL\ntQ" % declared
    layout = b"L%dL\n(L%dL\nt(L%dL\nt" % (offset, size, stride)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage.replace(b"L\nt", b"L\nt") + layout + b"I00\nNtR."


@pytest.mark.parametrize(
    ("layout", "works"),
    [
        ({"size": 4, "stride": 1}, True),
        ({"size": 2, "stride": 3}, True),
        ({"size": 1000, "stride": 0}, True),
        ({"size": 5, "stride": 1}, False),
        ({"size": 3, "stride": 2}, False),
        ({"size": 4, "stride": 1, "offset": 1}, False),
        ({"size": 1, "stride": 1, "offset": 4}, False),
        ({"size": -1, "stride": 1}, False),
        ({"size": 2, "stride": -1, "offset": 3}, False),
        ({"size": 4, "stride": 1, "offset": -1}, False),
        ({"size": 1 << 40, "stride": 0}, False),
        ({"size": 1 << 70, "stride": 0}, False),
        ({"size": 4, "stride": 1, "declared": 5}, False),
        ({"size": 4, "stride": 1, "declared": 1 << 40}, False),
        ({"size": 4, "stride": 1, "declared": -4}, False),
    ],
)
def test_views_stay_inside_their_storage(tmp_path, layout, works):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", forged_tensor(**layout))
        archive.writestr("x/data/0", np.arange(4, dtype=np.float32).tobytes())
    if works:
        read = load_torch(tmp_path / "x.pt")
        assert read.shape == (layout["size"],)
        assert read.max() <= 3
    else:
        with pytest.raises(CheckpointError):
            load_torch(tmp_path / "x.pt")


def legacy(layout: bytes, keys: bytes, storages: bytes, magic: int = 0x1950A86A20F9469CFC6C) -> bytes:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    header = pickle.dumps(magic, 2) + pickle.dumps(1001, 2) + pickle.dumps(system, 2)
    return header + layout.replace(b"L4L\ntQ", b"L4L\nNtQ") + keys + storages


NUMBERS = struct.pack("<q", 4) + np.arange(4, dtype=np.float32).tobytes()


def test_the_legacy_container_by_hand(tmp_path):
    data = legacy(forged_tensor(4, 1), pickle.dumps(["0"], 2), NUMBERS)
    assert load_torch(written(tmp_path / "x.th", data)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "data",
    [
        legacy(forged_tensor(4, 1), pickle.dumps(["0"], 2), NUMBERS[:-1]),
        legacy(forged_tensor(4, 1), pickle.dumps(["0"], 2), b""),
        legacy(forged_tensor(4, 1), pickle.dumps(["0"], 2), struct.pack("<q", 1 << 60) + NUMBERS[8:]),
        legacy(forged_tensor(4, 1), pickle.dumps(["0"], 2), struct.pack("<q", -4) + NUMBERS[8:]),
        legacy(forged_tensor(4, 1), pickle.dumps([], 2), NUMBERS),
        legacy(forged_tensor(4, 1), pickle.dumps(["0", "1"], 2), NUMBERS * 2),
        legacy(forged_tensor(4, 1), pickle.dumps([["0"]], 2), NUMBERS),
        legacy(forged_tensor(4, 1), pickle.dumps({"0": 0}, 2), NUMBERS),
        legacy(forged_tensor(4, 1, declared=1 << 40), pickle.dumps(["0"], 2), NUMBERS),
        legacy(forged_tensor(4, 1), b"", b""),
    ],
)
def test_legacy_containers_that_lie(tmp_path, data):
    with pytest.raises(CheckpointError):
        load_torch(written(tmp_path / "x.th", data))


def test_files_within_files_end(tmp_path):
    inner = b"N."
    for _ in range(6):
        inner = pickle.dumps(Calls(torch.storage._load_from_bytes, inner))
    with pytest.raises(CheckpointError, match="files within files"):
        load_torch(written(tmp_path / "x.pkl", inner))


@pytest.mark.parametrize("name", ["x.pt", "x.th", "x.pt.gz"])
def test_cut_short_anywhere(tmp_path, name):
    path = saved(tmp_path / name, checkpoint(), zipped=not name.endswith("th"))
    if name.endswith("gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    whole = path.read_bytes()
    for length in [0, 1, 2, 3, 5, *range(10, len(whole) - 1, max(len(whole) // 60, 1)), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load_torch(path)


def test_missing_files_and_directories(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_torch(tmp_path / "nothing.pt")
    with pytest.raises(CheckpointError, match="directory"):
        load_torch(tmp_path)
    with pytest.raises(CheckpointError, match="is empty"):
        load_torch(written(tmp_path / "empty.pt", b""))


def test_the_allowance_is_one_account():
    allowance = Allowance(0)
    allowance.claim(200 << 20)
    with pytest.raises(CheckpointError):
        allowance.claim(100 << 20)


# Fuzzing: whatever the bytes, a value of known types or a CheckpointError comes out, and nothing runs.

KNOWN = (
    type(None), bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset,
    torch.Tensor, np.ndarray, ForeignClass, ForeignObject,
)  # fmt: skip


def assert_known(value, seen):
    assert isinstance(value, KNOWN), type(value)
    if isinstance(value, ForeignObject):
        if id(value) in seen:
            return
        seen.add(id(value))
        for part in value.parts():
            assert_known(part, seen)
    elif isinstance(value, dict):
        for key, child in value.items():
            assert_known(key, seen)
            assert_known(child, seen)
    elif isinstance(value, list | tuple | set | frozenset):
        for child in value:
            assert_known(child, seen)
    elif isinstance(value, torch.Tensor):
        value.sum() if value.numel() < 1 << 20 else None  # touches the memory


def seeds() -> list[bytes]:
    legacy_file, pickles = io.BytesIO(), []
    torch.save({**checkpoint(), "x": Calls(os.getcwd)}, legacy_file, _use_new_zipfile_serialization=False)
    values = {
        "a": np.arange(5.0),
        "n": argparse.Namespace(x=1),
        "o": collections.OrderedDict(b=[1, 2, {3}]),
        "s": Slotted,
    }
    for protocol in PROTOCOLS:
        pickles.append(pickle.dumps({**values, "call": Calls(os.system, "exit 1")}, protocol))
        pickles.append(pickle.dumps(values, protocol))
    return [legacy_file.getvalue(), *pickles]


INTERESTING = bytes([0, 255, *(ord(opcode.code) for opcode in pickletools.opcodes)])


def mutated(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 4, 8])):
        place = chance.randrange(len(changed))
        match chance.randrange(6):
            case 0:
                changed[place] = chance.randrange(256)
            case 1:
                changed[place] = chance.choice(INTERESTING)
            case 2:
                changed.insert(place, chance.choice(INTERESTING))
            case 3:
                del changed[place : place + chance.randrange(1, 9)]
            case 4:
                start = chance.randrange(len(changed))
                changed[place:place] = changed[start : start + chance.randrange(1, 40)]
            case _:
                changed[place : place + 4] = struct.pack(
                    "<I", chance.choice([0, 1, 255, 1 << 16, 1 << 31, (1 << 32) - 1])
                )
        if not changed:
            return b"."
    return bytes(changed)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pickletools, of odd escapes
def test_mutations_of_pickles(tmp_path, monkeypatch):
    fired, originals = [], seeds()
    monkeypatch.setattr(os, "system", lambda *_: fired.append(1))
    path, chance, outcomes = tmp_path / "x.pkl", random.Random(20), collections.Counter()
    for turn in range(1500):
        path.write_bytes(mutated(originals[turn % len(originals)], chance))
        try:
            assert_known(load_torch(path), set())
            outcomes["read"] += 1
        except CheckpointError as error:
            outcomes[type(error).__name__] += 1
    assert not fired
    assert min(outcomes["read"], outcomes["CheckpointError"], outcomes["UnsafeCheckpointError"]) > 50, outcomes


def test_mutations_of_archives(tmp_path):
    """Bytes of the archive itself, and its pickle behind a checksum that is right."""
    path, chance, outcomes = saved(tmp_path / "x.pt", checkpoint()), random.Random(21), collections.Counter()
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        program = archive.read("x/data.pkl")
    for turn in range(600):
        if turn % 2:
            path.write_bytes(mutated(whole, chance))
        else:
            path.write_bytes(whole)
            edited(path, "/data.pkl", lambda _: mutated(program, chance))
        try:
            assert_known(load_torch(path), set())
            outcomes["read"] += 1
        except CheckpointError as error:
            outcomes[type(error).__name__] += 1
    assert min(outcomes["read"], outcomes["CheckpointError"]) > 50, outcomes
