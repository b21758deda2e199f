"""Notes played on a SoundFont: bends and slides, ghost notes and muted ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from iseparate.data.synthetic.sampled.soundfont import BEND_SEMITONES, Event, Program, render
from iseparate.data.synthetic.sounds import Note, between, in_samples
from iseparate.types import Samples

_BEND_STEP_SAMPLES = 256
_GLIDING_CHANNELS = (10, 11, 12, 13, 14, 15)
_RESTING_CHANNELS = tuple(range(9))  # the tenth is the drums'
_MUTED_SECONDS, _GHOST_SECONDS = 0.12, 0.05


class SoundFontPlayer:
    """An `Instrument`; which program plays is a matter of how the note is touched."""

    def __init__(
        self, rng: np.random.Generator, program: Program, articulations: Mapping[str, Program] | None = None
    ) -> None:
        self._touches = {"": program, **(articulations or {})}
        self._rest = dict(zip(self._touches, _RESTING_CHANNELS, strict=False))
        self._tuning = float(np.clip(rng.normal(0.0, 0.06), -0.2, 0.2))  # in semitones
        self._softest, self._loudest = between(rng, 15.0, 45.0), between(rng, 100.0, 127.0)
        self._slide_seconds = between(rng, 0.05, 0.18)

    def play(self, notes: Sequence[Note], samples: int) -> Samples:
        """Play all notes into a stereo bus ``[2, samples]``."""
        programs = {channel: self._touches[touch] for touch, channel in self._rest.items()}
        programs |= dict.fromkeys(_GLIDING_CHANNELS, self._touches[""])
        events = [Event(0, "bend", channel, self._tuning) for channel in programs]
        slides = 0
        ringing: dict[tuple[int, int], int] = {}  # by channel and pitch, the place of its end among the events
        for note in sorted(notes, key=lambda note: note.start_seconds):
            channel = self._rest.get(note.articulation, self._rest[""])
            start = in_samples(note.start_seconds)
            if note.glide_from is not None:
                channel = _GLIDING_CHANNELS[slides % len(_GLIDING_CHANNELS)]
                slides += 1
                events += self._slide(note, start, channel)
            pitch = round(note.pitch)
            if not 0 <= pitch <= 127 or start >= samples:
                continue
            earlier = ringing.get((channel, pitch))
            if earlier is not None and events[earlier].at_samples >= start:
                # its end must not cut off the note that follows
                events[earlier] = replace(events[earlier], at_samples=start)
            ringing[channel, pitch] = len(events)
            events.append(Event(start + self._held_samples(note), "off", channel, pitch))
            events.append(Event(start, "on", channel, pitch, self._velocity(note)))
        return render(programs, events, samples)

    def _velocity(self, note: Note) -> int:
        level = self._softest + (self._loudest - self._softest) * note.velocity
        return int(np.clip(0.6 * level if note.articulation == "ghost" else level, 1, 127))

    def _held_samples(self, note: Note) -> int:
        seconds = note.seconds
        if note.articulation == "ghost":
            seconds = min(seconds, _GHOST_SECONDS)
        elif note.articulation == "mute" and "mute" not in self._touches:
            seconds = min(seconds, _MUTED_SECONDS)
        return max(64, in_samples(seconds))

    def _slide(self, note: Note, start: int, channel: int) -> list[Event]:
        assert note.glide_from is not None
        limit = BEND_SEMITONES - 1.0
        away = float(np.clip(note.glide_from - note.pitch, -limit, limit))
        steps = max(1, in_samples(min(self._slide_seconds, 0.7 * note.seconds)) // _BEND_STEP_SAMPLES)
        return [
            Event(
                start + number * _BEND_STEP_SAMPLES,
                "bend",
                channel,
                self._tuning + away * 0.5 * (1.0 + float(np.cos(np.pi * number / steps))),
            )
            for number in range(steps + 1)
        ]
