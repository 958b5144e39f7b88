#!/usr/bin/env bash
# Set up what is missing and run linter, type check and tests: bash tools/test.sh [pytest arguments]
#
# The tests of the demo's page drive a real browser, Debian's chromium and chromium-driver: they are installed where
# this runs as root, and have to be there otherwise.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$(bash tools/setup.sh)
if ! { command -v chromium && command -v chromedriver; } >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "[test] installing chromium and chromium-driver" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update >&2 && apt-get -qq install -y --no-install-recommends chromium chromium-driver >&2
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
"$python" -m ruff check .
"$python" -m ruff format --check --quiet .
"$python" -m mypy
# Two workers with a core each: threads that wait for work would take the core that another one needs.
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
# One that dies ends the run, which would stand still at its end otherwise.
exec "$python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 "$@"
