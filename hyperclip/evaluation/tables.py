"""Tables of result rows: several runs beside each other, and systems on benchmarks beside the
papers' numbers.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

Rows = Sequence[Mapping[str, Any]]
"""Result rows, see :mod:`hyperclip.evaluation.results`."""


def comparison_table(runs: Mapping[str, Sequence[Rows]], metric: str = "mIoU") -> str:
    """Markdown table: a row for each name, a column for each dataset; "n/a" where nothing counted,
    or a row failed.

    Args:
        runs: the rows of evaluated runs by name; those of several seeds give mean +- sample
            standard deviation.
        metric: which score, in percent.
    Raises:
        ValueError: a dataset that is not in every run of a name.
    """
    table: dict[str, dict[str, str]] = {}
    for name, seeds in runs.items():
        scores = [{row["dataset"]: row.get(metric) for row in rows} for rows in seeds]
        for dataset in scores[0]:
            if any(dataset not in found for found in scores):
                raise ValueError(
                    f"{name}: dataset {dataset} is not in the results of each of its {len(scores)} "
                    "runs"
                )
        table[name] = {
            dataset: _mean([found[dataset] for found in scores]) for dataset in scores[0]
        }
    datasets = list(dict.fromkeys(dataset for row in table.values() for dataset in row))
    body = [[name, *(row.get(dataset, "") for dataset in datasets)] for name, row in table.items()]
    return tabulate(
        body,
        ["model", *(f"{d} ({metric})" for d in datasets)],
        tablefmt="github",
        disable_numparse=True,
    )


def _mean(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return "n/a"
    deviation = f" +- {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.1f}{deviation}"


def benchmark_table(rows: Rows) -> str:
    """Markdown table of benchmark rows, see :mod:`hyperclip.evaluation.suite`, with what the papers
    report beside them.

    Numbers in brackets refer to the notes below the table: where a published number stands, and how
    ours differs.
    """
    boundary = ["boundary mIoU"] if any("boundary_mIoU" in row for row in rows) else []
    columns = [
        "system",
        "benchmark",
        "protocol",
        "precision",
        "vocabulary",
        "images",
        "mIoU",
        "mIoU old",
        *boundary,
        "s/image",
        "peak MB",
        "published mIoU",
        "notes",
    ]
    notes: dict[str, int] = {}

    def mark(note: str) -> str:
        return f"[{notes.setdefault(note, len(notes) + 1)}]"

    body = []
    for row in rows:
        if "error" in row:
            empty = [""] * (len(columns) - 4)
            body.append(
                [
                    row["system"],
                    row["benchmark"],
                    "failed",
                    *empty,
                    mark(row["error"].splitlines()[0]),
                ]
            )
            continue
        papers = [f"{p['miou']:.1f} {p['backbone']} {mark(p['source'])}" for p in row["published"]]
        images = (
            str(row["images"])
            if row["complete"]
            else f"{row['images']} of {row['official_images']}"
        )
        scores = [
            row.get(key) for key in ("mIoU", "mIoU_old", *(["boundary_mIoU"] if boundary else []))
        ]
        body.append(
            [
                row["system"],
                row["benchmark"],
                row["protocol"],
                row["precision"],
                row["vocabulary"],
                images,
                *("n/a" if value is None else f"{value:.2f}" for value in scores),
                f"{row['seconds_per_image']:.3f}",
                f"{row['peak_memory_mb']:.0f}",
                ", ".join(papers) or "none",
                " ".join(map(mark, row["notes"])),
            ]
        )
    table = tabulate(body, columns, tablefmt="github", disable_numparse=True)
    return "\n\n".join([table, *(f"[{number}] {note}" for note, number in notes.items())])
