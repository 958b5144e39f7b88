"""The numbers that papers report, to be shown beside ours, each with its source."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode


@dataclass(frozen=True)
class Published:
    """A row of a paper's table.

    Attributes:
        method, backbone: what was evaluated. variant: "", "windows", "no refiner", or both.
        source: where it stands. miou: in percent by the benchmark's alias.
        note: why the figures are not to be compared with what this framework computes, if so.
        settings: of a variant, by alias or "*" for all: the keys that it changes of the shipped config.
    """

    method: str
    backbone: str
    variant: str
    source: str
    miou: dict[str, float]
    note: str = ""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


@functools.cache
def published_rows() -> tuple[Published, ...]:
    """All rows of ``papers.json``."""
    content = json.loads((Path(__file__).parent / "papers.json").read_text(encoding="utf-8"))
    return tuple(Published(**row) for row in content)


def method_of(cfg: CfgNode) -> tuple[str, str, str]:
    """Method, backbone and variant of a config, as papers name them; an empty method if none published it."""
    head = cfg.MODEL.SEM_SEG_HEAD
    if cfg.MODEL.META_ARCHITECTURE == "CLIPer":
        if cfg.MODEL.CLIPER.REFINER.NAME not in ("none", "diffusion") or cfg.MODEL.CLIPER.ATTENTION != "fused":
            return "", head.CLIP_PRETRAINED, ""
        windows = ["windows"] if cfg.MODEL.CLIPER.WINDOW else []
        refiner = ["no refiner"] if cfg.MODEL.CLIPER.REFINER.NAME == "none" else []
        return "CLIPer", head.CLIP_PRETRAINED, ", ".join(windows + refiner)
    trained = {"hyperbolic": "HyperCLIP", "attention": "CAT-Seg"}
    known = cfg.MODEL.META_ARCHITECTURE == "HyperCLIP" and head.NAME == "CostVolumeHead"
    return trained.get(head.CLIP_FINETUNE, "") if known else "", head.CLIP_PRETRAINED, ""


def published_for(cfg: CfgNode, benchmark: str) -> list[Published]:
    """What papers report for a config's method on a benchmark: for its own backbone, or if there is none for all of them.

    Args:
        benchmark: alias of a registered dataset.
    """
    method, backbone, variant = method_of(cfg)
    rows = [r for r in published_rows() if r.method == method and r.variant == variant and benchmark in r.miou]
    return [r for r in rows if r.backbone == backbone] or rows
