"""Write blocks of float32 as WAV, FLAC, MP3, M4A, Ogg Vorbis or Opus, with tags and cover.

FFmpeg (through PyAV) encodes everything but Vorbis: its own Vorbis encoder is poor and PyAV's FFmpeg has no
libvorbis, so libsndfile encodes and FFmpeg copies the packets into a file with tags.

Memory is constant whatever the length. Every format is written so that a decoder gives back exactly the
samples that went in, no padding before or after: the LAME header of an MP3, the edit list of an M4A (in
samples, not FFmpeg's default milliseconds), the last granule position of an Ogg.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self, cast, get_args

import av
import numpy as np
import soundfile
from av.audio.frame import AudioFrame
from av.container import OutputContainer

from iseparate.audio.declared import read_mp3_info_tag
from iseparate.audio.decode import MAX_CHANNELS, MAX_RATE_HZ, MIN_RATE_HZ
from iseparate.audio.layout import unnamed_layout
from iseparate.audio.resample import Resampler
from iseparate.audio.tags import (
    Cover,
    append_wav_id3,
    canonical_tags,
    ffmpeg_metadata,
    id3_tag,
    picture_block,
    usable_cover,
)
from iseparate.errors import OutputError, UsageError
from iseparate.types import Samples

Format = Literal["wav", "flac", "mp3", "m4a", "ogg", "opus"]
BitDepth = Literal["16", "24", "32f"]
FORMATS: tuple[Format, ...] = get_args(Format)

BIT_DEPTHS: dict[Format, tuple[BitDepth, ...]] = {
    "wav": ("16", "24", "32f"),
    "flac": ("16", "24"),
    "m4a": ("16", "24"),
}
"""What each format can hold; formats that are not here have no bit depth. M4A has one only as ALAC."""

_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)

_MUXERS: dict[Format, str] = {
    "wav": "wav",
    "flac": "flac",
    "mp3": "mp3",
    "m4a": "mp4",
    "ogg": "ogg",
    "opus": "opus",
}

# Bits of a frame's sample format for FFmpeg, and how many of them carry sound.
_SAMPLE_FORMATS = {
    ("pcm", "16"): "s16",
    ("pcm", "24"): "s32",
    ("pcm", "32f"): "flt",
    ("flac", "16"): "s16",
    ("flac", "24"): "s32",
    ("alac", "16"): "s16p",
    ("alac", "24"): "s32p",
}

# FFmpeg layouts to try where a codec does not know the song's own, by number of channels.
_USUAL_LAYOUTS = {
    1: ("mono",),
    2: ("stereo",),
    3: ("3.0", "2.1"),
    4: ("quad", "4.0"),
    5: ("5.0",),
    6: ("5.1",),
    7: ("6.1", "7.0"),
    8: ("7.1", "7.1(wide)"),
}

# Layouts that a codec accepts but does not give back: FFmpeg's AAC stores them by a table whose names are
# lost, and its Opus swaps the speakers of 5 and 7 channels (seen with FFmpeg 8.1).
_MISPLACED = {
    "aac": ("quad(side)", "5.0(side)", "5.1(side)", "6.1", "7.0", "7.1(wide)"),
    "libopus": ("5.0", "6.1", "7.0"),
}

# Vorbis I specification, section 4.3.9: the order of channels in a stream, which libsndfile leaves to its
# caller.
_VORBIS_ORDERS = {
    1: ("FC",),
    2: ("FL", "FR"),
    3: ("FL", "FC", "FR"),
    4: ("FL", "FR", "BL", "BR"),
    5: ("FL", "FC", "FR", "BL", "BR"),
    6: ("FL", "FC", "FR", "BL", "BR", "LFE"),
    7: ("FL", "FC", "FR", "SL", "SR", "BC", "LFE"),
    8: ("FL", "FC", "FR", "SL", "SR", "BL", "BR", "LFE"),
}

# Nominal kbit/s of Vorbis stereo at 44.1 kHz for the qualities 0 to 10.
_VORBIS_KBPS = (64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 500)
_VORBIS_QUALITY = 0.9
_VORBIS_WRITE_SAMPLES = 4096  # libsndfile's Vorbis encoder keeps a whole write on its stack

_FRAME_SAMPLES = 65_536

logging.getLogger("av.container.output").setLevel(logging.ERROR)


@dataclass(frozen=True)
class StoragePlan:
    """How a waveform will be stored: the outcome of `check_format`."""

    format: Format
    codec: str
    """FFmpeg's name of the encoder."""
    sample_rate: int
    """The rate in the file: the song's own where the codec has it."""
    layout: str
    """FFmpeg's name of the channel layout."""
    bit_depth: BitDepth | None
    bitrate_kbps: int | None
    notes: tuple[str, ...]
    """One sentence for each thing that is not stored as it came."""


