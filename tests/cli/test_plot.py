"""`--plot`."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import soundfile
from stage import RATE, left_behind, write_wav

from iseparate.audio.decode import Decoder

needs_matplotlib = pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="an extra")
PNG = b"\x89PNG\r\n\x1a\n"


@needs_matplotlib
@pytest.mark.parametrize(
    "options", [["--format", "opus"], ["--start", "0.2", "--stems", "vocals"], ["--duration", "0.001"]]
)
def test_a_picture_lies_beside_the_stems(separate, here, options):
    write_wav(here / "song.wav", 1)
    outcome = separate("song.wav", "--plot", *options)
    assert outcome.status == 0
    assert "error" not in outcome.err
    assert (here / "separated/tiny/song/spectrograms.png").read_bytes().startswith(PNG)
    assert not [name for name in left_behind(here / "separated") if ".part" in name]


@needs_matplotlib
def test_songs_in_one_folder_have_pictures_of_their_own(separate, here):
    for name in "ab":
        write_wav(here / f"{name}.wav")
    assert separate("a.wav", "b.wav", "--plot", "--filename", "{track}-{stem}.{ext}").status == 0
    pictures = {path.name for path in (here / "separated/tiny").glob("*.png")}
    assert pictures == {"a.spectrograms.png", "b.spectrograms.png"}


@needs_matplotlib
def test_a_picture_that_cannot_be_written_costs_neither_stems_nor_songs(separate, here):
    for name in "ab":
        write_wav(here / f"{name}.wav")
    (here / "separated/tiny/a/spectrograms.png/in the way").mkdir(parents=True)
    outcome = separate("a.wav", "b.wav", "--plot")
    assert outcome.status == 1
    assert "the picture separated/tiny/a/spectrograms.png cannot be written" in outcome.sentence
    assert "2 done" in outcome.out
    assert (here / "separated/tiny/a/vocals.wav").exists()
    assert (here / "separated/tiny/b/spectrograms.png").exists()


def test_without_matplotlib_it_says_what_to_install(separate, here, monkeypatch):
    write_wav(here / "song.wav")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    outcome = separate("song.wav", "--plot")
    assert outcome.status == 2
    assert outcome.sentence == "--plot needs matplotlib: pip install 'iseparate[plot]'"


@pytest.mark.parametrize("rate", [8_000, RATE, 96_000])
def test_a_tone_shows_in_its_band_and_while_it_sounds(tmp_path, rate):
    from iseparate.cli.plot import band_edges_hz, band_levels

    time = np.arange(2 * rate) / rate
    tone = np.where(time < 1, 0.5 * np.sin(2 * np.pi * 1000 * time), 0)
    soundfile.write(tmp_path / "tone.wav", tone, rate)
    edges_hz = band_edges_hz(RATE)
    levels = band_levels(Decoder(tmp_path / "tone.wav"), 2.0, 10, edges_hz)
    band = int(levels[:, 1].argmax())
    assert edges_hz[band] * 0.93 <= 1000 <= edges_hz[band + 1] * 1.07
    assert levels[band, 1] - levels[band, 8] > 60
    assert levels.shape == (len(edges_hz) - 1, 10)
