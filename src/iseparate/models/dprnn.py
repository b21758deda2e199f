"""DPRNN: masks by recurrent layers along two paths, within chunks of frames and across them.

Paper: Y. Luo, Z. Chen, T. Yoshioka, "Dual-path RNN: Efficient Long Sequence Modeling for Time-domain Single-channel
Speech Separation", ICASSP 2020, arXiv 1910.06379. Reference code: asteroid 0.7.0, ``asteroid/models/dprnn_tasnet.py``
and ``asteroid/masknn/recurrent.py`` (github asteroid-team/asteroid, MIT), the authors having published none.

Shapes: ``[B, 1, T]`` -> filters ``[B, N, frames]`` -> norm, 1x1 to `bottleneck` -> chunks ``[B, chunks, chunk,
bottleneck]`` -> `repeats` times (LSTM within chunks, linear, norm, residual; LSTM across chunks, linear, norm,
residual) -> PReLU, one set of features per stem, chunks overlapped again -> tanh times sigmoid -> masks
``[B, S, N, frames]``. With `mulcat` each LSTM is two whose outputs are multiplied, with the input beside them.

A reconstruction for music: the paper separates two speakers at 8 kHz. 64 filters, six repeats, 128 cells per direction
and the sigmoid mask are *paper*; so are filters of 16 samples at a hop of 8, one of its settings. A bottleneck of 64 is
*inferred* from the paper's 2.6 million parameters (asteroid has 128: *code*). Four stems at 44.1 kHz, sides one by one,
and chunks of 210 frames, by the paper's rule (the root of twice the frames) for excerpts of 4 s, are *inferred*.

Deviations: the features of the stems are made after the chunks are overlapped, not before, which is the same sum in
half the time. By default zeros complete the last frame. Songs run in segments of 8 s that overlap by a quarter: both
recurrent layers and norms know of the whole segment, and its memory grows with its length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iseparate.models._registry import register
from iseparate.models._tasnet import (
    NORM_PARTS,
    Activation,
    AsteroidFile,
    TasNet,
    TasNetConfig,
    activate,
    refusing,
)
from iseparate.nn.framing import overlap_add
from iseparate.nn.norms import EPSILON, NormKind, layer_norm
from iseparate.types import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Config(TasNetConfig):
    """Hyper-parameters; which are the paper's and which inferred says the docstring of the file."""

    channels: int = 1
    filters: int = 64
    filter_samples: int = 16
    hop_samples: int = 8
    encoder_activation: Activation = "linear"
    mask: Activation = "sigmoid"
    bottleneck: int = 64
    hidden: int = 128
    """Cells of each recurrent layer and direction."""
    cell: Literal["lstm", "gru", "rnn"] = "lstm"
    """Of which kind they are; ``rnn`` has no gates, and tanh."""
    chunk_frames: int = 210
    chunk_hop_frames: int = 105
    repeats: int = 6
    layers: int = 1
    """Of each recurrent network."""
    dropout: float = 0.0
    """Between its layers, in training."""
    norm: NormKind = "global"
    bidirectional: bool = True
    """Across chunks; within chunks it always is."""
    mulcat: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._bound("bottleneck", "hidden", "chunk_frames")
        self._bound("repeats", "layers", most=64)
        self._bound("chunk_hop_frames", most=self.chunk_frames)
        if self.norm in ("cumulative", "none") or not 0 <= self.dropout < 1:
            raise ValueError(
                f"norm is {self.norm}, dropout {self.dropout}; expected global, channel, feature or batch, and a share "
                "in [0, 1)"
            )

    @classmethod
    def tiny(cls) -> Config:
        """A network of the same shape that runs in milliseconds, for tests."""
        return cls(
            stems=("vocals", "other"),
            filters=10,
            bottleneck=8,
            hidden=5,
            chunk_frames=14,
            chunk_hop_frames=7,
            repeats=2,
        )


