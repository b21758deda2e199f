"""Memory managers, told what a network is like."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc: malloc.h
_BYTES = 1 << 30


def reuse_large_blocks() -> None:
    """Have large blocks reused rather than given back to the system after each operation.

    By default glibc maps every large block afresh, and the kernel clears its pages at first touch: a seventh of the
    CPU time of a separation. It changes the whole process, so only the doors that own theirs call it. Elsewhere
    than with glibc it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _BYTES)
        mallopt(_M_TRIM_THRESHOLD, _BYTES)


@contextmanager
def objects_that_stay() -> Iterator[None]:
    """Spare the garbage collector what is made in here: PyTorch's modules are 165,000 objects that never go.

    It changes the whole process too.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
