"""One sound track of one file, of which any part can be read without decoding the rest.

Where a file can be entered depends on its codec:

===========================  ========================================================================================
WAV, FLAC                    anywhere, through libsndfile
AAC-LC in MP4, one or two    anywhere: a packet needs the one before it, and the index of the file is exact to the
channels                     sample
MP3, one or two channels     anywhere, if the packets before are walked through undecoded: the indices that MP3 files
                             carry are rough, and a packet may lean on bits of the 20 before it
everything else              by decoding from the beginning
===========================  ========================================================================================

Whatever raises a doubt on the fast way (fewer samples than promised, a missing time stamp, a sample that is not a
number) is read the slow way, by `iseparate.audio.decode.Decoder`, whose word on lengths and damage is the last.

One exception to "equal to a slice of the whole": perceptual noise substitution, with which some AAC encoders (FFmpeg's
own among them) describe noisy bands, makes the decoder roll dice (ISO/IEC 14496-3, 4.6.13). It rolls them anew after
each entry: the noise in those bands then differs from that of a full decode, though not from one reading of the same
excerpt to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
from av.audio.frame import AudioFrame

from iseparate.audio.decode import Decoder
from iseparate.errors import AudioError, UsageError
from iseparate.types import Samples

_MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
_MP3_LEAN_SAMPLES = 32 * 1152
"""Decoded before the excerpt of an MP3: 511 bytes of reservoir are at most 20 of the smallest frames (MPEG-2 layer III,
8 kbit/s), and the filter bank remembers one more."""
_BEGINNING_SECONDS = 3.0
"""What starts earlier is decoded from the beginning: an entry would save little, and encoder delay lies there."""


@dataclass(frozen=True)
class Sound:
    """What has to be known of a clip before it is read."""

    sample_rate: int
    channels: int
    samples: int
    """Length per channel; counted by decoding where the file's header does not say."""
    container: str
    codec: str
    is_lossless: bool = True


@dataclass(frozen=True)
class Clip:
    """One sound track of one file. It holds no file open, and can be sent to another process."""

    path: Path
    stream: int = 0
    """Which sound track, counted from 0."""

    @cached_property
    def sound(self) -> Sound:
        """Rate, channels and length; AudioError where the file cannot be read."""
        with Decoder(self.path, stream=self.stream) as decoder:
            info = decoder.info
            samples = info.declared_samples if info.declared_exactly else None
            if samples is None:
                samples = sum(block.shape[1] for block in decoder.blocks())
        return Sound(
            info.sample_rate, info.channels, samples, info.container, info.codec, is_lossless=info.bit_depth is not None
        )

    def blocks(self, block_samples: int = 65_536) -> Iterator[Samples]:
        """The whole clip in order, ``[channels, block_samples]`` each, the last one shorter; AudioError."""
        with Decoder(self.path, stream=self.stream) as decoder:
            yield from decoder.blocks(block_samples)

    def read(self, start_samples: int = 0, samples: int | None = None) -> Samples:
        """A part of the clip.

        Args:
            start_samples: where it starts, 0 or more.
            samples: its length, 1 or more; None: to the end.

        Returns:
            float32 ``[channels, samples]``, full scale ±1: exactly that many, equal to the same slice of the whole
            (but see the module's note on noise substitution).

        Raises:
            AudioError: the file cannot be read, or is damaged in this part.
            UsageError: the part does not lie inside the clip.
        """
        count = self._check_part(start_samples, samples)
        fast = self._read_pcm(start_samples, count)
        if fast is None:
            fast = self._read_entered(start_samples, count)
        return self._read_from_beginning(start_samples, count) if fast is None else fast

    def _check_part(self, start_samples: int, samples: int | None) -> int:
        length = self.sound.samples
        count = length - start_samples if samples is None else samples
        if start_samples < 0 or count < 1 or start_samples + count > length:
            end = "the end" if samples is None else start_samples + samples
            raise UsageError(
                f"samples {start_samples} to {end} of {self.path} were asked for: expected a part of its {length}."
            )
        return count

    def _read_pcm(self, start_samples: int, count: int) -> Samples | None:
        """Read a WAV or FLAC by libsndfile; None where it sees another file than FFmpeg did."""
        sound = self.sound
        if sound.container not in ("wav", "flac") or not sound.codec.startswith(("pcm_s", "pcm_u", "pcm_f", "flac")):
            return None
        import soundfile

        try:
            with self.path.open("rb") as file, soundfile.SoundFile(file.fileno(), closefd=False) as reader:
                if (reader.samplerate, reader.channels, reader.frames) != (
                    sound.sample_rate,
                    sound.channels,
                    sound.samples,
                ):
                    return None
                reader.seek(start_samples)
                part = np.ascontiguousarray(reader.read(count, dtype="float32", always_2d=True).T)
        except (OSError, soundfile.SoundFileError):
            return None
        return _if_whole(part, count)

    def _read_entered(self, start_samples: int, count: int) -> Samples | None:
        """Read by going to the packets that matter; None where that is not known to be exact."""
        sound = self.sound
        may_enter = (sound.container, sound.codec) in ((_MP4, "aac"), ("mp3", "mp3")) and sound.channels <= 2
        if not may_enter or start_samples < _BEGINNING_SECONDS * sound.sample_rate:
            return None
        try:
            with _EnteringDecoder(self.path, stream=self.stream) as decoder:
                return _gather(decoder.entered_frames(start_samples), start_samples, count)
        except AudioError:
            return None

    def _read_from_beginning(self, start_samples: int, count: int) -> Samples:
        rate = self.sound.sample_rate
        with Decoder(
            self.path, stream=self.stream, start_seconds=start_samples / rate, duration_seconds=count / rate
        ) as decoder:
            parts = list(decoder.blocks())
        return np.concatenate(parts, axis=1)