_CELLS: dict[str, type[nn.LSTM | nn.GRU | nn.RNN]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class Path(nn.Module):
    """One recurrent layer and what follows it: ``[B, chunks, chunk, features]`` -> the same, the input added.

    Args:
        config: of the network.
        across: run across chunks, at each place of a chunk; else within each chunk.
    """

    def __init__(self, config: Config, across: bool):
        super().__init__()
        features, both = config.bottleneck, not across or config.bidirectional
        self._across, self._kind = across, config.norm
        self.rnn, self.second_rnn = (
            _CELLS[config.cell](
                features,
                config.hidden,
                config.layers,
                dropout=config.dropout if config.layers > 1 else 0.0,
                bidirectional=both,
            )
            if wanted
            else None
            for wanted in (True, config.mulcat)
        )
        width = config.hidden * (2 if both else 1)
        self.linear = nn.Linear(width + (features if config.mulcat else 0), features)
        self.norm = layer_norm(config.norm, features)

    def forward(self, x: Tensor) -> Tensor:
        # Time first, as the LSTM computes: [B, time, others, features], and in memory [time, B, others, features].
        along = x if self._across else x.transpose(1, 2)
        songs, time, others, features = along.shape
        y = self._recurrent(along.transpose(0, 1).reshape(time, songs * others, features))
        y = self._normed(y.view(time, songs, others, features).transpose(0, 1))
        return x + (y if self._across else y.transpose(1, 2))

    def _recurrent(self, x: Tensor) -> Tensor:
        assert self.rnn is not None
        out = self.rnn(x)[0]
        if self.second_rnn is None:
            projected: Tensor = self.linear(out)
            return projected
        out = out * self.second_rnn(x)[0]
        product, beside = torch.split(self.linear.weight, [out.shape[-1], x.shape[-1]], 1)
        return F.linear(out, product, self.linear.bias) + F.linear(x, beside)

    def _normed(self, y: Tensor) -> Tensor:
        """The norm of ``[B, ..., features]``."""
        if self._kind in ("feature", "batch"):
            turned: Tensor = self.norm(y.flatten(1, 2).mT)
            return turned.mT.view(y.shape)
        weight, bias = self.norm.weight, self.norm.bias
        assert isinstance(weight, Tensor)
        assert isinstance(bias, Tensor)
        if self._kind == "channel":
            return F.layer_norm(y, y.shape[-1:], weight, bias, EPSILON)
        normed = F.group_norm(y.reshape(len(y), 1, -1), 1, eps=EPSILON).view(y.shape)
        return torch.addcmul(bias, normed, weight)


class Separator(nn.Module):
    """The filters' output ``[B, N, frames]`` -> masks ``[B, S, N, frames]``."""

    def __init__(self, config: Config):
        super().__init__()
        self._config = config
        width, stems = config.bottleneck, len(config.stems)
        self.norm = layer_norm(config.norm, config.filters)
        self.bottleneck = nn.Linear(config.filters, width)
        self.paths = nn.ModuleList(Path(config, across) for _ in range(config.repeats) for across in (False, True))
        self.prelu = nn.PReLU()
        self.stems = nn.Linear(width, stems * width)
        self.gated = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)
        self.mask = nn.Linear(width, config.filters, bias=False)

    def forward(self, filtered: Tensor) -> Tensor:
        frames, hop = filtered.shape[-1], self._config.chunk_hop_frames
        x = self.bottleneck(self.norm(filtered).transpose(1, 2))
        # As the reference has it: a chunk of zeros at either end, and no chunk that reaches further.
        chunk = self._config.chunk_frames
        x = F.pad(x, (0, 0, chunk, chunk)).unfold(1, chunk, hop).transpose(2, 3).contiguous()
        chunks = x.shape[1]
        for path in self.paths:
            x = path(x)
        x = self._joined(self.prelu(x), frames)
        # A sum of linear maps is the map of the sum; its shift counts once for every chunk there.
        times = self._joined(x.new_ones(1, 1, 1, 1).expand(1, chunks, chunk, 1), frames)
        x = torch.addcmul(F.linear(x, self.stems.weight), times, self.stems.bias)
        x = torch.unflatten(x, -1, (len(self._config.stems), -1))
        weight = torch.cat([self.gated.weight, self.gate.weight])
        gated, gate = F.linear(x, weight, torch.cat([self.gated.bias, self.gate.bias])).chunk(2, -1)
        scores = self.mask(torch.tanh(gated) * torch.sigmoid(gate))  # [B, frames, S, N]
        return activate(scores.permute(0, 2, 3, 1), self._config.mask)

    def _joined(self, chunks: Tensor, frames: int) -> Tensor:
        """``[B, chunks, chunk, features]`` added up to ``[B, frames, features]``, without the zeros at the ends."""
        features, chunk = chunks.shape[-1], self._config.chunk_frames
        joined = overlap_add(chunks.flatten(-2), self._config.chunk_hop_frames * features)
        return torch.unflatten(joined, -1, (-1, features))[:, chunk : chunk + frames]