def check_format(
    format: str,
    sample_rate: int,
    channels: int,
    bit_depth: str | None = None,
    *,
    layout: Sequence[str] | None = None,
    codec: str | None = None,
    bitrate_kbps: int | None = None,
) -> StoragePlan:
    """Find out, before any work, whether and how a song can be stored.

    Args:
        format: one of `FORMATS`.
        sample_rate: in Hz. A rate that the codec does not have is resampled, with a note.
        channels: 1 to 8; MP3 has no more than 2.
        bit_depth: "16", "24" or "32f"; None takes 16 where there is a choice.
        layout: channel names in the order of the samples, as `AudioInfo.layout`.
        codec: for "m4a" only: "aac" (default) or "alac", which is lossless.
        bitrate_kbps: for lossy codecs; None takes a rate at which the codec is transparent.

    Raises:
        UsageError: the combination cannot be stored.

    """
    name = _known_format(format)
    if not 1 <= channels <= MAX_CHANNELS:
        raise UsageError(f"{channels} channels cannot be written: expected 1 to {MAX_CHANNELS}.")
    if layout is not None and len(layout) != channels:
        raise UsageError(f"{len(layout)} channel names were given for {channels} channels: name each once.")
    if not MIN_RATE_HZ <= sample_rate <= MAX_RATE_HZ:
        raise UsageError(f"{sample_rate} Hz cannot be written: expected {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz.")
    if name == "mp3" and channels > 2:
        raise UsageError(f"MP3 holds at most 2 channels and the song has {channels}: choose flac, wav, m4a or opus.")
    family = _codec_family(name, codec)
    depth = _bit_depth(name, family, bit_depth)
    encoder = {"pcm": {"16": "pcm_s16le", "24": "pcm_s24le", "32f": "pcm_f32le"}.get(depth or "", "")}.get(
        family, family
    )
    stored_rate = _stored_rate(family, sample_rate)
    notes = []
    if stored_rate != sample_rate:
        notes.append(f"{name} cannot hold {sample_rate} Hz: the sound was resampled to {stored_rate} Hz.")
    stored_layout, as_named = _stored_layout(family, encoder, channels, layout, depth)
    if not as_named:
        notes.append(f"{name} has no place for the channels {', '.join(layout or ())}: labelled as {stored_layout}.")
    return StoragePlan(
        name,
        encoder,
        stored_rate,
        stored_layout,
        depth,
        _bitrate(family, bitrate_kbps, stored_rate, channels),
        tuple(notes),
    )


