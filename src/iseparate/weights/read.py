"""Reads the files of a checkpoint, whatever their format, into the plain data that importers look at.

A file's format is told by its first and last bytes. Only text, which has no such mark, goes by its name.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from safetensors import safe_open
from torch import Tensor

from ..errors import CheckpointError
from ..types import Checkpoint, CheckpointFile
from .guards import explaining, printable, require_finite_tree, uncompressed
from .tensor_bundle import FOOTER_MAGIC, read_tensor_bundle
from .unpickle import ZIP_MAGIC, ForeignObject, read_torch

Kind = Literal["safetensors", "torch", "tensorflow", "hdf5", "yaml", "json"]

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_TORCH_SUFFIXES = frozenset({".pt", ".pth", ".th", ".ckpt", ".pkl", ".bin"})
_YAML_SUFFIXES = frozenset({".yaml", ".yml"})
_SUFFIXES = _TORCH_SUFFIXES | _YAML_SUFFIXES | {".safetensors", ".index", ".json", ".h5", ".hdf5"}
_SHARD = re.compile(r"(.+)\.data-\d{5}-of-\d{5}", re.DOTALL)
_MAX_TEXT_BYTES = 16 << 20
_MAX_MERGED_KEYS = 100_000
_HEAD_BYTES = 512


def read_checkpoint(paths: Path | Sequence[Path]) -> Checkpoint:
    """Read the files of a checkpoint.

    Args:
        paths: files, or folders whose files are meant, those one level further down included. Of a TensorFlow
            checkpoint any of the index, a data file and their common prefix will do. In a folder, files of
            other kinds (notes, audio) are passed over; a file that was named, or whose suffix promises a
            checkpoint, must be readable.

    Returns:
        The files by name, or by path within a given folder (``vocals/best.pth``). Of each the tensors, on the
        CPU, under the dotted path of keys, indices and attributes that leads to them: ``{"state_dict":
        {"conv.weight": t}}`` gives ``state_dict.conv.weight``, and a module that was pickled whole gives the
        names of its ``state_dict()``. As metadata, of safetensors the ``dict`` of strings in its header; of
        PyTorch all of what `unpickle.load_torch` returns, with the same tensors in it and arrays as they are;
        of YAML and JSON the document, where ``!!python/tuple`` has become a tuple; of HDF5, whose tensors are
        named by the path of groups (``vocals/conv/W``), the attributes of each that are plain numbers; of
        TensorFlow, whose index and data count as one file by the name of their prefix, None.

    Raises:
        UnsafeCheckpointError: a file asks for code to be run.
        CheckpointError: a file is missing, damaged, or of a format that is not read here; or there are none.

    """
    given = [paths] if isinstance(paths, Path) else list(paths)
    wanted: dict[Path, _Wanted] = {}
    for path in given:
        with explaining(path):
            for file in _files(path):
                wanted.setdefault(file.path, file)
    checkpoint: dict[str, CheckpointFile] = {}
    for file in wanted.values():
        content = _read_file(file)
        if content is not None and content.name in checkpoint:
            raise CheckpointError(f"{file.path}: another file has the same name; give only one of them")
        if content is not None:
            checkpoint[content.name] = content
    if not checkpoint:
        names = ", ".join(map(str, given)) or "no file was given"
        raise CheckpointError(
            f"{names}: there is no checkpoint here that can be read, of PyTorch, safetensors, HDF5 or TensorFlow; "
            "check the path"
        )
    return checkpoint


@dataclass(frozen=True)
class _Wanted:
    path: Path
    name: str
    required: bool


def _files(path: Path, folder: str = "") -> Iterator[_Wanted]:
    """Yield the files that `path` stands for."""
    if path.is_dir():
        for child in sorted(path.iterdir()):
            if child.name.startswith("."):
                continue
            if child.is_file():
                for file in _files(child, folder):
                    yield replace(file, required=_suffix(child.name) in _SUFFIXES)
            elif child.is_dir() and not folder:
                yield from _files(child, f"{child.name}/")
        return
    if shard := _SHARD.fullmatch(path.name):
        path = path.with_name(f"{shard[1]}.index")
    elif not path.exists() and path.with_name(f"{path.name}.index").is_file():
        path = path.with_name(f"{path.name}.index")
    # TensorFlow writes "checkpoint" and "<prefix>.meta" beside its weights.
    yield _Wanted(path, folder + path.name, path.name != "checkpoint" and path.suffix != ".meta")


def _suffix(name: str) -> str:
    return Path(name.lower().removesuffix(".gz")).suffix


def _read_file(file: _Wanted) -> CheckpointFile | None:
    with explaining(file.path), uncompressed(file.path) as plain:
        kind = _kind(plain, _suffix(file.name))
        if kind is not None:
            name = file.name.removesuffix(".index") if kind == "tensorflow" else file.name
            tensors, metadata = _READERS[kind](plain)
            return CheckpointFile(name, kind, tensors, metadata)
        if file.required:
            raise CheckpointError(_what_it_is(plain))
    return None


def _ends(path: Path) -> tuple[bytes, bytes, int]:
    """Return the first bytes, the last eight, and the size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        file.seek(max(size - 8, 0))
        return head, file.read(8), size


def _kind(path: Path, suffix: str) -> Kind | None:
    """Return the format of the file at `path`, whose name ended in `suffix` before it was unwrapped."""
    head, tail, size = _ends(path)
    if head.startswith(ZIP_MAGIC):
        return "torch" if _holds_pickle(path) else None
    if head.startswith(_HDF5_MAGIC):
        return "hdf5"
    if tail == FOOTER_MAGIC:
        return "tensorflow"
    if head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= size - 8:
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":  # a pickle that states its protocol
        return "torch"
    if suffix in _YAML_SUFFIXES and _is_text(head):
        return "yaml"
    if _is_text(head) and (suffix == ".json" or head.lstrip()[:1] in (b"{", b"[")):
        return "json"
    if suffix in _TORCH_SUFFIXES and tail.endswith(b"."):  # how pickles end that are too old to state theirs
        return "torch"
    return None


