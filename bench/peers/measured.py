"""What one call takes, the same way in every environment: standard library only."""

from __future__ import annotations

import contextlib
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def measured(warm_up: Callable[[], Any], call: Callable[[], Any]) -> Any:
    """Return what `call` does, and print its seconds and peaks of memory as JSON.

    ``peak_bytes`` is the most that the process held during the call, weights included; ``process_peak_bytes`` includes
    imports and loading. Where the system keeps no peak that can be set back, both are the latter.
    """
    warm_up()
    before = _peak_bytes()
    _forget_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = _peak_bytes()
    print(json.dumps({"wall": wall, "cpu": cpu, "peak_bytes": peak, "process_peak_bytes": max(before, peak)}))
    return result


def _peak_bytes() -> int:
    # Not getrusage, where Linux is: that counts what the parent held before the process became this program.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
