from __future__ import annotations

import os
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from material import decode, encode_raw, lag_samples, music, picture

from iseparate.audio.decode import Decoder, probe
from iseparate.errors import AudioFormatError, AudioReadError, TruncatedAudioError, UsageError

RATES = (8000, 11025, 22050, 32000, 44100, 48000, 88200, 96000, 192000)


# -- whole-number and float formats come back bit for bit


@pytest.mark.parametrize(
    ("format", "subtype", "bits"),
    [
        ("WAV", "PCM_U8", 8),
        ("WAV", "PCM_16", 16),
        ("WAV", "PCM_24", 24),
        ("WAV", "PCM_32", 32),
        ("WAVEX", "PCM_24", 24),
        ("W64", "PCM_16", 16),
        ("RF64", "PCM_16", 16),
        ("AIFF", "PCM_S8", 8),
        ("AIFF", "PCM_24", 24),
        ("FLAC", "PCM_16", 16),
        ("FLAC", "PCM_24", 24),
        ("CAF", "PCM_16", 16),
    ],
)
def test_integers_are_scaled_exactly(tmp_path, format, subtype, bits):
    path = tmp_path / "song"
    rng = np.random.default_rng(1)
    steps = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (2, 5003))
    steps[0, :2] = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    soundfile.write(path, (steps << (32 - bits)).astype(np.int32).T, 44100, format=format, subtype=subtype)
    found = decode(path)
    assert np.array_equal(found, (steps / 2.0 ** (bits - 1)).astype("f4"))
    info = probe(path)
    assert (info.bit_depth, info.is_float, info.declared_samples) == (bits, False, 5003)


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_floats_pass_and_may_exceed_full_scale(tmp_path, subtype):
    sound = 3 * music(2, 5003, 44100)
    soundfile.write(tmp_path / "song.wav", sound.T.astype("f8"), 44100, subtype=subtype)
    assert np.array_equal(decode(tmp_path / "song.wav"), sound)
    assert probe(tmp_path / "song.wav").is_float


