"""The systems of the literature as facts: what `iseparate.build_model` builds, for which stems, of what size.

Counting parameters takes building every network once, which is seconds; the counts are kept in the user's cache until
the code of the networks changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources

from iseparate.cache_folder import cache_folder
from iseparate.whole_file import write_whole


@dataclass(frozen=True)
class PublishedSystem:
    """One system of the literature's tables, as `build_model` builds it."""

    name: str
    arch: str
    summary: str
    stems: tuple[str, ...]
    parameters: int
    """Trainable numbers of all its networks."""
    domain: str
    """spectrogram, waveform or hybrid."""
    paper: str
    """Authors, venue and year, address."""
    reconstruction: bool
    """True where a hyper-parameter had to be inferred."""


@cache
def published_systems() -> tuple[PublishedSystem, ...]:
    """Every system of the literature that can be built, in the order of the architectures."""
    path = cache_folder() / "systems" / f"{_code_sha256()}.json"
    with suppress(OSError, ValueError, TypeError):
        rows = json.loads(path.read_text(encoding="utf-8"))
        return tuple(PublishedSystem(**{**row, "stems": tuple(row["stems"])}) for row in rows)
    found = tuple(_counted())
    with suppress(OSError):  # a cache that cannot be written costs the next run its seconds
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob("*.json"):
            stale.unlink()
        write_whole(path, json.dumps([asdict(system) for system in found]))
    return found


def _counted() -> Iterator[PublishedSystem]:
    from iseparate.models._registry import architectures
    from iseparate.weights.load import bare_model

    for arch in architectures().values():
        for name, config in arch.published.items():
            model = bare_model(arch, config)
            yield PublishedSystem(
                name=name,
                arch=arch.name,
                summary=arch.summary,
                stems=model.spec.stems,
                parameters=sum(parameter.numel() for parameter in model.parameters()),
                domain=arch.domain,
                paper=arch.paper_of(name),
                reconstruction=arch.is_reconstruction(name),
            )


def _code_sha256() -> str:
    digest = hashlib.sha256()
    for room in ("models", "nn"):
        folder = resources.files("iseparate") / room
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if file.name.endswith(".py"):
                digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
