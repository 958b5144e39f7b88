"""Exported models in onnxruntime and as programs of torch.export, against the Python model."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

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
RUNTIMES = {"onnx": "onnxruntime", "pt2": "torch.export"}


class Value(NamedTuple):
    """An input or output of a program, as onnxruntime describes it."""

    name: str


class Program:
    """A .pt2 file that is asked as a session of onnxruntime is."""

    def __init__(self, path: Path, inputs: list[str], outputs: list[str]) -> None:
        self.module: Any = torch.export.load(path).module()
        self.inputs, self.outputs = inputs, outputs

    def get_inputs(self) -> list[Value]:
        return [Value(name) for name in self.inputs]

    def get_outputs(self) -> list[Value]:
        return [Value(name) for name in self.outputs]

    @torch.no_grad()
    def run(self, names: None, values: dict[str, np.ndarray]) -> list[np.ndarray]:
        found = self.module(*(torch.from_numpy(values[name]) for name in self.inputs))
        return [value.numpy() for value in ([found] if torch.is_tensor(found) else found)]


def exported(settings: Settings) -> list[Row]:
    """Rows for images in windows, of names whose embeddings are known to all, by each runtime; on
    the CPU.
    """
    settings = replace(settings, device=torch.device("cpu"), precision=torch.float32)
    cases = {"voc20": (96, 96)} if settings.smoke else LISTS
    titles = {
        (words, kind): f"{len(builtin(words))} classes, {size[0]} px, windows, {runtime}"
        for words, size in cases.items()
        for kind, runtime in RUNTIMES.items()
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
        for (words, kind), title in titles.items():
            own = _model(demo, Path(place) / "out", kind)
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


def _model(demo: ModuleType, folder: Path, kind: str) -> Any:
    """An exported folder's model, in one of ``RUNTIMES``."""
    model = demo.Model(folder, torch.get_num_threads())
    if kind == "pt2":
        parts = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["parts"]
        model.image, model.head = (
            Program(folder / f"{name}.pt2", list(parts[name]["inputs"]), parts[name]["outputs"])
            for name in ("image", "head")
        )
        model.head_inputs = model.head.inputs
    return model


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