class Encoder:
    """Writes one file. Nothing is left of it unless `close` returns.

    Args:
        path: where to write, whatever its extension; an existing file is overwritten.
        format, sample_rate, channels, bit_depth, layout, codec, bitrate_kbps: as `check_format`.
        tags: under the keys of `iseparate.audio.tags.CANONICAL_KEYS`; others are dropped.
        cover: MIME type and bytes of a JPEG or PNG.

    Raises:
        UsageError: as `check_format`.
        OutputError: the place cannot be written to, is full, or the samples are not numbers.

    """

    def __init__(
        self,
        path: str | Path,
        *,
        format: str,
        sample_rate: int,
        channels: int,
        bit_depth: str | None = None,
        layout: Sequence[str] | None = None,
        codec: str | None = None,
        bitrate_kbps: int | None = None,
        tags: Mapping[str, str] | None = None,
        cover: Cover | None = None,
    ):
        self.plan = check_format(
            format, sample_rate, channels, bit_depth, layout=layout, codec=codec, bitrate_kbps=bitrate_kbps
        )
        self.path = Path(path)
        self.channels = channels
        self.notes = list(self.plan.notes)
        """Sentences for the user about what is not stored as it came."""
        self.peak = 0.0
        """Largest magnitude written so far; 1 is full scale."""
        self.clipped_samples = 0
        """Samples beyond full scale so far. Whole-number formats saturate them; a float WAV keeps them, and
        counts none. Full scale itself (+1.0, one step above the largest whole number) is not counted."""
        self.written_samples = 0
        """Samples per channel taken so far, at the rate of the source."""
        cover, dropped = usable_cover(cover)
        if dropped:
            self.notes.append(dropped)
        self._tags = canonical_tags(tags or {})
        self._cover = cover
        self._finished = False
        self._sink: _FFmpegSink | _VorbisSink | None = None
        self._resampler = (
            Resampler(sample_rate, self.plan.sample_rate, channels) if sample_rate != self.plan.sample_rate else None
        )
        with self._failures_told():
            self._sink = self._open_sink(layout)

    @property
    def note(self) -> str | None:
        """`notes` as one text; None if everything is stored as it came."""
        return " ".join(self.notes) or None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abort()

    def write(self, samples: Samples) -> None:
        """Append ``[channels, n]`` float32 samples, n >= 0."""
        if self._finished or self._sink is None:
            raise UsageError(f"samples came for {self.path} after its end: open a new encoder.")
        if samples.ndim != 2 or samples.shape[0] != self.channels:
            raise UsageError(
                f"samples of shape {list(samples.shape)} came for {self.path}: expected [{self.channels}, n]."
            )
        if not samples.shape[1]:
            return
        block = np.ascontiguousarray(samples, dtype=np.float32)
        self._measure(block)
        self.written_samples += block.shape[1]
        if self._resampler is not None:
            block = self._resampler.push(block)
        with self._failures_told():
            self._sink.write(block)

    def close(self) -> None:
        """Finish the file. If that fails, nothing is left of it."""
        if self._finished or self._sink is None:
            return
        with self._failures_told():
            if self._resampler is not None:
                self._sink.write(self._resampler.flush())
            self._sink.close()
            tag = id3_tag(self._tags, self._cover) if self.plan.format == "wav" else b""
            if tag and not append_wav_id3(self.path, tag):
                self.notes.append("the tags were dropped: the WAV is at its limit of 4 GiB.")
            if self.plan.format == "mp3":
                _mend_mp3_padding(self.path, self._sink.position_samples)
        self._finished = True

    def abort(self) -> None:
        """Stop and remove what was written; may be called again, and does nothing after `close`."""
        if self._finished:
            return
        self._finished = True
        if self._sink is not None:
            self._sink.abort()

    def _open_sink(self, layout: Sequence[str] | None) -> _FFmpegSink | _VorbisSink:
        if self.plan.format == "ogg":
            return _VorbisSink(self.path, self.plan, layout, self._tags, self._cover)
        # A WAV's cover is in the ID3 chunk that `close` appends.
        cover = None if self.plan.format == "wav" else self._cover
        return _FFmpegSink(self.path, self.plan, self._tags, cover, self.notes.append)

    def _measure(self, block: Samples) -> None:
        peak = float(np.abs(block).max())
        if not math.isfinite(peak):
            raise OutputError(
                f"{self.path} was to receive samples that are not numbers (NaN or infinite): expected "
                "finite samples; "
                "try another model or --precision fp32."
            )
        self.peak = max(self.peak, peak)
        if peak > 1 and self.plan.bit_depth != "32f":
            self.clipped_samples += int(np.count_nonzero(np.abs(block) > 1))

    @contextmanager
    def _failures_told(self) -> Iterator[None]:
        """Turn whatever the libraries raise into one sentence, and leave no partial file."""
        try:
            yield
        except (OSError, av.FFmpegError, soundfile.SoundFileError, ValueError, RuntimeError) as error:
            self.abort()
            if isinstance(error, UsageError):
                raise
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise OutputError(
                f"{self.path} cannot be written ({reason}): expected a writable place with enough free "
                "space; "
                "choose another with -o, or free some."
            ) from error
        except BaseException:
            self.abort()
            raise


