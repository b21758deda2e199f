"""Read the sound of any media file as float32 blocks, gapless, in constant memory.

FFmpeg (through PyAV) does the decoding. This module adds what a separator needs and a player does not:

- the *declared* length. A header's promise (`AudioInfo.declared_samples`) is told from FFmpeg's guesses, so
  that a file that breaks off is an error and not a short song, and so that a codec's padding can be cut
  exactly;
- distrust. FFmpeg is given an open file, never a name or an address, and only the demuxers of `_CONTAINERS`:
  a playlist, a concat script or an SDP file cannot make it open anything else;
- one sentence for each way in which a file can be bad.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from iseparate.audio.declared import declared_length
from iseparate.audio.layout import CHANNEL_ORDER, unnamed_layout
from iseparate.audio.tags import MAX_COVER_BYTES, Cover, canonical_tags, picture_type
from iseparate.errors import AudioFormatError, AudioReadError, TruncatedAudioError, UsageError
from iseparate.types import Samples

MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 384_000
MAX_CHANNELS = 8

# Demuxers that read the one file they are given and nothing else. (HLS, DASH, concat, SDP, image sequences
# and the like follow references to other files and hosts.) The pictures are here to be named in an error.
_CONTAINERS = (
    "wav,w64,aiff,au,caf,ircam,voc,iff,avr,"
    "flac,mp3,aac,loas,ogg,mov,mp4,matroska,webm,ac3,eac3,dts,dtshd,truehd,mlp,"
    "ape,wv,tta,tak,mpc,mpc8,shn,dsf,amr,gsm,qcp,oma,xwma,rm,"
    "avi,asf,flv,mpeg,mpegts,mpegvideo,m4v,h264,hevc,nut,mxf,dv,swf,"
    "png_pipe,jpeg_pipe,webp_pipe,gif,bmp_pipe,tiff_pipe"
)

_LOSSLESS = ("pcm_", "flac", "alac", "wavpack", "tta", "ape", "tak", "shorten", "truehd", "mlp")

# Seeking in these is exact to the sample and the decoder keeps no memory; everywhere else the decoder starts
# at the beginning and the samples before the start are dropped, at several hundred times real time.
_SEEKABLE = frozenset({"wav", "w64", "aiff", "flac"})

# Formats with hardly a mark of their own, which FFmpeg finds by their extension too.
_HELPFUL_SUFFIXES = (".mp3", ".mp2", ".aac", ".ac3", ".eac3", ".dts")

_MAX_FAILED_PACKETS = 2_000  # before the first good one; then it is not audio, whatever the file's name says

_TRAILING_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")


@dataclass(frozen=True)
class AudioInfo:
    """What is known of one sound track before it is decoded."""

    path: Path
    container: str
    codec: str
    sample_rate: int
    channels: int
    layout: tuple[str, ...]
    """FFmpeg's channel names, such as ("FL", "FR"); CH1, CH2, ... where the file does not name them."""
    bit_depth: int | None
    """Bits per sample; None for a lossy codec."""
    is_float: bool
    """True where the file holds floating-point samples (which may exceed full scale)."""
    declared_samples: int | None
    """The length that the file's own header promises; None where it promises nothing."""
    estimated_seconds: float | None
    """The declared length, or else FFmpeg's estimate."""
    streams: int
    """How many sound tracks the file has."""
    tags: dict[str, str] = field(default_factory=dict)
    """Under the keys of `iseparate.audio.tags.CANONICAL_KEYS`."""
    cover: Cover | None = None
    declared_exactly: bool = False
    """True where `declared_samples` counts samples and not milliseconds."""


@dataclass(frozen=True)
class _Damage:
    """A packet that the decoder refused."""

    reason: str
    may_be_tag: bool


def probe(path: str | Path, stream: int | None = None) -> AudioInfo:
    """Open a file, decode its first frame, and say what it holds.

    Args:
        path: a file on disk.
        stream: which sound track, counted from 0; None means the first.

    Raises:
        AudioReadError: missing, unreadable, or without sound.
        AudioFormatError: a number of channels or a sample rate that is not supported, or no samples.
        TruncatedAudioError: so damaged that its header cannot be read.

    """
    with Decoder(path, stream=stream or 0) as decoder:
        return decoder.info


