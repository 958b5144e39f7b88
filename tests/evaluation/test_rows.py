"""Rows of the benchmarks' table: what is kept between runs, that each stands alone, and what they
say of changed settings.
"""
# ruff: noqa: F811  (fixtures of the other file)

from __future__ import annotations

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cliper.fusion import FusionOptions
from cliper.meta_arch import CLIPer
from cliper.postprocess import LabelOptions
from cliper.refiner import DiffusionRefiner
from cliper.scores import ScoreOptions
from hyperclip.config.keys import load_config
from hyperclip.data import find_dataset
from hyperclip.data.class_lists import test_vocabulary as evaluated_vocabulary
from hyperclip.evaluation import paper_figures, suite
from hyperclip.evaluation.kept_rows import read_row
from hyperclip.evaluation.result_rows import Benchmark, notes
from hyperclip.evaluation.results_files import read_results
from hyperclip.evaluation.running import Evaluation
from hyperclip.evaluation.suite import _row, run_suite
from hyperclip.head import CostVolumeHead
from hyperclip.meta_arch import HyperCLIP
from PIL import Image

from tests.evaluation.test_suite import (  # noqa: F401
    CLIPER,
    HYPERCLIP,
    _root,
    benchmarks_of,
    evaluate,
    run,
    systems_of,
    tree,
    weights,
)
from tests.helpers.defaults import default


def test_damaged_and_deleted_files_of_rows(tmp_path):
    (system,) = systems_of(
        CLIPER,
        overrides=["TEST.PER_IMAGE_RESULTS", "True", "OUTPUT_DIR", tmp_path / "rows/system0"],
    )
    (row,) = run(system, tmp_path, "pas20", limit=1)
    file, classes = (tmp_path / f"rows/system0/pas20{end}" for end in (".json", "_classes.csv"))
    each = tmp_path / "rows/system0/per_image" / f"{row['dataset']}.jsonl"
    whole, table, lines = file.read_bytes(), classes.read_text(), each.read_text()
    other = json.loads(whole) | {"mIoU": 99.0}
    half = {key: row[key] for key in ("system", "benchmark", "fingerprint")}
    damaged = [
        b"",
        b'{"half',
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps(other).encode(),
        json.dumps(half).encode(),
        json.dumps(row).encode(),
    ]
    for content in damaged:
        file.write_bytes(content)
        assert read_row(file, row["fingerprint"]) is None, content[:20]
    again = _row(system, *benchmarks_of("pas20", limit=1), tmp_path)
    assert again["IoU"] == row["IoU"] and read_row(file, row["fingerprint"]) == again
    classes.unlink()
    assert run(system, tmp_path, "pas20", limit=1) == [again] and classes.read_text() == table
    each.unlink()
    assert (
        run(system, tmp_path, "pas20", limit=1)[0]["IoU"] == row["IoU"]
        and each.read_text() == lines
    )
    file.unlink()
    file.mkdir()  # nothing can be written there
    (failed,) = run(system, tmp_path, "pas20", limit=1)
    assert "pas20.json" in failed["error"] and "mIoU" not in failed


