"""Exported models in onnxruntime, in OpenVINO and as programs of torch.export, against the Python
model.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from hyperclip import Predictor
from hyperclip.adapters import merge
from hyperclip.export import FORMATS, ExportOptions, export_folder
from hyperclip.vocabulary import builtin
from PIL import Image

from speed.inference import LISTS
from speed.measuring import Row, Settings, compare
from speed.models import build_hyperclip

DEMO = Path(__file__).resolve().parents[1] / "demo/onnx_demo.py"
RUNTIMES = ("onnxruntime", "openvino", "torch.export")


def exported(settings: Settings) -> list[Row]:
    """Rows for images in windows, of names whose embeddings are known to all, by each runtime; on
    the CPU.
    """
    settings = replace(settings, device=torch.device("cpu"), precision=torch.float32)
    cases = {"voc20": (96, 96)} if settings.smoke else LISTS
    titles = {
        (words, runtime): f"{len(builtin(words))} classes, {size[0]} px, windows, {runtime}"
        for words, size in cases.items()
        for runtime in RUNTIMES
    }
    if not any(settings.only in title for title in titles.values()):
        return []
    small = ("MODEL.SEM_SEG_HEAD.NUM_LAYERS", "1") if settings.smoke else ()
    cfg, model = build_hyperclip(settings, "TEST.SLIDING_WINDOW", "True", *small)
    merge(model)
    sizes = {"shortest": cfg.INPUT.MIN_SIZE_TEST, "longest": cfg.INPUT.MAX_SIZE_TEST}
    predictor, demo, rows = Predictor(model, **sizes), _demo(), []
    with tempfile.TemporaryDirectory() as place:
        export_folder(model, cfg, Path(place) / "out", ExportOptions(tuple(FORMATS)))
        for (words, runtime), title in titles.items():
            own = _model(demo, Path(place) / "out", runtime)
            height, width = cases[words]
            noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
            obvious, ours = _ways(predictor, own, noise, words)
            rows += compare("export", title, obvious, ours, settings)
    return rows


def _demo() -> ModuleType:
    """demo/onnx_demo.py as a module."""
    spec = importlib.util.spec_from_file_location("onnx_demo", DEMO)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _model(demo: ModuleType, folder: Path, runtime: str) -> Any:
    """An exported folder's model, run by one of ``RUNTIMES``."""
    threads = torch.get_num_threads()
    if runtime in demo.RUNTIMES:
        return demo.Model(folder, threads, runtime)
    model = demo.Model(folder, threads)
    parts = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["parts"]
    for name in ("image", "head"):
        setattr(model, name, _program(demo, folder / f"{name}.pt2", parts[name]))
    return model


def _program(demo: ModuleType, path: Path, part: dict[str, Any]) -> Any:
    """A .pt2 file as one of the demo's programs."""
    module: Any = torch.export.load(path).module()

    @torch.no_grad()
    def run(values: dict[str, np.ndarray]) -> list[np.ndarray]:
        found = module(*map(torch.from_numpy, values.values()))
        return [value.numpy() for value in ([found] if torch.is_tensor(found) else found)]

    return demo.Program(list(part["inputs"]), part["outputs"], run)


def _ways(
    predictor: Predictor, exported_model: Any, pixels: np.ndarray, words: str
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The whole prediction of an image in Python, and by the exported files."""
    vocabulary, image = builtin(words), Image.fromarray(pixels)
    classes = [list(synonyms) for synonyms in vocabulary.classes]
    text, owners = exported_model.embed(classes)

    def obvious() -> dict[str, torch.Tensor]:
        found = predictor.segment(predictor.encode(pixels), vocabulary)
        return _answer(found.labels, found.confidence)

    def ours() -> dict[str, torch.Tensor]:
        scores, labels = exported_model.segment(image, classes, text, owners)
        return _answer(labels, scores.max(axis=0))

    return obvious, ours


def _answer(labels: np.ndarray, confidence: np.ndarray) -> dict[str, torch.Tensor]:
    return {
        "sem_seg_labels": torch.from_numpy(labels.astype(np.int64)),
        "sem_seg_confidence": torch.from_numpy(np.asarray(confidence, np.float32)),
    }