class Decoder:
    """One sound track of one file, as blocks of float32.

    Integer samples are divided by 2^(bits-1), exactly. Encoder delay and padding are cut off: what comes out
    has the length that the encoder was given.

    Args:
        path: a file on disk.
        stream: which sound track, counted from 0.
        start_seconds: drop this much from the beginning, to the nearest sample.
        duration_seconds: stop after this much; None reads to the end.
        allow_truncated: give what can be decoded of a damaged file instead of raising; `notes` then says so.

    Raises:
        AudioReadError, AudioFormatError, TruncatedAudioError: as `probe`.
        UsageError: a start or duration that is no time.

    """

    def __init__(
        self,
        path: str | Path,
        *,
        stream: int = 0,
        start_seconds: float = 0.0,
        duration_seconds: float | None = None,
        allow_truncated: bool = False,
    ):
        _check_time("start", start_seconds, zero_allowed=True)
        if duration_seconds is not None:
            _check_time("duration", duration_seconds, zero_allowed=False)
        self.path = Path(path)
        self.notes: list[str] = []
        """Sentences for the user about what was forgiven."""
        self._stream_number = stream
        self._start_seconds = start_seconds
        self._duration_seconds = duration_seconds
        self._allow_truncated = allow_truncated
        self._file: IO[bytes] | None = None
        self._container: InputContainer | None = None
        self._damage: _Damage | None = None
        self._begun = False
        self.info: AudioInfo = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; may be called again."""
        if self._container is not None:
            self._container.close()
            self._container = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def blocks(self, block_samples: int = 65_536) -> Iterator[Samples]:
        """Yield the samples from the start on, ``[channels, block_samples]`` each; only the last is shorter.

        Each call reads the file anew from the start asked for, so a song can be gone through twice.

        Raises:
            TruncatedAudioError: the decoder met an error, or the end came more than one codec frame before
                the declared length.
            AudioFormatError: NaN or infinite samples, a change of rate or channels midway, or no samples.

        """
        if block_samples < 1:
            raise UsageError(f"a block of {block_samples} samples was asked for: expected 1 or more.")
        if self._container is None or self._begun:
            self.close()
            self.info = self._open()
        self._begun = True
        start_samples = round(self._start_seconds * self.info.sample_rate)
        wanted_samples = (
            None if self._duration_seconds is None else max(1, round(self._duration_seconds * self.info.sample_rate))
        )
        given_samples = 0
        for block in _regular_blocks(_cut(self._waveform(start_samples), wanted_samples), block_samples):
            self._check_finite(block, start_samples + given_samples)
            given_samples += block.shape[1]
            yield block
        if not given_samples:
            raise self._nothing_given()

    # -- opening -------------------------------------------------------------------------------------------

    def _open(self) -> AudioInfo:
        self._begun = False
        self._damage = None
        self._file = _open_regular_file(self.path)
        try:
            self._container = _open_container(self.path, self._file)
            self._stream = self._choose_stream(self._container)
            self._total_samples = self._packets_seen = 0
            self._frames = self._decoded_frames()
            self._first_frame = self._decode_first_frame()
            return self._describe(self._container, self._first_frame)
        except BaseException:
            self.close()
            raise

    def _choose_stream(self, container: InputContainer) -> AudioStream:
        tracks = container.streams.audio
        if not tracks:
            kinds = ", ".join(sorted({_kind_name(stream.type) for stream in container.streams})) or "no stream"
            raise AudioReadError(
                f"{self.path} holds no sound (it holds: {kinds}): expected a song or a film with a sound track."
            )
        if not 0 <= self._stream_number < len(tracks):
            choice = "stream 0" if len(tracks) == 1 else f"a stream from 0 to {len(tracks) - 1}"
            raise AudioFormatError(
                f"{self.path} has no sound track {self._stream_number}: it has {len(tracks)}; choose {choice}."
            )
        stream = tracks[self._stream_number]
        if stream.codec_context is None:
            raise AudioReadError(
                f"{self.path} holds sound in a codec that this FFmpeg cannot decode: convert it to WAV or FLAC."
            )
        if stream.codec_context.name == "flac":
            # Without this a flipped bit in a FLAC frame is decoded as noise. Other codecs' checksums are
            # optional, and some encoders wrote them wrong.
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
        return stream

    def _decode_first_frame(self) -> AudioFrame:
        """Take the first frame that holds samples; `_frames` goes on with the second."""
        frame = next(self._frames, None)
        if frame is not None:
            return frame
        codec = self._stream.codec_context
        if not self._packets_seen and codec.sample_rate > 0:
            raise AudioFormatError(
                f"{self.path} has a sound track of 0 samples: expected at least one; export the song again."
            )
        raise AudioReadError(
            f"{self.path} holds nothing that can be decoded as sound: expected an audio or video file; "
            "check that it plays elsewhere."
        )

    def _decoded_frames(self) -> Iterator[AudioFrame]:
        """Yield every frame that holds samples. A damaged packet between two good ones is an error.

        Damage before the first good frame is judged by the declared length alone: an MP3 that was cut out of
        a stream begins with references to a past that is not there.
        """
        assert self._container is not None
        packets = self._container.demux(self._stream)
        failed = 0
        begun = False
        while failed <= _MAX_FAILED_PACKETS or begun:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError as error:
                self._damage = _Damage(error.strerror or "read error", may_be_tag=False)
                return
            self._packets_seen += bool(packet.size)
            for frame in self._decode_packet(packet):
                if not frame.samples:
                    continue
                if self._damage is not None:
                    if not begun:
                        self._damage = None
                    elif self._all_came():
                        self._damage = None  # a tag behind the song; what follows is judged by its length
                    else:
                        self._damaged(self._total_samples / self.info.sample_rate)
                begun = True
                self._total_samples += frame.samples
                yield frame
            failed += self._damage is not None

    def _all_came(self) -> bool:
        declared = self.info.declared_samples
        return declared is not None and self._total_samples >= declared

    def _decode_packet(self, packet: Any) -> list[AudioFrame]:
        """Decode one packet; a refusal is kept in `_damage` for the caller to judge."""
        try:
            frames = list(packet.decode())
        except av.error.EOFError:
            return []
        except av.FFmpegError as error:
            head = bytes(packet)[:64]
            self._damage = _Damage(error.strerror or "decoder error", head.startswith(_TRAILING_TAGS))
            return []
        for frame in frames:
            _guard_layout(frame)
        return frames

    def _describe(self, container: InputContainer, frame: AudioFrame) -> AudioInfo:
        assert self._file is not None
        stream, codec = self._stream, self._stream.codec_context
        channels, rate = frame.layout.nb_channels, frame.sample_rate
        self._check_shape(channels, rate)
        names = tuple(channel.name for channel in frame.layout.channels)
        self._channel_order: list[int] | None = None
        if _has_own_order(frame) and len(set(names)) == channels and set(names) <= set(CHANNEL_ORDER):
            # Others expect FFmpeg's order: right before left would become left before right in the next file.
            self._channel_order = sorted(range(channels), key=lambda index: CHANNEL_ORDER.index(names[index]))
            names = tuple(names[index] for index in self._channel_order)
        named = set(names) <= set(CHANNEL_ORDER)
        container_name = container.format.name
        declared, exactly = declared_length(container, stream, self._file, rate)
        if declared is not None:
            estimated: float | None = declared / rate
        else:
            estimated = container.duration / 1e6 if container.duration and container.duration > 0 else None
        return AudioInfo(
            path=self.path,
            container=container_name,
            codec=codec.codec.canonical_name,
            sample_rate=rate,
            channels=channels,
            layout=names if named else unnamed_layout(channels),
            bit_depth=_bit_depth(stream, frame),
            is_float=codec.name.startswith("pcm_f"),
            declared_samples=declared,
            estimated_seconds=estimated,
            streams=len(container.streams.audio),
            tags=canonical_tags({**stream.metadata, **container.metadata}),
            cover=self._read_cover(container),
            declared_exactly=exactly,
        )

    def _read_cover(self, container: InputContainer) -> Cover | None:
        attached = av.stream.Disposition.attached_pic
        if not any(s.disposition & attached for s in container.streams.video):
            return None
        # A second reader: demuxing the picture here would eat the sound's first packets.
        try:
            with _open_regular_file(self.path) as file, _open_container(self.path, file) as reader:
                picture_stream = next(s for s in reader.streams.video if s.disposition & attached)
                packet = next(p for p in reader.demux(picture_stream) if p.size)
                if packet.size > 2 * MAX_COVER_BYTES:
                    return None
                picture = bytes(packet)
        except (av.FFmpegError, AudioReadError, TruncatedAudioError, StopIteration):
            return None  # a broken picture is no reason to refuse the song
        mime = picture_type(picture) or f"image/{picture_stream.codec_context.name}"
        return mime, picture

    # -- decoding ------------------------------------------------------------------------------------------

    def _waveform(self, start_samples: int) -> Iterator[Samples]:
        """Arrays ``[channels, n]`` of any length from sample `start_samples` to the declared end."""
        first: AudioFrame | None = self._first_frame
        position = 0
        if start_samples and self.info.container in _SEEKABLE and self._seek(start_samples):
            first = next(self._frames, None)
            if first is not None:
                position = self._frame_position(first)
                self._total_samples = position + first.samples
        declared = self.info.declared_samples
        end = declared if self.info.declared_exactly else None
        longest_frame = 0
        # What came after the declared end: padding, or junk in a tag that looks like a frame; but more than a
        # second of it shows that the header is wrong (as where two MP3s were joined), and then it belongs.
        beyond: list[Samples] = []
        for frame in itertools.chain([] if first is None else [first], self._frames):
            self._check_steady(frame, position)
            longest_frame = max(longest_frame, frame.samples)
            samples = _to_float(frame)
            if self._channel_order is not None:
                samples = samples[self._channel_order]
            position += frame.samples
            if end is not None and position > end:
                inside = max(0, frame.samples - (position - end))
                beyond.append(samples[:, inside:])
                samples = samples[:, :inside]
                if sum(part.shape[1] for part in beyond) > max(longest_frame, self.info.sample_rate):
                    samples = np.concatenate([samples, *beyond], axis=1)
                    beyond, end = [], None
            before_start = start_samples - (position - frame.samples)
            if before_start < samples.shape[1]:
                yield samples[:, max(0, before_start) :]
        if first is not None:
            self._check_complete(position, longest_frame)
            if end is not None and 0 < end - position <= longest_frame:
                # Some last frames never come (an Ogg of one page): the length is kept with silence.
                yield np.zeros((self.info.channels, end - max(position, start_samples)), np.float32)

    def _seek(self, start_samples: int) -> bool:
        """Go to shortly before `start_samples`; False where the file does not allow it."""
        assert self._container is not None
        stream = self._stream
        if stream.time_base is None:
            return False
        target = max(0, start_samples - self.info.sample_rate) / self.info.sample_rate
        try:
            self._container.seek(int(target / stream.time_base), stream=stream, backward=True)
        except av.FFmpegError:
            return False
        self._frames = self._decoded_frames()
        self._damage = None
        return True

    def _frame_position(self, frame: AudioFrame) -> int:
        if frame.pts is None or frame.time_base is None:
            raise TruncatedAudioError(
                f"{self.path} cannot be entered at {self._start_seconds:g} s, because its blocks bear no "
                "times: "
                "decode it from the beginning, or convert it first."
            )
        return round(frame.pts * frame.time_base * self.info.sample_rate)

    def _damaged(self, second: float) -> None:
        assert self._damage is not None
        self._forgive_or_raise(
            f"{self.path} is damaged near {_clock(second)} ({self._damage.reason}): expected every frame "
            "to decode; "
            "get a fresh copy, or add --allow-truncated to use what can be read."
        )
        self._damage = None

    def _check_complete(self, position: int, longest_frame: int) -> None:
        info = self.info
        declared = info.declared_samples
        if declared is not None:
            tolerance = 0 if info.codec.startswith(_LOSSLESS) else longest_frame
            tolerance += 0 if info.declared_exactly else info.sample_rate // 100
            if position + tolerance < declared:
                have, promised = position / info.sample_rate, declared / info.sample_rate
                self._forgive_or_raise(
                    f"{self.path} is incomplete: its header declares {_clock(promised)} and "
                    f"{_clock(have)} could be "
                    "read; get a fresh copy, or add --allow-truncated to use what is there."
                )
        elif self._damage is not None and not self._damage.may_be_tag:
            self._damaged(position / info.sample_rate)

    def _forgive_or_raise(self, sentence: str) -> None:
        if not self._allow_truncated:
            raise TruncatedAudioError(sentence)
        if sentence not in self.notes:
            self.notes.append(sentence)

    # -- checks --------------------------------------------------------------------------------------------

    def _check_shape(self, channels: int, rate: int) -> None:
        if not 1 <= channels <= MAX_CHANNELS:
            raise AudioFormatError(
                f"{self.path} has {channels} channels: expected 1 to {MAX_CHANNELS}; mix it down first."
            )
        if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
            raise AudioFormatError(
                f"{self.path} has a sample rate of {rate} Hz: expected {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz; "
                "resample it first."
            )

    def _check_steady(self, frame: AudioFrame, position: int) -> None:
        channels, rate = frame.layout.nb_channels, frame.sample_rate
        if (channels, rate) != (self.info.channels, self.info.sample_rate):
            raise AudioFormatError(
                f"{self.path} changes from {self.info.channels} channels at {self.info.sample_rate} Hz to "
                f"{channels} "
                f"at {rate} Hz near {_clock(position / self.info.sample_rate)}: expected one format "
                "throughout; "
                "convert it to WAV first."
            )

    def _check_finite(self, block: Samples, position: int) -> None:
        if np.isfinite(block).all():
            return
        at = position + int(np.argmin(np.isfinite(block).all(axis=0)))
        raise AudioFormatError(
            f"{self.path} holds samples that are not numbers (NaN or infinite), the first at second "
            f"{at / self.info.sample_rate:.3f}: expected finite samples; export the song again."
        )

    def _nothing_given(self) -> Exception:
        if self._start_seconds:
            return AudioFormatError(
                f"{self.path} ends before {self._start_seconds:g} s, where reading was to start: "
                "choose an earlier start."
            )
        return AudioFormatError(f"{self.path} holds 0 samples: expected at least one; export the song again.")


# -- opening files without trusting them -------------------------------------------------------------------


def _open_regular_file(path: Path) -> IO[bytes]:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise AudioReadError(f"{path} is a directory: expected an audio file; name one inside it.")
        if not stat.S_ISREG(status.st_mode):
            raise AudioReadError(f"{path} is a pipe or a device: expected an audio file; save it to disk first.")
        if not status.st_size:
            raise AudioReadError(f"{path} is empty (0 bytes): expected an audio file; copy it again.")
        return path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise AudioReadError(
            f"{path} does not exist: expected the path of an audio file on this computer; check its spelling."
        ) from error
    except PermissionError as error:
        raise AudioReadError(f"{path} may not be read: give yourself permission to read it.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AudioReadError(
            f"{str(path)!r} cannot be opened ({reason}): expected the path of an audio file."
        ) from error


class _Nameless:
    """A file without a name, but with an extension that helps where an MP3 begins with a huge tag."""

    def __init__(self, file: IO[bytes], suffix: str):
        self.name = "input" + suffix
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _open_container(path: Path, file: IO[bytes]) -> InputContainer:
    head = file.read(12)
    file.seek(0)
    try:
        return av.open(
            _Nameless(file, suffix if (suffix := path.suffix.lower()) in _HELPFUL_SUFFIXES else ""),
            mode="r",
            container_options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"},
            metadata_errors="replace",
            buffer_size=65_536,
        )
    except av.error.ArgumentError as error:
        raise AudioReadError(
            f"{path} is of a kind that is not read here (playlists and scripts are refused): "
            "expected an audio or video file."
        ) from error
    except (av.FFmpegError, ValueError, OSError) as error:
        if head[4:8] == b"ftyp":
            raise TruncatedAudioError(
                f"{path} is cut off: the index that an MP4 file needs is missing or damaged; get a fresh copy."
            ) from error
        raise AudioReadError(
            f"{path} cannot be read as sound ({getattr(error, 'strerror', None) or error}): expected an "
            "audio or "
            "video file; check that it plays elsewhere."
        ) from error


def _kind_name(stream_type: str) -> str:
    return {"video": "pictures", "subtitle": "subtitles"}.get(stream_type, stream_type)


def _bit_depth(stream: AudioStream, frame: AudioFrame) -> int | None:
    codec = stream.codec_context
    pcm = re.match(r"pcm_[suf](\d+)", codec.name)
    if pcm:
        return int(pcm.group(1))
    if not codec.name.startswith(_LOSSLESS):
        return None
    extradata = codec.extradata or b""
    if codec.name == "flac" and len(extradata) >= 18:
        return (int.from_bytes(extradata[12:14], "big") >> 4 & 0x1F) + 1
    if codec.name == "alac" and len(extradata) >= 18:
        return extradata[17]
    return int(frame.format.bits)


# -- from frames to blocks ---------------------------------------------------------------------------------

_INTEGER_BITS = {"u8": 8, "s16": 16, "s32": 32, "s64": 64}
_DTYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}


def _has_own_order(frame: AudioFrame) -> bool:
    """Tell whether the file lists its channels in its own order, which FFmpeg calls "2 channels (FR+FL)"."""
    return "channels (" in cast(Any, frame.layout).name


def _guard_layout(frame: AudioFrame) -> None:
    """Keep PyAV from freeing a layout twice, which would end the process.

    PyAV's AudioLayout of a frame shares the list of channels with the frame, and each frees it (seen with
    PyAV 18.1; a CAF, MOV or AAC file can make such a list). A layout that is never deleted frees nothing: a
    hundred bytes for each frame of a rare file. For the same reason no layout of a codec context is looked
    at.
    """
    if _has_own_order(frame):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(frame.layout))


_PLANES_TOO_MANY = 8  # PyAV mistakes what lies behind the eighth plane of a frame for a ninth


def _to_float(frame: AudioFrame) -> Samples:
    """Turn a frame into float32 ``[channels, samples]``. FFmpeg keeps 24 bits in the upper part of 32."""
    kind = frame.format.name.removesuffix("p")
    if kind not in _DTYPES:
        raise AudioFormatError(
            f"samples of the kind {frame.format.name} cannot be read: expected whole or floating-point "
            "numbers; "
            "convert the song to WAV first."
        )
    channels, count = frame.layout.nb_channels, frame.samples
    if frame.format.is_planar and channels >= _PLANES_TOO_MANY:
        if _has_own_order(frame):
            raise AudioFormatError(
                f"a song with {channels} channels in an unusual order ({cast(Any, frame.layout).name}) "
                "cannot be "
                "read: expected one of the standard layouts; convert it to WAV first."
            )
        frame = av.AudioResampler(format=kind).resample(frame)[0]
    dtype = np.dtype(_DTYPES[kind])
    if frame.format.is_planar:
        raw = np.stack([np.frombuffer(memoryview(plane), dtype, count) for plane in frame.planes])
    else:
        raw = np.frombuffer(memoryview(frame.planes[0]), dtype, count * channels).reshape(count, channels).T
    if kind not in _INTEGER_BITS:
        with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite, which is reported as such
            return np.ascontiguousarray(raw, dtype=np.float32)
    samples = np.ascontiguousarray(raw, dtype=np.float32)
    if kind == "u8":
        samples -= np.float32(128)
    samples *= np.float32(2.0 ** (1 - _INTEGER_BITS[kind]))
    return samples


def _cut(parts: Iterable[Samples], limit_samples: int | None) -> Iterator[Samples]:
    """Yield `parts` up to `limit_samples` in all, and ask for no more, so that the end is not judged."""
    if limit_samples is None:
        yield from parts
        return
    left = limit_samples
    for part in parts:
        yield part[:, :left]
        left -= part.shape[1]
        if left <= 0:
            return


def _regular_blocks(parts: Iterable[Samples], block_samples: int) -> Iterator[Samples]:
    """Cut and join `parts` into blocks of exactly `block_samples`, the last one excepted."""
    waiting: list[Samples] = []
    waiting_samples = 0
    for part in parts:
        if not part.shape[1]:
            continue
        waiting.append(part)
        waiting_samples += part.shape[1]
        if waiting_samples < block_samples:
            continue
        joined = waiting[0] if len(waiting) == 1 else np.concatenate(waiting, axis=1)
        whole = waiting_samples - waiting_samples % block_samples
        for at in range(0, whole, block_samples):
            yield np.ascontiguousarray(joined[:, at : at + block_samples])
        rest = joined[:, whole:].copy()
        waiting, waiting_samples = [rest], rest.shape[1]
    if waiting_samples:
        yield np.concatenate(waiting, axis=1)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}:{rest:06.3f}"


def _check_time(name: str, seconds: float, *, zero_allowed: bool) -> None:
    if not math.isfinite(seconds) or seconds < 0 or (seconds == 0 and not zero_allowed):
        bound = "0 or more" if zero_allowed else "more than 0"
        raise UsageError(f"{name} is {seconds} s: expected a number of seconds, {bound}.")
