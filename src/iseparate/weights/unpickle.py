"""Reads the checkpoints of PyTorch without running anything that they ask for.

A checkpoint is a pickle that describes tensors, and the blocks of memory that the tensors are views of, in
one of two containers: a zip archive, or one stream. `pickle_machine` runs the pickle.

``torch.load`` is not used: with ``weights_only=True`` it refuses the class objects that most published music
separation checkpoints hold, and without it the standard unpickler lets BUILD reach into whatever a restricted
``find_class`` lets through, trusts declared sizes, and hands TorchScript archives to native code.

Source of the facts: ``torch/serialization.py`` of PyTorch 2.13 (containers and persistent ids).
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import CheckpointError
from .guards import Allowance, explaining, printable, require_finite_tree, uncompressed
from .pickle_builders import BUILDERS, natural
from .pickle_machine import ForeignClass, ForeignObject, Machine, of_type

__all__ = ["ForeignClass", "ForeignObject", "load_torch"]

ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_NESTED_FILES = 2
_DECOMPRESSED_BYTES = 1 << 20

_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "UntypedStorage": torch.uint8,
}


def load_torch(path: Path) -> Any:
    """Read a file written by ``torch.save`` (either container), or a plain pickle; also inside gzip.

    Args:
        path: the file; its name is of no importance.

    Returns:
        What was saved, in these types only: None, bool, int, float, complex, str, bytes, bytearray, list,
        tuple, dict, `OrderedDict`, set, frozenset, `torch.Tensor` on the CPU (tensors that shared a storage
        still do), ``numpy.ndarray`` of numbers or text, and `ForeignClass` and `ForeignObject` for all the
        rest. A state that is a whole file again, compressed (``{"compressed": bytes}``, as Demucs writes quantised
        weights), is what that file holds. Subclasses of dict from ``collections`` come as dict, ``torch.Size`` as
        tuple, ``torch.device`` and ``TorchVersion`` as str, NumPy scalars as Python numbers, parameters as tensors;
        arrays are read-only and in native byte order. ``requires_grad``, hooks and the ``_metadata`` attribute of
        state dicts are dropped. The plain containers form a finite tree.

    Raises:
        UnsafeCheckpointError: it asks for a dangerous function, or for a call that no checkpoint needs.
        CheckpointError: it is missing, damaged, a program rather than data, or larger inside than outside.

    """
    with explaining(path), uncompressed(path) as plain:
        return read_torch(plain)


def read_torch(plain: Path) -> Any:
    """Do what `load_torch` does, on a file outside gzip, within `explaining`."""
    allowance = Allowance(plain.stat().st_size)
    with plain.open("rb") as file:
        head = file.read(len(ZIP_MAGIC))
    if not head:
        raise CheckpointError("it is empty; fetch it again")
    if head == ZIP_MAGIC:
        result = _load_zip(plain, allowance)
    else:
        with _BoundedFile(plain) as stream:
            result = _load_stream(stream, stream.size_bytes, allowance, nesting=0)
    require_finite_tree(result)
    if _is_compressed(result):
        result = _decompressed(result["compressed"], allowance)
    elif isinstance(result, dict) and _is_compressed(result.get("state")):
        result["state"] = _decompressed(result["state"]["compressed"], allowance)
    return result


def _is_compressed(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == ["compressed"] and isinstance(value["compressed"], bytes)


def _decompressed(packed: bytes, allowance: Allowance) -> Any:
    """Read a file of PyTorch that lies in another one, compressed by zlib."""
    inflate = zlib.decompressobj()
    unpacked = io.BytesIO()
    try:
        while not inflate.eof:
            block = inflate.decompress(packed, _DECOMPRESSED_BYTES)
            if not block and not inflate.unconsumed_tail and not inflate.eof:
                raise CheckpointError("its compressed weights are cut short; fetch it again")
            allowance.claim(len(block))
            unpacked.write(block)
            packed = inflate.unconsumed_tail
    except zlib.error as error:
        raise CheckpointError(f"its compressed weights are damaged ({printable(error)}); fetch it again") from error
    size_bytes = unpacked.tell()
    unpacked.seek(0)
    if unpacked.getbuffer()[: len(ZIP_MAGIC)] == ZIP_MAGIC:
        inner = _load_zip(unpacked, allowance)
    else:
        inner = _load_stream(unpacked, size_bytes, allowance, nesting=1)
    require_finite_tree(inner)
    return inner


class _Storages:
    """The blocks of memory that the tensors of one file are views of: flat tensors, by key."""

    def __init__(self, allowance: Allowance):
        self.allowance = allowance
        self.blocks: dict[str, Tensor] = {}

    def persistent_load(self, persistent_id: Any) -> Any:
        """Return the storage that a persistent id stands for, as a 1-D tensor."""
        match persistent_id:
            case ("storage", ForeignClass(name=str(type_name)), str(key), _, declared, *view):
                return self._storage(type_name, key, natural(declared, "the size of a storage"), view)
            case ("module", ForeignClass() as named, *_):  # with its source code, which is of no interest
                return named
        raise CheckpointError("it refers to outside data in a way that PyTorch does not; it is damaged or forged")

    def _storage(self, type_name: str, key: str, declared: int, view: list[Any]) -> Tensor:
        dtype = _STORAGE_DTYPES.get(type_name)
        if dtype is None:
            raise CheckpointError(f"it holds numbers of type {printable(type_name)}, which is not read here")
        if key not in self.blocks:
            self.blocks[key] = self.allocate(key, declared * dtype.itemsize, dtype.itemsize)
        block = self.blocks[key]
        if block.numel() != declared * dtype.itemsize:
            raise CheckpointError(f"storage {printable(key)} is declared twice with different sizes")
        storage = block.view(dtype)
        match view:
            case [] | [None]:
                return storage
            case [(str(), offset, size)]:
                start, length = natural(offset, "the start of a view"), natural(size, "the size of a view")
                if start + length > storage.numel():
                    raise CheckpointError(f"a view of storage {printable(key)} reaches past its end")
                return storage[start : start + length]
        raise CheckpointError(f"the view of storage {printable(key)} is not one; the file is damaged")

    def allocate(self, key: str, size_bytes: int, item_bytes: int) -> Tensor:  # noqa: ARG002
        """Return a flat tensor of uint8 for the storage `key`."""
        raise CheckpointError("it refers to data outside itself, which a plain pickle cannot; it is damaged")


class _ZipStorages(_Storages):
    """Each storage is a member of the archive and is read at once."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str, allowance: Allowance):
        super().__init__(allowance)
        self._archive = archive
        self._prefix = prefix

    def allocate(self, key: str, size_bytes: int, item_bytes: int) -> Tensor:  # noqa: ARG002
        member = f"{self._prefix}data/{key}"
        info = _member_info(self._archive, member)
        if info.file_size != size_bytes:
            raise CheckpointError(
                f"storage {printable(key)} has {info.file_size} bytes where {size_bytes} were declared; "
                "it is damaged: fetch it again"
            )
        self.allowance.claim(size_bytes)
        block = torch.empty(size_bytes, dtype=torch.uint8)
        with self._archive.open(info) as file:
            _fill(block, file)
            file.read(1)  # at the end the checksum is verified
        return block


