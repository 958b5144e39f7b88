"""What a user can get wrong on the command line, and what is said then."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from hyperclip.config import load_config
from hyperclip.engine.setup import check_output_folder
from hyperclip.engine.vocabularies import train_vocabulary
from hyperclip.predictor import Predictor
from hyperclip.vocabulary import Vocabulary
from PIL import Image

QUICK = "configs/quickstart/hyperclip.yaml"
DENSE = "configs/quickstart/dense_clip.yaml"


def run(*arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.SEM_SEG_HEAD.NUM_LAYER", "3"], "Nearest valid keys: .*NUM_LAYERS"),
        (["MODEL.SWIN.DEPTHS", "3"], "the vision backbone is CLIP itself"),
        (["SOLVER.BACKBONE_MULTIPLIER", "0.0"], "use SOLVER.CLIP_MULTIPLIER"),
        (["SOLVER.BASE_LR"], "expected pairs KEY VALUE"),
        (["SOLVER.BASE_LR", "fast"], "SOLVER.BASE_LR"),
    ],
)
def test_config_keys(overrides, message):
    with pytest.raises(ValueError, match=message):
        load_config(QUICK, overrides)


def test_missing_config_file():
    with pytest.raises(FileNotFoundError, match="'none.yaml', which does not exist"):
        load_config("none.yaml")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.SEM_SEG_HEAD.CLIP_FINETUNE", "oft_both"], "got 'oft_both', expected one of"),
        (["MODEL.SEM_SEG_HEAD.NAME", "CATSegHead"], "expected CostVolumeHead"),
        (["MODEL.SEM_SEG_HEAD.ATTENTION_TYPE", "flash"], "expected 'linear' or 'full'"),
        (["MODEL.SEM_SEG_HEAD.TEXT_GUIDANCE_DIM", "512"], "expected 64, CLIP's embedding width"),
        (["MODEL.SEM_SEG_HEAD.WINDOW_SIZES", "5"], "expected a divisor of the feature grid"),
        (["MODEL.SEM_SEG_HEAD.POOLING_SIZES", "[5, 5]"], "expected divisors of the feature grid"),
        (["MODEL.ADAPTER.BLOCK_SIZE", "48"], "expected a divisor of the attention width 128"),
        (["MODEL.ADAPTER.PROJECTIONS", "['q', 'o']"], "expected one or more of"),
        (["MODEL.ADAPTER.CURVATURE_TEXT", "0.0"], "expected a positive number"),
        (["MODEL.PROMPT_ENSEMBLE_TYPE", "vild"], "got 'vild'"),
        (["MODEL.SYNONYMS", "all"], "got 'all'"),
        (["TEST.OUTPUT", "mask"], "expected 'scores' or 'labels'"),
        (["TEST.SLIDING_WINDOW", "True", "TEST.SLIDING.SIZE", "600"], "do not cover 600"),
        (["MODEL.SEM_SEG_HEAD.CLIP_LAYERS", "[1, 5]"], "expected indices 0 to 4"),
    ],
)
def test_values_are_checked_when_the_model_is_built(overrides, message):
    with pytest.raises(ValueError, match=message):
        model = build_model(load_config(QUICK, ["MODEL.DEVICE", "cpu", *overrides]))
        model.set_vocabulary(Vocabulary.from_text("dog; cat"))
        model.eval()([{"image": torch.zeros(3, 96, 96)}])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["DATASETS.TRAIN", "('tinyscenes_train', 'tinyscenes_val_unseen')"], "class lists differ"),
        (["DATASETS.TRAIN", "()"], "DATASETS.TRAIN is empty"),
        (["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "59"], "got 59, dataset tinyscenes_train has 60"),
        (["MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "7"], "got 7, dataset tinyscenes_train ignores 255"),
        (["MODEL.SEM_SEG_HEAD.TRAIN_CLASS_JSON", "hyperclip/vocabulary/lists/coco_stuff.json"], "has 171 classes"),
    ],
)
def test_class_lists_that_do_not_fit_the_labels(overrides, message):
    with pytest.raises(ValueError, match=message):
        train_vocabulary(load_config(QUICK, overrides))


def test_a_folder_with_another_config_s_run_is_refused(tmp_path):
    cfg = load_config(QUICK, ["OUTPUT_DIR", str(tmp_path)])
    check_output_folder(cfg)
    (tmp_path / "config.yaml").write_text(load_config(QUICK, ["SOLVER.BASE_LR", "0.5"]).dump())
    with pytest.raises(ValueError, match=r"1 keys differ: SOLVER.BASE_LR: 0.5 -> 0.002"):
        check_output_folder(cfg)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    check_output_folder(cfg)


def test_a_head_without_weights_is_refused():
    with pytest.raises(ValueError, match="MODEL.WEIGHTS is empty"):
        Predictor.from_config(QUICK)
    with pytest.raises(ValueError, match="merge them into it first"):
        Predictor.from_config(load_config(DENSE), ["MODEL.WEIGHTS", "x.pth"])


@pytest.mark.parametrize("names", [("a/x.png", "b/x.png"), ("a/x.png", "a/x_labels.png"), ("out/x.png",)])
def test_demo_never_replaces_a_picture(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
    before = {name: (tmp_path / name).read_bytes() for name in names}
    inputs = [tmp_path / name for name in names]
    done = run("demo/demo.py", "--config-file", DENSE, "--input", *inputs, "--output", tmp_path / "out")
    assert done.returncode == 1 and "would" in done.stderr.splitlines()[-1]
    assert {name: (tmp_path / name).read_bytes() for name in names} == before


def test_predictor_states_and_inputs():
    predictor = Predictor.from_config(DENSE)
    with pytest.raises(RuntimeError, match="Call set_image"):
        predictor.predict("dog")
    with pytest.raises(ValueError, match="expected uint8"):
        predictor.set_image(np.zeros((8, 8), np.uint8))
    predictor.set_image(np.zeros((50, 70, 3), np.uint8))
    with pytest.raises(ValueError, match="got no class"):
        predictor.predict(" ; ")
    with pytest.raises(ValueError, match="are both 'dog'"):
        predictor.predict("dog; dog")
    prediction = predictor.predict("dog; cat; " + "; ".join(f"thing {i}" for i in range(300)))
    assert prediction.labels.shape == (50, 70) and len(prediction.names) == 302


def test_demo_goes_on_after_a_broken_image(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3)).astype(np.uint8)).save(folder / "good.png")
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(folder / "grey.png")
    (folder / "empty.jpg").write_bytes(b"")
    done = run(
        "demo/demo.py", "--config-file", DENSE, "--input", folder, "--output", tmp_path / "out",
        "--vocabulary", "red plain star, a red star; blue striped cross",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "empty.jpg" in done.stdout + done.stderr and "Traceback" not in done.stdout + done.stderr
    written = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert written == ["classes.json", "good.png", "good_labels.png", "grey.png", "grey_labels.png"]
    labels = np.asarray(Image.open(tmp_path / "out/good_labels.png"))
    assert labels.shape == (60, 90) and set(np.unique(labels)) <= {0, 1}
    classes = json.loads((tmp_path / "out/classes.json").read_text())
    assert [c["name"] for c in classes] == ["red plain star", "blue striped cross"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo/demo.py", "--config-file", DENSE, "--input", "nowhere", "--output", "out"], "no image at 'nowhere'"),
        (["tools/train_net.py", "--config-file", QUICK, "--eval-only", "MODEL.WEIGHTS", "none.pth"], "does not exist"),
        (["tools/compare_runs.py", "A=nowhere"], "expected the output folder"),
    ],
)
def test_errors_are_one_line_and_not_a_traceback(arguments, message, tmp_path):
    if "tools/train_net.py" in arguments:
        arguments = [*arguments, "OUTPUT_DIR", tmp_path]
    done = run(*arguments)
    assert done.returncode == 1 and message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_detectron2_missing_is_one_clear_error():
    code = "import sys; sys.modules['detectron2'] = None\nimport hyperclip.config"
    done = run("-c", code)
    assert done.returncode == 1
    assert "tools/setup.sh" in done.stderr.splitlines()[-1]
