"""What can be known before the first image is an error before it: in a training, in an evaluation,
in drawing.
"""

from __future__ import annotations

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hyperclip.clip import TextEmbedder, load_clip
from hyperclip.config.keys import load_config
from hyperclip.data import DATASETS, registered_names
from hyperclip.data.dataset_file import register_files
from hyperclip.segmenter import Description, Segmenter
from hyperclip.training.checks import (
    best_metric,
    check_expected,
    check_model,
    check_test_sets,
    check_training,
)
from hyperclip.training.trainer import verify_expected

from tests.helpers.colours import COLOURS, keys_of, write_colours
from tests.helpers.programs import run_program
from tests.helpers.results import rows_of
from tests.training.test_curves import forget_colours

QUICK = "configs/quickstart/hyperclip.yaml"


@pytest.fixture
def colours(tmp_path):
    """The YAML file of the coloured quarters, registered."""
    path = write_colours(tmp_path)
    register_files([path])
    yield path
    forget_colours()


@pytest.fixture
def config(colours):
    return lambda **keys: load_config(QUICK, keys_of(colours, 1, **keys))


@pytest.fixture
def registered():
    """Registers a dataset with Detectron2 alone: ``registered(name, records, **metadata)``."""
    names = []

    def add(name, records, **metadata):
        names.append(name)
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(**metadata)

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


RECORDS = [{"file_name": "a.jpg", "sem_seg_file_name": "a.png"}]
WHOLE = {"stuff_classes": list(COLOURS), "ignore_label": 255}


def test_what_is_right_passes(config, registered):
    registered("plain", RECORDS, **WHOLE)
    for keys in (
        {},
        {"DATASETS__TEST": []},
        {"DATASETS__TEST": ["plain", "colours_val"]},
        {"TEST__BEST_METRIC": ""},
        {"TEST__BEST_METRIC": "colours_val/IoU-red"},
    ):
        check_training(config(**keys))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"DATASETS__TEST": ["colours_vall"]}, "dataset: got 'colours_vall', expected one of"),
        (
            {"DATASETS__TEST": ["colours_val", "pc59"]},
            "dataset context_59_test_sem_seg: not found below",
        ),
        (
            {"MODEL__SEM_SEG_HEAD__TEST_CLASS_JSON": "voc20"},
            "has 20 classes, dataset colours_val has 4",
        ),
        ({"TEST__VOCABULARY": "mine"}, "TEST.VOCABULARY: got 'mine', expected one of"),
        ({"TEST__BEST_METRIC": "mIOU"}, "TEST.BEST_METRIC: got 'mIOU', expected one of"),
        (
            {"TEST__BEST_METRIC": "colours_train/mIoU"},
            "TEST.BEST_METRIC: got 'colours_train/mIoU', expected one of",
        ),
        (
            {"TEST__BEST_METRIC": "boundary_mIoU"},
            r"TEST.BEST_METRIC: got 'boundary_mIoU', expected one of \['mIoU', 'mIoU_old', 'pACC'",
        ),
        (
            {"TEST__BEST_METRIC": "colours_val/x"},
            "got 'colours_val/x', expected one of .* with a dataset of .'colours_val'",
        ),
        (
            {"TEST__BEST_METRIC": "IoU-rde"},
            "TEST.BEST_METRIC: got 'IoU-rde', but dataset colours_val has no class 'rde'",
        ),
        ({"TEST__IMS_PER_BATCH": 0}, "TEST.IMS_PER_BATCH .*: got 0, expected 1 or more"),
        ({"DATASETS__TRAIN": ["colours"]}, "dataset: got 'colours', expected one of"),
        (
            {"DATASETS__TEST": ["no_ignore"]},
            "no_ignore: got no ignore_label in Detectron2's MetadataCatalog",
        ),
        (
            {"DATASETS__TEST": ["no_classes"]},
            "no_classes: got no stuff_classes and no ignore_label in",
        ),
        (
            {"DATASETS__TEST": ["ignores_a_class"]},
            "ignores_a_class: ignore_label: got 3, .* none of its classes 0 to 3",
        ),
        ({"DATASETS__TEST": ["empty"]}, "dataset empty: got no image"),
        (
            {"DATASETS__TEST": ["unlabelled"]},
            "dataset unlabelled: record 1 has no 'sem_seg_file_name'",
        ),
        (
            {"DATASETS__TRAIN": ["unlabelled"]},
            "dataset unlabelled: record 1 has no 'sem_seg_file_name'",
        ),
    ],
)
def test_before_a_training(config, registered, keys, message):
    registered("no_ignore", RECORDS, stuff_classes=list(COLOURS))
    registered("no_classes", RECORDS)
    registered("ignores_a_class", RECORDS, **{**WHOLE, "ignore_label": 3})
    registered("empty", [], **WHOLE)
    registered("unlabelled", [*RECORDS, {"file_name": "b.jpg"}], **WHOLE)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_training(config(**keys))


def test_before_an_evaluation(config):
    check_test_sets(config(DATASETS__TRAIN=["nothing"]))
    with pytest.raises(ValueError, match="got 'colours_vall'"):
        check_test_sets(config(DATASETS__TEST=["colours_val", "colours_vall"]))


