"""How long a file says it is, told from FFmpeg's guesses.

FFmpeg reports one duration, whether it stands in a header, was cut to the size of the file, or was guessed
from the bit rate. Only a promise can be broken, so promises are read here.

Sources: Xing/LAME info tag (Gabriel Bouvigne, "Mp3 Info Tag revision 1 Specifications"), VBRI (Fraunhofer
IIS), FLAC STREAMINFO (RFC 9639), OpusHead (RFC 7845), iTunSMPB (as written by iTunes), RIFF/RF64 (EBU Tech
3306), Wave64 (Sony Pictures Digital).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import IO

from av.audio.stream import AudioStream
from av.container import InputContainer

# Containers whose stream duration stands in a header and counts samples. (For the rest it may be a guess from
# the bit rate.) Ogg has no header field: its last page says where the stream ends, which shows lost pages.
_EXACT_DURATION = frozenset({"aiff", "caf", "mov,mp4,m4a,3gp,3g2,mj2", "tta", "wv", "ape", "tak", "ogg"})
_APPROXIMATE_DURATION = frozenset({"matroska,webm"})  # milliseconds

_UNKNOWN_WAV_LENGTHS = (0, 0xFFFFFFFF)
_PIPED_WAV_LENGTH = 0x7FFFF000
# A program that writes a WAV into a pipe cannot return to fill in the length, and leaves one of these (the
# last is SoX's, give or take the header): no promise is made.


def declared_length(
    container: InputContainer, stream: AudioStream, file: IO[bytes], rate: int
) -> tuple[int | None, bool]:
    """Tell how many samples the header of an opened file promises.

    Args:
        container: the file as FFmpeg sees it.
        stream: the sound track.
        file: the same file, to be read; its position is kept.
        rate: samples per second that the decoder gives.

    Returns:
        The number of samples per channel after trimming, None where nothing is promised; and True where that
        number counts samples, False where it was rounded to milliseconds.

    """
    name, codec = container.format.name, stream.codec_context
    extradata = codec.extradata or b""
    own_reader = {"wav": _wav_samples, "w64": _w64_samples, "mp3": _mp3_samples}.get(name)
    if own_reader is not None:
        # FFmpeg shares the file with us, and does not expect it to move.
        position = file.tell()
        try:
            return own_reader(file, stream), True
        finally:
            file.seek(position)
    if codec.name == "flac" and len(extradata) >= 18:
        # STREAMINFO keeps the number of samples in 36 bits; 0 means unknown.
        return int.from_bytes(extradata[13:18], "big") & 0xFFFFFFFFF or None, True
    if name in _EXACT_DURATION and stream.duration and stream.time_base is not None:
        samples = round(stream.duration * stream.time_base * rate)
        if name == "ogg" and extradata.startswith(b"OpusHead"):
            samples -= int.from_bytes(extradata[10:12], "little")  # pre-skip
        if name.startswith("mov"):
            samples = min(samples, _itunes_samples(container, stream) or samples)
        return (samples, True) if samples > 0 else (None, False)
    if name in _APPROXIMATE_DURATION:
        seconds = _matroska_seconds(container, stream)
        return (round(seconds * rate), False) if seconds else (None, False)
    return None, False


def _wav_samples(file: IO[bytes], stream: AudioStream) -> int | None:
    """Count samples by the size of a WAV's data chunk; FFmpeg's figure is already cut to the file's size."""
    if not stream.codec_context.name.startswith("pcm_"):
        return None  # compressed: the size does not tell
    file.seek(0)
    riff = file.read(12)
    file_bytes = file.seek(0, 2)
    position, block_align, ds64_bytes = 12, 0, None
    for _ in range(1000):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            return None
        name, size = header[:4], struct.unpack("<I", header[4:])[0]
        if name == b"ds64":
            ds64_bytes = struct.unpack("<Q", file.read(16)[8:16].ljust(8, b"\0"))[0]
        elif name == b"fmt ":
            block_align = struct.unpack("<H", file.read(14)[12:14].ljust(2, b"\0"))[0]
        elif name == b"data":
            if riff[:4] == b"RF64" and size == 0xFFFFFFFF and ds64_bytes:
                size = ds64_bytes
            elif size in _UNKNOWN_WAV_LENGTHS or (
                size >= _PIPED_WAV_LENGTH - 4096 and position + 8 + size > file_bytes
            ):
                return None
            return size // block_align if block_align else None
        position += 8 + size + size % 2
    return None


