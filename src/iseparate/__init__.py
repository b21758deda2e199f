"""Music source separation: a song goes in, its stems come out.

Importing the package is light; PyTorch is imported when a model is first asked for.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iseparate.audio.excerpt import Excerpt
    from iseparate.engine.results import Progress, SongResult
    from iseparate.engine.separator import Separator
    from iseparate.errors import IseparateError
    from iseparate.types import Audio, ModelSpec, Stems
    from iseparate.weights.load import build_model, import_checkpoint, load_model

__version__ = metadata.version("iseparate")

_HOMES = {
    "Audio": "types",
    "Excerpt": "audio.excerpt",
    "IseparateError": "errors",
    "ModelSpec": "types",
    "Progress": "engine.results",
    "Separator": "engine.separator",
    "SongResult": "engine.results",
    "Stems": "types",
    "build_model": "weights.load",
    "import_checkpoint": "weights.load",
    "load_model": "weights.load",
}

__all__ = [
    "Audio",
    "Excerpt",
    "IseparateError",
    "ModelSpec",
    "Progress",
    "Separator",
    "SongResult",
    "Stems",
    "__version__",
    "build_model",
    "import_checkpoint",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'iseparate' has no attribute {name!r}")
    return getattr(import_module(f"iseparate.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
