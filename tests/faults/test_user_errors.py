"""What a user can get wrong on the command line, and what is said then."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import hyperclip.commands.demo
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from hyperclip.commands.demo_inputs import find_inputs, name_results
from hyperclip.commands.demo_results import ClassList, save_prediction
from hyperclip.config.keys import load_config
from hyperclip.data.class_lists import train_vocabulary
from hyperclip.prediction import Prediction
from hyperclip.predictor import Predictor
from hyperclip.training.run_folder import check_output_folder, clear_run
from hyperclip.vocabulary import Vocabulary
from PIL import Image

from tests.helpers.asking import ask
from tests.helpers.programs import run_program

QUICK = "configs/quickstart/hyperclip.yaml"
DENSE = "configs/quickstart/dense_clip.yaml"


def run(*arguments):
    return run_program(*arguments, timeout=300)


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
        (["MODEL.SEM_SEG_HEAD.ATTENTION_TYPE", "flash"], r"expected one of \['linear', 'full'\]"),
        (["MODEL.SEM_SEG_HEAD.TEXT_GUIDANCE_DIM", "512"], "expected 64, CLIP's embedding width"),
        (["MODEL.SEM_SEG_HEAD.WINDOW_SIZES", "5"], "expected a divisor of the feature grid"),
        (["MODEL.SEM_SEG_HEAD.POOLING_SIZES", "[5, 5]"], r"POOLING_SIZES: got \[5, 5\], expected"),
        (
            ["MODEL.SEM_SEG_HEAD.POOLING_SIZES_TEST", "[1, 5]"],
            r"POOLING_SIZES_TEST: got \[1, 5\], expected divisors of the feature grid",
        ),
        (["MODEL.ADAPTER.BLOCK_SIZE", "48"], "expected a divisor of the attention width 128"),
        (["MODEL.ADAPTER.PROJECTIONS", "['q', 'o']"], "expected one or more of"),
        (["MODEL.ADAPTER.CURVATURE_TEXT", "0.0"], "expected a positive number"),
        (["MODEL.PROMPT_ENSEMBLE_TYPE", "vild"], "got 'vild'"),
        (["MODEL.SYNONYMS", "all"], "got 'all'"),
        (["TEST.SLIDING_WINDOW", "True", "TEST.SLIDING.SIZE", "600"], "do not cover 600"),
        (["MODEL.SEM_SEG_HEAD.CLIP_LAYERS", "[1, 5]"], "expected indices 0 to 4"),
    ],
)
def test_values_are_checked_when_the_model_is_built(overrides, message):
    with pytest.raises(ValueError, match=message):
        model = build_model(load_config(QUICK, ["MODEL.DEVICE", "cpu", *overrides]))
        ask(model.eval(), torch.zeros(3, 96, 96), Vocabulary.from_text("dog; cat"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["DATASETS.TRAIN", "('tinyscenes_train', 'tinyscenes_val_unseen')"],
            "got 2 class lists, expected one for all sets",
        ),
        (["DATASETS.TRAIN", "()"], "DATASETS.TRAIN is empty"),
        (["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "59"], "got 59, dataset tinyscenes_train has 60"),
        (["MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "7"], "got 7, dataset tinyscenes_train ignores 255"),
        (
            ["MODEL.SEM_SEG_HEAD.TRAIN_CLASS_JSON", "hyperclip/vocabulary/lists/coco_stuff.json"],
            "has 171 classes",
        ),
    ],
)
def test_class_lists_that_do_not_fit_the_labels(overrides, message):
    with pytest.raises(ValueError, match=message):
        train_vocabulary(load_config(QUICK, overrides))


@pytest.mark.parametrize(
    "left",
    ["metrics.json", "last_checkpoint", "model_0000004.pth", "model_final.pth", "model_best.pth"],
)
def test_a_folder_that_holds_a_training_is_refused(tmp_path, left):
    """Of the same config, too; a folder with anything else is not."""
    cfg = load_config(QUICK, ["OUTPUT_DIR", str(tmp_path)])
    for name in ("log.txt", "results.json", "model_zoo.pth", "console.txt"):
        (tmp_path / name).write_text("of something else")
    # of a start that failed
    (tmp_path / "config.yaml").write_text(load_config(QUICK, ["SOLVER.BASE_LR", "0.5"]).dump())
    check_output_folder(cfg)
    (tmp_path / left).write_text("of a training")
    how = "To go on with it pass --resume, else choose another OUTPUT_DIR; .* set OVERWRITE True"
    other = r"of another config \(1 keys differ: SOLVER.BASE_LR: 0.5 -> 0.002\)"
    with pytest.raises(ValueError, match=rf"holds a training already \({left} … {other}\). {how}"):
        check_output_folder(cfg)
    cut = cfg.dump().partition("MAPPER_NAME")[0]  # in the middle of a key
    for text in (cfg.dump(), cut, "", "a: [", "- 3"):  # whole, cut short, none
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(ValueError, match=rf"holds a training already \({left} …\). {how}"):
            check_output_folder(cfg)
    check_output_folder(load_config(QUICK, ["OUTPUT_DIR", str(tmp_path), "OVERWRITE", "True"]))


def test_overwriting_takes_what_a_training_wrote_and_nothing_else(tmp_path):
    keys = ["OUTPUT_DIR", str(tmp_path), "OVERWRITE", "True"]
    written = [
        "model_0000004.pth",
        "model_final.pth",
        "model_final_average.pth",
        "model_best.pth",
        "model_best.json",
        "last_checkpoint",
        "metrics.json",
        "results.json",
        "wandb_id.txt",
        "events.out.tfevents.1.host.2.0",
        "nonfinite_iteration_3_process_0.json",
        "per_image/colours_val.jsonl",
        "predictions/colours_val/000000_labels.png",
        "predictions/colours_val/predictions.json",
    ]
    others = ["notes.txt", "model_zoo.pth", "ViT-B-16.pt", "data/model_final.pth"]
    for name in written + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    clear_run(load_config(QUICK, keys[:2]))
    assert all((tmp_path / name).exists() for name in written)
    inside = load_config(QUICK, [*keys, "MODEL.WEIGHTS", str(tmp_path / "model_best.pth")])
    with pytest.raises(
        ValueError,
        match="OVERWRITE: got True with MODEL.WEIGHTS .*one of the files that it removes",
    ):
        check_output_folder(inside)
    with pytest.raises(
        ValueError, match="OVERWRITE: got True with --resume, expected one of the two"
    ):
        check_output_folder(load_config(QUICK, keys), resume=True)
    clear_run(load_config(QUICK, keys))
    assert not any((tmp_path / name).exists() for name in written) and all(
        (tmp_path / name).exists() for name in others
    )


def test_a_head_without_weights_is_refused():
    with pytest.raises(ValueError, match="MODEL.WEIGHTS is empty"):
        Predictor.from_config(QUICK)
    with pytest.raises(ValueError, match="merge them into it first"):
        Predictor.from_config(load_config(DENSE), ["MODEL.WEIGHTS", "x.pth"])


@pytest.mark.parametrize(
    "names", [("a/x.png", "b/x.png"), ("a/x.png", "a/x_labels.png"), ("out/x.png",)]
)
def test_demo_never_replaces_a_picture(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
    before = {name: (tmp_path / name).read_bytes() for name in names}
    inputs = [tmp_path / name for name in names]
    done = run(
        "demo/demo.py", "--config-file", DENSE, "--input", *inputs, "--output", tmp_path / "out"
    )
    assert done.returncode == 1 and "would" in done.stderr.splitlines()[-1]
    assert {name: (tmp_path / name).read_bytes() for name in names} == before


def demo_module():
    return hyperclip.commands.demo


@pytest.mark.parametrize(
    ("system", "threshold", "limit"),
    [
        (DENSE, "nan", 1),
        (DENSE, "inf", 1),
        (DENSE, "-inf", 1),
        (DENSE, "-0.1", 1),
        (DENSE, "1.5", 1),
        ("configs/quickstart/cliper.yaml", "2.5", 2),
        ("configs/quickstart/cliper.yaml", "nan", 2),
    ],
)
def test_demo_thresholds_out_of_range(system, threshold, limit):
    with pytest.raises(
        ValueError, match=f"--threshold: got {float(threshold)}, expected 0 to {limit}"
    ):
        demo_module().check_threshold(load_config(system), float(threshold))


def test_demo_thresholds_in_range():
    check, cliper = demo_module().check_threshold, "configs/quickstart/cliper.yaml"
    for system, overrides, threshold in ((DENSE, [], 1.0), (cliper, [], 1.9), (DENSE, [], 0.0)):
        check(load_config(system, overrides), threshold)
    with pytest.raises(ValueError, match="expected 0 to 1"):
        check(load_config(cliper, ["MODEL.CLIPER.NORMALIZE", "True"]), 1.9)


def test_demo_names_or_takes_what_a_folder_holds(tmp_path, caplog):
    for name in ("a.jpg", "b.PNG", "notes.txt", ".hidden.png", "._a.jpg", "movie.mp4", "no_suffix"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "more.png").mkdir()
    found = find_inputs([str(tmp_path)])
    named = caplog.text
    for path in tmp_path.iterdir():
        hidden = path.name.startswith(".")
        assert (path in found) + (path.name in named) == (0 if hidden else 1), path
    assert [path.name for path in found] == ["a.jpg", "b.PNG"]


def test_demo_gives_images_of_one_stem_names_of_their_own(tmp_path):
    def names(*images):
        inputs = {tmp_path / name: Path(name) for name in images}
        return [source.name for source in name_results(inputs, output, ["overlay", "labels"])]

    images, output = ("a.jpg", "a.png", "a.bmp", "b.jpg", "c.d.png"), tmp_path / "out"
    assert names(*images) == ["a.jpg", "a.png", "a.bmp", "b", "c.d"]
    with pytest.raises(ValueError, match="would both be written to"):
        names(*images, "a.jpg.png")
    output = tmp_path
    with pytest.raises(ValueError, match="is an input and would be replaced"):
        names(*images, "a.png.png")


def test_demo_s_class_list_agrees_with_the_label_maps(tmp_path):
    file = tmp_path / "classes.json"
    names = [f"thing {i}" for i in range(200)]
    classes = ClassList(file, Vocabulary.from_names(names), None)
    labels = np.array([[3, 158, 7], [158, 3, -1]]).repeat(30, 0).repeat(30, 1)
    plain = np.array([[158, 7]]).repeat(30, 0).repeat(30, 1)
    for name, values in (("one", labels), ("two", plain)):
        prediction = Prediction(values, np.ones(values.shape, np.float32), names)
        image = np.zeros((*values.shape, 3), np.uint8)
        save_prediction(tmp_path, name, image, prediction)
        classes.add(name, values)
    listed = json.loads(file.read_text())
    assert [i for i, entry in enumerate(listed) if "recolored" in entry] == [158]
    for name in ("one", "two"):
        indices = np.asarray(Image.open(tmp_path / f"{name}_labels.png"))
        colors = np.asarray(Image.open(tmp_path / f"{name}_labels.png").convert("RGB"))
        for i in set(np.unique(indices)) - {255}:
            expected = listed[i].get("recolored", {}).get(name, listed[i]["color"])
            assert (colors[indices == i] == expected).all()
    assert listed[3]["color"] == listed[158]["color"] != listed[158]["recolored"]["one"]


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
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3)).astype(np.uint8)).save(
        folder / "good.png"
    )
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(folder / "grey.png")
    (folder / "empty.jpg").write_bytes(b"")
    done = run(
        "demo/demo.py",
        "--config-file",
        DENSE,
        "--input",
        folder,
        "--output",
        tmp_path / "out",
        "--vocabulary",
        "red plain star, a red star; blue striped cross",
    )
    assert done.returncode == 1, done.stderr
    assert "empty.jpg" in done.stdout + done.stderr and "Traceback" not in done.stdout + done.stderr
    written = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert written == [
        *("classes.json", "good.png", "good_labels.png", "grey.png", "grey_labels.png", "run.json")
    ]
    labels = np.asarray(Image.open(tmp_path / "out/good_labels.png"))
    assert labels.shape == (60, 90) and set(np.unique(labels)) <= {0, 1}
    classes = json.loads((tmp_path / "out/classes.json").read_text())
    assert [c["name"] for c in classes] == ["red plain star", "blue striped cross"]
    assert [c["asked"] for c in classes] == [
        ["red plain star", "a red star"],
        ["blue striped cross"],
    ]
    assert {c["synonyms"] for c in classes} == {"mean"}


def test_demo_reads_names_of_several_lines_and_of_files(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3)).astype(np.uint8)).save(
        tmp_path / "a.png"
    )
    (tmp_path / "names.txt").write_bytes(
        b"red plain star, a red star\r\n\r\nblue striped cross\r\n"
    )
    (tmp_path / "names.json").write_text('["red plain star, a red star", "blue striped cross"]')
    labels = []
    for words in (
        "red plain star, a red star\nblue striped cross",
        tmp_path / "names.txt",
        tmp_path / "names.json",
    ):
        done = run(
            "demo/demo.py",
            "--config-file",
            DENSE,
            "--input",
            tmp_path / "a.png",
            "--output",
            tmp_path / "out",
            "--vocabulary",
            words,
        )
        assert done.returncode == 0, done.stderr
        labels.append(np.asarray(Image.open(tmp_path / "out/a_labels.png")))
        classes = json.loads((tmp_path / "out/classes.json").read_text())
        assert [c["name"] for c in classes] == ["red plain star", "blue striped cross"]
    assert (labels[0] == labels[1]).all() and [c["synonyms"] for c in classes] == ["first", "first"]
    for words, message in (
        ("Car; road; car", "classes 0 and 2 are both 'Car'"),
        (tmp_path / "none.txt", "does not exist"),
    ):
        done = run(
            "demo/demo.py",
            "--config-file",
            DENSE,
            "--input",
            tmp_path / "a.png",
            "--output",
            tmp_path / "new",
            "--vocabulary",
            words,
        )
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["demo/demo.py", "--config-file", DENSE, "--input", "nowhere", "--output", "out"],
            "no image at 'nowhere'",
        ),
        (
            [
                "tools/train_net.py",
                "--config-file",
                QUICK,
                "--eval-only",
                "MODEL.WEIGHTS",
                "none.pth",
            ],
            "does not exist",
        ),
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
    code = "import sys; sys.modules['detectron2'] = None\nimport hyperclip.config.keys"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "tools/setup.sh" in done.stderr.splitlines()[-1]
