"""The goldens' checkpoints, damaged and armed at random: nothing runs, and only a CheckpointError comes out.

What can still be read goes through the importers too, which then meet classes, sizes and options that mean nothing.

Audit hooks cannot be taken off again and limits not be raised, so the turns run in a process of their own: this file,
as a program.
"""

from __future__ import annotations

import builtins
import collections
import gzip
import io
import json
import os
import pathlib
import pickle
import pickletools
import random
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import types
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from iseparate.errors import CheckpointError
from iseparate.weights.load import import_weights
from iseparate.weights.unpickle import ForeignClass, ForeignObject, load_torch

GOLDENS = Path(__file__).resolve().parents[1] / "parity" / "goldens"
PATTERNS = (
    *("demucs_v1*/model.th*", "demucs_v2*/*.th", "convtasnet_v*/*.th", "iseparate-demucs-tiny/checkpoint/*.pt"),
    *("asteroid_*/model.pth", "svoice_*/checkpoint.th", "metatasnet*/best_checkpoint", "waveunet*/model"),
)
"""Classes, quantizers, namespaces, arrays, in both containers, inside gzip and inside themselves."""
MOST_SECONDS = 10.0  # of processor time, for one file; honest ones of this size take hundredths
MOST_BYTES = 1 << 30  # beyond the libraries: the reader's own allowance for so small a file is a quarter of it
CANARY = "fuzz_canary"


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def test_a_few_hundred(tmp_path):
    outcomes = run_worker(tmp_path, seed=7, turns=300, limit_seconds=120)
    assert min(outcomes[kind] for kind in ("read", "CheckpointError", "UnsafeCheckpointError")) > 10, outcomes


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(4))
def test_many_thousands(tmp_path, seed):
    run_worker(tmp_path, seed=1000 + seed, turns=15_000, limit_seconds=1800)


def memoised(value: bytes, index: int) -> bytes:
    return value + b"q" + bytes([index])


MEGABYTE = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20)
SHARED = b"K\x01" + b"2\x86" * 40  # 2 ** 40 values, if written out
WIDE = memoised(
    b"cnumpy\ndtype\n" + text("S999999") + b"\x85R(K\x03" + text("|") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb",
    3,
)
MANY_KEYS = range(1, 2000)
BOMBS = {
    "a call of endless tuples": (SHARED + b")R.", "call tuple"),
    "a state for endless tuples": (SHARED + b"Nb.", "change tuple"),
    "millions of values in fifty bytes": (b"K\x01" + b"2\x86" * 22 + b".", "more than 2000000 values"),
    "endless tuples for a size": (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + SHARED + b"tQ.",
        "but is tuple",
    ),
    "devices with long names": (
        b"(" + memoised(b"ctorch\ndevice\n", 0) + memoised(MEGABYTE + b"K\x01\x86", 1) + b"h\x00h\x01R" * 400 + b"l.",
        "far more than its own size",
    ),
    "scalars of wide text": (
        b"(" + WIDE + b"B" + struct.pack("<I", 999_999) + b"b" * 999_999 + memoised(b"\x86", 1)
        + memoised(b"cnumpy.core.multiarray\nscalar\n", 2) + b"h\x02h\x01R" * 400 + b"l.",
        "far more than its own size",
    ),
    "a class that names itself": (
        b"(" + memoised(b"ccopyreg\n__newobj__\n", 0) + b"(" + b"h\x00" * 100_000 + b"tR.",
        "far more than its own size",
    ),
    "keyword arguments, again and again": (
        memoised(b"}(" + b"".join(text(f"{key:06}") + b"N" for key in range(20_000)) + b"u", 0)
        + b"(" + memoised(b"cm\nC\n", 1) + b"h\x01)h\x00\x92" * 100 + b"l.",
        "far more than its own size",
    ),
    "names without end": (MEGABYTE + text("x") + b"\x93.", "more than 1000 letters"),
    "numbers that hash alike": (
        b"}("
        + b"".join(b"\x8a\x0c" + (key * ((1 << 61) - 1)).to_bytes(12, "little") + b"N" for key in MANY_KEYS) + b"u.",
        "more than 60 bits",
    ),
    "complex numbers that hash alike": (
        b"}(" + b"".join(
            b"cbuiltins\ncomplex\nG" + struct.pack(">d", -1000003.0 * key) + b"G" + struct.pack(">d", key) + b"\x86RN"
            for key in MANY_KEYS
        ) + b"u.",
        "complex came",
    ),
}  # fmt: skip
"""Small files that take minutes or gigabytes of a careless reader."""


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(tmp_path, name):
    path, (data, reason) = tmp_path / "x.th", BOMBS[name]
    path.write_bytes(data)
    start = time.process_time()
    with pytest.raises(CheckpointError, match=reason):
        load_torch(path)
    assert time.process_time() - start < MOST_SECONDS