def _is_text(head: bytes) -> bool:
    return bool(head.strip()) and b"\0" not in head


def _holds_pickle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[-1] == "data.pkl" for name in archive.namelist())
    except zipfile.BadZipFile:
        return True  # damaged; the reader will say so


def _what_it_is(path: Path) -> str:
    """Say what a file is that is none of ours."""
    head, _, size = _ends(path)
    if not size:
        return "it is empty; fetch it again"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the weights themselves; fetch them with `git lfs pull`"
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "it is a web page, so the download went wrong; fetch the checkpoint again"
    if head[257:262] == b"ustar" or head.startswith(ZIP_MAGIC):
        return "it is an archive of other files; unpack it and give the folder"
    return "its format is not known; a PyTorch, safetensors, HDF5 or TensorFlow checkpoint, YAML or JSON was expected"


# The readers, each from a path to (tensors, metadata).

Read = tuple[dict[str, Tensor], Any]


def _read_safetensors(path: Path) -> Read:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def _read_torch(path: Path) -> Read:
    tree = read_torch(path)
    tensors: dict[str, Tensor] = {}
    for name, tensor in _flattened(tree, (), set()):
        if name in tensors:
            raise CheckpointError(f"two of its tensors have the name {printable(name)}; it is damaged or forged")
        tensors[name] = tensor
    return tensors, tree


def _flattened(value: Any, keys: tuple[str, ...], seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors below `value` and their dotted names; each foreign object is entered once."""
    if isinstance(value, Tensor):
        yield ".".join(keys), value
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc" and value.dtype.itemsize <= 16:
        yield ".".join(keys), torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C"))
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _flattened(child, (*keys, str(key)), seen)
    elif isinstance(value, list | tuple):
        for index, child in enumerate(value):
            yield from _flattened(child, (*keys, str(index)), seen)
    elif isinstance(value, ForeignObject) and id(value) not in seen:
        seen.add(id(value))
        for part in (_module_state(value.state), value.entries, value.elements):
            yield from _flattened(part, keys, seen)
        yield from _flattened(value.args, (*keys, "args"), seen)
        yield from _flattened(value.kwargs, (*keys, "kwargs"), seen)


def _module_state(state: Any) -> Any:
    """Reduce the attributes of a PyTorch module to what its ``state_dict()`` holds; pass on any others."""
    match state:
        case {"_parameters": dict(parameters), "_buffers": dict(buffers), "_modules": dict(modules)}:
            passing = state.get("_non_persistent_buffers_set")
            passing = passing if isinstance(passing, set) else set()
            kept = {name: buffer for name, buffer in buffers.items() if name not in passing}
            return {**parameters, **kept, **modules}
    return state


def _read_tensorflow(path: Path) -> Read:
    return {name: torch.from_numpy(array) for name, array in read_tensor_bundle(path).items()}, None


def _read_hdf5(path: Path) -> Read:
    from .hdf5 import read_hdf5  # few checkpoints need the library behind it

    arrays, attributes = read_hdf5(path)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}, attributes


def _text(path: Path) -> str:
    if path.stat().st_size > _MAX_TEXT_BYTES:
        raise CheckpointError(f"it is a text of more than {_MAX_TEXT_BYTES >> 20} MiB; a configuration is short")
    return path.read_text(encoding="utf-8-sig")


def _read_json(path: Path) -> Read:
    try:
        document = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"it is not valid JSON ({printable(error)}); correct it") from error
    except RecursionError as error:
        raise CheckpointError("its JSON is nested deeper than any configuration; correct it") from error
    require_finite_tree(document)
    return {}, document


class _Loader(yaml.SafeLoader):
    """YAML's plain types, and tuples as Python programs write them; bounded work."""

    merged_keys = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # Merging merged mappings doubles their keys at each level, out of a text of a few lines.
        self.merged_keys += len(node.value)
        if self.merged_keys > _MAX_MERGED_KEYS:
            raise CheckpointError(f"its merge keys (<<) make more than {_MAX_MERGED_KEYS} entries; write them out")
        super().flatten_mapping(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if not all(isinstance(key, yaml.ScalarNode) for key, _ in node.value):
            raise CheckpointError("it has a list or a mapping for a key; a plain word was expected: correct it")
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _python_tuple(loader: _Loader, node: yaml.Node) -> tuple[Any, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise CheckpointError("it has a !!python/tuple that is not a list; correct it")
    return tuple(loader.construct_sequence(node, deep=True))


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _python_tuple)


def _read_yaml(path: Path) -> Read:
    try:
        document = yaml.load(_text(path), Loader=_Loader)  # noqa: S506 (it is a SafeLoader)
    except yaml.constructor.ConstructorError as error:
        problem = printable(error.problem)
        raise CheckpointError(f"it asks for more than plain data ({problem}); remove that") from error
    except yaml.YAMLError as error:
        raise CheckpointError(f"it is not valid YAML ({printable(error)}); correct it") from error
    except RecursionError as error:
        raise CheckpointError("its YAML is nested deeper than any configuration; correct it") from error
    require_finite_tree(document)
    return {}, document


_READERS: dict[Kind, Callable[[Path], Read]] = {
    "safetensors": _read_safetensors,
    "torch": _read_torch,
    "tensorflow": _read_tensorflow,
    "hdf5": _read_hdf5,
    "yaml": _read_yaml,
    "json": _read_json,
}