def test_64_bit_integers(tmp_path):
    steps = np.array([[-(2**63), -(2**62), 0, 2**61]])
    raw = steps.astype("<i8").tobytes()
    header = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 44100, 44100 * 8, 8, 64)
    body = header + b"data" + struct.pack("<I", len(raw)) + raw
    (tmp_path / "song.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert decode(tmp_path / "song.wav").tolist() == [[-1.0, -0.5, 0.0, 0.25]]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("channels", [1, 2, 6, 8])
def test_rates_and_channels(tmp_path, rate, channels):
    sound = music(channels, 3000, rate)
    soundfile.write(tmp_path / "song.wav", sound.T, rate, format="WAVEX", subtype="FLOAT")
    info = probe(tmp_path / "song.wav")
    assert (info.sample_rate, info.channels, len(info.layout)) == (rate, channels, channels)
    assert np.array_equal(decode(tmp_path / "song.wav"), sound)


def test_a_file_with_its_channels_in_its_own_order(tmp_path):
    """Right before left in a CAF: PyAV 18 frees such a layout twice unless it is guarded."""

    def chunk(name, body):
        return name + struct.pack(">q", len(body)) + body

    sound = np.rint(music(2, 20_000, 44100) * 32768).astype(">i2")
    described = struct.pack(">d4sIIIII", 44100.0, b"lpcm", 0, 4, 1, 2, 16)
    right, left = (struct.pack(">IIfff", label, 0, 0, 0, 0) for label in (2, 1))
    chunks = [
        chunk(b"desc", described),
        chunk(b"chan", struct.pack(">III", 0, 0, 2) + right + left),
        chunk(b"data", bytes(4) + sound[::-1].T.tobytes()),
    ]
    (tmp_path / "a.caf").write_bytes(b"caff" + struct.pack(">HH", 1, 0) + b"".join(chunks))
    assert probe(tmp_path / "a.caf").layout == ("FL", "FR")
    assert np.array_equal(decode(tmp_path / "a.caf") * 32768, sound)


@pytest.mark.parametrize("codec", ["aac", "alac"])
def test_eight_planar_channels(tmp_path, codec):
    names = "FL+FR+FC+LFE+BL+BR+FLC+FRC"
    sound = np.repeat(music(1, 20_000, 48000), 8, 0) * np.arange(1, 9, dtype="f4")[:, None] / 8
    kind = {"aac": "flt", "alac": "s16"}[codec]
    encode_raw(
        tmp_path / "a.mp4",
        sound,
        48000,
        muxer="mp4",
        codec=codec,
        kind=kind + "p",
        frame_kind=kind,
        layout=names,
    )
    found = decode(tmp_path / "a.mp4")
    levels = np.sqrt((found**2).mean(axis=1) / (sound[7] ** 2).mean()) * 8
    assert np.allclose(np.delete(levels, 3), np.delete(np.arange(1, 9), 3), atol=0.45)  # the LFE has no highs


# -- lossy formats: exactly as long as what was encoded, and in its place


@pytest.mark.parametrize("samples", [1, 575, 1152, 1153, 20_000, 46_080, 46_081])
@pytest.mark.parametrize(
    ("muxer", "codec", "kind", "rate"),
    [
        ("mp3", "libmp3lame", "fltp", 44100),
        ("mp3", "libmp3lame", "fltp", 22050),
        ("opus", "libopus", "flt", 48000),
        ("mp4", "alac", "s16p", 44100),
    ],
)
def test_gapless(tmp_path, muxer, codec, kind, rate, samples):
    sound = music(2, samples, rate)
    path = encode_raw(tmp_path / "song.bin", sound, rate, muxer=muxer, codec=codec, kind=kind)
    found = decode(path)
    declared = probe(path).declared_samples
    assert found.shape == (2, declared)
    # FFmpeg writes a header that is up to 46 samples off where the last frame of an MP3 is almost empty.
    assert declared == samples or (muxer == "mp3" and samples % 1152 == 1 and declared == samples + 46)
    if samples > 10_000:
        assert lag_samples(sound, found) == 0


@pytest.mark.parametrize("rate", [8000, 44100, 96000])
def test_aac_is_trimmed_to_its_edit_list(tmp_path, rate):
    sound = music(2, 50_003, rate)
    for options, exact in [({"movie_timescale": str(rate)}, True), ({}, False)]:
        path = encode_raw(tmp_path / "song.m4a", sound, rate, muxer="ipod", codec="aac", options=options)
        found = decode(path)
        assert lag_samples(sound, found) == 0
        # By default FFmpeg writes edit lists in milliseconds.
        assert abs(found.shape[1] - 50_003) <= (0 if exact else rate // 1000)
        assert found.shape[1] == probe(path).declared_samples


def test_itunes_gapless_tag(tmp_path):
    """iTunes marks priming and padding in a tag of its own, and writes no edit list."""
    sound = music(2, 50_003, 44100)
    path = encode_raw(tmp_path / "song.m4a", sound, 44100, muxer="ipod", codec="aac", options={"use_editlist": "0"})
    padding = -(50_003 + 1024) % 1024
    value = f" 00000000 {1024:08X} {padding:08X} {50_003:016X} 00000000 00000000".encode()
    mean, name = b"\0\0\0\0com.apple.iTunes", b"\0\0\0\0iTunSMPB"
    boxes = b"".join(
        struct.pack(">I", len(body) + 8) + kind + body
        for kind, body in [(b"mean", mean), (b"name", name), (b"data", b"\0\0\0\x01\0\0\0\0" + value)]
    )
    extra = struct.pack(">I", len(boxes) + 8) + b"----" + boxes
    data = bytearray(path.read_bytes())
    for box in (b"moov", b"udta", b"meta", b"ilst"):  # each is the last in the one around it
        at = data.index(box, data.index(b"moov")) - 4
        data[at : at + 4] = struct.pack(">I", struct.unpack(">I", data[at : at + 4])[0] + len(extra))
    path.write_bytes(bytes(data) + extra)
    found = decode(path)
    assert found.shape == sound.shape
    assert lag_samples(sound, found) == 0


@pytest.mark.parametrize("rate", [8000, 44100, 192000])
def test_vorbis_by_libsndfile(tmp_path, rate):
    for channels in (1, 2):
        sound = music(channels, 100_003, rate)
        with soundfile.SoundFile(tmp_path / "song.ogg", "w", rate, channels, format="OGG", subtype="VORBIS") as file:
            for at in range(0, 100_003, 4096):
                file.write(sound[:, at : at + 4096].T)
        found = decode(tmp_path / "song.ogg")
        assert found.shape == sound.shape
        assert lag_samples(sound, found) == 0


def test_webm_and_one_stream_of_many(tmp_path):
    """A film's sound track, and a file with one stream per stem."""
    path = tmp_path / "song.stem.mp4"
    stems = [music(2, 30_000, 44100, seed) for seed in range(3)]
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=25, width=32, height=32, pix_fmt="yuv420p")
        tracks = [container.add_stream("alac", rate=44100, layout="stereo") for _ in stems]
        for track in tracks:
            track.codec_context.format = "s16p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux(video.encode(frame))
        for track, stem in zip(tracks, stems, strict=True):
            audio = av.AudioFrame.from_ndarray(np.rint(stem * 32768).astype("i2"), "s16p", "stereo")
            audio.sample_rate, audio.pts = 44100, 0
            container.mux(track.encode(audio))
        for track in [video, *tracks]:
            container.mux(track.encode(None))
    assert probe(path).streams == 3
    for number, stem in enumerate(stems):
        assert np.abs(decode(path, stream=number) - stem).max() <= 0.51 / 32768
    with pytest.raises(AudioFormatError, match=r"no sound track 3: it has 3; choose a stream from 0 to 2"):
        probe(path, stream=3)
    webm = encode_raw(tmp_path / "a.webm", music(2, 48_000, 48000), 48000, muxer="webm", codec="libopus", kind="flt")
    assert decode(webm).shape == (2, 48_000)


# -- blocks, start and duration


def test_blocks_are_regular_and_can_be_read_twice(tmp_path):
    sound = music(2, 10_001, 44100)
    soundfile.write(tmp_path / "song.flac", sound.T, 44100, subtype="PCM_24")
    with Decoder(tmp_path / "song.flac") as decoder:
        for _ in range(2):
            blocks = list(decoder.blocks(3000))
            assert [block.shape for block in blocks] == [(2, 3000)] * 3 + [(2, 1001)]
            assert all(block.dtype == np.float32 and block.flags.c_contiguous for block in blocks)
        with pytest.raises(UsageError, match="0 samples was asked"):
            next(decoder.blocks(0))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.m4a", "a.opus", "a.aiff"])
@pytest.mark.parametrize(("start", "duration"), [(0.0, 0.25), (0.1, None), (1.5, 0.3333), (2.2, 9.0), (2.499, None)])
def test_a_part_equals_the_slice_of_the_whole(tmp_path, name, start, duration):
    rate = 48000
    sound = music(2, int(2.5 * rate), rate)
    path = tmp_path / name
    if path.suffix in (".wav", ".flac", ".aiff"):
        soundfile.write(path, sound.T, rate, subtype="PCM_16")
    else:
        muxer, codec, kind = {
            ".mp3": ("mp3", "libmp3lame", "fltp"),
            ".m4a": ("ipod", "aac", "fltp"),
            ".opus": ("opus", "libopus", "flt"),
        }[path.suffix]
        encode_raw(path, sound, rate, muxer=muxer, codec=codec, kind=kind)
    first = round(start * rate)
    last = None if duration is None else first + round(duration * rate)
    assert np.array_equal(decode(path, start_seconds=start, duration_seconds=duration), decode(path)[:, first:last])


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_a_start_behind_the_end(tmp_path, suffix):
    soundfile.write(tmp_path / f"a.{suffix}", music(2, 44100, 44100).T, 44100)
    with pytest.raises(AudioFormatError, match="ends before 7 s"):
        decode(tmp_path / f"a.{suffix}", start_seconds=7)


@pytest.mark.parametrize("times", [{"start_seconds": -1.0}, {"start_seconds": float("nan")}, {"duration_seconds": 0.0}])
def test_times_that_are_none(tmp_path, times):
    with pytest.raises(UsageError, match="expected a number of seconds"):
        Decoder(tmp_path / "a.wav", **times)


# -- damage


def whole_file(tmp_path, kind):
    sound, path = music(2, 200_000, 44100), tmp_path / f"whole.{kind}"
    if kind in ("wav", "flac", "aiff", "w64"):
        soundfile.write(path, sound.T, 44100, subtype="PCM_16")
    else:
        muxer, codec, form, options = {
            "mp3": ("mp3", "libmp3lame", "fltp", {}),
            "m4a": ("ipod", "aac", "fltp", {"movflags": "faststart"}),
            "alac": ("ipod", "alac", "s16p", {"movflags": "faststart"}),
            "webm": ("matroska", "flac", "s16", {}),
        }[kind]
        encode_raw(path, sound, 44100, muxer=muxer, codec=codec, kind=form, options=options)
    return path, path.read_bytes()


@pytest.mark.parametrize("kind", ["wav", "w64", "flac", "aiff", "mp3", "m4a", "alac", "webm"])
@pytest.mark.parametrize("share", [0.5, 0.93])
def test_a_file_that_breaks_off(tmp_path, kind, share):
    whole, data = whole_file(tmp_path, kind)
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(TruncatedAudioError, match=r"(incomplete|damaged).*--allow-truncated"):
        decode(path)
    with Decoder(path, allow_truncated=True) as decoder:
        came = np.concatenate(list(decoder.blocks()), axis=1)
        assert decoder.notes
    assert 0.7 * share * 200_000 < came.shape[1] < 200_000
    sure = came.shape[1] - 5000  # the last frames may be damaged
    assert np.array_equal(came[:, :sure], decode(whole)[:, :sure])
    # What was asked for lies before the damage.
    assert decode(path, duration_seconds=1.0).shape == (2, 44100)


@pytest.mark.parametrize("kind", ["flac", "mp3", "m4a", "alac"])
@pytest.mark.parametrize("junk", ["random", "zero"])
def test_garbage_in_the_middle(tmp_path, kind, junk):
    _, data = whole_file(tmp_path, kind)
    half = len(data) // 2
    noise = bytes(3000) if junk == "zero" else np.random.default_rng(3).bytes(3000)
    path = tmp_path / f"bad.{kind}"
    path.write_bytes(data[:half] + noise + data[half + 3000 :])
    with pytest.raises(TruncatedAudioError, match="--allow-truncated"):
        decode(path)
    assert decode(path, allow_truncated=True).shape[1] > 150_000


def test_one_flipped_bit_in_a_flac_is_found(tmp_path):
    _, data = whole_file(tmp_path, "flac")
    half = len(data) // 2
    (tmp_path / "bad.flac").write_bytes(data[:half] + bytes([data[half] ^ 16]) + data[half + 1 :])
    with pytest.raises(TruncatedAudioError):
        decode(tmp_path / "bad.flac")


ID3V1 = b"TAG" + b"some title".ljust(125, b"\0")
APE = b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 0x80000000) + bytes(8)
LYRICS = b"LYRICSBEGIN" + b"INF00002" + b"la" * 900 + b"000913LYRICS200"
ID3V2 = b"ID3\x04\0\0\0\0\x10\0" + b"\xff\xfb\x90\x64" * 512


