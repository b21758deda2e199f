"""How good a separation is, and how good it could be at best."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iseparate.evaluate.bsseval import BssScores, bss_eval
    from iseparate.evaluate.metrics import METRICS, Metric, metric, pooled
    from iseparate.evaluate.sdr import si_sdr, usdr

_HOMES = {
    "METRICS": "metrics",
    "BssScores": "bsseval",
    "Metric": "metrics",
    "bss_eval": "bsseval",
    "metric": "metrics",
    "pooled": "metrics",
    "si_sdr": "sdr",
    "usdr": "sdr",
}

__all__ = ["METRICS", "BssScores", "Metric", "bss_eval", "metric", "pooled", "si_sdr", "usdr"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'iseparate.evaluate' has no attribute {name!r}")
    return getattr(import_module(f"iseparate.evaluate.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
