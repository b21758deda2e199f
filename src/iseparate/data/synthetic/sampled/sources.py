"""Every sound source that is known, with its licence; and which of them may be used, and are here.

Only sources whose licence lets weights be shipped that learned from them are ever used: MIT, CC0, public domain, CC-BY
(with credit). The others stand in the table so that nobody has to find out twice.

Licences and credits are those of the packages' own copyright files, read in Debian 12 and in pysinsy 0.0.5.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from iseparate.errors import UsageError

ALLOWED_LICENCES = {
    "MIT": "https://spdx.org/licenses/MIT.html",
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "LicenseRef-public-domain": "",
    "CC-BY-2.0": "https://creativecommons.org/licenses/by/2.0/",
    "CC-BY-2.5": "https://creativecommons.org/licenses/by/2.5/",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
}
"""SPDX names, and where the licence stands. Share-alike, non-commercial and copyleft licences are not among them."""

OWN_SOUNDS = {"name": "iseparate synthesis", "licence": "MIT", "credit": "The iseparate developers"}
"""What a song's facts say of the band's own sounds."""

Part = Literal["instruments", "drums", "voice"]

_KITS = "/usr/share/hydrogen/data/drumkits"
_ENDS_BYTES = 1 << 16


@dataclass(frozen=True)
class SoundSource:
    """One SoundFont, drum kit or voice."""

    name: str
    title: str
    plays: tuple[Part, ...]
    install: str
    """The command that brings it."""
    files: tuple[str, ...]
    """Where it may lie: absolute paths, or ``package:path`` inside of a Python package; the first that exists is it."""
    licence: str
    """SPDX."""
    credit: str
    modules: tuple[str, ...] = ()
    """Python packages that are needed to play it."""
    proof: tuple[str, str] | None = None
    """A file beside it and words in there that state the licence; without them the source is not used."""
    withheld: str = ""
    """Why it is not used although its licence would do."""

    @property
    def allowed(self) -> bool:
        """Whether weights that learned from it may be shipped."""
        return self.licence in ALLOWED_LICENCES and not self.withheld

    def path(self) -> Path | None:
        """Its file or folder on this machine; None: it is not here."""
        return next((path for path in map(_located, self.files) if path is not None and path.exists()), None)

    def lacking(self) -> tuple[str, ...]:
        """What of it is not here: the sounds themselves, or modules; empty: nothing."""
        absent = () if self.path() else (self.title,)
        return absent + tuple(module for module in self.modules if not _imports(module))

    def refusal(self) -> str:
        """Why it is not used, the licence first; empty: it is."""
        if self.licence not in ALLOWED_LICENCES:
            return f"{self.licence} does not let weights be shipped"
        if self.withheld:
            return self.withheld
        if lacking := self.lacking():
            return f"not installed: {', '.join(lacking)}"
        if not self._proven():
            assert self.proof is not None
            return f"its {self.proof[0]} does not say {self.proof[1]!r}, as that of the known version does"
        return ""

    def _proven(self) -> bool:
        path = self.path()
        if self.proof is None or path is None:
            return True
        file, words = self.proof
        try:
            text = ((path if path.is_dir() else path.parent) / file).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        return words in text

    def fingerprint(self) -> str:
        """``name=digest`` of the files' names, sizes and ends. OSError where they cannot be read."""
        path = self.path()
        assert path is not None
        digest = hashlib.sha256()
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if file.is_file():
                size = file.stat().st_size
                with file.open("rb") as stream:  # the ends hold a SoundFont's sizes and its tables
                    head = stream.read(_ENDS_BYTES)
                    stream.seek(max(0, size - _ENDS_BYTES))
                    digest.update(f"{file.name} {size} ".encode() + head + stream.read(_ENDS_BYTES))
        return f"{self.name}={digest.hexdigest()[:12]}"

    def credit_line(self) -> dict[str, str]:
        """What a song's facts say of it."""
        return {"name": self.title, "licence": self.licence, "credit": self.credit}


def _kit(folder: str, licence: str, credit: str, **more: str) -> SoundSource:
    return SoundSource(
        name=f"hydrogen-{folder.removesuffix(' 1.0').lower().replace(' ', '-').replace('_', '-')}",
        title=f"Hydrogen drum kit {folder}",
        plays=("drums",),
        install="apt install hydrogen-drumkits",
        files=(f"{_KITS}/{folder}",),
        licence=licence,
        credit=credit,
        **more,  # type: ignore[arg-type]
    )


_FLUID = "apt install libfluidsynth3, pip install pyfluidsynth"

