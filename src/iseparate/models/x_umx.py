"""X-UMX (CrossNet-Open-Unmix): Open-Unmix whose networks meet twice on the way.

Paper: R. Sawata, S. Uhlich, S. Takahashi, Y. Mitsufuji, "All for One and One for All: Improving Music Separation by
Bridging Networks", ICASSP 2021, arXiv 2010.04228; the large model: Sawata et al. 2023, arXiv 2305.07855. Reference
code: github sony/ai-research-code at cfe96df, ``x-umx`` (nnabla, Apache 2.0), and github asteroid-team/asteroid,
``asteroid/models/x_umx.py`` (PyTorch, MIT).

Shapes: as Open-Unmix, ``[B, C, frames, bins]`` -> ``[B, S, C, frames, bins]``, but what goes into the recurrent
layers is the mean over all targets' encoders, and what goes into the decoders is the mean over all targets of
encoder output beside LSTM output. So no target can run without the others. The means have no parameters.

Hyper-parameters are umxhq's, the order of targets Sony's (*code*: ``x-umx/args.py``). The filter is norbert 0.2.1's
(*code*: ``x-umx/test.py``): one EM step from the mixture's phase.

Deviations: the ``-official`` setting of Sony's weights is Sony's command line: chunks of 30 s (*code*:
``--chunk-dur``) that neither overlap nor share statistics, the filter over a whole chunk in float64. The original's
inverse transform stops at the last whole hop of a chunk, so that its stems get 1016 samples shorter, and later, with
each chunk; ours keep their place. asteroid's evaluation takes the whole song at once (its ``-official``). The default
overlaps segments and filters in windows of 300 frames, as Open-Unmix does here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from iseparate.errors import CheckpointError
from iseparate.models import open_unmix
from iseparate.models._registry import register
from iseparate.models.open_unmix import OpenUnmix, TargetNetwork, assemble, nnabla_network
from iseparate.types import Checkpoint, CheckpointFile

SOURCES = ("bass", "drums", "vocals", "other")
"""Sony's order of targets (*code*)."""


@dataclass(frozen=True, kw_only=True)
class Config(open_unmix.Config):
    """Hyper-parameters. All defaults are the published X-UMX's (*code*)."""

    targets: tuple[str, ...] = SOURCES
    wiener_rule: Literal["norbert", "open_unmix", "sony"] = "norbert"


class CrossNetwork(nn.ModuleDict):
    """All targets' networks and the bridges: ``[B (*) C, frames, bins]`` -> ``[B, S, C, frames, bins]``."""

    def __init__(self, config: Config):
        super().__init__({target: TargetNetwork(config) for target in config.targets})
        self.channels = config.channels

    def forward(self, magnitudes: Tensor) -> Tensor:
        magnitudes = magnitudes.reshape(-1, self.channels, *magnitudes.shape[-2:])
        networks: list[Any] = list(self.values())
        inner = _mean([network.encode(magnitudes) for network in networks])
        recurrent = _mean([network.lstm(inner)[0] for network in networks])
        return torch.stack([network.decode(inner, recurrent, magnitudes) for network in networks], 1)