class _StreamStorages(_Storages):
    """The storages follow the pickle that refers to them; the blocks are filled when it has been read."""

    def __init__(self, file_bytes: int, allowance: Allowance):
        super().__init__(allowance)
        self._left_bytes = file_bytes
        self._item_bytes: dict[str, int] = {}

    def allocate(self, key: str, size_bytes: int, item_bytes: int) -> Tensor:
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise CheckpointError("it declares more data than it holds; it is cut short: fetch it again")
        self._item_bytes[key] = item_bytes
        return torch.empty(size_bytes, dtype=torch.uint8)

    def fill(self, keys: Any, file: BinaryIO) -> None:
        """Read the storages `keys` in the order of the file."""
        if not isinstance(keys, list) or set(map(type, keys)) - {str} or sorted(keys) != sorted(self.blocks):
            raise CheckpointError("its list of storages does not match its tensors; it is damaged: fetch it again")
        for key in keys:
            block = self.blocks[key]
            count = file.read(8)
            if len(count) < 8 or struct.unpack("<q", count)[0] * self._item_bytes[key] != block.numel():
                raise CheckpointError(f"storage {printable(key)} is cut short or damaged; fetch it again")
            _fill(block, file)


def _fill(block: Tensor, file: Any) -> None:
    view = block.numpy().data
    while view:
        count = file.readinto(view)
        if not count:
            raise CheckpointError("it is cut short; fetch it again")
        view = view[count:]


