"""What stands between a file that anyone may have made and this process.

Every checkpoint reader works inside `explaining`, opens files through `uncompressed`, pays for the memory it
takes from an `Allowance`, and hands out nothing that `require_finite_tree` has not walked.
"""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, WeightsError

GZIP_MAGIC = b"\x1f\x8b"
_COPY_BYTES = 1 << 20
_MAX_DEPTH = 100
_MAX_VALUES = 2_000_000  # walked in a second or two, however few bytes stand for them


class Allowance:
    """How many bytes a file may grow to in memory; whoever makes something of it claims from here first.

    Weights are close to noise and hardly compress, so an honest file grows a few times at most (a pickled
    NumPy array exists as text, as bytes and as an array): twenty times, and at least 256 MiB, is generous.
    """

    def __init__(self, file_bytes: int):
        self._left_bytes = 20 * file_bytes + (256 << 20)

    def claim(self, size_bytes: int) -> None:
        """Take `size_bytes` off, or raise `CheckpointError`."""
        self._left_bytes -= max(size_bytes, 0)
        if self._left_bytes < 0:
            raise CheckpointError("it unpacks to far more than its own size, as no weights do, and was not read")


def printable(value: object) -> str:
    """Return text, a number or an error as a string of a length and an alphabet that are safe to show on a terminal.

    Of anything that holds others only the type is named: tuples of shared tuples are endless when written out.
    """
    holds_others = hasattr(value, "__len__") and not isinstance(value, str)
    shown = ascii(type(value).__name__ if holds_others else str(value))[1:-1]
    return shown if len(shown) <= 100 else shown[:97] + "..."


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong inside into one `CheckpointError` sentence that names `path`.

    The broad net is meant: a file is hostile until read, and what a damaged one makes a library raise is
    anybody's guess.
    """
    try:
        yield
    except WeightsError as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise type(error)(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file; check the path") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{path}: this is a directory where a checkpoint file was expected") from error
    except OSError as error:
        reason = error.strerror or printable(error)
        raise CheckpointError(f"{path}: it cannot be read ({reason}); fetch it again or check the disk") from error
    except MemoryError as error:
        raise CheckpointError(f"{path}: reading it takes more memory than this machine has") from error
    except Exception as error:
        reason = printable(error) or type(error).__name__
        raise CheckpointError(f"{path}: it is damaged or of an unknown format ({reason}); fetch it again") from error


@contextmanager
def uncompressed(path: Path) -> Iterator[Path]:
    """Yield `path` itself, or a temporary file with its contents where it is compressed by gzip."""
    with path.open("rb") as file:
        if file.read(2) != GZIP_MAGIC:
            yield path
            return
    allowance = Allowance(path.stat().st_size)
    # On Windows a file that tensors still map cannot be removed; its folder is then left for the system.
    with tempfile.TemporaryDirectory(prefix="iseparate-", ignore_cleanup_errors=True) as folder:
        plain = Path(folder) / "plain"
        try:
            with gzip.open(path, "rb") as packed, plain.open("wb") as unpacked:
                while block := packed.read(_COPY_BYTES):
                    allowance.claim(len(block))
                    unpacked.write(block)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise CheckpointError(f"its gzip wrapping is damaged or cut short ({error}); fetch it again") from error
        yield plain


def _children(value: object) -> list[Any] | None:
    """Return the values directly inside a plain container; None for anything that holds no others."""
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    return None


class _Walk:
    """One depth-first walk, by a stack of its own, since the data decides how deep it goes."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        self.open: set[int] = set()
        self.others: list[Any] = []

    def measure(self, root: object) -> int:
        """Count the values that a naive recursive walk from `root` would meet, shared ones each time."""
        if _children(root) is None:
            self.others.append(root)
            return 1
        stack: list[tuple[Any, Iterator[Any]]] = []
        self._enter(root, stack)
        while stack:
            value, children = stack[-1]
            for child in children:
                if id(child) in self.open:
                    raise CheckpointError("it holds a list or table that contains itself, as no checkpoint does")
                if id(child) in self.sizes:
                    self.sizes[id(value)] += self.sizes[id(child)]
                elif _children(child) is None:
                    self.sizes[id(value)] += 1
                    self.others.append(child)
                else:
                    self._enter(child, stack)
                    break
                if self.sizes[id(value)] > _MAX_VALUES:
                    raise CheckpointError(f"it holds more than {_MAX_VALUES} values, as no checkpoint does")
            else:
                stack.pop()
                self.open.discard(id(value))
                if stack:
                    self.sizes[id(stack[-1][0])] += self.sizes[id(value)]
        return self.sizes[id(root)]

    def _enter(self, value: object, stack: list[tuple[Any, Iterator[Any]]]) -> None:
        if len(stack) >= _MAX_DEPTH:
            raise CheckpointError(f"it is nested more than {_MAX_DEPTH} levels deep, as no checkpoint is")
        self.sizes[id(value)] = 1
        self.open.add(id(value))
        stack.append((value, iter(_children(value) or ())))


def require_finite_tree(root: object) -> None:
    """Make sure that the plain containers under `root` can be walked by any naive recursion.

    No cycle, no depth beyond 100, and no more than two million values even when a value that is referred to
    from several places is counted each time (a kilobyte of such references can stand for 2^100 values).
    Objects with a method ``parts() -> list`` are borders: what they hold is walked separately, once, so that
    a configuration whose children know their parent passes.

    Raises:
        CheckpointError: they cannot.

    """
    walk = _Walk()
    total = 0
    seen: set[int] = set()
    roots: list[Any] = [root]
    while roots:
        total += walk.measure(roots.pop())
        if total > _MAX_VALUES:
            raise CheckpointError(f"it holds more than {_MAX_VALUES} values, as no checkpoint does")
        for other in walk.others:
            if id(other) not in seen and hasattr(other, "parts"):
                seen.add(id(other))
                roots.extend(other.parts())
        walk.others.clear()
