"""Reads the tensors of an HDF5 file as nnabla (``save_parameters``) and h5py write them: groups of plain datasets.

HDF5 is a file system in a file, with mounts and plugins: a link or a dataset can name another file, a filter can
load a library, a group can contain itself, and a name can ask for terabytes that were never stored. What a
checkpoint needs of all that is little, so only that little is read: groups reached by hard links, and datasets of
numbers stored in one piece, which rules the rest out before the library looks at any contents. Checks come in the
order in which the library would act: of a dataset the layout is looked at before its shape, since merely asking
a virtual dataset for its shape opens the files behind it.

Source of the facts: the HDF5 File Format Specification 3.0 (The HDF Group), and h5py's low-level interface.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5s, h5t
from numpy.typing import NDArray

from ..errors import CheckpointError
from .guards import Allowance, explaining, printable

Attributes = dict[str, int | float | bool]

_MAX_LINKS = 100_000
_MAX_DEPTH = 100
_MAX_NAME_BYTES = 1000
_MAX_ATTRIBUTES = 100
_NUMBERS = frozenset({h5t.INTEGER, h5t.FLOAT, h5t.ENUM})  # h5py keeps truth values as an enumeration
_LAYOUTS = frozenset({h5d.CONTIGUOUS, h5d.COMPACT})


def read_hdf5(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Attributes]]:
    """Read every tensor of a file. No other file is opened, whatever this one says.

    Args:
        path: the file, not compressed by gzip.

    Returns:
        The tensors by the names of their groups and their own, joined by slashes (``vocals/conv/W``); writable,
        in this machine's byte order; and, for those that have any, their attributes that are single numbers or
        truth values (nnabla: ``index``, ``need_grad``).

    Raises:
        CheckpointError: the file is damaged, or holds anything but groups and plain arrays of numbers: links,
            other files' data, compressed or scattered storage, text, references, tables.

    """
    with explaining(path), _opened(path) as file:
        allowance = Allowance(path.stat().st_size)
        tensors: dict[str, NDArray[Any]] = {}
        attributes: dict[str, Attributes] = {}
        for name, dataset in _datasets(file.id, allowance):
            tensors[name] = _tensor(name, dataset, path.stat().st_size, allowance)
            if found := _attributes(dataset):
                attributes[name] = found
        return tensors, attributes


def _opened(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        if error.errno is not None:
            raise
        raise CheckpointError(f"its HDF5 is damaged or cut short ({printable(error)}); fetch it again") from error


def _datasets(file: h5g.GroupID, allowance: Allowance) -> Iterator[tuple[str, h5d.DatasetID]]:
    """Yield every dataset and its full name, group by group; each group is entered once."""
    root = h5g.open(file, b"/")
    waiting = [("", root)]
    entered = {h5o.get_info(root).addr}
    seen = 0
    while waiting:
        prefix, group = waiting.pop()
        for link in _names(group, _MAX_LINKS - seen):
            seen += 1
            name = prefix + _checked_name(prefix, link)
            allowance.claim(len(name))
            kind = group.links.get_info(link).type
            if kind != h5l.TYPE_HARD:
                what = "another file" if kind == h5l.TYPE_EXTERNAL else "another place"
                raise CheckpointError(f"{printable(name)} is a link to {what}, and tensors themselves were expected")
            item = h5o.open(group, link)
            if isinstance(item, h5d.DatasetID):
                yield name, item
            elif isinstance(item, h5g.GroupID):
                address = h5o.get_info(item).addr
                if address in entered or name.count("/") >= _MAX_DEPTH:
                    raise CheckpointError(f"its group {printable(name)} is reached by two ways or nested without end")
                entered.add(address)
                waiting.append((f"{name}/", item))
            else:
                raise CheckpointError(f"{printable(name)} is neither a group nor a tensor; it is no checkpoint")


def _names(group: h5g.GroupID, limit: int) -> list[bytes]:
    """The names of a group's links; at most `limit` are listed before the file is refused."""
    names: list[bytes] = []

    def keep(name: bytes) -> bool | None:
        names.append(name)
        return True if len(names) > limit else None  # anything but None ends the listing

    group.links.iterate(keep)
    if len(names) > limit:
        raise CheckpointError(f"it holds more than {_MAX_LINKS} groups and tensors, as no checkpoint does")
    return names


def _checked_name(prefix: str, link: bytes) -> str:
    """Decode a link's name; one that the library would take for a path could lead through a link."""
    if b"/" in link or link in (b"", b".") or len(link) > _MAX_NAME_BYTES:
        raise CheckpointError(f"a name in its group {printable(prefix) or '/'} is no name; it is damaged or forged")
    return link.decode("utf-8")


def _tensor(name: str, dataset: h5d.DatasetID, file_bytes: int, allowance: Allowance) -> NDArray[Any]:
    """Read a dataset that has proved to be one piece of numbers within this file."""
    shown = printable(name)
    storage = dataset.get_create_plist()
    if storage.get_layout() not in _LAYOUTS:
        what = "is compressed, scattered or virtual, and must be stored in one piece"
        raise CheckpointError(f"{shown} {what}; rewrite the file with `h5repack -l CONTI`")
    if storage.get_external_count():
        raise CheckpointError(f"{shown} is kept in another file, and must be in this one")
    dtype = _dtype(shown, dataset.get_type())
    space = dataset.get_space()
    if space.get_simple_extent_type() == h5s.NULL:
        raise CheckpointError(f"{shown} is declared without a shape, and an array of numbers was expected")
    size_bytes = int(np.prod(space.shape, dtype=object)) * dtype.itemsize
    stored_bytes = dataset.get_storage_size()
    if not size_bytes <= stored_bytes <= file_bytes or (dataset.get_offset() or 0) + stored_bytes > file_bytes:
        raise CheckpointError(
            f"{shown} is declared to be of {size_bytes} bytes, which the file does not hold; it is cut short or forged"
        )
    allowance.claim(size_bytes)
    tensor = np.empty(space.shape, dtype)
    dataset.read(h5s.ALL, h5s.ALL, tensor)
    return tensor.astype(dtype.newbyteorder("="), copy=False)


def _dtype(shown: str, stored: h5t.TypeID) -> np.dtype[Any]:
    """The NumPy type of a dataset of numbers that PyTorch knows too."""
    if stored.get_class() in _NUMBERS:
        dtype: np.dtype[Any] = np.dtype(stored.dtype)
        if dtype.kind in "biuf" and dtype.itemsize <= 8:
            return dtype
    raise CheckpointError(f"{shown} is not an array of numbers of at most 64 bits; a checkpoint holds nothing else")


def _attributes(dataset: h5d.DatasetID) -> Attributes:
    """The attributes that are one number or truth value each; nothing else is read."""
    found: Attributes = {}
    for index in range(min(h5a.get_num_attrs(dataset), _MAX_ATTRIBUTES)):
        attribute = h5a.open(dataset, index=index)
        scalar = attribute.get_space().get_simple_extent_type() == h5s.SCALAR
        if scalar and attribute.get_type().get_class() in _NUMBERS:
            value = np.empty((), attribute.dtype)
            attribute.read(value)
            found[attribute.name.decode("utf-8")] = value.item()
    return found
