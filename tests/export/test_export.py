"""Exported models: the same scores without torch, for any words."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hyperclip import Predictor, Vocabulary, load_config
from hyperclip.commands import export
from hyperclip.export import ExportOptions, check_config, export_folder
from hyperclip.export.views import softmax_logits
from hyperclip.head import loss
from hyperclip.load import load_system
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image

from tests.helpers.model_folders import write_folder
from tests.pretrained.models import CPU, trained_config

VIEWS = (
    *("MODEL.SEM_SEG_HEAD.FEATURE_RESOLUTION", "[4, 4]", "MODEL.SEM_SEG_HEAD.WINDOW_SIZES", "2"),
    *("MODEL.SEM_SEG_HEAD.NUM_LAYERS", "1", "MODEL.SEM_SEG_HEAD.CLIP_LAYERS", "[0, 1]"),
    *("MODEL.SEM_SEG_HEAD.MAX_CLASSES", "4", "MODEL.SEM_SEG_HEAD.PAD_LEN", "6"),
    *("MODEL.ADAPTER.BLOCK_SIZE", "16"),
    *("TEST.SLIDING_WINDOW", "True", "TEST.SLIDING.SIZE", "48", "TEST.SLIDING.KERNEL", "32"),
    *("TEST.SLIDING.OVERLAP", "0.5", "MODEL.PROMPT_ENSEMBLE_TYPE", "imagenet_select"),
)
PATCHES = "configs/quickstart/cliper_fusion.yaml"
WORDS = ("dog; floor", "cat, kitten; café; sky; cup", "; ".join(f"{n} things" for n in range(9)))
PHOTOS = ("astronaut.png", "coffee.png", "chelsea.png", "china.jpg", "flower.jpg")


def photo_paths():
    """Real photos that come with packages."""
    import skimage
    import sklearn

    places = (Path(skimage.__file__).parent / "data", Path(sklearn.__file__).parent / "datasets")
    folders = (places[0], places[1] / "images")
    return [next(f / name for f in folders if (f / name).is_file()) for name in PHOTOS]


@pytest.fixture(scope="module")
def demo():
    path = Path("demo/onnx_demo.py").resolve()
    spec = importlib.util.spec_from_file_location("onnx_demo", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("models") / "vit", "vit")


@pytest.fixture(scope="module")
def views(tmp_path_factory, clip):
    """The config of a HyperCLIP with weights of its own, its model, and its exported folder."""
    place = tmp_path_factory.mktemp("views")
    cfg = trained_config(place, "MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED", clip, *VIEWS)
    model = load_system(cfg)
    names = Vocabulary.from_text("dog; floor")
    export_folder(model, cfg, place / "out", ExportOptions(("onnx", "pt2"), names))
    return cfg, model, place / "out"


@pytest.fixture(scope="module")
def patches(tmp_path_factory, clip):
    """The same of CLIPer, with a negative and thresholds."""
    keys = ["MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED", clip, "MODEL.CLIPER.SIZE", "40"]
    keys += ["MODEL.CLIPER.NEGATIVES", "['wall', 'dog']", "MODEL.CLIPER.PROTOCOL", "abstain"]
    cfg = load_config(PATCHES, [*CPU, *keys, "MODEL.CLIPER.BACKGROUND_THRESHOLD", "0.3"])
    model, folder = load_system(cfg), tmp_path_factory.mktemp("patches") / "out"
    export_folder(model, cfg, folder, ExportOptions(("onnx", "pt2")))
    return cfg, model, folder


@pytest.mark.parametrize("kind", ["views", "patches"])
def test_the_demo_answers_as_the_python_model(kind, demo, request):
    cfg, system, folder = request.getfixturevalue(kind)
    sizes = {"shortest": cfg.INPUT.MIN_SIZE_TEST, "longest": cfg.INPUT.MAX_SIZE_TEST}
    predictor, model = Predictor(system, **sizes), demo.Model(folder, 1)
    seen = set()
    for words in WORDS:
        classes = demo.split_vocabulary(words)
        text, owners = model.embed(classes)
        own = system.text(system.clip, Vocabulary.from_text(words)).numpy()
        np.testing.assert_allclose(text, own, atol=1e-5)
        for path in photo_paths():
            image = Image.open(path).convert("RGB")
            image.thumbnail((150, 150))
            scores, labels = model.segment(image, classes, text, owners)
            predictor.set_image(image)
            expected = predictor.predict(words, scores=True)
            np.testing.assert_allclose(scores, np.asarray(expected.scores), atol=1e-3)
            wanted = np.where(expected.labels < 0, demo.NO_CLASS, expected.labels)
            assert (labels == wanted).mean() >= 0.999
            seen |= {*np.unique(labels)}
    assert len(seen) > 3


@pytest.mark.parametrize("kind", ["views", "patches"])
@pytest.mark.parametrize(
    ("negatives", "threshold"), [("tea, sea; wall", None), ("", 1), ("tea", 1)]
)
def test_what_is_none_of_the_classes(kind, negatives, threshold, demo, request):
    """The threshold lies among the scores."""
    cfg, system, folder = request.getfixturevalue(kind)
    sizes = {"shortest": cfg.INPUT.MIN_SIZE_TEST, "longest": cfg.INPUT.MAX_SIZE_TEST}
    predictor, model = Predictor(system, **sizes), demo.Model(folder, 1)
    image = Image.open(photo_paths()[1]).convert("RGB")
    image.thumbnail((150, 150))
    predictor.set_image(image)
    if threshold:
        threshold = float(np.median(predictor.predict(WORDS[1], negatives=negatives).confidence))
    expected = predictor.predict(WORDS[1], negatives=negatives, threshold=threshold)
    arguments = argparse.Namespace(
        embeddings=None, vocabulary=WORDS[1], negatives=negatives, save_embeddings=None
    )
    classes, text, owners, rest = demo.words_of(arguments, model)
    assert rest == len(demo.re.findall(r"\w+", negatives))
    _, labels = model.segment(image, classes, text, owners, rest, threshold)
    wanted = np.where(expected.labels < 0, demo.NO_CLASS, expected.labels)
    assert (labels == wanted).mean() >= 0.999
    assert (labels == demo.NO_CLASS).any() and (labels != demo.NO_CLASS).any()


@pytest.mark.parametrize("kind", ["views", "patches"])
def test_torch_loads_the_same_programs(kind, demo, request):
    _, _, folder = request.getfixturevalue(kind)
    manifest = json.loads((folder / "manifest.json").read_text())
    generator = torch.Generator().manual_seed(1)
    sizes = {"classes": 5, "prompts": 4, "tokens": 9, "8 h": 48, "8 w": 40, "cells": 12}
    for name, part in manifest["parts"].items():
        shapes = {k: [sizes.get(n, n) for n in shape] for k, shape in part["inputs"].items()}
        inputs = {k: torch.randn(shape, generator=generator) for k, shape in shapes.items()}
        if name == "text":
            inputs = {k: (value.abs() * 1000).long() for k, value in inputs.items()}
        found = torch.export.load(folder / f"{name}.pt2").module()(*inputs.values())
        program = demo.open_program(folder / f"{name}.onnx", "onnxruntime", 1)
        other = program({k: value.numpy() for k, value in inputs.items()}).values()
        for one, two in zip([found] if torch.is_tensor(found) else found, other, strict=True):
            np.testing.assert_allclose(one.detach().numpy(), two, atol=1e-4, rtol=1e-3)


def test_the_manifest(views):
    cfg, model, folder = views
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["adapters_merged"] == ["hyperbolic_radius"] and manifest["embed_dim"] == 24
    assert manifest["default_names"] == [["dog"], ["floor"]] and len(manifest["templates"]) == 8
    assert manifest["parts"]["head"]["inputs"]["text"] == ["classes", 24]
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    del files["manifest.json"]
    assert {name: own["bytes"] for name, own in manifest["files"].items()} == files
    assert len(files) == 7 and len(manifest["files"]["head.onnx"]["sha256"]) == 64


@pytest.mark.parametrize(
    "text",
    ["a photo of a dog's café.", "O'Neil’s 12 &amp; 3½ _x_ 日本 🙂", "wall-paper  IT'S 4x4's"],
)
def test_the_tokenizer(views, demo, text):
    _, model, folder = views
    own = SimpleTokenizer()
    expected = [own.sot_token_id, *own.encode(text), own.eot_token_id]
    assert demo.BytePairs(folder / "tokenizer.json")(text) == expected


def test_softmax_logits():
    logits = 30 * torch.randn(2, 5, 6, 6, generator=torch.Generator().manual_seed(2))
    expected = loss.softmax_logits(logits.double())
    torch.testing.assert_close(softmax_logits(logits.double()), expected)
    assert softmax_logits(logits).isfinite().all()


def without_torch(folder):
    """A Python with numpy, Pillow and onnxruntime alone."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    installed = Path(np.__file__).parents[1]
    for pattern in ("numpy*", "PIL", "pillow*", "onnxruntime*"):
        for path in installed.glob(pattern):
            (packages / path.name).symlink_to(path)
    return folder / "bin" / "python"


