"""One training on datasets with class lists of their own: what each step asks, that both are
learned, and that it goes on exactly, in any number of processes.
"""

from __future__ import annotations

import copy
import json
import logging

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from hyperclip.config.keys import load_config
from hyperclip.data import registered_names
from hyperclip.data.class_lists import train_tasks
from hyperclip.data.dataset_file import register_files
from hyperclip.evaluation.running import evaluate_dataset
from hyperclip.load import load_model
from hyperclip.training import Trainer
from hyperclip.training.checkpoint_hooks import INTERRUPTED
from hyperclip.training.checks import check_training
from hyperclip.training.step import decide_for_all
from hyperclip.training.trainer import build_train_parts
from PIL import Image

from tests.helpers.colours import COLOURS, TONES, keys_of, write_colours
from tests.helpers.results import rows_of
from tests.training.test_resume import assert_equal_state, assert_same, records_of, train
from tests.training.test_step import step

QUICK = "configs/quickstart/hyperclip.yaml"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """YAML files of twelve images each: four colours, and three others in another order of
    magnitude of hue.
    """
    folder = tmp_path_factory.mktemp("joint")
    paths = [
        write_colours(folder / "colours"),
        write_colours(folder / "tones", "tones", TONES),
    ]
    register_files(paths)
    return paths


@pytest.fixture(scope="module")
def plain(files):
    """The tones as Detectron2 alone knows them, 9 being the label that does not count."""
    records = [
        {key: x[key] for key in ("file_name", "sem_seg_file_name")}
        for x in DatasetCatalog.get("tones_train")
    ]
    folder = files[1].parent / "plain"
    folder.mkdir()
    for k, record in enumerate(records):
        label = np.asarray(Image.open(record["sem_seg_file_name"])).copy()
        label[:9] = 9
        record["sem_seg_file_name"] = str(folder / f"{k}.png")
        Image.fromarray(label).save(record["sem_seg_file_name"])
    DatasetCatalog.register("plain_tones", lambda: records)
    MetadataCatalog.get("plain_tones").set(stuff_classes=list(TONES), ignore_label=9)
    return "plain_tones"


def keys(files, iterations=12, **others):
    given = {
        "DATASETS__FILES": list(map(str, files)),
        "DATASETS__TRAIN": ["colours_train", "tones_train"],
        "DATASETS__TEST": ["colours_val", "tones_val"],
        "SOLVER__BASE_LR": 5e-4,
        "SOLVER__CLIP_MULTIPLIER": 0.1,
        **others,
    }
    return keys_of(files[0], iterations, **given)


def config(files, **others):
    return load_config(QUICK, keys(files, **others))


def test_each_class_list_is_a_task(files, plain):
    tasks = train_tasks(
        config(files, DATASETS__TRAIN=["tones_train", "colours_train", "tones_val"])
    )
    assert [task.datasets for task in tasks] == [("tones_train", "tones_val"), ("colours_train",)]
    assert [task.vocabulary.names for task in tasks] == [list(TONES), list(COLOURS)]
    tasks = train_tasks(config(files, DATASETS__TRAIN=["colours_train", plain]))
    assert [task.ignore for task in tasks] == [255, 9]


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (
            {"MODEL__SEM_SEG_HEAD__NUM_CLASSES": 3},
            "NUM_CLASSES: got 3, dataset colours_train has 4, the most of all sets",
        ),
        (
            {"DATASETS__TRAIN_WEIGHTS": [1]},
            r"DATASETS.TRAIN_WEIGHTS: got \[1\], expected a number above 0 for each of the 2 sets",
        ),
        ({"DATASETS__TRAIN_WEIGHTS": [1, 0]}, r"TRAIN_WEIGHTS: got \[1, 0\], expected a number"),
        ({"DATASETS__TRAIN_WEIGHTS": ["a", 1]}, r"TRAIN_WEIGHTS: got \['a', 1\], expected a num"),
        (
            {"MODEL__SEM_SEG_HEAD__TRAIN_CLASS_JSON": "voc20"},
            "TRAIN_CLASS_JSON: got 'voc20' .* which have 2 class lists. Leave it empty",
        ),
        (
            {
                "DATASETS__TRAIN": ["tones_val", "plain_tones"],
                "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 3,
            },
            "tones_val ignores the label 255 and plain_tones 9, but they share their classes",
        ),
        (
            {"MODEL__SEM_SEG_HEAD__IGNORE_VALUE": 7},
            "IGNORE_VALUE: got 7, dataset colours_train ignores 255; expected the same value",
        ),
        (
            {"DATASETS__TRAIN": ["colours_train", "voc21"]},
            "voc_2012_test_21_sem_seg.* count their background as a class",
        ),
    ],
)
def test_what_does_not_go_together_is_said_first(files, plain, others, message):
    with pytest.raises(ValueError, match=message) as raised:
        check_training(config(files, **others))
    assert "\n" not in str(raised.value)


