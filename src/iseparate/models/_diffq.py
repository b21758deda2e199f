"""Weights that DiffQ has quantised, as numbers again.

Facts: PyPI package diffq 0.1.1 (A. Défossez, CC BY-NC 4.0; no code of it is used). Its state has no names: the
parameters come in the order of the network's modules, the large ones under ``quantized``, the others under ``others``
(or ``float16``). A quantised one is a triple: levels of ``[groups, 8]``, the least and greatest value of the whole
parameter, and the bits of each group ``[groups, 1]``; a level of b bits stands for ``least + (greatest - least) *
level / (2^b - 1)``. With the same number of bits everywhere (quantisation-aware training) there is no third part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor

from iseparate.errors import CheckpointError


def is_quantised(content: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether this is a state as DiffQ writes it, out of its compression."""
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in ("quantized", "others"))


def small_tensors(content: Mapping[str, Any]) -> list[Tensor]:
    """The parameters that were left as they are, in order."""
    small = [*content["others"], *(content.get("float16") or ())]
    if not all(isinstance(tensor, Tensor) for tensor in small):
        raise CheckpointError("the quantised state holds something else than tensors; it is damaged: fetch it again")
    return small


def unquantised(
    content: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], bits: int | None = None
) -> dict[str, Tensor]:
    """The tensors by name.

    Args:
        content: what `is_quantised`.
        shapes: of all parameters, in the order of the network's modules.
        bits: where no group says its own.

    Raises:
        CheckpointError: it does not have these parameters, or is packed in a way that is not read here.
    """
    if content.get("meta"):
        raise CheckpointError("the quantised state is packed as later versions of DiffQ do, which is not read here")
    small, large = small_tensors(content), list(content["quantized"])
    state: dict[str, Tensor] = {}
    # Which are large goes by a threshold that the file does not tell. It need not: equal shapes are on the same side.
    for name, shape in shapes.items():
        if small and tuple(small[0].shape) == tuple(shape):
            state[name] = small.pop(0)
        elif large and _count(large[0]) == math.prod(shape):
            state[name] = _values(name, large.pop(0), bits).view(*shape)
        else:
            raise CheckpointError(f"the quantised state has no {name} of shape {list(shape)} in its place")
    if small or large:
        raise CheckpointError(f"the quantised state holds {len(small) + len(large)} tensors more than the network")
    return state


def _count(item: Any) -> int | None:
    match item:
        case (Tensor() as levels, *_):
            return levels.numel()
    return None


def _values(name: str, item: Any, same_bits: int | None) -> Tensor:
    match item:
        case (Tensor() as levels, (float() | int() as least, float() | int() as greatest), Tensor() as bits):
            pass
        case (Tensor() as levels, (float() | int() as least, float() | int() as greatest)) if same_bits:
            bits = torch.tensor([[same_bits]])
        case _:
            raise CheckpointError(f"{name} is not quantised in a way that is known; expected levels, range and bits")
    exact = not (levels.is_floating_point() or bits.is_floating_point() or levels.is_complex() or bits.is_complex())
    fits = bits.ndim == 2 and bits.shape[1] == 1 and (len(bits) == 1 or (levels.ndim == 2 and len(bits) == len(levels)))
    if not exact or not fits or not math.isfinite(least) or not math.isfinite(greatest) or least > greatest:
        raise CheckpointError(f"{name} is quantised with bits or a range that cannot be; it is damaged: fetch it again")
    steps = 2.0 ** bits.float() - 1
    if bits.min() < 1 or bits.max() > 15 or levels.min() < 0 or (levels > steps).any():
        raise CheckpointError(f"{name} has levels that its bits do not have; it is damaged: fetch it again")
    return levels.float() * (1 / steps) * (greatest - least) + least
