"""Results files: one schema, one writer and one reader for every program that evaluates.

``results.json`` holds ``{"schema": 2, "metric": …, "rows": […]}``; a row is what
:func:`hyperclip.evaluation.result_rows.describe_evaluation` gives, with "system", "benchmark" and
"dataset", or "error" where it could not be evaluated. ``results.csv`` and ``results.md`` hold the
same rows.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..runtime.files import read_json, user_path, write_atomically, write_text
from .tables import benchmark_table

SCHEMA = 2
METRIC = "mIoU over the classes present in the ground truth, mIoU_old also over those predicted"
NESTED = ("IoU", "published", "notes", "fingerprint", "settings")
"""Entries of a row that a CSV leaves out."""


def write_results(rows: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Write ``results.json`` (everything), ``results.csv`` (no classes) and ``results.md``."""
    write_json(rows, output / "results.json")
    names = list(dict.fromkeys(key for row in rows for key in row if key not in NESTED))
    lines = [[row.get(name) for name in names] for row in rows]
    _write_csv([names, *lines], output / "results.csv")
    write_text(output / "results.md", benchmark_table(rows) + "\n")


def write_json(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows in the schema of ``results.json``."""
    content = {"schema": SCHEMA, "metric": METRIC, "rows": list(rows)}
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_results(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of an output folder's ``results.json``; FileNotFoundError if it is not there,
    ValueError if it is something else.
    """
    path = user_path(folder) / "results.json"
    if not path.is_file():
        expected = "expected the output folder of an evaluated run"
        raise FileNotFoundError(f"{str(path)!r} does not exist: {expected}")
    content = read_json(path, "results file")
    if isinstance(content, list) or (isinstance(content, dict) and "results" in content):
        raise ValueError(
            f"{str(path)!r} is of an earlier schema, expected schema {SCHEMA}. Make it anew: "
            "python tools/train_net.py --eval-only --config-file … OUTPUT_DIR …, or python "
            "tools/evaluate.py --config-file … --output …"
        )
    table = content if isinstance(content, dict) else {}
    rows = table.get("rows")
    if table.get("schema") != SCHEMA or not isinstance(rows, list) or not all(map(_is_row, rows)):
        raise ValueError(
            f'{str(path)!r} is not a results file: expected "schema" {SCHEMA} and "rows", each '
            'with "system" and "dataset", and "mIoU", "images", "protocol" or an "error"; scores '
            "are numbers or null"
        )
    return rows


def _is_row(row: object) -> bool:
    if not isinstance(row, dict) or not {"system", "dataset"} <= row.keys():
        return False
    if "error" in row:
        return True
    scores = [row.get(key) for key in ("mIoU", "mIoU_old", "pACC", "mACC")]
    numbers = all(value is None or isinstance(value, int | float) for value in scores)
    return {"mIoU", "images", "protocol"} <= row.keys() and numbers


def write_class_table(row: Mapping[str, Any], path: Path) -> None:
    """Write each class's IoU in percent as CSV; empty where it is neither there nor predicted."""
    _write_csv([("class", "IoU"), *row["IoU"].items()], path)


def _write_csv(lines: Sequence[Sequence[Any]], path: Path) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    write_atomically(path, lambda temporary: temporary.write_bytes(text.getvalue().encode()))
