"""Open-Unmix: one recurrent network per target on magnitude spectra, joined by a Wiener filter.

Paper: F.-R. Stöter, S. Uhlich, A. Liutkus, Y. Mitsufuji, "Open-Unmix - A Reference Implementation for Music Source
Separation", JOSS 4(41), 1667, 2019. Reference code: github sigsep/open-unmix-pytorch at fb672c9 (version 1.3.0, MIT);
Sony's port to nnabla: github sony/ai-research-code at cfe96df, ``x-umx`` (Apache 2.0), whose ``.h5`` files are read
too. Weights: umx, umxhq and umxse MIT, umxl CC BY-NC-SA 4.0.

Shapes: waveform ``[B, C, T]`` -> magnitudes ``[B, C, frames, bins]`` -> per target: the lowest `max_bin` bins,
normalised, ``C * max_bin`` -> `hidden_size`; three bidirectional LSTM layers; beside what went into them, back to
``C * bins`` non-negative gains, which multiply the mixture's magnitudes -> Wiener filter -> ``[B, S, C, T]``.

Hyper-parameters are the released models' (*code*: ``openunmix/__init__.py``). `wiener_*` is the filter of version
1.3.0: one EM step from the mixture's phase, on 300 frames at a time, without a residual.

Deviations: none in the ``-official`` setting, which runs a song in one pass. The default runs four windows of the
filter at a time (28 s), since an LSTM's memory has no bound, overlapping by a quarter and starting at multiples of
the window, so that a song of any length takes the same memory. Scores printed for umx and umxhq were made with
norbert over whole songs (`wiener_rule`, `wiener_window_frames`), before version 1.3.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iseparate.errors import CheckpointError
from iseparate.models._magnitude import MagnitudeConfig, MagnitudeSeparator
from iseparate.models._registry import register
from iseparate.types import Checkpoint, CheckpointFile

TARGETS = ("vocals", "drums", "bass", "other", "speech", "noise")
"""The order in which the released models list their targets (*code*)."""


@dataclass(frozen=True, kw_only=True)
class Config(MagnitudeConfig):
    """Hyper-parameters. All defaults are those of umxhq (*code*)."""

    hidden_size: int = 512
    """Width of the bottleneck; both directions of an LSTM layer share it."""
    max_bin: int = 1487
    """How many bins, from the lowest, the network looks at: 16 kHz. Its output has all."""
    layers: int = 3
    bidirectional: bool = True
    wiener_rule: Literal["norbert", "open_unmix", "sony"] = "open_unmix"
    wiener_exponent: float = 1.0
    """With `wiener_softmask`, the power to which the estimates are raised first (Sony's option ``--alpha``)."""
    wiener_in_double: bool = False
    """Filter in float64, as norbert's callers did; its regularisation follows the precision."""
    wiener_fills_silence: bool = False
    """Take bins where the mixture is exactly 0 for 1, as the reference does by accident (its arctangent writes into its
    argument). Without a residual it has no effect; with one, digital silence comes out as faint clicks in it."""
    segment_seconds: float | None = None
    """Length of the engine's segments; None: four windows of the filter."""
    segment_overlap: float = 0.25
    """Share of a segment in common with the next; 0: each is separated by itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.max_bin <= self.bins:
            raise ValueError(f"max_bin is {self.max_bin}; a spectrum has bins 1 to {self.bins}")
        if self.hidden_size < 1 or self.layers < 1 or (self.bidirectional and self.hidden_size % 2):
            raise ValueError(
                f"hidden_size is {self.hidden_size}, layers {self.layers}; expected 1 or more, and an even hidden_size "
                "to share between two directions"
            )
        if not 0 < (self.segment_seconds or 1) <= 3600 or not 0 <= self.segment_overlap < 1:
            raise ValueError(
                f"segment_seconds is {self.segment_seconds}, segment_overlap {self.segment_overlap}; expected more "
                "than 0 and at most 3600 seconds, and a share in [0, 1)"
            )
        if not 0.1 <= self.wiener_exponent <= 10:
            raise ValueError(f"wiener_exponent is {self.wiener_exponent}; expected 0.1 to 10")
        self._refuse_a_lone_filter()

    @classmethod
    def tiny(cls) -> Config:
        """A network of the same shape that runs in milliseconds, for tests."""
        return cls(
            targets=("vocals", "drums", "bass"),
            frame_samples=64,
            hop_samples=16,
            hidden_size=8,
            max_bin=24,
            wiener_window_frames=20,
        )


class TargetNetwork(nn.Module):
    """One target's magnitudes from the mixture's: ``[B, C, frames, bins]`` or ``[B * C, frames, bins]`` -> the same.

    In eval mode, normalisations and scales are folded into the matrices beside them at every call: that takes a
    hundredth of the time of a segment, saves most passes over the spectra, and there is no copy to go stale.
    """

    def __init__(self, config: Config):
        super().__init__()
        width, out = config.hidden_size, config.channels * config.bins
        self.max_bin, self.channels = config.max_bin, config.channels
        self.fc1 = nn.Linear(config.channels * config.max_bin, width, bias=False)
        self.bn1 = nn.BatchNorm1d(width)
        self.lstm = nn.LSTM(
            width,
            width // 2 if config.bidirectional else width,
            config.layers,
            bidirectional=config.bidirectional,
            dropout=0.4 if config.layers > 1 else 0.0,
        )
        self.fc2 = nn.Linear(2 * width, width, bias=False)
        self.bn2 = nn.BatchNorm1d(width)
        self.fc3 = nn.Linear(width, out, bias=False)
        self.bn3 = nn.BatchNorm1d(out)
        # The negated mean and the inverse deviation of the training set's mixtures, as the checkpoints hold them.
        self.input_mean = nn.Parameter(torch.zeros(config.max_bin))
        self.input_scale = nn.Parameter(torch.ones(config.max_bin))
        self.output_scale = nn.Parameter(torch.ones(config.bins))
        self.output_mean = nn.Parameter(torch.ones(config.bins))

    def forward(self, magnitudes: Tensor) -> Tensor:
        songs = magnitudes.reshape(-1, self.channels, *magnitudes.shape[-2:])
        inner = self.encode(songs)
        return self.decode(inner, self.lstm(inner)[0], songs).reshape(magnitudes.shape)

    def scale_input(self, mean: Tensor, deviation: Tensor) -> None:
        """As the reference does before training; see `iseparate.models._magnitude.ScalesItsInput`."""
        self.input_mean.copy_(-mean[: self.max_bin])
        self.input_scale.copy_(1 / deviation[: self.max_bin])

    def encode(self, magnitudes: Tensor) -> Tensor:
        """``[B, C, frames, bins]`` -> ``[frames, B, hidden_size]``, in [-1, 1]: what the LSTM hears."""
        seen = magnitudes[..., : self.max_bin]
        if self.training:
            flat = ((seen + self.input_mean) * self.input_scale).permute(2, 0, 1, 3).flatten(2)
            return torch.tanh(_over_features(self.bn1, self.fc1(flat)))
        gain, shift = _affine(self.bn1)
        weight = (self.fc1.weight * gain[:, None]).view(-1, self.channels, self.max_bin) * self.input_scale
        bias = shift + (weight * self.input_mean).sum((1, 2))
        # Channel by channel, so that nothing has to be brought into one row.
        inner = F.linear(seen[:, 0], weight[:, 0], bias)
        for channel in range(1, self.channels):
            inner = inner + F.linear(seen[:, channel], weight[:, channel])
        return torch.tanh(inner).transpose(0, 1)

    def decode(self, inner: Tensor, recurrent: Tensor, magnitudes: Tensor) -> Tensor:
        """What went into the LSTM and what came out, ``[frames, B, hidden_size]`` each -> the target's magnitudes."""
        if self.training:
            hidden = F.relu(_over_features(self.bn2, self.fc2(torch.cat([inner, recurrent], -1))))
            gains = _over_features(self.bn3, self.fc3(hidden)).view(*hidden.shape[:2], self.channels, -1)
            return magnitudes * F.relu(gains * self.output_scale + self.output_mean).permute(1, 2, 0, 3)
        gain, shift = _affine(self.bn2)
        beside, after = (self.fc2.weight * gain[:, None]).chunk(2, 1)
        hidden = F.relu(F.linear(inner, beside, shift) + F.linear(recurrent, after)).transpose(0, 1)
        gain, shift = (part.view(self.channels, -1) * self.output_scale for part in _affine(self.bn3))
        weight = self.fc3.weight.view(*gain.shape, -1) * gain[..., None]
        bias = (shift + self.output_mean)[:, None]
        songs = [torch.baddbmm(bias, song.expand(self.channels, -1, -1), weight.mT) for song in hidden]
        gains = songs[0][None] if len(songs) == 1 else torch.stack(songs)
        return F.relu_(gains) * magnitudes


def _affine(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """What a normalisation does in eval mode: gain and shift."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return gain, norm.bias - norm.running_mean * gain


def _over_features(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """Normalise ``[frames, B, features]`` over frames and songs."""
    normalised: Tensor = norm(x.flatten(0, 1)).view(x.shape)
    return normalised


class TorchCheckpoint:
    """The reference's files: one state dict per target, with its settings in a JSON file of its name, or alone.

    Alone are the released ones, named ``vocals-b62c91ce.pth``; what they do not say of the framing follows from the
    number of bins, since there are only two kinds.
    """

    name = "Open-Unmix .pth"

    def recognises(self, files: Checkpoint) -> bool:
        return bool(_torch_targets(files)) and all(f.format in ("torch", "json") for f in files.values())

    def convert(self, files: Checkpoint) -> tuple[Config, dict[str, Tensor]]:
        targets = _torch_targets(files)
        networks = {}
        for target, file in targets.items():
            _refuse_strangers(file, _state_of(file), _TORCH_NAMES)
            networks[target] = {k: t for k, t in _state_of(file).items() if k not in _DROPPED}
        return assemble(networks, _framing(files, targets))


class NnablaCheckpoint:
    """Sony's files: one ``.h5`` per target, named after it."""

    name = "UMX nnabla .h5"

    def recognises(self, files: Checkpoint) -> bool:
        return bool(files) and all(
            f.format == "hdf5" and {"fc1/affine/W", "lstm/lstm/weight_l0", "input_mean"} <= set(f.tensors)
            for f in files.values()
        )

    def convert(self, files: Checkpoint) -> tuple[Config, dict[str, Tensor]]:
        networks = {_target_of(file): nnabla_network(file, file.tensors) for file in files.values()}
        if len(networks) != len(files):
            raise CheckpointError(f"two of the files {', '.join(files)} name the same target; give one file per target")
        return assemble(networks, {})


@register(
    "open_unmix",
    config=Config,
    paper="Stöter, Uhlich, Liutkus, Mitsufuji, JOSS 2019, https://doi.org/10.21105/joss.01667",
    papers={"umxse": "Uhlich, Mitsufuji, Zenodo 2020, https://doi.org/10.5281/zenodo.3786908"},
    domain="spectrogram",
    importers=(TorchCheckpoint(), NnablaCheckpoint()),
    published={
        "umx": Config(),
        "umxhq": Config(),
        "umxl": Config(hidden_size=1024),
        "umxse": Config(
            targets=("speech", "noise"),
            frame_samples=1024,
            hop_samples=512,
            sample_rate=16000,
            channels=1,
            hidden_size=256,
            max_bin=513,
        ),
    },
)
class OpenUnmix(MagnitudeSeparator):
    """The published system: spectra, one network per target, the Wiener filter, and back."""

    config: Config
    targets_run_alone: ClassVar[bool] = True

    def __init__(self, config: Config):
        window_seconds = config.hop_samples * (config.wiener_window_frames or 300) / config.sample_rate
        super().__init__(
            config,
            independent=self.targets_run_alone,
            segment_seconds=config.segment_seconds or 4 * window_seconds,
        )
        self.spec = replace(self.spec, default_overlap=config.segment_overlap)
        if config.segment_overlap == 0:  # segments have nothing in common, no grid either
            self.spec = replace(self.spec, start_grid_samples=1, window="rectangular")
        if config.wiener_fills_silence:
            self.spec = replace(self.spec, silence_to_silence=config.residual is None)
        self.build_networks(config)

    def build_networks(self, config: Config) -> None:
        """Make `networks`, and name them as kernels."""
        self.networks = nn.ModuleDict({target: TargetNetwork(config) for target in config.targets})
        # One kernel per target, so that a song's vocals alone need one network alone.
        self.kernels = tuple(f"networks.{target}" for target in config.targets)

    def estimate(self, magnitudes: Tensor) -> Tensor:
        """As the base. The networks get three axes: runtimes reorder four, which suits convolutions only."""
        joined = magnitudes.flatten(0, 1)
        return torch.stack([network(joined).view(magnitudes.shape) for network in self.networks.values()], 1)

    def filtered(self, magnitudes: Tensor, mix: Tensor) -> Tensor:
        """As the base, in the precision and with the exponent that the Config asks for."""
        if self.config.wiener_softmask and self.config.wiener_exponent != 1:
            magnitudes = magnitudes**self.config.wiener_exponent
        if self.config.wiener_fills_silence and not self.config.wiener_softmask:
            mix = torch.where(mix == 0, 1, mix)
        if self.config.wiener_in_double:
            return super().filtered(magnitudes.double(), mix.to(torch.complex128)).to(mix.dtype)
        return super().filtered(magnitudes, mix)


# Reading checkpoints. Our names are the reference's, below networks.{target}.

_PARTS = {
    **{f"fc{i}": {"weight"} for i in (1, 2, 3)},
    **{f"bn{i}": {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"} for i in (1, 2, 3)},
}
_TORCH_NAMES = re.compile(
    "|".join(rf"{layer}\.({'|'.join(parts)})" for layer, parts in _PARTS.items())
    + r"|lstm\.(weight|bias)_(ih|hh)_l\d{1,2}(_reverse)?|(in|out)put_(mean|scale)"
)
_DROPPED = {
    "stft.window": "the analysis window, a buffer of the first releases; ours is made from the Config",
    "transform.0.window": "the same once more",
    "sample_rate": "a buffer of the first releases; no number of the network depends on it",
}
_PUBLISHED_FRAMINGS = {
    2049: {"hop_samples": 1024, "sample_rate": 44100},
    513: {"hop_samples": 512, "sample_rate": 16000},
}
_NNABLA_NORM = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}
_NNABLA_NAMES = re.compile(
    r"fc[123]/(affine/W|bn/(gamma|beta|mean|var))|lstm/lstm/(weight_l0|weight|bias)|(in|out)put_(mean|scale)"
)


def _state_of(file: CheckpointFile) -> dict[str, Tensor]:
    """A target's state dict, lifted out of a training checkpoint where it lies in one."""
    if "fc1.weight" in file.tensors:
        return dict(file.tensors)
    prefix = "state_dict."
    return {k.removeprefix(prefix): t for k, t in file.tensors.items() if k.startswith(prefix)}


def _torch_targets(files: Checkpoint) -> dict[str, CheckpointFile]:
    """The weights' files by target, in the reference's order. A training checkpoint yields to a bare state dict."""
    found: dict[str, CheckpointFile] = {}
    for file in sorted(files.values(), key=lambda f: "fc1.weight" not in f.tensors):
        if file.format == "torch" and {"fc1.weight", "bn3.weight", "lstm.weight_ih_l0"} <= set(_state_of(file)):
            found.setdefault(_target_of(file), file)
    return found


def _target_of(file: CheckpointFile) -> str:
    """``vocals`` of ``umxhq/vocals-b62c91ce.pth``."""
    return re.sub(r"[-_][0-9a-f]{8}$", "", PurePosixPath(file.name).stem)


def _refuse_strangers(file: CheckpointFile, names: Mapping[str, Any], known: re.Pattern[str]) -> None:
    if strangers := [name for name in names if not known.fullmatch(name) and name not in _DROPPED]:
        raise CheckpointError(f"{file.name} holds a tensor that Open-Unmix has not: {strangers[0]}")


def _framing(files: Checkpoint, targets: Mapping[str, CheckpointFile]) -> dict[str, Any]:
    """What the JSON files say of the transform: of the whole (separator.json), and of each target."""
    by_stem = {PurePosixPath(f.name).stem: f for f in files.values() if f.format == "json"}
    said: dict[str, Any] = {}
    for stem in ("separator", *targets):
        document = by_stem[stem].metadata if stem in by_stem else None
        if document is None:
            continue
        values = document.get("args") if stem != "separator" and isinstance(document, dict) else document
        if not isinstance(values, dict):
            raise CheckpointError(f"{by_stem[stem].name} has no settings; expected an object with nfft and nhop")
        for theirs, ours in (("nfft", "frame_samples"), ("nhop", "hop_samples"), ("sample_rate", "sample_rate")):
            value = values.get(theirs)
            if value is None:
                continue
            if not isinstance(value, int | float) or not 1 <= value <= 1 << 20 or value != int(value):
                raise CheckpointError(f"{by_stem[stem].name} has {theirs} {value!r}; expected a whole number above 0")
            if said.setdefault(ours, int(value)) != int(value):
                raise CheckpointError(f"the settings disagree about {theirs}: {said[ours]} and {int(value)}")
    return said


def assemble(
    networks: Mapping[str, dict[str, Tensor]], framing: Mapping[str, Any], config: type[Config] = Config
) -> tuple[Any, dict[str, Tensor]]:
    """Config and state of the targets' networks, each under our names; the sizes are taken from the tensors.

    Raises CheckpointError where the tensors have no sizes to tell, or a framing that nothing says.
    """
    in_order = sorted(networks, key=lambda t: TARGETS.index(t) if t in TARGETS else len(TARGETS))
    targets = tuple(framing.get("targets", in_order))
    if not targets:
        raise CheckpointError("there is no target's network in this checkpoint")
    if odd := [t for t in targets if not re.fullmatch(r"\w[\w -]{0,63}", t) or hasattr(nn.ModuleDict, t)]:
        raise CheckpointError(f"{odd[0][:80]!r} cannot be a target's name; call the file after its target (vocals.pth)")
    first = networks[targets[0]]
    hidden, out = _sizes(first, "fc1.weight", 2)[0], _sizes(first, "fc3.weight", 2)[0]
    bins, max_bin = _sizes(first, "output_mean", 1)[0], _sizes(first, "input_mean", 1)[0]
    if bins < 2 or out % bins:
        raise CheckpointError(f"fc3.weight has {out} rows, which {bins} bins do not divide")
    values = {
        "targets": targets,
        "frame_samples": 2 * (bins - 1),
        **_PUBLISHED_FRAMINGS.get(bins, {}),
        **framing,
    }
    if "hop_samples" not in values:
        raise CheckpointError(
            f"nothing says the hop of a network with {bins} bins; put the reference's JSON file beside the weights"
        )
    if values["frame_samples"] != 2 * (bins - 1):
        raise CheckpointError(f"the network has {bins} bins, which nfft {values['frame_samples']} does not make")
    try:
        made = config(
            residual="residual" if len(targets) == 1 else None,  # a filter needs something to filter against
            channels=out // bins,
            hidden_size=hidden,
            max_bin=max_bin,
            layers=sum(bool(re.fullmatch(r"lstm\.weight_ih_l\d+", name)) for name in first),
            bidirectional="lstm.weight_ih_l0_reverse" in first,
            **values,
        )
    except ValueError as error:
        raise CheckpointError(f"the checkpoint's sizes make no network: {error}") from error
    return made, {f"networks.{t}.{key}": tensor for t in targets for key, tensor in networks[t].items()}


def _sizes(state: Mapping[str, Tensor], name: str, dimensions: int) -> Sequence[int]:
    if name not in state or state[name].ndim != dimensions or not state[name].numel():
        came = f"shape {list(state[name].shape)}" if name in state else "nothing"
        raise CheckpointError(f"{name} should be a tensor of {dimensions} dimensions that tells sizes; it is {came}")
    return state[name].shape


def nnabla_network(file: CheckpointFile, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One target's network under our names.

    Matrices are stored the other way round, normalisations with axes of length 1 in front. An LSTM has one bias where
    PyTorch adds two, and one matrix for input and memory where PyTorch has two; its gates come in PyTorch's order.
    """
    _refuse_strangers(file, tensors, _NNABLA_NAMES)
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.partition("/")
        if part == "affine/W":
            state[f"{layer}.weight"] = tensor.T.contiguous() if tensor.ndim == 2 else tensor
        elif part.startswith("bn/"):
            state[f"{layer.replace('fc', 'bn')}.{_NNABLA_NORM[part[3:]]}"] = tensor.flatten()
        elif layer != "lstm":
            state[name] = tensor
    return state | _nnabla_lstm(file, tensors)


def _nnabla_lstm(file: CheckpointFile, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    first, bias = tensors.get("lstm/lstm/weight_l0"), tensors.get("lstm/lstm/bias")
    deeper = tensors.get("lstm/lstm/weight")  # absent where there is one layer
    shapes = [list(t.shape) if t is not None else None for t in (first, deeper, bias)]
    fault = CheckpointError(
        f"{file.name} has an LSTM of shapes {shapes}; expected [directions, 4, hidden, input + hidden], "
        "[layers - 1, directions, 4, hidden, inputs + hidden] and [layers, directions, 4, hidden]"
    )
    if first is None or bias is None or first.ndim != 4 or bias.ndim != 4 or first.shape[:3] != bias.shape[1:]:
        raise fault
    layers, hidden = [first], first.shape[2]
    if deeper is not None:
        if deeper.ndim != 5 or deeper.shape[1:4] != first.shape[:3]:
            raise fault
        layers += deeper.unbind(0)
    if len(bias) != len(layers) or first.shape[0] > 2 or first.shape[3] <= hidden:
        raise fault
    state = {}
    for i, layer in enumerate(layers):
        for weight, offset, suffix in zip(layer, bias[i], ("", "_reverse"), strict=False):
            rows = weight.flatten(0, 1)
            state[f"lstm.weight_ih_l{i}{suffix}"] = rows[:, :-hidden].contiguous()
            state[f"lstm.weight_hh_l{i}{suffix}"] = rows[:, -hidden:].contiguous()
            state[f"lstm.bias_ih_l{i}{suffix}"] = offset.flatten()
            state[f"lstm.bias_hh_l{i}{suffix}"] = torch.zeros_like(offset.flatten())
    return state