@pytest.mark.parametrize("kind", ["mp3", "flac", "wav", "m4a"])
@pytest.mark.parametrize(
    "tail",
    [ID3V1, APE, LYRICS + ID3V1, ID3V2, b"\0" * 5000],
    ids=["id3v1", "ape", "lyrics", "id3v2", "zeros"],
)
def test_trailing_tags_are_no_damage(tmp_path, kind, tail):
    whole, data = whole_file(tmp_path, kind)
    (tmp_path / f"tagged.{kind}").write_bytes(data + tail)
    assert np.array_equal(decode(tmp_path / f"tagged.{kind}"), decode(whole))


def test_an_mp3_without_a_header_promises_nothing(tmp_path):
    sound = music(2, 100_000, 44100)
    path = encode_raw(
        tmp_path / "plain.mp3",
        sound,
        44100,
        muxer="mp3",
        codec="libmp3lame",
        options={"write_xing": "0", "id3v2_version": "0"},
    )
    assert probe(path).declared_samples is None
    assert probe(path).estimated_seconds == pytest.approx(100_000 / 44100, rel=0.1)
    assert decode(path).shape[1] >= 100_000
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert decode(path).shape[1] > 45_000  # nothing says that there was more
    path.write_bytes(data + ID3V1)
    assert decode(path).shape[1] >= 100_000


