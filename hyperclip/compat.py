"""What has to be right before anything else is imported: torchvision's operators, and Detectron2.

PyPI's Linux wheels of torchvision link CUDA libraries. Next to a CPU-only torch they do not load, and
torchvision's import then fails while it registers fake kernels for two operators that were never defined.
Defining just their schemas first lets everything else of torchvision (transforms, models, datasets) work;
the two operators themselves still raise torchvision's own clear error when called.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_fragment: torch.library.Library | None = None


def define_missing_torchvision_operators() -> bool:
    """Define the schemas of torchvision's operators if its library cannot be loaded.

    Returns:
        True if the schemas had to be defined, False if the real operators are there (or torchvision is not).
    """
    global _fragment
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _fragment is not None:
        return _fragment is not None
    for library in sorted(Path(spec.origin).parent.glob("_C*.so")):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue
    if hasattr(torch.ops.torchvision, "nms"):
        return False
    _fragment = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS.values():
        _fragment.define(schema)
    return True


def require_detectron2() -> None:
    """Import Detectron2, or say how to install it.

    Raises:
        ImportError: Detectron2 is missing or broken.
    """
    try:
        import detectron2.config  # noqa: F401
    except Exception as error:
        raise ImportError(
            f"Detectron2 cannot be imported ({type(error).__name__}: {error}). Install it with `bash tools/setup.sh`, or "
            "from its own repository after torch: pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2"
        ) from error
