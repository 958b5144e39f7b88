"""Tables of result rows: runs beside each other, and systems on benchmarks beside the papers."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from .asking import ALL, PRESENT

Rows = Sequence[Mapping[str, Any]]
"""Result rows, see :mod:`hyperclip.evaluation.results_files`."""


def comparison_table(runs: Mapping[str, Sequence[Rows]], metric: str) -> str:
    """Markdown table of a score in percent: a row for each name, a column for each dataset; "n/a"
    where nothing counted, or a row failed. Runs of several seeds by one name give mean +- sample
    standard deviation; ValueError unless they are on the same datasets, or where runs of which
    some were asked all names and some the present ones (TEST.ASK) would share a column.
    """
    ask = _what_was_asked(runs)
    table: dict[str, dict[str, str]] = {}
    for name, seeds in runs.items():
        scores = [{row["dataset"]: row.get(metric) for row in rows} for rows in seeds]
        for dataset in scores[0]:
            if any(dataset not in of_seed for of_seed in scores):
                missing = f"is not in the results of each of its {len(scores)} runs"
                raise ValueError(f"{name}: dataset {dataset} {missing}")
        table[name] = {d: _mean([of_seed[d] for of_seed in scores]) for d in scores[0]}
    datasets = list(dict.fromkeys(dataset for row in table.values() for dataset in row))
    body = [[name, *(row.get(dataset, "") for dataset in datasets)] for name, row in table.items()]
    columns = [
        f"{name} ({metric}{', present names' if ask.get(name) == PRESENT else ''})"
        for name in datasets
    ]
    return _markdown(body, ["model", *columns])


def _what_was_asked(runs: Mapping[str, Sequence[Rows]]) -> dict[str, str]:
    """TEST.ASK by dataset; ValueError where runs differ."""
    found: dict[str, tuple[str, str]] = {}
    for name, seeds in runs.items():
        for row in (row for rows in seeds for row in rows if "error" not in row):
            ask, dataset = row.get("ask", ALL), row["dataset"]
            other, first = found.setdefault(dataset, (ask, name))
            if ask != other:
                raise ValueError(
                    f"dataset {dataset}: {first} was asked {other!r} names and {name} {ask!r} "
                    "(TEST.ASK), so their scores are not comparable. Evaluate them the same way"
                )
    return {dataset: ask for dataset, (ask, _) in found.items()}


def _mean(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return "n/a"
    deviation = f" +- {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.1f}{deviation}"


def benchmark_table(rows: Rows) -> str:
    """Markdown table of benchmark rows, with what the papers report beside them; numbers in
    brackets refer to the notes below: where a published number stands, how ours differs.
    """
    notes: dict[str, int] = {}

    def mark(note: str) -> str:
        return f"[{notes.setdefault(note, len(notes) + 1)}]"

    cells = [_cells(row, mark) for row in rows]
    columns = max(map(list, cells), key=len, default=[])
    table = _markdown([[row.get(column, "") for column in columns] for row in cells], columns)
    return "\n\n".join([table, *(f"[{number}] {note}" for note, number in notes.items())])


def _cells(row: Mapping[str, Any], mark: Callable[[str], str]) -> dict[str, str]:
    """What stands in the columns of a row, in order; ``mark`` gives the number of a note."""
    start = {"system": row["system"], "benchmark": row["benchmark"]}
    if "error" in row:
        return {**start, "protocol": "failed", "notes": mark(row["error"].splitlines()[0])}
    papers = [f"{p['miou']:.1f} {p['backbone']} {mark(p['source'])}" for p in row["published"]]
    complete = "" if row["complete"] else f" of {row['official_images']}"
    boundary = {"boundary mIoU": _score(row["boundary_mIoU"])} if "boundary_mIoU" in row else {}
    return {
        **start,
        "protocol": row["protocol"],
        "precision": row["precision"],
        "vocabulary": row["vocabulary"],
        "images": f"{row['images']}{complete}",
        "mIoU": _score(row.get("mIoU")),
        "mIoU old": _score(row.get("mIoU_old")),
        **boundary,
        "s/image": f"{row['seconds_per_image']:.3f}",
        "peak MB": f"{row['peak_memory_mb']:.0f}",
        "published mIoU": ", ".join(papers) or "none",
        "notes": " ".join(map(mark, row["notes"])),
    }


def _score(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"


def _markdown(body: Sequence[Sequence[str]], columns: Sequence[str]) -> str:
    return tabulate(body, columns, tablefmt="github", disable_numparse=True)
