"""An excerpt is the slice of the whole, however it was come by."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from small_data import RATE, sound, write, write_coded

from iseparate.audio.decode import Decoder
from iseparate.data.clip import Clip
from iseparate.errors import AudioReadError, TruncatedAudioError, UsageError


def whole(clip: Clip):
    return np.concatenate(list(clip.blocks()), axis=1)


def forbid_decoding_from_the_beginning(monkeypatch):
    def refuse(*_):
        raise AssertionError("decoded from the beginning")

    monkeypatch.setattr(Clip, "_read_from_beginning", refuse)


@pytest.mark.parametrize(
    ("name", "subtype"),
    [("a.wav", "PCM_16"), ("a.wav", "PCM_24"), ("a.wav", "PCM_U8"), ("a.wav", "FLOAT"), ("a.flac", "PCM_24")],
)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_lossless_files_are_entered_anywhere(tmp_path, monkeypatch, name, subtype, channels):
    clip = Clip(write(tmp_path / name, sound(1, 0.5, channels), subtype=subtype))
    full = whole(clip)
    forbid_decoding_from_the_beginning(monkeypatch)
    for start, count in [(0, 1), (0, 22_050), (1234, 5000), (22_049, 1)]:
        part = clip.read(start, count)
        assert part.dtype == np.float32
        assert part.flags.writeable
        np.testing.assert_array_equal(part, full[:, start : start + count])
    np.testing.assert_array_equal(clip.read(20_000), full[:, 20_000:])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("muxer", "codec", "bit_rate"),
    [("mp4", "aac", 256_000), ("mp4", "aac", 48_000), ("mp3", "libmp3lame", 320_000), ("mp3", "libmp3lame", 32_000)],
)
def test_aac_and_mp3_are_entered_to_the_sample(tmp_path, monkeypatch, channels, muxer, codec, bit_rate):
    music = sound(1, 5.0, channels)
    clip = Clip(write_coded(tmp_path / f"a.{muxer}", [music], muxer=muxer, codec=codec, bit_rate=bit_rate))
    full = whole(clip)
    assert full.shape == music.shape
    forbid_decoding_from_the_beginning(monkeypatch)
    for start in (3 * RATE, 3 * RATE + 777, 4 * RATE + 1, full.shape[1] - 20_000):
        np.testing.assert_allclose(clip.read(start, 20_000), full[:, start : start + 20_000], atol=1e-6)


@pytest.mark.parametrize(
    ("muxer", "codec"), [("mp4", "aac"), ("mp3", "libmp3lame"), ("adts", "aac"), ("ogg", "libopus"), ("mp4", "alac")]
)
def test_the_ends_of_coded_files_are_exact(tmp_path, muxer, codec):
    rate = 48_000 if codec == "libopus" else RATE
    clip = Clip(write_coded(tmp_path / f"a.{muxer}", [sound(2, 4.0, rate=rate)], rate, muxer, codec))
    full = whole(clip)
    assert clip.sound.samples == full.shape[1]
    for start, count in [(0, 5000), (1, 1), (100_000, 3), (full.shape[1] - 100, 100), (full.shape[1] - 40_000, 40_000)]:
        np.testing.assert_allclose(clip.read(start, count), full[:, start : start + count], atol=1e-6)


def test_every_stream_of_a_file_is_its_own(tmp_path):
    parts = [sound(k, 4.0) for k in range(3)]
    path = write_coded(tmp_path / "a.mp4", parts)
    for k, part in enumerate(parts):
        found = Clip(path, stream=k).read(150_000, 8000)
        error = np.square(found - part[:, 150_000:158_000]).mean() / np.square(part).mean()
        assert error < 0.01, k


def test_noise_substitution_moves_nothing_and_is_repeatable(tmp_path):
    """FFmpeg's encoder describes noise by its level only: the draws differ after an entry, the position does not."""
    rng = np.random.default_rng(0)
    music = sound(1, 6.0) + 0.1 * rng.standard_normal((2, 6 * RATE)).astype("f4")
    clip = Clip(write_coded(tmp_path / "a.mp4", [music], bit_rate=128_000, noise_substitution=True))
    full = whole(clip)
    part = clip.read(200_000, 20_000)
    np.testing.assert_array_equal(part, clip.read(200_000, 20_000))
    lags = [float((part * full[:, 200_000 + lag : 220_000 + lag]).sum()) for lag in range(-20, 21)]
    assert int(np.argmax(lags)) == 20
    assert not np.allclose(part, full[:, 200_000:220_000], atol=1e-3)  # else there is no exception to make


def test_a_clip_is_opened_anew_by_every_read_and_can_be_sent(tmp_path):
    path = write(tmp_path / "a.wav", sound(1))
    clip = Clip(path)
    first = clip.read(10, 10)
    assert np.array_equal(pickle.loads(pickle.dumps(clip)).read(10, 10), first)
    path.unlink()
    with pytest.raises(AudioReadError, match="does not exist"):
        clip.read(10, 10)


@pytest.mark.parametrize(("start", "count"), [(-1, 5), (0, 0), (0, -3), (13_230, 1), (13_000, 1000), (13_230, None)])
def test_parts_outside_are_refused(tmp_path, start, count):
    clip = Clip(write(tmp_path / "a.wav", sound(1)))
    with pytest.raises(UsageError, match="expected a part of its 13230"):
        clip.read(start, count)


def test_damage_is_judged_by_the_decoder(tmp_path):
    path = write(tmp_path / "a.wav", sound(1, 1.0))
    path.write_bytes(path.read_bytes()[:50_000])
    clip = Clip(path)
    assert clip.sound.samples == RATE  # what the header promises
    with pytest.raises(TruncatedAudioError):
        clip.read(40_000, 1000)


def test_numbers_that_are_none_are_found_in_the_part_only(tmp_path):
    music = sound(1, 1.0)
    music[0, 30_000] = np.nan
    clip = Clip(write(tmp_path / "a.wav", music, subtype="FLOAT"))
    assert clip.read(0, 1000).shape == (2, 1000)
    with pytest.raises(Exception, match="not numbers"):
        clip.read(29_000, 2000)


def test_a_file_without_a_promise_is_counted(tmp_path):
    clip = Clip(write_coded(tmp_path / "a.aac", [sound(1, 1.0)], muxer="adts"))
    with Decoder(clip.path) as decoder:
        assert decoder.info.declared_samples is None
    assert clip.sound.samples == whole(clip).shape[1]
