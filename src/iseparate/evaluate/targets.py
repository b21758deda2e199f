"""What is scored of a track, and what is scored together: museval's rule.

Scores that tell interference from artefacts depend on which sources are looked at jointly. museval (``eval_mus_track``
of github sigsep/sigsep-mus-eval at 0.4.1) scores all stems that have an estimate jointly; where there is an estimate
of the accompaniment too, vocals and accompaniment form a second scenario, and the vocals' figures are that one's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from iseparate.errors import AudioFormatError, AudioReadError
from iseparate.types import Samples

VOCALS, ACCOMPANIMENT, OTHER = "vocals", "accompaniment", "other"
_ALIASES = {"instrumental": ACCOMPANIMENT, "no_vocals": ACCOMPANIMENT}
_NAMED = {VOCALS, "drums", "bass", OTHER, ACCOMPANIMENT}


@dataclass(frozen=True)
class Target:
    """One thing that is scored: sums of the track's stems and of the estimates."""

    name: str
    stems: tuple[str, ...]
    """The reference is their sum."""
    estimates: tuple[str, ...]
    """The estimate is their sum."""
    is_rest: bool = False
    """True: the estimate is the mixture without that sum."""
    is_reported: bool = True

    def reference(self, stems: Mapping[str, Samples]) -> Samples:
        """``[C, T]`` of the track's stems."""
        return _sum(stems[name] for name in self.stems)

    def estimate(self, estimates: Mapping[str, Samples], mix: Samples) -> Samples:
        """``[C, T]`` of the estimates."""
        total = _sum(estimates[name] for name in self.estimates)
        return mix - total if self.is_rest else total


@dataclass(frozen=True)
class Plan:
    """The scenarios of one track."""

    scenarios: tuple[tuple[Target, ...], ...]
    """Each is scored jointly."""
    notes: tuple[str, ...]
    """A sentence for each choice that was not forced."""


def canonical(name: str) -> str:
    """The accompaniment has several names."""
    return _ALIASES.get(name, name)


def scoring_plan(stems: Sequence[str], estimates: Collection[str]) -> Plan:
    """Decide what is scored.

    Args:
        stems: of the track, without the mixture.
        estimates: canonical names.

    Raises:
        AudioReadError: there are no estimates.
        AudioFormatError: no estimate has a reference.
    """
    if not estimates:
        raise AudioReadError("there is no estimate to score")
    notes: list[str] = []
    # What a finer model tells apart and the data set does not.
    extra = [name for name in estimates if name not in stems and name not in _NAMED]
    if extra and OTHER in stems and OTHER in estimates:
        notes.append(f"the estimate of other is the sum of other, {', '.join(extra)}, as the track has no such stems")
    else:
        notes += [f"{name} was not scored: the track has no such stem" for name in extra]
        extra = []
    plain = [Target(name, (name,), (name, *extra) if name == OTHER else (name,)) for name in stems if name in estimates]
    accompaniment = _accompaniment(stems, estimates, plain)
    if VOCALS not in stems and VOCALS in estimates:
        notes.append("vocals were not scored: the track has none")
    scenarios: list[tuple[Target, ...]] = []
    if accompaniment and VOCALS in stems and VOCALS in estimates:
        vocals = next(target for target in plain if target.name == VOCALS)
        if len(plain) > 1:
            scenarios.append(tuple(_hidden(target) if target is vocals else target for target in plain))
        scenarios.append((vocals, accompaniment))
    elif accompaniment:
        if len(plain) > 1:
            scenarios.append(tuple(plain))
        scenarios.append(_with_rest(accompaniment, stems, notes) if len(plain) < 2 else (accompaniment,))
    elif len(plain) == 1:
        scenarios.append(_with_rest(plain[0], stems, notes))
    elif plain:
        scenarios.append(tuple(plain))
    if not scenarios:
        raise AudioFormatError(
            f"the estimates are {', '.join(estimates)} and the track's stems {', '.join(stems)}: none can be scored; "
            "choose a model and a data set that have a stem in common"
        )
    return Plan(tuple(scenarios), tuple(notes))


def _accompaniment(stems: Sequence[str], estimates: Collection[str], plain: Sequence[Target]) -> Target | None:
    """All but the vocals: the estimate of that name, else the sum of the estimates where none is missing."""
    others = tuple(name for name in stems if name != VOCALS)
    if ACCOMPANIMENT in stems or not others:
        return None  # it is a stem like any other
    if ACCOMPANIMENT in estimates:
        return Target(ACCOMPANIMENT, others, (ACCOMPANIMENT,))
    targets = [target for target in plain if target.name != VOCALS]
    if VOCALS in stems and len(others) > 1 and len(targets) == len(others):
        return Target(ACCOMPANIMENT, others, tuple(name for target in targets for name in target.estimates))
    return None


def _with_rest(target: Target, stems: Sequence[str], notes: list[str]) -> tuple[Target, ...]:
    """A lone target is scored against all else in the track, of which the estimate is what it leaves of the mixture."""
    others = tuple(name for name in stems if name not in target.stems)
    if not others:
        return (target,)
    rest = ACCOMPANIMENT if target.name == VOCALS else f"no_{target.name}"
    if target.name == ACCOMPANIMENT:
        rest = VOCALS
    notes.append(f"the estimate of {rest} is the mixture without the estimate of {target.name}")
    return target, Target(rest, others, target.estimates, is_rest=True)


def _hidden(target: Target) -> Target:
    return Target(target.name, target.stems, target.estimates, target.is_rest, is_reported=False)


def _sum(signals: Iterable[Samples]) -> Samples:
    first, *rest = signals
    if not rest:
        return first
    total = first.copy()
    for signal in rest:
        total += signal
    return np.asarray(total)
