"""Evaluating one dataset: memory that does not grow with the set, backgrounds, synonyms, and a
dataset of one's own.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.modeling import build_model
from hyperclip.config.keys import load_config
from hyperclip.data import find_dataset
from hyperclip.data.class_lists import test_vocabulary as evaluated_vocabulary
from hyperclip.data.label_maps import LABEL_MAPS
from hyperclip.evaluation import running
from hyperclip.evaluation.results_files import read_results
from hyperclip.evaluation.running import evaluate_dataset
from hyperclip.training import Trainer
from hyperclip.vocabulary import Vocabulary
from PIL import Image

from tests.conftest import SHARED
from tests.helpers import fake_trees
from tests.helpers.asking import ask
from tests.helpers.programs import run_program
from tests.helpers.results import rows_of

DENSE, HYPERCLIP, CLIPER = (
    f"configs/quickstart/{name}.yaml" for name in ("dense_clip", "hyperclip", "cliper_fusion")
)
CPU = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"]


def resident() -> float:
    """Memory of this process in MB."""
    (line,) = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmRSS")
    ]
    return int(line.split()[1]) * 1024 / 1e6


@pytest.fixture
def model():
    return lambda config, *overrides: build_model(load_config(config, [*CPU, *overrides])).eval()


def test_memory_does_not_grow_with_the_set(tmp_path, model):
    """600 images, 847 classes: nothing that grows by 50 KB an image, far less than a GB in all."""
    rng = np.random.default_rng(0)
    for k in range(10):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(tmp_path / f"{k}.jpg")
        label = np.kron(rng.integers(0, 847, (6, 8)), np.ones((8, 8), int)).astype(np.uint16)
        Image.fromarray(label).save(tmp_path / f"{k}.tif")
    records = [
        {
            "file_name": str(tmp_path / f"{i % 10}.jpg"),
            "sem_seg_file_name": str(tmp_path / f"{i % 10}.tif"),
            "label_map": LABEL_MAPS["ade847_indices"],
            "image_id": i,
        }
        for i in range(600)
    ]
    cfg, dense, name = load_config(DENSE, CPU), model(DENSE), find_dataset("a847").name
    before = resident()
    few = evaluate_dataset(cfg, dense, name, records=records[:100])
    many = evaluate_dataset(cfg, dense, name, records=records)
    assert many.scores["images"] == 600 and many.peak_memory - before < 1000
    assert many.peak_memory - few.peak_memory < 25


def test_scores_and_labels_give_the_same_result(tmp_path, monkeypatch, model):
    """The evaluation asks for labels; asked for scores too, a system gives the same ones."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    fake_trees.voc2012(tmp_path)
    torch.manual_seed(0)
    one, found = model(HYPERCLIP), []
    question = running.dataset_question
    for scores in (True, False):
        monkeypatch.setattr(
            running,
            "dataset_question",
            lambda *x, s=scores: dataclasses.replace(question(*x), scores=s),
        )
        for alias in ("pas20", "pas20b", "voc21"):
            found.append(
                evaluate_dataset(load_config(HYPERCLIP, CPU), one, find_dataset(alias).name).scores
            )
    assert [f["mIoU"] for f in found[:3]] == [f["mIoU"] for f in found[3:]]


