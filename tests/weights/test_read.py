from __future__ import annotations

import collections
import gzip
import io
import json
import os
import pickle
import tarfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from test_tensor_bundle import some_tensors, write_bundle

from iseparate.errors import CheckpointError, UnsafeCheckpointError
from iseparate.weights.guards import require_finite_tree
from iseparate.weights.read import read_checkpoint
from iseparate.weights.unpickle import ForeignClass


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv1d(2, 3, 4)
        self.norm = torch.nn.BatchNorm1d(3)
        self.register_buffer("window", torch.ones(5), persistent=False)
        self.inner = torch.nn.ModuleList([torch.nn.Linear(2, 2)])


def written(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def only(paths):
    (file,) = read_checkpoint(paths).values()
    return file


# Formats


def test_safetensors(tmp_path):
    save_file({"a.b": torch.arange(3.0)}, tmp_path / "m.safetensors", {"config": '{"n": 1}'})
    file = only([tmp_path / "m.safetensors"])
    assert (file.name, file.format) == ("m.safetensors", "safetensors")
    assert torch.equal(file.tensors["a.b"], torch.arange(3.0))
    assert file.metadata == {"config": '{"n": 1}'}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_torch_tensors_are_named_by_the_way_to_them(tmp_path, zipped):
    tree = {
        "state_dict": collections.OrderedDict({"conv.weight": torch.ones(2)}),
        "optimizer": {"state": {0: {"step": torch.tensor(3)}}, "lr": 0.1},
        "stages": [torch.zeros(1), (torch.ones(1),)],
        "klass": Block,
        "epoch": 3,
    }
    torch.save(tree, tmp_path / "x.th", _use_new_zipfile_serialization=zipped)
    file = only([tmp_path / "x.th"])
    assert file.format == "torch"
    assert list(file.tensors) == [
        "state_dict.conv.weight",
        "optimizer.state.0.step",
        "stages.0",
        "stages.1.0",
    ]
    assert file.metadata["epoch"] == 3
    assert isinstance(file.metadata["klass"], ForeignClass)
    assert file.metadata["state_dict"]["conv.weight"] is file.tensors["state_dict.conv.weight"]


def test_a_module_pickled_whole_has_the_names_of_its_state_dict(tmp_path):
    block = Block()
    torch.save({"model": block}, tmp_path / "x.pt")
    tensors = only([tmp_path / "x.pt"]).tensors
    assert sorted(tensors) == sorted(f"model.{name}" for name in block.state_dict())
    assert torch.equal(tensors["model.inner.0.weight"], block.inner[0].weight)


def test_arrays_become_tensors(tmp_path):
    arrays = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">f4"),
        "byte": np.array([7], np.int8),
        "names": np.array(["a"]),
    }
    torch.save(arrays, tmp_path / "x.ckpt")
    file = only([tmp_path / "x.ckpt"])
    assert sorted(file.tensors) == ["big", "byte", "columns", "w"]
    for name, tensor in file.tensors.items():
        assert torch.equal(tensor, torch.from_numpy(arrays[name].astype(arrays[name].dtype.newbyteorder("="))))
        tensor.add_(1)  # writable, and nobody else's memory
    assert only([tmp_path / "x.ckpt"]).tensors["byte"].item() == 7


def test_plain_pickles_without_a_telling_name(tmp_path):
    written(tmp_path / "best_checkpoint", pickle.dumps({"w": np.ones(2)}))
    assert list(only([tmp_path / "best_checkpoint"]).tensors) == ["w"]
    written(tmp_path / "old.pkl", pickle.dumps({"w": [1]}, 0))
    assert only([tmp_path / "old.pkl"]).metadata == {"w": [1]}


def test_the_format_goes_by_content_not_by_name(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "x.pth")
    torch.save({"b": torch.ones(1)}, tmp_path / "y.safetensors")
    written(tmp_path / "z.th", '{"c": 1}')
    formats = {name: file.format for name, file in read_checkpoint(tmp_path).items()}
    assert formats == {"x.pth": "safetensors", "y.safetensors": "torch", "z.th": "json"}


@pytest.mark.parametrize("given", ["model.index", "model", "model.data-00001-of-00002", "."])
def test_a_tensorflow_bundle_is_one_file(tmp_path, given):
    write_bundle(tmp_path, some_tensors(), shards=2)
    written(tmp_path / "checkpoint", 'model_checkpoint_path: "model"\n')
    written(tmp_path / "model.meta", b"\x0a\x03abc")
    file = only([tmp_path / given])
    assert (file.name, file.format, file.metadata) == ("model", "tensorflow", None)
    assert torch.equal(file.tensors["layer_3/kernel"], torch.from_numpy(some_tensors()["layer_3/kernel"]))


