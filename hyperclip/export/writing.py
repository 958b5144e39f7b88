"""Writing an exported model: its parts in each format, the tokenizer, and a manifest."""

import hashlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from .. import __version__
from ..adapters import adapter_names, adapters
from ..clip.text_tower import text_tower
from ..export_parts import Part, SystemParts, parts_of
from ..pretrained.clip_folder import require_free
from ..pretrained.saving import new_folder
from ..runtime.extras import how_to_install
from ..segmenter import Segmenter
from ..vocabulary import Vocabulary, load_vocabulary
from .text import text_part, tokenizer_entry, write_tokenizer

MANIFEST = "manifest.json"
SCHEMA = 1
OPSET = 18
LARGE = 1_800_000_000
"""Bytes of weights from which an ONNX file keeps them in a second file; one holds 2 GB at most."""
MOST = 2**20
"""Of a size that may be any."""
INSTALL = how_to_install("export")
STAGES = {
    "TEST.REFINER.NAME": "none",
    "TEST.REGIONS.NAME": "none",
    "TEST.BANK.FILE": "",
    "TEST.EXAMPLES.FOLDER": "",
    "TEST.PRUNE": 0.0,
    "TEST.AUG.ENABLED": False,
}
"""Keys of what is around a system, and their values that mean nothing is."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportOptions:
    """What is written: ``formats`` of ``FORMATS``, and ``names``, the vocabulary of who gives
    none.
    """

    formats: tuple[str, ...]
    names: Vocabulary | None = None


def check_config(cfg: CfgNode) -> None:
    """ValueError for a config with stages or views, which are not in the files; before weights are
    read. ModuleNotFoundError without the extra.
    """
    for key, off in STAGES.items():
        node: Any = cfg
        for name in key.split("."):
            node = node[name]
        if node != off:
            raise ValueError(
                f"{key}: got {node!r}, which cannot be exported: the files hold the system alone. "
                f"Set it to {off!r}"
            )
    for name in ("onnx", "onnxscript"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"the package {name} is not installed. Install it: {INSTALL}")


def export_folder(
    model: Segmenter, cfg: CfgNode, folder: Path, options: ExportOptions
) -> dict[str, Any]:
    """Write a config's model, adapters merged, as a new folder, in full or not at all; the
    manifest.

    Raises:
        ValueError: adapters that are not merged, or what cannot be exported: a system, head, tower.
        FileExistsError: a folder that holds something. OSError: it cannot be written.
    """
    require_free(folder)
    if left := sorted({type(own).__name__ for _, own in adapters(model)}):
        raise ValueError(
            f"export: the model has adapters that are not merged ({', '.join(left)}). Load it with "
            "merged=True"
        )
    parts = parts_of(model)
    all_parts = {"image": parts.image, "head": parts.head, "text": text_part(model.clip)}
    manifest = manifest_of(model, cfg, parts, options)
    target = folder.resolve()
    if target.is_dir():
        target.rmdir()  # empty, and made anew in one go
    with new_folder(target) as new:
        assert model.text is not None
        write_tokenizer(model.text.tokenizer, new)
        manifest["parts"] = {}
        for name, part in all_parts.items():
            manifest["parts"][name] = write_part(part, name, new, options.formats)
        files = sorted(path for path in new.iterdir() if path.is_file())
        manifest["files"] = {
            path.name: {"bytes": path.stat().st_size, "sha256": digest(path)} for path in files
        }
        text = json.dumps(manifest, ensure_ascii=False, indent=1) + "\n"
        (new / MANIFEST).write_text(text, encoding="utf-8")
    return manifest


def manifest_of(
    model: Segmenter, cfg: CfgNode, parts: SystemParts, options: ExportOptions
) -> dict[str, Any]:
    """All that the manifest says but files and parts; ValueError for a tokenizer that has none."""
    assert model.text is not None
    tower = text_tower(model.clip)
    names = options.names
    if names is None and cfg.MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON:
        names = load_vocabulary(cfg.MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON)
    told = model.describe()
    return {
        "schema": SCHEMA,
        "system": told.system,
        "backbone": Path(told.backbone).name,
        "precision": "float32",
        "adapters_merged": adapter_names(cfg.MODEL.SEM_SEG_HEAD.CLIP_FINETUNE),
        "trained_on": list(model.trained_on),
        "preprocessing": {
            "shortest": cfg.INPUT.MIN_SIZE_TEST,
            "longest": cfg.INPUT.MAX_SIZE_TEST,
            "mean": model.pixel_mean.flatten().tolist(),
            "std": model.pixel_std.flatten().tolist(),
        },
        "inference": dict(parts.inference),
        "equals": parts.equals,
        "embed_dim": parts.head.inputs["text"].shape[1],
        "tokenizer": tokenizer_entry(model.text.tokenizer, tower.context_length),
        "templates": list(model.text.templates),
        "synonyms": model.text.typed,
        "default_names": [] if names is None else [list(synonyms) for synonyms in names.classes],
        "versions": {
            "hyperclip": __version__,
            **{name: version(name) for name in ("torch", "onnx", "onnxscript")},
            "opset": OPSET,
        },
    }


def write_part(part: Part, name: str, folder: Path, formats: tuple[str, ...]) -> dict[str, Any]:
    """Write a part in each format; what the manifest says of it. ValueError if torch cannot."""
    # contiguous: of a view of a larger tensor torch notes the sizes of that one, too
    layout = torch.contiguous_format
    inputs = tuple(value.clone(memory_format=layout) for value in part.inputs.values())
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                part.module, inputs, dynamic_shapes=_dynamic_shapes(part), strict=False
            )
            for kind in formats:
                FORMATS[kind](program, part, folder / f"{name}{SUFFIXES[kind]}")
    except OSError:
        raise
    except Exception as error:  # torch raises errors of many kinds
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(
            f"export: the {name} part ({type(part.module).__name__}) cannot be exported: {reason}"
        ) from error
    return {"inputs": _input_shapes(part), "outputs": list(part.outputs)}


def _dynamic_shapes(part: Part) -> tuple[dict[int, Any] | None, ...]:
    """The axes of any size of each input, as torch.export takes them."""
    sizes: dict[str, Any] = {}
    shapes = []
    for key in part.inputs:
        axes: dict[int, Any] = {}
        for axis, (name, factor) in part.dynamic.get(key, {}).items():
            limit = part.limits.get(name, MOST)
            size = sizes.setdefault(name, torch.export.Dim(name, max=limit))
            axes[axis] = size if factor == 1 else factor * size
        shapes.append(axes or None)
    return tuple(shapes)


def _input_shapes(part: Part) -> dict[str, list[int | str]]:
    """The sizes of each input; names stand for any, as "16 rows" for multiples."""
    shapes: dict[str, list[int | str]] = {}
    for key, example in part.inputs.items():
        shape: list[int | str] = list(example.shape)
        for axis, (name, factor) in part.dynamic.get(key, {}).items():
            shape[axis] = name if factor == 1 else f"{factor} {name}"
        shapes[key] = shape
    return shapes


def write_onnx(program: torch.export.ExportedProgram, part: Part, path: Path) -> None:
    """Write a program for onnxruntime."""
    weights = sum(value.numel() * value.element_size() for value in program.state_dict.values())
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.onnx.export(
        program,
        (),
        str(path),
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=list(part.inputs),
        output_names=list(part.outputs),
        external_data=weights > LARGE,
    )


def write_pt2(program: torch.export.ExportedProgram, part: Part, path: Path) -> None:
    """Write a program for torch.export.load."""
    torch.export.save(program, path)


FORMATS: dict[str, Callable[[torch.export.ExportedProgram, Part, Path], None]] = {
    "onnx": write_onnx,
    "pt2": write_pt2,
}
SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2"}


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
