"""Whether the tensors of a checkpoint are those of a network: strictly, and in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from iseparate.errors import CheckpointError


def check_fit(
    what: str,
    expected: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    may_miss: Callable[[str], bool] = lambda _: False,
) -> None:
    """Hold a checkpoint's tensors against a network's.

    Args:
        what: the checkpoint, as the error names it.
        expected: the network's state dict.
        state: the checkpoint's, under the network's names.
        may_miss: names that the checkpoint need not have.

    Raises:
        CheckpointError: tensors are missing, unexpected or of another shape; names the first five.
    """
    faults = [f"missing {name}" for name in expected if name not in state and not may_miss(name)]
    faults += [f"unexpected {name}" for name in state if name not in expected]
    faults += [
        f"{name} has shape {list(state[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise CheckpointError(f"{what} does not fit the network: {'; '.join(faults[:5])}{more}")