def test_class_lists_of_one_name_have_the_same_classes(files, tmp_path):
    content = yaml.safe_load(files[1].read_text())
    content |= {"name": "other", "root": str(files[1].parent)}
    other = tmp_path / "classes.json"
    listed = {"name": "colours", "version": "2", "classes": [[name] for name in TONES]}
    other.write_text(json.dumps(listed))
    content["classes"] = str(other)
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(content))
    register_files([tmp_path / "other.yaml"])
    with pytest.raises(
        ValueError, match="colours_train and other_train both call their class list"
    ):
        check_training(config(files, DATASETS__TRAIN=["colours_train", "other_train"]))


def test_names_that_cannot_win_are_said_first(files, tmp_path):
    listed = [["dark", "black"], ["dark", "night"], ["cyan"]]
    content = yaml.safe_load(files[1].read_text())
    content |= {"name": "same", "root": str(files[1].parent)}
    (tmp_path / "same.json").write_text(
        json.dumps({"name": "same", "version": "1", "classes": listed})
    )
    content["classes"] = str(tmp_path / "same.json")
    (tmp_path / "same.yaml").write_text(yaml.safe_dump(content))
    register_files([tmp_path / "same.yaml"])
    with pytest.raises(ValueError, match="vocabulary 'same': classes 0 and 1 are both 'dark'"):
        check_training(config(files, DATASETS__TRAIN=["colours_train", "same_train"]))


def test_a_name_that_does_not_fit_the_text_tower_is_said_before_the_first_step(files, tmp_path):
    content = yaml.safe_load(files[1].read_text())
    content |= {"name": "long", "root": str(files[1].parent)}
    content["classes"] = ["a word " * 80, "black", "cyan"]
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(content))
    register_files([tmp_path / "long.yaml"])
    cfg = config(
        files, DATASETS__TRAIN=["colours_train", "long_train"], OUTPUT_DIR=tmp_path / "run"
    )
    with pytest.raises(ValueError, match="context of"):
        Trainer(cfg)


@pytest.fixture
def samples(files, plain):
    """The model before training, its config, and four training samples of each dataset."""
    cfg = config(
        files, DATASETS__TRAIN=["colours_train", plain], MODEL__SEM_SEG_HEAD__SAMPLED_CLASSES=0
    )
    torch.manual_seed(0)
    np.random.seed(0)
    model = build_model(cfg)
    found = []
    for part in build_train_parts(cfg):
        found.append([{**part.mapper(x), **part.asks} for x in part.records[:4]])
    return model.train(), cfg, found


def test_a_step_has_the_labels_of_its_dataset(samples):
    """Its classes, and its label of none: the loss is that of a model which was told both."""
    model, _, batches = samples
    assert (batches[1][0]["sem_seg"] == 9).any() and not (batches[1][0]["sem_seg"] == 255).any()
    assert (batches[0][0]["sem_seg"] == 255).any()  # of the padding
    for batch in batches:
        told = copy.deepcopy(model)
        told.train_vocabulary = batch[0]["vocabulary"]
        told.ignore = batch[0]["ignore_label"]
        bare = [{key: x[key] for key in ("image", "sem_seg")} for x in batch]
        assert torch.equal(told(bare)["loss_sem_seg"], model(batch)["loss_sem_seg"])
    with pytest.raises(ValueError, match="training needs class names"):
        model(bare)


def test_micro_batches_and_sampled_classes_of_each_dataset(samples):
    model, cfg, batches = samples
    for sampled in (0, 2):
        model.sampled_classes = sampled
        for batch in batches:
            grads = []
            for parts in (1, 2, 4):
                torch.manual_seed(5)
                trained, metrics = step(model, cfg, batch, micro_batches=parts)
                named = trained.named_parameters()
                grads.append({n: p.grad for n, p in named if p.grad is not None})
                grads[-1]["loss"] = torch.tensor(metrics["total_loss"])
            for split in grads[1:]:
                for name, whole in grads[0].items():
                    bound = 1e-3 * max(whole.abs().max().item(), 1e-6)
                    assert (split[name] - whole).abs().max() <= bound, name


