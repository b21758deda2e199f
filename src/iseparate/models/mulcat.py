"""MulCat: dual-path recurrent blocks that multiply two LSTMs and concatenate their input; for speakers and for music.

Paper: E. Nachmani, Y. Adi, L. Wolf, "Voice Separation with an Unknown Number of Multiple Speakers", ICML 2020.
Reference code: github facebookresearch/svoice at 1e38190, ``svoice/models/swave.py`` (CC BY-NC-SA 4.0; nothing of it is
here). The authors released no weights; svoice's packages are read as its training writes them.

Shapes: waveform ``[B, 1, T]`` -> `features` rectified features per frame of `kernel_samples`, half of them new ->
chunks of `chunk_frames`, half of them new, ``[chunk_frames, B, chunks, features]`` -> per layer one block along the
chunk and one across chunks -> per source ``features / kernel_samples`` samples for each frame, which are overlapped and
added at the encoder's hop -> ``[B, S, 1, T]``. There is no mask.

Hyper-parameters of the speakers' systems are *code* (``conf/config.yaml``), the same as *paper*. Those of
``mulcat-music`` are *inferred*: the figures printed for four sources of MUSDB18 came from a network that was not
released, and neither code nor configuration tells its rate, channels or sizes. Taken is the speakers' network at
44.1 kHz, which hears the two sides of a stereo song one by one. It is a *reconstruction*.

Deviations: none in numbers, but two linear steps are done once where svoice does them on larger tensors. It makes
`features` values per frame and source and then averages groups of `kernel_samples`: here the matrix is averaged, an
eighth of the work. It concatenates before a projection: here each half has its half of the matrix. Inputs shorter than
a frame, at which svoice stops, are continued with zeros.

A song is cut into segments, since an LSTM's memory has no bound: svoice runs whole files. A network
that was trained without an order of its outputs numbers its speakers anew in each segment; the engine matches them over
the overlap, and the segments are long (30 s). Stems of music have names. Their segments are twice the excerpts of
training, the longest that svoice validates at.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iseparate.errors import CheckpointError
from iseparate.models._base import SeparationModel
from iseparate.models._registry import register
from iseparate.types import Checkpoint, CheckpointFile, ModelSpec, TrackStatistics


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyper-parameters. All defaults are svoice's (*code*) but those of the segments."""

    stems: tuple[str, ...] = ("speaker1", "speaker2")
    any_order: bool = True
    """The outputs have no order of their own, as after training on the best permutation."""
    sample_rate: int = 8000
    features: int = 128
    """svoice's N: width of the encoder and of everything between the blocks."""
    kernel_samples: int = 8
    """svoice's L: length of an encoder's frame, even; half of it is the hop."""
    hidden_size: int = 128
    """svoice's H: of each direction of an LSTM."""
    layers: int = 6
    """svoice's R: pairs of blocks."""
    excerpt_seconds: float = 4.0
    """Length of the training's excerpts, from which the length of a chunk follows."""
    normalise: bool = False
    """svoice's input_normalize: group normalisation of each block's output over all of the input."""
    segment_seconds: float = 30.0
    """Length of the engine's segments."""
    segment_overlap: float = 0.25
    """Share of a segment in common with the next."""

    def __post_init__(self) -> None:
        if not self.stems or len(set(self.stems)) != len(self.stems):
            raise ValueError(f"stems are {self.stems}; expected different names")
        sizes = (self.features, self.kernel_samples, self.hidden_size, self.layers)
        if min(sizes) < 1 or max(sizes) > 1 << 14 or self.kernel_samples % 2 or self.features < self.kernel_samples:
            raise ValueError(
                f"features, kernel_samples, hidden_size and layers are {sizes}; expected 1 to {1 << 14} of each, an "
                "even kernel_samples, and no fewer features than that"
            )
        if not 1000 <= self.sample_rate <= 768_000 or not 0 < self.excerpt_seconds <= 3600 or self.chunk_frames < 2:
            raise ValueError(
                f"sample_rate is {self.sample_rate}, excerpt_seconds {self.excerpt_seconds}; expected 1000 to 768000, "
                "and enough seconds for a chunk of two frames"
            )
        if not 0 < self.segment_seconds <= 3600 or not 0 <= self.segment_overlap < 1:
            raise ValueError(
                f"segment_seconds is {self.segment_seconds}, segment_overlap {self.segment_overlap}; expected more "
                "than 0 and at most 3600 seconds, and a share in [0, 1)"
            )

    @property
    def chunk_frames(self) -> int:
        """Length of a chunk: about as many frames as an excerpt has chunks."""
        return int(math.sqrt(2 * self.sample_rate * self.excerpt_seconds / (self.kernel_samples / 2)))

    @classmethod
    def tiny(cls) -> Config:
        """A network of the same shape that runs in milliseconds, for tests."""
        return cls(features=16, kernel_samples=8, hidden_size=6, layers=2, excerpt_seconds=0.2)


