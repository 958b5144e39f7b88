"""tools/evaluate.py: both systems on every benchmark in one process, kept results, protocols, and
what is said of bad data.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from hyperclip.config.keys import load_config
from hyperclip.data import DATASETS, find_dataset
from hyperclip.data.label_maps import LABEL_MAPS, LabelMap
from hyperclip.evaluation import kept_rows as kept
from hyperclip.evaluation.paper_figures import published_for, published_rows
from hyperclip.evaluation.result_rows import fingerprint
from hyperclip.evaluation.results_files import read_results
from hyperclip.evaluation.suite import (
    System,
    _describe,
    choose_datasets,
    load_benchmarks,
    make_plan,
    run_suite,
)
from hyperclip.evaluation.tables import benchmark_table
from hyperclip.segmenter import Description
from PIL import Image

from tests.helpers import fake_trees
from tests.helpers.programs import run_program

HYPERCLIP, CLIPER = "configs/quickstart/hyperclip.yaml", "configs/quickstart/cliper.yaml"
ALIASES = [spec.alias for spec in DATASETS.values() if spec.benchmark]
PAPERS = {
    "HyperCLIP": ["a847", "pc459", "a150", "pc59", "pas20", "pas20b"],
    "CLIPer": ["voc21", "pc60", "object", "pas20", "pc59", "stuff", "a150", "city_halves"],
}
PROTOCOLS = {"pas20b": "fold", "voc21": "threshold", "pc60": "threshold", "object": "threshold"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("trees")
    fake_trees.build_all(root)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The quickstart's model before its training: the shipped CLIP, adapters at identity, a head of
    random weights.
    """
    torch.manual_seed(0)
    model = build_model(load_config(HYPERCLIP, ["MODEL.DEVICE", "cpu"]))
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": model.state_dict()}, path)
    return path


@pytest.fixture(autouse=True)
def _root(tree, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tree))


def evaluate(*arguments):
    return run_program("tools/evaluate.py", *arguments)


