"""The TasNet family: a learned filterbank, masks on its outputs, and a learned filterbank back.

What Conv-TasNet, DPRNN and the TasNet of LSTMs share around the network that makes the masks: framing, levels, what
their Config says of both, and how files of asteroid (github asteroid-team/asteroid, MIT; read at 0.7.0) tell it.

Shapes: ``[B, C, T]`` -> filters ``[B, N, frames]`` -> masks ``[B, S, N, frames]``, times the filters' output ->
frames ``[B, S, C, frames, L]``, overlapped -> ``[B, S, C, T]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iseparate.errors import CheckpointError
from iseparate.models._base import SeparationModel
from iseparate.nn.framing import overlap_add, whole_frames
from iseparate.nn.norms import NormKind
from iseparate.types import Checkpoint, CheckpointFile, ModelSpec, TrackStatistics

Activation = Literal["linear", "relu", "leaky_relu", "gelu", "swish", "sigmoid", "tanh", "softmax", "softmax_filters"]
"""Of the filters' output or of masks; ``softmax`` shares each filter's output among the stems, ``softmax_filters``
makes the masks of each stem sum to 1."""

MUSIC = ("drums", "bass", "other", "vocals")
"""The order in which Demucs' authors list their stems (*code*)."""

_LARGEST = 1 << 16
"""Of a width or a length in samples: what a damaged file asks for beyond is no network."""


@dataclass(frozen=True, kw_only=True)
class TasNetConfig:
    """Filterbank and levels; a network's own Config adds its hyper-parameters."""

    stems: tuple[str, ...] = MUSIC
    sample_rate: int = 44100
    channels: int = 2
    filters: int = 256
    filter_samples: int = 20
    hop_samples: int = 10
    encoder_activation: Activation = "relu"
    mask: Activation = "relu"
    track_normalised: bool = False
    """Bring the song to mean 0 and deviation 1 (of its mono mix) before, and its stems back after."""
    any_order: bool = False
    """The stems are speakers by number, in an order of each segment's own, as training under the best permutation
    leaves it."""
    sixteen_bit: bool = False
    """Round the input to 16 bits, as the program of Demucs' first version does."""
    keep_level: bool = False
    """Scale the stems so that their absolute values add up to the mixture's: for networks trained with a loss that no
    level changes (*code*: ``asteroid.separate``). It is done segment by segment."""
    drop_tail: bool = False
    """Leave samples that fill no whole frame silent, as the published programs do. Otherwise zeros complete it."""
    segment_seconds: float = 8.0
    """Length of the engine's segments."""
    overlap: float = 0.25
    """Share of a segment in common with the next; 0: each is separated by itself."""
    closing_segment: bool = False
    """Segments start until the song's end, even where one before has reached it (the program of Demucs v2)."""

    def __post_init__(self) -> None:
        if not self.stems or len(set(self.stems)) != len(self.stems) or len(self.stems) > 64:
            raise ValueError(f"stems must be 1 to 64 different names; got {self.stems}")
        self._bound("filters", "filter_samples", "hop_samples")
        if self.channels not in (1, 2) or not 1000 <= self.sample_rate <= 384_000:
            raise ValueError(
                f"channels is {self.channels}, sample_rate {self.sample_rate}; expected 1 or 2, and 1000 to 384000 Hz"
            )
        if self.hop_samples > self.filter_samples:
            raise ValueError(f"hop_samples ({self.hop_samples}) must not exceed filter_samples ({self.filter_samples})")
        if self.encoder_activation in ("softmax", "softmax_filters"):
            raise ValueError("softmax shares among stems, of which the encoder knows nothing; it is for masks")
        if not 0 < self.segment_seconds <= 3600 or not 0 <= self.overlap < 1:
            raise ValueError(
                f"segment_seconds is {self.segment_seconds}, overlap {self.overlap}; expected more "
                "than 0 and at most 3600 seconds, and a share in [0, 1)"
            )

    def _bound(self, *names: str, least: int = 1, most: int = _LARGEST) -> None:
        for name in names:
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; expected {least} to {most}")