def test_the_demo_runs_without_torch(views, tmp_path):
    _, _, folder = views
    python = without_torch(tmp_path / "venv")
    missing = subprocess.run([python, "-c", "import torch"], capture_output=True, text=True)
    assert "No module named 'torch'" in missing.stderr
    (tmp_path / "photos").mkdir()
    for path in photo_paths()[:2]:
        image = Image.open(path).convert("RGB")
        image.thumbnail((90, 90))
        image.save(tmp_path / "photos" / f"{path.stem}.png")
    call = [python, "demo/onnx_demo.py", "--model", folder, "--input", tmp_path / "photos"]
    call += ["--output", tmp_path / "out", "--threads", "1"]
    kept = tmp_path / "words.npz"
    words = ["--vocabulary", "dog; floor; cup, mug", "--save-embeddings", kept]
    done = subprocess.run([*call, *words], capture_output=True, text=True)
    assert done.stdout.startswith("2 images with 3 classes"), done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        *("astronaut.png", "astronaut_labels.png", "coffee.png", "coffee_labels.png"),
        "classes.json",
    }
    labels = np.asarray(Image.open(tmp_path / "out" / "coffee_labels.png"))
    assert labels.max() < 3 and labels.dtype == np.uint8
    stored = dict(np.load(kept))
    np.savez(kept, **{**stored, "embeddings": stored["embeddings"][:, :7]})
    failed = subprocess.run([*call, "--embeddings", kept], capture_output=True, text=True)
    assert failed.stderr.startswith("error: --embeddings: got embeddings (3, 7)")
    assert len(failed.stderr.splitlines()) == 1 and failed.returncode == 1
    for options, message in (
        (["--embeddings", kept, "--negatives", "sky"], "--negatives: got it with --embeddings"),
        (["--vocabulary", "dog", "--negatives", "sky; Dog"], "'dog' is there twice"),
        (["--vocabulary", "dog", "--negatives", "; ,"], "--negatives: got '; ;', expected names"),
        (["--vocabulary", "dog", "--threshold", "nan"], "--threshold: got nan, expected a number"),
        (["--vocabulary", "dog", "--runtime", "openvino"], "Install it: pip install openvino"),
    ):
        failed = subprocess.run([*call, *options], capture_output=True, text=True)
        assert message in failed.stderr and failed.returncode
    options = ["--vocabulary", "dog; floor", "--negatives", "cup, mug", "--threshold", "0"]
    subprocess.run([*call, *options], check=True, stdout=subprocess.DEVNULL)
    assert len(json.loads((tmp_path / "out" / "classes.json").read_text())) == 2