def _mean(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total / len(parts)


class NnablaCheckpoint:
    """Sony's file: the tensors of all targets, each with its target's name in its own."""

    name = "X-UMX nnabla .h5"

    def recognises(self, files: Checkpoint) -> bool:
        return len(files) == 1 and all(
            f.format == "hdf5" and any(re.fullmatch(r"fc1_\w+/affine/W", name) for name in f.tensors)
            for f in files.values()
        )

    def convert(self, files: Checkpoint) -> tuple[Config, dict[str, Tensor]]:
        file = _single(files)
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in file.tensors.items():
            # fc1_bass/affine/W, lstm_bass/lstm/bias, input_mean_bass
            match = re.fullmatch(
                r"((?:fc[123]|lstm|input_mean|input_scale|output_mean|output_scale))_(\w+?)(/.*)?", name
            )
            if not match:
                raise CheckpointError(f"{file.name} holds a tensor that X-UMX has not: {name}")
            parts.setdefault(match[2], {})[match[1] + (match[3] or "")] = tensor
        networks = {target: nnabla_network(file, tensors) for target, tensors in parts.items()}
        return _assemble(networks, _in_order(parts), {})


class AsteroidCheckpoint:
    """asteroid's file: a dict of the model's name, its arguments and its state dict; or the latter alone."""

    name = "X-UMX asteroid .pth"

    def recognises(self, files: Checkpoint) -> bool:
        return len(files) == 1 and all(
            f.format == "torch" and any(_ASTEROID_FIRST.search(name) for name in f.tensors) for f in files.values()
        )

    def convert(self, files: Checkpoint) -> tuple[Config, dict[str, Tensor]]:
        file = _single(files)
        networks: dict[str, dict[str, Tensor]] = {}
        for name, tensor in file.tensors.items():
            target, key = _asteroid_key(name.removeprefix("state_dict."), file)
            if target:
                networks.setdefault(target, {})[key] = tensor
        arguments = file.metadata.get("model_args", {}) if isinstance(file.metadata, dict) else {}
        if not isinstance(arguments, dict):
            raise CheckpointError(f"{file.name} has model_args that are no table of settings")
        given = arguments.get("sources", _in_order(networks))
        if not isinstance(given, list | tuple) or sorted(map(str, given)) != sorted(networks):
            raise CheckpointError(f"{file.name} names the sources {given}, but holds networks of {', '.join(networks)}")
        framing = {}
        for theirs, ours in (("in_chan", "frame_samples"), ("n_hop", "hop_samples"), ("sample_rate", "sample_rate")):
            value = arguments.get(theirs)
            if value is not None and (not isinstance(value, int | float) or not 1 <= value <= 1 << 20):
                raise CheckpointError(f"{file.name} has {theirs} {value!r} in its model_args; expected a whole number")
            if value is not None:
                framing[ours] = int(value)
        if arguments.get("spec_power", 1) != 1:
            raise CheckpointError(f"{file.name} wants spectra to the power {arguments['spec_power']}; only 1 is known")
        return _assemble(networks, tuple(given), framing)


@register(
    "x_umx",
    config=Config,
    paper="Sawata, Uhlich, Takahashi, Mitsufuji, ICASSP 2021, https://arxiv.org/abs/2010.04228",
    papers={"x-umxl": "Sawata et al., 2023, https://arxiv.org/abs/2305.07855"},
    domain="spectrogram",
    importers=(NnablaCheckpoint(), AsteroidCheckpoint()),
    published={"x-umx": Config(), "x-umxl": Config(hidden_size=1024)},
)
class XUmx(OpenUnmix):
    """The published system: as Open-Unmix, its networks run together."""

    config: Config
    networks: CrossNetwork
    targets_run_alone: ClassVar[bool] = False

    def build_networks(self, config: open_unmix.Config) -> None:
        """Make `networks`, one kernel."""
        assert isinstance(config, Config)
        self.networks = CrossNetwork(config)
        self.kernels = ("networks",)

    def estimate(self, magnitudes: Tensor) -> Tensor:
        """As the base, all targets at once."""
        targets: Tensor = self.networks(magnitudes.flatten(0, 1))
        return targets


# Reading checkpoints. Our names are Open-Unmix's, below networks.{target}.

_ASTEROID = (
    (r"layer_enc\.(\w+)\.enc\.0\.(weight)", "fc1"),
    (r"layer_enc\.(\w+)\.enc\.1\.(\w+)", "bn1"),
    (r"layer_lstm\.(\w+)\.(\w+)", "lstm"),
    (r"layer_dec\.(\w+)\.dec\.0\.(weight)", "fc2"),
    (r"layer_dec\.(\w+)\.dec\.1\.(\w+)", "bn2"),
    (r"layer_dec\.(\w+)\.dec\.3\.(weight)", "fc3"),
    (r"layer_dec\.(\w+)\.dec\.4\.(\w+)", "bn3"),
)
_ASTEROID_FIRST = re.compile(r"layer_enc\.\w+\.enc\.0\.weight$")
_ASTEROID_DROPPED = {
    "encoder.0.window": "the analysis window; ours is made from the Config",
    "decoder.window": "the same once more",
}


def _asteroid_key(name: str, file: CheckpointFile) -> tuple[str, str]:
    """A tensor's target and its name in ours; no target where it is dropped."""
    if name in _ASTEROID_DROPPED:
        return "", ""
    if match := re.fullmatch(r"mean_scale\.((?:in|out)put_(?:mean|scale))_(\w+)", name):
        return match[2], match[1]
    for pattern, ours in _ASTEROID:
        if match := re.fullmatch(pattern, name):
            return match[1], f"{ours}.{match[2]}"
    raise CheckpointError(f"{file.name} holds a tensor that X-UMX has not: {name}")


def _single(files: Checkpoint) -> CheckpointFile:
    if len(files) != 1:
        raise CheckpointError(f"X-UMX is published as one file; got {', '.join(files) or 'none'}")
    return next(iter(files.values()))


def _in_order(targets: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(targets, key=lambda t: SOURCES.index(t) if t in SOURCES else len(SOURCES)))


def _assemble(
    networks: Mapping[str, dict[str, Tensor]], targets: tuple[str, ...], framing: Mapping[str, Any]
) -> tuple[Config, dict[str, Tensor]]:
    config: Config
    config, state = assemble(networks, {**framing, "targets": targets}, Config)
    return config, state
