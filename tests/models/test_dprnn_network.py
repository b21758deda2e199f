"""DPRNN: its size, its chunks, and what its importer refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from iseparate.errors import CheckpointError
from iseparate.models._registry import find_importer
from iseparate.models.dprnn import AsteroidCheckpoint, Config, Dprnn
from iseparate.weights.load import build_model
from iseparate.weights.read import read_checkpoint

TINY = Config.tiny()
GOLDEN = Path(__file__).parents[1] / "parity" / "goldens" / "asteroid_dprnn_2src" / "model.pth"


def build(config):
    torch.manual_seed(0)
    return Dprnn(config).eval()


def noise(*shape, seed=0):
    return 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_separator_has_the_size_that_the_paper_prints():
    """2.6 million for two speakers; four stems and longer filters take little more."""
    model = build_model("dprnn")
    assert 2.55e6 < sum(p.numel() for p in model.parameters()) < 2.65e6
    assert model.spec.stems == ("drums", "bass", "other", "vocals")
    assert (model.spec.sample_rate, model.spec.channels) == (44100, 1)


@pytest.mark.parametrize(("chunk", "hop"), [(14, 7), (15, 7), (15, 4), (10, 10), (1, 1)])
@torch.inference_mode()
def test_chunks_cover_every_frame_as_often_as_they_overlap(chunk, hop):
    """Chunks of the features themselves, joined again, are each frame times the number of its chunks."""
    model = build(replace(TINY, chunk_frames=chunk, chunk_hop_frames=hop))
    separator = model.separator
    for frames in (1, 13, 40):
        x = torch.nn.functional.pad(noise(2, frames, 3), (0, 0, chunk, chunk))
        joined = separator._joined(x.unfold(1, chunk, hop).mT.contiguous(), frames)
        counted = torch.zeros(frames + 2 * chunk)
        for start in range(0, frames + chunk + 1, hop):
            counted[start : start + chunk] += 1
        inside = slice(chunk, chunk + frames)
        assert counted[inside].min() > 0
        assert torch.allclose(joined, x[:, inside] * counted[inside, None], atol=1e-5)


@torch.inference_mode()
def test_features_of_stems_are_the_same_before_and_after_joining():
    """The reference makes them of each chunk, ours of the sum; the shift counts once a chunk."""
    model = build(replace(TINY, chunk_frames=15, chunk_hop_frames=7))
    separator = model.separator
    torch.nn.init.normal_(separator.stems.bias)
    seen = {}
    separator.prelu.register_forward_hook(lambda _, inputs, output: seen.setdefault("chunks", output))
    filtered = model.encode(noise(1, 1, 400))
    masks = separator(filtered)
    frames = filtered.shape[-1]
    x = separator._joined(separator.stems(seen["chunks"]), frames).unflatten(-1, (2, -1))
    expected = torch.sigmoid(separator.mask(torch.tanh(separator.gated(x)) * torch.sigmoid(separator.gate(x))))
    assert torch.allclose(masks, expected.permute(0, 2, 3, 1), atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        *({"mulcat": True}, {"bidirectional": False}, {"layers": 2}, {"cell": "gru"}, {"cell": "rnn"}),
        *({"norm": "channel"}, {"norm": "feature"}, {"norm": "batch"}, {"mask": "softmax_filters"}),
    ],
)
@torch.inference_mode()
def test_settings_matter(change):
    mix = noise(2, 1, 900)
    assert (build(replace(TINY, **change))(mix) - build(TINY)(mix)).abs().max() > 1e-4


@torch.inference_mode()
def test_across_and_within_chunks():
    """One path carries what happens in a chunk to its end, the other to the chunks before and after."""
    model = build(replace(TINY, repeats=1, norm="channel"))
    within, across = model.separator.paths
    x = noise(1, 6, 14, 8)
    clicked = x.clone()
    clicked[0, 2, 5] += 1
    reached = (within(clicked) - within(x)).abs().amax((0, 3)) > 1e-7
    assert reached[2].all()
    assert not reached[[0, 1, 3, 4, 5]].any()
    reached = (across(clicked) - across(x)).abs().amax((0, 3)) > 1e-7
    assert reached[:, 5].all()
    assert not reached[:, [i for i in range(14) if i != 5]].any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chunk_hop_frames": 15}, "chunk_hop_frames is 15; expected 1 to 14"),
        ({"norm": "cumulative"}, "expected global, channel, feature or batch"),
        ({"repeats": 65}, "repeats is 65"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)


# -- reading checkpoints ------------------------------------------------------------------------------------


def asteroid(tensors=None, **arguments):
    (file,) = read_checkpoint(GOLDEN).values()
    told = {**file.metadata["model_args"], **arguments}
    held = {**file.tensors, **(tensors or {})}
    return {file.name: replace(file, tensors=held, metadata={**file.metadata, "model_args": told})}


def test_the_importer_knows_its_own():
    arch, found = find_importer(asteroid())
    assert (arch.name, type(found)) == ("dprnn", AsteroidCheckpoint)


def test_a_hop_that_nobody_told_is_half_a_chunk():
    config, _ = AsteroidCheckpoint().convert(asteroid(hop_size=None, chunk_size=51))
    assert (config.chunk_frames, config.chunk_hop_frames) == (51, 25)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rnn_type": "Gru"}, "rnn_type 'Gru'; expected LSTM or lstm or GRU or gru"),
        ({"norm_type": "cgLN"}, "norm is cumulative"),
        ({"hop_size": 51}, "chunk_hop_frames is 51"),
        ({"bidirectional": None}, "bidirectional 'None'; expected true or false"),
        ({"tensors": {"state_dict.masker.net.0.extra": torch.ones(1)}}, "DPRNN has not"),
    ],
)
def test_a_strange_checkpoint_is_refused_in_words(arguments, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        AsteroidCheckpoint().convert(asteroid(**arguments))
    assert "\n" not in str(caught.value)
