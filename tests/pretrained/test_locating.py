"""What the name or the path of a pretrained model may be, and what is said of others."""

from __future__ import annotations

import hashlib
import shutil

import pytest
from hyperclip import Predictor
from hyperclip.pretrained import locate_model
from hyperclip.pretrained.locating import require_files, require_own_files_alone

from tests.pretrained.models import CPU

ZERO = "0" * 64


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    Predictor.from_pretrained("quickstart/hyperclip", CPU).save_pretrained(folder)
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def test_a_name_a_folder_and_a_path(saved, monkeypatch):
    found = locate_model("quickstart/hyperclip")
    assert found.config == "configs/quickstart/hyperclip.yaml" and "tinyscenes" in found.what
    monkeypatch.chdir(saved.parent)
    for name in ("model", "./model", saved, str(saved)):
        found = locate_model(name)
        assert found.config.endswith("model/config.yaml") and found.overrides == ()
    (saved.parent / "user").mkdir()
    saved.rename(saved.parent / "user" / "model")
    assert locate_model("user/model").config == "user/model/config.yaml"  # and no repository
    (saved.parent / "user" / "model").rename(saved)


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("photo_mini", ValueError, "expected one of .*Did you mean photo-mini"),
        ("no such name", ValueError, r"a folder that save_pretrained wrote, or OWNER/NAME"),
        ("a/b/c", ValueError, "OWNER/NAME"),
        ("./model", FileNotFoundError, "'./model', which does not exist. Expected a folder"),
        ("/no/model", FileNotFoundError, "which does not exist"),
        ("~/no such model", FileNotFoundError, "which does not exist"),
        ("configs/photos/mini.yaml", FileNotFoundError, "is a file.*Predictor.from_config"),
        ("configs/photos", FileNotFoundError, "has no config.yaml: it is none that save_pre"),
    ],
)
def test_names_that_are_none(name, error, told):
    with pytest.raises(error, match=told) as caught:
        Predictor.from_pretrained(name)
    assert "\n" not in str(caught.value)


def test_revisions_are_for_repositories(saved):
    with pytest.raises(ValueError, match="revision: got 'v1' for 'photo-mini', a model of the zoo"):
        locate_model("photo-mini", revision="v1")
    with pytest.raises(ValueError, match="revision: got 'v1' for .*model', which is a folder"):
        locate_model(saved, revision="v1")
    with pytest.raises(ValueError, match="revision: got 'v1' for '', a model"):
        locate_model(revision="v1")


def test_a_pinned_hash(saved):
    digest = hashlib.sha256((saved / "model.safetensors").read_bytes()).hexdigest()
    locate_model(saved, sha256=digest)
    with pytest.raises(ValueError, match=f"its SHA-256 is {digest}, expected {ZERO}"):
        locate_model(saved, sha256=ZERO)
    with pytest.raises(ValueError, match="for 'photo-mini', which has no weights file of its own"):
        locate_model("photo-mini", sha256=ZERO)


@pytest.mark.parametrize("name", ["model.safetensors", "files/sem_seg_head_clip_pretrained"])
def test_a_folder_in_part(copied, name, monkeypatch):
    """What the config names has to be there, not in the working folder."""
    path = copied / name
    path.rename(copied.parent / path.name)
    monkeypatch.chdir(copied.parent)
    with pytest.raises(FileNotFoundError, match=f"has no {name}, which MODEL.*copied or uploaded"):
        Predictor.from_pretrained(copied)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("IMPORTS", "[antigravity]"),
        ("OUTPUT_DIR", "/tmp/anywhere"),
        ("MODEL.WEIGHTS", "/etc/passwd"),
        ("MODEL.WEIGHTS", "../other.safetensors"),
        ("MODEL.WEIGHTS", "https://example.org/model.pth"),
        ("MODEL.CLIP_WEIGHTS", "~/secret.pt"),
        ("MODEL.CLIPER.DIFFUSION.MODEL", "files/../../x"),
        ("MODEL.CLIPER.DIFFUSION.CACHE", "latents"),
        ("DATASETS.FILES", "[/home/a.yaml]"),
    ],
)
def test_a_strangers_config_stays_inside_its_folder(copied, key, value):
    require_own_files_alone(copied, "user/model")
    config = copied / "config.yaml"
    config.write_text(config.read_text() + f"\n{key}: {value}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"model user/model: its config .*{key}"):
        require_own_files_alone(copied, "user/model")


def test_overrides_count_over_what_was_saved(saved):
    predictor = Predictor.from_pretrained(saved, [*CPU, "TEST.BACKGROUND_THRESHOLD", "0.25"])
    assert predictor.model.background_threshold == 0.25
    require_files(saved)
