"""Networks of demucs 2.0.3, each separation a whole process to be measured.

    bench/.peers/demucs-2/venv/bin/python bench/peers/demucs_torch.py make demucs|conv-tasnet WEIGHTS.th
    bench/.peers/demucs-2/venv/bin/python bench/peers/demucs_torch.py separate WEIGHTS.th MIX.npy OUTPUT.npy

The first writes random weights of the published sizes by demucs' own `save_model`; the second does what its program
does with a song, in one pass. `bench/make_peers.py demucs-2` makes the environment.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # packages hold a class; this one was just written here

import numpy as np
import torch
from demucs.model import Demucs
from demucs.tasnet import ConvTasNet
from demucs.utils import apply_model, load_model, save_model
from measured import measured

SOURCES = ["drums", "bass", "other", "vocals"]


def make(system: str, weights: Path) -> None:
    """As the classes draw them; norms made lively enough to matter."""
    torch.manual_seed(0)
    network = Demucs(SOURCES, channels=64) if system == "demucs" else ConvTasNet(SOURCES, X=10)
    for name, parameter in network.named_parameters():
        if name.endswith(("gamma", "beta")):
            parameter.data += torch.empty_like(parameter).uniform_(-0.3, 0.3)
    save_model(network, None, argparse.Namespace(diffq=0, qat=0), weights)


def separate(weights: Path, song: Path, output: Path) -> None:
    """The song's level is taken off before and put back after, as ``demucs.separate`` does."""
    network = load_model(weights).eval()
    mix = torch.from_numpy(np.load(song))

    def call(mix: torch.Tensor) -> torch.Tensor:
        mono = mix.mean(0)
        stems: torch.Tensor = apply_model(network, (mix - mono.mean()) / mono.std())
        return stems * mono.std() + mono.mean()

    stems = measured(lambda: call(mix[:, : mix.shape[1] // 10]), lambda: call(mix))
    np.save(output, stems.numpy())


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"] and len(sys.argv) == 4:
        make(sys.argv[2], Path(sys.argv[3]))
    elif sys.argv[1:2] == ["separate"] and len(sys.argv) == 5:
        separate(*map(Path, sys.argv[2:]))
    else:
        sys.exit("usage: demucs_torch.py make demucs|conv-tasnet WEIGHTS.th | separate WEIGHTS.th MIX.npy OUTPUT.npy")