class Simple(Segmenter):
    """A system that is asked nothing, and a tokenizer of one token a letter."""

    def __init__(self):
        super().__init__()
        self.clip = load_clip("configs/quickstart/tiny_clip", load=False).model
        self.clip.context_length = 30
        self.text = TextEmbedder(self.tokenize, ("a photo of a {}",), "first")

    def encode(self, images):
        raise NotImplementedError

    def segment(self, encoded, question, size):
        raise NotImplementedError

    def describe(self, dataset=()):
        return Description("Simple")

    def check(self, vocabulary):
        self.text.check(self.clip, vocabulary)

    @staticmethod
    def tokenize(prompts, context_length):
        import torch

        return torch.tensor(
            [[1] * min(len(p), context_length) + [0] * (context_length - len(p)) for p in prompts]
        )


def test_what_a_model_cannot_be_asked(config, registered):
    registered(
        "long_name", RECORDS, stuff_classes=["red", "a colour with a long name"], ignore_label=255
    )
    check_model(config(), Simple())
    with pytest.raises(
        ValueError, match="context of 30 tokens: got .a photo of a a colour with a long name"
    ):
        check_model(config(DATASETS__TEST=["long_name"]), Simple())


def test_an_alias_stands_for_its_name_everywhere(config):
    assert registered_names(["voc21", "colours_val", "voc_2012_test_21_sem_seg"]) == [
        "voc_2012_test_21_sem_seg",
        "colours_val",
    ]
    assert DATASETS["tinyscenes_train"].alias == "tiny_train"
    cfg = config(DATASETS__TEST=["pas20"], TEST__BEST_METRIC="pas20/mIoU")
    assert best_metric(cfg) == "voc_2012_test_sem_seg/mIoU"


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        (["tools/train_net.py"], "dataset context_59_test_sem_seg: not found below"),
        (["tools/train_net.py", "--eval-only"], "dataset context_59_test_sem_seg: not found below"),
        (
            ["tools/visualize.py", "--dataset", "pc59"],
            "dataset context_59_test_sem_seg: not found below",
        ),
    ],
)
def test_every_tool_says_it_before_the_first_image(colours, tmp_path, tool, message):
    """The weights cannot be read either, which would be the error of the model."""
    weights = tmp_path / "weights.pth"
    weights.write_text("none")
    keys = keys_of(
        colours,
        1,
        DATASETS__TEST=["colours_val", "pc59"],
        MODEL__WEIGHTS=weights,
        OUTPUT_DIR=tmp_path / "out",
    )
    options = ["--output", str(tmp_path / "out"), "--opts"] if "--dataset" in tool else []
    done = run_program(*tool, "--config-file", QUICK, *options, *keys)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert message in done.stderr.split("\nerror: ")[-1]


def test_a_start_that_failed_does_not_refuse_the_corrected_one(colours, tmp_path):
    """Nor with --resume, which a queue always passes."""
    command = ["tools/train_net.py", "--config-file", QUICK, "--num-gpus", "1"]
    keys = dict(SOLVER__IMS_PER_BATCH=2, DATALOADER__NUM_WORKERS=0, OUTPUT_DIR=tmp_path / "out")  # noqa: C408
    wrong = {"DATASETS__TEST": ["colours_vall"], "SOLVER__BASE_LR": 0.1}
    for options, other in (
        ([], wrong),
        (["--resume"], wrong),
        (["--resume"], {"TEST__BEST_METRIC": "pACC"}),
    ):
        done = run_program(*command, *options, *keys_of(colours, 1, **keys, **other))
        assert (done.returncode == 0) == (other is not wrong), done.stderr[-2000:]
    assert rows_of(tmp_path / "out")["colours_val"]["images"] == 12


@pytest.mark.parametrize(
    ("entry", "status"),
    [
        (["sem_seg", "mIoU", 50.0, 0.5], 0),
        (["tiny_val_unseen", "mIoU", 50.4, 0.5], 0),
        (["tinyscenes_val_unseen", "mIoU", 51.0, 0.5], 1),
        (["sem_seg", "pACC", 51.0, 0.5], 1),
    ],
)
def test_expected_results_are_compared_as_in_detectron2(entry, status):
    cfg = load_config(
        "configs/quickstart/dense_clip.yaml",
        ["DATASETS.TEST", "('tinyscenes_val_unseen',)", "TEST.EXPECTED_RESULTS", f"[{entry}]"],
    )
    results = {"tinyscenes_val_unseen": {"mIoU": 50.0, "pACC": 50.0}}
    if status == 0:
        verify_expected(cfg, results)
        return
    with pytest.raises(SystemExit) as stop:
        verify_expected(cfg, results)
    assert stop.value.code == 1


@pytest.mark.parametrize(
    "entry", [["pas20", "mIoU", 1, 1], ["sem_seg", "AP", 1, 1], ["sem_seg", "mIoU"]]
)
def test_expected_results_are_checked_first(tmp_path, monkeypatch, entry):
    cfg = load_config(
        "configs/quickstart/dense_clip.yaml",
        ["DATASETS.TEST", "('tinyscenes_val_unseen',)", "TEST.EXPECTED_RESULTS", f"[{entry}]"],
    )
    with pytest.raises(ValueError, match="^TEST.EXPECTED_RESULTS: got .* expected "):
        check_expected(cfg)