def test_an_mp3_header_that_counts_too_few_frames_does_not_cut_the_song(tmp_path):
    """Two MP3s joined by `cat`: the first one's header is not the whole truth."""
    _, data = whole_file(tmp_path, "mp3")
    (tmp_path / "two.mp3").write_bytes(data + data)
    assert decode(tmp_path / "two.mp3").shape[1] > 390_000


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_a_wav_from_a_pipe_promises_nothing(tmp_path, size):
    sound = music(1, 1000, 44100)
    soundfile.write(tmp_path / "a.wav", sound.T, 44100, subtype="PCM_16")
    data = bytearray((tmp_path / "a.wav").read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", size)
    (tmp_path / "a.wav").write_bytes(data)
    assert probe(tmp_path / "a.wav").declared_samples is None
    assert decode(tmp_path / "a.wav").shape == (1, 1000)


# -- what is no song


def wav_bytes(channels=2, rate=44100, raw=b"\0" * 400):
    header = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * channels * 2, channels * 2, 16)
    body = header + b"data" + struct.pack("<I", len(raw)) + raw
    return b"RIFF" + struct.pack("<I", len(body)) + body


BAD_FILES = {
    "missing": ("none.mp3", None, AudioReadError, "does not exist"),
    "empty": ("a.mp3", b"", AudioReadError, "is empty"),
    "text": ("a.mp3", b"This is not a song.\n" * 200, AudioReadError, "sound"),
    "short text": ("a.mp3", b"hello", AudioReadError, "sound"),
    "random": ("a.mp3", np.random.default_rng(0).bytes(50_000), AudioReadError, "sound"),
    "random wav": ("a.wav", np.random.default_rng(0).bytes(50_000), AudioReadError, "sound"),
    "picture": ("a.jpg", picture(), AudioReadError, "holds no sound"),
    "no samples": ("a.wav", wav_bytes(raw=b""), AudioFormatError, "0 samples"),
    "no channels": ("a.wav", wav_bytes(channels=0), AudioReadError, "sound"),
    "forty channels": (
        "a.wav",
        wav_bytes(channels=40, raw=b"\0" * 8000),
        AudioFormatError,
        "40 channels: expected 1 to 8",
    ),
    "nine channels": (
        "a.wav",
        wav_bytes(channels=9, raw=b"\0" * 1800),
        AudioFormatError,
        "9 channels: expected 1 to 8",
    ),
    "slow": ("a.wav", wav_bytes(rate=100), AudioFormatError, "100 Hz: expected 8000 to 384000 Hz"),
    "fast": ("a.wav", wav_bytes(rate=5_000_000), AudioFormatError, "5000000 Hz: expected 8000 to 384000 Hz"),
    "playlist": (
        "a.m3u8",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nreal.wav\n#EXT-X-ENDLIST\n",
        AudioReadError,
        "sound|playlists",
    ),
    "concat": ("a.ffconcat", b"ffconcat version 1.0\nfile real.wav\n", AudioReadError, "playlists"),
    "sdp": (
        "a.sdp",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        AudioReadError,
        "playlists|sound",
    ),
    "list in mp3 clothes": ("a.mp3", b"ffconcat version 1.0\nfile real.wav\n", AudioReadError, "playlists"),
    "mp4 without index": (
        "a.m4a",
        b"\0\0\0\x20ftypM4A \0\0\2\0M4A isomiso2mp41\0\0\0\x08free\0\1\0\0mdat" + bytes(999),
        TruncatedAudioError,
        "cut off",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES, ids=lambda case: case.replace(" ", "-"))
def test_each_bad_file_has_its_sentence(tmp_path, case, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write("real.wav", music(2, 5000, 44100).T, 44100)
    name, data, error, words = BAD_FILES[case]
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=words) as raised:
        decode(tmp_path / name)
    sentence = str(raised.value)
    assert name in sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert "expected" in sentence or "get a fresh copy" in sentence
    assert capfd.readouterr() == ("", "")  # FFmpeg's own complaints stay off the terminal


def test_a_directory_a_pipe_and_a_silent_film(tmp_path):
    with pytest.raises(AudioReadError, match="is a directory"):
        probe(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AudioReadError, match="pipe or a device"):
        probe(tmp_path / "pipe")
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        video = container.add_stream("mpeg4", rate=25, width=32, height=32, pix_fmt="yuv420p")
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(video.encode(None))
    with pytest.raises(AudioReadError, match=r"holds no sound \(it holds: pictures\)"):
        probe(tmp_path / "film.mp4")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav_bytes())
    (tmp_path / "a.wav").chmod(0)
    with pytest.raises(AudioReadError, match="may not be read"):
        probe(tmp_path / "a.wav")