class _EnteringDecoder(Decoder):
    """A decoder that begins in the middle of AAC and MP3, where exact positions take some care."""

    def entered_frames(self, start_samples: int) -> Iterator[tuple[int, AudioFrame]]:
        """Frames with their positions in the song, from somewhat before `start_samples` on; none on any doubt."""
        first = self._first_frame
        if first.pts is None or self._channel_order is not None:
            return
        if self.info.codec == "aac":
            # High-efficiency AAC reconstructs its upper half from a memory of many frames.
            if self._stream.codec_context.profile != "LC" or not self._seek(start_samples):
                return
            frames: Iterable[AudioFrame] = self._frames
        else:
            frames = self._walked_frames(start_samples)
        origin = first.pts * cast(Fraction, first.time_base)
        for frame in frames:
            if frame.pts is None or frame.time_base is None or self._damage is not None:
                return
            self._check_steady(frame, start_samples)
            yield round((frame.pts * frame.time_base - origin) * self.info.sample_rate), frame

    def _walked_frames(self, start_samples: int) -> Iterator[AudioFrame]:
        assert self._container is not None
        assert self._stream.time_base is not None
        enter_at = (start_samples - _MP3_LEAN_SAMPLES) / self.info.sample_rate / self._stream.time_base
        for packet in self._container.demux(self._stream):
            if packet.pts is not None and packet.pts < enter_at:
                continue
            self._damage = None  # a packet that leans on those left out; if it matters, its samples are missed
            yield from (frame for frame in self._decode_packet(packet) if frame.samples)


def _gather(frames: Iterator[tuple[int, AudioFrame]], start_samples: int, count: int) -> Samples | None:
    """Cut ``[channels, count]`` out of frames that follow one another; None where they do not."""
    parts: list[Samples] = []
    have = expected = 0
    for position, frame in frames:
        if position != expected if parts else position > start_samples:
            return None
        expected = position + frame.samples
        before = max(0, start_samples - position)
        if before >= frame.samples:
            continue
        if frame.format.name != "fltp":  # what FFmpeg's own decoders of AAC and MP3 give
            return None
        part = cast(Samples, frame.to_ndarray()[:, before:])
        parts.append(part)
        have += part.shape[1]
        if have >= count:
            return _if_whole(np.concatenate(parts, axis=1)[:, :count], count)
    return None


def _if_whole(part: Samples, count: int) -> Samples | None:
    return np.ascontiguousarray(part) if part.shape[1] == count and np.isfinite(part).all() else None
