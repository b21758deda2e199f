"""Training: a recipe goes in, a scored checkpoint comes out.

Importing this package imports neither PyTorch nor Lightning; asking for `fit` does.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from iseparate.errors import BackendError

if TYPE_CHECKING:
    from iseparate.train.recipe import Recipe, load_recipe, recipe_names
    from iseparate.train.run import FitResult, fit

_HOMES = {
    "FitResult": "run",
    "fit": "run",
    "Recipe": "recipe",
    "load_recipe": "recipe",
    "recipe_names": "recipe",
}

__all__ = ["FitResult", "Recipe", "fit", "load_recipe", "recipe_names"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'iseparate.train' has no attribute {name!r}")
    if _HOMES[name] == "run" and find_spec("lightning") is None:
        raise BackendError("training needs the package lightning: pip install 'iseparate[train]'")
    return getattr(import_module(f"iseparate.train.{_HOMES[name]}"), name)