_ROWS = 256


class MulCat(nn.Module):
    """One block, along the first axis: ``[steps, rows, features]`` -> the same."""

    def __init__(self, features: int, hidden_size: int):
        super().__init__()
        self.rnn = nn.LSTM(features, hidden_size, bidirectional=True)
        self.rnn_proj = nn.Linear(2 * hidden_size, features)
        self.gate_rnn = nn.LSTM(features, hidden_size, bidirectional=True)
        self.gate_rnn_proj = nn.Linear(2 * hidden_size, features)
        self.block_projection = nn.Linear(2 * features, features)

    def forward(self, x: Tensor) -> Tensor:
        # Some rows at a time, which are independent: as fast, and half the memory for what an LSTM has inside.
        return torch.cat([self._some(rows) for rows in torch.split(x, _ROWS, 1)], 1)

    def _some(self, x: Tensor) -> Tensor:
        product = self.rnn_proj(self.rnn(x)[0]) * self.gate_rnn_proj(self.gate_rnn(x)[0])
        of_product, of_input = self.block_projection.weight.chunk(2, 1)
        projected = F.linear(x, of_input, self.block_projection.bias).flatten(0, 1)
        return torch.addmm(projected, product.flatten(0, 1), of_product.mT).view(x.shape)


class Checkpoints:
    """svoice's files: a package with the class's arguments, as ``train.py`` writes it, or such a model alone.

    Of a package the state of the last epoch is taken, as ``svoice.separate`` takes it.
    """

    name = "svoice .th"

    def recognises(self, files: Checkpoint) -> bool:
        return len(files) == 1 and all(
            file.format == "torch" and set(_tensors(file)) >= _MARK for file in files.values()
        )

    def convert(self, files: Checkpoint) -> tuple[Config, dict[str, Tensor]]:
        if not self.recognises(files):
            raise CheckpointError(f"{', '.join(files) or 'nothing'} is not one package of svoice; give one such file")
        (file,) = files.values()
        config = _config_of(file)
        state = {}
        for name, tensor in _tensors(file).items():
            ours = _renamed(name)
            if ours is None:
                raise CheckpointError(f"{file.name} holds a tensor that svoice's SWave has not: {name}")
            state[ours] = tensor
        return config, state


