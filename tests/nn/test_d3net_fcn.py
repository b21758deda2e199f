"""D3Net for images: sizes, what a block computes, and Sony's names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from iseparate.errors import CheckpointError
from iseparate.nn.d3net_fcn import (
    D3NET_L,
    D3NET_S,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Config,
    D3NetFcn,
    WholeD2Block,
    convert_sony,
    recognises_sony,
)
from iseparate.types import CheckpointFile

# Whole network and backbone, from the reference code run in nnabla.
PARAMETERS = {"L": (D3NET_L, 38_726_117, 38_582_946), "S": (D3NET_S, 9_685_699, 9_610_440)}


def lively(module, seed=0):
    """Weights scaled by fan-in, and statistics away from neutral."""
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=chance)
            if tensor.ndim == 4:
                tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)
            elif name.endswith(("running_var", "norm.weight", "norm1.weight")):
                tensor.copy_(1 + 0.2 * noise.clamp(-2, 2))
            else:
                tensor.copy_(0.2 * noise)
    return module.eval()


def image(height, width, batch=1, seed=1):
    return 255 * torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", PARAMETERS)
def test_parameters(size):
    config, whole, backbone = PARAMETERS[size]
    with torch.device("meta"):
        network = D3NetFcn(config)
    assert sum(p.numel() for p in network.parameters()) == whole
    assert sum(p.numel() for p in network.backbone.parameters()) == backbone


def test_a_block_adds_a_fifth_of_its_layers():
    for config in (D3NET_L, D3NET_S):
        assert config.block_channels == int(0.2 * config.growth * config.layers)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (64, 128), (101, 63), (512, 1024)])
@torch.inference_mode()
def test_every_pixel_gets_its_scores(height, width):
    scores = lively(D3NetFcn(Config.tiny()))(image(height, width, batch=2))
    assert scores.shape == (2, 19, height, width)
    assert scores.isfinite().all()
    assert len(scores.argmax(1).unique()) > 1


@pytest.mark.slow
@pytest.mark.parametrize("size", PARAMETERS)
@torch.inference_mode()
def test_a_whole_photograph(size):
    scores = lively(D3NetFcn(PARAMETERS[size][0]))(image(512, 1024))
    assert scores.shape == (1, 19, 512, 1024)
    assert scores.isfinite().all()


@torch.inference_mode()
def test_the_stages_halve():
    sides = lively(D3NetFcn(Config.tiny())).backbone(torch.randn(1, 3, 64, 96))
    assert [side.shape[1:] for side in sides] == [(2, 16, 24), (3, 8, 12), (4, 4, 6), (5, 2, 3)]


@torch.inference_mode()
def test_colours_are_normalised_inside():
    network = lively(D3NetFcn(Config.tiny()))
    seen = []
    network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pixels = image(32, 32)
    network(pixels)
    for channel, (mean, std) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        assert torch.allclose(seen[0][0, channel], (pixels[0, channel] - mean) / std, atol=1e-5)


@torch.inference_mode()
def test_a_block_is_dense_with_a_dilation_per_source():
    """Layer by layer, as the paper draws it: each source through a convolution of its own for each later layer."""
    config = replace(Config.tiny(), growth=2)
    block = lively(WholeD2Block(6, config))
    x = torch.randn(1, 6, 21, 17)
    sources = [x]
    convs = [block.first, *block.rest]
    for layer in range(config.layers):
        total = 0
        for source in range(layer + 1):
            module = convs[source]
            rows = slice(2 * (layer - source), 2 * (layer - source) + 2)
            dilation = 2**source
            total = total + F.conv2d(
                F.relu(module.norm(sources[source])),
                module.conv.weight[rows],
                module.conv.bias[rows],
                padding=dilation,
                dilation=dilation,
            )
        sources.append(total)
    expected = block.reduce(torch.cat(sources[1:], 1))
    assert torch.allclose(block(x), expected, atol=1e-5)


def test_a_wide_input_is_narrowed_first():
    config = Config.tiny()
    assert WholeD2Block(4 * config.growth, config).narrow is None
    assert WholeD2Block(4 * config.growth + 1, config).narrow.conv.weight.shape == (12, 13, 1, 1)
    with torch.device("meta"):
        narrowed = [block.narrow is not None for block in D3NetFcn(D3NET_L).backbone.stages[0]]
    assert narrowed == [False] * 4 + [True] * 6  # 64 + 4 * 51 channels are the first above 256


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 31, 64), (1, 3, 64, 0)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected \[B, 3, H, W\] with sides of 32 or more"):
        D3NetFcn(Config.tiny())(torch.zeros(shape))


def test_gradients_reach_every_parameter():
    network = lively(D3NetFcn(Config.tiny())).train()
    scores = network(image(64, 96, batch=2))
    (scores * torch.randn_like(scores)).sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


# -- Sony's files: the names are written out here as the reference code composes them, scope by scope -------------


def as_sony(network):
    """What nnabla's ``save_parameters`` would write of the reference with these weights."""
    tensors = {}

    def norm(scope, module):
        pairs = {"beta": module.bias, "gamma": module.weight, "mean": module.running_mean, "var": module.running_var}
        for name, tensor in pairs.items():
            tensors[f"{scope}/bn/{name}"] = tensor.detach().reshape(1, -1, 1, 1)

    def conv(scope, module):
        tensors[f"{scope}/conv/W"] = module.weight.detach()
        if module.bias is not None:
            tensors[f"{scope}/conv/b"] = module.bias.detach()

    def norm_conv(scope, module):
        norm(f"{scope}/bottle_neck/norm1", module.norm)
        conv(f"{scope}/bottle_neck/conv1", module.conv)

    body = network.backbone
    conv("backbone/conv1", body.conv1)
    norm("backbone/bn1", body.norm1)
    conv("backbone/conv2", body.conv2)
    for s, stage in enumerate(body.stages, 1):
        for b, block in enumerate(stage):
            scope = f"backbone/dense{s}/d2_block/block{b}"
            if block.narrow is not None:
                norm_conv(f"{scope}/d2block/initial_layer/bc_layer", block.narrow)
            norm_conv(f"{scope}/d2block/initial_layer/init_layer", block.first)
            for i, layer in enumerate(block.rest, 1):
                norm_conv(f"{scope}/d2block/layers/layer{i}", layer)
            norm(f"{scope}/block_dim_reduction/norm1", block.reduce.norm)
            conv(f"{scope}/block_dim_reduction/conv1", block.reduce.conv)
        side = f"backbone/{'final_out4' if s == 4 else f'intermediate_out{s}'}"
        conv(f"{side}/0", body.sides[s - 1].conv)
        norm(f"{side}/1", body.sides[s - 1].norm)
    for s, transition in enumerate(body.transitions, 1):
        norm(f"backbone/transition{s}/bn", transition.norm)
        conv(f"backbone/transition{s}/conv", transition.conv)
    conv("decode_head/convs/0/conv", network.head.conv)
    norm("decode_head/convs/0/bn", network.head.norm)
    conv("decode_head/conv_seg", network.classify)
    return CheckpointFile("D3Net.h5", "hdf5", tensors)