class TasNet(SeparationModel):
    """Everything but the network between the filterbanks.

    Subclasses set `separator`, filters' output ``[B, N, frames]`` -> masks ``[B, S, N, frames]``.

    Args:
        config: a Config of the subclass.
        encoders: how many filters there are for each output of the encoder: two where one gates the other.
    """

    config: TasNetConfig
    separator: nn.Module
    kernels: tuple[str, ...] = ("separator",)

    def __init__(self, config: TasNetConfig, encoders: int = 1):
        super().__init__()
        self.config = config
        self.spec = ModelSpec(
            stems=config.stems,
            sample_rate=config.sample_rate,
            channels=config.channels,
            default_segment_seconds=config.segment_seconds,
            default_overlap=config.overlap,
            window="triangular" if config.overlap else "rectangular",
            starts_to_the_end=config.closing_segment,
            track_statistics="mono_mean_std" if config.track_normalised else "none",
            stems_in_any_order=config.any_order and len(config.stems) > 1,
            couples=(config.stems,) if len(config.stems) > 1 else (),
            # A mean that is taken off the song is there in its silent parts.
            silence_to_silence=not config.track_normalised,
        )
        filters = encoders * config.filters
        self.encoder = nn.Conv1d(config.channels, filters, config.filter_samples, config.hop_samples, bias=False)
        self.decoder = nn.Linear(config.filters, config.channels * config.filter_samples, bias=False)
        for bank in (self.encoder, self.decoder):
            nn.init.xavier_normal_(bank.weight)

    def forward(self, mix: Tensor, track: TrackStatistics | None = None) -> Tensor:
        """``[B, C, T]`` -> ``[B, S, C, T]``."""
        if self.config.sixteen_bit:
            mix = (mix * 32768).round().clamp(-32768, 32767) / 32768
        mean, std = self._statistics(mix, track)
        heard = (mix - mean) / std if self.config.track_normalised else mix
        stems = self._separated(heard)
        if self.config.keep_level:
            level = stems.abs().sum((1, 2, 3))
            gain = heard.abs().sum((1, 2)) / torch.where(level > 0, level, 1.0)
            stems = stems * gain[:, None, None, None]
        return stems * std[:, None] + mean[:, None] if self.config.track_normalised else stems

    def _statistics(self, mix: Tensor, track: TrackStatistics | None) -> tuple[Tensor, Tensor]:
        """Mean and deviation, ``[B, 1, 1]``; the deviation of silence is 1, which leaves it silent."""
        if not self.config.track_normalised:
            return mix.new_zeros(1, 1, 1), mix.new_ones(1, 1, 1)
        if track is None:
            mono = mix.mean(1, keepdim=True)
            mean = mono.mean(2, keepdim=True)
            # Unbiased, as the reference's; one sample has no deviation.
            std = mono.std(2, keepdim=True) if mono.shape[2] > 1 else torch.zeros_like(mean)
        else:
            mean, std = (mix.new_full((1, 1, 1), value) for value in (track.mean, track.std))
        return mean, torch.where(std > 0, std, 1.0)

    def _separated(self, mix: Tensor) -> Tensor:
        samples, frame, hop = mix.shape[-1], self.config.filter_samples, self.config.hop_samples
        framed = mix if self.config.drop_tail and samples >= frame else _padded(mix, whole_frames(samples, frame, hop))
        return _padded(self.separate_frames(framed), samples)

    def separate_frames(self, mix: Tensor) -> Tensor:
        """``[B, C, T]`` of one frame at least -> ``[B, S, C, t]``, t <= T: as long as its whole frames reach."""
        filtered = self.encode(mix)
        masks: Tensor = self.separator(filtered)
        masked = masks * filtered[:, None] if torch.is_grad_enabled() else masks.mul_(filtered[:, None])
        # Filters stay on their axis: `masked` is the largest tensor there is, and turning it would copy it.
        frames = torch.unflatten(self.decoder.weight @ masked, 2, (self.config.channels, -1)).mT
        return overlap_add(frames, self.config.hop_samples)

    def encode(self, mix: Tensor) -> Tensor:
        """``[B, C, T]`` -> the filters' output ``[B, N, frames]``."""
        return activate(self.encoder(mix), self.config.encoder_activation)


