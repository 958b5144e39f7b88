#!/usr/bin/env bash
# Create .venv with the locked versions of everything, once; a second run costs nothing.
#
#   bash tools/setup.sh        prints the Python interpreter to use (the only line on stdout)
#
# An active environment (virtualenv, conda) in which Detectron2 and this package's requirements already
# import is used as it is: nothing is installed into it and nothing is replaced (callers put the repository on
# PYTHONPATH). PyPI's torch wheels hold the CUDA build on Linux, so a machine with a GPU gets CUDA; set PYTHON to
# choose the base interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '[setup] %s\n' "$*" >&2; }

if [ "${VIRTUAL_ENV:-}" != "$PWD/.venv" ] && [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] &&
    PYTHONPATH=. python -c 'import hyperclip, torchvision, geoopt, open_clip, safetensors, cv2, pycocotools, detectron2' \
        >/dev/null 2>&1; then
    say "using the active environment ($(python -c 'import sys; print(sys.prefix)')): it has Detectron2"
    python -c 'import sys; print(sys.executable)'
    exit 0
fi

venv=.venv
stamp="$venv/.installed"
wanted=$(cat setup.py requirements.lock tools/setup.sh tools/install_detectron2.py | sha256sum | cut -d' ' -f1)
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    base=${PYTHON:-python3}
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        say "Python >= 3.11 is needed, got $("$base" --version 2>&1). Set PYTHON=/path/to/python3.11"
        exit 1
    }
    say "creating $venv with $("$base" --version)"
    "$base" -m venv --clear "$venv"
fi
python="$PWD/$venv/bin/python"
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
    rm -f "$stamp"
    pip() { "$python" -m pip "$@" --disable-pip-version-check >&2; }
    # torch first and by exact version: a later resolution then keeps the build that was chosen.
    say "installing PyTorch"
    pip install -q -c requirements.lock torch torchvision "setuptools<82"
    say "installing the framework and its requirements"
    pip install -q -c requirements.lock --editable ".[dev,diffusion,demo,photos,formats,regions,bank,export,openvino,maps,serve]"
    say "installing Detectron2"
    "$python" tools/install_detectron2.py >&2
    pip check
    # What tests read results files with. These packages want an older OpenCV and pandas than ours, but
    # their readers work with ours: so they lie beside the others, where only tests look (tests/helpers/readers.py).
    say "installing readers of results files for the tests"
    rm -rf "$venv/readers"
    pip install -q -c requirements.lock --no-deps --target "$venv/readers" datumaro label-studio-sdk \
        imagesize json-stream json-stream-rs-tokenizer lxml
    echo "$wanted" >"$stamp"
    say "done"
fi
echo "$python"
