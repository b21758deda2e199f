"""From a name to a model that is ready to run: card -> verify -> import -> strict load."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from iseparate.errors import CheckpointError, IseparateError, UsageError
from iseparate.models._base import SeparationModel
from iseparate.models._registry import (
    Architecture,
    architecture,
    architectures,
    find_importer,
    published_config,
)
from iseparate.nn.fit import check_fit
from iseparate.weights.card import Card, cards_of, find_card, load_cards
from iseparate.weights.read import read_checkpoint
from iseparate.weights.source import Progress
from iseparate.weights.store import WEIGHTS_NAME, Entry, Store

FORMAT = 1
METADATA_KEY = "iseparate"


@dataclass(frozen=True)
class ReadyModel:
    """A model in eval mode, and where it comes from."""

    id: str
    """The card's id, or the file's name."""
    model: SeparationModel
    arch: str
    config: Any
    weights_sha256: str
    card: Card | None = None

    def weights(self) -> Weights:
        """What a file of our format would hold of it: its settings are the file's defaults."""
        return Weights(self.arch, dataclasses.asdict(self.config), self.model.state_dict())


@dataclass(frozen=True)
class Weights:
    """Tensors and what is needed to build their network."""

    arch: str
    config: dict[str, Any]
    state: dict[str, Tensor]


def load_model(
    name: str | Path, *, store: Store | None = None, settings: Mapping[str, Any] | None = None
) -> SeparationModel:
    """A network in eval mode: ``[B, C, T]`` -> ``[B, S, C, T]``; ``model.spec.stems`` names S.

    Args:
        name: the id of a card (fetched on first use), a file of our format, or an official checkpoint: a file, or
            the folder or common prefix of several.
        store: the cache; None: the user's.
        settings: overrides of the architecture's Config.

    Raises:
        UnknownModelError: neither a card nor a file.
        WeightsError: the weights cannot be fetched, verified, read or fitted.
        UsageError: a setting that the architecture has not.
    """
    return load_ready(name, store=store, settings=settings).model


def load_ready(
    name: str | Path,
    *,
    store: Store | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> ReadyModel:
    """As `load_model`, with the model's origin."""
    if isinstance(name, Path) or _is_path(name):
        return _load_file(Path(name), settings or {})
    card = find_card(name)
    if card.parts:
        return _load_parts(card, store or Store(), settings or {}, progress)
    entry = pull(card, store or Store(), progress)
    weights = read_weights(entry.weights_path)
    model, config = build(weights, {**card.settings, **(settings or {})})
    return ReadyModel(card.id, model, weights.arch, config, entry.weights_sha256, card)


def pull(card: Card, store: Store, progress: Progress | None = None, force: bool = False) -> Entry:
    """Make sure that a card's weights are in the cache, converted to our format."""

    def convert(files: list[Path], destination: Path) -> None:
        write_weights(destination / WEIGHTS_NAME, import_weights(files, card.arch))

    return store.pull(card, convert=convert, progress=progress, force=force)


def build_model(name: str) -> SeparationModel:
    """A network with a published system's hyper-parameters and fresh, random weights, in training mode.

    Args:
        name: of the system, such as ``"d3net-vocals"``; see `Architecture.published`.

    Raises:
        UnknownModelError: no such system, with the nearest names.
    """
    arch, config = published_config(name)
    return arch.model(config)


def import_checkpoint(
    path: str | Path, arch: str | None = None, config: Mapping[str, Any] | None = None
) -> SeparationModel:
    """A model from an official checkpoint, strictly: every tensor has its place and every place its tensor.

    Args:
        path: a file, or the folder or common prefix (TensorFlow) of several.
        arch: the architecture's name, where the files alone do not tell it.
        config: overrides of the Config that the importer found.

    Raises:
        CheckpointError: not recognised, or does not fit; says which keys and which shapes.
    """
    return build(import_weights([Path(path)], arch), config or {})[0]


def import_weights(paths: Sequence[Path], arch: str | None = None) -> Weights:
    """As `import_checkpoint`, of the files together, before a network is built of them; our own format is one too."""
    if len(paths) == 1 and _is_our_format(paths[0]):
        return _own_weights(paths[0], arch)
    files = read_checkpoint(paths)
    found, importer = find_importer(files, arch)
    config, state = importer.convert(files)
    check_fit("the checkpoint", bare_model(found, config).state_dict(), state, may_miss=_is_counter)
    return Weights(found.name, dataclasses.asdict(config), in_float32(state))


def build(weights: Weights, settings: Mapping[str, Any] | None = None) -> tuple[SeparationModel, Any]:
    """The network with its tensors, in eval mode, and its Config."""
    arch = architecture(weights.arch)
    config = make_config(arch, weights.config, CheckpointError)
    if settings:
        config = make_config(arch, {**dataclasses.asdict(config), **settings}, UsageError)
    model = bare_model(arch, config)
    check_fit("the checkpoint", model.state_dict(), weights.state, may_miss=_is_counter)
    model.load_state_dict(weights.state, strict=False, assign=True)  # strict but for counters nobody reads
    return model.eval(), config


def make_config(arch: Architecture, values: Mapping[str, Any], error: type[Exception]) -> Any:
    """A validated Config out of plain data; raises `error` in one sentence."""
    known = {field.name for field in dataclasses.fields(arch.config)}
    unknown = ", ".join(sorted(set(values) - known))
    if unknown:
        raise error(f"{arch.name} has no setting {unknown}; it has {', '.join(sorted(known))}")
    try:
        return TypeAdapter(arch.config).validate_python(dict(values))
    except ValidationError as fault:
        first = fault.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise error(f"{arch.name} cannot be built{f' with this {where}' if where else ''}: {first['msg']}") from None
    except ArithmeticError as fault:  # a Config that divides before it looks
        raise error(f"{arch.name} cannot be built with these settings: {fault}") from None


def write_weights(path: Path, weights: Weights, *, half: bool = False) -> None:
    """Write our format: safetensors with one JSON metadata entry that names architecture and Config.

    With `half`, in 16-bit floating point: half the size, eleven bits of each number, and float32 again when it is read.
    Raises UsageError where a number is too large for it.
    """
    about = {"format": FORMAT, "arch": weights.arch, "config": weights.config}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.state.items()}
    if half:
        tensors = {name: _halved(name, tensor) for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={METADATA_KEY: json.dumps(about)})