def test_permission_errors_have_their_sentence(tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_bytes(wav_bytes())

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(AudioReadError, match="may not be read"):
        probe(tmp_path / "a.wav")


@pytest.mark.parametrize(
    "name", ["-", "pipe:0", "concat:real.wav|real.wav", "file:real.wav", "data:audio/wav;base64,AA", "a\0b"]
)
def test_names_are_names_of_files_and_nothing_else(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write("real.wav", music(2, 5000, 44100).T, 44100)
    with pytest.raises(AudioReadError):
        probe(name)


def test_nothing_is_fetched(tmp_path, monkeypatch):
    """A web address as a name, or inside a playlist under any extension, makes no connection."""
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.wav"
        calls = []

        def listen():
            with suppress(TimeoutError):
                calls.append(server.accept())

        listener = threading.Thread(target=listen)
        listener.start()
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n"
        for suffix in ("m3u8", "mp3", "wav", "mp4"):
            (tmp_path / f"list.{suffix}").write_text(playlist)
            with pytest.raises(AudioReadError):
                probe(tmp_path / f"list.{suffix}")
        with pytest.raises(AudioReadError, match="does not exist"):
            probe(url)
        listener.join()
        assert not calls


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(tmp_path, value):
    sound = music(2, 100_000, 44100)
    sound[1, 88_200] = value
    soundfile.write(tmp_path / "a.wav", sound.T, 44100, subtype="FLOAT")
    with pytest.raises(AudioFormatError, match=r"NaN or infinite\), the first at second 2\.000"):
        decode(tmp_path / "a.wav")
    assert decode(tmp_path / "a.wav", duration_seconds=1.0).shape == (2, 44100)
    with pytest.raises(AudioFormatError, match=r"second 2\.000"):
        decode(tmp_path / "a.wav", start_seconds=1.5)


def test_a_huge_double_is_reported_not_passed_on(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([0.0, 1e300]), 44100, subtype="DOUBLE")
    with pytest.raises(AudioFormatError, match="infinite"):
        decode(tmp_path / "a.wav")


def test_a_change_of_rate_midway(tmp_path):
    first = encode_raw(
        tmp_path / "a.mp3",
        music(2, 50_000, 44100),
        44100,
        muxer="mp3",
        codec="libmp3lame",
        options={"write_xing": "0"},
    )
    second = encode_raw(
        tmp_path / "b.mp3",
        music(2, 50_000, 48000),
        48000,
        muxer="mp3",
        codec="libmp3lame",
        options={"write_xing": "0", "id3v2_version": "0"},
    )
    (tmp_path / "c.mp3").write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(AudioFormatError, match=r"changes from 2 channels at .* Hz to 2 at .* Hz"):
        decode(tmp_path / "c.mp3")


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc to look into")
def test_files_are_closed(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav_bytes())
    (tmp_path / "b.wav").write_bytes(b"not a song at all")
    before = open_files()
    for _ in range(5):
        decode(tmp_path / "a.wav")
        with pytest.raises(AudioReadError):
            probe(tmp_path / "b.wav")
    assert open_files() == before
