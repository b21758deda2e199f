"""Which parts of a song play on recorded sounds: about half of them, drawn for each part by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from iseparate.data.synthetic.drum_kit import Make
from iseparate.data.synthetic.instruments import Distorted, Doubled, Instrument, Moving
from iseparate.data.synthetic.sampled import general_midi
from iseparate.data.synthetic.sampled.drum_strokes import RUMPF_KIT, file_piece, soundfont_piece
from iseparate.data.synthetic.sampled.sinsy_singer import Repertoire, SinsySinger
from iseparate.data.synthetic.sampled.soundfont import Program
from iseparate.data.synthetic.sampled.soundfont_player import SoundFontPlayer
from iseparate.data.synthetic.sampled.sources import SoundSource
from iseparate.data.synthetic.song import weighted
from iseparate.data.synthetic.sounds import between, chance, pick, stream
from iseparate.data.synthetic.voice import Singer

_SHARE = 0.5
_KIT_WEIGHTS = {"own": 0.4, "instruments": 0.45, "files": 0.15}
_FOREIGN_PIECE = 0.2
_SUNG_STYLES = ("sung", "rap", "chant")


class SampledCasting:
    """A `Casting` for one song. Own streams of chance: a part that keeps its own sounds is what it is without us."""

    def __init__(self, seed: int, sources: Sequence[SoundSource]) -> None:
        self._seed = seed
        self._sources = {source.name: source for source in sources}
        self._fonts = tuple(source for source in sources if "instruments" in source.plays)
        self._kits = tuple(source for source in sources if source.plays == ("drums",))
        self._voices = tuple(source for source in sources if "voice" in source.plays)
        self._parts: dict[str, str] = {}
        self._repertoire = Repertoire()

    @property
    def parts(self) -> Mapping[str, str]:
        """Which source plays which part, as far as the song has been rendered; parts of own sounds are not here."""
        return dict(sorted(self._parts.items()))

    @property
    def used(self) -> tuple[SoundSource, ...]:
        """The sources that were asked to play, by name."""
        names = {name for names in self._parts.values() for name in names.split(" + ")}
        return tuple(self._sources[name] for name in sorted(names))

    def instrument(self, name: str, rng: np.random.Generator, role: str) -> Instrument | None:
        draw = stream(self._seed, "cast", role, name)
        programs = general_midi.ROLES.get((name, role), general_midi.INSTRUMENTS.get(name, ()))
        if not self._fonts or not programs or not chance(draw, _SHARE):
            return None
        source = pick(draw, self._fonts)
        font = _path(source)
        self._parts[f"{role}:{name}"] = source.name
        amplified = name == "distorted" and chance(draw, 0.6)
        number = general_midi.CLEAN_GUITAR if amplified else pick(draw, programs)
        muted = Program(font, 0, general_midi.MUTED_GUITAR)
        touches = {"mute": muted} if name in general_midi.GUITARS else {}
        player = SoundFontPlayer(draw, Program(font, 0, number), touches)
        if amplified:
            return Distorted(rng, role, player)
        if name in ("acoustic", "nylon"):
            return Doubled(player, draw, 0.4)
        if name == "organ":
            return Moving(player, draw, "rotary", between(draw, 0.5, 3.0) if chance(draw, 0.4) else 0.0)
        if name in ("electric_piano", "clean") and chance(draw, 0.5):
            return Moving(player, draw, pick(draw, ("tremolo", "chorus")))
        return player

    def bass(self, sound: str, rng: np.random.Generator) -> Instrument | None:
        del rng  # the own bass goes on with it
        draw = stream(self._seed, "cast", "bass")
        programs = general_midi.BASSES.get(sound, ())
        if not self._fonts or not programs or not chance(draw, _SHARE):
            return None
        source = pick(draw, self._fonts)
        font = _path(source)
        self._parts["bass"] = source.name
        touches = {"pop": Program(font, 0, general_midi.POPPED_BASS)} if sound == "slap" else {}
        return SoundFontPlayer(draw, Program(font, 0, pick(draw, programs)), touches)

    def drums(self, kind: str) -> Mapping[str, Make]:
        """A kit of one source, with a piece of another here and there; pieces it has not are the own kit's."""
        draw = stream(self._seed, "cast", "drums")
        weights = dict(_KIT_WEIGHTS)
        weights["instruments"] *= bool(self._fonts)
        weights["files"] *= bool(self._kits)
        main = weighted(draw, weights)
        pieces: dict[str, Make] = {}
        used: set[str] = set()
        if main == "own":
            return pieces
        font, kit = (pick(draw, self._fonts) if self._fonts else None), (pick(draw, self._kits) if self._kits else None)
        program = pick(draw, general_midi.KITS[kind])
        for piece in general_midi.PIECES:
            foreign = chance(draw, _FOREIGN_PIECE)
            from_files = (main == "files") != foreign
            if from_files and kit is not None and piece in RUMPF_KIT:
                pieces[piece] = file_piece(draw, _path(kit), RUMPF_KIT[piece])
                used.add(kit.name)
            elif font is not None and (main == "instruments" or foreign or piece not in RUMPF_KIT):
                other = pick(draw, self._fonts) if foreign else font
                number = pick(draw, general_midi.KITS[kind]) if foreign else program
                pieces[piece] = soundfont_piece(draw, _path(other), number, piece)
                used.add(other.name)
        self._parts["drums"] = " + ".join(sorted(used))
        return pieces

    def singer(self, voice: str, style: str, rng: np.random.Generator) -> Singer | None:
        draw = stream(self._seed, "cast", "voice")
        if not self._voices or style not in _SUNG_STYLES or not chance(draw, _SHARE):
            return None
        self._parts["vocals"] = self._voices[0].name
        return SinsySinger(rng, voice, style, self._repertoire)


def _path(source: SoundSource) -> Path:
    path = source.path()
    assert path is not None
    return path