class _BoundedFile(io.BufferedReader):
    """A file whose `read` never sets aside more memory than the file has bytes, whatever is asked for."""

    def __init__(self, path: Path):
        super().__init__(io.FileIO(path))
        self.size_bytes = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self.size_bytes if size is None or size < 0 else min(size, self.size_bytes))


def _member_info(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise CheckpointError(f"its member {printable(name)} is missing; fetch it again") from None
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise CheckpointError("it is compressed by a method that PyTorch does not use; repack it as a plain zip")
    return info


def _load_zip(path: Path | BinaryIO, allowance: Allowance) -> Any:
    """Read the container of PyTorch 1.6 and later: ``<name>/data.pkl``, ``<name>/data/<key>``."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError("this zip archive was not written by torch.save; a PyTorch checkpoint was expected")
        prefix = pickles[0].removesuffix("data.pkl")
        if f"{prefix}constants.pkl" in names or any(name.startswith(f"{prefix}code/") for name in names):
            raise CheckpointError(
                "it is a TorchScript program, and programs are not run here; give the checkpoint that it was made from"
            )
        if f"{prefix}byteorder" in names:
            with archive.open(_member_info(archive, f"{prefix}byteorder")) as file:
                _require_little_endian(file.read(16) == b"little")
        info = _member_info(archive, pickles[0])
        allowance.claim(info.file_size)
        program = io.BytesIO(archive.read(info))
        return _machine(program, _ZipStorages(archive, prefix, allowance), nesting=0).run()


def _load_stream(file: BinaryIO, size_bytes: int, allowance: Allowance, nesting: int) -> Any:
    """Read the container before PyTorch 1.6, pickles and then storages in one stream; or a plain pickle."""
    first = _machine(file, _Storages(allowance), nesting).run()
    if type(first) is not int or first != _LEGACY_MAGIC:
        return first
    storages = _StreamStorages(size_bytes, allowance)
    version = _machine(file, storages, nesting).run()
    if type(version) is not int or version != _LEGACY_PROTOCOL:
        raise CheckpointError(f"its format has version {printable(version)}, but only {_LEGACY_PROTOCOL} is known")
    system = _machine(file, storages, nesting).run()
    _require_little_endian(isinstance(system, dict) and system.get("little_endian") is True)
    result = _machine(file, storages, nesting).run()
    storages.fill(_machine(file, _Storages(allowance), nesting).run(), file)
    return result


def _machine(file: BinaryIO, storages: _Storages, nesting: int) -> Machine:
    def storage_from_bytes(machine: Machine, args: tuple[Any, ...]) -> Any:
        """How a pickler that is not PyTorch's writes a storage: as a whole file in the container of old."""
        inner = of_type(args[0], bytes, bytearray)
        machine.claim(len(inner))
        if nesting >= _MAX_NESTED_FILES:
            raise CheckpointError("it holds files within files within files, as no checkpoint does")
        return _load_stream(io.BytesIO(inner), len(inner), storages.allowance, nesting + 1)

    builders = {**BUILDERS, "torch.storage._load_from_bytes": storage_from_bytes}
    return Machine(file, builders, storages.persistent_load, storages.allowance.claim)


def _require_little_endian(holds: bool) -> None:
    if not holds:
        raise CheckpointError("it was written on a big-endian machine; save it again on a common one")
