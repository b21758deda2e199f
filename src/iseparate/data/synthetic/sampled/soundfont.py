"""A program of a SoundFont, played by FluidSynth without its reverb and chorus.

Each call has a synthesiser of its own, made and thrown away: nothing of one part can sound in another, and the same
events give the same samples whatever was played before, in whichever process or thread. That costs some 10 ms, since
only the samples of the program asked for are loaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from ctypes import c_int, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np

from iseparate.data.synthetic.sounds import SAMPLE_RATE
from iseparate.errors import AudioReadError
from iseparate.types import Samples

BEND_SEMITONES = 24.0
"""How far a channel bends either way."""
DRUM_BANK = 128
_CHANNELS = 16
_ONE_AT_A_TIME = Lock()
"""FluidSynth keeps loaded samples for all synthesisers of a process; a test of four threads without this lock failed
once."""
_ORDER = {"silence": 0, "off": 1, "bend": 2, "on": 3}  # of events at one time


@dataclass(frozen=True)
class Event:
    """Something that happens on a channel."""

    at_samples: int
    kind: Literal["on", "off", "bend", "silence"]
    """``silence`` stops whatever sounds on the channel, its release included."""
    channel: int
    pitch: float
    """MIDI number of the note; for a bend, semitones."""
    velocity: int = 0
    """1 to 127."""


@dataclass(frozen=True)
class Program:
    """A sound of a SoundFont."""

    font: Path
    bank: int
    number: int


def render(programs: dict[int, Program], events: Iterable[Event], samples: int) -> Samples:
    """Play events on channels, each with its program: float32 ``[2, samples]``.

    All programs are of one font. Events start on FluidSynth's blocks of 64 samples, so up to 1.5 ms late.

    Raises AudioReadError where the font cannot be read or has not the program.
    """
    with _ONE_AT_A_TIME:
        return _rendered(programs, events, samples)


def _rendered(programs: dict[int, Program], events: Iterable[Event], samples: int) -> Samples:
    library = _library()
    font = next(iter(programs.values())).font
    synth = library.Synth(
        gain=0.4,
        samplerate=float(SAMPLE_RATE),
        channels=_CHANNELS,
        **{
            "synth.reverb.active": 0,
            "synth.chorus.active": 0,
            "synth.dynamic-sample-loading": 1,
            "synth.polyphony": 256,
            "synth.cpu-cores": 1,
        },
    )
    try:
        number = synth.sfload(str(font))
        if number < 0:
            raise AudioReadError(f"{font} cannot be read as a SoundFont; install its package anew")
        for channel, program in programs.items():
            if synth.program_select(channel, number, program.bank, program.number) != 0:
                raise AudioReadError(
                    f"{font} has no program {program.number} in bank {program.bank}; install its package anew"
                )
            for control, value in ((101, 0), (100, 0), (6, int(BEND_SEMITONES))):
                synth.cc(channel, control, value)
        return _played(synth, events, samples)
    finally:
        synth.delete()


def _played(synth: Any, events: Iterable[Event], samples: int) -> Samples:
    write = _write_float()
    sound = np.zeros((2, samples), dtype=np.float32)
    left, right = (channel.ctypes.data for channel in sound)
    done = 0
    for event in sorted(events, key=lambda event: (event.at_samples, _ORDER[event.kind], event.channel, event.pitch)):
        at = min(event.at_samples, samples)
        if at > done:
            write(synth.synth, at - done, left, done, 1, right, done, 1)
            done = at
        if done >= samples:
            return sound
        if event.kind == "on":
            synth.noteon(event.channel, round(event.pitch), event.velocity)
        elif event.kind == "off":
            synth.noteoff(event.channel, round(event.pitch))
        elif event.kind == "silence":
            synth.all_sounds_off(event.channel)
        else:
            synth.pitch_bend(event.channel, round(event.pitch / BEND_SEMITONES * 8192.0))
    if samples > done:
        write(synth.synth, samples - done, left, done, 1, right, done, 1)
    return sound


@cache
def _library() -> Any:
    return importlib.import_module("fluidsynth")


@cache
def _write_float() -> Any:
    """FluidSynth's float output, which the Python package has no name for: 16 bits would dither."""
    given = [("synth", c_void_p, 1), ("len", c_int, 1)]
    for side in "lr":
        given += [(f"{side}out", c_void_p, 1), (f"{side}off", c_int, 1), (f"{side}incr", c_int, 1)]
    return _library().cfunc("fluid_synth_write_float", c_int, *given)