def test_all_files_of_a_bundle_by_name(tmp_path):
    write_bundle(tmp_path, some_tensors(), shards=2)
    written(tmp_path / "checkpoint", 'model_checkpoint_path: "model"\n')
    written(tmp_path / "model.meta", b"\x0a\x03abc")
    assert list(read_checkpoint(sorted(tmp_path.iterdir()))) == ["model"]


def test_yaml(tmp_path):
    text = "model:\n  bands: !!python/tuple [2, 2, 4]\n  lr: 1.0e-4\n  base: &b {x: 1}\n  more: {<<: *b, y: 2}\n"
    file = only([written(tmp_path / "config.yaml", text)])
    assert file.format == "yaml"
    model = {"bands": (2, 2, 4), "lr": 1e-4, "base": {"x": 1}, "more": {"x": 1, "y": 2}}
    assert file.metadata == {"model": model}


def test_json(tmp_path):
    file = only([written(tmp_path / "config.json", '\ufeff{"a": [1, null, "\u00f6"]}')])
    assert (file.format, file.metadata) == ("json", {"a": [1, None, "\u00f6"]})


@pytest.mark.parametrize("name", ["x.pt.gz", "x.safetensors.gz", "x.json.gz", "x.yaml.gz"])
def test_gzip_around_any_of_them(tmp_path, name):
    plain = tmp_path / "plain"
    match name.split(".")[1]:
        case "pt":
            torch.save({"w": torch.ones(3)}, plain)
        case "safetensors":
            save_file({"w": torch.ones(3)}, plain)
        case _:
            written(plain, '{"w": 1}')
    file = only([written(tmp_path / name, gzip.compress(plain.read_bytes()))])
    assert file.name == name
    assert torch.equal(file.tensors["w"], torch.ones(3)) if file.tensors else file.metadata == {"w": 1}


# Sets of files


def test_a_folder_is_read_one_level_deep_and_other_files_are_passed_over(tmp_path):
    for stem in ("vocals", "drums"):
        (tmp_path / stem).mkdir()
        torch.save({"w": torch.ones(1)}, tmp_path / stem / "best.pth")
    (tmp_path / "drums" / "old").mkdir()
    torch.save({"w": torch.ones(1)}, tmp_path / "drums" / "old" / "best.pth")
    written(tmp_path / "README.md", "# Weights\n")
    written(tmp_path / ".hidden.json", "{")
    np.savez(tmp_path / "arrays.npz", a=np.ones(2))
    written(tmp_path / "song.wav", b"RIFF\0\0\0\0WAVE")
    assert list(read_checkpoint(tmp_path)) == ["drums/best.pth", "vocals/best.pth"]
    assert list(read_checkpoint(tmp_path / "vocals")) == ["best.pth"]


def test_two_files_of_one_name(tmp_path):
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(written(tmp_path / folder / "x.json", "{}"))
    with pytest.raises(CheckpointError, match="same name"):
        read_checkpoint(paths)
    assert len(read_checkpoint([paths[0], paths[0]])) == 1


# Bad input


def tar_of(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("model.index")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


BAD = {
    "x.pth": (b"", "is empty"),
    "notes.pth": (b"These are the weights.\nReally", "format is not known"),
    "notes.txt": (b"These are the weights.", "format is not known"),
    "lfs.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
    "page.ckpt": (b"\n<!DOCTYPE html><html>404</html>", "web page"),
    "models.tar.gz": (gzip.compress(tar_of(b"x")), "archive"),
    "cut.gz": (gzip.compress(bytes(1000))[:-12], "cut short"),
    "x.h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "x.safetensors": (b"\x10\0\0\0\0\0\0\0{not json at all}", "damaged"),
    "zeros.bin": (bytes(100), "format is not known"),
    "x.json": (b'{"a": ', "not valid JSON"),
    "deep.json": (b"[" * 100_000, "nested"),
    "rather-deep.json": (b"[" * 300 + b"]" * 300, "nested"),
    "latin.json": (b'{"a": "\xff"}', "damaged"),
    "x.yaml": (b"a: [1, 2\nb: }", "not valid YAML"),
    "run.yaml": (b"a: !!python/object/apply:os.system ['touch canary']", "more than plain data"),
    "name.yaml": (b"a: !!python/name:os.system", "more than plain data"),
    "new.yaml": (b"!!python/object/new:os.system ['touch canary']", "more than plain data"),
    "deep.yaml": (b"[" * 3000, "nested"),
    "tuple.yaml": (b"a: !!python/tuple {b: 1}", "not a list"),
    "key.yaml": (b"? [1, 2]\n: 3", "for a key"),
    "self.yaml": (b"a: &a [1, *a]", "contains itself"),
    "laughs.yaml": (b"a0: &a0 [x]\n" + b"".join(
        b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 20)
    ), "values"),
    "merges.yaml": (b"all: &a {" + b", ".join(b"k%d: 1" % n for n in range(2000)) + b"}\n" + b"".join(
        b"a%d: {<<: *a}\n" % n for n in range(2000)
    ), "merge keys"),
}  # fmt: skip


