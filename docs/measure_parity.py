"""How far the networks are from the original programs' output, golden by golden.

    python docs/measure_parity.py

Runs ``tests/parity`` and writes the largest error that each of its comparisons of waveforms saw into
``docs/measured/parity.md``, which the page on parity shows; `bench/report.py` says where and when.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests" / "parity")]

import golden  # noqa: E402

import report  # noqa: E402

PAGE = ROOT / "docs" / "measured" / "parity.md"


def main() -> int:
    """Measure, print and write the table; returns pytest's exit status."""
    status = pytest.main(["-q", str(ROOT / "tests" / "parity")])
    if status:
        return int(status)
    lines = ["| golden | variant | largest error | tolerance |", "| --- | --- | --- | --- |"]
    for (name, variant), (error, tolerance) in sorted(golden.ERRORS.items()):
        lines.append(f"| `{name}` | {variant} | {error:.1e} | {tolerance:.0e} |")
    where = "; ".join(f"{key}: {value}" for key, value in report.machine().items())
    text = "\n".join([*lines, "", f"`python docs/measure_parity.py`; {where}", ""])
    PAGE.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
