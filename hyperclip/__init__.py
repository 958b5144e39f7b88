"""HyperCLIP and the framework that it is built in: open-vocabulary semantic segmentation.

What is exported here is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "Predictor": "predictor",
    "Question": "segmenter",
    "Vocabulary": "vocabulary",
    "add_hyperclip_config": "config",
    "load_config": "config",
}
"""The module of each exported name."""

__all__ = [
    "Predictor",
    "Question",
    "Vocabulary",
    "__version__",
    "add_hyperclip_config",
    "load_config",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