class _MutedFile:
    """A file whose first error is raised and whose later ones are not.

    FFmpeg seeks in a file after a write has failed, and PyAV prints an error that it cannot raise.
    """

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._broken = False

    def write(self, data: bytes) -> int:
        return self._unless_broken(self._file.write, data, otherwise=len(data))

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._unless_broken(self._file.seek, offset, whence, otherwise=offset)

    def tell(self) -> int:
        return self._unless_broken(self._file.tell, otherwise=0)

    def close(self) -> None:
        self._file.close()

    def mute(self) -> None:
        """Write nothing from here on, and do not complain."""
        self._broken = True

    def _unless_broken(self, act: Callable[..., int], *arguments: Any, otherwise: int) -> int:
        if self._broken:
            return otherwise
        try:
            return act(*arguments)
        except OSError:
            self._broken = True
            raise


class _FFmpegSink:
    """One encoder and one muxer of FFmpeg behind a Python file, whose errors keep their names."""

    def __init__(
        self,
        path: Path,
        plan: StoragePlan,
        tags: Mapping[str, str],
        cover: Cover | None,
        tell: Callable[[str], None],
    ):
        self._path = path
        self._plan = plan
        self.position_samples = 0
        self._file = _MutedFile(path.open("wb", buffering=1 << 18))
        try:
            self._container = _open_muxer(self._file, plan)
            self._stream = self._container.add_stream(plan.codec, rate=plan.sample_rate, layout=plan.layout)
            self._context = cast(Any, self._stream.codec_context)
            self._sample_format = _sample_format(plan)
            self._context.format = self._sample_format
            if plan.bitrate_kbps is not None:
                self._context.bit_rate = plan.bitrate_kbps * 1000
            self._container.metadata.update(ffmpeg_metadata(tags))
            picture = None
            if cover is not None and plan.format == "opus":
                self._container.metadata["METADATA_BLOCK_PICTURE"] = picture_block(cover)
            elif cover is not None:
                picture = _add_cover(self._container, cover)
                if picture is None:
                    tell("the cover picture was dropped: it cannot be read.")
            self._container.start_encoding()
            if picture is not None:
                self._container.mux(picture)
        except BaseException:
            self.abort()
            raise

    def write(self, samples: Samples) -> None:
        # PyAV mistakes what lies behind the eighth plane of a frame for a ninth: frames are handed over
        # packed, and PyAV turns them into what the codec wants.
        packed = self._sample_format.removesuffix("p")
        for at in range(0, samples.shape[1], _FRAME_SAMPLES):
            part = samples[:, at : at + _FRAME_SAMPLES]
            frame = AudioFrame.from_ndarray(_quantised(part, packed, self._plan.bit_depth), packed, self._plan.layout)
            frame.sample_rate = self._plan.sample_rate
            frame.time_base = Fraction(1, self._plan.sample_rate)
            frame.pts = self.position_samples
            self.position_samples += part.shape[1]
            self._container.mux(self._context_encode(frame))

    def _context_encode(self, frame: AudioFrame | None) -> Any:
        return cast(Any, self._stream).encode(frame)

    def close(self) -> None:
        self._container.mux(self._context_encode(None))
        self._container.close()
        self._file.close()  # a full disk may show only now

    def abort(self) -> None:
        # Muted first: a container that is closed writes its trailer.
        self._file.mute()
        if hasattr(self, "_container"):
            with suppress(Exception):
                self._container.close()
        with suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)


