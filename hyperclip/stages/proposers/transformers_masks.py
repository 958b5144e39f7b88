"""What the mask models of transformers have in common: loading, and masks that are nearly the same.

Shapes: R masks, h w grid.
"""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ...runtime.extras import how_to_install
from ...runtime.files import local_name

KEY = "TEST.REGIONS.MODEL"
INSTALL = how_to_install("regions")


def load_masks(
    source: str, kinds: Sequence[str], classes: tuple[str, str], example: str
) -> tuple[nn.Module, Any]:
    """A model in evaluation mode and its processor, of a folder or of the Hugging Face hub.

    Args:
        source: the folder, or the hub id. kinds: the model types that are accepted.
        classes: of transformers, of the model and of the processor. example: a source.
    Raises:
        ValueError: no source, or a model of another type. ModuleNotFoundError: no transformers.
        FileNotFoundError: the folder lacks something, or the hub is not reached.
    """
    if not source:
        raise ValueError(
            f"{KEY}: got '', expected a folder of transformers or a hub id ({example})"
        )
    if importlib.util.find_spec("transformers") is None:
        needs = f"TEST.REGIONS.NAME: {kinds[0]} needs the package transformers"
        raise ModuleNotFoundError(f"{needs}. Install it: {INSTALL}")
    import transformers

    name = local_name(source)
    config = _loaded(lambda: transformers.AutoConfig.from_pretrained(name), source, example)
    if config.model_type not in kinds:
        got = f"got {source!r}, a model of type {config.model_type!r}"
        raise ValueError(f"{KEY}: {got}, expected {' or '.join(map(repr, kinds))} ({example})")
    model_class, processor_class = (getattr(transformers, name) for name in classes)
    model = _loaded(lambda: model_class.from_pretrained(name), source, example)
    processor = _loaded(lambda: processor_class.from_pretrained(name), source, example)
    return model.eval().requires_grad_(False), processor


def _loaded(load: Callable[[], Any], source: str, example: str) -> Any:
    try:
        return load()
    except Exception as error:  # network trouble and damaged files raise errors of many kinds
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise FileNotFoundError(
            f"{KEY}: {source!r} is no folder with config.json, preprocessor_config.json and "
            f"model.safetensors, nor in the local cache, and the download failed ({reason}). "
            f"Without a network, copy these three files of a model such as {example} into a folder"
        ) from error


def distinct(masks: Tensor, quality: Tensor, most: float) -> Tensor:
    """Which of masks, bool (R, h, w), stay, int64: from the best quality (R,) on, each whose IoU
    with all that stay is at most ``most``. Empty masks do not stay.
    """
    flat = masks.flatten(1).float()
    shared = flat @ flat.T
    areas = shared.diagonal()
    ious = shared / (areas[:, None] + areas - shared).clamp_min(1)
    alike = (ious > most).cpu()
    stay: list[int] = []
    for index in quality.argsort(descending=True, stable=True).tolist():
        if areas[index] and not alike[index, stay].any():
            stay.append(index)
    return quality.new_tensor(stay).long()
