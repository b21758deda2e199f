"""The format of prepared data: raw samples in one file a song, of which any excerpt is one short read a channel.

::

    DIR/prepared.json       `Index`: written last, when all songs are there
    DIR/songs/000000.pcm    a song: source after source, in each channel after channel, little-endian
    DIR/songs/000000.json   its `Song`, written when the song is whole: what a later run need not do again

Planes of channels rather than interleaved frames, since training wants ``[C, n]``; raw rather than FLAC or WAV, since
excerpts of these took 10 to 20 times as long to read (``bench/loader.py`` measures it anew).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from iseparate.data.clip import Clip, Sound
from iseparate.data.track import MIXTURE, Track
from iseparate.errors import AudioReadError, TruncatedAudioError, UsageError
from iseparate.types import Samples

INDEX_NAME = "prepared.json"
SONGS_NAME = "songs"
FORMAT: Literal[1] = 1
"""Raised, here and in `Index`, when data prepared by older versions must not be read any more."""
MAX_INDEX_BYTES = 256 << 20

SampleFormat = Literal["int16", "float32"]
DTYPES: dict[str, np.dtype[Any]] = {"int16": np.dtype("<i2"), "float32": np.dtype("<f4")}

Name = Annotated[str, Field(min_length=1, max_length=4096)]
Count = Annotated[int, Field(gt=0)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Song(_Record):
    """One song of prepared data."""

    file: Annotated[str, Field(pattern=r"^\d{6,9}\.pcm$")]
    name: Name
    subset: str = ""
    is_song: bool = True
    sources: tuple[Name, ...] = Field(min_length=1)
    """In the order of the file; `mixture` only where the stems do not sum to it."""
    channels: Annotated[int, Field(gt=0, le=64)]
    samples: Count
    step: Annotated[float, Field(gt=0)]
    """What a stored 1 stands for: 2^-15 of int16 unless the song is louder than full scale, 1 of float32."""
    made_from: str
    """Tells whether the files it was made from, and what was asked, are still the same."""

    def bytes_of(self, sample_format: SampleFormat) -> int:
        """Size of the file."""
        return len(self.sources) * self.channels * self.samples * DTYPES[sample_format].itemsize


class Index(_Record):
    """What ``prepared.json`` says."""

    format: Literal[1] = 1
    source: str
    """KIND:PATH of what was prepared."""
    sample_rate: Count
    sample_format: SampleFormat
    songs: tuple[Song, ...]


@dataclass(frozen=True)
class ShardClip(Clip):
    """One source of a prepared song; `stream` is its number in the file."""

    song: Song | None = None
    sample_rate: int = 0
    sample_format: SampleFormat = "int16"

    @cached_property
    def sound(self) -> Sound:
        """Rate, channels and length; AudioError where the file is missing or not whole."""
        assert self.song is not None
        expected = self.song.bytes_of(self.sample_format)
        try:
            size = self.path.stat().st_size
        except OSError as error:
            raise AudioReadError(
                f"{self.path} cannot be read ({error.strerror}), though {INDEX_NAME} names it: prepare the data again."
            ) from error
        if size != expected:
            raise TruncatedAudioError(
                f"{self.path} has {size} bytes, though {INDEX_NAME} promises {expected}: prepare the data again."
            )
        codec = "pcm_s16le" if self.sample_format == "int16" else "pcm_f32le"
        return Sound(self.sample_rate, self.song.channels, self.song.samples, "prepared", codec)

    def blocks(self, block_samples: int = 65_536) -> Iterator[Samples]:
        """The whole source in order; AudioError."""
        length = self.sound.samples
        for start in range(0, length, block_samples):
            yield self.read(start, min(block_samples, length - start))

    def read(self, start_samples: int = 0, samples: int | None = None) -> Samples:
        """A part of the source; arguments, result and errors as `Clip.read`."""
        assert self.song is not None
        count = self._check_part(start_samples, samples)
        shape = (len(self.song.sources), self.song.channels, self.song.samples)
        try:
            # Mapped anew each time: it costs microseconds, and nothing stays open or is inherited by workers.
            planes = np.memmap(self.path, DTYPES[self.sample_format], "r", shape=shape)
        except (OSError, ValueError) as error:
            raise AudioReadError(f"{self.path} cannot be read ({error}): prepare the data again.") from error
        part = planes[self.stream, :, start_samples : start_samples + count]
        sound: Samples = np.multiply(part, np.float32(self.song.step), dtype=np.float32)
        return sound


def tracks_of(index: Index, root: Path) -> Iterator[Track]:
    """The songs of prepared data; opens none."""
    for song in index.songs:
        clips = {
            source: (ShardClip(root / SONGS_NAME / song.file, plane, song, index.sample_rate, index.sample_format),)
            for plane, source in enumerate(song.sources)
        }
        mixture = clips.pop(MIXTURE, ())
        yield Track(song.name, song.subset, clips, mixture, song.is_song)


def read_index(root: Path) -> Index:
    """Read ``prepared.json``; UsageError where it is none, OSError where it cannot be read."""
    path = root / INDEX_NAME
    with path.open("rb") as file:
        content = file.read(MAX_INDEX_BYTES + 1)
    if len(content) > MAX_INDEX_BYTES:
        raise UsageError(f"{path} is larger than {MAX_INDEX_BYTES >> 20} MB: expected what `data prepare` writes.")
    try:
        return Index.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"])) or "it"
        raise UsageError(
            f"{path} is not what this version of `iseparate data prepare` writes ({where}: {fault['msg']}); prepare "
            "the data again."
        ) from None
