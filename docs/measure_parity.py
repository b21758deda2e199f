"""How far the networks are from the original programs' output, golden by golden.

    python docs/measure_parity.py

Writes ``docs/measured/parity.md``, which the page on parity shows. The figures are those that ``tests/parity`` holds
against the tolerance; `bench/report.py` says where and when they were taken.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests" / "parity")]

from golden import Golden  # noqa: E402
from test_spleeter import TINY, settings_of  # noqa: E402

import report  # noqa: E402
from iseparate.models._base import SeparationModel  # noqa: E402
from iseparate.weights.load import import_checkpoint, load_model  # noqa: E402

PAGE = ROOT / "docs" / "measured" / "parity.md"
REAL = "spleeter-2stems-real"


def main() -> None:
    """Measure, print and write the table."""
    rows = []
    for name in (*TINY, REAL):
        golden = Golden(name)
        for variant in golden.facts["variants"]:
            worst = largest_error(load(golden, name, variant), golden, variant)
            rows.append(f"| `{name}` | {variant} | {worst:.1e} | {golden.tolerance:.0e} |")
    lines = ["| golden | variant | largest error | tolerance |", "| --- | --- | --- | --- |", *rows, ""]
    where = "; ".join(f"{key}: {value}" for key, value in report.machine().items())
    text = "\n".join([*lines, f"`python docs/measure_parity.py`; {where}", ""])
    PAGE.write_text(text, encoding="utf-8")
    print(text)


def load(golden: Golden, name: str, variant: str) -> SeparationModel:
    """The model as the tests load it: through the importer that ships."""
    if name == REAL:
        return load_model("spleeter-2stems-official", settings={"wiener": True} if variant == "mwf" else {})
    return import_checkpoint(golden.folder / "checkpoint", config=settings_of(golden, variant))


def largest_error(model: SeparationModel, golden: Golden, variant: str) -> float:
    """Largest difference of any sample of any stem, full scale being 1."""
    with torch.inference_mode():
        output = model(torch.from_numpy(golden.mix)[None])[0].numpy()
    return max(
        float(np.abs(output[model.spec.stems.index(stem)][index] - expected).max())
        for stem, index, expected in golden.expected(variant)
    )


if __name__ == "__main__":
    main()
