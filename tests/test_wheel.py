"""From a wheel, in an environment and a folder that know nothing of the repository."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from hyperclip import Predictor, load_config
from hyperclip.evaluation.results_files import read_results
from hyperclip.evaluation.suite import System, make_plan, run_suite
from PIL import Image

from tests.conftest import ROOT

CONFIG = "configs/quickstart/cliper.yaml"
# PYTHONPATH may lead to the repository, whose metadata pip would take for an installed wheel
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("PYTHONPATH", "DETECTRON2_DATASETS")
}
CLASSES = "red plain circle; blue striped star"
USE = """
import cliper, hyperclip
from hyperclip import Predictor, Question, Vocabulary, load_config
from hyperclip.data import dataset_root
from hyperclip.data.label_conversion import Job, convert_files
from hyperclip.tinyscenes.drawing import render_scene
folder = dataset_root() / "tinyscenes/val_seen"
kinds = ("images", "labels")
jobs = [
    Job(str(i), tuple(folder / kind / f"{i:05d}.png" for kind in kinds), lambda i=i: render_scene("val_seen", i))
    for i in range(2)
]
convert_files(jobs, folder)
print(hyperclip.__file__, cliper.__file__, hyperclip.__version__, sep="\\n")
"""  # noqa: E501


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of the programs of an environment that holds the wheel, and the packages of this
    one without its .pth.
    """
    source, built, folder = (
        tmp_path_factory.mktemp(name) for name in ("source", "built", "environment")
    )
    for name in ("hyperclip", "cliper", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    wheel = [
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(built),
        str(source),
    ]
    subprocess.run([*pip, *wheel], env=ENVIRONMENT, check=True)
    venv.create(folder, with_pip=False, symlinks=True)
    programs = next(p for p in (folder / "bin", folder / "Scripts") if p.is_dir())
    install = [
        "--python",
        str(folder),
        "install",
        "--no-deps",
        "--no-index",
        *map(str, built.glob("*.whl")),
    ]
    subprocess.run([*pip, *install], env=ENVIRONMENT, check=True)
    packages = next(folder.rglob("site-packages"))
    (packages / "outer.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return programs


def test_the_wheel_works_in_an_empty_folder(installed, tmp_path, monkeypatch):
    def run(program: str, *arguments: object) -> str:
        done = subprocess.run(
            [installed / program, *map(str, arguments)],
            cwd=tmp_path,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    *files, version = run("python", "-c", USE).splitlines()[-3:]
    assert all(Path(file).is_relative_to(installed.parent) for file in files)
    assert f"hyperclip-{version}.dist-info" in os.listdir(Path(files[0]).parents[1])

    photo = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    run(
        "hyperclip-demo",
        "--config-file",
        CONFIG,
        "--input",
        "photo.png",
        "--output",
        "out",
        "--vocabulary",
        CLASSES,
    )
    predictor = Predictor.from_config(CONFIG)
    answer = predictor.segment(predictor.encode(photo), CLASSES)
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "out/photo_labels.png")), answer.labels
    )

    assert "tinyscenes_val_seen" in run("hyperclip-evaluate", "--list")
    run(
        "hyperclip-evaluate",
        "--config-file",
        CONFIG,
        "--benchmarks",
        "tiny_val_seen",
        "--limit",
        2,
        "--allow-partial",
        "--output",
        "table",
    )
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    plan = make_plan([System("here", load_config(CONFIG))], ["tiny_val_seen"], 2, True)
    (row,), (expected,) = read_results(tmp_path / "table"), run_suite(plan, tmp_path / "here")
    assert row["mIoU"] == expected["mIoU"] and 0 < row["mIoU"] < 100
