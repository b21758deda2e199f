"""The predecessor's configuration files: what they say becomes a recipe, what differs is told."""

from __future__ import annotations

import copy

import pytest
import yaml

from iseparate.errors import UsageError
from iseparate.models._registry import architecture, architectures
from iseparate.train.from_iseparate import convert
from iseparate.train.recipe import load_recipe
from iseparate.weights.load import make_config

# The values of configs/d3net/vocals.yaml at 920077b.
VOCALS = {
    "exp_dir": "exp/",
    "model_name": "D3Net",
    "exp_name": "vocals",
    "use_date_time_ref": False,
    "seed": 42,
    "cpu_run": False,
    "dist_url": "tcp://localhost:23456",
    "group_name": "group_name",
    "dist_backend": "nccl",
    "epochs": 100,
    "lr": 0.001,
    "batch_size": 32,
    "scheduler_step_epoch": 40,
    "scheduler_gamma": 0.1,
    "amp": True,
    "cudnn_enabled": True,
    "cudnn_benchmark": True,
    "checkpoint_path": "",
    "resume_from_last": False,
    "save_interval": 100,
    "eval_interval": 100,
    "val_patch_length": 512,
    "num_workers": 25,
    "stats_path": "data/MUSDB18-wav/musdb_train.stats",
    "use_stats": True,
    "loss_fn": "l2_loss",
    "model_args": {
        "audio_channels": 2,
        "init_channels": {"full": 32, "bands": [32, 8]},
        "band_split_idxs": [256],
        "valid_signal_index": 1600,
        "growth_rates": {
            "full": [13, 14, 15, 16, 17, 16, 14, 12, 11],
            "bands": [[16, 18, 20, 22, 20, 18, 16], [2, 2, 2, 2, 2]],
            "final": 12,
        },
        "num_layers": {
            "full": [4, 5, 6, 7, 8, 6, 5, 4, 4],
            "bands": [[5, 5, 5, 5, 4, 4, 4], [1, 1, 1, 1, 1]],
            "final": 3,
        },
        "num_blocks": {"full": [2] * 9, "bands": [[2] * 7, [1] * 5]},
        "kernel_size": 3,
        "padding": 1,
        "num_outs": {"full": 1, "bands": [1, 1], "final": 1},
        "n_fft": 4096,
        "win_length": 4096,
        "hop_length": 1024,
        "patch_length": 256,
    },
    "data_loader_args": {
        "train": {
            "target_sources": ["vocals"],
            "mixing_sources": ["vocals", "drums", "bass", "other"],
            "data_root": "data/MUSDB18-wav",
            "song_lists": ["filelists/musdb/train.txt"],
            "sample_rate": 44100,
            "mono": False,
            "seq_dur": 6,
            "augmentations": ["random_gain", "swap_channel"],
            "pitch_shift_time_stretch_params": None,
            "random_mix": True,
            "seed": 42,
            "iseval": False,
            "cache": True,
            "samples_per_epoch": 6400,
        },
        "validation": {"target_sources": ["vocals"], "seq_dur": 20, "iseval": True},
    },
}


# Of those of configs/demucs/demucs_config.yaml, what is otherwise.
DEMUCS = copy.deepcopy(VOCALS) | {
    "model_name": "Demucs",
    "exp_name": "all_targets",
    "epochs": 400,
    "scheduler_step_epoch": 100,
    "scheduler_gamma": 0.5,
    "use_stats": False,
    "loss_fn": "demucs_l1",
    "model_args": {
        "audio_channels": 2,
        "input_channels": None,
        "num_sources": 4,
        "encoder_params": {
            "encoder_init_channels": 64,
            "encoder_num_layers": 6,
            "encoder_nonlinearity": "glu",
            "encoder_kernel_size": 8,
            "encoder_stride": 4,
            "encoder_growth_rate": 2,
        },
        "decoder_params": {
            "decoder_channels": 64,
            "decoder_kernel_size": 8,
            "decoder_stride": 4,
            "decoder_num_layers": 6,
            "decoder_growth_rate": 2,
            "decoder_nonlinearity": "glu",
            "decoder_context_size": 3,
        },
        "blstm_hidden_dim": None,
        "blstm_num_layers": 2,
        "rescale": 0.1,
        "resample": True,
    },
}
DEMUCS["data_loader_args"]["train"] |= {
    "target_sources": ["vocals", "drums", "bass", "other"],
    "seq_dur": 10,
    "augmentations": ["random_gain", "swap_channel", "sign_flip"],
    "pitch_shift_time_stretch_params": {
        "max_pitch": 2,
        "max_tempo": 12,
        "tempo_std": 5,
        "p": 0.2,
        "quick": False,
        "use_soundstretch": True,
    },
    "samples_per_epoch": None,
}


