"""Separate one wav file with the official Spleeter 2.4.2 on TensorFlow, as a whole process to be measured.

    bench/.peers/spleeter/venv/bin/python bench/peers/spleeter_tensorflow.py INPUT.wav OUTDIR

Writes OUTDIR/vocals.wav and OUTDIR/accompaniment.wav, 16 bits. The separation is Spleeter's own
`Separator.separate` with default settings and TensorFlow's default threading. Only the files are read and
written by soundfile, where Spleeter would start one ffmpeg process to decode and one for each stem to encode:
ffmpeg may not be installed. That spares the peer those processes, and the worker pool that would wait for
them, so the comparison errs in its favour.

`bench/make_peers.py spleeter` makes the environment and lays out the weights; nothing is downloaded here.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

MODELS_DIR = Path(__file__).resolve().parent.parent / ".peers" / "spleeter" / "pretrained_models"
SAMPLE_RATE_HZ = 44100


def main(input_file: Path, output_dir: Path) -> None:
    if not (MODELS_DIR / "2stems" / ".probe").is_file():
        sys.exit(f"there are no weights in {MODELS_DIR}: run bench/make_peers.py spleeter first")
    os.environ["MODEL_PATH"] = str(MODELS_DIR)  # read by Spleeter when it is imported
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import soundfile
    from spleeter.separator import Separator

    waveform, sample_rate_hz = soundfile.read(input_file, dtype="float32", always_2d=True)
    if sample_rate_hz != SAMPLE_RATE_HZ:
        sys.exit(f"{input_file} is sampled at {sample_rate_hz} Hz: give this runner {SAMPLE_RATE_HZ} Hz")
    stems = Separator("spleeter:2stems", multiprocess=False).separate(waveform)
    output_dir.mkdir(parents=True, exist_ok=True)
    for name, stem in stems.items():
        soundfile.write(output_dir / f"{name}.wav", stem, SAMPLE_RATE_HZ, subtype="PCM_16")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: spleeter_tensorflow.py INPUT.wav OUTDIR")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