def test_merges_of_merges_do_not_multiply(tmp_path):
    """PyYAML up to 6.0.3 multiplies them, and they are refused; later ones merge a key once."""
    levels = (b"a%d: &a%d {<<: [%s]}\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 20))
    path = written(tmp_path / "levels.yaml", b"a0: &a0 {x: 1}\n" + b"".join(levels))
    merges_once = tuple(map(int, yaml.__version__.split(".")[:3])) >= (6, 0, 4)
    with nullcontext() if merges_once else pytest.raises(CheckpointError, match="merge keys"):
        (file,) = read_checkpoint([path]).values()
        assert file.metadata["a19"] == {"x": 1}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_sentence(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, reason = BAD[name]
    path = written(tmp_path / name, data)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_checkpoint([path])
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.count(str(tmp_path)) == 1
    assert message.isprintable()
    assert not (tmp_path / "canary").exists()


def test_a_file_that_promises_a_checkpoint_must_be_one_in_a_folder_too(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pth")
    written(tmp_path / "b.pth", b"")
    with pytest.raises(CheckpointError, match=r"b\.pth: it is empty"):
        read_checkpoint(tmp_path)


def test_a_truncated_archive(tmp_path):
    torch.save({"w": torch.ones(100)}, tmp_path / "x.pth")
    whole = (tmp_path / "x.pth").read_bytes()
    written(tmp_path / "x.pth", whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint([tmp_path / "x.pth"])


@pytest.mark.parametrize("packed", [False, True])
def test_a_truncated_safetensors_file(tmp_path, packed):
    save_file({"w": torch.ones(100)}, tmp_path / "x.safetensors")
    data = (tmp_path / "x.safetensors").read_bytes()[:-4]
    written(tmp_path / "x.safetensors", gzip.compress(data) if packed else data)
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint([tmp_path / "x.safetensors"])


def test_missing_empty_and_none(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint([tmp_path / "nothing.pth"])
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        read_checkpoint([tmp_path])
    with pytest.raises(CheckpointError, match="no file was given"):
        read_checkpoint([])
    written(tmp_path / "model.data-00000-of-00001", b"")
    with pytest.raises(CheckpointError, match=r"model\.index: there is no such file"):
        read_checkpoint(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may read everything")
def test_an_unreadable_file(tmp_path):
    path = written(tmp_path / "x.pth", b"N.")
    path.chmod(0)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint([path])


class Attack:
    def __reduce__(self):
        return os.system, ("touch canary",)


@pytest.mark.parametrize("packed", [False, True])
def test_a_hostile_pickle_is_unsafe_and_does_not_run(tmp_path, packed, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps({"w": Attack()})
    path = written(tmp_path / "x.pth", gzip.compress(data) if packed else data)
    with pytest.raises(UnsafeCheckpointError, match="system"):
        read_checkpoint([path])
    assert not (tmp_path / "canary").exists()


def test_two_tensors_cannot_share_a_name(tmp_path):
    torch.save({"a": {"b": torch.ones(1)}, "a.b": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"two of its tensors have the name a\.b"):
        read_checkpoint([tmp_path / "x.pt"])


# The finite tree


def test_shared_values_are_fine_and_doubling_is_not():
    shared = list(range(10))
    require_finite_tree({"a": shared, "b": [shared, shared], "c": json.loads("[[[]]]")})
    tower = [1]
    for _ in range(60):
        tower = [tower, tower]
    with pytest.raises(CheckpointError, match="values"):
        require_finite_tree(tower)


def test_cycles_and_depth():
    loop = {"x": [1]}
    loop["x"].append({"y": loop})
    with pytest.raises(CheckpointError, match="contains itself"):
        require_finite_tree(loop)
    deep = []
    for _ in range(99):
        deep = [deep]
    require_finite_tree(deep)
    with pytest.raises(CheckpointError, match="nested"):
        require_finite_tree([deep])
