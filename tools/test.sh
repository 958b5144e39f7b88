#!/usr/bin/env bash
# Set up what is missing and run linter, type check and tests: bash tools/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$(bash tools/setup.sh)
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
"$python" -m ruff check .
"$python" -m mypy
exec "$python" -m pytest "$@"