def read_weights(path: Path) -> Weights:
    """Read our format; CheckpointError where it is not that."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[METADATA_KEY])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if about["format"] > FORMAT:
            raise CheckpointError(f"{path} was written by a newer iseparate (format {about['format']}); upgrade")
        if about["arch"] not in architectures():
            raise CheckpointError(
                f"{path} is of the architecture {about['arch']!r}, which this iseparate has not; upgrade"
            )
        return Weights(about["arch"], dict(about["config"]), state)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not a weights file of iseparate: {error}") from error


def _halved(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    halved = tensor.half()
    if not halved.isfinite().all():
        raise UsageError(f"{name} holds numbers beyond 65504, which 16 bits cannot; leave --half out")
    return halved


def _own_weights(path: Path, arch: str | None = None) -> Weights:
    """A file of our format that came from outside."""
    weights = read_weights(path)
    if arch is not None and weights.arch != arch:
        raise CheckpointError(f"{path} is of the architecture {weights.arch}; expected {arch}")
    return replace(weights, state=in_float32(weights.state))


def _load_parts(card: Card, store: Store, settings: Mapping[str, Any], progress: Progress | None) -> ReadyModel:
    """A bundle of the models that its card names, each as it is by itself."""
    ready = [load_ready(part.id, store=store, progress=progress) for part in cards_of(card)]
    parts = [{"arch": one.arch, "config": dataclasses.asdict(one.config)} for one in ready]
    state = {f"parts.{number}.{k}": v for number, one in enumerate(ready) for k, v in one.model.state_dict().items()}
    model, config = build(Weights(card.arch, {"parts": parts}, state), {**card.settings, **settings})
    digest = hashlib.sha256("".join(one.weights_sha256 for one in ready).encode()).hexdigest()
    return ReadyModel(card.id, model, card.arch, config, digest, card)


def _load_file(path: Path, settings: Mapping[str, Any]) -> ReadyModel:
    if _is_our_format(path):
        weights = _own_weights(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    else:
        weights = import_weights([path])
        digest = _state_sha256(weights.state)
    model, config = build(weights, settings)
    return ReadyModel(path.stem, model, weights.arch, config, digest)


class _NoInitialisation(TorchFunctionMode):
    """Leaves new parameters as they are allocated.

    The checkpoint overwrites them all. Pages that nobody writes to cost nothing, so a hostile Config that asks for
    a huge network is refused by its shapes before it has taken memory. (The meta device would do that too, but
    drags in half of PyTorch's compiler: a second of CPU time.)
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == nn.init.__name__:
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **(kwargs or {}))


def bare_model(arch: Architecture, config: Any) -> SeparationModel:
    """The network without values: for what it is made of, or to be filled; CheckpointError where it cannot be."""
    try:
        with _NoInitialisation():
            return arch.model(config)
    except IseparateError:
        raise
    except ValueError as error:  # parts of a bundle that do not fit together
        raise CheckpointError(f"{arch.name} cannot be built: {error}") from None
    except (RuntimeError, MemoryError) as error:
        raise CheckpointError(f"a network of this size cannot be built here: {error}") from error


def in_float32(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What networks compute in, whatever the file saved space with; CheckpointError where a tensor is no numbers."""
    return {name: _as_float32(name, tensor) for name, tensor in state.items()}


def _as_float32(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        if _is_counter(name):
            return tensor
        raise CheckpointError(f"the checkpoint's {name} holds {tensor.dtype}, not floating-point numbers")
    if not tensor.isfinite().all():
        raise CheckpointError(f"the checkpoint's {name} holds NaN or infinity: it is damaged, or its training failed")
    return tensor.float()


def _is_counter(name: str) -> bool:
    """Batch normalisation counts training batches; most formats leave the count out, and nothing here reads it."""
    return name.endswith("num_batches_tracked")


def _is_our_format(path: Path) -> bool:
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return METADATA_KEY in (file.metadata() or {})
    except SafetensorError:
        return False


def _is_path(name: str) -> bool:
    """A card's id comes first; anything else that lies there, or is written as a path, is one."""
    return name not in load_cards() and (os.sep in name or "/" in name or os.path.exists(name))  # noqa: PTH110 - Path's raises for a name that is too long


def _state_sha256(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
