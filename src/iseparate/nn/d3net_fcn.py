"""D3Net as a backbone for dense prediction on images, with a fully convolutional head: D3Net-L and D3Net-S.

Paper: N. Takahashi, Y. Mitsufuji, "Densely connected multi-dilated convolutional networks for dense prediction tasks",
CVPR 2021 (arXiv 2011.11844), the Cityscapes table. Reference code: github sony/ai-research-code at cfe96df,
``d3net/semantic-segmentation/{model.py,util.py,configs/}`` (Apache 2.0); every hyper-parameter is *code*.

It separates no music and so is no model of the registry: it is here because the music network descends from it.

Shapes: RGB image ``[B, 3, H, W]`` -> stem, 1/4 of the size -> four stages of densely concatenated D2 blocks, each
after the first on half the size of the one before -> a narrow side output of each -> all resized to 1/4 and
concatenated -> scores ``[B, classes, H, W]``.

The released weights (``D3Net-L.h5``, ``D3Net-S.h5``) are read by `D3NetFcn.from_sony`; the names that it expects
are those that the reference code gives its variables, no released file having been at hand. Published mean
intersection over union on Cityscapes' validation set: L 81.0 %, S 79.9 % as released (paper: 80.6 and 79.5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iseparate.errors import CheckpointError
from iseparate.nn.dense import NormConv
from iseparate.nn.fit import check_fit
from iseparate.types import CheckpointFile

IMAGENET_MEAN = (123.675, 116.28, 103.53)
"""Of red, green and blue, full scale being 255."""
IMAGENET_STD = (58.395, 57.12, 57.375)
_SMALLEST = 32
"""Side of the smallest image: the stem and three poolings leave one pixel of it."""


@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the defaults are D3Net-L's (*code*: ``configs/D3Net_L.yaml``)."""

    stem_channels: int = 64
    blocks: int = 10
    """D2 blocks in each of the stages."""
    growth: int = 64
    """Channels of a layer of a D2 block."""
    layers: int = 4
    """Of a D2 block; layer l looks back at source i with dilation 2**i."""
    block_channels: int = 51
    """What a block adds to its stage: a fifth of all its layers' channels, rounded down."""
    side_channels: tuple[int, ...] = (32, 48, 96, 192)
    """One number per stage."""
    head_channels: int = 368
    classes: int = 19

    def __post_init__(self) -> None:
        sizes = (self.stem_channels, self.blocks, self.growth, self.layers, self.block_channels, *self.side_channels)
        if min(*sizes, self.head_channels, self.classes) < 1 or not self.side_channels:
            raise ValueError(f"all sizes of D3Net are 1 or more, and it has one stage at least; got {self}")

    @classmethod
    def tiny(cls) -> Config:
        """A network of the same shape that runs in milliseconds, for tests."""
        return cls(
            stem_channels=6, blocks=3, growth=3, layers=4, block_channels=2, side_channels=(2, 3, 4, 5), head_channels=7
        )


D3NET_L = Config()
D3NET_S = Config(blocks=8, growth=36, block_channels=28, side_channels=(32, 40, 64, 128), head_channels=264)


