from __future__ import annotations

import errno
import os
import struct
import subprocess

import numpy as np
import pytest
import soundfile
from material import decode, lag_samples, music, picture

from iseparate.audio.decode import probe
from iseparate.audio.encode import FORMATS, Encoder, check_format
from iseparate.audio.layout import unnamed_layout
from iseparate.errors import OutputError, UsageError

SURROUND = ("FL", "FR", "FC", "LFE", "BL", "BR")
SIDE_SURROUND = ("FL", "FR", "FC", "LFE", "SL", "SR")
RATES = (8000, 11025, 22050, 32000, 44100, 48000, 88200, 96000, 192000)
TAGS = {
    "title": "Zoë \u4e16",
    "artist": "A & B",
    "album": "C",
    "albumartist": "D",
    "track": "3/12",
    "date": "2022",
}


def encode(path, sound, rate, block=10_000, **options):
    with Encoder(path, sample_rate=rate, channels=sound.shape[0], **options) as encoder:
        for at in range(0, sound.shape[1], block):
            encoder.write(sound[:, at : at + block])
    return encoder


def snr_db(reference, found):
    return 10 * np.log10((reference**2).sum() / ((found - reference) ** 2).sum())


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_rate_and_channel_count(tmp_path, format, rate, channels):
    sound = music(channels, 20_011, rate)
    path = tmp_path / "stem.part"  # the name need not tell the format
    encoder = encode(path, sound, rate, format=format)
    info = probe(path)
    stored = encoder.plan.sample_rate
    assert (info.sample_rate, info.channels) == (stored, channels)
    assert (stored == rate) == (encoder.note is None)
    found = decode(path)
    assert found.shape[1] == -(-20_011 * stored // rate)
    if stored == rate:
        assert lag_samples(sound, found) == 0
        assert snr_db(sound, found) > (60 if format in ("wav", "flac") else 5)
    assert [file.name for file in tmp_path.iterdir()] == ["stem.part"]


@pytest.mark.parametrize("samples", [1, 2, 46, 47, 960, 1024, 1152, 1153, 1200, 2305, 5000])
@pytest.mark.parametrize("format", FORMATS)
def test_every_length_comes_back(tmp_path, format, samples):
    sound = music(2, samples, 48000)
    encode(tmp_path / "a", sound, 48000, format=format)
    assert decode(tmp_path / "a").shape == (2, samples)


@pytest.mark.parametrize(
    ("format", "options", "bits"),
    [
        ("wav", {"bit_depth": "16"}, 16),
        ("wav", {"bit_depth": "24"}, 24),
        ("flac", {"bit_depth": "16"}, 16),
        ("flac", {"bit_depth": "24"}, 24),
        ("m4a", {"codec": "alac", "bit_depth": "16"}, 16),
        ("m4a", {"codec": "alac", "bit_depth": "24"}, 24),
    ],
)
def test_whole_numbers_come_back_bit_for_bit(tmp_path, format, options, bits):
    steps = np.random.default_rng(0).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (2, 9001))
    steps[0, :2] = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    sound = (steps / 2.0 ** (bits - 1)).astype("f4")
    encoder = encode(tmp_path / "a", sound, 44100, format=format, **options)
    assert np.array_equal(decode(tmp_path / "a"), sound)
    assert probe(tmp_path / "a").bit_depth == bits
    assert encoder.clipped_samples == 0


def test_float_wav_comes_back_bit_for_bit_beyond_full_scale(tmp_path):
    sound = 4 * music(2, 9001, 44100)
    encoder = encode(tmp_path / "a", sound, 44100, format="wav", bit_depth="32f")
    assert np.array_equal(decode(tmp_path / "a"), sound)
    assert encoder.clipped_samples == 0
    assert encoder.peak == np.abs(sound).max()


def test_rounding_is_to_the_nearest_and_saturates(tmp_path):
    step = 2.0**-15
    sound = np.array([[0.4 * step, 0.6 * step, -0.6 * step, 1.0, -1.0, 1.5, -7.0]], "f4")
    encoder = encode(tmp_path / "a", sound, 44100, format="wav")
    assert (decode(tmp_path / "a") * 32768).tolist() == [[0, 1, -1, 32767, -32768, 32767, -32768]]
    assert (encoder.clipped_samples, encoder.peak, encoder.written_samples) == (2, 7.0, 7)