def activate(x: Tensor, kind: Activation) -> Tensor:
    """Stems, if any, are on axis 1."""
    match kind:
        case "linear":
            return x
        case "relu":
            return F.relu_(x)
        case "leaky_relu":
            return F.leaky_relu(x)
        case "gelu":
            return F.gelu(x)
        case "swish":
            return F.silu(x)
        case "sigmoid":
            return torch.sigmoid(x)
        case "tanh":
            return torch.tanh(x)
        case "softmax":
            return torch.softmax(x, 1)
        case "softmax_filters":
            return torch.softmax(x, 2)


def _padded(x: Tensor, samples: int) -> Tensor:
    """Cut off, or continued with zeros."""
    return x if x.shape[-1] == samples else F.pad(x, (0, samples - x.shape[-1]))


# Reading checkpoints.


def renamed(
    what: str, state: Mapping[str, Tensor], table: Iterable[tuple[str, str]], dropped: Mapping[str, str]
) -> dict[str, Tensor]:
    """A checkpoint's tensors under our names.

    Args:
        what: the system's name, for the error.
        state: the tensors under theirs.
        table: patterns of their names, and what replaces them.
        dropped: patterns of names that are left out, and why.

    Raises:
        CheckpointError: a tensor is in neither table.
    """
    ours = {}
    patterns = [(re.compile(theirs), name) for theirs, name in table]
    for key, tensor in state.items():
        if any(re.fullmatch(pattern, key) for pattern in dropped):
            continue
        found = next(((match, name) for pattern, name in patterns if (match := pattern.fullmatch(key))), None)
        if found is None:
            raise CheckpointError(f"the checkpoint holds a tensor that {what} has not: {key[:120]}")
        ours[found[0].expand(found[1])] = tensor
    return ours