@pytest.fixture
def converted(tmp_path):
    """Convert a file as above with some of its keys, named by their dotted path, changed."""

    def run(changes=(), start=VOCALS):
        content = copy.deepcopy(start)
        for key, value in dict(changes).items():
            *path, last = key.split(".")
            at = content
            for step in path:
                at = at[step]
            at[last] = value
        path = tmp_path / "vocals.yaml"
        path.write_text(yaml.safe_dump(content))
        return convert(path)

    return run


def test_the_vocals_file_is_the_shipped_recipe(converted):
    recipe, _ = converted()
    shipped = load_recipe("d3net-iseparate")
    for part in ("model", "data", "loss", "optimizer", "schedule", "initialise", "loop"):
        assert getattr(recipe, part) == getattr(shipped, part), part
    assert recipe.name == "iseparate-d3net-vocals"
    assert "vocals.yaml" in recipe.source


def test_each_difference_is_one_line(converted):
    _, changes = converted()
    assert len(changes) == len(set(changes))
    assert not any("\n" in line for line in changes)
    told = " ".join(changes)
    for key in (
        "seq_dur",
        "amp",
        "stats_path",
        "eval_interval",
        "save_interval",
        "song_lists",
        "num_workers",
        "cache:",
    ):
        assert key in told, key
    assert "pitch_shift" not in told  # it is null there


def test_another_target_is_built_with_its_own_sizes(converted):
    recipe, _ = converted(
        {
            "exp_name": "Bass, 2nd try!",
            "model_args.band_split_idxs": [192],
            "data_loader_args.train.target_sources": ["bass"],
        }
    )
    assert recipe.name == "iseparate-d3net-bass-2nd-try"
    assert recipe.model.arch == "d3net"
    config = make_config(architecture("d3net"), recipe.model.config, AssertionError)
    assert config.targets == ("bass",)
    assert config.networks[0].band_edges == (192,)
    assert config.networks[0].match == "rectified"
    assert config.patch_frames == (256,)
    assert config.wiener_iterations == 0


def test_settings_are_taken_over(converted):
    recipe, changes = converted(
        {
            "loss_fn": "l1_loss",
            "use_stats": False,
            "amp": False,
            "seed": 7,
            "data_loader_args.train.augmentations": ["sign_flip"],
            "data_loader_args.train.random_mix": False,
            "data_loader_args.train.samples_per_epoch": None,
            "data_loader_args.train.pitch_shift_time_stretch_params": {"max_pitch": 1, "p": 0.5},
        }
    )
    assert recipe.loss.name == "l1"
    assert recipe.loss.arguments == {"domain": "magnitude"}
    assert recipe.initialise == "default"
    assert recipe.loop.seed == 7
    assert recipe.data.mix_songs == 0
    assert (recipe.data.sampling, recipe.data.stride_seconds) == ("sequential", 1)
    assert [part.name for part in recipe.data.augment] == ["flip_sign", "pitch_tempo"]
    assert recipe.data.augment[1].arguments["max_semitones"] == 1
    told = " ".join(changes)
    assert "amp:" not in told
    assert "stats_path" not in told
    assert "samples_per_epoch" in told


needs_demucs = pytest.mark.skipif("demucs" not in architectures(), reason="there is no Demucs to train")


@needs_demucs
def test_demucs_is_its_own_network(converted):
    recipe, changes = converted(start=DEMUCS)
    config = make_config(architecture("demucs"), recipe.model.config, AssertionError)
    assert recipe.name == "iseparate-demucs-all_targets"
    assert config.stems == ("vocals", "drums", "bass", "other")
    assert config.widths == (64, 128, 256, 512, 1024, 2048)
    assert (config.normalise, config.framing, config.track_normalised) == ("all", "doubled", False)
    assert recipe.data.excerpt_samples == 388080  # 88 % of 10 s
    assert [part.name for part in recipe.data.augment] == ["gain", "swap_channels", "flip_sign", "pitch_tempo"]
    assert (recipe.loss.name, recipe.loss.arguments) == ("l1", {})
    assert recipe.schedule.arguments == {"at_epochs": [100, 200, 300], "factor": 0.5}
    assert recipe.initialise == "default"
    told = " ".join(changes)
    assert "388080" in told
    assert "stats_path" not in told