@pytest.mark.parametrize("format", ["wav", "flac", "m4a", "ogg", "opus"])
@pytest.mark.parametrize("layout", [SURROUND, SIDE_SURROUND], ids=["back", "side"])
def test_surround_keeps_its_channels(tmp_path, format, layout):
    rate = 48000
    time = np.arange(rate) / rate
    # The LFE of a lossy codec passes the lowest tones only.
    sound = np.stack([0.5 * np.sin(2 * np.pi * f * time) for f in (500, 700, 900, 40, 1300, 1700)]).astype("f4")
    encoder = encode(tmp_path / "a", sound, rate, format=format, layout=layout)
    found = decode(tmp_path / "a")
    correlation = np.abs(np.corrcoef(np.concatenate([sound, found]))[:6, 6:])
    assert (correlation.argmax(axis=1) == np.arange(6)).all()
    assert correlation.diagonal().min() > 0.98
    info = probe(tmp_path / "a")
    if info.layout != layout:
        assert set(info.layout) == set(SURROUND)  # the same room under the codec's own names
        if format in ("ogg", "opus"):
            assert layout == SIDE_SURROUND
    if format in ("wav", "flac"):
        assert info.layout == layout
        assert encoder.note is None


@pytest.mark.parametrize("format", ["wav", "flac", "m4a", "ogg", "opus"])
@pytest.mark.parametrize("channels", [3, 4, 5, 7, 8])
def test_every_number_of_channels_comes_back_in_order_or_is_refused(tmp_path, format, channels):
    names = {3: "FL FR FC", 4: "FL FR BL BR", 5: "FL FR FC BL BR", 7: "FL FR FC LFE BC SL SR"}.get(
        channels, "FL FR FC LFE BL BR SL SR"
    )
    layout = tuple(names.split())
    time = np.arange(24_000) / 48_000
    hertz = [40 if name == "LFE" else 500 + 300 * index for index, name in enumerate(layout)]
    sound = np.stack([0.5 * np.sin(2 * np.pi * f * time) for f in hertz]).astype("f4")
    if (format, channels) in [("opus", 5), ("opus", 7), ("m4a", 7)]:
        with pytest.raises(UsageError, match="cannot be stored"):
            encode(tmp_path / "a", sound, 48_000, format=format, layout=layout)
        return
    encode(tmp_path / "a", sound, 48_000, format=format, layout=layout)
    correlation = np.abs(np.corrcoef(np.concatenate([sound, decode(tmp_path / "a")]))[:channels, channels:])
    assert (correlation.argmax(axis=1) == np.arange(channels)).all()
    assert probe(tmp_path / "a").layout == layout


def test_unnamed_channels_stay_unnamed_in_wav(tmp_path):
    sound = music(5, 1000, 44100)
    encode(tmp_path / "a", sound, 44100, format="wav", layout=unnamed_layout(5))
    assert np.array_equal(np.round(decode(tmp_path / "a") * 32768), np.round(sound * 32768))
    assert probe(tmp_path / "a").layout == unnamed_layout(5)


@pytest.mark.parametrize("mime", ["image/jpeg", "image/png"])
@pytest.mark.parametrize(("format", "options"), [(name, {}) for name in FORMATS] + [("m4a", {"codec": "alac"})])
def test_tags_and_cover_come_back(tmp_path, format, options, mime):
    art = picture() if mime == "image/jpeg" else picture("png", "rgb24")
    sound = music(2, 5000, 48000)
    tags = {
        **TAGS,
        "comment": "two\nlines",
        "genre": "Jazz",
        "composer": "E",
        "replaygain_track_gain": "-3 dB",
    }
    encoder = encode(tmp_path / "a", sound, 48000, format=format, tags=tags, cover=(mime, art), **options)
    info = probe(tmp_path / "a")
    del tags["replaygain_track_gain"]
    assert info.tags == tags
    assert info.cover == (mime, art)
    assert encoder.note is None
    assert decode(tmp_path / "a").shape == (2, 5000)


def test_a_big_cover_and_a_false_one(tmp_path):
    sound = music(2, 2000, 48000)
    big = picture("png", "rgb24", 1500, 900)
    assert len(big) > 2_000_000
    for format in FORMATS:
        encode(tmp_path / "a", sound, 48000, format=format, cover=("image/png", big))
        assert probe(tmp_path / "a").cover == ("image/png", big)
        assert decode(tmp_path / "a").shape == (2, 2000)
    for false in (b"GIF89a" + bytes(50), b"\xff\xd8\xff" + bytes(50), b"\xff\xd8\xff" + bytes(17 * 2**20)):
        encoder = encode(tmp_path / "a", sound, 48000, format="mp3", cover=("image/jpeg", false))
        assert "cover picture was dropped" in encoder.note
        assert decode(tmp_path / "a").shape == (2, 2000)


