"""What the engine, training and the store take for granted of every registered architecture."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from iseparate.audio.layout import unnamed_layout
from iseparate.engine.plan import Plan
from iseparate.engine.stream import SongStream
from iseparate.errors import CheckpointError, UsageError
from iseparate.losses import CRITERIA
from iseparate.models._registry import architectures
from iseparate.types import CheckpointFile, TrackStatistics
from iseparate.weights.load import Weights, load_ready, write_weights

LENGTHS = (1, 2, 3, 17, 255, 1001, 2500)


@pytest.fixture(params=architectures())
def arch(request):
    return architectures()[request.param]


@pytest.fixture
def model(arch):
    torch.manual_seed(0)
    return arch.model(arch.config.tiny()).eval()


def noise(model, samples, batch=1, seed=0):
    chance = torch.Generator().manual_seed(seed)
    return 0.2 * torch.randn(batch, model.spec.channels, samples, generator=chance)


def statistics(model, mix):
    """The whole song's, where the model asks for them."""
    if model.spec.track_statistics == "none":
        return None
    mono = mix.mean(1)
    return TrackStatistics(mono.mean().item(), mono.std().item())


# -- spec and Config ----------------------------------------------------------------------------------------


def test_the_spec_is_sane(model):
    spec = model.spec
    assert spec.stems
    assert len(set(spec.stems)) == len(spec.stems)
    assert spec.sample_rate >= 8000
    assert spec.channels in (1, 2)
    assert 0 <= spec.default_overlap < 1
    assert min(spec.length_multiple, spec.start_grid_samples) >= 1
    assert spec.context_samples is None or spec.context_samples >= 0
    # Before the song there must be room for the part of the first segment that nothing completes.
    assert spec.lead_samples >= spec.edge_samples >= 0
    assert spec.lead_samples % spec.start_grid_samples == 0
    if spec.segment_samples is not None:
        assert spec.segment_samples >= 2 * spec.edge_samples + spec.start_grid_samples
        assert (spec.segment_samples - spec.edge_samples) % spec.start_grid_samples == 0
    assert spec.residual_stem is None or spec.residual_stem in spec.stems
    assert spec.residual_stem is None or spec.mixture_consistent


def test_coupled_groups_are_of_its_stems_and_do_not_overlap(model):
    coupled = [stem for group in model.spec.couples for stem in group]
    assert set(coupled) <= set(model.spec.stems)
    assert len(coupled) == len(set(coupled))
    assert all(len(group) > 1 for group in model.spec.couples)


def test_a_narrowed_model_computes_what_was_asked(model):
    for stem in model.spec.stems:
        needed = model.spec.needed_stems((stem,))
        spec = model.narrowed(needed).spec
        assert set(needed) <= set(spec.stems) <= set(model.spec.stems)
        assert spec.residual_stem is None or spec.residual_stem in spec.stems


def test_kernels_are_submodules(model):
    for name in model.kernels:
        assert isinstance(model.get_submodule(name), torch.nn.Module)


def test_the_config_is_frozen_and_plain(arch):
    config = arch.config.tiny()
    assert dataclasses.is_dataclass(config)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(config)[0].name, None)
    json.dumps(dataclasses.asdict(config))


# -- forward ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", LENGTHS)
@torch.inference_mode()
def test_waveforms_in_waveforms_of_the_same_length_out(model, samples):
    stems = model(noise(model, samples, batch=2))
    assert stems.shape == (2, len(model.spec.stems), model.spec.channels, samples)
    assert stems.dtype == torch.float32
    assert torch.isfinite(stems).all()


@torch.inference_mode()
def test_the_input_is_left_alone(model):
    mix = noise(model, 1001)
    before = mix.clone()
    model(mix)
    assert torch.equal(mix, before)


@torch.inference_mode()
def test_songs_of_one_batch_do_not_hear_each_other(model):
    a, b = noise(model, 1500, seed=1), noise(model, 1500, seed=2)
    together = model(torch.cat([a, b]))
    assert (together[:1] - model(a)).abs().max() < 1e-5
    assert (together[1:] - model(b)).abs().max() < 1e-5


@torch.inference_mode()
def test_the_same_input_gives_the_same_output(model):
    mix = noise(model, 1500)
    assert torch.equal(model(mix), model(mix))