def test_sampled_classes_are_those_of_the_dataset(samples):
    model, _, batches = samples
    model.sampled_classes = 2
    for batch, classes in zip(batches, (COLOURS, TONES), strict=True):
        for record in batch:
            label, ignore = record["sem_seg"], record["ignore_label"]
            record["sem_seg"] = torch.where(label == ignore, ignore, len(classes) - 1)
        chosen = decide_for_all(batch, model)[0]["sampled_classes"].tolist()
        assert len(chosen) == 2 and chosen[-1] == len(classes) - 1


def test_mixed_training_learns_from_both(files, tmp_path, caplog):
    """The mIoU of each set rises far above that of the start; steps, metrics and results name the
    sets.
    """
    caplog.set_level(logging.INFO, logger="hyperclip.training")
    cfg = config(
        files,
        iterations=60,
        DATALOADER__NUM_WORKERS=0,
        SOLVER__BASE_LR=2e-3,
        SOLVER__CLIP_MULTIPLIER=1.0,
        DATASETS__TRAIN_WEIGHTS=[1, 2],
        OUTPUT_DIR=tmp_path,
    )
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    names = registered_names(cfg.DATASETS.TEST)
    before = {name: evaluate_dataset(cfg, trainer.model, name).scores["mIoU"] for name in names}
    assert trainer.model.train_vocabulary is None
    results = trainer.train()
    for name in names:
        assert results[name]["mIoU"] > before[name] + 20, (before, results[name]["mIoU"])
    lines = [json.loads(x) for x in (tmp_path / "metrics.json").read_text().splitlines()]
    steps = [(x["steps/colours"], x["steps/tones"]) for x in lines if "steps/tones" in x]
    assert all(sum(both) == k + 1 for k, both in enumerate(steps)) and len(steps) == 60
    assert steps[-1][1] == pytest.approx(40, abs=2)
    said = "Steps by class list: {:.0f} of colours, {:.0f} of tones".format(*steps[-1])
    assert said in caplog.messages
    row = rows_of(tmp_path)["colours_val"]
    assert row["trained_on"] == "colours_train, tones_train"
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert saved["trained_on"] == ["colours_train", "tones_train"]
    loaded = load_model(config(files, MODEL__WEIGHTS=tmp_path / "model_final.pth"))
    assert loaded.trained_on == ("colours_train", "tones_train")


MIXED = {
    "MODEL__SEM_SEG_HEAD__SAMPLED_CLASSES": 2,
    "INPUT__SIZE_DIVISIBILITY": -1,
    "INPUT__CROP__ENABLED": False,
    "DATASETS__TRAIN_WEIGHTS": [2, 1],
    "DATASETS__TEST": [],
    "SOLVER__CHECKPOINT_PERIOD": 4,
    "SOLVER__MAX_ITER": 10,
}
"""Grouped by shape, weighted, with sampled classes."""


def test_it_goes_on_bit_by_bit_in_one_or_two_processes(files, tmp_path):
    """Two processes do what one does with two micro-batches; a killed run of either goes on."""
    folders = {name: tmp_path / name for name in ("one", "two", "cut")}
    for folder in folders.values():
        folder.mkdir()
    split = keys(files, **MIXED, SOLVER__MICRO_BATCHES=2)
    runs = (
        ("one", split, ()),
        ("two", keys(files, **MIXED), ("--num-gpus", "2")),
        ("cut", split, ("--kill-at", "6", "--signal", "SIGKILL")),
        ("cut", split, ("--resume",)),
    )
    for name, own, options in runs:
        done = train(folders[name], own, *options)
        assert done.returncode in (0, -9, INTERRUPTED), done.stderr[-3000:]
    assert records_of(folders["cut"]) == records_of(folders["one"])
    assert_equal_state(folders["cut"], folders["one"])
    one, two = records_of(folders["one"]), [records_of(folders["two"], r) for r in range(2)]
    for k in range(10):
        assert one[k]["batch"] == two[0][k]["batch"] + two[1][k]["batch"]
        assert one[k]["norm"] == two[0][k]["norm"] == two[1][k]["norm"]
    first, second = (
        torch.load(folders[name] / "model_final.pth", weights_only=True) for name in ("one", "two")
    )
    assert_same(first["model"], second["model"], "model")
    assert min(first["processes"][0]["stream"]["batches"]) > 0


def test_weights_and_sets_make_another_run(files, tmp_path):
    done = train(tmp_path, keys(files, **MIXED), "--kill-at", "6", "--signal", "SIGTERM")
    assert done.returncode == INTERRUPTED
    done = train(tmp_path, keys(files, **MIXED | {"DATASETS__TRAIN_WEIGHTS": []}), "--resume")
    assert done.returncode != 0 and "DATASETS.TRAIN_WEIGHTS: [2, 1] -> []" in done.stderr
