"""The settings that a published figure was reached with, and what a config changes of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from ..config import load_config
from ..data import DatasetSpec
from ..training.run_folder import flat_config
from .papers import Published, method_of

SHIPPED = Path(__file__).parents[2] / "configs"
RELEASED = ("vit*.yaml", "cliper/vit-*/ovs_*.yaml")
"""Shipped configs that hold a row of a paper: of the trained systems, and of CLIPer one for each dataset."""

NO_INFLUENCE = ("OUTPUT_DIR", "OVERWRITE", "DATASETS.", "DATALOADER.", "SOLVER.", "VERSION")
"""How keys begin that do not change what an evaluation finds; the dataset and its vocabulary are looked at themselves."""

FREE = (
    *NO_INFLUENCE, "MODEL.DEVICE", "MODEL.WEIGHTS", "MODEL.COMPILE_HEAD", "MODEL.CHECKPOINT_ACTIVATIONS",
    "MODEL.CLIPER.DIFFUSION.CACHE", "TEST.OUTPUT", "TEST.CLASS_CHUNK", "TEST.IMS_PER_BATCH", "TEST.BOUNDARY_IOU",
    "TEST.PER_IMAGE_RESULTS", "TEST.BEST_METRIC", "TEST.EVAL_PERIOD", "WANDB.", "SEED", "VIS_PERIOD", "CUDNN_BENCHMARK",
    "MODEL.SYNONYMS", "TEST.VOCABULARY", "MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON",
)  # fmt: skip
"""And how those begin that do not change a method: they change no result, or class names, of which a row says more."""


def changed_settings(cfg: CfgNode, spec: DatasetSpec, papers: Sequence[Published]) -> list[str] | None:
    """Keys whose values are not those of the figure that is shown beside a result, "KEY value (released value)".

    Args:
        papers: the figures that are shown, of the config's own backbone.
    Returns:
        None if the released settings are not here to be compared with.
    """
    released = _released(method_of(cfg)[:2], spec)
    if released is None:
        return None
    now = _flat(cfg)
    expected = released | variant_settings(now, spec, papers)
    differing = [k for k in sorted(expected.keys() & now.keys()) if not k.startswith(FREE) and expected[k] != now[k]]
    return [f"{key} {now[key]} ({expected[key]})" for key in differing]


def variant_settings(now: dict[str, Any], spec: DatasetSpec, papers: Sequence[Published]) -> dict[str, Any]:
    """What the variant of a method that a config asks for changes of the released config: windows, no refiner."""
    if "MODEL.CLIPER.WINDOW" not in now or not any(paper.method == "CLIPer" for paper in papers):
        return {}
    changed = {"MODEL.CLIPER.WINDOW": 0, "MODEL.CLIPER.REFINER.NAME": now["MODEL.CLIPER.REFINER.NAME"]}
    for paper in papers:
        changed |= paper.settings.get("*", {}) | paper.settings.get(spec.alias, {})
    return changed


def _released(method: tuple[str, str], spec: DatasetSpec) -> dict[str, Any] | None:
    for known, datasets, values in _shipped(SHIPPED):
        if known == method and (known[0] != "CLIPer" or {spec.name, spec.alias} & set(datasets)):
            return values
    return None


@functools.cache
def _shipped(folder: Path) -> list[tuple[tuple[str, str], tuple[str, ...], dict[str, Any]]]:
    """Method and backbone, datasets, and all values of each config that holds a row of a paper."""
    found = []
    for path in sorted(p for pattern in RELEASED for p in folder.glob(pattern)):
        try:
            cfg = load_config(path)
        except ValueError:  # CLIPer's keys, in a program that does without CLIPer
            continue
        found.append((method_of(cfg)[:2], tuple(cfg.DATASETS.TEST), _flat(cfg)))
    return found


def _flat(cfg: CfgNode) -> dict[str, Any]:
    return dict(flat_config(yaml.safe_load(cfg.dump())))
