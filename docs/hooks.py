"""What mkdocs runs before a build: the pages that are made, not written."""

from __future__ import annotations

from typing import Any

import make_cli
import make_recipes
import make_tables
import make_zoo


def on_pre_build(config: Any) -> None:
    """Make the pages of the model zoo, of the literature's tables, of the recipes and of the command line."""
    del config
    make_zoo.write()
    make_tables.write()
    make_recipes.write()
    make_cli.write()


def on_page_content(html: str, **_: Any) -> str:
    """Drop the double colon that marks a block of text in a docstring: here the block is seen."""
    return html.replace(" ::</p>", "</p>")