@pytest.mark.parametrize("samples", [1, 1001])
@torch.inference_mode()
def test_silence_is_finite_and_silent_where_promised(model, samples):
    stems = model(torch.zeros(1, model.spec.channels, samples))
    assert torch.isfinite(stems).all()
    if model.spec.silence_to_silence:
        assert not stems.any()


@torch.inference_mode()
def test_stems_sum_to_the_mixture_where_promised(model):
    mix = noise(model, 1500)
    if model.spec.mixture_consistent:
        assert (model(mix).sum(1) - mix).abs().max() < 1e-5


@torch.inference_mode()
def test_the_stems_are_not_all_the_same(model):
    stems = model(noise(model, 1500))[0]
    for one, other in pairwise(stems):
        assert (one - other).abs().max() > 1e-4


def unreached(model):
    return {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}


def without_output(model):
    """What the model itself says cannot be reached: few, and no pattern for nothing."""
    names = [name for name, _ in model.named_parameters()]
    assert all(fnmatch.filter(names, pattern) for pattern in model.without_output)
    return {name for pattern in model.without_output for name in fnmatch.filter(names, pattern)}


def test_gradients_reach_every_parameter(model):
    """Away from the start, where weights of zero can stand in the way."""
    torch.manual_seed(1)
    model.train()
    mix = noise(model, 2000, batch=2).requires_grad_()
    stems = model(mix)
    (stems * torch.randn_like(stems)).sum().backward()
    assert unreached(model) == without_output(model)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert mix.grad.any()


# -- training -----------------------------------------------------------------------------------------------


def training_parts(model, batch=2, samples=2000):
    """A mixture of random stems in the order of `trained_stems`, and one more that nobody asks for."""
    stems = torch.stack([noise(model, samples, batch, seed) for seed, _ in enumerate(model.trained_stems)], 1)
    return stems.sum(1) + noise(model, samples, batch, 99), stems


def test_the_trained_stems_are_of_its_stems(model):
    assert model.trained_stems
    assert set(model.trained_stems) <= set(model.spec.stems)


