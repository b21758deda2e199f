"""TasNet: masks by a stack of LSTMs, on the outputs of gated learned filters.

Paper: Y. Luo, N. Mesgarani, "TasNet: Time-domain Audio Separation Network for Real-time, Single-channel Speech
Separation", ICASSP 2018, arXiv 1711.00541. Reference code: asteroid 0.7.0, ``asteroid/models/lstm_tasnet.py`` (github
asteroid-team/asteroid, MIT), which differs from the paper; the authors published none.

Shapes: ``[B, 1, T]`` -> frames, each brought to unit energy (the paper's only) -> filters ``[B, N, frames]``, which as
many more filters gate: relu(U x) * sigmoid(V x) -> norm -> LSTM layers -> masks ``[B, S, N, frames]`` -> frames, each
brought back to its energy.

A reconstruction for music: the paper separates two speakers at 8 kHz. Frames of 5 ms that do not overlap, 500 filters,
four layers of 500 cells per direction, the identity past the upper two, a norm of each frame's filters and masks that
sum to 1 are *paper*; four stems at 44.1 kHz (5 ms are 220 samples there), sides one by one, are *inferred*. No score
on music was published.

Deviations: by default zeros complete the last frame. Songs run in segments of 8 s that overlap by a quarter, since an
LSTM's memory has no bound. asteroid's files: frames of any level that overlap, one stack without the identity, a norm
of the whole segment, a mask that need not sum to 1; its softmax, which runs along time by mistake, is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from iseparate.errors import CheckpointError
from iseparate.models._registry import register
from iseparate.models._tasnet import (
    Activation,
    AsteroidFile,
    TasNet,
    TasNetConfig,
    activate,
    refusing,
)
from iseparate.nn.norms import NormKind, layer_norm
from iseparate.types import Checkpoint

_SILENT = 1e-8
"""Added to the level of a frame before it is divided by: what is that low stays low."""


@dataclass(frozen=True, kw_only=True)
class Config(TasNetConfig):
    """Hyper-parameters; which are the paper's and which inferred says the docstring of the file."""

    channels: int = 1
    filters: int = 500
    filter_samples: int = 220
    hop_samples: int = 220
    encoder_activation: Activation = "linear"
    """Of the gated output, which is not negative already."""
    mask: Activation = "softmax"
    unit_frames: bool = True
    """Each frame is brought to an energy of 1, and its stems back."""
    hidden: int = 500
    """Cells of each layer and direction."""
    layers: int = 4
    identity: bool = True
    """What the lower half of the layers gives is added to what the upper half gives."""
    bidirectional: bool = True
    dropout: float = 0.0
    """Between layers, in training."""
    norm: NormKind = "channel"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._bound("hidden")
        self._bound("layers", most=64)
        if self.unit_frames and self.hop_samples != self.filter_samples:
            raise ValueError(
                f"hop_samples is {self.hop_samples}, filter_samples {self.filter_samples}; frames of unit energy must "
                "not overlap"
            )
        if self.identity and (self.layers < 2 or self.layers % 2):
            raise ValueError(f"layers is {self.layers}; expected an even number, for an identity past the upper half")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; expected a share in [0, 1)")

    @classmethod
    def tiny(cls) -> Config:
        """A network of the same shape that runs in milliseconds, for tests."""
        return cls(stems=("vocals", "other"), filters=12, filter_samples=20, hop_samples=20, hidden=8)


class Separator(nn.Module):
    """The filters' output ``[B, N, frames]`` -> masks ``[B, S, N, frames]``."""

    def __init__(self, config: Config):
        super().__init__()
        self._stems, self._activation = len(config.stems), config.mask
        self.norm = layer_norm(config.norm, config.filters)
        width = config.hidden * (2 if config.bidirectional else 1)
        stacks = 2 if config.identity else 1
        layers = config.layers // stacks
        self.stacks = nn.ModuleList(
            nn.LSTM(
                width if i else config.filters,
                config.hidden,
                layers,
                dropout=config.dropout if layers > 1 else 0.0,
                bidirectional=config.bidirectional,
            )
            for i in range(stacks)
        )
        self.mask = nn.Linear(width, self._stems * config.filters)

    def forward(self, filtered: Tensor) -> Tensor:
        lower, *upper = self.stacks
        x = lower(self.norm(filtered).permute(2, 0, 1))[0]
        for stack in upper:
            x = x + stack(x)[0]
        scores = self.mask(x).permute(1, 2, 0).unflatten(1, (self._stems, -1))
        return activate(scores, self._activation)