class NormReduce(nn.Module):
    """Batch normalisation, ReLU, a 1x1 convolution without bias: ``[B, in, H, W]`` -> ``[B, out, H, W]``."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels_in)
        self.conv = nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        reduced: Tensor = self.conv(F.relu(self.norm(x)))
        return reduced


class ConvNorm(nn.Module):
    """A 1x1 convolution, batch normalisation, ReLU: ``[B, in, H, W]`` -> ``[B, out, H, W]``."""

    def __init__(self, channels_in: int, channels_out: int, bias: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 1, bias=bias)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class WholeD2Block(nn.Module):
    """A D2 block of which all layers are the output, then reduced: ``[B, in, H, W]`` -> ``[B, out, H, W]``.

    The music network keeps only the last layer (`iseparate.nn.dense.D2Block`), and narrows no input.
    """

    def __init__(self, channels_in: int, config: Config):
        super().__init__()
        growth, layers = config.growth, config.layers
        narrow = 4 * growth
        self.narrow = NormConv(channels_in, narrow, kernel=1) if narrow < channels_in else None
        self.first = NormConv(min(narrow, channels_in), growth * layers)
        self.rest = nn.ModuleList(
            NormConv(growth, growth * (layers - source), (2**source,)) for source in range(1, layers)
        )
        self.reduce = NormReduce(growth * layers, config.block_channels)
        self.growth = growth

    def forward(self, x: Tensor) -> Tensor:
        if self.narrow is not None:
            x = self.narrow(x)
        groups = list(self.first(x).split(self.growth, 1))
        for source, layer in enumerate(self.rest):
            parts = layer(groups[source]).split(self.growth, 1)
            groups[source + 1 :] = [g + part for g, part in zip(groups[source + 1 :], parts, strict=True)]
        reduced: Tensor = self.reduce(torch.cat(groups, 1))
        return reduced


class Stage(nn.ModuleList):
    """D2 blocks, each of which sees the input and all before it: ``[B, in, H, W]`` -> ``[B, in + n * out, H, W]``."""

    def __init__(self, channels_in: int, config: Config):
        widths = (channels_in + i * config.block_channels for i in range(config.blocks))
        super().__init__(WholeD2Block(width, config) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = torch.cat([x, block(x)], 1)
        return x


class D3NetBackbone(nn.Module):
    """``[B, 3, H, W]``, normalised -> one side output per stage, ``[B, side_channels[i], H / 4 / 2**i, …]``."""

    def __init__(self, config: Config):
        super().__init__()
        stem = config.stem_channels
        self.conv1 = nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(stem)
        self.conv2 = nn.Conv2d(stem, stem, 3, stride=2, padding=1, bias=False)
        inputs, outputs = [stem], []
        for _ in config.side_channels:
            outputs.append(inputs[-1] + config.blocks * config.block_channels)
            inputs.append(outputs[-1] // 2)
        self.stages = nn.ModuleList(Stage(width, config) for width in inputs[:-1])
        self.sides = nn.ModuleList(
            ConvNorm(o, s, bias=True) for o, s in zip(outputs, config.side_channels, strict=True)
        )
        self.transitions = nn.ModuleList(NormReduce(o, i) for o, i in zip(outputs[:-1], inputs[1:-1], strict=True))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.conv2(F.relu(self.norm1(self.conv1(x))))
        sides = []
        for i, (stage, side) in enumerate(zip(self.stages, self.sides, strict=True)):
            if i:
                x = F.avg_pool2d(self.transitions[i - 1](x), 2)
            x = stage(x)
            sides.append(side(x))
        return sides


class D3NetFcn(nn.Module):
    """The backbone and the fully convolutional head."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.backbone = D3NetBackbone(config)
        self.head = ConvNorm(sum(config.side_channels), config.head_channels, bias=False)
        self.classify = nn.Conv2d(config.head_channels, config.classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Score every pixel for every class.

        Args:
            images: RGB, 0 to 255, ``[B, 3, H, W]``, H and W >= 32.

        Returns:
            ``[B, classes, H, W]``, logits: their softmax over axis 1 is what the reference puts out.

        Raises:
            ValueError: another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < _SMALLEST:
            raise ValueError(
                f"images have the shape {list(images.shape)}; expected [B, 3, H, W] with sides of {_SMALLEST} or more"
            )
        mean, std = (images.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        normalised = (images - mean) / std
        # Channels last is 15 % faster on a CPU, and the convolutions keep it to the end.
        sides = self.backbone(normalised.contiguous(memory_format=torch.channels_last))
        finest = sides[0].shape[2:]
        joined = torch.cat([sides[0], *(_resized(side, finest) for side in sides[1:])], 1)
        return _resized(self.classify(self.head(joined)), images.shape[2:])

    @classmethod
    def from_sony(cls, file: CheckpointFile) -> D3NetFcn:
        """The network of a released ``.h5``, in eval mode; CheckpointError, in words, where it does not fit."""
        config, state = convert_sony(file)
        with torch.device("meta"):  # nothing is allocated before the tensors have been found to fit
            network = cls(config)
        check_fit(file.name, network.state_dict(), state)
        network.load_state_dict(state, assign=True)
        return network.eval()


def _resized(x: Tensor, size: Any) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


# Reading Sony's checkpoints: nnabla's HDF5, whose names are the scopes of the reference code.

_NORM = {"beta": "bias", "gamma": "weight", "mean": "running_mean", "var": "running_var"}
_CONV = {"W": "weight", "b": "bias"}
_BLOCK = r"backbone/dense(\d)/d2_block/block(\d+)/"
_PLACES = (
    (r"backbone/(conv1|conv2)/conv/(\w+)", "backbone.{0}.{1}"),
    (r"backbone/bn1/bn/(\w+)", "backbone.norm1.{0}"),
    (_BLOCK + r"d2block/initial_layer/bc_layer/bottle_neck/(norm|conv)1/\w+/(\w+)", "{stage}.{1}.narrow.{2}.{3}"),
    (_BLOCK + r"d2block/initial_layer/init_layer/bottle_neck/(norm|conv)1/\w+/(\w+)", "{stage}.{1}.first.{2}.{3}"),
    (_BLOCK + r"d2block/layers/layer(\d{1,4})/bottle_neck/(norm|conv)1/\w+/(\w+)", "{stage}.{1}.rest.{layer}.{3}.{4}"),
    (_BLOCK + r"block_dim_reduction/(norm|conv)1/\w+/(\w+)", "{stage}.{1}.reduce.{2}.{3}"),
    (r"backbone/(?:intermediate|final)_out(\d)/0/conv/(\w+)", "backbone.sides.{number}.conv.{1}"),
    (r"backbone/(?:intermediate|final)_out(\d)/1/bn/(\w+)", "backbone.sides.{number}.norm.{1}"),
    (r"backbone/transition(\d)/bn/bn/(\w+)", "backbone.transitions.{number}.norm.{1}"),
    (r"backbone/transition(\d)/conv/conv/(\w+)", "backbone.transitions.{number}.conv.{1}"),
    (r"decode_head/convs/0/conv/conv/(\w+)", "head.conv.{0}"),
    (r"decode_head/convs/0/bn/bn/(\w+)", "head.norm.{0}"),
    (r"decode_head/conv_seg/conv/(\w+)", "classify.{0}"),
)
"""Sony's name, and ours. Theirs count stages and layers from 1; the last part is a tensor of `_NORM` or `_CONV`."""
_FIRST_BLOCK = "backbone/dense1/d2_block/block0/"


def recognises_sony(file: CheckpointFile) -> bool:
    """True where the file is one of these."""
    return file.format == "hdf5" and {
        f"{_FIRST_BLOCK}block_dim_reduction/conv1/conv/W",
        "decode_head/conv_seg/conv/W",
    } <= set(file.tensors)


def convert_sony(file: CheckpointFile) -> tuple[Config, dict[str, Tensor]]:
    """Config and state dict out of a file's tensors; CheckpointError where it is of another network."""
    if not recognises_sony(file):
        raise CheckpointError(
            f"{file.name} is not one of Sony's D3Net .h5 files for segmentation; expected D3Net-L or -S"
        )
    state: dict[str, Tensor] = {}
    for name, tensor in file.tensors.items():
        key = _our_name(name)
        if key is None:
            raise CheckpointError(f"{file.name}: no place in the network for {name[:200]}")
        # nnabla keeps a normalisation's vectors as [1, C, 1, 1].
        state[key] = tensor.flatten() if ".norm" in key else tensor
        if key.endswith(".running_mean"):
            state[key.replace("running_mean", "num_batches_tracked")] = torch.tensor(0)
    return _config_of(file), state


def _our_name(name: str) -> str | None:
    for pattern, ours in _PLACES:
        if match := re.fullmatch(pattern, name):
            parts = list(match.groups())
            table = _NORM if re.search(r"norm1?\.\{\d\}$", ours) or "norm" in parts else _CONV
            if parts[-1] not in table:
                return None
            parts[-1] = table[parts[-1]]
            number = int(parts[0]) - 1 if parts[0].isdigit() else 0
            layer = int(parts[2]) - 1 if "{layer}" in ours else 0
            return ours.format(*parts, stage=f"backbone.stages.{number}", number=number, layer=layer)
    return None


def _config_of(file: CheckpointFile) -> Config:
    """The sizes, as far as they are free: the rest follows from them, and is checked."""

    def width(name: str) -> int:
        tensor = file.tensors.get(name)
        if tensor is None or not tensor.ndim or not len(tensor):
            raise CheckpointError(
                f"{file.name} has no {name}, or an empty one, so the network's size is not to be told"
            )
        return len(tensor)

    def count(pattern: str) -> int:
        return len({match[1] for name in file.tensors if (match := re.match(pattern, name))})

    layers = 1 + count(_FIRST_BLOCK + r"d2block/layers/layer(\d+)/")
    growth = width(f"{_FIRST_BLOCK}d2block/initial_layer/init_layer/bottle_neck/conv1/conv/b") // layers
    stages = count(r"backbone/dense(\d)/")
    sides = [f"backbone/intermediate_out{i}/0/conv/b" for i in range(1, stages)] + [
        f"backbone/final_out{stages}/0/conv/b"
    ]
    return Config(
        stem_channels=width("backbone/conv1/conv/W"),
        blocks=count(r"backbone/dense1/d2_block/block(\d+)/"),
        growth=max(1, growth),
        layers=layers,
        block_channels=width(f"{_FIRST_BLOCK}block_dim_reduction/conv1/conv/W"),
        side_channels=tuple(width(name) for name in sides),
        head_channels=width("decode_head/convs/0/conv/conv/W"),
        classes=width("decode_head/conv_seg/conv/W"),
    )
