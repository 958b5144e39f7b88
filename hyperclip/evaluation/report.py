"""Tables over the ``results.json`` of several runs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate


def read_results(folder: str | Path) -> dict[str, dict[str, float]]:
    """Scores by dataset of one run.

    Raises:
        FileNotFoundError: a folder without ``results.json``. ValueError: a file that is not one.
    """
    path = Path(folder) / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist: expected the output folder of an evaluated run")
    try:
        return json.loads(path.read_text(encoding="utf-8"))["results"]
    except (json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{str(path)!r} is not a results file: {error!r}") from error


def comparison_table(runs: dict[str, Sequence[str | Path]], metric: str = "mIoU") -> str:
    """Markdown table: a row for each name, a column for each dataset.

    Args:
        runs: output folders by name; several folders (seeds) give mean +- sample standard deviation.
        metric: which score, in percent.
    """
    rows, datasets = [], {}
    for name, folders in runs.items():
        results = [read_results(folder) for folder in folders]
        datasets |= dict.fromkeys(results[0])
        row = {}
        for dataset in results[0]:
            values = [r[dataset][metric] for r in results]
            row[dataset] = f"{statistics.mean(values):.1f}"
            if len(values) > 1:
                row[dataset] += f" +- {statistics.stdev(values):.1f}"
        rows.append((name, row))
    body = [[name, *(row.get(d, "") for d in datasets)] for name, row in rows]
    return tabulate(body, ["model", *(f"{d} ({metric})" for d in datasets)], tablefmt="github", disable_numparse=True)
