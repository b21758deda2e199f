#!/usr/bin/env bash
# Make a virtual environment, or say in one sentence what is missing.
set -euo pipefail
python=$1 venv=$2

if ! command -v "$python" >/dev/null; then
    echo "error: there is no $python here; install Python 3.11 or newer, or name it with PYTHON=" >&2
    exit 1
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: $python is Python $version; iseparate needs 3.11 or newer (name another with PYTHON=)" >&2
    exit 1
fi
# Debian ships venv apart from Python; without it `python -m venv` leaves half an environment behind.
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    echo "error: $python lacks venv; on Debian or Ubuntu: apt-get install python$version-venv" >&2
    exit 1
fi
echo "Making $venv with Python $version..."
"$python" -m venv "$venv" || { rm -rf "$venv"; exit 1; }
