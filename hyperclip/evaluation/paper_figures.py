"""The numbers that papers report, to be shown beside ours, and the settings that led to them."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from ..config import load_config, output_keys, plain_settings
from ..data import DatasetSpec
from ..runtime.files import local_path
from ..segmenter import Description

RELEASED = (("vit*.yaml", False), ("*/vit-*/ovs_*.yaml", True))
"""Shipped configs that hold a row of a paper, and whether only for the datasets they name."""

NO_INFLUENCE = ("OUTPUT_DIR", "OVERWRITE", "DATASETS.", "DATALOADER.", "SOLVER.", "VERSION")
"""Keys, by how they begin, that change no result, or as the dataset's are looked at otherwise."""

FREE = (
    *NO_INFLUENCE,
    *("MODEL.DEVICE", "MODEL.WEIGHTS", "MODEL.COMPILE_HEAD", "MODEL.CHECKPOINT_ACTIVATIONS"),
    *("TEST.CLASS_CHUNK", "TEST.IMS_PER_BATCH", "TEST.BOUNDARY_IOU", "TEST.PER_IMAGE_RESULTS"),
    *("TEST.BEST_METRIC", "TEST.EVAL_PERIOD", "IMPORTS", "WANDB.", "SEED", "VIS_PERIOD"),
    *("CUDNN_BENCHMARK", "MODEL.SYNONYMS", "TEST.VOCABULARY", "MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON"),
    "TEST.SAVE_PREDICTIONS",
)
"""Those that change no method: no result, or class names alone, of which a row says more."""


@dataclass(frozen=True)
class Published:
    """A row of a paper's table."""

    method: str
    backbone: str
    variant: str  # "", "windows", "no refiner", or both
    source: str  # where it stands
    miou: dict[str, float]  # in percent by the benchmark's alias
    note: str = ""  # why this framework's numbers are not to be compared with it, if so
    # keys of the shipped config that the variant changes, by alias or "*" for all
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


@functools.cache
def published_rows() -> tuple[Published, ...]:
    """All rows of ``papers.json``."""
    content = json.loads((Path(__file__).parent / "papers.json").read_text(encoding="utf-8"))
    return tuple(Published(**row) for row in content)


def published_for(description: Description, benchmark: str) -> list[Published]:
    """What papers report for a system's method on a benchmark, the alias of a registered dataset:
    for the system's own backbone, else for all of them.
    """
    wanted = description.method, description.variant
    rows = [r for r in published_rows() if (r.method, r.variant) == wanted and benchmark in r.miou]
    return [r for r in rows if r.backbone == description.backbone] or rows


def changed_settings(
    cfg: CfgNode, spec: DatasetSpec, papers: Sequence[Published], variant: Mapping[str, Any]
) -> list[str] | None:
    """Keys whose values are not those of ``papers``, the figures beside a result, "KEY value
    (released value)"; None if the released settings are not here to be compared with. ``variant``
    is what the variant of the method changes of the released config, by key.
    """
    released = _released(_method(cfg), spec)
    if released is None:
        return None
    expected = released | dict(variant)
    for paper in papers if variant else ():
        expected |= paper.settings.get("*", {}) | paper.settings.get(spec.alias, {})
    now, free = plain_settings(cfg), (*FREE, *output_keys())
    compared = [k for k in sorted(expected.keys() & now.keys()) if not k.startswith(free)]
    return [f"{k} {now[k]} ({expected[k]})" for k in compared if now[k] != expected[k]]


def _method(cfg: CfgNode) -> tuple[str, ...]:
    head = cfg.MODEL.SEM_SEG_HEAD
    return cfg.MODEL.META_ARCHITECTURE, head.CLIP_PRETRAINED, head.CLIP_FINETUNE


def _released(method: tuple[str, ...], spec: DatasetSpec) -> dict[str, Any] | None:
    for known, datasets, values in _shipped(local_path("configs")):
        if known == method and (not datasets or {spec.name, spec.alias} & set(datasets)):
            return values
    return None


@functools.cache
def _shipped(folder: Path) -> list[tuple[tuple[str, ...], tuple[str, ...], dict[str, Any]]]:
    """Each config with a row of a paper: its method, its datasets (() for all), its values."""
    rows = []
    for pattern, for_its_own in RELEASED:
        for path in sorted(folder.glob(pattern)):
            try:
                cfg = load_config(path)
            except ValueError:  # keys of a system whose package is not imported
                continue
            datasets = tuple(cfg.DATASETS.TEST) if for_its_own else ()
            rows.append((_method(cfg), datasets, plain_settings(cfg)))
    return rows
