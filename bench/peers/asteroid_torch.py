"""Networks of asteroid 0.7.0, each separation a whole process to be measured.

    bench/.peers/asteroid/venv/bin/python bench/peers/asteroid_torch.py make ConvTasNet WEIGHTS.pth
    bench/.peers/asteroid/venv/bin/python bench/peers/asteroid_torch.py separate WEIGHTS.pth MIX.npy OUTPUT.npy

The first writes random weights as asteroid serializes them, of its classes' default sizes for two speakers; the other
classes are DPRNNTasNet and LSTMTasNet. The second separates by its `separate`, which also sets the level.
`bench/make_peers.py asteroid` makes the environment.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import torch
from asteroid import models
from asteroid.separate import torch_separate
from measured import measured


def make(system: str, weights: Path) -> None:
    """As the classes draw them; norms made lively enough to matter."""
    torch.manual_seed(0)
    network = getattr(models, system)(n_src=2)
    for name, parameter in network.named_parameters():
        if name.endswith(("gamma", "beta")):
            parameter.data += torch.empty_like(parameter).uniform_(-0.3, 0.3)
    # serialize() notes the version of Lightning, which is not needed otherwise and not there.
    sys.modules["pytorch_lightning"] = types.SimpleNamespace(__version__="none")  # type: ignore[assignment]
    torch.save(network.serialize(), weights)


def separate(weights: Path, song: Path, output: Path) -> None:
    """One channel, ``[1, T]`` -> ``[S, 1, T]``."""
    content = torch.load(weights, weights_only=False)
    network = getattr(models, content["model_name"]).from_pretrained(content).eval()
    mix = torch.from_numpy(np.load(song))[None]
    stems = measured(
        lambda: torch_separate(network, mix[..., : mix.shape[-1] // 10]), lambda: torch_separate(network, mix)
    )
    np.save(output, stems[0, :, None].numpy())


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"] and len(sys.argv) == 4:
        make(sys.argv[2], Path(sys.argv[3]))
    elif sys.argv[1:2] == ["separate"] and len(sys.argv) == 5:
        separate(*map(Path, sys.argv[2:]))
    else:
        sys.exit("usage: asteroid_torch.py make CLASS WEIGHTS.pth | separate WEIGHTS.pth MIX.npy OUTPUT.npy")