SCORES_OF = """
import sys; sys.path.insert(0, "demo")
import numpy as np, onnx_demo as demo
from PIL import Image
runtime, folder, photo, result, *words = sys.argv[1:]
model, found = demo.Model(folder, 1, runtime), {}
for number, text in enumerate(words):
    classes = demo.split_vocabulary(text)
    found[str(number)] = model.segment(Image.open(photo), classes, *model.embed(classes))[0]
np.savez(result, **found)
"""


@pytest.mark.parametrize("kind", ["views", "patches"])
def test_openvino_gives_the_same_scores(kind, demo, request, tmp_path):
    """In processes of their own, which no other library is in."""
    _, _, folder = request.getfixturevalue(kind)
    image = Image.open(photo_paths()[1]).convert("RGB")
    image.thumbnail((150, 150))
    image.save(tmp_path / "photo.png")
    found = {}
    for runtime in demo.RUNTIMES:
        result = tmp_path / f"{runtime}.npz"
        call = [sys.executable, "-c", SCORES_OF, runtime, folder, tmp_path / "photo.png", result]
        subprocess.run([*call, *WORDS], check=True)
        found[runtime] = dict(np.load(result))
    assert len(found["openvino"]) == len(WORDS)
    for number, scores in found["onnxruntime"].items():
        np.testing.assert_allclose(found["openvino"][number], scores, atol=1e-3)