WRONG_DEMUCS = {
    "stems that are not mixed": ({"data_loader_args.train.target_sources": ["piano"]}, "none of the mixing_sources"),
    "fewer stems": ({"data_loader_args.train.target_sources": ["vocals"]}, "num_sources is 4"),
    "another decoder": ({"model_args.decoder_params.decoder_stride": 2}, "mirror"),
    "faster growth": ({"model_args.encoder_params.encoder_growth_rate": 3}, "encoder_growth_rate"),
    "unknown loss": ({"loss_fn": "demucs_huber"}, "demucs_l1, demucs_l2"),
    "no network": (
        {"model_args.encoder_params.encoder_stride": 9, "model_args.decoder_params.decoder_stride": 9},
        "no n",
    ),
    "layers without end": (
        {"model_args.encoder_params.encoder_num_layers": 10**9, "model_args.decoder_params.decoder_num_layers": 10**9},
        "no song is left",
    ),
}


@needs_demucs
@pytest.mark.parametrize("fault", WRONG_DEMUCS)
def test_a_demucs_that_cannot_be_converted_is_refused_in_a_sentence(converted, fault):
    changes, words = WRONG_DEMUCS[fault]
    with pytest.raises(UsageError, match=words) as caught:
        converted(changes, DEMUCS)
    assert "\n" not in str(caught.value)


def test_a_training_state_cannot_be_taken_up(converted):
    _, changes = converted({"checkpoint_path": "exp/last.pt"})
    assert any("checkpoint_path" in line for line in changes)


def test_keys_of_nobody_are_named(converted):
    _, changes = converted({"colour": "green"})
    assert any("colour" in line for line in changes)


WRONG = {
    "a mistyped key of the data": (
        {"data_loader_args.train.sample_per_epoch": 64},
        "data_loader_args.train.sample_per_epoch: extra inputs are not permitted",
    ),
    "another network": ({"model_name": "UNet"}, "expected D3Net"),
    "no network": ({"model_name": None}, "expected D3Net"),
    "a list of networks": ({"model_name": ["D3Net"]}, "expected D3Net"),
    "no epochs": ({"epochs": None}, "epochs: "),
    "epochs in words": ({"epochs": "many"}, "epochs: "),
    "negative rate": ({"lr": -1}, "lr: "),
    "unknown loss": ({"loss_fn": "demucs_huber"}, "l1_loss, l2_loss"),
    "unknown augmentation": ({"data_loader_args.train.augmentations": ["reverb"]}, "no augmentation 'reverb'"),
    "two targets": ({"data_loader_args.train.target_sources": ["vocals", "bass"]}, "trained for one"),
    "target not mixed": ({"data_loader_args.train.target_sources": ["piano"]}, "none of the mixing_sources"),
    "kernel of 5": ({"model_args.kernel_size": 5}, "model_args.kernel_size"),
    "unknown argument": ({"model_args.attention": True}, "model_args.attention"),
    "short window": ({"model_args.win_length": 1024}, "win_length is 1024"),
    "bands disagree": ({"model_args.band_split_idxs": [128, 256]}, "number of bands"),
    "sizes make no network": ({"model_args.band_split_idxs": [255]}, "model_args make no network"),
    "no final": ({"model_args.num_layers": {"full": [1], "bands": [[1], [1]]}}, "value for final"),
    "mono of two": ({"data_loader_args.train.mono": True}, "disagree"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_cannot_be_converted_is_refused_in_a_sentence(converted, fault):
    changes, words = WRONG[fault]
    with pytest.raises(UsageError, match=words) as caught:
        converted(changes)
    assert "\n" not in str(caught.value)


TEXTS = {
    "not YAML": b"a: [1, 2",
    "a list": b"- 1\n- 2\n",
    "not text": b"\xff\xfe\x00",
    "empty": b"",
    "code": b"!!python/object/apply:os.system ['true']",
    "too large": b"#" * ((1 << 20) + 1),
}


@pytest.mark.parametrize("text", TEXTS)
def test_no_configuration_file_is_refused_in_a_sentence(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_bytes(TEXTS[text])
    with pytest.raises(UsageError) as caught:
        convert(path)
    assert "\n" not in str(caught.value)
    assert "x.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        convert(tmp_path / "none.yaml")
