"""A machine that runs the program in a pickle without ever calling what the program names.

A pickle is a program for a small stack machine, and one of its instructions calls any function of any module.
The machine here has no such instruction: a named class or function becomes a `ForeignClass`, the call of
one becomes a `ForeignObject`, and only the names in the table of builders that the machine is given are
answered with a value. Names that no checkpoint calls and every attack does (``os.system``,
``eval``) are refused aloud.

Source of the facts: the documentation of opcodes in the standard library's ``pickletools``, whose `genops`
decodes them here.
"""

from __future__ import annotations

import pickletools
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from torch import Tensor

from ..errors import CheckpointError, UnsafeCheckpointError
from .guards import printable

_MAX_OPCODES = 2_000_000
_MAX_NAME = 1000
_OBJECT_BYTES = 512  # about what Python takes for an object with attributes, or for a tensor without its data

# Calls of these are refused aloud rather than left inert: there is no honest reason for one in a checkpoint,
# and whoever is handed such a file should hear of it. Safety does not rest on this list.
_DANGEROUS = re.compile(
    r"""
    (os | posix | nt | subprocess | commands | popen2 | sys | shutil | pty | socket | ctypes | _ctypes
    | importlib | imp | runpy | code | codeop | marshal | pickle | _pickle | cPickle | dill | cloudpickle
    | webbrowser | urllib | urllib2 | requests | pip | ensurepip | venv | bdb | pdb | timeit | cProfile
    ) \. .*
    | (builtins | __builtin__) \. (eval | exec | execfile | compile | open | file | input | raw_input | apply
    | __import__ | breakpoint | globals | locals | vars | setattr | delattr | reload)
    | (types | new) \. (CodeType | FunctionType | code | function)
    | (io | _io | codecs) \. (open | open_code | FileIO)
    | operator \. methodcaller
    | torch \. (load | jit \. .* | hub \. .* | serialization \. load | utils \. cpp_extension \. .*)
    | numpy \. (load | testing \. .*)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(eq=False)
class ForeignClass:
    """The name of a class or function that a pickle refers to. It was not imported and cannot be called."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """Module and name joined by a dot."""
        return f"{self.module}.{self.name}"

    def __repr__(self) -> str:
        return f"<ForeignClass {printable(self.path)}>"


@dataclass(eq=False)
class ForeignObject:
    """What a pickle says of an object whose class is not known here; nothing of that class was run.

    For ``Fraction(39, 5)``: module ``fractions``, name ``Fraction``, args ``("39/5",)``. For an
    ``argparse.Namespace`` or a module of PyTorch `state` is the ``dict`` of its attributes; in general it is
    whatever the class would have been given to restore itself from. `elements` and `entries` are what was
    appended to it and set in it, if the class is a list or a dict underneath.
    """

    module: str
    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    state: Any = None
    elements: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Module and name of the class joined by a dot."""
        return f"{self.module}.{self.name}"

    def parts(self) -> list[Any]:
        """Everything it holds."""
        return [self.args, self.kwargs, self.state, self.elements, self.entries]

    def __repr__(self) -> str:
        return f"<ForeignObject {printable(self.path)}>"


Builder = Callable[["Machine", tuple[Any, ...]], Any]


def of_type(value: Any, *types: type) -> Any:
    """Return `value` if it is of one of `types`; raise `CheckpointError` otherwise."""
    if not isinstance(value, types):
        expected = " or ".join(kind.__name__ for kind in types)
        came = type(value).__name__
        raise CheckpointError(f"{expected} was expected inside it where {came} came; it is damaged: fetch it again")
    return value


def as_key(value: Any, depth: int = 0) -> Any:
    """Return `value` if it can be a key: of the numbers and tuples those that a file cannot make slow to look up.

    Tuples of shared tuples hash for ever, and of large whole numbers and complex ones as many as you like hash alike.
    """
    if isinstance(value, tuple) and depth < 3 and len(value) <= 16:
        return tuple(as_key(part, depth + 1) for part in value)
    if isinstance(value, int) and abs(value) >= 1 << 60:
        raise CheckpointError("it holds a table with a key of more than 60 bits, as no checkpoint does")
    return of_type(value, str, int, float, bytes, type(None), ForeignObject, ForeignClass)


_Mark = object()
_OUT_OF_ORDER = "its instructions are out of order; it is damaged: fetch it again"


class Machine:
    """Runs pickles from a stream, one per `run`, and leaves the stream behind the last one.

    Args:
        file: where the pickle starts; its `read` must not set aside more memory than it can fill.
        builders: what answers calls, by the dotted path of what is called: functions (machine, args) -> value
            that check their arguments.
        persistent_load: answers references to data outside the pickle.
        claim: told of memory, in bytes, before a builder takes it.

    """

    def __init__(
        self,
        file: BinaryIO,
        builders: Mapping[str, Builder],
        persistent_load: Callable[[Any], Any],
        claim: Callable[[int], None],
    ):
        self._file = file
        self._builders = builders
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self.persistent_load = persistent_load
        self.claim = claim

    def run(self) -> Any:
        """Return the value that the pickle describes."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self._file)):
            if count > _MAX_OPCODES:
                raise CheckpointError(f"it takes more than {_MAX_OPCODES} steps to read, as no checkpoint does")
            if opcode.name in _PUSHED:
                self._stack.append(argument)
            else:
                _OPERATIONS[opcode.name](self, argument)
        return self.pop()

    def push(self, value: Any) -> None:
        """Put `value` on the stack."""
        self._stack.append(value)

    def pop(self) -> Any:
        """Take the value on top of the stack, which must not be a mark."""
        value = self.top()
        self._stack.pop()
        return value

    def top(self) -> Any:
        """Return the value on top of the stack, which must not be a mark."""
        value = self._stack[-1]
        if value is _Mark:
            raise CheckpointError(_OUT_OF_ORDER)
        return value

    def pop_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        stack = self._stack
        start = len(stack) - 1
        while start >= 0 and stack[start] is not _Mark:
            start -= 1
        if start < 0:
            raise CheckpointError(_OUT_OF_ORDER)
        values = stack[start + 1 :]
        del stack[start:]
        return values

    def drop(self) -> None:
        """Take away the top of the stack, be it a value or a mark."""
        self._stack.pop()

    def remember(self, index: int | None = None) -> None:
        """Keep the top of the stack for `recall`."""
        self._memo[len(self._memo) if index is None else index] = self.top()

    def recall(self, index: int) -> None:
        """Put the value remembered under `index` on the stack."""
        self._stack.append(self._memo[index])

    def call(self, named: Any, args: Any, kwargs: dict[str, Any] | None = None) -> Any:
        """Return what stands for the result of calling `named`; only builders are ever called."""
        if not isinstance(named, ForeignClass):
            raise UnsafeCheckpointError(
                f"it asks to call {printable(named)}, where the name of a class was expected; "
                "nothing was run: do not trust this file"
            )
        if _DANGEROUS.fullmatch(named.path):
            raise UnsafeCheckpointError(
                f"it asks to run {printable(named.path)}, where only tensors and plain data were expected; "
                "nothing was run: do not trust this file"
            )
        of_type(args, tuple)
        self.claim(_OBJECT_BYTES * (1 + len(kwargs or ())))
        if (builder := self._builders.get(named.path)) and not kwargs:
            return builder(self, args)
        if named.path.startswith(("torch._utils._rebuild_", "torch._tensor._rebuild_")):
            kind = printable(named.name.removeprefix("_rebuild_"))
            raise CheckpointError(f"it holds a tensor of a kind that is not read here ({kind}); save it densely")
        return ForeignObject(named.module, named.name, args, dict(kwargs or {}))

    def refer(self, persistent_id: Any) -> None:
        """PERSID and BINPERSID: put what lies outside the pickle on the stack."""
        self.claim(_OBJECT_BYTES)
        self.push(self.persistent_load(persistent_id))

    def build(self, state: Any) -> None:
        """BUILD: give the object on the stack its state."""
        value = self.top()
        if isinstance(value, ForeignObject):
            value.state = state
        elif isinstance(value, np.ndarray):
            self._builders["numpy.ndarray.__setstate__"](self, (value, state))
        elif not isinstance(value, dict | set | list | Tensor):  # attributes of subclasses; of no interest
            raise UnsafeCheckpointError(
                f"it asks to change {printable(value)} itself, where only data was expected; "
                "nothing was changed: do not trust this file"
            )

    def extend(self, values: list[Any]) -> None:
        """APPEND and APPENDS: add `values` at the end of the list on the stack."""
        target = self.top()
        target = target.elements if isinstance(target, ForeignObject) else target
        of_type(target, list).extend(values)

    def add(self, values: list[Any]) -> None:
        """ADDITEMS: add `values` to the set on the stack."""
        target = self.top()
        if isinstance(target, ForeignObject):
            target.elements.extend(values)
        else:
            of_type(target, set).update(map(as_key, values))

    def update(self, flat: list[Any]) -> None:
        """SETITEM and SETITEMS: enter keys and values, which come in turn, into the dict on the stack."""
        target = self.top()
        target = target.entries if isinstance(target, ForeignObject) else target
        of_type(target, dict).update(_pairs(flat))


def _pairs(flat: list[Any]) -> dict[Any, Any]:
    return {as_key(key): value for key, value in zip(flat[::2], flat[1::2], strict=True)}


def _named(module_and_name: str) -> ForeignClass:
    module, _, name = module_and_name.partition(" ")
    return _foreign_class(module, name)


def _foreign_class(module: str, name: str) -> ForeignClass:
    if len(module) + len(name) > _MAX_NAME:
        raise CheckpointError(f"it names a class by more than {_MAX_NAME} letters, as no checkpoint does")
    return ForeignClass(sys.intern(module), sys.intern(name))


def _python2_text(argument: str) -> str | bytes:
    """Decode a Python 2 string, of which `genops` makes one character per byte, if it is text at all."""
    octets = argument.encode("latin-1")
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return octets


def _stack_global(machine: Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    machine.push(_foreign_class(of_type(module, str), of_type(name, str)))


def _reduce(machine: Machine, _: Any) -> None:
    args, named = machine.pop(), machine.pop()
    machine.push(machine.call(named, args))


def _instance(machine: Machine, argument: str) -> None:
    machine.push(machine.call(_named(argument), tuple(machine.pop_mark())))


def _object(machine: Machine, _: Any) -> None:
    named, *args = machine.pop_mark()
    machine.push(machine.call(named, tuple(args)))


def _new_object_extended(machine: Machine, _: Any) -> None:
    kwargs, args, named = machine.pop(), machine.pop(), machine.pop()
    machine.push(machine.call(named, args, of_type(kwargs, dict)))


def _set_item(machine: Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.update([key, value])


def _tuple_of(length: int) -> Callable[[Machine, Any], None]:
    def operation(machine: Machine, _: Any) -> None:
        values = [machine.pop() for _ in range(length)]
        machine.push(tuple(reversed(values)))

    return operation


def _refused(why: str) -> Callable[[Machine, Any], None]:
    def operation(_machine: Machine, _: Any) -> None:
        raise CheckpointError(f"it {why}, as no checkpoint does; it is damaged or forged")

    return operation


# Instructions that push their own argument.
_PUSHED = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
    | {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)

_OPERATIONS: dict[str, Callable[[Machine, Any], Any]] = {
    "PROTO": lambda _machine, _: None,
    "FRAME": lambda _machine, _: None,
    "STOP": lambda _machine, _: None,
    "MARK": lambda machine, _: machine.push(_Mark),
    "POP": lambda machine, _: machine.drop(),
    "POP_MARK": lambda machine, _: machine.pop_mark(),
    "DUP": lambda machine, _: machine.push(machine.top()),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "STRING": lambda machine, text: machine.push(_python2_text(text)),
    "BINSTRING": lambda machine, text: machine.push(_python2_text(text)),
    "SHORT_BINSTRING": lambda machine, text: machine.push(_python2_text(text)),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "LIST": lambda machine, _: machine.push(machine.pop_mark()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "DICT": lambda machine, _: machine.push(_pairs(machine.pop_mark())),
    "FROZENSET": lambda machine, _: machine.push(frozenset(map(as_key, machine.pop_mark()))),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_mark()),
    "ADDITEMS": lambda machine, _: machine.add(machine.pop_mark()),
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: machine.update(machine.pop_mark()),
    "PUT": lambda machine, index: machine.remember(index),
    "BINPUT": lambda machine, index: machine.remember(index),
    "LONG_BINPUT": lambda machine, index: machine.remember(index),
    "MEMOIZE": lambda machine, _: machine.remember(),
    "GET": lambda machine, index: machine.recall(index),
    "BINGET": lambda machine, index: machine.recall(index),
    "LONG_BINGET": lambda machine, index: machine.recall(index),
    "GLOBAL": lambda machine, argument: machine.push(_named(argument)),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_object_extended,
    "INST": _instance,
    "OBJ": _object,
    "BUILD": lambda machine, _: machine.build(machine.pop()),
    "PERSID": lambda machine, text: machine.refer(text),
    "BINPERSID": lambda machine, _: machine.refer(machine.pop()),
    "EXT1": _refused("names a class by number"),
    "EXT2": _refused("names a class by number"),
    "EXT4": _refused("names a class by number"),
    "NEXT_BUFFER": _refused("keeps data outside the file"),
    "READONLY_BUFFER": _refused("keeps data outside the file"),
}
