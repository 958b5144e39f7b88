"""What differs between machines: torchvision's operators, and what only some systems have.

PyPI's Linux wheels of torchvision link CUDA libraries. Next to a CPU-only torch they do not load,
and torchvision's import then fails over two operators that were never defined. Defining just their
schemas first lets the rest of torchvision work; the two still raise its own error when called.
"""

import contextlib
import functools
import importlib.util
import signal
import sys
from pathlib import Path

import torch


@functools.cache
def define_missing_torchvision_operators() -> torch.library.Library | None:
    """Define the schemas of torchvision's operators if its library cannot be loaded; they live as
    long as what this returns. None if the real operators are there.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    for library in sorted(Path(spec.origin).parent.glob("_C*.so")):
        with contextlib.suppress(OSError):
            torch.ops.load_library(str(library))
    if hasattr(torch.ops.torchvision, "nms"):
        return None
    fragment = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        fragment.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return fragment


def stop_signals() -> tuple[int, ...]:
    """The signals that tell a run to stop: SIGTERM and, except on Windows, Slurm's SIGUSR1."""
    return tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


def peak_resident_bytes() -> int:
    """Most memory that this process has held so far; 0 where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
