"""Tables over the ``results.json`` of several runs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

Runs = Mapping[str, Sequence[str | Path]]
"""Output folders of evaluated runs by the system's name; several folders are seeds."""


def read_results(folder: str | Path) -> dict[str, Any]:
    """Content of one run's ``results.json``: "model", "protocol", and "results", the scores by dataset.

    Raises:
        FileNotFoundError: a folder without ``results.json``. ValueError: a file that is not one.
    """
    path = Path(folder) / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist: expected the output folder of an evaluated run")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {key: content[key] for key in ("model", "protocol", "results")}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is not a results file: {error!r}") from error


def result_rows(runs: Runs) -> list[dict[str, Any]]:
    """One row for each run and dataset: system, dataset, miou, seed, images, protocol."""
    rows = []
    for system, folders in runs.items():
        for content in map(read_results, folders):
            for dataset, scores in content["results"].items():
                row = {"system": system, "dataset": dataset, "miou": scores["mIoU"], "seed": content["model"]["seed"]}
                rows.append(row | {"images": scores["images"], "protocol": content["protocol"]})
    return rows


def comparison_table(runs: Runs, metric: str = "mIoU") -> str:
    """Markdown table: a row for each name, a column for each dataset.

    Args:
        runs: output folders by name; several folders (seeds) give mean +- sample standard deviation.
        metric: which score, in percent.
    """
    rows: list[tuple[str, dict[str, str]]] = []
    datasets: dict[str, None] = {}
    for name, folders in runs.items():
        results = [read_results(folder)["results"] for folder in folders]
        datasets |= dict.fromkeys(results[0])
        row = {}
        for dataset in results[0]:
            if any(dataset not in r for r in results):
                raise ValueError(f"{name}: dataset {dataset} is not in the results of every folder in {list(folders)}")
            values = [r[dataset][metric] for r in results]
            row[dataset] = f"{statistics.mean(values):.1f}"
            if len(values) > 1:
                row[dataset] += f" +- {statistics.stdev(values):.1f}"
        rows.append((name, row))
    body = [[name, *(row.get(d, "") for d in datasets)] for name, row in rows]
    return tabulate(body, ["model", *(f"{d} ({metric})" for d in datasets)], tablefmt="github", disable_numparse=True)