def test_results_say_what_synonyms_did(tmp_path, monkeypatch, model):
    """ "first" asks all names of a list that a person typed, so that it is "mean" there."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    fake_trees.voc2012(tmp_path)
    typed, name = tmp_path / "names.txt", find_dataset("pas20").name
    typed.write_text("\n".join(f"thing {k}, object {k}" for k in range(20)))
    for rule, file, expected in (
        ("first", "", "first"),
        ("mean", "", "mean"),
        ("first", typed, "mean"),
        ("max", typed, "max"),
    ):
        keys = [
            "MODEL.SYNONYMS",
            rule,
            "MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON",
            str(file),
            "OUTPUT_DIR",
            str(tmp_path),
        ]
        cfg = load_config(DENSE, [*CPU, *keys, "DATASETS.TEST", f"('{name}',)"])
        one = model(DENSE, "MODEL.SYNONYMS", rule)
        (row,) = Trainer.test(cfg, one) and read_results(tmp_path)
        assert row["dataset"] == name and row["synonyms"] == expected
        assert row["vocabulary"] == ("names" if file else "voc20 released")


@pytest.mark.parametrize("config", [HYPERCLIP, CLIPER])
def test_a_background_by_threshold(tmp_path, model, config):
    """Where a background exists pixels may be left without a class, else they may not."""
    torch.manual_seed(0)
    one, words = model(config), Vocabulary.from_text("red circle; blue square; green star")
    picture = {
        "image": torch.randint(
            0, 256, (3, 64, 80), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
        )
    }
    plain = ask(one, picture, words)
    assert (plain["sem_seg_labels"] >= 0).all()
    one.background_threshold = plain["sem_seg_confidence"].median().item()
    if config == CLIPER:
        options = (0.0, one.background_threshold, False)
        one.labels = type(one.labels)("argmax", *options)
    result = ask(one, picture, words, background="threshold")
    nothing = result["sem_seg_labels"] == -1
    assert 0.2 < nothing.float().mean() < 0.8
    assert torch.equal(result["sem_seg_labels"][~nothing], plain["sem_seg_labels"][~nothing])
    assert (ask(one, picture, words)["sem_seg_labels"] >= 0).all()


def test_the_best_synonym_counts(model):
    """max: a class is where any of its synonyms, asked as classes of their own, would be."""
    torch.manual_seed(0)
    one = model(HYPERCLIP, "MODEL.SYNONYMS", "max")
    together = Vocabulary.from_text(
        "red circle, red star; blue square; green star, cyan cross, yellow circle"
    )
    apart = Vocabulary.from_text(
        "red circle; red star; blue square; green star; cyan cross; yellow circle"
    )
    assert one.text.class_of(together) == [0, 0, 1, 2, 2, 2] and one.text.class_of(apart) is None
    picture = {
        "image": torch.randint(
            0, 256, (3, 64, 80), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
        )
    }
    answers = []
    for scores in (False, True):
        for vocabulary in (together, apart):
            answers.append(ask(one, picture, vocabulary, scores=scores))
    assert torch.equal(
        answers[0]["sem_seg_labels"], torch.tensor([0, 0, 1, 2, 2, 2])[answers[1]["sem_seg_labels"]]
    )
    grouped = torch.stack([answers[3]["sem_seg"][k].amax(0) for k in ([0, 1], [2], [3, 4, 5])])
    torch.testing.assert_close(answers[2]["sem_seg"], grouped)


def test_max_is_for_evaluation_only(model):
    one = model(HYPERCLIP, "MODEL.SYNONYMS", "max").train()
    with pytest.raises(ValueError, match="which is for evaluation only"):
        one.text(one.clip, Vocabulary.from_text("red circle, red star; blue square"))


def test_the_class_file_of_a_config(tmp_path):
    """TEST_CLASS_JSON overrides the classes; on a set with folded prompts its background words are
    asked too.
    """
    path = tmp_path / "classes.json"
    content = {"name": "mine", "version": "3", "classes": [[f"c{k}"] for k in range(20)]}
    path.write_text(json.dumps(content))
    cfg = load_config(HYPERCLIP, ["MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON", str(path)])
    assert evaluated_vocabulary(cfg, find_dataset("voc21").name).name == "mine"
    with pytest.raises(
        ValueError, match="has 20 classes, dataset voc_2012_test_background_sem_seg has 59"
    ):
        evaluated_vocabulary(cfg, find_dataset("pas20b").name)
    path.write_text(json.dumps({**content, "background": [f"b{k}" for k in range(39)]}))
    assert len(evaluated_vocabulary(cfg, find_dataset("pas20b").name)) == 59
    with pytest.raises(ValueError, match="TEST.VOCABULARY: got 'mine', expected one of"):
        evaluated_vocabulary(
            load_config(HYPERCLIP, ["TEST.VOCABULARY", "mine"]), find_dataset("voc21").name
        )


@pytest.mark.skipif(
    not (SHARED / "data").is_dir(), reason="the real photos (../shared/data) are not here"
)
def test_datasets_of_ones_own_train_and_evaluate(tmp_path):
    """MSRC-21 and CamVid, described by a file each, through the commands that any benchmark
    uses.
    """
    stems = sorted(path.stem for path in (SHARED / "data/msrc21/images").iterdir())
    (tmp_path / "train.txt").write_text("\n".join(stems[::6]))
    (tmp_path / "val.txt").write_text("\n".join(stems[1::12]))
    names = (SHARED / "data/msrc21/classes.txt").read_text().split("\n")[:23]
    left_out = {4: "horse", 7: "mountain"}
    folders = {"images": "images", "labels": "labels_clean"}
    files = {
        "msrc21": {
            "name": "msrc21",
            "root": str(SHARED / "data/msrc21"),
            "ignore": [*left_out, 255],
            "splits": {
                "train": {**folders, "list": "train.txt"},
                "val": {**folders, "list": "val.txt"},
            },
            "classes": [name for k, name in enumerate(names) if k not in left_out],
            "label_map": {k: name for k, name in enumerate(names) if k not in left_out},
        },
        "camvid": {
            "name": "camvid",
            "root": str(SHARED / "data/camvid"),
            "ignore": [11],
            "splits": {"val": {"images": "val", "labels": "valannot"}},
            "classes": (SHARED / "data/camvid/classes.txt").read_text().split(),
        },
    }
    for name, content in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    paths = [str(tmp_path / f"{name}.yaml") for name in files]
    commands = [
        ["tools/check_datasets.py", *paths, "--histogram", "--samples", "0"],
        [
            "tools/train_net.py",
            "--config-file",
            HYPERCLIP,
            "--num-gpus",
            "0",
            "DATASETS.FILES",
            str(paths),
            "DATASETS.TRAIN",
            "['msrc21_train']",
            "DATASETS.TEST",
            "['msrc21_val', 'camvid_val']",
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
            "21",
            "SOLVER.MAX_ITER",
            "3",
            "SOLVER.IMS_PER_BATCH",
            "2",
            "SOLVER.LOG_PERIOD",
            "1",
            "TEST.PER_IMAGE_RESULTS",
            "True",
            "TEST.BOUNDARY_IOU",
            "True",
            "OUTPUT_DIR",
            str(tmp_path / "run"),
            *CPU,
        ],
        [
            "tools/evaluate.py",
            "--config-file",
            HYPERCLIP,
            "MODEL.WEIGHTS",
            str(tmp_path / "run/model_final.pth"),
            "--benchmarks",
            ",".join(paths),
            "--output",
            str(tmp_path / "table"),
            "--opts",
            *CPU,
        ],
    ]
    for command in commands:
        done = run_program(*command)
        assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    trained, rows = rows_of(tmp_path / "run"), rows_of(tmp_path / "table")
    assert set(rows) == set(trained) == {"msrc21_val", "camvid_val"}
    for name, row in rows.items():
        assert row["mIoU"] == pytest.approx(trained[name]["mIoU"], abs=0.01) and row["complete"]
        assert 0 <= trained[name]["boundary_mIoU"] <= 100
        assert (
            len((tmp_path / f"run/per_image/{name}.jsonl").read_text().splitlines())
            == row["images"]
        )
    assert rows["camvid_val"]["images"] == 10 and rows["msrc21_val"]["images"] == 5