@register(
    "mulcat",
    config=Config,
    paper="Nachmani, Adi, Wolf, ICML 2020, https://arxiv.org/abs/2003.01531",
    domain="waveform",
    importers=(Checkpoints(),),
    published={
        "mulcat-2speakers": Config(),
        "mulcat-3speakers": Config(stems=("speaker1", "speaker2", "speaker3")),
        "mulcat-4speakers": Config(stems=("speaker1", "speaker2", "speaker3", "speaker4")),
        "mulcat-5speakers": Config(stems=("speaker1", "speaker2", "speaker3", "speaker4", "speaker5")),
        "mulcat-music": Config(
            stems=("vocals", "drums", "bass", "other"), any_order=False, sample_rate=44100, segment_seconds=8.0
        ),
    },
    reconstructions=("mulcat-music",),
)
class MulCatNetwork(SeparationModel):
    """The whole network, of one channel."""

    config: Config

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.spec = ModelSpec(
            stems=config.stems,
            sample_rate=config.sample_rate,
            channels=1,
            default_segment_seconds=config.segment_seconds,
            default_overlap=config.segment_overlap,
            couples=(config.stems,) if len(config.stems) > 1 else (),
            stems_in_any_order=config.any_order and len(config.stems) > 1,
        )
        width, layers = config.features, range(config.layers)
        self.encoder = nn.Conv1d(1, width, config.kernel_samples, config.kernel_samples // 2, bias=False)
        self.rows = nn.ModuleList(MulCat(width, config.hidden_size) for _ in layers)
        self.columns = nn.ModuleList(MulCat(width, config.hidden_size) for _ in layers)
        self.row_norms, self.column_norms = (
            nn.ModuleList(nn.GroupNorm(1, width, eps=1e-8) for _ in layers if config.normalise) for _ in range(2)
        )
        self.prelu = nn.PReLU()
        self.head = nn.Conv2d(width, width * len(config.stems), 1)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_normal_(parameter)
        self.kernels = tuple(f"{kind}.{i}" for i in layers for kind in ("rows", "columns"))

    def forward(self, mix: Tensor, track: TrackStatistics | None = None) -> Tensor:  # noqa: ARG002
        (last,) = deque(self._layers(self._chunks(mix)), maxlen=1)
        return self._stems(last, mix.shape[-1])

    def after_each_layer(self, mix: Tensor) -> Iterator[Tensor]:
        """The stems ``[B, S, 1, T]`` as every layer has them; the last ones are those of `forward`."""
        for after in self._layers(self._chunks(mix)):
            yield self._stems(after, mix.shape[-1])

    def training_loss(self, mix: Tensor, stems: Tensor, criterion: nn.Module) -> dict[str, Tensor]:
        """As the base, after every layer, later ones weighing more; in eval mode after the last one alone.

        Layer i of R counts ``i / R``, and the sum is divided by R (svoice, ``solver.py``).
        """
        if not self.training or criterion.domain != "waveform":
            return super().training_loss(mix, stems, criterion)
        losses = torch.stack([criterion(estimates, stems, mix) for estimates in self.after_each_layer(mix)])
        weights = torch.arange(1, len(losses) + 1, device=losses.device) / len(losses) ** 2
        return {"loss": (weights * losses).sum(), "last_layer": losses[-1]}

    def _frames(self, samples: int) -> int:
        """How many frames the encoder makes."""
        return max(0, samples - self.config.kernel_samples) // (self.config.kernel_samples // 2) + 1

    def _chunks(self, mix: Tensor) -> Tensor:
        """``[B, 1, T]`` -> encoded chunks ``[chunk_frames, B, chunks, features]``.

        Chunks 2i start at ``i * chunk_frames``, chunks 2i + 1 half a chunk (rounded down) later, after half a chunk of
        silence.
        """
        length, size = self.config.kernel_samples, self.config.chunk_frames
        signal = F.pad(mix[:, 0], (0, max(0, length - mix.shape[-1])))
        # As a matrix product: frames come out one after the other, where a convolution would need them turned round.
        encoded = F.relu(F.linear(signal.unfold(-1, length, length // 2), self.encoder.weight[:, 0]))
        frames, half = self._frames(mix.shape[-1]), size // 2
        rest = size - (half + frames) % size
        padded = F.pad(encoded, (0, 0, half, rest + half))
        even, odd = (
            part.reshape(len(mix), -1, size, part.shape[-1]).permute(2, 0, 1, 3)
            for part in (padded[:, : half + frames + rest], padded[:, half:])
        )
        return torch.stack([even, odd], 3).flatten(2, 3)

    def _layers(self, x: Tensor) -> Iterator[Tensor]:
        """``[chunk_frames, B, chunks, features]`` after each layer."""
        for i in range(self.config.layers):
            along = self.rows[i](x.flatten(1, 2)).view(x.shape)
            x = x + _normalised(along, self.row_norms[i]) if self.config.normalise else along.add_(x)
            turned = x.permute(2, 0, 1, 3)
            across = self.columns[i](turned.flatten(1, 2)).view(turned.shape).permute(1, 2, 0, 3)
            x = x + (_normalised(across, self.column_norms[i]) if self.config.normalise else across)
            del along, turned, across  # as large as x itself
            yield x

    def _stems(self, chunks: Tensor, samples: int) -> Tensor:
        """What the last blocks leave -> ``[B, S, 1, samples]``."""
        config, sources, frames = self.config, len(self.config.stems), self._frames(samples)
        half = config.chunk_frames // 2
        frame = config.features // config.kernel_samples
        weight, bias = (
            part.view(sources, config.features, -1)[:, : frame * config.kernel_samples]
            .reshape(sources * frame, config.kernel_samples, -1)
            .mean(1)
            for part in (self.head.weight, self.head.bias)
            if part is not None
        )
        values = F.linear(self.prelu(chunks), weight, bias[:, 0])
        even, odd = (values[:, :, i::2].permute(1, 2, 0, 3).flatten(1, 2) for i in (0, 1))  # [B, frames, S * frame]
        merged = even[:, half : half + frames] + odd[:, :frames]
        hop = config.kernel_samples // 2
        stems = F.fold(
            merged.view(-1, frames, sources, frame).permute(0, 2, 3, 1).flatten(0, 1),
            (1, (frames - 1) * hop + frame),
            (1, frame),
            stride=(1, hop),
        )
        stems = stems.view(-1, sources, 1, stems.shape[-1])
        return F.pad(stems, (0, samples - stems.shape[-1]))  # or cut, as the sizes are


def _normalised(x: Tensor, norm: nn.Module) -> Tensor:
    """Group normalisation in one group, features last: over all but the second axis, which is the batch's."""
    assert isinstance(norm, nn.GroupNorm)
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
    gain = norm.weight * torch.rsqrt(variance + norm.eps)
    return torch.addcmul(norm.bias - mean * gain, x, gain)


# Reading checkpoints.

_PACKAGE = "model.state."
_MODEL = "state."
_MARK = {"encoder.conv.weight", "separator.rnn_model.rows_grnn.0.gate_rnn.weight_ih_l0"}
_ARGUMENTS = ("N", "L", "H", "R", "C", "sr", "segment", "input_normalize")
"""Of svoice's SWave, in this order."""
_BLOCK = (
    r"(?:gate_)?rnn\.(?:weight|bias)_(?:ih|hh)_l0(?:_reverse)?"
    r"|(?:(?:gate_)?rnn_proj|block_projection)\.(?:weight|bias)"
)
_KEYS = {
    r"encoder\.conv\.(weight)": r"encoder.\1",
    rf"separator\.rnn_model\.rows_grnn\.(\d+)\.({_BLOCK})": r"rows.\1.\2",
    rf"separator\.rnn_model\.cols_grnn\.(\d+)\.({_BLOCK})": r"columns.\1.\2",
    r"separator\.rnn_model\.rows_normalization\.(\d+)\.(weight|bias)": r"row_norms.\1.\2",
    r"separator\.rnn_model\.cols_normalization\.(\d+)\.(weight|bias)": r"column_norms.\1.\2",
    r"separator\.rnn_model\.output\.0\.(weight)": r"prelu.\1",
    r"separator\.rnn_model\.output\.1\.(weight|bias)": r"head.\1",
}
"""svoice's names and ours."""
_DROPPED = ("best_state.", "optimizer.")
"""Of a package: the state of the epoch with the best validation, and what the optimizer needs to go on."""


def _tensors(file: CheckpointFile) -> dict[str, Tensor]:
    """A model's tensors by svoice's names, lifted out of a package."""
    for prefix in (_PACKAGE, _MODEL):
        found = {n.removeprefix(prefix): t for n, t in file.tensors.items() if n.startswith(prefix)}
        if found:
            return found
    return {n: t for n, t in file.tensors.items() if not n.startswith(_DROPPED)}


def _renamed(name: str) -> str | None:
    for theirs, ours in _KEYS.items():
        if match := re.fullmatch(theirs, name):
            return match.expand(ours)
    return None


def _config_of(file: CheckpointFile) -> Config:
    """From what svoice's class was called with; CheckpointError."""
    document = file.metadata
    model = document.get("model", document) if isinstance(document, Mapping) else None
    args, kwargs = (model.get(part) for part in ("args", "kwargs")) if isinstance(model, Mapping) else (None, None)
    if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping) or len(args) > len(_ARGUMENTS):
        raise CheckpointError(
            f"{file.name} does not say what svoice's model was made with (args and kwargs), without which the length "
            "of a chunk is not known; give the whole package that svoice's training wrote"
        )
    said: dict[str, Any] = {**dict(zip(_ARGUMENTS, args, strict=False)), **{str(k): v for k, v in kwargs.items()}}
    if missing := [name for name in _ARGUMENTS if name not in said]:
        raise CheckpointError(f"{file.name} does not say the {missing[0]} that svoice's model was made with")
    sizes = {name: _whole(file, name, said[name]) for name in ("N", "L", "H", "R", "C", "sr")}
    seconds = said["segment"]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise CheckpointError(f"{file.name} has segment {seconds!r}; expected a number of seconds")
    if not isinstance(said["input_normalize"], bool):
        raise CheckpointError(f"{file.name} has input_normalize {said['input_normalize']!r}; expected True or False")
    if sizes["C"] > 64:
        raise CheckpointError(f"{file.name} has C {sizes['C']}; expected at most 64 speakers")
    try:
        return Config(
            stems=tuple(f"speaker{i + 1}" for i in range(sizes["C"])),
            sample_rate=sizes["sr"],
            features=sizes["N"],
            kernel_samples=sizes["L"],
            hidden_size=sizes["H"],
            layers=sizes["R"],
            excerpt_seconds=float(seconds),
            normalise=said["input_normalize"],
        )
    except ValueError as error:
        raise CheckpointError(f"{file.name} cannot be built: {error}") from error


def _whole(file: CheckpointFile, name: str, value: Any) -> int:
    if type(value) not in (int, float) or not 1 <= value <= 1 << 20 or value != int(value):
        raise CheckpointError(f"{file.name} has {name} {value!r}; expected a whole number above 0")
    return int(value)
