"""One song of the synthetic band: written, played, mixed, mastered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from iseparate.data.synthetic import bass, codec, drums, harmony, mixing, voice
from iseparate.data.synthetic.casting import playing
from iseparate.data.synthetic.sampled.cast import SampledCasting
from iseparate.data.synthetic.sampled.sources import OWN_SOUNDS, SoundSource
from iseparate.data.synthetic.song import Song, compose
from iseparate.data.synthetic.sounds import SAMPLE_RATE, chance, in_samples, stream
from iseparate.data.synthetic.version import VERSION
from iseparate.errors import UnknownStemError, UsageError
from iseparate.types import Samples

STEMS = ("drums", "bass", "other", "vocals")
SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 600.0

# Mean level of a stem's loud parts against the others', in dB, and its standard deviation from song to song.
_LEVELS_DB = {"drums": (1.4, 2.5), "bass": (-2.0, 2.5), "other": (-0.7, 2.5), "vocals": (-1.2, 2.5)}


@dataclass(frozen=True)
class RenderedSong:
    """A song's stems and what is known of it."""

    stems: Mapping[str, Samples]
    """Float32 ``[2, samples]`` each, on a grid of 2⁻²³: their float32 sum is exact and within ±1."""
    facts: Mapping[str, Any]
    """Plain data: seed, version, genre, key, tempo, sections, instruments; whose sounds they are, with licences."""

    @property
    def mixture(self) -> Samples:
        """The exact sum of the stems."""
        return mixing.summed(self.stems)


def render_song(seed: int, seconds: float, stems: Sequence[str] = STEMS) -> dict[str, Samples]:
    """Render a song of `seconds` at 44.1 kHz: float32 ``[2, samples]`` for each of `stems`.

    The same seed, seconds, stems and version (`version.VERSION`) give the same samples on one machine. A stem that was
    not asked for is not in the song: the mix is balanced and limited without it. The stems sum to the mixture exactly,
    and the mixture stays within ±1. A stem can be silent.

    Raises UsageError for a negative seed or a length out of range, UnknownStemError for a stem the band has not.
    """
    return dict(render(seed, seconds, stems).stems)


def render(
    seed: int, seconds: float, stems: Sequence[str] = STEMS, sounds: Sequence[SoundSource] = (), dry: bool = False
) -> RenderedSong:
    """Render a song with its facts; see `render_song`.

    Of `sounds` about half of the parts are played; without, all play the band's own. The same notes are played, and
    the parts that keep their own sounds are the same. A `dry` song has the same notes and sounds without what the desk
    does to them: no equalisers, compressors, choruses, delays, reverbs and rooms, and no lossy codec.
    """
    check_request(seed, seconds, stems)
    samples = in_samples(seconds)
    song = compose(seed, seconds)
    hits = drums.write_part(song)
    kicks_seconds = [hit.start_seconds for hit in hits if hit.piece == "kick"]
    bass_part = bass.write_part(song)
    harmony_parts = harmony.write_parts(song)
    voice_part = voice.write_part(song)
    players = {
        "drums": lambda: drums.render(song, hits, samples),
        "bass": lambda: bass.render(song, bass_part, kicks_seconds, samples),
        "other": lambda: harmony.render(song, harmony_parts, kicks_seconds, samples),
        "vocals": lambda: voice.render(song, voice_part, samples),
    }
    rng = stream(seed, "mix")
    levels = {stem: level + float(rng.normal(0.0, spread)) for stem, (level, spread) in _LEVELS_DB.items()}
    absent = {stem: chance(rng, 0.03) for stem in STEMS if stem != "other"}
    mixed = {}
    casting = SampledCasting(seed, sounds) if sounds else None
    with playing(casting), mixing.desk(dry):
        for stem in STEMS:  # always in this order, whatever the order asked for
            if stem in stems:
                silent = absent.get(stem, False)
                mixed[stem] = (
                    np.zeros((2, samples), np.float32) if silent else mixing.at_level(players[stem](), levels[stem])
                )
        mastered = mixing.master(mixed, stream(seed, "master"), song.genre.loudness_db)
    coded_by = None if dry else codec.draw(stream(seed, "codec"))
    mastered = codec.code(mastered, coded_by)
    for samples_of_stem in mastered.values():
        _fade_edges(samples_of_stem)
    sounding = [stem for stem in mixed if np.any(mixed[stem])]
    facts = _facts(song, bass_part, harmony_parts, voice_part, sounding, casting, dry, coded_by)
    return RenderedSong({stem: mastered[stem] for stem in stems}, facts)


def check_request(seed: int, seconds: float, stems: Sequence[str]) -> None:
    """Refuse what cannot be rendered."""
    if seed < 0:
        raise UsageError(f"the seed is {seed}, expected 0 or more; choose another seed")
    if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        raise UsageError(
            f"a song of {seconds:g} seconds was asked for, expected {SHORTEST_SECONDS:g} to {LONGEST_SECONDS:g}; "
            "choose a length in that range"
        )
    if not stems or len(set(stems)) != len(stems):
        raise UsageError(f"the stems are {', '.join(stems) or 'none'}, expected each at most once and at least one")
    for stem in stems:
        if stem not in STEMS:
            raise UnknownStemError(f"the band has no stem {stem!r}; choose among {', '.join(STEMS)}")


def _fade_edges(stem: Samples) -> None:
    """Fade in and out over 10 ms, so that an excerpt does not start with a click; the grid is kept."""
    count = min(in_samples(0.01), stem.shape[1] // 2)
    ramp = np.linspace(0.0, 1.0, count, dtype=np.float32)
    grid = np.float32(2.0**23)
    stem[:, :count] = np.rint(stem[:, :count] * ramp * grid) / grid
    stem[:, -count:] = np.rint(stem[:, -count:] * ramp[::-1] * grid) / grid


def _facts(
    song: Song,
    bass_part: bass.BassPart,
    harmony_parts: Sequence[harmony.HarmonyPart],
    voice_part: voice.VoicePart,
    sounding: Sequence[str],
    casting: SampledCasting | None,
    dry: bool,
    coded_by: codec.Codec | None,
) -> dict[str, Any]:
    return {
        "seed": song.seed,
        "version": VERSION,
        "seconds": song.seconds,
        "sample_rate_hz": SAMPLE_RATE,
        "genre": song.genre.name,
        "key": song.key_name,
        "tempo_bpm": round(song.tempo_bpm, 2),
        "swing": round(song.swing, 3),
        "sections": [{"kind": section.kind, "bars": section.bars} for section in song.sections],
        "sounding_stems": list(sounding),
        "bass": {"line": bass_part.line, "sound": bass_part.sound},
        "harmony": [f"{part.role}:{part.instrument}" for part in harmony_parts],
        "voice": {"style": voice_part.style, "voice": voice_part.voice},
        "cast": dict(casting.parts) if casting else {},
        "sounds": [OWN_SOUNDS, *(source.credit_line() for source in (casting.used if casting else ()))],
        "dry": dry,
        "codec": str(coded_by) if coded_by else None,
    }
