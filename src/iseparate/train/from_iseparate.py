"""Configuration files of the 2022 iSeparate project, as recipes.

Facts: github media-comp/2022-iSeparate at 920077b, ``configs/d3net/*.yaml``, ``configs/demucs/demucs_config.yaml``,
``train.py``, ``datasets/*.py``, ``losses/*.py``, ``models/d3net/d3net.py``, ``models/demucs/demucs.py``.

What its program did that no key of the file says (random gains from 0.25 to 1.25, a channel swap of one half, the
first `patch_length` frames of an excerpt) is written out in the recipe; what this one does otherwise is told line by
line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from iseparate.errors import CheckpointError, UsageError
from iseparate.models._registry import architecture, architectures
from iseparate.train.recipe import MAX_BYTES, Recipe, parse_recipe
from iseparate.weights.load import make_config

SOURCE = "github media-comp/2022-iSeparate at 920077b"
STEMS = ("vocals", "drums", "bass", "other")

Positive = Annotated[int, Field(gt=0)]
Counts = tuple[Positive, ...]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _PerNet(_Part):
    full: Counts
    bands: tuple[Counts, ...]
    final: Positive | None = None


class _Starts(_Part):
    full: Positive
    bands: Counts


class _Outs(_Part):
    full: Literal[1] = 1
    bands: tuple[Literal[1], ...] = ()
    final: Literal[1] = 1


class _D3NetArguments(_Part):
    audio_channels: Annotated[int, Field(ge=1, le=2)] = 2
    init_channels: _Starts
    band_split_idxs: Counts
    valid_signal_index: Positive
    growth_rates: _PerNet
    num_layers: _PerNet
    num_blocks: _PerNet
    kernel_size: Literal[3] = 3
    padding: Literal[1] = 1
    num_outs: _Outs = _Outs()
    n_fft: Positive = 4096
    win_length: Positive = 4096
    hop_length: Positive = 1024
    patch_length: Positive = 256


class _Encoder(_Part):
    encoder_init_channels: Positive
    encoder_num_layers: Positive
    encoder_nonlinearity: Literal["glu", "relu"]
    encoder_kernel_size: Positive
    encoder_stride: Positive
    encoder_growth_rate: Literal[2] = 2


class _Decoder(_Part):
    decoder_channels: Positive
    decoder_num_layers: Positive
    decoder_nonlinearity: Literal["glu", "relu"]
    decoder_kernel_size: Positive
    decoder_stride: Positive
    decoder_growth_rate: Literal[2] = 2
    decoder_context_size: Positive


class _DemucsArguments(_Part):
    audio_channels: Annotated[int, Field(ge=1, le=2)] = 2
    input_channels: Positive | None = None
    num_sources: Positive
    encoder_params: _Encoder
    decoder_params: _Decoder
    blstm_hidden_dim: Positive | None = None
    blstm_num_layers: Positive
    rescale: Annotated[float, Field(gt=0)]
    resample: bool


class _PitchAndTempo(_Part):
    max_pitch: Annotated[int, Field(ge=0)] = 2
    max_tempo: Annotated[float, Field(ge=0)] = 12
    tempo_std: Annotated[float, Field(ge=0)] = 5
    p: Annotated[float, Field(ge=0, le=1)] = 0.2
    quick: bool = True
    use_soundstretch: bool = False


class _Data(_Part):
    target_sources: tuple[str, ...]
    mixing_sources: tuple[str, ...] = STEMS
    sample_rate: Positive = 44100
    mono: bool = False
    seq_dur: Annotated[float, Field(gt=0)]
    augmentations: tuple[str, ...] | None = None
    pitch_shift_time_stretch_params: _PitchAndTempo | None = None
    random_mix: bool = False
    samples_per_epoch: Positive | None = None
    cache: bool = False
    # Not looked at: they name files, or say what the other keys say.
    data_root: Any = None
    song_lists: Any = None
    seed: Any = None
    iseval: Any = None


class _Loaders(_Part):
    train: _Data
    validation: _Data | None = None


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    exp_name: str = "iseparate"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    epochs: Positive
    lr: Annotated[float, Field(gt=0)]
    batch_size: Positive
    scheduler_step_epoch: Positive
    scheduler_gamma: Annotated[float, Field(gt=0)]
    amp: bool = False
    use_stats: bool = False
    checkpoint_path: str | None = None
    resume_from_last: bool = False
    loss_fn: str
    data_loader_args: _Loaders

    @property
    def train(self) -> _Data:
        """How the training excerpts are made."""
        return self.data_loader_args.train


class _D3NetFile(_File):
    model_args: _D3NetArguments


class _DemucsFile(_File):
    model_args: _DemucsArguments


_FILES: Mapping[str, type[_D3NetFile | _DemucsFile]] = {"D3Net": _D3NetFile, "Demucs": _DemucsFile}


_AUGMENTATIONS: Mapping[str, Mapping[str, Any]] = {
    "random_gain": {"name": "gain", "low": 0.25, "high": 1.25},
    "swap_channel": {"name": "swap_channels", "probability": 0.5},
    "sign_flip": {"name": "flip_sign", "probability": 0.5},
}
_LOSSES = {"l1_loss": "l1", "l2_loss": "mse"}
_DEMUCS_LOSSES = _LOSSES | {"demucs_l1": "l1", "demucs_l2": "mse"}
"""The latter two weigh four sources, all alike."""
_OF_THE_MACHINE = (
    "exp_dir", "use_date_time_ref", "cpu_run", "dist_url", "group_name", "dist_backend", "cudnn_enabled",
    "cudnn_benchmark", "num_workers",
)  # fmt: skip
"""Keys that say where a training runs rather than what it does."""
_TOLD = ("model_name", "save_interval", "eval_interval", "val_patch_length", "stats_path")
"""Keys of which the changes below speak."""


def convert(path: Path) -> tuple[Recipe, list[str]]:
    """Read a configuration file of the 2022 project.

    Args:
        path: such as ``configs/d3net/vocals.yaml``.

    Returns:
        The recipe that trains the same, and what is otherwise: one sentence for each difference.

    Raises:
        UsageError: it cannot be read, is none of theirs, or asks for what is not here: which key, and what to do.
    """
    content = _read(path)
    kind = str(content.get("model_name"))
    known = [name for name in _FILES if name.lower() in architectures()]
    if kind not in known:
        raise UsageError(
            f"{path} is for the network {kind[:40]!r}, which cannot be converted: expected {' or '.join(known)}; "
            "`iseparate train --list` shows the recipes there are"
        )
    try:
        given = _FILES[kind].model_validate(content)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        complaint = fault["msg"].removeprefix("Value error, ")
        raise UsageError(
            f"{path}: {where}: {complaint[:1].lower()}{complaint[1:]}; expected a file such as the project's "
            "configs/d3net/vocals.yaml"
        ) from None
    _refuse(path, given)
    recipe, changes = _d3net(path, given) if isinstance(given, _D3NetFile) else _demucs(path, given)
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    return parse_recipe(text, f"{path}, converted"), [*changes, *_left_out(given)]


def _read(path: Path) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UsageError(f"{path} is larger than {MAX_BYTES >> 20} MB; a configuration file is a page of YAML")
        content = yaml.safe_load(data.decode())
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); name a configuration file") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} is not YAML that can be read ({reason}); name a configuration file") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no table of keys; name a configuration file such as configs/d3net/vocals.yaml")
    return content


def _refuse(path: Path, given: _D3NetFile | _DemucsFile) -> None:
    """What has no counterpart here, or did not work there either."""
    train = given.train
    losses = _LOSSES if isinstance(given, _D3NetFile) else _DEMUCS_LOSSES
    if train.mono != (given.model_args.audio_channels == 1):
        raise UsageError(f"{path}: data_loader_args.train.mono and model_args.audio_channels disagree")
    if strangers := set(train.target_sources) - set(train.mixing_sources):
        raise UsageError(f"{path}: target_sources names {min(strangers)!r}, which is none of the mixing_sources")
    if given.loss_fn not in losses:
        raise UsageError(f"{path}: loss_fn is {given.loss_fn[:40]!r}; known here are {', '.join(losses)}")
    if unknown := [name for name in train.augmentations or () if name not in _AUGMENTATIONS]:
        raise UsageError(f"{path}: there is no augmentation {unknown[0][:40]!r}; there are {', '.join(_AUGMENTATIONS)}")


def _d3net(path: Path, given: _D3NetFile) -> tuple[dict[str, Any], list[str]]:
    """The recipe as plain data, and what it does otherwise."""
    network, train = given.model_args, given.train
    if len(train.target_sources) != 1:
        raise UsageError(f"{path}: target_sources is {list(train.target_sources)}; a D3Net is trained for one target")
    target, frames = train.target_sources[0], network.patch_length
    excerpt_samples = min((frames - 1) * network.hop_length, _excerpt_samples(train))
    data, changes = _data(train, excerpt_samples)
    changes.insert(
        0,
        f"seq_dur: of {train.seq_dur:g} s the program used the first {frames} frames, so excerpts are "
        f"{excerpt_samples} samples long",
    )
    recipe = _frame(path, given) | {
        "title": f"D3Net of the iSeparate project, {target}",
        "model": _d3net_model(path, given, target),
        "data": data,
        "loss": {"name": _LOSSES[given.loss_fn], "domain": "magnitude"},
    }
    return recipe, [*changes, *_of_the_loop(given)]


def _demucs(path: Path, given: _DemucsFile) -> tuple[dict[str, Any], list[str]]:
    """As `_d3net`."""
    network, train = given.model_args, given.train
    down, up = network.encoder_params, network.decoder_params
    mirrored = (
        up.decoder_channels == down.encoder_init_channels
        and up.decoder_num_layers == down.encoder_num_layers
        and up.decoder_kernel_size == down.encoder_kernel_size
        and up.decoder_stride == down.encoder_stride
        and up.decoder_nonlinearity == down.encoder_nonlinearity
    )
    if not mirrored or network.input_channels not in (None, network.audio_channels):
        raise UsageError(
            f"{path}: model_args: the decoder does not mirror the encoder; only such networks are known here"
        )
    # Targets come out in the order in which the stems are mixed.
    stems = [stem for stem in train.mixing_sources if stem in train.target_sources]
    if len(stems) != network.num_sources:
        raise UsageError(f"{path}: num_sources is {network.num_sources}, but there are {len(stems)} target_sources")
    if down.encoder_num_layers > 32:
        raise UsageError(f"{path}: encoder_num_layers is {down.encoder_num_layers}; no song is left after so many")
    config = {
        "stems": stems,
        "sample_rate": train.sample_rate,
        "channels": network.audio_channels,
        "widths": [down.encoder_init_channels << i for i in range(down.encoder_num_layers)],
        "kernel_size": down.encoder_kernel_size,
        "stride": down.encoder_stride,
        "context": up.decoder_context_size,
        "glu": down.encoder_nonlinearity == "glu",
        "lstm_layers": network.blstm_num_layers,
        "lstm_width": network.blstm_hidden_dim,
        "resample": network.resample,
        "normalise": "all",
        "track_normalised": False,
        "framing": "doubled",
        "overlap": 0.0,
        "init_deviation": network.rescale,
    }
    data, changes = _data(train, _excerpt_samples(train))
    if train.pitch_shift_time_stretch_params:
        changes.insert(
            0,
            f"seq_dur: of {train.seq_dur:g} s max_tempo leaves {_excerpt_samples(train)} samples, which is how long "
            "excerpts are",
        )
    recipe = _frame(path, given) | {
        "title": "Demucs of the iSeparate project",
        "model": _model(path, "demucs", config),
        "data": data,
        "loss": {"name": _DEMUCS_LOSSES[given.loss_fn]},
    }
    return recipe, [*changes, *_of_the_loop(given)]


def _frame(path: Path, given: _File) -> dict[str, Any]:
    """What recipes for both networks have alike."""
    epochs, step = given.epochs, given.scheduler_step_epoch
    return {
        "name": _name(str((given.model_extra or {}).get("model_name", "")), given.exp_name),
        "source": f"{SOURCE}, {Path(path).name}",
        "optimizer": {"name": "adam", "lr": given.lr},
        "schedule": {"name": "step", "at_epochs": list(range(step, epochs, step)), "factor": given.scheduler_gamma},
        "initialise": "input_statistics" if given.use_stats else "default",
        "loop": {"epochs": epochs, "batch_size": given.batch_size, "seed": given.seed},
    }


def _excerpt_samples(train: _Data) -> int:
    """What is left where all excerpts are cut to what the fastest tempo leaves of them."""
    stretch = train.pitch_shift_time_stretch_params
    left = 1 - 0.01 * stretch.max_tempo if stretch else 1
    return int(left * int(train.seq_dur * train.sample_rate))


def _data(train: _Data, excerpt_samples: int) -> tuple[dict[str, Any], list[str]]:
    """A recipe's data, and what is otherwise there."""
    changes = []
    data: dict[str, Any] = {"excerpt_samples": excerpt_samples}
    if train.samples_per_epoch:
        data["excerpts_per_epoch"] = train.samples_per_epoch
    else:
        data |= {"sampling": "sequential", "stride_seconds": 1.0}
        changes.append(
            "samples_per_epoch: without it the program draws as many excerpts as the songs have seconds, anywhere; "
            "here one starts at every second"
        )
    if train.random_mix:
        data["mix_songs"] = 1.0
    data["augment"] = [dict(_AUGMENTATIONS[name]) for name in train.augmentations or ()]
    if stretch := train.pitch_shift_time_stretch_params:
        data["augment"].append(
            {
                "name": "pitch_tempo",
                "probability": stretch.p,
                "max_semitones": stretch.max_pitch,
                "tempo_deviation_percent": stretch.tempo_std,
                "max_tempo_percent": stretch.max_tempo,
            }
        )
        changes.append("pitch_shift_time_stretch_params: a library does it in place of soundstretch or librosa")
    if set(train.mixing_sources) != set(STEMS):
        changes.append("mixing_sources: the mixture is made of all stems that the data has")
    if train.cache:
        changes.append("cache: songs are not kept in memory; excerpts are read without the rest of their files")
    changes.append(
        "data_root and song_lists are not read: name the songs with --data, such as musdb18:PATH; for validation it "
        "takes the subset that the data has for it"
    )
    return data, changes