class _VorbisSink:
    """libsndfile encodes into a file beside the target; FFmpeg then copies the packets and adds the tags."""

    def __init__(
        self,
        path: Path,
        plan: StoragePlan,
        layout: Sequence[str] | None,
        tags: Mapping[str, str],
        cover: Cover | None,
    ):
        channels = av.AudioLayout(plan.layout).nb_channels
        self._path = path
        self._plan = plan
        self._tags = tags
        self._cover = cover
        self._untagged = path.with_name(path.name + ".untagged")
        self._order = _vorbis_order(channels, layout)
        self.position_samples = 0
        self._file: Any = None
        path.open("wb").close()  # fails now if it must, with the reason
        try:
            self._file = soundfile.SoundFile(
                self._untagged,
                "w",
                samplerate=plan.sample_rate,
                channels=channels,
                format="OGG",
                subtype="VORBIS",
                compression_level=1 - _vorbis_quality(plan.bitrate_kbps, channels),
            )
        except BaseException:
            self.abort()
            raise

    def write(self, samples: Samples) -> None:
        ordered = samples[self._order].T
        for at in range(0, len(ordered), _VORBIS_WRITE_SAMPLES):
            self._file.write(np.ascontiguousarray(ordered[at : at + _VORBIS_WRITE_SAMPLES]))
        self.position_samples += len(ordered)

    def close(self) -> None:
        self._file.close()
        with self._path.open("wb") as target, self._untagged.open("rb") as source:
            muxer = _open_muxer(target, self._plan)
            with av.open(source, mode="r", format="ogg") as demuxer:
                origin = demuxer.streams.audio[0]
                stream = muxer.add_stream_from_template(origin)
                muxer.metadata.update(ffmpeg_metadata(self._tags))
                if self._cover is not None:
                    muxer.metadata["METADATA_BLOCK_PICTURE"] = picture_block(self._cover)
                for packet in _ending_at(demuxer.demux(origin), self.position_samples):
                    packet.stream = stream
                    muxer.mux(packet)
            muxer.close()
        self._untagged.unlink()

    def abort(self) -> None:
        if self._file is not None:
            with suppress(Exception):
                self._file.close()
        self._untagged.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)


# -- writing -----------------------------------------------------------------------------------------------


def _open_muxer(file: IO[bytes] | _MutedFile, plan: StoragePlan) -> OutputContainer:
    options = {
        "wav": {"rf64": "auto"},  # RF64 if it grows beyond 4 GiB, plain WAV otherwise
        "mp3": {"id3v2_version": "4"},
        "m4a": {"movie_timescale": str(plan.sample_rate), "brand": "M4A "},  # edit lists exact to the sample
    }.get(plan.format, {})
    container = av.open(file, mode="w", format=_MUXERS[plan.format], container_options=options)
    # Equal samples give equal files: no encoder version, no random serial number.
    container.flags |= cast(int, av.container.core.Flags.bitexact.value)
    return container


def _add_cover(container: OutputContainer, cover: Cover) -> Any:
    """Add a picture stream and return its one packet; None where FFmpeg cannot read the picture."""
    demuxer = {"image/jpeg": "jpeg_pipe", "image/png": "png_pipe"}[cover[0]]
    try:
        with av.open(io.BytesIO(cover[1]), mode="r", format=demuxer) as reader:
            origin = reader.streams.video[0]
            packet: Any = next(packet for packet in reader.demux(origin) if packet.size)
            if bytes(packet) != cover[1] or not origin.codec_context.width:
                return None
            stream = container.add_stream_from_template(origin, opaque=True)
    except (av.FFmpegError, StopIteration, IndexError, ValueError):
        return None
    stream.disposition = av.stream.Disposition.attached_pic
    stream.metadata["comment"] = "Cover (front)"  # ID3's and FLAC's type of picture, as FFmpeg spells it
    packet.stream, packet.pts, packet.dts = stream, 0, 0
    return packet


def _ending_at(packets: Iterator[Any], total_samples: int) -> Iterator[Any]:
    """Yield the packets of a Vorbis stream with times that end at the stream's true end.

    In streams of one page FFmpeg's demuxer lets the last packets begin behind the end, without a time or
    with a duration that has wrapped around; the muxer would believe them and write a false length.
    """
    held = None
    end = 0
    for packet in packets:
        if not packet.size:
            continue
        if held is not None:
            yield held
        start = min(end if packet.pts is None else packet.pts, total_samples)
        duration = packet.duration if packet.duration and packet.duration < 2**31 else 0
        end = min(start + duration, total_samples)
        packet.pts = packet.dts = start
        packet.duration = end - start
        held = packet
    if held is not None:
        held.duration = max(0, total_samples - held.pts)
        yield held


