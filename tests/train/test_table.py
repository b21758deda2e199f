"""``metrics.csv``, means of figures, and what TensorBoard shows."""

from __future__ import annotations

import pytest
import torch
from small_training import recipe, train, write_songs

from iseparate.errors import UsageError
from iseparate.train.board import spectrogram
from iseparate.train.figures import Means
from iseparate.train.table import read_table


def test_a_table_is_read_back(tmp_path):
    path = tmp_path / "metrics.csv"
    assert read_table(path) == []
    path.write_text("epoch,valid/loss\n1,\n2,0.5\nx,1\n,\n")
    assert read_table(path) == [{"epoch": "1"}, {"epoch": "2", "valid/loss": "0.5"}]
    path.write_bytes(b"epoch\n\xff\xfe\n")
    with pytest.raises(UsageError, match="cannot be read"):
        read_table(path)


def test_an_epoch_in_two_runs_took_the_seconds_of_both(tmp_path):
    songs, out = write_songs(tmp_path / "songs"), tmp_path / "out"
    assert train(recipe(), songs, out, stop=lambda: True).stopped  # after the first batch
    content = torch.load(out / "last.ckpt", weights_only=True)
    assert 0 < content["epoch_seconds"] < 60
    torch.save(content | {"epoch_seconds": 1000.0}, out / "last.ckpt")
    first, second = train(recipe(), songs, out, resume=True).history
    assert 1000 < float(first["seconds"]) < 1060
    assert float(second["seconds"]) < 60


def test_means_are_weighted():
    means = Means()
    assert means.means(lambda t: t) == {}
    means.add({"a": 1.0, "b": 0.0}, 3)
    means.add({"a": 5.0, "b": 8.0}, 1)
    assert means.means(lambda t: t) == {"a": 2.0, "b": 2.0}


def test_means_go_on_where_they_were_kept():
    """Two processes with means of 1 and 3: what was kept is shared out, and counts as it did."""
    parts = [Means(), Means()]
    parts[0].add({"a": 1.0}, 2)
    parts[1].add({"a": 3.0}, 2)
    together = torch.stack([torch.tensor([2.0, 2.0]), torch.tensor([6.0, 2.0])]).double().sum(0)
    kept = parts[0].state(lambda _: together, 2)
    again = [Means(), Means()]
    for part in again:
        part.load(kept)
    again[0].add({"a": 8.0}, 4)
    assert again[0].means(lambda t: t + torch.tensor([4.0, 2.0], dtype=torch.float64)) == {"a": 5.0}
    empty = Means()
    empty.load(Means().state(lambda t: t, 1))
    assert empty.means(lambda t: t) == {}


def test_a_spectrogram_is_a_picture():
    time = torch.arange(8192) / 8192
    picture = spectrogram(torch.sin(2 * torch.pi * 2048 * time))  # a quarter of the rate: the middle of the picture
    assert picture.shape == (1025, 13)
    assert picture.max() == 1.0
    assert picture.min() == 0.0
    assert abs(int(picture[:, 6].argmax()) - 512) <= 1
    low = spectrogram(torch.sin(2 * torch.pi * 100 * time))
    assert int(low[:, 6].argmax()) > 950  # low frequencies below
    assert not spectrogram(torch.zeros(4096)).any()


def test_tensorboard_hears_and_sees(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    songs = write_songs(tmp_path / "songs", rate=8000)
    values = ("data.excerpt_seconds=0.3", "schedule={name: step, at_epochs: [2]}")
    train(recipe(*values), songs, tmp_path / "out")
    train(recipe(*values, "loop.epochs=3"), songs, tmp_path / "out", resume=True)
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"), size_guidance={"audio": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    assert set(tags["audio"]) == set(tags["images"]) == {"mixture", "vocals/reference", "vocals/estimate"}
    assert {"train/loss", "valid/loss", "learning_rate"} <= set(tags["scalars"])
    assert [scalar.step for scalar in events.Scalars("valid/loss")] == [1, 2, 3]
    assert [scalar.value for scalar in events.Scalars("learning_rate")] == pytest.approx([0.01, 0.01, 0.001])
    assert [row["learning_rate"] for row in read_table(tmp_path / "out" / "metrics.csv")] == ["0.01", "0.01", "0.001"]
    sound = events.Audio("mixture")[0]
    assert (sound.sample_rate, sound.length_frames) == (8000.0, 2400)
