"""How far the networks are from the original programs' output, golden by golden.

    python docs/measure_parity.py

Runs ``tests/parity`` and keeps the largest error that each of its comparisons of waveforms saw: as a table in
``docs/measured/parity.md``, which the page on parity shows, and as data in ``src/iseparate/weights/parity.json``, which
the page of the models and `iseparate models list` read. `bench/report.py` says where and when. Which systems a golden
stands for is written in ``tests/parity/proves.toml``.
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests" / "parity")]

import golden  # noqa: E402

import report  # noqa: E402
from iseparate.weights.parity import FILE_NAME  # noqa: E402

PAGE = ROOT / "docs" / "measured" / "parity.md"
PROVES = ROOT / "tests" / "parity" / "proves.toml"
DATA = ROOT / "src" / "iseparate" / "weights" / FILE_NAME


def main() -> int:
    """Measure, print and write; returns pytest's exit status."""
    status = pytest.main(["-q", str(ROOT / "tests" / "parity")])
    if status:
        return int(status)
    machine = report.machine()
    found = comparisons()
    lines = ["| golden | variant | largest error | tolerance |", "| --- | --- | --- | --- |"]
    lines += [f"| `{c['golden']}` | {c['variant']} | {c['error']:.1e} | {c['tolerance']:.0e} |" for c in found]
    where = "; ".join(f"{key}: {value}" for key, value in machine.items())
    text = "\n".join([*lines, "", f"`python docs/measure_parity.py`; {where}", ""])
    PAGE.write_text(text, encoding="utf-8")
    DATA.write_text(json.dumps({**machine, "comparisons": found}, indent=1) + "\n", encoding="utf-8")
    print(text)
    return 0


def comparisons() -> list[dict[str, Any]]:
    """What the tests saw, each with the systems that its golden stands for."""
    proves = tomllib.loads(PROVES.read_text(encoding="utf-8"))
    return [
        {
            "golden": name,
            "variant": variant,
            "error": float(f"{error:.2e}"),
            "tolerance": tolerance,
            "proves": proves[name],
        }
        for (name, variant), (error, tolerance) in sorted(golden.ERRORS.items())
    ]


if __name__ == "__main__":
    sys.exit(main())
