"""Separate one wav file with openunmix 1.3.0, as a whole process to be measured.

    bench/.peers/openunmix/venv/bin/python bench/peers/openunmix_torch.py make FOLDER
    bench/.peers/openunmix/venv/bin/python bench/peers/openunmix_torch.py separate FOLDER INPUT.wav OUTPUT.npy

The first writes random weights of umxhq's size in openunmix's own format, the second separates with them and prints
the seconds that `Separator` itself took, as JSON. Files are read and written by soundfile and NumPy in place of
torchaudio. `bench/make_peers.py openunmix` makes the environment.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from openunmix.model import OpenUnmix
from openunmix.utils import load_separator

TARGETS = ("vocals", "drums", "bass", "other")


def make(folder: Path) -> None:
    """Random weights, lively enough that every part of the network matters."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    for target in TARGETS:
        network = OpenUnmix(nb_bins=2049, nb_channels=2, hidden_size=512, max_bin=1487)
        state = network.state_dict()
        for name, tensor in state.items():
            if name.endswith(("running_var", "scale")) or (name.startswith("bn") and name.endswith("weight")):
                tensor.uniform_(0.5, 1.0)
            elif name.startswith(("bn", "input_mean", "output_mean")) and tensor.is_floating_point():
                tensor.uniform_(-0.3, 0.3)
            elif tensor.ndim == 2:
                tensor.normal_(0, tensor.shape[1] ** -0.5)
        torch.save(state, folder / f"{target}.pth")
        arguments = {"nfft": 4096, "nhop": 1024, "nb_channels": 2, "hidden_size": 512}
        (folder / f"{target}.json").write_text(json.dumps({"args": arguments}))
    (folder / "separator.json").write_text(
        json.dumps({"nfft": 4096, "nhop": 1024, "sample_rate": 44100, "nb_channels": 2})
    )


def separate(folder: Path, song: Path, output: Path) -> None:
    """The released models' settings: one EM step, no residual, 300 frames at a time."""
    separator = load_separator(str(folder), targets=list(TARGETS), niter=1, residual=False, pretrained=True)
    separator.freeze()
    audio, _ = soundfile.read(song, dtype="float32", always_2d=True)
    mix = torch.from_numpy(audio.T.copy())[None]
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.no_grad():
        stems = separator(mix)
    print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}))
    np.save(output, stems[0].numpy())


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"] and len(sys.argv) == 3:
        make(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["separate"] and len(sys.argv) == 5:
        separate(*map(Path, sys.argv[2:]))
    else:
        sys.exit("usage: openunmix_torch.py make FOLDER | separate FOLDER INPUT.wav OUTPUT.npy")
