"""The table of architectures: filled by the files beside this one, read by everything above."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, Protocol, TypeVar

from torch import Tensor

from iseparate import models
from iseparate.errors import CheckpointError, UnknownModelError
from iseparate.models._base import SeparationModel
from iseparate.types import Checkpoint

Domain = Literal["spectrogram", "waveform", "hybrid"]
"""What a network looks at."""


class Importer(Protocol):
    """Reads one kind of foreign checkpoint. Both methods are pure: files in, data out."""

    name: str

    def recognises(self, files: Checkpoint) -> bool:
        """True where these files are of this kind."""

    def convert(self, files: Checkpoint) -> tuple[Any, dict[str, Tensor]]:
        """The architecture's Config and a state dict that loads strictly; CheckpointError where it will not fit."""


@dataclass(frozen=True)
class Architecture:
    """One entry of the table."""

    name: str
    model: Callable[[Any], SeparationModel]
    config: type[Any]
    importers: tuple[Importer, ...]
    paper: str
    """Authors, venue or year, and last its address."""
    domain: Domain
    papers: Mapping[str, str] = field(default_factory=dict)
    """The paper of each system in `published` that has one of its own."""
    published: Mapping[str, Any] = field(default_factory=dict)
    """The Configs of the literature, by name."""
    reconstruction: bool = False
    """True where a hyper-parameter had to be inferred, since neither paper nor code gives it."""
    reconstructions: tuple[str, ...] = ()
    """Those in `published` of which that is true, where it is not true of all."""

    def is_reconstruction(self, system: str) -> bool:
        """Whether something of one of the `published` systems had to be inferred."""
        return self.reconstruction or system in self.reconstructions

    @property
    def summary(self) -> str:
        """The first line of the architecture's file."""
        module = sys.modules[self.model.__module__]
        return (module.__doc__ or self.name).strip().splitlines()[0]

    def paper_of(self, system: str) -> str:
        """Where one of the `published` systems is described."""
        return self.papers.get(system, self.paper)


Model = TypeVar("Model", bound=type[SeparationModel])

_TABLE: dict[str, Architecture] = {}


def register(
    name: str,
    *,
    config: type[Any],
    paper: str,
    domain: Domain,
    importers: tuple[Importer, ...] = (),
    papers: Mapping[str, str] | None = None,
    published: Mapping[str, Any] | None = None,
    reconstruction: bool = False,
    reconstructions: tuple[str, ...] = (),
) -> Callable[[Model], Model]:
    """Put the decorated network into the table under `name`; see `Architecture` for what is told of it."""

    def add(model: Model) -> Model:
        if name in _TABLE:
            raise ValueError(f"two architectures are registered as {name!r}")
        _TABLE[name] = Architecture(
            name,
            model,
            config,
            importers,
            paper,
            domain,
            papers or {},
            published or {},
            reconstruction,
            reconstructions,
        )
        return model

    return add


@cache
def architectures() -> dict[str, Architecture]:
    """Every architecture by name."""
    for module in pkgutil.iter_modules(models.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{models.__name__}.{module.name}")
    return dict(sorted(_TABLE.items()))


def architecture(name: str) -> Architecture:
    """The architecture registered as `name`; UnknownModelError with the nearest names."""
    table = architectures()
    if name not in table:
        near = difflib.get_close_matches(name, table, n=3) or list(table)
        raise UnknownModelError(f"no architecture is called {name!r}; there is {', '.join(near)}")
    return table[name]


def published_config(name: str) -> tuple[Architecture, Any]:
    """The architecture and Config that the literature knows as `name`; UnknownModelError with the nearest names."""
    table = {config: arch for arch in architectures().values() for config in arch.published}
    if name not in table:
        near = difflib.get_close_matches(name, table, n=3) or sorted(table)
        raise UnknownModelError(f"no published system is called {name!r}; there is {', '.join(near)}")
    return table[name], table[name].published[name]


def find_importer(files: Checkpoint, arch: str | None = None) -> tuple[Architecture, Importer]:
    """The one importer that recognises these files, among those of `arch` or of all architectures."""
    candidates = [architecture(arch)] if arch else list(architectures().values())
    fitting = [(a, i) for a in candidates for i in a.importers if i.recognises(files)]
    names = _few(list(files)) or "no files"
    if not fitting:
        if arch:
            kinds = ", ".join(i.name for i in candidates[0].importers) or "none but our own format"
            expected = f"of {arch} these kinds are read: {kinds}"
        else:
            known = ", ".join(a.name for a in candidates if a.importers)
            expected = f"expected weights of one of the architectures {known}, as their own program saves them"
        holding = _few(sorted({name for file in files.values() for name in file.tensors})) or "no tensors"
        raise CheckpointError(f"no importer recognises this checkpoint ({names}: {holding}); {expected}")
    if len(fitting) > 1:
        several = ", ".join(f"{a.name} ({i.name})" for a, i in fitting)
        raise CheckpointError(f"several importers recognise {names}: {several}; name one with arch=")
    return fitting[0]


def _few(names: list[str], most: int = 3) -> str:
    """The first names, safe to show, and how many more there are."""
    plain = [name if name.isprintable() else ascii(name)[1:-1] for name in names[:most]]
    shown = [name if len(name) <= 60 else name[:57] + "..." for name in plain]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")
