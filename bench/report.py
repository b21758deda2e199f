"""Where and when a benchmark ran, and its table as Markdown and JSON under bench/results."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from iseparate.checkout import commit
from iseparate.machine import machine as this_machine
from iseparate.versions import versions

RESULTS = Path(__file__).resolve().parent / "results"


def machine() -> dict[str, str]:
    """Processor, cores, system, versions, commit and date."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "commit": commit(7) or "unknown",
        **this_machine(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }


def write(name: str, title: str, notes: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``results/<name>.md`` and ``.json`` and print the former; rows have the same keys."""
    RESULTS.mkdir(exist_ok=True)
    where = machine()
    headings = list(rows[0])
    lines = [f"# {title}", "", *[f"- {note}" for note in notes], ""]
    lines += ["| " + " | ".join(headings) + " |", "|" + " --- |" * len(headings)]
    lines += ["| " + " | ".join(str(row[heading]) for heading in headings) + " |" for row in rows]
    lines += ["", "; ".join(f"{key}: {value}" for key, value in where.items()), ""]
    (RESULTS / f"{name}.md").write_text("\n".join(lines))
    (RESULTS / f"{name}.json").write_text(json.dumps({"title": title, **where, "rows": list(rows)}, indent=2) + "\n")
    print("\n".join(lines))