def run_worker(folder: Path, seed: int, turns: int, limit_seconds: int) -> dict[str, int]:
    command = [sys.executable, "-X", "faulthandler", __file__, str(folder), str(seed), str(turns)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_seconds, check=False, env=environment)
    assert done.returncode == 0, f"seed {seed}: {done.stdout[-1000:]}{done.stderr[-3000:]}"
    outcomes = json.loads(done.stdout.splitlines()[-1])
    assert not outcomes["faults"], json.dumps(outcomes, indent=1)
    assert sum(outcomes["counts"].values()) == turns
    return collections.Counter(outcomes["counts"])


# What a golden is made of, and how it is put together again.


@dataclass
class Original:
    """A checkpoint whose pickle can be exchanged."""

    name: str
    data: bytes
    programs: list[bytes]  # instructions of the pickle, one each
    assemble: Callable[[bytes], bytes]


def originals() -> list[Original]:
    paths = sorted(path for pattern in PATTERNS for path in GOLDENS.glob(pattern))
    assert len(paths) >= len(PATTERNS), paths
    found = [taken_apart(f"{path.parent.name}/{path.name}", path.read_bytes()) for path in paths]
    for outer in list(found):
        for packed in filter(None, map(compressed, outer.programs)):
            inner = taken_apart(f"{outer.name}, inside", zlib.decompress(packed))
            inner.assemble = wrapped_by(inner.assemble)
            found.append(inner)
    assert len(found) == len(paths) + 2  # DiffQ's
    return found


def compressed(instruction: bytes) -> bytes | None:
    """A whole file again, as DiffQ has it: bytes, which the protocol of PyTorch writes as text."""
    if instruction[:1] == b"X" and instruction[5:6] == b"x" and len(instruction) > 1000:
        return instruction[5:].decode().encode("latin-1")
    return None


