"""What a network's weights are before the first step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from iseparate.data.statistics import Transform, cached_statistics
from iseparate.data.track import Track
from iseparate.errors import UsageError
from iseparate.models._base import SeparationModel
from iseparate.nn.fit import check_fit
from iseparate.train.average import averaged_tensors
from iseparate.train.checkpoint import read_checkpoint
from iseparate.train.module import LAST
from iseparate.train.recipe import Recipe
from iseparate.weights.load import read_weights

CHECKPOINT = ".ckpt"


def draw_weights(network: nn.Module, how: str) -> None:
    """Draw the weights anew where a recipe asks for other than the layers' own way.

    ``xavier_normal``: of convolutions and linear layers, whose biases become 0 (Glorot and Bengio, AISTATS 2010).
    """
    if how == "default":
        return
    for module in network.modules():
        if isinstance(module, _ConvNd | nn.Linear):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def load_initial(network: SeparationModel, arch: str, path: Path) -> None:
    """Give a network the weights of another training: of its first moving average, if it has one.

    Args:
        network: of the same architecture and Config.
        arch: its name.
        path: a checkpoint of ``iseparate train``, or a weights file of ours.

    Raises:
        TrainingError, CheckpointError: it is none, or does not fit.
    """
    if path.suffix == CHECKPOINT:
        checkpoint = read_checkpoint(path)
        prefix = "network."
        of, weights = str(checkpoint["iseparate"]["arch"]), checkpoint["state_dict"]
        state: dict[str, Tensor] = {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
        state |= averaged_tensors(checkpoint) or {}
    else:
        file = read_weights(path)
        of, state = file.arch, file.state
    if of != arch:
        raise UsageError(f"{path} is of the architecture {of}, and the recipe's network is {arch}; name another one")
    check_fit(str(path), network.state_dict(), state)
    network.load_state_dict(state)


def set_statistics(
    network: SeparationModel, songs: Sequence[Track], data_hash: str, report: Callable[[str], None]
) -> None:
    """Scale the input by the spectra of the songs that are trained on; UsageError, AudioError.

    `data_hash` tells their mixtures from others of the same names: files, and the stems that are heard.
    """
    transform = network.input_transform
    if transform is None:
        raise UsageError("the recipe says initialise: input_statistics, but this network scales no input; leave it out")

    def tell(done: int, total: int, title: str) -> None:  # nobody calls it where they are at hand
        del title
        if not done:
            report(f"statistics of {total} songs are being computed; they are kept for later trainings")

    statistics = cached_statistics(songs, data_hash, Transform(*transform), progress=tell)
    network.set_input_statistics(torch.from_numpy(statistics.mean).float(), torch.from_numpy(statistics.scale).float())


def check_start(recipe: Recipe, initial: Path | None) -> None:
    """Raise UsageError where a recipe goes on with a trained network that was not named, or that is no file."""
    if recipe.starts_from is not None and initial is None:
        raise UsageError(
            f"{recipe.name} goes on with the trained network of {recipe.starts_from}; train that one first and name "
            "its checkpoint by --start-from"
        )
    if initial is not None and initial.is_dir():
        inside = [*sorted(initial.glob(f"best-*{CHECKPOINT}"), reverse=True), initial / LAST]
        named = next((f"such as {path}" for path in inside if path.is_file()), "or a weights file")
        raise UsageError(f"{initial} is a folder, and training on takes a file; name a checkpoint, {named}")
    if initial is not None and not initial.is_file():
        raise UsageError(f"there is no file {initial} to train on from; name a checkpoint or a weights file")