def test_other_weights_of_the_same_size_and_time_are_other_weights(tmp_path, weights):
    path = tmp_path / "model.pth"
    shutil.copy(weights, path)
    (system,) = systems_of(HYPERCLIP, overrides=["MODEL.WEIGHTS", path])
    (first,) = run(system, tmp_path, "pas20", limit=1)
    status, state = path.stat(), torch.load(path, weights_only=True)
    state["model"]["sem_seg_head.decoder.classifier.weight"].neg_()
    torch.save(state, path)
    assert path.stat().st_size == status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    (second,) = run(system, tmp_path, "pas20", limit=1)
    assert second["fingerprint"] != first["fingerprint"] and second["IoU"] != first["IoU"]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        KeyError("height"),
        FloatingPointError("division"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_one_row_meets_the_others_are_evaluated(tmp_path, monkeypatch, error):
    real = suite.evaluate_dataset

    def evaluate_dataset(cfg, model, name, **options):
        if name == find_dataset("a150").name:
            raise error
        return real(cfg, model, name, **options)

    monkeypatch.setattr(suite, "evaluate_dataset", evaluate_dataset)
    rows = run(*systems_of(CLIPER), tmp_path, "a150", "pas20", limit=1)
    assert (
        type(error).__name__ in rows[0]["error"]
        and str(error).strip("'") in rows[0]["error"]
        and rows[1]["mIoU"] >= 0
    )
    assert (
        not (tmp_path / "rows/system0/a150.json").exists()
        and "failed" in (tmp_path / "results.md").read_text()
    )


def test_a_model_that_does_not_fit_fails_its_rows_alone(tmp_path, monkeypatch):
    tried = []

    def load_model(cfg):
        tried.append(cfg)
        raise RuntimeError("out of memory")

    broken, works = systems_of(CLIPER, CLIPER)
    benchmarks = benchmarks_of("a150", "pas20", limit=1)
    real = suite.load_model
    monkeypatch.setattr(
        suite, "load_model", lambda cfg: load_model(cfg) if cfg is broken.cfg else real(cfg)
    )
    rows = run_suite([(broken, benchmarks), (works, benchmarks[:1])], tmp_path)
    assert [row.get("error") for row in rows] == ["RuntimeError: out of memory"] * 2 + [
        None
    ] and len(tried) == 1


def test_two_processes_fail_together_and_go_on(tree, tmp_path, monkeypatch):
    """A worker of one process cannot read its label: that row fails on both, the next one is
    evaluated, and it is said.
    """
    root = tmp_path / "root"
    shutil.copytree(tree, root)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    label = root / "ADEChallengeData2016/annotations/validation/ADE_val_00000002.png"
    Image.fromarray(np.full((44, 56), 200, np.uint8)).save(label)
    done = evaluate(
        "--config-file",
        CLIPER,
        "MODEL.DEVICE",
        "cpu",
        "--benchmarks",
        "a150,pas20",
        "--allow-partial",
        "--output",
        tmp_path / "out",
        "--num-gpus",
        2,
        "--opts",
        "DATALOADER.NUM_WORKERS",
        1,
    )
    assert done.returncode == 1, done.stderr[-2000:]
    failed, good = read_results(tmp_path / "out")
    assert str(label) in failed["error"] and "[200]" in failed["error"]
    assert good["images"] == 2 and 0 <= good["mIoU"] <= 100
    (alone,) = run(*systems_of(CLIPER), tmp_path / "alone", "pas20")
    assert good["IoU"] == alone["IoU"]


class Head(CostVolumeHead):
    """The papers' head without its parameters."""

    def __init__(self):
        torch.nn.Module.__init__(self)

    def describe(self):
        return {}


def described(cfg, dataset):
    """What the system of a config says about itself, without the networks that it does not look
    at.
    """
    backbone, synonyms = (
        cfg.MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED,
        SimpleNamespace(synonyms=cfg.MODEL.SYNONYMS),
    )
    if cfg.MODEL.META_ARCHITECTURE == "HyperCLIP":
        parts = {
            "finetune": cfg.MODEL.SEM_SEG_HEAD.CLIP_FINETUNE,
            "sem_seg_head": Head(),
            "sliding": None,
        }
        return HyperCLIP.describe(
            SimpleNamespace(backbone=backbone, text=synonyms, **parts), dataset
        )
    node = cfg.MODEL.CLIPER
    refiner = None if node.REFINER.NAME == "none" else DiffusionRefiner.__new__(DiffusionRefiner)
    options = {
        "fusion": default(FusionOptions, node.ATTENTION),
        "scores": default(ScoreOptions),
        "labels": default(LabelOptions, node.PROTOCOL),
    }
    parts = {
        "window": node.WINDOW,
        "size": node.SIZE,
        "negatives": (),
        "tuned_for": tuple(cfg.DATASETS.TEST),
    }
    return CLIPer.describe(
        SimpleNamespace(backbone=backbone, text=synonyms, refiner=refiner, **options, **parts),
        dataset,
    )


def noted(config, alias, *overrides):
    """What the row of a config says of its settings and of the papers' figures."""
    benchmark = Benchmark(find_dataset(alias), [], 1)
    cfg = load_config(config, [*map(str, overrides)])
    name = benchmark.spec.name
    found = Evaluation(
        {},
        evaluated_vocabulary(cfg, name),
        "threshold" if benchmark.spec.background == "threshold" else "abstain",
        described(cfg, (name, benchmark.spec.alias)),
        None,
        0.0,
        0.0,
        "float32",
        "all",
        (),
    )
    said = list(notes(cfg, benchmark, found))
    return [note for note in said if note.startswith("other settings")], said


def test_a_figure_of_another_algorithm_is_noted():
    h14, l14 = (f"configs/cliper/vit-{name}-14/ovs_voc21.yaml" for name in "hl")
    assert any("its first version, another algorithm" in note for note in noted(h14, "voc21")[1])
    assert any("its first version, another algorithm" in note for note in noted(h14, "a150")[1])
    assert not any("another algorithm" in note for note in noted(l14, "voc21")[1])


@pytest.mark.parametrize(
    ("config", "alias", "overrides", "changed"),
    [
        (
            "cliper/vit-l-14/ovs_voc21",
            "voc21",
            ["MODEL.CLIPER.LOGIT_SCALE", 100.0],
            "MODEL.CLIPER.LOGIT_SCALE 100.0 (50.0)",
        ),
        (
            "cliper/vit-l-14/ovs_voc21",
            "voc21",
            ["MODEL.CLIPER.DIFFUSION.TIME_STEP", 40],
            "MODEL.CLIPER.DIFFUSION.TIME_STEP 40 (45)",
        ),
        (
            "cliper/vit-l-14/ovs_voc21",
            "voc21",
            ["MODEL.CLIPER.WINDOW", 224],
            "MODEL.CLIPER.WINDOW 224 (336)",
        ),
        ("cliper/vit-l-14/ovs_voc21", "voc21", ["MODEL.CLIPER.WINDOW", 336], ""),
        (
            "cliper/vit-l-14/ovs_coco5k",
            "object",
            ["MODEL.CLIPER.WINDOW", 224],
            "MODEL.CLIPER.BACKGROUND_THRESHOLD 0.5 (0.4), MODEL.CLIPER.SCORE_THRESHOLD 0.5 (0.4)",
        ),
        ("cliper/vit-b-16/ovs_coco5k", "object", ["MODEL.CLIPER.WINDOW", 0], ""),
        ("cliper/vit-b-16/ovs_city", "city_halves", ["MODEL.CLIPER.REFINER.NAME", "none"], ""),
        (
            "cliper/vit-b-16/ovs_city",
            "city_halves",
            ["MODEL.PROMPT_ENSEMBLE_TYPE", "single"],
            "MODEL.PROMPT_ENSEMBLE_TYPE single (imagenet)",
        ),
        ("cliper/universal_vitb16", "stuff", [], "MODEL.CLIPER.BACKGROUND_THRESHOLD 0.0 (0.1)"),
        ("vitb_384_hyperbolic", "a847", [], ""),
        ("vitb_384_hyperbolic", "a847", ["MODEL.WEIGHTS", "x.pth", "SOLVER.MAX_ITER", 3], ""),
        (
            "vitb_384_hyperbolic",
            "a847",
            ["MODEL.SEM_SEG_HEAD.POOLING_SIZES_TEST", "[2, 2]"],
            "MODEL.SEM_SEG_HEAD.POOLING_SIZES_TEST [2, 2] ([1, 1])",
        ),
        (
            "vitl_336_catseg",
            "pas20",
            ["TEST.SLIDING_WINDOW", "False", "TEST.PRECISION", "tf32"],
            "TEST.PRECISION tf32 (float32), TEST.SLIDING_WINDOW False (True)",
        ),
    ],
)
def test_a_released_setting_that_was_changed_is_noted(config, alias, overrides, changed):
    said, _ = noted(f"configs/{config}.yaml", alias, *overrides)
    assert said == [] if not changed else len(said) == 1 and changed in said[0]


def test_settings_that_cannot_be_compared_are_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(paper_figures, "local_path", lambda _: tmp_path)
    said = noted("configs/vitb_384_hyperbolic.yaml", "a847")[1]
    assert "no released settings for this row are here to be compared with" in said