SOURCES: tuple[SoundSource, ...] = (
    SoundSource(
        name="fluidr3-gm",
        title="Fluid (R3) General MIDI SoundFont",
        plays=("instruments", "drums"),
        install=f"apt install fluid-soundfont-gm; {_FLUID}",
        files=("/usr/share/sounds/sf2/FluidR3_GM.sf2", "/usr/share/soundfonts/FluidR3_GM.sf2"),
        licence="MIT",
        credit="Copyright (c) 2000-2002, 2008 Frank Wen; 2008 Toby Smithe",
        modules=("fluidsynth",),
    ),
    SoundSource(
        name="musescore-general",
        title="MuseScore General SoundFont",
        plays=("instruments", "drums"),
        install=f"apt install musescore-general-soundfont-small; {_FLUID}",
        files=(
            "/usr/share/sounds/sf3/MuseScore_General_Lite.sf3",
            "/usr/share/sounds/sf3/MuseScore_General_Full.sf3",
            "/usr/share/sounds/sf2/MuseScore_General_Full.sf2",
        ),
        licence="MIT",
        credit="Copyright (c) 2018-2021 S. Christian Collins; 2014-2017 Michael Cowgill; 2000-2002, 2008 Frank Wen; "
        "2002 Ethan Winer; 2016 Michael Schorsch; parts in the public domain or under CC0 (Versilian Community Sample "
        "Library by Sam Gossner; MuseScore Drumline by S. Christian Collins and Amir Oosman; Splendid Grand piano)",
        modules=("fluidsynth",),
    ),
    SoundSource(
        name="rumpf-kit",
        title="rumpf_kit_z01 drum samples",
        plays=("drums",),
        install="apt install hydrogen-drumkits",
        files=(f"{_KITS}/rumpf_kit_z01_h2",),
        licence="CC-BY-3.0",
        credit="rumpf_kit_z01 by Emanuel Rumpf, 2012",
        proof=("README.txt", "License is CC-BY"),
    ),
    SoundSource(
        name="nitech-f001",
        title="Nitech Japanese singing voice NIT SONG070 F001",
        plays=("voice",),
        install="pip install pysinsy pyworld",
        files=("pysinsy:htsvoice/nitech_jp_song070_f001.htsvoice",),
        licence="CC-BY-3.0",
        credit="NIT SONG070 F001, released by the HTS Working Group; "
        "Copyright (c) 2004-2015 Nagoya Institute of Technology, Department of Computer Science",
        modules=("pysinsy", "pyworld"),
        proof=("COPYING", "Creative Commons Attribution 3.0"),
    ),
    _kit(
        "Audiophob",
        "CC0-1.0",
        "soundcloud.com/audiophobdubstep",
        withheld="its file names are those of Freesound uploads by other people, whose own licences are not told",
    ),
    _kit("BJA_Pacific", "CC-BY-SA-3.0-US", "Luc Tanguay, Bransin James Anderson"),
    _kit("circAfrique v4", "CC-BY-SA-3.0", "Jim Harney"),
    _kit("ColomboAcousticDrumkit", "GPL-2.0-or-later", "Marcos Guglielmetti"),
    _kit("ElectricEmpireKit", "GPL-2.0-or-later", "Artemiy Pavlov"),
    _kit("HardElectro1", "GPL-2.0-or-later", "Artemiy Pavlov"),
    _kit("VariBreaks", "GPL-2.0-or-later", "Artemiy Pavlov"),
    _kit("ForzeeStereo", "GPL-2.0-only", "Vladimir Sadovnikov, Alexander Belokurov"),
    _kit("Gimme A Hand 1.0", "GPL-2.0-only", "Glen MacArthur"),
    _kit("The Black Pearl 1.0", "GPL-2.0-only", "Glen MacArthur"),
    _kit("Millo-Drums_v.1", "GPL-2.0-only", "Emiliano Grilli"),
    _kit("Millo_MultiLayered2", "GPL-2.0-only", "Emiliano Grilli"),
    _kit("Millo_MultiLayered3", "GPL-2.0-only", "Emiliano Grilli"),
)


def installed() -> tuple[SoundSource, ...]:
    """The sources of `SOURCES` that may be used and are here, in the table's order."""
    return tuple(source for source in SOURCES if not source.refusal())


def fingerprints(sources: Sequence[SoundSource]) -> tuple[str, ...]:
    """What tells these sounds from others, one word a source.

    Raises UsageError where there is none, or one cannot be read.
    """
    if not sources:
        raise UsageError(
            "no sampled sounds are installed here: `iseparate data sounds` says which there are and how to install "
            "them; or let the band play its own sounds"
        )
    try:
        return tuple(source.fingerprint() for source in sources)
    except OSError as error:
        raise UsageError(
            f"the sounds in {error.filename} cannot be read ({error.strerror}); install their package anew"
        ) from error


def unplayed(sources: Sequence[SoundSource]) -> str:
    """A sentence on the parts that none of the sources plays; empty: they play all."""
    parts: tuple[Part, ...] = ("instruments", "drums", "voice")
    missing = [part for part in parts if not any(part in source.plays for source in sources)]
    if not missing:
        return ""
    return (
        f"no sampled sounds are here for {' and '.join(missing)}, where the band's own play alone; "
        "`iseparate data sounds` says what to install"
    )


@cache
def named(words: tuple[str, ...]) -> tuple[SoundSource, ...]:
    """The sources of those `fingerprints`. Raises UsageError where one is not here any more, or is another one."""
    here = dict(zip(fingerprints(found), found, strict=True)) if (found := installed()) else {}
    for word in words:
        if word not in here:
            raise UsageError(
                f"the songs were begun with the sounds {word}, and here there is {', '.join(here) or 'none'}; "
                "install the same sounds, or begin another folder"
            )
    return tuple(here[word] for word in words)


def notice(used: Sequence[dict[str, str]]) -> str:
    """The text that credits sounds; each of `used` is a source's `credit_line`, or `OWN_SOUNDS`."""
    lines = []
    for sound in used:
        address = ALLOWED_LICENCES.get(sound["licence"])
        licence = f"{sound['licence']} ({address})" if address else sound["licence"]
        lines.append(f"- {sound['name']}: {licence}; {sound.get('credit', 'unknown')}")
    return "\n".join(
        ["Songs made by rule by iseparate's synthetic band. Sounds that were used, and their licences:", "", *lines, ""]
    )


def _located(file: str) -> Path | None:
    package, colon, inside = file.partition(":")
    if file.startswith("/") or not colon:
        return Path(file)
    folder = package_folder(package)
    return None if folder is None else folder / inside


def package_folder(package: str) -> Path | None:
    """Where a Python package lies; it is not imported. None: it is not installed."""
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


@cache
def _imports(module: str) -> bool:
    if module == "fluidsynth":  # it looks for the library when it is imported
        try:
            importlib.import_module(module)
        except (ImportError, OSError, AttributeError):
            return False
        return True
    return package_folder(module) is not None
