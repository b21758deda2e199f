"""Which software made a result."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata

PACKAGES = ("iseparate", "torch", "numpy", "av", "soxr", "soundfile", "openvino", "onnxruntime")


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that shape a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