def test_hostile_tags(tmp_path):
    hostile = {
        "title": "../../etc/passwd\0\n\x1b[31m",
        "artist": "x" * 10_000_000,
        "album": "\ud800 lone",
        "comment": "a\r\nb\x07",
        "genre": " \n ",
        "../key": "v",
        "encoder": "liar",
        "iTunSMPB": " 00000000 00000840 000001CA 0000000000000001",
        "ACOUSTID_FINGERPRINT": "AQAD",
        "": "empty",
    }
    for format in FORMATS:
        encode(tmp_path / "a", music(2, 3000, 48000), 48000, format=format, tags=hostile)
        tags = probe(tmp_path / "a").tags
        assert tags == {
            "title": "../../etc/passwd [31m",
            "artist": "x" * 1000,
            "album": "? lone",
            "comment": "a\nb",
        }
        assert decode(tmp_path / "a").shape == (2, 3000)
        assert b"AQAD" not in (tmp_path / "a").read_bytes()


def test_wav_tags_leave_a_sound_riff(tmp_path):
    encode(tmp_path / "a.wav", music(1, 1001, 44100), 44100, format="wav", tags={"title": "odd"})
    data = (tmp_path / "a.wav").read_bytes()
    assert struct.unpack("<I", data[4:8])[0] == len(data) - 8
    assert len(data) % 2 == 0
    assert b"id3 " in data
    samples, rate = soundfile.read(tmp_path / "a.wav")
    assert (len(samples), rate) == (1001, 44100)


@pytest.mark.parametrize("format", ["wav", "flac", "mp3", "ogg"])
def test_libsndfile_reads_the_same(tmp_path, format):
    """A second decoder agrees about length and place."""
    sound = music(2, 44_100, 44100)
    encode(tmp_path / f"a.{format}", sound, 44100, format=format, tags=TAGS)
    other, _ = soundfile.read(tmp_path / f"a.{format}", dtype="float32")
    ours = decode(tmp_path / f"a.{format}")
    assert lag_samples(other.T, ours) == 0
    if format != "mp3":  # mpg123, inside libsndfile, obeys the LAME tag only in part
        assert np.abs(other.T - ours).max() < 1e-3


def test_equal_input_gives_equal_files(tmp_path):
    sound = music(2, 5000, 48000)
    for format in FORMATS:
        for name in "ab":
            encode(tmp_path / name, sound, 48000, format=format, tags=TAGS)
        if format != "ogg":  # libsndfile draws a serial number
            assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("aiff", 44100, 2), "'aiff' is not an output format: choose one of wav, flac, mp3, m4a, ogg, opus"),
        (("mp3", 44100, 6), "MP3 holds at most 2 channels and the song has 6"),
        (("wav", 44100, 0), "0 channels cannot be written"),
        (("wav", 44100, 9), "9 channels cannot be written"),
        (("wav", 10, 2), "10 Hz cannot be written"),
        (("flac", 44100, 2, "32f"), "flac cannot be written with a bit depth of 32f: choose 16 or 24"),
        (("mp3", 44100, 2, "16"), "mp3 has no bit depth"),
    ],
)
def test_what_cannot_be_stored_is_told_before_any_work(tmp_path, arguments, words):
    with pytest.raises(UsageError, match=words):
        check_format(*arguments)
    with pytest.raises(UsageError, match=words):
        Encoder(
            tmp_path / "a",
            format=arguments[0],
            sample_rate=arguments[1],
            channels=arguments[2],
            bit_depth=arguments[3] if len(arguments) > 3 else None,
        )
    assert not list(tmp_path.iterdir())


