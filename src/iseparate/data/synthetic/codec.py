"""Lossy codecs: the mix is encoded and decoded, and what that did to it is done to all its stems alike.

A codec is not linear, so no stem can be coded by itself: the coded stems would not add up to the coded mix. Here the
mix is coded, and its change is taken apart in the short-time spectrum. What the codec did to the level of a narrow
band (nothing is left of it above the cut-off, nor in the holes of a low bit rate) is a gain, which every stem gets. The
rest, the codec's noise, goes to the stems in proportion to their power. So the stems' sum is the coded mix.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import av
import numpy as np
import scipy.fft  # type: ignore[import-untyped]
import soundfile
import soxr
from av.codec.codec import UnknownCodecError
from numpy.typing import NDArray

from iseparate.data.synthetic.mixing import rounded, summed
from iseparate.data.synthetic.sounds import SAMPLE_RATE, chance, in_samples, noise, pick, stream
from iseparate.errors import BackendError
from iseparate.types import Samples

_CODED_SHARE = 0.5
"""How many of the songs are coded."""

_HOP = 1024
_FRAME = 2 * _HOP  # a sine window, twice, adds up to one at this overlap
_BLOCK = 64  # frames worked on together: few enough for the processor's cache
_BAND = 4  # bins that share a gain: 86 Hz
_LARGEST_GAIN = 1.5
_SILENCE = 1e-9  # power of a bin, 146 dB below a tone of full scale

# At its best LAME would take seven times as long, and longer than the band takes to play the song.
_LAME_EFFORT = "7"


@dataclass(frozen=True)
class Codec:
    """A codec and its bit rate."""

    name: str
    """``mp3``, ``aac``, ``opus`` or ``vorbis``."""
    kbps: int

    def __str__(self) -> str:
        return f"{self.name} {self.kbps} kb/s"

    @property
    def sample_rate(self) -> int:
        """The rate in Hz at which it runs."""
        return 48_000 if self.name == "opus" else SAMPLE_RATE


_RATES_KBPS: Mapping[str, tuple[int, ...]] = {
    "aac": (96, 128, 160, 192, 256),
    "mp3": (128, 160, 192, 256, 320),
    "opus": (64, 96, 128, 160),
    "vorbis": (96, 128, 160, 192, 224),
}
_LIKELY = ("aac", "aac", "aac", "mp3", "mp3", "opus", "opus", "vorbis")

# libsndfile's compression level for a nominal bit rate of stereo at 44.1 kHz.
_VORBIS_LEVELS = {96: 0.8, 128: 0.6, 160: 0.5, 192: 0.4, 224: 0.3}


def draw(rng: np.random.Generator) -> Codec | None:
    """The codec a song was kept in, or none."""
    name = pick(rng, _LIKELY)
    codec = Codec(name, pick(rng, _RATES_KBPS[name]))
    return codec if chance(rng, _CODED_SHARE) else None


def code(stems: Mapping[str, Samples], codec: Codec | None) -> dict[str, Samples]:
    """Do to the stems what `codec` does to their sum; nothing without a codec.

    Args:
        stems: float32 ``[2, samples]`` each, as `mixing.master` leaves them.
        codec: see `draw`.

    Returns:
        Stems of the same length on the grid of 2⁻²³, whose sum is the decoded mix (turned down where that would clip),
        to four steps of the grid. A silent stem stays silent.

    Raises BackendError where PyAV lacks the encoder.
    """
    sounding = {name: stem for name, stem in stems.items() if np.any(stem)}
    if codec is None or not sounding:
        return dict(stems)
    target = coded(summed(sounding), codec)
    done = _shared_out(sounding, target)
    # rounding, and what a codec puts into silence, where nobody sounds whose it could be
    loudest = max(done, key=lambda name: float(np.vdot(done[name], done[name])))
    done[loudest] += target - summed(done)
    return rounded({name: done.get(name, stem) for name, stem in stems.items()})


def coded(mix: Samples, codec: Codec) -> Samples:
    """Encode and decode a mix ``[2, samples]``; it comes back at its place and length, not limited to ±1."""
    samples = mix.shape[1]
    at_codec = _resampled(mix, SAMPLE_RATE, codec.sample_rate)
    late = _delay_samples(codec)
    back = _through(at_codec, codec)
    back = back[:, late:] if late >= 0 else np.pad(back, ((0, 0), (-late, 0)))
    back = _resampled(_cut(back, at_codec.shape[1]), codec.sample_rate, SAMPLE_RATE)
    return _cut(back, samples)


@lru_cache
def _delay_samples(codec: Codec) -> int:
    """How much later a sound comes out, at the codec's rate, measured on noise; negative where too much is cut off."""
    probe = np.tile(0.1 * noise(stream(0, "codec probe"), in_samples(0.3)), (2, 1))
    back = _through(probe, codec)
    size = 1 << (probe.shape[1] + back.shape[1]).bit_length()
    spectrum = np.fft.rfft(back[0], size) * np.conj(np.fft.rfft(probe[0], size))
    lag = int(np.argmax(np.fft.irfft(spectrum, size)))
    return lag if lag < size // 2 else lag - size


