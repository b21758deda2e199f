"""The compiled part of a Python package, without the package around it.

pysinsy 0.0.5 and pyworld 0.3.5 import ``pkg_resources`` to learn their own version; setuptools has had no such module
since its version 82.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from iseparate.data.synthetic.sampled.sources import package_folder
from iseparate.errors import UsageError


@cache
def extension(package: str, name: str) -> Any:
    """The module ``package.name``, compiled. UsageError where it is not there."""
    folder = package_folder(package)
    found = [folder / (name + suffix) for suffix in importlib.machinery.EXTENSION_SUFFIXES] if folder else []
    path: Path | None = next((path for path in found if path.is_file()), None)
    spec = importlib.util.spec_from_file_location(f"{package}.{name}", path) if path else None
    if spec is None or spec.loader is None:
        raise UsageError(f"{package} has no compiled module {name}; install it anew with `pip install {package}`")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