class AsteroidCheckpoint:
    """asteroid's serialized ``DPRNNTasNet``."""

    name = "DPRNN, asteroid"

    def recognises(self, files: Checkpoint) -> bool:
        return AsteroidFile.is_of(files, "DPRNNTasNet")

    def convert(self, files: Checkpoint) -> tuple[Config, dict[str, Tensor]]:
        file = AsteroidFile(files)
        cell = file.word("rnn_type", "LSTM", {word: cell for cell in _CELLS for word in (cell.upper(), cell)})
        chunk, settings = file.number("chunk_size", 100), file.settings(filters=64, mask="sigmoid")
        if settings["mask"] == "softmax":
            settings["mask"] = "softmax_filters"  # it makes masks before it tells the stems apart
        config: Config = refusing(
            Config,
            **settings,
            cell=cell,
            bottleneck=file.number("bn_chan", 128),
            hidden=file.number("hid_size", 128),
            chunk_frames=chunk,
            chunk_hop_frames=file.number("hop_size", max(1, chunk // 2)),
            repeats=file.number("n_repeats", 6),
            layers=file.number("num_layers", 1),
            norm=file.norm(),
            bidirectional=file.flag("bidirectional", True),
            mulcat=file.flag("use_mulcat", False),
        )
        # The two paths of a repeat lie one after the other in ours.
        theirs = {
            _PATH.sub(lambda m: f"path.{2 * int(m[1]) + (m[2] == 'inter')}.", k): t for k, t in file.state.items()
        }
        state = file.renamed("DPRNN", _ASTEROID, state=theirs)
        for name, tensor in state.items():
            if name.endswith(".weight") and tensor.ndim > 2 and name != "encoder.weight":
                state[name] = tensor.flatten(1)  # 1x1 convolutions
        return config, state


@register(
    "dprnn",
    config=Config,
    paper="Luo, Chen, Yoshioka, ICASSP 2020, https://arxiv.org/abs/1910.06379",
    domain="waveform",
    importers=(AsteroidCheckpoint(),),
    published={"dprnn": Config()},
    reconstruction=True,
)
class Dprnn(TasNet):
    """The published system."""

    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.separator = Separator(config)


# Reading checkpoints.

_PATH = re.compile(r"masker\.net\.(\d{1,3})\.(intra|inter)_")
_ASTEROID = (
    (r"encoder\.filterbank\._filters", "encoder.weight"),
    (r"decoder\.filterbank\._filters", "decoder.weight"),
    (r"masker\.bottleneck\.1\.(\w+)", r"separator.bottleneck.\1"),
    (r"masker\.first_out\.0\.weight", "separator.prelu.weight"),
    (r"masker\.first_out\.1\.(\w+)", r"separator.stems.\1"),
    (r"masker\.net_out\.0\.(\w+)", r"separator.gated.\1"),
    (r"masker\.net_gate\.0\.(\w+)", r"separator.gate.\1"),
    (r"masker\.mask_net\.weight", "separator.mask.weight"),
    *((rf"masker\.bottleneck\.0\.{theirs}", f"separator.norm.{ours}") for theirs, ours in NORM_PARTS),
    (r"path\.(\d+)\.RNN\.rnn1?\.(\w+)", r"separator.paths.\1.rnn.\2"),
    (r"path\.(\d+)\.RNN\.rnn2\.(\w+)", r"separator.paths.\1.second_rnn.\2"),
    (r"path\.(\d+)\.linear\.(\w+)", r"separator.paths.\1.linear.\2"),
    *((rf"path\.(\d+)\.norm\.{theirs}", rf"separator.paths.\1.norm.{ours}") for theirs, ours in NORM_PARTS),
)
