"""Where the user's cache is."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """``ISEPARATE_CACHE``, or else the place that the system has for caches; it need not exist."""
    named = os.environ.get("ISEPARATE_CACHE")
    folder = Path(named) if named else Path(platformdirs.user_cache_dir("iseparate", appauthor=False))
    return folder.expanduser().absolute()