def _mend_mp3_padding(path: Path, samples: int) -> None:
    """Make an MP3's header say how long the song is.

    FFmpeg announces up to 46 samples too few of padding where the last frame holds no more than that many.
    The tag ends in a checksum (CRC-16/ARC) over the 190 bytes before it.
    """
    with path.open("r+b") as file:
        tag = read_mp3_info_tag(file)
        if tag is None or tag.delays_at is None or tag.samples == samples:
            return
        padding = tag.frames * tag.frame_samples - tag.delay_samples - samples
        if not 0 <= padding <= 0xFFF:
            return
        file.seek(tag.delays_at)
        file.write((tag.delay_samples << 12 | padding).to_bytes(3, "big"))
        checksum_at = tag.delays_at + 13
        file.seek(tag.frame_at)
        checksum = _crc16(file.read(checksum_at - tag.frame_at))
        file.seek(checksum_at)
        file.write(checksum.to_bytes(2, "big"))


def _crc16(data: bytes) -> int:
    remainder = 0
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0xA001 if remainder & 1 else 0)
    return remainder


def _sample_format(plan: StoragePlan) -> str:
    if plan.bit_depth is None:
        return "flt" if plan.codec == "libopus" else "fltp"
    family = "pcm" if plan.codec.startswith("pcm_") else plan.codec
    return _SAMPLE_FORMATS[family, plan.bit_depth]


def _quantised(samples: Samples, sample_format: str, bit_depth: BitDepth | None) -> Any:
    """Shape samples into the array that a frame of `sample_format` is made from.

    Whole numbers are rounded to the nearest and saturate, so that 16- and 24-bit sound comes back bit for
    bit. 24 bits travel in the upper part of 32.
    """
    if sample_format.startswith("flt"):
        values: Any = samples
    else:
        bits = int(bit_depth or "16")
        scale = 2.0 ** (bits - 1)
        # float64: rounding 24 bits at full scale needs more than float32 has.
        scaled = np.clip(np.rint(samples.astype(np.float64) * scale), -scale, scale - 1)
        values = scaled.astype(np.int16) if bits == 16 else scaled.astype(np.int32) << 8
    return np.ascontiguousarray(values.T).reshape(1, -1)


# -- what can be stored ------------------------------------------------------------------------------------


def _known_format(name: str) -> Format:
    for known in FORMATS:
        if known == name:
            return known
    raise UsageError(f"{name!r} is not an output format: choose one of {', '.join(FORMATS)}.")


def _codec_family(name: Format, codec: str | None) -> str:
    families: dict[Format, tuple[str, ...]] = {
        "wav": ("pcm",),
        "flac": ("flac",),
        "mp3": ("libmp3lame",),
        "m4a": ("aac", "alac"),
        "ogg": ("vorbis",),
        "opus": ("libopus",),
    }
    choices = families[name]
    if codec is None:
        return choices[0]
    if codec not in choices or len(choices) == 1:
        choice = f"choose {' or '.join(choices)}" if len(choices) > 1 else "leave the codec out"
        raise UsageError(f"{name} cannot be written with the codec {codec!r}: {choice}.")
    return codec


def _bit_depth(name: Format, family: str, asked: str | None) -> BitDepth | None:
    if family not in ("pcm", "flac", "alac"):
        if asked is not None:
            lossless = " (with codec alac it has one)" if name == "m4a" else ""
            raise UsageError(f"{name} has no bit depth{lossless}, but {asked} was asked for: leave it out.")
        return None
    choices = BIT_DEPTHS[name]
    if asked is None:
        return choices[0]
    for depth in choices:
        if depth == asked:
            return depth
    raise UsageError(f"{name} cannot be written with a bit depth of {asked}: choose {' or '.join(choices)}.")


def _stored_rate(family: str, sample_rate: int) -> int:
    """Find the nearest rate that the codec has: the song's own, the next above, or a divisor from the top."""
    rates = {"libmp3lame": _MP3_RATES, "aac": _AAC_RATES, "libopus": (48_000,)}.get(family)
    if rates is None or sample_rate in rates:
        return sample_rate
    if sample_rate < rates[-1]:
        return min(rate for rate in rates if rate > sample_rate)
    return max((rate for rate in rates[-3:] if sample_rate % rate == 0), default=rates[-1])


