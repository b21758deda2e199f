"""The processes that train together, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Processes:
    """How many there are, and which this one is."""

    world: int = 1
    rank: int = 0
    local: int = 1
    """How many of them run on this machine."""

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Processes:
        """As torchrun tells it. Without torchrun there is one, whatever a cluster puts into WORLD_SIZE."""
        if "TORCHELASTIC_RUN_ID" not in environment:
            return cls()
        return cls(*(int(environment[name]) for name in ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE")))

    @property
    def is_first(self) -> bool:
        """The one that writes and speaks."""
        return self.rank == 0