def test_mistakes_of_the_demo(views, demo, tmp_path):
    _, _, folder = views
    for words, message in (("; ,", "expected names"), ("dog; Dog", "'dog' is there twice")):
        with pytest.raises(ValueError, match=message):
            demo.split_vocabulary(words)
    model = demo.Model(folder, 1)
    with pytest.raises(ValueError, match=r"got \(2, 5\), expected \(classes, 24\)"):
        model.segment(Image.new("RGB", (9, 9)), [["a"], ["b"]], np.zeros((2, 5)), np.arange(2))
    with pytest.raises(ValueError, match="expected at most 16"):
        model.embed([["word " * 20]])
    with pytest.raises(ValueError, match="has no manifest.json"):
        demo.Model(tmp_path)
    with pytest.raises(ValueError, match="where no image is"):
        demo.images_of(tmp_path)


@pytest.mark.parametrize("name", ["manifest.json", "image.onnx", "head.onnx", "tokenizer.json"])
def test_a_folder_that_is_not_whole(views, demo, tmp_path, name):
    _, _, folder = views
    shutil.copytree(folder, tmp_path / "model")
    with (tmp_path / "model" / name).open("r+b") as file:
        file.truncate(90)
    problem = "cannot be read" if name == "manifest.json" else r"has 90 bytes, expected \d+ as"
    with pytest.raises(ValueError, match=f"--model: {name} {problem}"):
        demo.Model(tmp_path / "model", 1).embed([["dog"]])


@pytest.mark.parametrize("content", [b"", b"PK\3\4 and no more", b"words"])
def test_embeddings_that_are_none(demo, tmp_path, content):
    (tmp_path / "words.npz").write_bytes(content)
    with pytest.raises(ValueError, match="--embeddings: .* cannot be read .*--save-embeddings"):
        demo.load_embeddings(tmp_path / "words.npz", 24)


def test_mistakes(views, tmp_path):
    cfg, model, folder = views
    with pytest.raises(FileExistsError, match="is there and not empty"):
        export.main(["--config-file", PATCHES, "--output", str(folder), *CPU])
    for key, value in (("TEST.AUG.ENABLED", True), ("TEST.REFINER.NAME", "guided")):
        other = load_config(PATCHES, [*CPU, key, str(value)])
        with pytest.raises(ValueError, match=f"{key}: got {value!r}, which cannot be exported"):
            check_config(other)
    options = ExportOptions(("onnx",))
    with pytest.raises(ValueError, match="adapters that are not merged .RadiusAdjustment."):
        export_folder(load_system(cfg, merged=False), cfg, tmp_path / "new", options)
    windows = load_config(PATCHES, [*CPU, "MODEL.CLIPER.WINDOW", "112"])
    with pytest.raises(ValueError, match="MODEL.CLIPER.WINDOW: got 112, which cannot be exported"):
        export_folder(load_system(windows), windows, tmp_path / "new", options)
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_exported(views, monkeypatch, tmp_path):
    cfg, model, _ = views
    options = ExportOptions(("onnx",))
    monkeypatch.setattr(model, "sem_seg_head", torch.nn.Identity())
    with pytest.raises(ValueError, match="MODEL.SEM_SEG_HEAD.NAME: got Identity, which cannot"):
        export_folder(model, cfg, tmp_path / "new", options)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnx" else found(name)
    )
    with pytest.raises(ModuleNotFoundError, match=r'pip install "\.\[export\]" in the repo'):
        check_config(cfg)
