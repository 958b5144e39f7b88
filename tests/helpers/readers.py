"""Other programs' readers of results files, which tools/setup.sh puts beside our packages."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

READERS = Path(sys.prefix) / "readers"


def reader(name: str) -> ModuleType:
    """The module ``name`` of datumaro or label-studio-sdk; skips where they are not installed."""
    if not READERS.is_dir():
        pytest.skip(f"no {READERS}: tools/setup.sh installs what reads these files")
    if str(READERS) not in sys.path:
        sys.path.append(str(READERS))  # behind our packages: ours are taken where both have one
    return importlib.import_module(name)
