#!/usr/bin/env bash
# Install the pinned PyTorch. A wheel that pip already has at hand (find-links) wins over any index; without one,
# `cpu` takes PyTorch's own index of CPU builds, and nothing takes whatever pip's index has: on Linux a CUDA build
# of several gigabytes.
set -euo pipefail
python=$1 build=${2:-}
pin=$(grep '^torch==' constraints.txt)
pip=("$python" -m pip --disable-pip-version-check -qq)

if "${pip[@]}" install --no-index --no-deps "$pin" 2>/dev/null; then
    echo "Installed $pin from a wheel at hand."
    exit 0
fi
case $build in
cpu)
    echo "Installing the CPU build of $pin..."
    "${pip[@]}" install --index-url https://download.pytorch.org/whl/cpu "$pin"
    ;;
"")
    if [[ $(uname -s) == Linux ]] && ! command -v nvidia-smi >/dev/null; then
        echo "note: no NVIDIA GPU is seen here; TORCH=cpu fetches a PyTorch of 200 MB instead of several GB" >&2
    fi
    echo "Installing $pin..."
    "${pip[@]}" install "$pin"
    ;;
*)
    echo "error: TORCH is empty or cpu; got $build" >&2
    exit 1
    ;;
esac