LOSSES = {
    "waveforms": ("l1", {}),
    "magnitudes": ("mse", {"domain": "magnitude"}),
    "both": ("multi_domain", {}),
    "stages": ("meta_tasnet", {}),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_training_loss_moves_every_parameter_or_is_refused_in_words(model, loss):
    torch.manual_seed(1)
    model.train()
    mix, stems = training_parts(model)
    name, arguments = LOSSES[loss]
    parts, refusal = {}, None
    try:
        parts = model.training_loss(mix, stems, CRITERIA[name](**arguments))
    except UsageError as error:
        refusal = str(error)
    if refusal is not None:
        assert loss != "waveforms"
        assert "the loss compares" in refusal
        return
    assert all(part.ndim == 0 and torch.isfinite(part) for part in parts.values())
    parts["loss"].backward()
    assert unreached(model) <= without_output(model)  # a loss may look at more than the output
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_training_step_on_silence_leaves_numbers(model):
    model.train()
    silence = torch.zeros(2, model.spec.channels, 2000)
    stems = silence[:, None].expand(-1, len(model.trained_stems), -1, -1)
    model.training_loss(silence, stems, CRITERIA["si_sdr"]())["loss"].backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_training_loss_falls(model):
    """Some steps on one batch."""
    torch.manual_seed(1)
    model.train()
    mix, stems = training_parts(model)
    criterion = CRITERIA["l1"]()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(5):
        torch.manual_seed(2)  # the same dropout
        optimizer.zero_grad()
        loss = model.training_loss(mix, stems, criterion)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_input_statistics_are_taken_or_refused_in_words(model):
    transform = model.input_transform
    if transform is None:
        with pytest.raises(UsageError, match="scales no input"):
            model.set_input_statistics(torch.zeros(5), torch.ones(5))
        return
    frame, hop = transform
    bins = frame // 2 + 1
    assert 1 <= hop <= frame
    mix = noise(model, 2000)
    before = model(mix)
    model.set_input_statistics(torch.linspace(0.1, 1, bins), torch.linspace(0.5, 2, bins))
    assert (model(mix) - before).abs().max() > 1e-5
    for wrong in (torch.ones(bins - 1), torch.zeros(bins)):
        with pytest.raises(UsageError, match="above 0 for each of"):
            model.set_input_statistics(wrong, wrong)


# -- chunks -------------------------------------------------------------------------------------------------


def in_chunks(model, mix, **options):
    layout = unnamed_layout(model.spec.channels)
    track = statistics(model, mix)
    stream = SongStream(
        model, [Plan.for_model(model.spec)], model.spec.sample_rate, layout, [track] if track else [], **options
    )
    blocks = [np.stack(list(b.stems.values())) for b in stream.run(_blocks(mix))]
    return torch.from_numpy(np.concatenate(blocks, -1))


def _blocks(mix):
    return [block.numpy() for block in mix[0].split(333, 1)]


@pytest.mark.parametrize("samples", LENGTHS)
@torch.inference_mode()
def test_chunked_is_one_pass_where_the_context_is_finite(model, samples):
    if model.spec.context_samples is None:
        pytest.skip("it sees its whole segment")
    mix = noise(model, samples)
    whole = model(mix, statistics(model, mix))[0]
    assert (in_chunks(model, mix) - whole).abs().max() < 1e-5


@torch.inference_mode()
def test_batches_change_nothing(model):
    mix = noise(model, 5000)
    assert (in_chunks(model, mix, batch_size=4) - in_chunks(model, mix)).abs().max() < 1e-5


@torch.inference_mode()
def test_context_is_as_far_as_the_network_sees(model):
    """A click changes nothing further away than promised."""
    context = model.spec.context_samples
    if context is None:
        pytest.skip("it sees its whole segment")
    mix = noise(model, 4 * context + 1001)
    track, at = statistics(model, mix), 2 * context + 500
    clicked = mix.clone()
    clicked[..., at] += 0.5
    changed = (model(clicked, track) - model(mix, track)).abs().amax((0, 1, 2)) > 1e-5
    assert changed.any()
    assert not changed[: at - context].any()
    assert not changed[at + context + 1 :].any()


# -- files and runtimes -------------------------------------------------------------------------------------


@torch.inference_mode()
def test_a_model_comes_back_from_our_format(arch, model, tmp_path):
    path = tmp_path / "model.safetensors"
    write_weights(path, Weights(arch.name, dataclasses.asdict(model.config), model.state_dict()))
    ready = load_ready(path)
    assert ready.arch == arch.name
    assert ready.config == model.config
    assert ready.model.spec == model.spec
    assert not ready.model.training
    mix = noise(model, 1001)
    assert torch.equal(ready.model(mix), model(mix))


NONSENSE = {
    "nothing": {},
    "no tensors": {"a.ckpt": CheckpointFile("a.ckpt", "torch")},
    "other names": {"a_0.ckpt": CheckpointFile("a_0.ckpt", "torch", {"weight": torch.zeros(3)})},
    "other bundle": {"m.index": CheckpointFile("m.index", "tensorflow", {"conv/w": torch.zeros(3)})},
    "settings only": {"a.yaml": CheckpointFile("a.yaml", "yaml", {}, {"model": "x"})},
}


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_importers_refuse_nonsense_in_words(arch, nonsense):
    for importer in arch.importers:
        assert importer.name
        assert importer.recognises(NONSENSE[nonsense]) is False
        if NONSENSE[nonsense]:
            with pytest.raises(CheckpointError) as caught:
                importer.convert(NONSENSE[nonsense])
            assert "\n" not in str(caught.value)


@torch.inference_mode()
def test_kernels_can_be_exported(model):
    """What a runtime gets: recorded from a real call, it gives the same."""
    seen = {}
    for name in model.kernels:
        kernel = model.get_submodule(name)
        kernel.register_forward_pre_hook(lambda _, inputs, name=name: seen.setdefault(name, inputs))
    model(noise(model, 1001))
    assert set(seen) == set(model.kernels)
    for name, inputs in seen.items():
        kernel = model.get_submodule(name)
        kernel._forward_pre_hooks.clear()
        exported = torch.export.export(kernel, inputs).module()
        assert torch.allclose(exported(*inputs), kernel(*inputs), atol=1e-6)
