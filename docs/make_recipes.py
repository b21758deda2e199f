"""The page of the recipes, out of the recipes themselves.

    python docs/make_recipes.py

Writes ``docs/reference/recipes.md``; a build of the site does the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from iseparate.models._registry import Architecture
from iseparate.train.recipe import Recipe, load_recipe, network_config, recipe_names

PAGE = Path(__file__).parent / "reference" / "recipes.md"

INTRODUCTION = """\
---
hide: [toc]
---

<style>.md-typeset table:not([class]) :is(th, td) { min-width: 0; padding: 0.5em 0.6em }</style>

# Recipes

A recipe is a page of YAML that says how a system is trained: everything but the songs and the machine. Those below are
shipped, one for each published system and stem; this page is made of them.

Where a value comes from is part of the recipe:

- **paper**: the paper or the entry's description says so.
- **code**: published code or weights say so.
- **inferred**: neither does; a guess. The recipe is a *reconstruction* then.
- **ours**: a choice of this project, or of whoever changed it by `--set` or in a recipe of their own.

## A recipe of your own

Any file that ends in `.yaml`. It can take another as its base and say only what differs: tables are joined key by key,
everything else is replaced, and a part (loss, optimizer, schedule) of another name is replaced as a whole.

```yaml
extends: umx-vocals
name: umx-vocals-wide
title: Open-Unmix, vocals, twice as wide
model: {config: {hidden_size: 1024}}
optimizer: {lr: 5e-4}
```

A recipe is checked wholly before anything starts: keys, types, ranges, the parts that it names and their arguments, and
the network's settings. What is wrong is said with file, line and the nearest word that would do.
"""

SECTIONS = ("model", "data", "loss", "optimizer", "schedule", "initial_weights", "initialise", "loop")


def page() -> str:
    """The whole page in Markdown."""
    recipes = [load_recipe(name) for name in recipe_names()]
    found = [(recipe, *network_config(recipe)) for recipe in recipes]
    lines = [INTRODUCTION, *_overview(found)]
    found.sort(key=lambda entry: entry[1].name)
    for name, entries in groupby(found, key=lambda entry: entry[1].name):
        lines += [f"## {name} {{: #{name.replace('_', '-')} }}", ""]
        for recipe, _, _ in entries:
            lines += _section(recipe, {r.name: r for r in recipes})
    return "\n".join(lines).rstrip() + "\n"


def write() -> None:
    """Write the page, if it has changed: a server that watches the folder builds anew at each write."""
    text = page()
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        PAGE.write_text(text, encoding="utf-8")


def _overview(found: list[tuple[Recipe, Architecture, Any]]) -> Iterator[str]:
    """One row per recipe."""
    yield from ("## All of them {: #all }", "")
    yield from ("| recipe | what | system | trains | paper | code | inferred | ours |", "|" + " --- |" * 8)
    for recipe, arch, config in found:
        targets = getattr(config, "targets", None) or getattr(config, "stems", ())
        title = recipe.title + ("<br>*reconstruction*" if recipe.reconstruction else "")
        shares = [_counted(recipe).get(where, 0) for where in ("paper", "code", "inferred", "ours")]
        system = f"`{recipe.model.system}`" if recipe.model.system else f"`{arch.name}`, not published"
        cells = (
            f"[`{recipe.name}`](#{recipe.name})",
            title,
            system,
            ", ".join(targets),
            *(str(n or "") for n in shares),
        )
        yield "| " + " | ".join(cells) + " |"
    yield from ("", "The last four columns count values by where they come from.", "")


def _counted(recipe: Recipe) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for key, _ in _values(recipe):
        where = recipe.provenance_of(key) or "ours"
        counts[where] = counts.get(where, 0) + 1
    return counts


def _section(recipe: Recipe, others: Mapping[str, Recipe]) -> Iterator[str]:
    """Its values, or how they differ from those of the recipe before it that has most in common with it."""
    yield from (f"### {recipe.title} {{: #{recipe.name} }}", "")
    yield from (f"```console\n$ iseparate train {recipe.name} --data KIND:PATH -o FOLDER\n```", "")
    if recipe.reconstruction:
        yield from ("*A reconstruction.*", "")
    if recipe.notes:
        yield from (recipe.notes, "")
    yield from (f"Source: {_linked(recipe.source)}.", "")
    like = _like(recipe, others)
    if like is not None:
        own = dict(_values(recipe))
        base = dict(_values(like))
        differing = {
            key for key in own if (own[key], recipe.provenance_of(key)) != (base.get(key), like.provenance_of(key))
        }
        yield from (f"As [`{like.name}`](#{like.name}), but for:", "")
    else:
        differing = {key for key, _ in _values(recipe)}
    yield from ("| key | value | from |", "| --- | --- | --- |")
    for key, value in _values(recipe):
        if key in differing:
            yield f"| `{key}` | `{value}` | {recipe.provenance_of(key) or ''} |"
    yield ""


def _like(recipe: Recipe, others: Mapping[str, Recipe]) -> Recipe | None:
    """For the stems after a system's first one: the first."""
    name, _, last = recipe.name.rpartition("-")
    first = f"{name}-speech" if last == "noise" else f"{name}-vocals"
    return others.get(first) if last in ("drums", "bass", "other", "noise") else None


def _values(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Dotted keys and values of all that was said."""
    content = recipe.model_dump(mode="json", exclude_unset=True)
    for section in SECTIONS:
        if section in content:
            yield from _leaves(section, content[section])


def _leaves(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for inner, below in value.items():
            if below != {}:
                yield from _leaves(f"{key}.{inner}", below)
    elif isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        for index, part in enumerate(value):
            yield f"{key}.{index}", ", ".join(f"{name}: {_plain(below)}" for name, below in part.items())
    else:
        yield key, _plain(value)


def _plain(value: Any) -> str:
    """A value as YAML writes it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _linked(source: str) -> str:
    """The source with what can be looked up made a link."""
    words = []
    previous = ""
    for word in source.split():
        bare = word.rstrip(",;:.")
        rest = word[len(bare) :]
        address = {
            "github": f"https://github.com/{bare}",
            "arXiv": f"https://arxiv.org/abs/{bare}",
            "doi": f"https://doi.org/{bare}",
        }.get(previous)
        words.append(f"[{bare}]({address}){rest}" if address else word)
        previous = bare
    return " ".join(words).rstrip(".")


if __name__ == "__main__":
    write()
