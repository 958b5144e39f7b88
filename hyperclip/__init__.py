"""HyperCLIP and the framework that it is built in: open-vocabulary semantic segmentation.

What is exported here is loaded when it is first used.
"""

import importlib
import importlib.abc
import sys
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

__all__ = sorted([*_EXPORTS, "__version__"])  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Lets torchvision be imported next to a CPU-only torch, whoever does it."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        """Find nothing; see :mod:`hyperclip.runtime.compat`."""
        if name == "torchvision":
            sys.meta_path.remove(self)
            from .runtime.compat import define_missing_torchvision_operators

            define_missing_torchvision_operators()


sys.meta_path.insert(0, _BeforeTorchvision())