def wrapped_by(assemble: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def wrapped(program: bytes) -> bytes:
        return pickle.dumps({"compressed": zlib.compress(assemble(program), 1)}, protocol=2)

    return wrapped


def taken_apart(name: str, data: bytes) -> Original:
    if data[:2] == b"\x1f\x8b":
        inner = taken_apart(name, gzip.decompress(data))
        return Original(name, data, inner.programs, lambda program: gzip.compress(inner.assemble(program), 1))
    if data[:4] == b"PK\x03\x04":
        program, others = out_of_archive(data)
        return Original(name, data, instructions(program), lambda program: into_archive(others, program))
    stream, starts = io.BytesIO(data), [0]
    while len(starts) < 6:  # magic, version, system, content, keys; the storages follow
        collections.deque(pickletools.genops(stream), maxlen=0)
        starts.append(stream.tell())
    # What comes before the content is mutated as bytes of the whole file.
    head, program, tail = data[: starts[3]], data[starts[3] : starts[5]], data[starts[5] :]
    pickles = [data[starts[3] : starts[4]], data[starts[4] : starts[5]]]
    assert program == b"".join(pickles)
    return Original(
        name, data, [each for one in pickles for each in instructions(one)], lambda program: head + program + tail
    )


def out_of_archive(data: bytes) -> tuple[bytes, bytes]:
    """The pickle, and the archive without it."""
    rest = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(rest, "w") as others:
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        for name in archive.namelist():
            if name != pickled:
                others.writestr(name, archive.read(name))
        others.comment = pickled.encode()
        return archive.read(pickled), rest.getvalue() if others.close() is None else b""


def into_archive(others: bytes, program: bytes) -> bytes:
    whole = io.BytesIO(others)
    with zipfile.ZipFile(whole, "a") as archive:
        archive.writestr(archive.comment.decode(), program)
    return whole.getvalue()


def instructions(program: bytes) -> list[bytes]:
    starts = [place for _, _, place in pickletools.genops(program)]
    return [program[start:end] for start, end in zip(starts, [*starts[1:], len(program)], strict=True)]


# How it is damaged and armed.


def nested_file(depth: int) -> bytes:
    inner = named(CANARY, "fire") + b")R."
    for _ in range(depth):
        inner = named("torch.storage", "_load_from_bytes") + b"B" + struct.pack("<I", len(inner)) + inner + b"\x85R."
    return inner[:-1]


TARGETS = (
    *((CANARY, "fire"), ("os", "system"), ("builtins", "eval"), ("builtins", "exec"), ("builtins", "getattr")),
    *(("posix", "system"), ("subprocess", "Popen"), ("pathlib", "Path.write_text"), ("functools", "partial")),
    *(("builtins", "__import__"), ("torch", "load"), ("numpy", "load"), ("importlib", "import_module")),
    *(("copyreg", "_reconstructor"), ("copyreg", "__newobj__"), ("collections", "OrderedDict")),
    *(("torch._utils", "_rebuild_tensor_v2"), ("torch._tensor", "_rebuild_from_type_v2"), ("torch", "Size")),
    *(("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "scalar"), ("numpy", "dtype")),
    *(("numpy._core.numeric", "_frombuffer"), ("_codecs", "encode"), ("builtins", "bytearray"), ("torch", "device")),
)
ARGUMENTS = (
    *(
        b"(" + text("touch pwned") + b"t",
        b")",
        b"(K\x05t",
        b"(J\xff\xff\xff\x7ft",
        b"(" + text("x") + text("rot13") + b"t",
    ),
    *(b"(" + named(CANARY, "fire") + b")t", b"(" + named("builtins", "eval") + text("1+1") + b"t", b"N", b"}", b"]"),
    b"(" + named(CANARY, "fire") + named("builtins", "object") + b"Nt",
)
CALLS = (b"R", b"\x81", b"}\x92")  # REDUCE, NEWOBJ, NEWOBJ_EX
STATES = (
    *(b"", b"N" + b"b", b"}" + text("__class__") + named(CANARY, "fire") + b"sb"),
    *(b"N}" + text("__setstate__") + named("os", "system") + b"s\x86b", b"(K\x01)" + b"N" * 3 + b"tb"),
)
HUGE = (
    *(b"\x8e" + struct.pack("<Q", size) for size in (1 << 40, (1 << 63) - 1, (1 << 64) - 1)),  # BINBYTES8
    *(b"\x8d" + struct.pack("<Q", size) for size in (1 << 40, (1 << 64) - 1)),  # BINUNICODE8
    *(b"\x96" + struct.pack("<Q", size) for size in (1 << 34, (1 << 64) - 1)),  # BYTEARRAY8
    *(b"\x8b" + struct.pack("<i", size) for size in (1 << 30, -1)),  # LONG4
    *(b"B" + struct.pack("<I", (1 << 32) - 1), b"T" + struct.pack("<i", -1), b"\x95" + struct.pack("<Q", 1 << 62)),
    *(b"r" + struct.pack("<I", (1 << 32) - 1) + b"j" + struct.pack("<I", (1 << 32) - 1), b"p" + b"9" * 5000 + b"\n"),
    *(b"L" + b"9" * 5000 + b"L\n", b"I" + b"9" * 5000 + b"\n"),
)
NUMBERS = tuple(
    b"\x8a\x09" + number.to_bytes(9, "little", signed=True)
    for number in (-1, 0, 1, 255, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 62) - 1, 1 << 63, -(1 << 63), (1 << 64) - 1)
)
VALUES = (
    *(
        b"N",
        b"\x88",
        b"]",
        b"}",
        b")",
        b"K\x00",
        b"K\x02",
        b"J\xff\xff\xff\xff",
        b"J\xff\xff\xff\x7f",
        text("zz"),
        text(""),
    ),
    *(b"G\x7f\xf0" + bytes(6), b"G\x7f\xf8" + bytes(6), b"cm\nC\n", b"cm\nC\n)R", b"](K\x01K\x02e", b"K\x01N\x86"),
)
DEEP = (
    *(b"]" * 1000 + b"a" * 999, b"}" + b"N}" * 500 + b"s" * 500, b")" + b"\x85" * 3000, b"]2a", b"]q\xf0h\xf0a"),
    *(b"K\x01" + b"2\x86" * 60, b"]" + b"2" + b"22\x87\x85" * 60 + b"a", b"(" * 2000 + b"t" * 2000),
    b"N" + b"2\x86q\xf1h\xf1\x86" * 30,
    b")" + b"2\x86" * 25 + b"Nsb",
)


def damaged(chance: random.Random, original: Original) -> bytes:
    """One mutated file."""
    if chance.random() < 0.15:
        return struck(chance, original.data)
    parts = list(original.programs)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        chance.choice(MUTATIONS)(chance, parts, chance.randrange(len(parts) or 1))
    return original.assemble(b"".join(parts))


def strike(chance: random.Random, parts: list[bytes], place: int) -> None:
    parts[place : place + 1] = [struck(chance, b"".join(parts[place : place + 1]))]


def delete(chance: random.Random, parts: list[bytes], place: int) -> None:
    del parts[place : place + chance.choice((1, 1, 2, 5, 100))]


def repeat(chance: random.Random, parts: list[bytes], place: int) -> None:
    start = chance.randrange(len(parts) or 1)
    parts[place:place] = parts[start : start + chance.choice((1, 2, 5, 20))]


def exchange(chance: random.Random, parts: list[bytes], place: int) -> None:
    here, there = slice(place, place + 1), slice(start := chance.randrange(len(parts) or 1), start + 1)
    parts[here], parts[there] = parts[there], parts[here]


def swap_opcode(chance: random.Random, parts: list[bytes], place: int) -> None:
    opcode = chance.choice(pickletools.opcodes).code.encode("latin-1")
    parts[place : place + 1] = [opcode + b"".join(parts[place : place + 1])[1:]]


def arm(chance: random.Random, parts: list[bytes], place: int) -> None:
    call = named(*chance.choice(TARGETS)) + chance.choice(ARGUMENTS) + chance.choice(CALLS) + chance.choice(STATES)
    parts[place : place + chance.randrange(2)] = [call]  # in place of a value, or before one


def rename(chance: random.Random, parts: list[bytes], place: int) -> None:
    names = [i for i, part in enumerate(parts) if part[:1] == b"c"]
    if names:
        parts[chance.choice(names)] = named(*chance.choice(TARGETS))


def declare_huge(chance: random.Random, parts: list[bytes], place: int) -> None:
    parts[place:place] = [chance.choice(HUGE) + chance.choice((b"", b"x" * 50))]


def nest(chance: random.Random, parts: list[bytes], place: int) -> None:
    parts[place:place] = [chance.choice(DEEP) + chance.choice((b"", b"0", b"\x85", b")R", b"Nb", b"N\x86"))]


def change_numbers(chance: random.Random, parts: list[bytes], place: int) -> None:
    """Sizes, offsets and strides."""
    share = chance.choice((0.002, 0.02, 0.5))
    for i, part in enumerate(parts):
        if part[:1] in (b"K", b"M", b"J") and chance.random() < share:
            parts[i] = chance.choice(NUMBERS)


def change_argument(chance: random.Random, parts: list[bytes], place: int) -> None:
    """One of the values that are written in the pickle itself, which are few beside the tensors: the first or last."""
    values = [i for i, part in enumerate(parts) if part[:1] in b"KMJGXN\x88\x89"]
    if values:
        few = chance.choice((values[:200], values[-200:]))
        parts[chance.choice(few)] = chance.choice((*VALUES, *NUMBERS))


def hide_file(chance: random.Random, parts: list[bytes], place: int) -> None:
    parts[place:place] = [nested_file(chance.randrange(1, 5)) + chance.choice((b"", b"0"))]


def end(chance: random.Random, parts: list[bytes], place: int) -> None:
    parts[place:] = [chance.choice((b"", b".", b"N."))]


MUTATIONS = (
    *(strike, delete, repeat, exchange, swap_opcode, arm, rename, declare_huge, nest, change_numbers, hide_file, end),
    *(change_argument,) * 6,  # most of the others end the reading
)


def struck(chance: random.Random, data: bytes) -> bytes:
    """Bits turned, bytes exchanged, taken out, doubled, or the end cut off."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        if not changed:
            break
        place = chance.randrange(len(changed)) if chance.random() < 0.5 else chance.randrange(min(len(changed), 4096))
        match chance.randrange(6):
            case 0:
                changed[place] ^= 1 << chance.randrange(8)
            case 1:
                changed[place] = chance.randrange(256)
            case 2:
                del changed[place : place + chance.choice((1, 4, 64))]
            case 3:
                changed[place:place] = changed[place : place + chance.choice((1, 8, 300))]
            case 4:
                changed[place : place + 8] = struct.pack("<Q", chance.choice((0, 1 << 31, 1 << 62, (1 << 64) - 1)))
            case _:
                del changed[place:]
    return bytes(changed)


# The process of its own.

RUNS = frozenset(
    {"exec", "compile", "import", "code.__new__", "function.__new__", "pickle.find_class"}
    | {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn", "os.startfile"}
    | {"os.rename", "os.link", "os.symlink", "os.chmod", "os.chown", "os.putenv", "os.kill", "subprocess.Popen"}
)
RUNS_OF = ("socket.", "ctypes.", "marshal.", "urllib.", "webbrowser.", "ftplib.", "http.", "winreg.")


@dataclass
class Watch:
    """Notes what a reader of data has no business to do."""

    folder: str
    armed: bool = False
    seen: list[str] = field(default_factory=list)

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if not self.armed:
            return
        if event in RUNS or event.startswith(RUNS_OF):
            self.note(event, args)
        elif event == "open" and isinstance(args[0], str | bytes):
            path = os.fsdecode(args[0])
            if pathlib.PurePath(path).is_absolute() and not path.startswith(self.folder):
                self.note(event, args)

    def note(self, event: str, args: object) -> None:
        self.armed = False  # or showing it would be seen as well
        self.seen.append(f"{event} {ascii(args)[:200]}")
        self.armed = True

    def canary(self, *args: object, **_: object) -> None:
        self.note("canary", args)


def main(folder: Path, seed: int, turns: int) -> None:
    warnings.simplefilter("ignore")  # of odd escapes; showing one opens the source
    "".encode("raw-unicode-escape")  # some codecs are imported when first needed
    found, chance = originals(), random.Random(seed)
    tempfile.tempdir = str(folder)
    watch = Watch(str(folder))
    sys.addaudithook(watch)
    sys.modules[CANARY] = types.ModuleType(CANARY)
    sys.modules[CANARY].fire = watch.canary
    path = folder / "checkpoint.th"
    for original in found:  # what is imported late is imported now
        path.write_bytes(original.data)
        load_torch(path)
        import_weights([path])
        path.write_bytes(original.assemble(b"".join(original.programs)))
        load_torch(path)
        for harmless in (b"", original.data[:-100], original.assemble(b"(."), original.assemble(text("x") + b"b.")):
            path.write_bytes(harmless)
            attempt(path)
    require_alarm(watch)
    for name in ("system", "popen"):
        setattr(os, name, watch.canary)
    builtins.eval = watch.canary
    pathlib.Path.write_text = watch.canary
    limit_memory()
    counts, faults, slowest = collections.Counter(), [], 0.0
    for turn in range(turns):
        original = chance.choice(found)
        path.write_bytes(damaged(chance, original))
        start = time.process_time()
        watch.armed = True
        outcome, what = attempt(path)
        watch.armed = False
        if outcome == "read" and not what:
            what = attempt_import(path)
        spent = time.process_time() - start
        slowest = max(slowest, spent)
        counts[outcome] += 1
        wrong = [what] if what else []
        wrong += [f"did: {deed}" for deed in watch.seen]
        wrong += [f"took {spent:.1f} s"] if spent > MOST_SECONDS else []
        watch.seen.clear()
        if wrong:
            faults.append({"seed": seed, "turn": turn, "golden": original.name, "what": wrong})
            (folder / f"fault-{turn}.th").write_bytes(path.read_bytes())
        if len(faults) >= 10:
            break
    print(json.dumps({"counts": counts, "faults": faults, "slowest_seconds": round(slowest, 2)}))


def attempt(path: Path) -> tuple[str, str | None]:
    """How the reading ended, and what is wrong with that."""
    try:
        value = load_torch(path)
    except CheckpointError as error:
        words = f"{error} {error.__cause__!r}".lower()
        if isinstance(error.__cause__, MemoryError) or "allocate" in words:
            return type(error).__name__, f"asked for too much memory: {words[:300]}"
        if len(str(error)) > 1000 or not str(error).removeprefix(str(path)).isprintable():
            return type(error).__name__, f"says too much: {str(error)[:300]!r}"
        return type(error).__name__, None
    except BaseException:
        return "other", traceback.format_exc()[-1500:]
    try:
        walk(value)
    except (AssertionError, RecursionError, RuntimeError) as error:
        return "read", f"gave something else: {error!r}"
    return "read", None


def attempt_import(path: Path) -> str | None:
    """What is wrong with how importing ended."""
    try:
        import_weights([path])
    except CheckpointError as error:
        return None if len(str(error)) < 2000 else f"says too much: {str(error)[:300]!r}"
    except BaseException:
        return traceback.format_exc()[-1500:]
    return None


KNOWN = frozenset(
    {type(None), bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, collections.OrderedDict, set}
    | {frozenset, torch.Tensor, np.ndarray, ForeignClass, ForeignObject}
)


def walk(root: object) -> None:
    """As naively as whoever uses it would: by recursion, but for what foreign objects hold."""
    seen, objects = set(), [root]

    def visit(value: object) -> None:
        assert type(value) in KNOWN, type(value)
        if isinstance(value, dict):
            for key, child in value.items():
                visit(key)
                visit(child)
        elif isinstance(value, list | tuple | set | frozenset):
            for child in value:
                visit(child)
        elif isinstance(value, ForeignObject | torch.Tensor | np.ndarray) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, ForeignObject):
                objects.extend(value.parts())
            elif isinstance(value, torch.Tensor) and value.numel() < 1 << 20:
                value.clone()  # touches the memory
            elif isinstance(value, np.ndarray) and value.size < 1 << 20:
                value.tobytes()

    while objects:
        visit(objects.pop())


def require_alarm(watch: Watch) -> None:
    """A watch that sees nothing would let everything pass."""
    watch.armed = True
    pickle.loads(named(CANARY, "fire") + b")R.")
    exec("pass")
    with pytest.raises(FileNotFoundError), Path("/nowhere/of/all").open():
        pass
    watch.armed = False
    deeds = {deed.split()[0] for deed in watch.seen}
    assert deeds >= {"canary", "pickle.find_class", "exec", "open"}, deeds
    watch.seen.clear()


def limit_memory() -> None:
    """Where the system has such limits, whatever goes far beyond the reader's allowance fails."""
    status = Path("/proc/self/status")
    if not status.exists():
        return
    import resource

    now_bytes = next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmSize" in line)
    resource.setrlimit(resource.RLIMIT_AS, (now_bytes + MOST_BYTES, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
