"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iseparate.cli.console import download_bar, note

if TYPE_CHECKING:
    from iseparate.engine.separator import Separator
    from iseparate.weights.store import Store


class Precision(StrEnum):
    """Arithmetic of the network."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Runtime(StrEnum):
    """What runs the network."""

    auto = "auto"
    eager = "eager"
    compile = "compile"
    openvino = "openvino"
    onnx = "onnx"


class Format(StrEnum):
    """File formats of stems."""

    wav = "wav"
    flac = "flac"
    mp3 = "mp3"
    m4a = "m4a"
    ogg = "ogg"
    opus = "opus"


class BitDepth(StrEnum):
    """Bits per sample of lossless formats."""

    int16 = "16"
    int24 = "24"
    float32 = "32f"


class Clip(StrEnum):
    """What happens to stems beyond full scale."""

    rescale = "rescale"
    clamp = "clamp"
    none = "none"


def complete_model(incomplete: str) -> Iterator[tuple[str, str]]:
    """Ids of cards for the shell's completion."""
    from iseparate.weights.card import load_cards

    for card in load_cards().values():
        if card.id.startswith(incomplete):
            yield card.id, card.title


# Typer's own check (`readable`) would refuse a whole batch for one song; the decoder has a sentence for that song.
Songs = Annotated[
    list[Path],
    typer.Argument(metavar="SONG", readable=False, help="Songs, or folders of songs.", show_default=False),
]
OutDir = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", readable=False, help="Folder for results.")]
Model = Annotated[
    str,
    typer.Option(
        "--name",
        "-n",
        metavar="MODEL",
        help="A model's id (see [bold]iseparate models list[/bold]) or a weights file.",
        autocompletion=complete_model,
    ),
]
ENGINE_PANEL = "How it runs"
Device = Annotated[
    str,
    typer.Option(
        "--device", "-d", metavar="DEVICE", rich_help_panel=ENGINE_PANEL, help="auto, cpu, cuda, cuda:N or mps."
    ),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        metavar="KIND",
        rich_help_panel=ENGINE_PANEL,
        help="Arithmetic: fp32, bf16 or auto (fp32; bf16 for networks trained here, where the CPU is made for it).",
    ),
]
BackendOption = Annotated[
    Runtime,
    typer.Option(
        metavar="NAME",
        rich_help_panel=ENGINE_PANEL,
        help="What runs the network: auto (which is eager), eager, compile, openvino or onnx. OpenVINO pays off for "
        "long batches.",
    ),
]

Overlap = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        rich_help_panel=ENGINE_PANEL,
        help="Overlap of segments, from 0 to below 1.",
        show_default="the model's own",
    ),
]
Segment = Annotated[
    float | None,
    typer.Option(metavar="S", rich_help_panel=ENGINE_PANEL, help="Length of segments, for models that leave it free."),
]
Shifts = Annotated[
    int,
    typer.Option(
        metavar="N", rich_help_panel=ENGINE_PANEL, help="Average N separations moved in time: N times slower."
    ),
]


@contextmanager
def open_separator(model: str, **options: Any) -> Iterator[Separator]:
    """A separator, with a bar while weights are fetched and notes on what is trusted."""
    from iseparate.engine.memory import objects_that_stay, reuse_large_blocks

    reuse_large_blocks()
    with objects_that_stay(), download_bar() as bar:
        from iseparate.engine.separator import Separator

        separator = Separator(model, store=open_store(), download_progress=bar, notify=note, **options)
    yield separator


def open_store(offline: bool | None = None) -> Store:
    """The user's cache, its notes going to the terminal."""
    from iseparate.weights.store import Store

    return Store(offline=offline, notify=note)
