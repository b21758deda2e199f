"""``iseparate doctor``: what this machine would really use."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from iseparate.cli import console
from iseparate.cli.console import note
from iseparate.cli.options import (
    BackendOption,
    Device,
    Format,
    Model,
    OutDir,
    Precision,
    PrecisionOption,
    Runtime,
    Shifts,
    open_separator,
)
from iseparate.errors import IseparateError

if TYPE_CHECKING:
    from iseparate.audio.decode import AudioInfo
    from iseparate.engine.predict import Prediction


def doctor(
    song: Annotated[
        Path | None,
        typer.Argument(readable=False, help="Predict time, memory and disk for this song.", show_default=False),
    ] = None,
    name: Model = "band-4stems",
    device: Device = "auto",
    precision: PrecisionOption = Precision.auto,
    backend: BackendOption = Runtime.auto,
    shifts: Shifts = 0,
    format: Annotated[Format, typer.Option("--format", "-f", metavar="NAME", help="As of separate.")] = Format.wav,
    out_dir: OutDir = Path("separated"),
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print as JSON.")] = False,
) -> None:
    """Show device, precision, codecs, cache and disk as they would be used; with SONG, predict what it will take."""
    facts = _machine(device, precision.value, backend.value, out_dir)
    if song is not None:
        options = {"device": device, "precision": precision.value, "backend": backend.value, "shifts": shifts}
        facts |= _song(song, name, format.value, **options)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name_of_fact, value in facts.items():
        heading, words = _in_words(name_of_fact, value)
        table.add_row(heading, console.plain(words))
    console.print_table(table)
    if not facts["weights_here"] and not facts["offline"]:
        note("no weights are in the cache yet; the first separation fetches them")


def _in_words(name: str, value: Any) -> tuple[str, str]:
    """A fact for people: its name without the unit, its value with it."""
    words = name.replace("_", " ")
    if isinstance(value, bool):
        return words, "yes" if value else "no"
    if isinstance(value, list):
        return words, ", ".join(value) or "none"
    if value is None:
        return words, "not known here"
    if name.endswith("_bytes"):
        return words.removesuffix(" bytes"), console.megabytes(value)
    if name.endswith("_seconds"):
        words = "expected time" if name == "expected_seconds" else "song length"
        return words, f"{value:.1f} s" if value < 60 else f"{console.clock(value)} (m:ss)"
    return words, str(value)


def _machine(device: str, precision: Any, backend: Any, out_dir: Path) -> dict[str, Any]:
    import torch

    from iseparate.audio.encode import FORMATS
    from iseparate.engine.backend import choose_backend
    from iseparate.versions import versions
    from iseparate.weights.store import Store

    try:
        chosen = choose_backend(device, precision, backend)
        runs = {"device": _device_name(chosen.device), "precision": chosen.precision, "backend": chosen.runtime}
    except IseparateError as error:
        runs = {"device": f"not usable: {error}"}
    store = Store()
    existing = next(path for path in (out_dir.absolute(), *out_dir.absolute().parents) if path.exists())
    return {
        **runs,
        "threads": torch.get_num_threads(),
        "bf16_in_hardware": _has_bf16(),
        "backends_installed": [n for n in ("openvino", "onnxruntime") if importlib.util.find_spec(n)],
        "reads": _readable(),
        "writes": ", ".join(FORMATS),
        "cache": str(store.root),
        "cache_size_bytes": sum(entry.size_bytes for entry in store.list()),
        "weights_here": [entry.weights_id for entry in store.list()],
        "offline": store.offline,
        "out": str(out_dir),
        "free_disk_bytes": shutil.disk_usage(existing).free,
        "writable": os.access(existing, os.W_OK),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }


def _song(song: Path, name: str, format: str, **options: Any) -> dict[str, Any]:
    from iseparate.audio.decode import probe
    from iseparate.engine.outputs import Storage
    from iseparate.engine.predict import predict

    info = probe(song)
    with open_separator(name, **options) as separator:
        return {"song": _describe(info), **_expectation(predict(separator, info, Storage(format)), info)}


def _expectation(prediction: Prediction | None, info: AudioInfo) -> dict[str, Any]:
    if prediction is None:
        return {"expected": "the song does not say how long it is"}
    return {
        "song_seconds": info.estimated_seconds,
        "expected_seconds": round(prediction.seconds, 2),
        "expected_memory_bytes": prediction.peak_memory_bytes,
        "expected_disk_bytes": prediction.disk_bytes,
    }


def _describe(info: AudioInfo) -> str:
    length = console.clock(info.estimated_seconds) if info.estimated_seconds else "unknown length"
    depth = f", {info.bit_depth} bits" if info.bit_depth else ""
    return f"{info.codec} in {info.container}, {info.sample_rate} Hz, {info.channels} channels{depth}, {length}"


def _device_name(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()})"


def _has_bf16() -> bool:
    import torch

    from iseparate.engine.backend import cpu_is_made_for_bf16

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return cpu_is_made_for_bf16()


def _readable() -> str:
    import av

    wanted = ("mp3", "aac", "alac", "flac", "vorbis", "opus", "pcm_s16le", "pcm_s24le", "pcm_f32le", "wmav2", "ac3")
    return ", ".join(codec for codec in wanted if codec in av.codecs_available)
