"""The values that a pickle may ask for by name: plain collections, tensors of PyTorch, arrays of NumPy.

Each builder checks its arguments before it makes anything of them, claims the memory that it takes, and calls
nothing that the pickle chose.

Sources of the facts: ``torch/_utils.py`` of PyTorch 2.13 (the arguments of ``_rebuild_*``) and
``numpy/_core/src/multiarray/methods.c`` of NumPy 2 (the state of arrays and dtypes).
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import CheckpointError
from .guards import printable
from .pickle_machine import Builder, ForeignClass, ForeignObject, Machine, as_key, of_type

BUILDERS: dict[str, Builder] = {}
"""What answers calls in a checkpoint, by the dotted path of what is called."""

_MAX_AXES = 64  # of NumPy, and as many as PyTorch's kernels take

# Dtypes without a storage class of their own, which arrive through _rebuild_tensor_v3 over untyped bytes.
_NAMED_DTYPES = {
    name: getattr(torch, name)
    for name in (
        *(
            "float64",
            "float32",
            "float16",
            "bfloat16",
            "float8_e4m3fn",
            "float8_e5m2",
            "complex64",
            "complex128",
        ),
        *("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool"),
    )
    if hasattr(torch, name)
}


def natural(value: object, what: str) -> int:
    """Return `value` if it can be a size or an offset; raise `CheckpointError` otherwise."""
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise CheckpointError(f"{what} should be a whole number, but is {printable(value)}; the file is damaged")
    return value


def _builds(*paths: str) -> Callable[[Builder], Builder]:
    """Register a function (machine, args) -> value as the answer to calls of `paths`."""

    def register(builder: Builder) -> Builder:
        BUILDERS.update(dict.fromkeys(paths, builder))
        return builder

    return register


@_builds("collections.OrderedDict", "collections.Counter", "builtins.dict", "__builtin__.dict")
def _dictionary(machine: Machine, args: tuple[Any, ...]) -> dict[Any, Any]:
    pairs = args[0] if args else []
    if isinstance(pairs, dict):
        pairs = list(pairs.items())
    machine.claim(64 * len(of_type(pairs, list, tuple)))
    return OrderedDict((as_key(key), value) for key, value in pairs)


@_builds("collections.defaultdict")
def _default_dictionary(_machine: Machine, _args: tuple[Any, ...]) -> dict[Any, Any]:
    return {}


@_builds("builtins.set", "__builtin__.set")
def _set(machine: Machine, args: tuple[Any, ...]) -> set[Any]:
    return {as_key(value) for value in _items(machine, args)}


@_builds("builtins.frozenset", "__builtin__.frozenset")
def _frozenset(machine: Machine, args: tuple[Any, ...]) -> frozenset[Any]:
    return frozenset(as_key(value) for value in _items(machine, args))


@_builds("builtins.list", "__builtin__.list")
def _list(machine: Machine, args: tuple[Any, ...]) -> list[Any]:
    return list(_items(machine, args))


@_builds("builtins.tuple", "__builtin__.tuple", "torch.Size")
def _tuple(machine: Machine, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_items(machine, args))


def _items(machine: Machine, args: tuple[Any, ...]) -> Any:
    values = of_type(args[0], list, tuple, set, frozenset) if args else ()
    machine.claim(64 * len(values))
    return values


@_builds("_codecs.encode", "codecs.encode")
def _encode(machine: Machine, args: tuple[Any, ...]) -> bytes:
    """How protocols before 3 write bytes."""
    text = of_type(args[0], str)
    encoding = args[1] if len(args) > 1 else "utf-8"
    if encoding not in ("latin1", "latin-1", "utf-8", "utf8", "ascii"):
        raise CheckpointError(
            f"it encodes text as {printable(encoding)}, as no checkpoint does; it is damaged or forged"
        )
    machine.claim(len(text))
    return cast("str", text).encode(encoding)


@_builds("builtins.bytes", "__builtin__.bytes")
def _bytes(machine: Machine, args: tuple[Any, ...]) -> bytes:
    if len(args) == 2:
        return cast("bytes", _encode(machine, args))
    value = of_type(args[0], bytes, bytearray) if args else b""  # not an int, which would set aside so many
    machine.claim(len(value))
    return bytes(value)


@_builds("builtins.bytearray", "__builtin__.bytearray")
def _bytearray(machine: Machine, args: tuple[Any, ...]) -> bytearray:
    return bytearray(_bytes(machine, args))


@_builds("builtins.complex", "__builtin__.complex")
def _complex(_machine: Machine, args: tuple[Any, ...]) -> complex:
    return complex(*(of_type(part, int, float) for part in args))


@_builds("torch.torch_version.TorchVersion", "torch.device")
def _text(machine: Machine, args: tuple[Any, ...]) -> str:
    text = str(of_type(args[0], str))
    machine.claim(len(text))
    return f"{text}:{natural(args[1], 'the number of a device')}" if len(args) > 1 else text


@_builds("copyreg._reconstructor", "copy_reg._reconstructor")
def _reconstructor(machine: Machine, args: tuple[Any, ...]) -> Any:
    """How protocols before 2 write any object: its class, its base, and what the base is made from."""
    base_value = () if args[2] is None else (args[2],)
    return machine.call(args[0], base_value)


@_builds("copyreg.__newobj__", "copy_reg.__newobj__")
def _new_object(machine: Machine, args: tuple[Any, ...]) -> Any:
    machine.claim(8 * len(args))  # it may name itself again, and so on
    return machine.call(args[0], args[1:])


@_builds("copyreg.__newobj_ex__")
def _new_object_with_keywords(machine: Machine, args: tuple[Any, ...]) -> Any:
    return machine.call(args[0], of_type(args[1], tuple), of_type(args[2], dict))


def _expand(machine: Machine, layout: tuple[Any, ...], dtype: torch.dtype | None = None) -> Tensor:
    """Return a view of `storage`, after making sure that it stays inside."""
    storage, offset, size, stride = layout
    of_type(storage, Tensor)
    if dtype is not None:
        storage = storage.view(dtype)
    if max(len(of_type(size, tuple, list)), len(of_type(stride, tuple, list))) > _MAX_AXES:
        raise CheckpointError(
            f"a tensor inside it has more than {_MAX_AXES} axes, as none has; it is damaged or forged"
        )
    start = natural(offset, "the offset of a tensor")
    shape = [natural(length, "the length of a tensor's axis") for length in size]
    steps = [natural(step, "the stride of a tensor") for step in stride]
    if storage.dim() != 1 or not storage.is_contiguous() or len(shape) != len(steps):
        raise CheckpointError("a tensor inside it has a layout that does not make sense; it is damaged: fetch it again")
    count = math.prod(shape)
    last = start + sum((length - 1) * step for length, step in zip(shape, steps, strict=True))
    if count and last >= storage.numel():
        raise CheckpointError("a tensor inside it reaches past the end of its data; it is damaged: fetch it again")
    if count > storage.numel():  # an axis of stride 0 costs nothing now, but everything once it is copied
        machine.claim(count * storage.element_size())
    return torch.as_strided(storage, shape, steps, storage.storage_offset() + start)


def _refuse_lazy(metadata: Any) -> None:
    if metadata:
        raise CheckpointError("a tensor inside it is marked as conjugated or negated; save it again after .clone()")


@_builds("torch._utils._rebuild_tensor")
def _tensor_v1(machine: Machine, args: tuple[Any, ...]) -> Tensor:
    return _expand(machine, args)


@_builds("torch._utils._rebuild_tensor_v2")
def _tensor_v2(machine: Machine, args: tuple[Any, ...]) -> Tensor:
    _requires_grad, _hooks, *metadata = args[4:]
    _refuse_lazy(any(metadata))
    return _expand(machine, args[:4])


@_builds("torch._utils._rebuild_tensor_v3")
def _tensor_v3(machine: Machine, args: tuple[Any, ...]) -> Tensor:
    _requires_grad, _hooks, dtype, *metadata = args[4:]
    _refuse_lazy(any(metadata))
    if of_type(dtype, ForeignClass).module != "torch" or dtype.name not in _NAMED_DTYPES:
        raise CheckpointError(f"it holds numbers of type {printable(dtype.path)}, which is not read here")
    return _expand(machine, args[:4], _NAMED_DTYPES[dtype.name])


@_builds(
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch.nn.parameter.Parameter",
)
def _parameter(_machine: Machine, args: tuple[Any, ...]) -> Tensor:
    return cast(Tensor, of_type(args[0], Tensor))


@_builds("torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type")
def _typed_tensor(machine: Machine, args: tuple[Any, ...]) -> Any:
    rebuild, _subclass, rebuild_args, *_ = args
    return machine.call(rebuild, of_type(rebuild_args, tuple))


# NumPy 2 renamed its private modules, and both names are in the wild.
def _numpy_private(name: str) -> tuple[str, str]:
    return f"numpy.core.{name}", f"numpy._core.{name}"


@_builds(*_numpy_private("multiarray._reconstruct"))
def _empty_array(_machine: Machine, _args: tuple[Any, ...]) -> NDArray[Any]:
    return np.empty(0, dtype=np.uint8)  # BUILD gives it type, shape and values


@_builds(*_numpy_private("numeric._frombuffer"))
def _array_from_buffer(machine: Machine, args: tuple[Any, ...]) -> NDArray[Any]:
    data, dtype, shape, order = args
    state = (1, shape, dtype, order == "F", of_type(data, bytes, bytearray))
    return cast("NDArray[Any]", _restored_array(machine, (np.empty(0, dtype=np.uint8), state)))


@_builds(*_numpy_private("multiarray.scalar"))
def _scalar(machine: Machine, args: tuple[Any, ...]) -> Any:
    dtype = _numpy_dtype(args[0])
    data = _text_as_bytes(args[1])
    if len(data) != dtype.itemsize:
        raise CheckpointError("a number inside it has the wrong width; it is damaged: fetch it again")
    machine.claim(len(data))  # it may be text of any width
    return np.frombuffer(data, dtype=dtype)[0].item()


def _text_as_bytes(data: Any) -> bytes:
    """Python 2 had no bytes: its raw data may have been taken for text."""
    return data.encode() if isinstance(data, str) else bytes(of_type(data, bytes, bytearray))


def _numpy_dtype(described: Any) -> np.dtype[Any]:
    """Return the type that a stand-in for ``numpy.dtype`` describes: numbers, or text of fixed width."""
    match described:
        case ForeignObject(module="numpy", name="dtype", args=(str(code), *_), state=state):
            order = state[1] if isinstance(state, tuple) and len(state) > 1 else "|"
            if re.fullmatch(r"[biufc](1|2|4|8|16)|[SU][1-9]\d{0,5}", code) and order in ("<", ">", "=", "|"):
                return np.dtype(order + code)
            raise CheckpointError(f"it holds an array of type {printable(code)}, where numbers were expected")
    raise CheckpointError("it holds an array without a type; it is damaged: fetch it again")


@_builds("numpy.ndarray.__setstate__")
def _restored_array(machine: Machine, args: tuple[Any, ...]) -> NDArray[Any]:
    """Give an array, in place, the shape and values in the state of a pickled array."""
    array, state = of_type(args[0], np.ndarray), args[1]
    shape, described, by_columns, data = of_type(state, tuple)[-4:]
    dtype = _numpy_dtype(described)
    if len(of_type(shape, tuple)) > _MAX_AXES:
        raise CheckpointError(
            f"an array inside it has more than {_MAX_AXES} axes, as none has; it is damaged or forged"
        )
    lengths = tuple(natural(length, "the length of an array's axis") for length in shape)
    octets = _text_as_bytes(data)
    if len(octets) != math.prod(lengths) * dtype.itemsize:
        raise CheckpointError("an array inside it does not have as many values as its shape says; fetch it again")
    machine.claim(len(octets))
    array.__setstate__((1, lengths, dtype, bool(by_columns), octets))
    array.flags.writeable = False  # it lies in `octets`, and Python shares short bytes objects between all users
    return cast("NDArray[Any]", array)
