"""Checkpoints of a training: written whole or not at all.

A checkpoint is a PyTorch file of tensors and plain data, which ``torch.load(weights_only=True)`` reads. Beside what
Lightning keeps (weights under ``state_dict`` with names that begin with ``network.``, optimizer, schedule, scaler,
position) it holds under ``iseparate`` what is needed to know where it comes from and to build its network:

==============  ======================================================================================================
``format``      `FORMAT`
``recipe``      the resolved recipe, as YAML; the seed is in it
``arch``        name of the architecture
``config``      its Config, by field
``data``        ``spec`` (KIND:PATH), ``manifest`` of its files (JSON, as ``data manifest`` writes it) and its
                ``manifest_sha256``, ``songs`` and ``seconds`` that were trained on
``averages``    names of the moving averages; the first is what was validated (see `iseparate.train.average`)
``baseline``    scores of the mixture as the estimate, by stem; empty where no songs were scored
``scores``      what is known of exactly these weights: ``train/loss``, ``valid/loss``, ``valid/score/STEM``, ...
``judged_by``   the metric of ``valid/score``, and how many songs it is the mean of; None where none was scored
``command``     that trained it, without paths; None where a program called `iseparate.train.fit`
``commit``      of the checkout that trained it, ``with changes`` where it was changed; None outside a checkout
``versions``    of iseparate, PyTorch and so on
``machine``     that trained it, in words
==============  ======================================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from iseparate.checkout import commit
from iseparate.errors import OutputError, TrainingError
from iseparate.machine import in_words, machine
from iseparate.train.module import LAST
from iseparate.train.recipe import Recipe
from iseparate.versions import versions

FORMAT = 1


class AtomicCheckpoints(TorchCheckpointIO):
    """A checkpoint gets its name when it is whole and on the disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        del storage_options
        path = Path(path)
        fresh = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with fresh.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except (OSError, RuntimeError) as error:
            cause = _system_error(error)
            if cause is None:
                raise  # such as a worker's death, which PyTorch raises wherever the program happens to be
            last = path.parent / LAST
            rest = f"{last} is whole, from before: make room and go on with --resume"
            raise OutputError(
                f"the checkpoint {path} cannot be written: {cause.strerror or cause}; "
                + (rest if last.exists() else "make room and start anew")
            ) from error
        finally:
            with suppress(OSError):
                fresh.unlink()


def _system_error(error: BaseException | None) -> OSError | None:
    """What the system refused; PyTorch's writer wraps it."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, as plain data on the CPU; TrainingError where it is none of ours."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        known = content["iseparate"]["format"] <= FORMAT
    except Exception as error:  # whatever a damaged or foreign file makes PyTorch raise
        raise TrainingError(
            f"{path} is not a checkpoint of `iseparate train` ({type(error).__name__}); name one, such as {LAST}"
        ) from error
    if not known:
        raise TrainingError(f"{path} was written by a newer iseparate; upgrade")
    assert isinstance(content, dict)
    return content


def about(
    recipe: Recipe,
    *,
    arch: str,
    config: Mapping[str, Any],
    data: Mapping[str, Any],
    averages: tuple[str, ...],
    command: str | None = None,
) -> dict[str, Any]:
    """What a checkpoint says of itself from the start: plain data."""
    return {
        "format": FORMAT,
        "recipe": recipe.to_yaml(),
        "arch": arch,
        "config": dict(config),
        "data": dict(data),
        "averages": list(averages),
        "command": command,
        "commit": commit(),
        "versions": versions(),
        "machine": in_words(machine()) + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
    }