def _of_the_loop(given: _File) -> list[str]:
    """What the training does otherwise, whatever the network."""
    changes = []
    if given.use_stats:
        changes.append("stats_path is not read: the statistics are computed from the training songs, once, and kept")
    if given.amp:
        changes.append(
            "amp: trained in fp32, which runs everywhere; --set loop.precision=fp16 (CUDA) or bf16 is mixed precision"
        )
    changes += [
        "eval_interval, val_patch_length: validated after each epoch, by the training's own loss on all of the "
        "validation songs and by SDR on whole ones; the program took the mean absolute error on the middle of each",
        f"save_interval: saved after each epoch and every ten minutes, in place of every {_interval(given)} steps",
    ]
    if given.checkpoint_path or given.resume_from_last:
        changes.append(
            "checkpoint_path and resume_from_last: their training states cannot be taken up; start anew, then --resume"
        )
    return changes


def _d3net_model(path: Path, given: _D3NetFile, target: str) -> dict[str, Any]:
    network, train = given.model_args, given.train
    growth, layers, blocks = network.growth_rates, network.num_layers, network.num_blocks
    per_band = network.init_channels.bands, growth.bands, layers.bands, blocks.bands
    if {len(each) for each in per_band} != {len(network.band_split_idxs) + 1}:
        raise UsageError(f"{path}: model_args disagree about the number of bands; expected one more than splits")
    if growth.final is None or layers.final is None:
        raise UsageError(f"{path}: model_args.growth_rates and num_layers need a value for final")
    if network.win_length != network.n_fft:
        raise UsageError(
            f"{path}: model_args.win_length is {network.win_length}; only windows as long as n_fft ({network.n_fft}) "
            "are known here"
        )

    def sizes(start: int, growth: Counts, layers: Counts, blocks: Counts) -> dict[str, Any]:
        return {"start": start, "growth": list(growth), "layers": list(layers), "blocks": list(blocks)}

    config: dict[str, Any] = {
        "targets": [target],
        "networks": [
            {
                "bands": [sizes(*band) for band in zip(*per_band, strict=True)],
                "band_edges": list(network.band_split_idxs),
                "full": sizes(network.init_channels.full, growth.full, layers.full, blocks.full),
                "final_growth": growth.final,
                "final_layers": layers.final,
                "used_bins": network.valid_signal_index,
                "normalised_bins": network.valid_signal_index,
                "match": "rectified",
            }
        ],
        "patch_frames": [network.patch_length],
        "flip_average": False,
        "frame_samples": network.n_fft,
        "hop_samples": network.hop_length,
        "sample_rate": train.sample_rate,
        "channels": network.audio_channels,
        "wiener_rule": "norbert",
    }
    published = _model(path, "d3net", config | {"residual": "accompaniment", "residual_of": [target]})
    if "system" in published:
        return published
    # One target by itself has nothing to share the mixture with.
    return _model(path, "d3net", config | {"wiener_iterations": 0})