class AsteroidCheckpoint:
    """asteroid's serialized ``LSTMTasNet``."""

    name = "TasNet, asteroid"

    def recognises(self, files: Checkpoint) -> bool:
        return AsteroidFile.is_of(files, "LSTMTasNet")

    def convert(self, files: Checkpoint) -> tuple[Config, dict[str, Tensor]]:
        file = AsteroidFile(files)
        settings = file.settings(filters=64, mask="sigmoid")
        if settings["mask"] == "softmax":
            raise CheckpointError("asteroid's softmax masks of this model share along time by mistake; not read here")
        both = file.flag("bidirectional", True)
        # rnn_type is not asked: whatever it says, its cells are of the LSTM.
        config: Config = refusing(
            Config,
            **settings,
            unit_frames=False,
            hidden=file.number("hid_size", 512),
            layers=file.number("n_layers", 4),
            identity=False,
            bidirectional=both,
            dropout=0.3,  # of its default; it changes training only
            norm="global" if both else "cumulative",
        )
        state = file.renamed("TasNet", _ASTEROID, _DROPPED)
        banks = [state.pop(name, torch.zeros(0)) for name in ("encoder.weight", "gate.weight")]
        if banks[0].shape[1:] != banks[1].shape[1:]:
            raise CheckpointError(
                f"its two banks of filters have shapes {', '.join(str(list(b.shape)) for b in banks)}"
            )
        return config, state | {"encoder.weight": torch.cat(banks)}


@register(
    "lstm_tasnet",
    config=Config,
    paper="Luo, Mesgarani, ICASSP 2018, https://arxiv.org/abs/1711.00541",
    domain="waveform",
    importers=(AsteroidCheckpoint(),),
    published={"tasnet": Config()},
    reconstruction=True,
)
class LstmTasNet(TasNet):
    """The published system."""

    config: Config

    def __init__(self, config: Config):
        super().__init__(config, encoders=2)
        self.separator = Separator(config)

    def encode(self, mix: Tensor) -> Tensor:
        """As the base, gated by the second half of the filters."""
        filtered, gate = self.encoder(mix).chunk(2, 1)
        return activate(torch.relu(filtered) * torch.sigmoid(gate), self.config.encoder_activation)

    def separate_frames(self, mix: Tensor) -> Tensor:
        """As the base, each frame at unit energy where the Config says so."""
        if not self.config.unit_frames:
            return super().separate_frames(mix)
        frame = self.config.filter_samples
        frames = torch.unflatten(mix[..., : mix.shape[-1] // frame * frame], -1, (-1, frame))
        # The root of 0 has no slope to learn by.
        level = (frames.square().sum((1, 3), keepdim=True) + _SILENT**2).sqrt()
        stems = super().separate_frames((frames / level).flatten(-2))
        return (torch.unflatten(stems, -1, (-1, frame)) * level[:, None]).flatten(-2)


# Reading checkpoints.

_PARTS = (("gamma", "weight"), ("beta", "bias"))
_ASTEROID = (
    (r"encoder\.encoder_relu\.filterbank\._filters", "encoder.weight"),
    (r"encoder\.encoder_sig\.filterbank\._filters", "gate.weight"),
    (r"decoder\.filterbank\._filters", "decoder.weight"),
    (r"masker\.masker\.0\.rnn\.(\w+)", r"separator.stacks.0.\1"),
    (r"masker\.masker\.1\.(\w+)", r"separator.mask.\1"),
    *((rf"masker\.bn_layer\.{theirs}", f"separator.norm.{ours}") for theirs, ours in _PARTS),
)
_DROPPED = {r"encoder\.filterbank\._filters": "the first bank once more, under its other name"}
