#!/usr/bin/env bash
# Measure a GPU, in about eight minutes: that it gives what a CPU gives, then all speed tests in bfloat16 and float32.
#
#   bash tools/gpu_report.sh output/gpu [options of python -m speed]
#
# FOLDER gets test_cuda.txt, bfloat16.csv, float32.csv (each with the card's name), what was printed, and profile/, a
# table of the operations of each case. A part that fails or takes too long does not stop the others, and makes the
# script leave with 1. PYTHON chooses the interpreter, PATIENCE=2 gives every part twice its time,
# SUITES="infer train" measures these alone.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: bash tools/gpu_report.sh FOLDER [options of python -m speed]" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
failed=0

part() { # NAME SECONDS COMMAND…
    echo "[gpu_report] $1"
    timeout "$(($2 * ${PATIENCE:-1}))" "${@:3}" >"$folder/$1.txt" 2>&1 || { failed=1; echo "[gpu_report] $1 failed:"; tail -5 "$folder/$1.txt"; }
}

suites=${SUITES:-infer cliper train head text refine adapters evaluate precision}
part test_cuda 120 "$python" -m pytest -o addopts= -q -rs tests/test_cuda.py
for precision in bfloat16 float32; do
    # shellcheck disable=SC2086  (a word for each suite)
    part $precision 150 "$python" -m speed $suites --repeat 5 --precision $precision --csv "$folder/$precision.csv" "$@"
done
# shellcheck disable=SC2086
part profile 60 "$python" -m speed ${SUITES:-infer cliper train} --repeat 1 --precision bfloat16 --profile "$folder/profile" "$@"
echo "[gpu_report] written to $folder"
exit $failed
