"""From a config to a model with weights."""

from .runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import difflib
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_model

from . import meta_arch  # noqa: F401  (registers HyperCLIP)
from .adapters import merge
from .checkpoints import StrictCheckpointer, require_weights
from .data.example_files import ExampleFiles, read_folder
from .data.resizing import ResizeShortestEdge
from .runtime.files import local_path
from .runtime.precision import Precision
from .segmenter import Segmenter
from .stages import Example, encode_example, with_examples, with_stages
from .wrapper import unwrapped


def build_system(cfg: CfgNode) -> Segmenter:
    """The system that a config names, on its device, without a checkpoint; raises what
    :func:`check_system` and the system's ``from_config`` do.
    """
    check_system(cfg)
    return build_model(cfg)


def load_model(cfg: CfgNode, merged: bool = True) -> Segmenter:
    """The system of a config in evaluation mode, with its weights in float32 and the stages of
    :func:`hyperclip.stages.build_stages`, whose examples it sees in TEST.PRECISION; raises as
    :func:`load_system` and :meth:`Precision.of`.
    """
    examples = find_examples(cfg)
    system = load_system(cfg, merged=False)
    model = with_stages(system, cfg)  # which look at the weights as they were trained
    if merged:
        merge(system)
    with Precision.of(cfg.TEST.PRECISION, system).computing():
        return staged(model, cfg, examples)


def find_examples(cfg: CfgNode) -> list[ExampleFiles]:
    """The files of TEST.EXAMPLES.FOLDER, checked; raises as :func:`read_folder`."""
    folder, limits = cfg.TEST.EXAMPLES.FOLDER, (cfg.INPUT.IMAGE_BITS, cfg.INPUT.MAX_PIXELS)
    return read_folder(local_path(folder), *limits) if folder else []


def staged(
    system: Segmenter, cfg: CfgNode, examples: Sequence[ExampleFiles] | None = None
) -> Segmenter:
    """A system with weights, with the stages of a config unless it has them, and with its examples
    as it sees them now; itself where the config names neither.
    """
    files = find_examples(cfg) if examples is None else examples
    model = with_stages(system, cfg)
    return with_examples(model, [_encoded(unwrapped(model), cfg, x) for x in files])


def _encoded(system: Segmenter, cfg: CfgNode, files: ExampleFiles) -> Example:
    image, mask = files.read(cfg.INPUT.IMAGE_BITS, cfg.INPUT.MAX_PIXELS)
    sizes = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    resized = ResizeShortestEdge(*sizes).get_transform(image).apply_image(image)
    tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
    covered, takes = torch.from_numpy(mask), cfg.TEST.EXAMPLES.TAKE
    return encode_example(system, tensor, covered, files.name, files.words, takes)


def load_system(cfg: CfgNode, merged: bool = True) -> Segmenter:
    """The system of a config in evaluation mode, with its weights and, if ``merged``, its adapters
    in them, which only makes it faster.

    Raises FileNotFoundError or ValueError as :func:`build_system` and the checkpoint loader.
    """
    model = build_system(cfg)
    require_weights(cfg, model)
    StrictCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    model.eval()
    if merged:
        merge(model)
    return model


def check_system(cfg: CfgNode) -> None:
    """ValueError unless MODEL.META_ARCHITECTURE is registered and the machine has MODEL.DEVICE."""
    name = cfg.MODEL.META_ARCHITECTURE
    systems = sorted(registered_systems())
    if name not in systems:
        near = " or ".join(difflib.get_close_matches(name, systems, n=1) or systems)
        raise ValueError(
            f"MODEL.META_ARCHITECTURE: got {name!r}, expected one of {systems}. Did you mean "
            f"{near}? A system of another package is there once that package is imported: IMPORTS "
            "names its module"
        )
    check_device(cfg.MODEL.DEVICE)


def check_device(name: str) -> None:
    """ValueError unless this machine has a device of this name."""
    reason = ""
    try:
        device = torch.device(name)
        reason = ", which this machine or this torch does not have"
        if device.type == "cuda":
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            reason = f", but torch sees {count} GPUs here"
            if (device.index or 0) >= count:
                raise RuntimeError("no such GPU")
        else:
            torch.zeros(1, device=device).item()
    except Exception as error:  # torch without that device raises errors of many kinds
        raise ValueError(
            f"MODEL.DEVICE: got {name!r}{reason}, expected cpu, cuda, cuda:N, or another device of "
            "torch. Set MODEL.DEVICE cpu to go on without a GPU"
        ) from error


def registered_systems() -> dict[str, type[Segmenter]]:
    """Every system that a config can name."""
    return {
        name: system
        for name, system in META_ARCH_REGISTRY
        if isinstance(system, type) and issubclass(system, Segmenter)
    }