def _stored_layout(
    family: str, encoder: str, channels: int, names: Sequence[str] | None, depth: BitDepth | None
) -> tuple[str, bool]:
    """FFmpeg's layout for these channels, and whether it names them as the song does."""
    own = None
    if names is not None and tuple(names) != unnamed_layout(channels):
        own = "+".join(names)
    candidates: list[str] = [own] if own else []
    if own:
        # Side and back speakers are the same two boxes in a 5.1 room; codecs differ in what they call them.
        candidates.append(own.replace("SL+SR", "BL+BR") if "SL" in own else own.replace("BL+BR", "SL+SR"))
    elif family == "pcm" and channels > 2:
        candidates.append(f"{channels} channels")
    candidates.extend(_USUAL_LAYOUTS[channels])
    if family == "vorbis":
        # Ogg Vorbis has one layout for each number of channels.
        usual = av.AudioLayout(_USUAL_LAYOUTS[channels][0])
        return usual.name, own is None or av.AudioLayout(own) == usual
    for candidate in candidates:
        try:
            name = av.AudioLayout(candidate).name
        except ValueError:
            continue
        # An order that is not FFmpeg's own ("2 channels (FR+FL)") is never handed to PyAV, which frees it
        # twice.
        if "(" in name.partition("channels")[2]:
            continue
        if name not in _MISPLACED.get(family, ()) and _encoder_takes(encoder, name, depth):
            return name, own is None or candidate == own
    raise UsageError(f"{channels} channels cannot be stored with {family}: choose wav or flac.")


def _encoder_takes(encoder: str, layout: str, depth: BitDepth | None) -> bool:
    plan = StoragePlan("wav", encoder, 48_000, layout, depth, None, ())
    try:
        context: Any = av.CodecContext.create(encoder, "w")
        context.sample_rate = 48_000
        context.layout = layout
        context.format = _sample_format(plan)
        context.open()
    except (av.FFmpegError, ValueError):
        return False
    return True


def _bitrate(family: str, asked_kbps: int | None, sample_rate: int, channels: int) -> int | None:
    limits = {
        # MPEG-1 Layer III ends at 320 kbit/s, MPEG-2 at 160, and LAME ends MPEG-2.5 at 64.
        "libmp3lame": 320 if sample_rate >= 32_000 else 160 if sample_rate >= 16_000 else 64,
        "aac": 6 * channels * sample_rate // 1000,  # at most 6144 bits per frame of 1024 samples and channel
        "libopus": 256 * channels,
        "vorbis": 250 * channels,
    }
    if family not in limits:
        if asked_kbps is not None:
            raise UsageError(f"a bit rate of {asked_kbps} kbit/s was asked for a lossless format: leave it out.")
        return None
    limit = limits[family]
    if asked_kbps is None:
        default = {"libmp3lame": limit, "aac": 128 * channels, "libopus": 96 * channels}.get(family)
        return None if default is None else min(default, limit)
    if not 8 <= asked_kbps <= limit:
        raise UsageError(
            f"a bit rate of {asked_kbps} kbit/s was asked for: expected 8 to {limit} at {sample_rate} Hz "
            f"with {channels} channel{'s' if channels > 1 else ''}."
        )
    return asked_kbps


def _vorbis_quality(bitrate_kbps: int | None, channels: int) -> float:
    """Libsndfile's scale from 0 to 1 for a bit rate, by the nominal rates of stereo."""
    if bitrate_kbps is None:
        return _VORBIS_QUALITY
    return float(np.interp(bitrate_kbps * 2 / channels, _VORBIS_KBPS, np.linspace(0, 1, len(_VORBIS_KBPS))))


def _vorbis_order(channels: int, names: Sequence[str] | None) -> list[int]:
    """For each channel of the Vorbis stream, the song's channel that belongs there."""
    order = _VORBIS_ORDERS[channels]

    def places(layout: Sequence[str]) -> list[str]:
        return [{"SL": "BL", "SR": "BR"}.get(name, name) for name in layout] if "SL" not in order else list(layout)

    have = places(names) if names is not None else []
    if set(have) != set(order):
        have = places([channel.name for channel in av.AudioLayout(_USUAL_LAYOUTS[channels][0]).channels])
    return [have.index(name) for name in order]
