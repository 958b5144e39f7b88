"""Tables: over the ``results.json`` of several runs, and of systems on benchmarks."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ..runtime.files import user_path, write_atomically

Runs = Mapping[str, Sequence[str | Path]]
"""Output folders of evaluated runs by the system's name; several folders are seeds."""


def read_results(folder: str | Path) -> dict[str, Any]:
    """Content of one run's ``results.json``: "model", "protocol" and "results", the last two by dataset.

    Raises:
        FileNotFoundError: a folder without ``results.json``. ValueError: a file that is not one.
    """
    path = user_path(folder) / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist: expected the output folder of an evaluated run")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not a results file: no JSON in UTF-8 ({error})") from error
    if isinstance(content, list):
        raise ValueError(
            f"{str(path)!r} holds the rows of tools/evaluate.py, whose own table is results.md beside it. Expected the output "
            "folder of tools/train_net.py"
        )
    keys = ("model", "protocol", "results")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), dict) for key in keys):
        raise ValueError(f"{str(path)!r} is not a results file: expected {', '.join(keys)}, each with keys of its own")
    for dataset, scores in content["results"].items():
        if not isinstance(scores, dict) or "mIoU" not in scores or "images" not in scores or dataset not in content["protocol"]:
            raise ValueError(f"{str(path)!r} is not a results file: {dataset} lacks mIoU, images or its protocol")
    return {key: content[key] for key in keys}


def result_rows(runs: Runs) -> list[dict[str, Any]]:
    """One row for each run and dataset: system, dataset, miou, seed, images, protocol."""
    rows = []
    for system, folders in runs.items():
        for content in map(read_results, folders):
            for dataset, scores in content["results"].items():
                row = {"system": system, "dataset": dataset, "miou": scores["mIoU"], "seed": content["model"].get("seed")}
                rows.append(row | {"images": scores["images"], "protocol": content["protocol"][dataset]})
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
            values = [r[dataset].get(metric) for r in results]
            if any(value is None for value in values):
                row[dataset] = "n/a"
                continue
            row[dataset] = f"{statistics.mean(values):.1f}"
            if len(values) > 1:
                row[dataset] += f" +- {statistics.stdev(values):.1f}"
        rows.append((name, row))
    body = [[name, *(row.get(d, "") for d in datasets)] for name, row in rows]
    return tabulate(body, ["model", *(f"{d} ({metric})" for d in datasets)], tablefmt="github", disable_numparse=True)


def benchmark_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown table of benchmark rows, see :mod:`hyperclip.evaluation.suite`, with what the papers report beside them.

    Numbers in brackets refer to the notes below the table: where a published number stands, and how ours differs.
    """
    boundary = ["boundary mIoU"] if any("boundary_mIoU" in row for row in rows) else []
    columns = [
        "system", "benchmark", "protocol", "precision", "vocabulary", "images", "mIoU", "mIoU old", *boundary, "s/image",
        "peak MB", "published mIoU", "notes",
    ]  # fmt: skip
    notes: dict[str, int] = {}

    def mark(note: str) -> str:
        return f"[{notes.setdefault(note, len(notes) + 1)}]"

    body = []
    for row in rows:
        if "error" in row:
            empty = [""] * (len(columns) - 4)
            body.append([row["system"], row["benchmark"], "failed", *empty, mark(row["error"].splitlines()[0])])
            continue
        papers = [f"{p['miou']:.1f} {p['backbone']} {mark(p['source'])}" for p in row["published"]]
        images = str(row["images"]) if row["complete"] else f"{row['images']} of {row['official_images']}"
        scores = [row.get(key) for key in ("mIoU", "mIoU_old", *(["boundary_mIoU"] if boundary else []))]
        body.append([
            row["system"], row["benchmark"], row["protocol"], row["precision"], row["vocabulary"], images,
            *("n/a" if value is None else f"{value:.2f}" for value in scores), f"{row['seconds_per_image']:.3f}",
            f"{row['peak_memory_mb']:.0f}", ", ".join(papers) or "none", " ".join(map(mark, row["notes"])),
        ])  # fmt: skip
    table = tabulate(body, columns, tablefmt="github", disable_numparse=True)
    return "\n\n".join([table, *(f"[{number}] {note}" for note, number in notes.items())])


def save_benchmark_tables(rows: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Write benchmark rows as ``results.json`` (everything), ``results.csv`` (without the classes) and ``results.md``."""

    def write_csv(path: Path) -> None:
        flat = [{k: v for k, v in row.items() if k not in ("IoU", "published", "notes", "fingerprint")} for row in rows]
        names = list(dict.fromkeys(key for row in flat for key in row))
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(flat)

    write_atomically(output / "results.json", lambda p: p.write_text(json.dumps(list(rows), indent=1) + "\n", encoding="utf-8"))
    write_atomically(output / "results.csv", write_csv)
    write_atomically(output / "results.md", lambda p: p.write_text(benchmark_table(rows) + "\n", encoding="utf-8"))


def save_class_table(row: Mapping[str, Any], path: Path) -> None:
    """Write the IoU of each class of a benchmark row as CSV, in percent; empty where a class is neither there nor predicted."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("class", "IoU"), *row["IoU"].items()])

    write_atomically(path, write)