def _w64_samples(file: IO[bytes], stream: AudioStream) -> int | None:
    """Do the same for Sony's Wave64: names of 16 bytes, sizes of 64 bits that include their header."""
    if not stream.codec_context.name.startswith("pcm_"):
        return None
    position, block_align = 40, 0
    for _ in range(1000):
        file.seek(position)
        header = file.read(24)
        if len(header) < 24:
            return None
        name, size = header[:4], struct.unpack("<Q", header[16:])[0]
        if name == b"fmt ":
            block_align = struct.unpack("<H", file.read(14)[12:14].ljust(2, b"\0"))[0]
        elif name == b"data":
            return (size - 24) // block_align if block_align and size > 24 else None
        if size < 24:
            return None
        position += size + -size % 8
    return None


@dataclass(frozen=True)
class Mp3InfoTag:
    """The info tag in the first frame of an MP3. Positions are bytes from the start of the file."""

    frame_at: int
    frame_samples: int
    frames: int
    delays_at: int | None
    """Where encoder delay and padding stand, 12 bits each; None where FFmpeg would not obey them."""
    delay_samples: int = 0
    padding_samples: int = 0

    @property
    def samples(self) -> int:
        """Length of the song: all frames but the encoder's delay and padding."""
        return max(0, self.frames * self.frame_samples - self.delay_samples - self.padding_samples)


def read_mp3_info_tag(file: IO[bytes]) -> Mp3InfoTag | None:
    """Read the Xing, LAME or VBRI tag; None where there is none (as in a plain CBR file)."""
    start = _after_id3(file)
    file.seek(start)
    head = file.read(65_536)
    found = re.search(rb"\xff[\xe2-\xff][\x10-\xeb]", head)  # sync, a layer, a bit rate, a sample rate
    if found is None:
        return None
    at = found.start()
    if at + 4 > len(head):
        return None
    version_bits, layer_bits = (head[at + 1] >> 3) & 3, (head[at + 1] >> 1) & 3
    if version_bits == 1 or layer_bits != 1:
        return None  # not layer III: no such tag
    mpeg1, mono = version_bits == 3, head[at + 3] >> 6 == 3
    frame_samples = 1152 if mpeg1 else 576
    side_bytes = (17 if mono else 32) if mpeg1 else (9 if mono else 17)
    tag_at = at + 4 + side_bytes
    tag = head[tag_at : tag_at + 160]
    if tag[:4] not in (b"Xing", b"Info"):
        vbri = head[at + 36 : at + 54]
        if vbri[:4] != b"VBRI" or len(vbri) < 18:
            return None
        return Mp3InfoTag(start + at, frame_samples, int.from_bytes(vbri[14:18], "big"), None)
    flags = int.from_bytes(tag[4:8], "big")
    if not flags & 1:
        return None
    frames = int.from_bytes(tag[8:12], "big")
    encoder_at = 8 + sum(size for bit, size in ((1, 4), (2, 4), (4, 100), (8, 4)) if flags & bit)
    encoder = tag[encoder_at : encoder_at + 24]
    if encoder[:4] not in (b"LAME", b"Lavf", b"Lavc") or len(encoder) < 24:
        return Mp3InfoTag(start + at, frame_samples, frames, None)
    delays = int.from_bytes(encoder[21:24], "big")
    return Mp3InfoTag(start + at, frame_samples, frames, start + tag_at + encoder_at + 21, delays >> 12, delays & 0xFFF)


def _mp3_samples(file: IO[bytes], _stream: AudioStream) -> int | None:
    tag = read_mp3_info_tag(file)
    return (tag.samples or None) if tag is not None else None


def _after_id3(file: IO[bytes]) -> int:
    """Where the sound begins after any ID3v2 tags at the front."""
    position = 0
    for _ in range(16):
        file.seek(position)
        header = file.read(10)
        if header[:3] != b"ID3" or len(header) < 10:
            break
        size = sum((byte & 0x7F) << shift for byte, shift in zip(header[6:10], (21, 14, 7, 0), strict=True))
        position += 10 + size + 10 * bool(header[5] & 0x10)
    return position


def _itunes_samples(container: InputContainer, stream: AudioStream) -> int | None:
    """Read the length in iTunes' gapless tag: four hexadecimal numbers, the last of which counts samples."""
    tag = stream.metadata.get("iTunSMPB") or container.metadata.get("iTunSMPB") or ""
    fields = tag.split()
    if len(fields) < 4 or not all(re.fullmatch(r"[0-9A-Fa-f]{1,16}", text) for text in fields[:4]):
        return None
    return int(fields[3], 16) or None


def _matroska_seconds(container: InputContainer, stream: AudioStream) -> float | None:
    """Read a Matroska track's own duration tag, or the file's duration where it has one track only."""
    clock = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", "").strip("\0 "))
    if clock:
        hours, minutes, seconds = clock.groups()
        total = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    elif len(container.streams) == 1 and container.duration:
        total = container.duration / 1e6
    else:
        return None
    extradata = stream.codec_context.extradata or b""
    if extradata.startswith(b"OpusHead"):
        total -= int.from_bytes(extradata[10:12], "little") / 48_000
    return total if total > 0 else None