def test_bit_rates_and_codecs(tmp_path):
    sound = music(2, 96_000, 48000)
    for format in ("mp3", "m4a", "ogg", "opus"):
        sizes = []
        for kbps in (64, 256):
            encode(tmp_path / "a", sound, 48000, format=format, bitrate_kbps=kbps)
            sizes.append((tmp_path / "a").stat().st_size)
        assert sizes[1] > 1.8 * sizes[0]
    with pytest.raises(UsageError, match="expected 8 to 320 at 44100 Hz"):
        check_format("mp3", 44100, 2, bitrate_kbps=999)
    with pytest.raises(UsageError, match="lossless"):
        check_format("flac", 44100, 2, bitrate_kbps=320)
    with pytest.raises(UsageError, match="choose aac or alac"):
        check_format("m4a", 44100, 2, codec="opus")
    with pytest.raises(UsageError, match="leave the codec out"):
        check_format("wav", 44100, 2, codec="pcm_s8")
    assert check_format("mp3", 96000, 2).sample_rate == 48000
    assert check_format("mp3", 88200, 2).sample_rate == 44100
    assert check_format("opus", 44100, 2).notes == ("opus cannot hold 44100 Hz: the sound was resampled to 48000 Hz.",)


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_is_left_of_a_failure(tmp_path, format):
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117 - the block is what fails
        with Encoder(tmp_path / "a", format=format, sample_rate=44100, channels=2) as encoder:
            encoder.write(music(2, 50_000, 44100))
            raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    encoder = Encoder(tmp_path / "a", format=format, sample_rate=44100, channels=2)
    encoder.abort()
    encoder.abort()
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="after its end"):
        encoder.write(music(2, 5, 44100))
    sound = music(2, 5000, 44100)
    sound[0, 77] = np.nan
    with pytest.raises(OutputError, match="NaN or infinite"):
        encode(tmp_path / "a", sound, 44100, format=format)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", FORMATS)
def test_places_that_cannot_be_written(tmp_path, format):
    for place in (tmp_path / "none" / "a", tmp_path):
        with pytest.raises(OutputError, match=r"cannot be written \((No such file|Is a directory)"):
            Encoder(place, format=format, sample_rate=44100, channels=2)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 200 kB, where the machine lets us have one."""
    place = tmp_path / "tiny"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=False)


@pytest.mark.parametrize("format", FORMATS)
def test_a_disk_that_runs_full(tiny_disk, format):
    with pytest.raises(OutputError, match=r"No space left on device|rror"):
        encode(tiny_disk / "a", music(2, 1_000_000, 44100), 44100, format=format)
    assert not list(tiny_disk.iterdir())


@pytest.mark.parametrize("format", ["wav", "flac", "mp3", "m4a", "opus"])
def test_a_write_that_fails_is_told_and_leaves_nothing(tmp_path, format, monkeypatch):
    """The same as on a full disk, where none can be mounted: the file refuses after 100 kB."""
    import iseparate.audio.encode as module

    class Full:
        def __init__(self, file):
            self._file = file
            self.seek, self.tell, self.close = file.seek, file.tell, file.close

        @property
        def closed(self):
            return self._file.closed

        def write(self, data):
            if self._file.tell() + len(data) > 100_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self._file.write(data)

    opened = module._open_muxer
    monkeypatch.setattr(module, "_open_muxer", lambda file, plan: opened(Full(file), plan))
    with pytest.raises(OutputError, match="No space left on device"):
        encode(tmp_path / "a", music(2, 400_000, 48000), 48000, format=format)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_wav_beyond_4_gib_becomes_rf64(tmp_path):
    block = np.zeros((8, 1 << 20), "f4")
    block[0, 0] = 0.5
    with Encoder(
        tmp_path / "a.wav", format="wav", sample_rate=192_000, channels=8, bit_depth="32f", tags=TAGS
    ) as encoder:
        for _ in range(129):
            encoder.write(block)
    with (tmp_path / "a.wav").open("rb") as file:
        header = file.read(28)
    size = (tmp_path / "a.wav").stat().st_size
    assert size > 2**32
    assert header[:4] == b"RF64"
    assert struct.unpack("<Q", header[20:28])[0] == size - 8
    info = probe(tmp_path / "a.wav")
    assert info.declared_samples == 129 << 20
    assert info.tags == TAGS
    assert decode(tmp_path / "a.wav", start_seconds=(128 << 20) / 192_000)[0, 0] == 0.5
    (tmp_path / "a.wav").unlink()  # pytest keeps the folders of its last runs


def test_rf64_tags_mend_the_long_header(tmp_path):
    """RF64 in small, as FFmpeg writes it when told to."""
    from material import encode_raw

    from iseparate.audio.tags import append_wav_id3, id3_tag

    path = encode_raw(
        tmp_path / "a.wav",
        music(1, 1001, 44100),
        44100,
        muxer="wav",
        codec="pcm_s16le",
        kind="s16",
        layout="mono",
        options={"rf64": "always"},
    )
    assert append_wav_id3(path, id3_tag(TAGS, None))
    data = path.read_bytes()
    assert data[:4] == b"RF64"
    assert struct.unpack("<Q", data[20:28])[0] == len(data) - 8
    assert probe(path).tags == TAGS
    assert decode(path).shape == (1, 1001)