def test_both_systems_on_all_benchmarks_in_one_process(tmp_path, weights):
    done = evaluate(
        "--config-file",
        HYPERCLIP,
        "MODEL.WEIGHTS",
        weights,
        "--config-file",
        CLIPER,
        "--benchmarks",
        "all",
        "--allow-partial",
        "--output",
        tmp_path,
        "--opts",
        "DATALOADER.NUM_WORKERS",
        0,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = {(row["system"], row["benchmark"]): row for row in read_results(tmp_path)}
    systems = {"HyperCLIP": "quickstart-hyperclip", "CLIPer": "quickstart-cliper"}
    assert set(rows) == {(system, alias) for system in systems.values() for alias in ALIASES}
    for (system, alias), row in rows.items():
        assert row["images"] == (4 if alias == "city_halves" else 2) and not row["complete"]
        assert (
            row["official_images"] == find_dataset(alias).images[0]
            and 0 <= row["mIoU_old"] <= row["mIoU"] <= 100
        )
        assert row["protocol"] == PROTOCOLS.get(alias, "argmax")
        has_own_list = system == systems["CLIPer"] and alias not in ("a847", "pc459", "pas20b")
        assert row["vocabulary"].startswith("cliper_") == has_own_list
        assert (
            0 < row["seconds_per_image"] < 30
            and 100 < row["peak_memory_mb"] < 8000
            and row["labels"]
        )
    for paper, aliases in PAPERS.items():
        for alias in aliases:
            row = rows[systems[paper], alias]
            assert row["published"] and row["notes"], (paper, alias)
            assert (
                f"{row['published'][0]['miou']:.1f} {row['published'][0]['backbone']}"
                in done.stdout
            )
    with (tmp_path / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(r["system"], r["benchmark"]) for r in table] == list(rows)
    assert [float(r["mIoU"]) for r in table] == [row["mIoU"] for row in rows.values()]
    assert (tmp_path / "results.md").read_text().strip() in done.stdout


def systems_of(*configs, overrides=()):
    return [
        System(
            f"system{k}",
            load_config(
                c, ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", *map(str, overrides)]
            ),
        )
        for k, c in enumerate(configs)
    ]


def benchmarks_of(*names, limit=0):
    return load_benchmarks(choose_datasets(names), limit, partial=True)


def run(system, output, *names, limit=0):
    return run_suite([(system, benchmarks_of(*names, limit=limit))], output)


def test_a_killed_run_goes_on(tmp_path):
    """What is there is kept, as long as config, data and limit are the same."""
    (system,) = systems_of(CLIPER)
    first = run(system, tmp_path, "pas20")
    (tmp_path / "results.json").unlink()  # killed before the table was written
    row = tmp_path / "rows/system0/pas20.json"
    written = row.stat().st_mtime_ns
    both = run(system, tmp_path, "pas20", "voc21")
    assert both[0] == first[0] and row.stat().st_mtime_ns == written
    assert [r["benchmark"] for r in read_results(tmp_path)] == ["pas20", "voc21"]
    limited = run(system, tmp_path, "pas20", limit=1)
    assert limited[0]["images"] == 1 and row.stat().st_mtime_ns != written


def test_what_changes_a_fingerprint(tree, weights, monkeypatch):
    (benchmark,) = benchmarks_of("pas20")

    def of(*overrides):
        return fingerprint(
            systems_of(HYPERCLIP, overrides=["MODEL.WEIGHTS", weights, *overrides])[0].cfg,
            benchmark,
        )

    assert of() == of(
        "OUTPUT_DIR", "elsewhere", "DATALOADER.NUM_WORKERS", "3", "SOLVER.MAX_ITER", "7"
    )
    others = [
        of("TEST.VOCABULARY", "clean"),
        of("MODEL.SYNONYMS", "mean"),
        of("TEST.SLIDING_WINDOW", "True"),
    ]
    assert len({of(), *others}) == 4
    for path in (
        weights,
        Path(benchmark.records[0]["sem_seg_file_name"]),
        Path(benchmark.records[1]["file_name"]),
    ):
        before, content, status = of(), path.read_bytes(), path.stat()
        path.touch()
        assert of() == before  # the same content
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # of the same size and time
        assert of() != before
        path.write_bytes(content)
        assert of() == before
    before = of()
    for change in (
        (kept, "__version__", "0.0.9"),
        (torch, "__version__", "2.6.0"),
        (kept, "_code", lambda: "other code"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(*change)
            assert of() != before
    before, known = of(), benchmark.records[0]["label_map"]
    assert known is LABEL_MAPS["from_one_20"]
    for record in benchmark.records:
        record["label_map"] = LabelMap({**known.classes, 1: 2}, known.ignore, known.name)
    assert of() != before
    cfg = systems_of(CLIPER)[0].cfg
    assert fingerprint(cfg, benchmark) != fingerprint(cfg, benchmarks_of("voc21")[0])


def test_vocabularies_and_synonyms_are_reported(tmp_path):
    for family, synonyms, name in (
        ("clean", "max", "clean_voc20 1"),
        ("catseg", "first", "voc20 released"),
        ("cliper", "first", "cliper_voc 2025-09"),
    ):
        (system,) = systems_of(
            CLIPER, overrides=["TEST.VOCABULARY", family, "MODEL.SYNONYMS", synonyms]
        )
        (row,) = run(system, tmp_path, "voc21", limit=1)
        assert row["vocabulary"] == name and row["synonyms"] == synonyms
        assert (
            "other class names or synonyms than the method's released ones" in row["notes"]
        ) == (family != "cliper")


def test_a_broken_label_fails_one_row_and_keeps_the_others(tree, tmp_path, monkeypatch):
    root = tmp_path / "root"
    shutil.copytree(tree, root)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    label = root / "ADEChallengeData2016/annotations/validation/ADE_val_00000002.png"
    Image.fromarray(np.full((44, 56), 200, np.uint8)).save(label)
    rows = run(*systems_of(CLIPER), tmp_path / "out", "a150", "pas20")
    assert str(label) in rows[0]["error"] and "[200]" in rows[0]["error"] and rows[1]["mIoU"] >= 0
    assert "failed" in (tmp_path / "out/results.md").read_text()
    done = evaluate(
        "--config-file",
        CLIPER,
        "--benchmarks",
        "a150",
        "--allow-partial",
        "--output",
        tmp_path / "out",
        "--opts",
        "DATALOADER.NUM_WORKERS",
        0,
    )
    assert done.returncode == 1 and "failed" in done.stdout


def test_weights_that_cannot_be_loaded_fail_their_rows_alone(tmp_path):
    (broken,) = systems_of(HYPERCLIP, overrides=["MODEL.WEIGHTS", "nowhere.pth"])
    (works,) = systems_of(CLIPER)
    benchmarks = benchmarks_of("a150", "pas20", limit=1)
    rows = run_suite([(broken, benchmarks), (System("works", works.cfg), benchmarks[:1])], tmp_path)
    assert ["error" in row for row in rows] == [True, True, False] and "nowhere.pth" in rows[1][
        "error"
    ]


def test_a_class_list_that_does_not_fit_is_said_before_anything_runs():
    systems = systems_of(CLIPER, overrides=["MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON", "ade150"])
    with pytest.raises(
        ValueError, match="'ade150' has 150 classes, dataset voc_2012_test_sem_seg has 20"
    ):
        make_plan(systems, ["a150", "pas20"], partial=True)


def test_a_fault_of_the_tree_is_kept_with_the_number(tree, tmp_path, monkeypatch):
    shutil.copytree(tree, tmp_path / "root")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "root"))
    (tmp_path / "root/ADEChallengeData2016/annotations/validation/ADE_val_00000002.png").unlink()
    with pytest.raises(ValueError, match="1 faults"):
        load_benchmarks(choose_datasets(["a150"]))
    (benchmark,) = benchmarks_of("a150")
    assert (len(benchmark.records), benchmark.faults, benchmark.complete) == (1, 1, False)
    (row,) = run(*systems_of(CLIPER), tmp_path / "out", "a150")
    assert {"not the whole set", "1 files without a counterpart left out"} <= set(row["notes"])


def test_classes_and_boundaries_are_in_the_tables(tmp_path):
    (system,) = systems_of(CLIPER, overrides=["TEST.BOUNDARY_IOU", "True"])
    (row,) = run(system, tmp_path, "pas20", limit=1)
    assert (tmp_path / "results.md").read_text() == benchmark_table([row]) + "\n"
    lines = benchmark_table([row | {"mIoU": 12.345, "boundary_mIoU": 6.789}]).splitlines()
    head, shown = ([cell.strip() for cell in lines[k].strip("|").split("|")] for k in (0, 2))
    assert (shown[head.index("mIoU")], shown[head.index("boundary mIoU")]) == ("12.35", "6.79")
    assert 0 <= row["boundary_mIoU"] <= 100
    with (tmp_path / "rows/system0/pas20_classes.csv").open(newline="") as file:
        table = {line["class"]: line["IoU"] for line in csv.DictReader(file)}
    assert list(table) == find_dataset("pas20").label_names
    assert list(table.values()) == [
        "" if value is None else str(value) for value in row["IoU"].values()
    ]


def test_the_message_of_a_worker_without_its_trace():
    trace = 'Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File "x", 1\n'  # noqa: E501
    assert (
        _describe(ValueError(trace + "    f()\nValueError: label\ngot [3]"))
        == "ValueError: label\ngot [3]"
    )
    assert (
        _describe(ValueError("label\ngot [3]")) == "label\ngot [3]"
        and _describe(ValueError()) == "ValueError"
    )


def test_systems_of_one_file_are_numbered(tmp_path):
    from hyperclip.commands import evaluate as program

    files = [[CLIPER], ["configs/vitb_384_hyperbolic.yaml"], [CLIPER, "TEST.CLASS_CHUNK", "3"]]
    arguments = Namespace(config_file=files, opts=["MODEL.DEVICE", "cpu"], output=tmp_path)
    systems = program.load_systems(arguments)
    assert [s.name for s in systems] == [
        "quickstart-cliper",
        "vitb_384_hyperbolic",
        "quickstart-cliper-2",
    ]
    assert [s.cfg.TEST.CLASS_CHUNK for s in systems] == [0, 0, 3]
    assert len({s.cfg.OUTPUT_DIR for s in systems}) == 3 and {
        s.cfg.MODEL.DEVICE for s in systems
    } == {"cpu"}


def test_no_benchmark_is_an_error():
    done = evaluate("--config-file", CLIPER, "--benchmarks", " , ", "--output", "output/none")
    assert (
        done.returncode == 1 and "error: benchmarks: got [' ', ' '], expected names" in done.stderr
    )


def test_incomplete_and_missing_sets_are_refused_at_once(tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match=r"2 of 2 benchmarks are not ready:\na150: incomplete, 2 of 2000"
    ):
        load_benchmarks(choose_datasets(["a150", "voc21"]))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(ValueError, match="a150: dataset ade20k_150_test_sem_seg: not found below"):
        load_benchmarks(choose_datasets(["a150"]))
    with pytest.raises(ValueError, match="not ready"):
        load_benchmarks(choose_datasets(["a150"]), partial=True)
    done = evaluate("--config-file", CLIPER, "--benchmarks", "a150,none", "--output", tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: dataset: got 'none', expected one of" in done.stderr


def test_own_benchmarks():
    """Each config on the set that it names, for tables whose rows have a config each."""
    systems = systems_of(
        "configs/cliper/vit-b-16/ovs_city.yaml", "configs/cliper/vit-b-16/ovs_voc20.yaml"
    )
    plan = make_plan(systems, ["own", "a150"], partial=True)
    assert [[b.spec.alias for b in chosen] for _, chosen in plan] == [
        ["city_halves", "a150"],
        ["pas20", "a150"],
    ]
    assert plan[0][1][1] is plan[1][1][1]


def test_names_of_benchmarks(tree, tmp_path):
    assert [s.alias for s in choose_datasets(["all"])] == ALIASES
    assert [s.alias for s in choose_datasets(["voc_2012_test_sem_seg", "pas20", "a150"])] == [
        "pas20",
        "a150",
    ]
    photos = {
        "images": "ADEChallengeData2016/images/validation",
        "labels": "ADEChallengeData2016/annotations/validation",
    }
    (tmp_path / "own.yaml").write_text(
        json.dumps(
            {
                "name": "own_ade",
                "root": str(tree),
                "splits": {"train": photos, "val": photos},
                "classes": [f"c{k}" for k in range(150)],
                "label_map": "from_one_150",
            }
        )
    )
    assert [s.name for s in choose_datasets([str(tmp_path / "own.yaml")])] == ["own_ade_val"]


def test_published_numbers():
    assert {alias for row in published_rows() for alias in row.miou} <= set(ALIASES)
    assert all(
        0 < value < 100 and row.source for row in published_rows() for value in row.miou.values()
    )
    for described, alias, figure in (
        (Description("CLIPer", "ViT-L/14", "CLIPer"), "voc21", 71.6),
        (Description("CLIPer", "ViT-L/14", "CLIPer", "windows"), "voc21", 72.2),
        (Description("HyperCLIP", "ViT-L/14@336px", "CAT-Seg"), "pc459", 23.8),
    ):
        assert [p.miou[alias] for p in published_for(described, alias)] == [figure]
    dense = build_model(load_config("configs/quickstart/dense_clip.yaml", ["MODEL.DEVICE", "cpu"]))
    assert published_for(dense.describe(), "a150") == []