def _model(path: Path, arch: str, config: dict[str, Any]) -> dict[str, Any]:
    """The published system where it is that, else the architecture with these settings."""
    try:
        made = make_config(architecture(arch), config, CheckpointError)
    except CheckpointError as error:
        raise UsageError(f"{path}: model_args make no network: {error}") from None
    for name, published in architecture(arch).published.items():
        if published == made:
            return {"system": name}
    return {"arch": arch, "config": config}


def _left_out(given: _File) -> list[str]:
    extra = given.model_extra or {}
    lines = []
    if machine := [key for key in extra if key in _OF_THE_MACHINE]:
        lines.append(
            f"left out, since they are of the machine ({', '.join(machine)}): see -o, --device, --workers and torchrun"
        )
    if unknown := [key for key in extra if key not in (*_OF_THE_MACHINE, *_TOLD)]:
        lines.append(f"left out, since the program does not know them either: {', '.join(map(str, unknown))[:200]}")
    return lines


def _interval(given: _File) -> str:
    value = (given.model_extra or {}).get("save_interval")
    return str(value) if isinstance(value, int) else "100"


def _name(network: str, experiment: str) -> str:
    """What the folder of the training is called, such as ``iseparate-d3net-vocals``."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", experiment.lower()).strip("-._")[:40]
    return f"iseparate-{network.lower()}-{plain}".rstrip("-")
