"""Programs find systems of installed packages, and do without those that are not there."""

from __future__ import annotations

import importlib
import sys

import hyperclip.commands
import pytest
from hyperclip.config import keys
from hyperclip.runtime.files import SHIPPED, local_path, portable_name

from tests.conftest import ROOT


def test_packages_with_systems_are_imported(tmp_path, monkeypatch):
    (tmp_path / "other_system.py").touch()
    info = tmp_path / "other-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[hyperclip.systems]\nother = other_system\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "other_system" not in sys.modules
    hyperclip.commands.register_systems()
    assert sys.modules.pop("other_system").__file__ == str(tmp_path / "other_system.py")


def test_a_script_runs_the_program_of_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "hyperclip-evaluate"), "--list"])
    with pytest.raises(SystemExit) as left:
        hyperclip.commands.console()
    assert left.value.code == 0 and "tinyscenes_val_seen" in capsys.readouterr().out


SEVERAL = ["new-dataset", "check-datasets", "analyze-errors", "export", "export-clip", "doctor"]


@pytest.mark.parametrize("name", SEVERAL)
def test_scripts_of_several_words(monkeypatch, capsys, name):
    monkeypatch.setattr(sys, "argv", [f"/bin/hyperclip-{name}", "--help"])
    with pytest.raises(SystemExit) as left:
        hyperclip.commands.console()
    assert left.value.code == 0 and f"hyperclip-{name}" in capsys.readouterr().out


def test_shipped_models_have_one_name_from_everywhere(tmp_path, monkeypatch):
    assert SHIPPED == ROOT
    monkeypatch.chdir(tmp_path)
    name = "configs/quickstart/tiny_clip"
    for config in ("configs/quickstart/hyperclip.yaml", ROOT / "configs/quickstart/hyperclip.yaml"):
        assert keys.load_config(config).MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED == name
    assert local_path(name) == ROOT / name and portable_name(ROOT / name) == name
    assert portable_name(tmp_path / "x") == str(tmp_path / "x")
    (tmp_path / name).mkdir(parents=True)  # another of the same name comes first
    assert portable_name(ROOT / name) == str(ROOT / name)


def test_training_by_a_shipped_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "none"))
    arguments = [
        "--config-file",
        "configs/quickstart/hyperclip.yaml",
        "--num-gpus",
        "1",
        "MODEL.DEVICE",
        "cpu",
    ]
    with pytest.raises(FileNotFoundError, match="dataset tinyscenes_train: not found below"):
        importlib.import_module("hyperclip.commands.train").main(arguments)
    assert (tmp_path / "output/quickstart/hyperclip/config.yaml").is_file()


def test_the_page_s_limits_of_uploads():
    app = importlib.import_module("hyperclip.commands.app")
    limits = app.limits_of(0.5, 2)
    assert (limits.pixels, limits.bytes) == (500_000, 2 * 2**20)
    for megapixels, megabytes in ((0, 1), (float("nan"), 1), (1, -1), (1, float("inf"))):
        with pytest.raises(ValueError, match="--max-mega.*expected a number above 0"):
            app.limits_of(megapixels, megabytes)