class AsteroidFile:
    """One of asteroid's serialized models: its name, its arguments and its tensors, in one file.

    Raises CheckpointError where an argument is none that the network could have been built with.
    """

    def __init__(self, files: Checkpoint):
        if len(files) != 1 or not all(_serialized(file) for file in files.values()):
            named = ", ".join(files) or "no file"
            raise CheckpointError(
                f"{named} is no serialized model of asteroid; give one file, as its serialize() makes"
            )
        file = next(iter(files.values()))
        self._arguments: dict[str, Any] = file.metadata["model_args"]
        prefix = "state_dict."
        self.state: dict[str, Tensor] = {
            name.removeprefix(prefix): t for name, t in file.tensors.items() if name.startswith(prefix)
        }
        self._name = file.name

    @staticmethod
    def is_of(files: Checkpoint, model_name: str) -> bool:
        """True where these files are one serialized model of that name."""
        return len(files) == 1 and all(_serialized(file) == model_name for file in files.values())

    def number(self, name: str, default: int | None, least: int = 1) -> int:
        """A whole number; where the file has none, asteroid's default."""
        value = self._arguments.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= 1 << 20:
            raise self._fault(name, f"a whole number from {least}")
        if value != int(value):
            raise self._fault(name, "a whole number")
        return int(value)

    def is_none(self, name: str) -> bool:
        """Whether the file says that there is none, which for some arguments is not asteroid's default."""
        return name in self._arguments and self._arguments[name] is None

    def flag(self, name: str, default: bool) -> bool:
        """Yes or no."""
        value = self._arguments.get(name, default)
        if value not in (True, False):
            raise self._fault(name, "true or false")
        return bool(value)

    def word(self, name: str, default: str, known: Mapping[str, Any]) -> Any:
        """What a word stands for."""
        value = self._arguments.get(name) or default
        if not isinstance(value, str) or value not in known:
            raise self._fault(name, " or ".join(known))
        return known[value]

    def norm(self) -> NormKind:
        """The kind of normalisation, of which asteroid knows each by two names."""
        norm: NormKind = self.word("norm_type", "gLN", _NORMS)
        return norm

    def settings(self, filters: int, mask: Activation) -> dict[str, Any]:
        """What `TasNetConfig` needs; `filters` and `mask` are the class's defaults."""
        self.word("fb_name", "free", {"FreeFB": True, "free": True})
        for name in ("padding", "output_padding", "who_is_pinv"):
            if self._arguments.get(name):
                raise self._fault(name, "none")
        bank, length = self.number("n_filters", filters), self.number("kernel_size", 16)
        for name in ("in_chan", "out_chan"):
            if self.number(name, bank) != bank:
                raise self._fault(name, f"{bank}, the number of filters")
        # Of a mixture of speakers nobody knows who is who.
        stems = tuple(f"speaker{i + 1}" for i in range(min(self.number("n_src", None), 65)))
        activations = {n: n for n in ("linear", "relu", "leaky_relu", "gelu", "swish", "sigmoid", "tanh")}
        return {
            "stems": stems,
            "any_order": True,
            "sample_rate": self.number("sample_rate", 8000),
            "channels": 1,
            "filters": bank,
            "filter_samples": length,
            "hop_samples": self.number("stride", max(1, length // 2)),
            "encoder_activation": self.word("encoder_activation", "linear", activations),
            "mask": self.word("mask_act", mask, activations | {"softmax": "softmax"}),
            "keep_level": True,
        }

    def renamed(
        self,
        what: str,
        table: Iterable[tuple[str, str]],
        dropped: Mapping[str, str] | None = None,
        state: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """As the function `renamed`, of its tensors or `state`; the decoder ``[N, 1, L]`` turned to ``[L, N]``."""
        ours = renamed(what, self.state if state is None else state, table, dropped or {})
        filters = ours.get("decoder.weight")
        if filters is not None:
            if filters.ndim < 2:
                raise CheckpointError(
                    f"the decoder's filters have the shape {list(filters.shape)}; expected [filters, 1, samples]"
                )
            ours["decoder.weight"] = filters.flatten(1).T.contiguous()
        return ours

    def _fault(self, name: str, expected: str) -> CheckpointError:
        came = str(self._arguments.get(name))[:60]
        return CheckpointError(f"{self._name} was built with {name} {came!r}; expected {expected}")


NORM_PARTS = (
    ("gamma", "weight"),
    ("beta", "bias"),
    *((name, name) for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
)
"""Their names and ours: of layer normalisations, and of batch normalisations, which are PyTorch's own."""
_NORMS: Mapping[str, NormKind] = {
    "gLN": "global",
    "cLN": "channel",
    "cgLN": "cumulative",
    "fgLN": "feature",
    "bN": "batch",
    "GlobLN": "global",
    "ChanLN": "channel",
    "CumLN": "cumulative",
    "FeatsGlobLN": "feature",
    "BatchNorm": "batch",
}


def _serialized(file: CheckpointFile) -> str | None:
    """The model's name, of a file as asteroid's ``serialize`` makes them."""
    content = file.metadata
    if file.format != "torch" or not isinstance(content, dict) or not isinstance(content.get("model_args"), dict):
        return None
    name = content.get("model_name")
    return name if isinstance(name, str) and isinstance(content.get("state_dict"), dict) else None


def refusing(make: Any, **values: Any) -> Any:
    """A Config; CheckpointError where the checkpoint's values make none."""
    try:
        return make(**values)
    except ValueError as error:
        raise CheckpointError(f"the checkpoint's sizes make no network: {error}") from error
