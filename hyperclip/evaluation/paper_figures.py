"""The numbers that papers report, to be shown beside ours, each with its source."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..segmenter import Description


@dataclass(frozen=True)
class Published:
    """A row of a paper's table.

    Attributes:
        method, backbone: what was evaluated. variant: "", "windows", "no refiner", or both.
        source: where it stands. miou: in percent by the benchmark's alias.
        note: why this framework's numbers are not to be compared with it, if so.
        settings: keys of the shipped config that the variant changes, by alias or "*" for all.
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


def published_for(description: Description, benchmark: str) -> list[Published]:
    """What papers report for a method on a benchmark: for its own backbone, else for all of them.

    Args:
        description: of the system. benchmark: alias of a registered dataset.
    """
    wanted = description.method, description.variant
    rows = [r for r in published_rows() if (r.method, r.variant) == wanted and benchmark in r.miou]
    return [r for r in rows if r.backbone == description.backbone] or rows
