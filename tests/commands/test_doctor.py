"""The command that says what is installed and found, and whether it works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hyperclip.commands import doctor, self_test
from hyperclip.data import DATASETS

from tests.conftest import ROOT


def test_a_sound_installation(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    voc = tmp_path / "VOCdevkit/VOC2012"
    (voc / "JPEGImages").mkdir(parents=True)
    (voc / "SegmentationClass").mkdir()
    (voc / "SegmentationClass/a.png").touch()
    (voc / "ImageSets/Segmentation").mkdir(parents=True)
    (voc / "ImageSets/Segmentation/val.txt").write_text("a\n")
    assert doctor.main([]) == 0
    said = capsys.readouterr().out
    for title in ("Versions", "Detectron2", "Optional packages", "Devices", "Weights", "Datasets"):
        assert f"{title}\n" in said
    assert "voc21: VOCdevkit/VOC2012/SegmentationClass" in said
    assert f"{len(DATASETS) - 3} of {len(DATASETS)} are not here" in said
    assert "photo-mini: " in said and "CLIP ViT-B/16: " in said
    assert "of the labels are the expected ones (rounding may change 5%)" in said
    assert said.endswith("Everything essential works.\n")


def test_what_is_optional_and_missing_is_said(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "OPTIONAL", {"no_such_module": "demo"})
    assert doctor.main(["--no-self-test"]) == 0
    said = capsys.readouterr().out
    expected = (
        'no_such_module is missing, which is optional: pip install ".[demo]" in the repository'
    )
    assert expected in said and "Self-test" not in said


def test_what_is_essential_and_missing_is_broken(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "ESSENTIAL", {"no_such_module": "such-a-package"})
    assert doctor.main(["--no-self-test"]) == 1
    said = capsys.readouterr().out
    assert "BROKEN: no_such_module cannot be imported (ModuleNotFoundError" in said
    assert "Broken (1):\n" in said
    assert said.rstrip().splitlines()[-1].endswith("pip install such-a-package")


def test_without_torch_it_still_speaks():
    code = """
import sys
sys.modules |= dict.fromkeys(("torch", "detectron2"))
from hyperclip.commands.doctor import main
sys.exit(main([]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "BROKEN: torch cannot be imported" in done.stdout
    assert (
        "BROKEN: Detectron2 cannot be imported" in done.stdout and "tools/setup.sh" in done.stdout
    )
    assert "python 3." in done.stdout and "BROKEN: Self-test: " in done.stdout


@pytest.mark.parametrize(("changed", "passed"), [(0, True), (28, True), (29, False), (576, False)])
def test_a_wrong_answer_of_the_self_test(monkeypatch, capsys, changed, passed):
    labels = self_test.expected_labels()
    labels.ravel()[:changed] = 9
    result = self_test.compare(labels, 0.5)
    assert result.passed == passed and (result.checksum == result.expected) == (changed == 0)
    monkeypatch.setattr(self_test, "run_self_test", lambda: result)
    findings = doctor.Findings()
    said = findings.section("Self-test", lambda: doctor.self_test(findings))
    assert ("BROKEN" in said) == (not passed) == bool(findings.broken)


def test_the_expected_answer_has_several_classes():
    counts = np.bincount(self_test.expected_labels().ravel())
    assert self_test.expected_labels().shape == (24, 24) and sorted(counts)[-3] > 40


def test_bug_reports_ask_for_it():
    templates = {p.stem: yaml.safe_load(p.read_text()) for p in Path(".github").rglob("*.yml")}
    assert set(templates) == {"bug", "question"}
    asked = [field["attributes"]["label"] for field in templates["bug"]["body"]]
    assert "Output of hyperclip-doctor" in asked
