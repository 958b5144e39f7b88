"""The speed tests run, on tiny models, and compare with an earlier run. Nothing is asserted about
time.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import pytest

from speed.__main__ import SUITES, regressions
from tests.conftest import ROOT
from tests.helpers.programs import run_program


def measure(*arguments):
    return run_program("-m", "speed", *arguments)


def test_all_suites_run_and_agree_with_the_obvious_way(tmp_path):
    done = measure(
        *SUITES,
        "--smoke",
        "--repeat",
        1,
        "--json",
        tmp_path / "a.json",
        "--csv",
        tmp_path / "a.csv",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "a.json").read_text())
    assert {row["suite"] for row in rows} == set(SUITES)
    for row in rows:
        assert row["time_ratio"] > 0 and row["memory_ratio"] is not None and row["seconds"] > 0
        if row["suite"] == "precision":  # of half precision
            assert 1e-6 < row["largest_difference"] < 0.1, row
            continue
        assert row["largest_difference"] is None or row["largest_difference"] < 1e-4, row
        assert row["labels_equal"] is None or row["labels_equal"] > 0.999, row
    with (tmp_path / "a.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["case"] for row in table] == [row["case"] for row in rows] and table[0]["torch"]


def test_half_precision_is_measured_too(tmp_path):
    path = tmp_path / "a.csv"
    options = ("--smoke", "--repeat", 1, "--precision", "bfloat16", "--csv", path)
    done = measure("head", "refine", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert {(row["device"], row["precision"]) for row in rows} == {("CPU", "bfloat16")}
    assert all(not (x := row["largest_difference"]) or float(x) < 0.05 for row in rows)
    assert any(float(row["largest_difference"] or 0) > 1e-4 for row in rows)


def test_single_cases_can_be_chosen(tmp_path):
    done = measure(
        "refine",
        "--smoke",
        "--repeat",
        1,
        "--only",
        "given maps, 21",
        "--json",
        tmp_path / "a.json",
    )
    assert [row["case"] for row in json.loads((tmp_path / "a.json").read_text())] == [
        "from given maps, 21 classes"
    ]
    done = measure("refine", "--smoke", "--only", "no such case")
    assert (
        done.returncode == 1
        and "got 'no such case', which no case of refine contains" in done.stderr
    )


def test_regressions_are_listed(tmp_path):
    (tmp_path / "old.csv").write_text(
        "suite,case,time_ratio,memory_ratio\ntext,a,10,2\ntext,b,1,1\n"
    )
    rows = [
        {"suite": "text", "case": c, "time_ratio": t, "memory_ratio": 2.0}
        for c, t in (("a", 8.0), ("b", 0.9), ("c", 0.1))
    ]
    assert regressions(rows, tmp_path / "old.csv") == ["text, a: time_ratio 10 -> 8.0"]
    with pytest.raises(FileNotFoundError):
        regressions(rows, tmp_path / "none.csv")


def measured_on(row):
    """As the pages' headings call it."""
    return row["device"] if row["device"] == "CPU" else f"{row['device']}, {row['precision']}"


RESULTS = {
    (measured_on(row), row["suite"], row["case"]): row
    for path in sorted((ROOT / "speed/results").glob("*.csv"))
    for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())
}
COLUMNS = (
    *("seconds", "obvious_seconds", "time_ratio"),
    *("megabytes", "obvious_megabytes", "memory_ratio", "floor_ratio"),
)
UNITS = {"GB": 1000.0}


@pytest.mark.parametrize(
    ("page", "rows"), [("docs/performance.md", len(RESULTS)), ("README.md", 4)]
)
def test_pages_show_what_was_measured(page, rows):
    """Every row that a page shows is a row of the results of the device, and of a GPU's precision,
    that its heading names, rounded.
    """
    devices, device, told = {device for device, _, _ in RESULTS}, "CPU", 0
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        if line[:1] == "#":
            device = next((name for name in devices if name in line), "CPU")
        by_case = {case: suite for where, suite, case in RESULTS if where == device}
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line[:1] != "|" or not set(cells[:2]) & set(by_case):
            continue
        told += 1
        case, figures = (cells[0], cells[1:]) if cells[0] in by_case else (cells[1], cells[2:])
        for column, text in zip(COLUMNS, figures, strict=False):
            measured = RESULTS[device, by_case[case], case][column]
            number, _, unit = text.partition(" ")
            assert bool(number) == bool(measured), (case, column)
            if number:
                last = 10 ** -len(number.partition(".")[2]) * UNITS.get(unit, 1.0)
                value = float(number) * UNITS.get(unit, 1.0)
                assert abs(value - float(measured)) <= last * 0.51, (case, column)
    assert told == rows


def test_the_report_of_a_gpu_runs_all_parts_and_says_what_failed(tmp_path):
    """On tiny models without a GPU: the tests of CUDA skip, the others write what they measure."""
    options = ("--smoke", "--device", "cpu", "--repeat", "1", "--only", "20 new")
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PATIENCE": "20",
        "SUITES": "refine precision",
    }
    done = subprocess.run(
        ["bash", "tools/gpu_report.sh", str(tmp_path / "gpu"), *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "gpu"
    assert "skipped" in (folder / "test_cuda.txt").read_text(encoding="utf-8")
    for precision in ("bfloat16", "float32"):
        with (folder / f"{precision}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert {row["precision"] for row in rows} == {precision}
        assert {row["suite"] for row in rows} == {"precision"}
    profiles = {path.name for path in (folder / "profile").iterdir()}
    assert any(name.startswith("precision, 20 new names") for name in profiles)
    assert "CPU total" in next(iter((folder / "profile").iterdir())).read_text(encoding="utf-8")
    failing = subprocess.run(
        ["bash", "tools/gpu_report.sh", str(tmp_path / "other"), "--only", "no such case"],
        cwd=ROOT,
        env=environment | {"PYTHON": "false"},
        capture_output=True,
        text=True,
    )
    assert failing.returncode == 1 and failing.stdout.count("failed:") == 4