def _through(sound: Samples, codec: Codec) -> Samples:
    """Encode and decode ``[2, samples]`` at the codec's rate, delayed as the codec delays, followed by some silence."""
    kinds: Mapping[str, Callable[[Samples, Codec], Samples]] = {
        "mp3": lambda sound, codec: _packets(
            sound, codec, "libmp3lame", "mp3float", "fltp", compression_level=_LAME_EFFORT
        ),
        # the fast search leaves more noise than the thorough one, as many an encoder in use does, in half the time
        "aac": lambda sound, codec: _packets(sound, codec, "aac", "aac", "fltp", aac_coder="fast"),
        "opus": lambda sound, codec: _packets(sound, codec, "libopus", "opus", "flt", compression_level="3"),
        "vorbis": _vorbis,
    }
    return kinds[codec.name](sound, codec)


def _packets(sound: Samples, codec: Codec, encoder: str, decoder: str, sample_format: str, **options: str) -> Samples:
    """Through FFmpeg's encoder and decoder, packet by packet and without a file."""
    try:
        writer = av.CodecContext.create(encoder, "w")
    except UnknownCodecError as error:
        raise BackendError(
            f"the synthetic band codes some songs with {encoder}, which this PyAV does not have: install PyAV's wheel "
            "from PyPI"
        ) from error
    assert isinstance(writer, av.AudioCodecContext)
    writer.sample_rate, writer.layout, writer.format = codec.sample_rate, "stereo", sample_format
    writer.bit_rate, writer.time_base = 1000 * codec.kbps, Fraction(1, codec.sample_rate)
    writer.thread_count, writer.options = 1, {"flags": "+bitexact", **options}
    writer.open()
    reader = av.CodecContext.create(decoder, "r")
    assert isinstance(reader, av.AudioCodecContext)
    reader.thread_count, reader.extradata = 1, writer.extradata
    size = writer.frame_size
    # silence pushes out what the codec still holds
    frames = -(-sound.shape[1] // size) + 6
    fed = np.pad(sound, ((0, 0), (0, frames * size - sound.shape[1])))
    pieces = []
    for number in range(frames):
        piece = np.ascontiguousarray(fed[:, number * size : (number + 1) * size])
        piece = piece if writer.format.is_planar else np.ascontiguousarray(piece.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(piece, format=sample_format, layout="stereo")
        frame.sample_rate, frame.pts = codec.sample_rate, number * size
        for packet in writer.encode(frame):
            pieces += [decoded.to_ndarray() for decoded in reader.decode(packet)]
    return np.concatenate(pieces, axis=1).astype(np.float32, copy=False)


def _vorbis(sound: Samples, codec: Codec) -> Samples:
    """Through libvorbis, which libsndfile has and FFmpeg in PyAV has not."""
    file = io.BytesIO()
    with soundfile.SoundFile(
        file,
        "w",
        codec.sample_rate,
        2,
        format="OGG",
        subtype="VORBIS",
        compression_level=_VORBIS_LEVELS[codec.kbps],
    ) as writer:
        for start in range(0, sound.shape[1], 4096):  # its encoder keeps a whole write on the stack
            writer.write(sound.T[start : start + 4096])
    file.seek(0)
    return np.asarray(soundfile.read(file, dtype="float32", always_2d=True)[0].T)


def _shared_out(stems: Mapping[str, Samples], target: Samples) -> dict[str, Samples]:
    """Stems that add up to `target` (but for rounding), each changed as their sum was."""
    sounds = [*stems.values(), target]
    samples = target.shape[1]
    window = np.sin(np.pi * (np.arange(_FRAME) + 0.5) / _FRAME).astype(np.float32)
    frames = -(-samples // _HOP) + 1  # the first one begins a hop before the song
    results = [np.empty_like(target) for _ in stems]
    carried = np.zeros((len(stems), 2, _HOP), dtype=np.float32)
    for first in range(0, frames, _BLOCK):
        count = min(_BLOCK, frames - first)
        start = (first - 1) * _HOP
        stretch = np.zeros((len(sounds), 2, (count + 1) * _HOP), dtype=np.float32)
        begin, end = max(start, 0), min(start + stretch.shape[2], samples)
        for row, sound in zip(stretch, sounds, strict=True):
            row[:, begin - start : end - start] = sound[:, begin:end]
        views = np.lib.stride_tricks.sliding_window_view(stretch, _FRAME, axis=-1)[..., ::_HOP, :]
        spectra = scipy.fft.rfft(views * window, axis=-1)
        changed = scipy.fft.irfft(_alike(spectra[:-1], spectra[-1]), _FRAME, axis=-1) * window
        whole = changed[..., :_HOP].copy()
        whole[..., 1:, :] += changed[..., :-1, _HOP:]
        whole[..., 0, :] += carried
        carried = changed[..., -1, _HOP:]
        finished = whole.reshape(len(stems), 2, -1)
        # what this block has completed lies a hop behind what it has read
        end = min(start + finished.shape[2], samples)
        for result, sound in zip(results, finished, strict=True):
            result[:, begin:end] = sound[:, begin - start : end - start]
    return dict(zip(stems, results, strict=True))


def _alike(stems: NDArray[np.complex64], target: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Spectra ``[stems, 2, frames, bins]`` that add up to `target`."""
    mix = stems.sum(axis=0)
    power = np.square(stems.real) + np.square(stems.imag)
    kept = _banded(mix.real * target.real + mix.imag * target.imag)
    level = _banded(np.square(mix.real) + np.square(mix.imag))
    gain = np.clip((kept + _SILENCE) / (level + _SILENCE), 0.0, _LARGEST_GAIN)
    share = (target - gain * mix) / (power.sum(axis=0) + np.float32(1e-20))
    return np.asarray(stems * gain + power * share, dtype=np.complex64)


def _banded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over bands along the last axis, at every bin; the one bin left over joins the last band."""
    bands = values[..., :-1].reshape(*values.shape[:-1], -1, _BAND).mean(axis=-1)
    return np.concatenate([np.repeat(bands, _BAND, axis=-1), bands[..., -1:]], axis=-1)


def _resampled(sound: Samples, from_hz: int, to_hz: int) -> Samples:
    if from_hz == to_hz:
        return sound
    return np.ascontiguousarray(soxr.resample(sound.T, from_hz, to_hz, quality="HQ").T)


def _cut(sound: Samples, samples: int) -> Samples:
    """The first samples, with silence behind where there are too few."""
    return np.pad(sound[:, :samples], ((0, 0), (0, max(0, samples - sound.shape[1]))))