@pytest.mark.parametrize("blocks", [1, 3])
@torch.inference_mode()
def test_sonys_file_gives_the_same_network(blocks):
    original = lively(D3NetFcn(replace(Config.tiny(), blocks=blocks)))
    file = as_sony(original)
    assert recognises_sony(file)
    imported = D3NetFcn.from_sony(file)
    assert imported.config == original.config
    assert not imported.training
    pixels = image(40, 56)
    assert torch.equal(imported(pixels), original(pixels))
    assert not any(tensor.is_meta for tensor in imported.state_dict().values())


def test_the_released_sizes_are_told_from_the_file():
    for config in (D3NET_L, D3NET_S):
        with torch.device("meta"):
            network = D3NetFcn(config)
        # Only names and shapes matter here, so nothing needs memory.
        found, state = convert_sony(as_sony(network))
        assert found == config
        assert {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in network.state_dict().items()}


def harmed(how):
    file = as_sony(lively(D3NetFcn(Config.tiny())))
    tensors = dict(file.tensors)
    first = "backbone/dense1/d2_block/block0/"
    if how == "stranger":
        tensors["backbone/dense1/extra/W"] = torch.zeros(1)
    elif how == "odd part":
        tensors["backbone/conv2/conv/q"] = torch.zeros(1)
    elif how == "missing":
        del tensors["backbone/conv2/conv/W"]
    elif how == "shape":
        tensors["backbone/conv2/conv/W"] = torch.zeros(6, 6, 1, 1)
    elif how == "no stem":
        del tensors["backbone/conv1/conv/W"]
    elif how == "scalar":
        tensors["decode_head/conv_seg/conv/W"] = torch.tensor(1.0)
    elif how == "empty":
        tensors[f"{first}d2block/initial_layer/init_layer/bottle_neck/conv1/conv/b"] = torch.zeros(0)
    elif how == "a block too few":
        tensors = {n: t for n, t in tensors.items() if "dense2/d2_block/block2" not in n}
    elif how == "stages counted from 0":
        tensors = {n.replace("dense4", "dense0"): t for n, t in tensors.items()}
    elif how == "music":
        tensors = {"vocals/in_offset": torch.zeros(1, 1, 1, 9)}
    return replace(file, tensors=tensors)


HARMS = {
    "stranger": "no place in the network for backbone/dense1/extra/W",
    "odd part": "no place in the network for backbone/conv2/conv/q",
    "missing": "missing backbone.conv2.weight",
    "shape": r"backbone.conv2.weight has shape \[6, 6, 1, 1\] instead of \[6, 6, 3, 3\]",
    "no stem": "has no backbone/conv1/conv/W, or an empty one",
    "scalar": "has no decode_head/conv_seg/conv/W, or an empty one",
    "empty": "or an empty one",
    "a block too few": r"missing backbone.stages.1.2.first",
    "stages counted from 0": "missing backbone.stages.3",
    "music": "not one of Sony's D3Net .h5 files for segmentation",
}


@pytest.mark.parametrize("how", HARMS)
def test_a_file_that_does_not_fit_is_refused_in_words(how):
    with pytest.raises(CheckpointError, match=HARMS[how]) as caught:
        D3NetFcn.from_sony(harmed(how))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


def test_sizes_that_make_no_network_are_refused():
    with pytest.raises(ValueError, match="1 or more"):
        Config(growth=0)
