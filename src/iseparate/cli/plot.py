"""``--plot``: one picture of a song's and its stems' spectra over time."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from iseparate.audio.decode import Decoder
from iseparate.engine.names import MANIFEST_NAME
from iseparate.errors import OutputError

if TYPE_CHECKING:
    from iseparate.audio.excerpt import Excerpt
    from iseparate.engine.results import SongResult

PICTURE_NAME = "spectrograms.png"
FRAME_SAMPLES, HOP_SAMPLES = 4096, 1024
COLUMNS = 1200
BANDS = 160
LOWEST_HZ, FLOOR_DB = 40.0, -70.0


def plot_result(result: SongResult, excerpt: Excerpt) -> Path:
    """Draw the song above its stems, all on one scale, into the stems' folder; returns the picture's path.

    Raises:
        OutputError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    assert result.manifest is not None
    assert result.manifest_path is not None
    rate, samples = result.manifest.sample_rate_hz, result.manifest.samples
    edges_hz = band_edges_hz(rate)
    seconds = samples / rate
    decoders = {result.song.name: excerpt.open(result.song)}
    decoders |= {stem: Decoder(path) for stem, path in result.files.items()}
    # A stem can have another rate than its song (Opus knows but a few), and the pictures stand below each other.
    columns = min(COLUMNS, *(_frame_count(seconds, decoder.info.sample_rate) for decoder in decoders.values()))
    rows = {name: band_levels(decoder, seconds, columns, edges_hz) for name, decoder in decoders.items()}
    top_db = max(float(levels.max()) for levels in rows.values())
    figure = Figure(figsize=(11, 1.9 * len(rows) + 0.6), layout="constrained")
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    times = np.linspace(0, seconds, columns + 1)
    for axis, (name, levels) in zip(axes, rows.items(), strict=True):
        image = axis.pcolormesh(times, edges_hz, levels - top_db, vmin=FLOOR_DB, vmax=0, cmap="magma", rasterized=True)
        axis.set_yscale("log")
        axis.set_ylim(LOWEST_HZ, edges_hz[-1])
        axis.set_yticks([100, 1000, 10000], ["100 Hz", "1 kHz", "10 kHz"])
        axis.minorticks_off()
        axis.set_title(name, loc="left", fontsize=10)
    axes[-1].set_xlabel("seconds")
    figure.colorbar(image, ax=list(axes), label="dB below the loudest", shrink=0.8, pad=0.01)
    path = picture_path(result.manifest_path)
    fresh = path.with_name(f".{path.name}.part")
    try:
        figure.savefig(fresh, dpi=110, format="png", metadata={"Software": None})
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise OutputError(f"the picture {path} cannot be written: {error.strerror}") from error
    return path


def picture_path(manifest_path: Path) -> Path:
    """Where a song's picture lies; named as the manifest is, since songs can share a folder."""
    return manifest_path.with_name(manifest_path.name.replace(MANIFEST_NAME, PICTURE_NAME))


def band_edges_hz(sample_rate: int) -> NDArray[np.float64]:
    """Edges of `BANDS` bands, evenly spaced on a logarithmic scale up to half the rate."""
    return np.geomspace(LOWEST_HZ, sample_rate / 2, BANDS + 1)


def _frame_count(seconds: float, sample_rate: int) -> int:
    return max(1, (round(seconds * sample_rate) - FRAME_SAMPLES) // HOP_SAMPLES + 1)


def band_levels(decoder: Decoder, seconds: float, columns: int, edges_hz: NDArray[np.float64]) -> NDArray[np.float32]:
    """Mean power in dB per band and column, ``[bands, columns]``, of a song read block by block."""
    with decoder:
        rate = decoder.info.sample_rate
        frames = _frame_count(seconds, rate)
        power, count = np.zeros((columns, len(edges_hz) - 1)), np.zeros(columns)
        bins = np.fft.rfftfreq(FRAME_SAMPLES, 1 / rate)
        edges = np.searchsorted(bins, edges_hz).clip(max=len(bins))
        # A band narrower than a bin shows the bin it lies in.
        low = np.minimum(edges[:-1], len(bins) - 1)
        high = np.maximum(edges[1:], low + 1)
        window = np.hanning(FRAME_SAMPLES)
        held, done = np.zeros(0, np.float32), 0
        # A song shorter than a frame still has a spectrum.
        padding = np.zeros((decoder.info.channels, max(0, FRAME_SAMPLES - round(seconds * rate))), np.float32)
        for block in itertools.chain(decoder.blocks(HOP_SAMPLES * 64), [padding]):
            held = np.concatenate([held, block.mean(0)])
            if len(held) < FRAME_SAMPLES:
                continue
            cut = np.lib.stride_tricks.sliding_window_view(held, FRAME_SAMPLES)[::HOP_SAMPLES]
            spectra = np.abs(np.fft.rfft(cut * window)) ** 2
            sums = np.pad(np.cumsum(spectra, 1), ((0, 0), (1, 0)))
            column = np.minimum((done + np.arange(len(cut))) * columns // frames, columns - 1)
            np.add.at(power, column, (sums[:, high] - sums[:, low]) / (high - low))
            np.add.at(count, column, 1)
            done += len(cut)
            held = held[len(cut) * HOP_SAMPLES :]
    levels: NDArray[np.float32] = 10 * np.log10(power / np.maximum(count, 1)[:, None] + 1e-12).astype(np.float32).T
    return levels
