"""Which files are asked of a model, and how each is made of its stems."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from iseparate.errors import UnknownStemError, UsageError
from iseparate.types import ModelSpec, Samples

NO_VOCALS_ALIASES = ("accompaniment", "instrumental", "no_vocals")
"""What people call a song without its singer."""


@dataclass(frozen=True)
class Output:
    """One output: the sum of `stems`, or the song without them."""

    name: str
    stems: tuple[str, ...]
    from_mix: bool = False

    def render(self, mix: Samples, stems: Mapping[str, Samples]) -> Samples:
        """``[C, n]`` out of the same stretch of the song and of its stems."""
        parts = [stems[name] for name in self.stems]
        if self.from_mix:
            return mix - sum(parts, np.zeros_like(mix))
        return parts[0] if len(parts) == 1 else np.sum(parts, axis=0, dtype=np.float32)


def resolve_outputs(
    spec: ModelSpec,
    stems: Sequence[str] | None = None,
    two_stems: str | None = None,
    residual: bool = False,
) -> tuple[Output, ...]:
    """The outputs for a request.

    Args:
        spec: of the model.
        stems: names to write; None: all. Accompaniment, instrumental and no_vocals are understood of any model
            that has vocals.
        two_stems: write this stem and ``no_<stem>`` instead.
        residual: also write ``residual``, what is left of the song when all stems are taken from it.

    Raises:
        UnknownStemError: a name the model has not, with the nearest it has.
        UsageError: nothing asked, or both `stems` and `two_stems`.
    """
    if two_stems is not None:
        if stems is not None:
            raise UsageError("--stems and --two-stems exclude each other; give one of them")
        one = _output(spec, two_stems)
        if one.name not in spec.stems:  # an alias: the same two, asked for from the other side
            one = Output("vocals", ("vocals",))
        outputs = [one, _without(spec, one)]
    elif stems is None:
        outputs = [Output(name, (name,)) for name in spec.stems]
    else:
        asked = [stems] if isinstance(stems, str) else stems
        outputs = [_output(spec, name) for name in dict.fromkeys(asked)]
    if residual:
        outputs.append(Output("residual", spec.stems, from_mix=True))
    if not outputs:
        raise UsageError(f"no stem was asked for; the model has {', '.join(spec.stems)}")
    return tuple({output.name: output for output in outputs}.values())


def output_named(spec: ModelSpec, name: str) -> Output | None:
    """The output that an earlier request wrote under that name; None where the model has none such."""
    if name == "residual":
        return Output("residual", spec.stems, from_mix=True)
    of_stem = name.removeprefix("no_")
    if name != of_stem and of_stem in spec.stems:
        return _without(spec, Output(of_stem, (of_stem,)))
    return Output(name, (name,)) if name in spec.stems else None


def render(outputs: Sequence[Output], mix: Samples, stems: Mapping[str, Samples]) -> dict[str, Samples]:
    """Every output of a stretch of the song, by name."""
    return {output.name: output.render(mix, stems) for output in outputs}


def computed_stems(spec: ModelSpec, outputs: Sequence[Output]) -> tuple[str, ...]:
    """The stems that have to be computed for these outputs, in the spec's order."""
    return spec.needed_stems(tuple(stem for output in outputs for stem in output.stems))


def _output(spec: ModelSpec, name: str) -> Output:
    if name in spec.stems:
        return Output(name, (name,))
    if name in NO_VOCALS_ALIASES and "vocals" in spec.stems:
        own = next((stem for stem in spec.stems if stem in NO_VOCALS_ALIASES), None)
        return Output(own, (own,)) if own else _without(spec, Output("vocals", ("vocals",)))
    near = difflib.get_close_matches(name, spec.stems, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UnknownStemError(f"the model has no stem {name!r}, it has {', '.join(spec.stems)}{hint}")


def _without(spec: ModelSpec, output: Output) -> Output:
    """All of the song but `output`."""
    others = tuple(stem for stem in spec.stems if stem not in output.stems)
    name = f"no_{output.name}"
    # Adding up the others is free where they run anyway; taking the one from the song spares their networks.
    runs_anyway = set(spec.needed_stems(output.stems)) == set(spec.stems)
    return Output(name, others) if runs_anyway else Output(name, output.stems, from_mix=True)
