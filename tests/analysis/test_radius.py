"""Radii of embeddings: what is read equals towers that are cut off, rows, figures, the command."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest
import torch
from hyperclip import load_config
from hyperclip.adapters import merge
from hyperclip.analysis import radius, radius_figures
from hyperclip.analysis.radius_rows import ALL, Measured, last_layer, rows_of, summary, to_csv
from hyperclip.clip.image_tower import image_tower
from hyperclip.clip.text_tower import encode_text, text_tower, tokenize
from hyperclip.commands import analyze_radius
from hyperclip.load import build_system, load_system
from hyperclip.tinyscenes.drawing import render_scene
from hyperclip.vocabulary import Vocabulary
from PIL import Image
from scipy.stats import gaussian_kde

from reference import radius as reference

TRAINED = "configs/quickstart/hyperclip_trained.safetensors"
CONFIG = "configs/quickstart/hyperclip.yaml"
WORDS = Vocabulary.from_text("red plain circle; blue striped star, star; green dotted cross")
CPU = ["MODEL.DEVICE", "cpu"]
SCENES = [render_scene("val_seen", i) for i in range(2)]
IMAGES = [torch.from_numpy(image.transpose(2, 0, 1).copy()) for image, _ in SCENES]
FIGURES = ("radius", "radius_layers", "radius_classes", "radius_iterations", "radius_ball")


@pytest.fixture(scope="module")
def system():
    return load_system(load_config(CONFIG, [*CPU, "MODEL.WEIGHTS", TRAINED]))


@torch.no_grad()
def test_each_layer_of_text_is_a_tower_that_ends_there(system):
    tower = text_tower(system.clip)
    prompts = ["a photo of a red circle", "a star", "a green dotted cross in the scene"]
    tokens = tokenize(system.text.tokenizer, prompts, tower.context_length)
    layers = radius.text_layers(tower, tokens)
    assert len(layers) == 4
    for blocks, found in enumerate(layers, start=1):
        wanted = reference.text_after(system.clip, tokens, blocks)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layers[-1], encode_text(system.clip, tokens), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_each_layer_of_images_is_a_tower_that_ends_there(system):
    views = torch.randn(2, 3, 48, 48)
    tower = image_tower(system.clip.visual)
    images, pixels = radius.image_layers(tower, views)
    assert images.shape[:2] == (6, 2) and pixels.shape[:3] == (6, 2, 36)
    for blocks, found in enumerate(images, start=1):
        wanted = reference.images_after(system.clip, views, blocks)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    wanted = reference.patches(system.clip, views)
    torch.testing.assert_close(pixels[-1], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("c", [0.01, 1.0])
def test_the_identity_holds_up_to_the_cap(c):
    v = torch.randn(20, 8, dtype=torch.float64)
    v = v / v.norm(dim=1, keepdim=True) * torch.linspace(0.1, 5, 20)[:, None] / math.sqrt(c)
    found = reference.radius_through_the_ball(v, c)
    torch.testing.assert_close(found, 2 * v.norm(dim=1).to(found), rtol=1e-5, atol=1e-5)
    assert radius.cap_of("text", c) == pytest.approx(12.206 / math.sqrt(c), rel=1e-3)
    assert radius.cap_of("text weight", c) == pytest.approx(7.600 / math.sqrt(c), rel=1e-3)


def test_vectors_have_their_classes(system):
    names = radius.of_names(system, system.text, WORDS)
    prompts, rows = system.text.prompts(WORDS)
    assert names.of_class.shape == (len(prompts), 3)
    assert names.of_class.int().argmax(1).tolist() == rows
    labels = [torch.full((96, 96), 255), torch.zeros(96, 96, dtype=torch.long)]
    labels[0][:, 48:] = 2
    image, pixel = radius.of_images(system, IMAGES, labels, 3)
    assert image.of_class.tolist() == [[False, False, True], [True, False, False]]
    first = pixel.of_class[:144].view(12, 12, 3)
    assert first[:, 6:, 2].all() and not first[:, :6].any() and not first[..., :2].any()
    assert pixel.of_class[144:, 0].all()
    torch.testing.assert_close(pixel.layers[-1], 2 * pixel.embeddings.norm(dim=1))
    image, _ = radius.of_images(system, IMAGES, None, 3)
    assert not image.of_class.any()


def test_the_synonyms_of_a_class_are_its_own():
    keys = [*CPU, "MODEL.SYNONYMS", "max"]
    system = build_system(load_config("configs/quickstart/dense_clip.yaml", keys)).eval()
    names = radius.of_names(system, system.text, WORDS)
    assert names.of_class.sum(0).tolist() == [1, 2, 1]


def made(values, kind="text", classes=None):
    layers = [torch.tensor(layer, dtype=torch.float32) for layer in values]
    of_class = None if classes is None else torch.tensor(classes, dtype=torch.bool)
    vectors = torch.randn(len(layers[0]), 4)
    return radius.Radii(kind, layers, of_class, vectors)


def test_rows():
    text = made([[1, 2, 3, 20], [2, 4, 6, 40]], classes=[[1, 0], [1, 0], [0, 0], [1, 0]])
    weight = made([[1, 7.6]], "text weight")
    measured = [Measured("a", None, {"text": text, "text weight": weight})]
    rows = list(rows_of(measured, ["one", "two"], {"text": 1.0, "vision": 0.01}))
    kept = [(r.kind, r.layer, r.name, r.vectors, r.mean, r.saturated) for r in rows]
    assert kept == [
        ("text", 1, ALL, 4, 6.5, 1),
        ("text", 1, "one", 3, pytest.approx(23 / 3), 1),
        ("text", 2, ALL, 4, 13, 1),
        ("text", 2, "one", 3, pytest.approx(46 / 3), 1),
        ("text weight", 1, ALL, 2, pytest.approx(4.3), 1),
    ]
    assert rows[0].median == 2.5 and rows[0].share == 0.25 and rows[0].iteration == ""
    assert rows[0].q05 == pytest.approx(1.15) and rows[0].q95 == pytest.approx(17.45)
    assert [row.layer for row in last_layer(rows, "text", "one")] == [2]
    read = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert len(read) == 5 and read[2]["mean"] == "13" and read[1]["name"] == "one"
    assert "at most 1 of 2 (50 %)" in summary(rows).splitlines()[1]


def test_the_ball_keeps_radii():
    torch.manual_seed(0)
    groups = [np.random.default_rng(i).normal(size=(9 + i, 6)) * (i + 1) for i in range(2)]
    points, c = radius_figures.view_of_ball(groups)
    assert [len(one) for one in points] == [9, 10]
    for vectors, places in zip(groups, points, strict=True):
        back = 2 / math.sqrt(c) * np.arctanh(np.linalg.norm(places, axis=1))
        np.testing.assert_allclose(back, 2 * np.linalg.norm(vectors, axis=1), rtol=1e-6)
    farthest = max(np.linalg.norm(one, axis=1).max() for one in points)
    assert farthest == pytest.approx(radius_figures.VIEWED)


def test_densities():
    values = np.random.default_rng(0).normal(7, 0.5, 300)
    grid = np.linspace(4, 10, 400)
    found = radius_figures.kernel_density(values, grid)
    assert np.trapezoid(found, grid) == pytest.approx(1, abs=1e-3)
    spread = min(values.std(), np.subtract(*np.quantile(values, (0.75, 0.25))) / 1.34)
    kernel = gaussian_kde(values, 0.9 * spread * 300**-0.2 / values.std(ddof=1))
    np.testing.assert_allclose(found, kernel(grid), atol=0.01)
    assert np.isfinite(radius_figures.kernel_density(np.full(3, 7.0), grid)).all()


def test_other_systems_are_refused(system, monkeypatch):
    monkeypatch.setattr(radius, "text_tower", lambda clip: object())
    with pytest.raises(ValueError, match="CLIP's tower: got object, but radii are read from"):
        radius.of_names(system, system.text, WORDS)
    with pytest.raises(ValueError, match="has no CLIP"):
        radius.require_towers(torch.nn.Identity())
    with pytest.raises(ValueError, match="images: got none"):
        radius.of_images(system, [], None, 2)


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A folder as that of a training, with two checkpoints and the last one once more."""
    folder = tmp_path_factory.mktemp("training")
    model = build_system(load_config(CONFIG, CPU))
    for name, iteration in (("0000009", 9), ("0000019", 19), ("final", 19)):
        for own in model.clip.parameters():
            own.data *= 1.01
        content = {"model": model.state_dict(), "iteration": iteration}
        torch.save(content, folder / f"model_{name}.pth")
    return folder


def test_the_command(training, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, (image, _) in enumerate(SCENES):
        Image.fromarray(image).save(photos / f"{i}.png")
    words = ["--vocabulary", "red plain circle; blue striped star", "--input", str(photos)]
    out = tmp_path / "out"
    common = ["--config-file", CONFIG, *words, "--output", str(out)]
    assert analyze_radius.main([*common, "--weights", str(training), "--opts", *CPU]) == 0
    rows = list(csv.DictReader((out / "radius.csv").open()))
    names = ["pre-trained CLIP", "model_0000009", "model_0000019"]
    iterations = {row["checkpoint"]: row["iteration"] for row in rows}
    assert iterations == dict(zip(names, ("0", "10", "20"), strict=True))
    assert list(dict.fromkeys(row["checkpoint"] for row in rows)) == names
    assert {row["kind"] for row in rows} == {*radius.KINDS, *radius.WEIGHTS}
    counts = {row["kind"]: row["vectors"] for row in rows if row["name"] == ALL}
    assert counts["image"] == "2" and counts["pixel"] == "288" and counts["text"] == "2"
    for name in FIGURES:
        drawn = np.asarray(Image.open(out / f"{name}.png").convert("L"))
        assert min(drawn.shape) > 150 and drawn.std() > 5
    assert "text: mean radius" in capsys.readouterr().out


def test_names_alone_and_the_weights_of_the_config(tmp_path, monkeypatch):
    monkeypatch.setattr(analyze_radius, "save_figure", lambda figure, path: None)
    keys = [*CPU, "MODEL.WEIGHTS", TRAINED]
    arguments = ["--config-file", CONFIG, "--vocabulary", "a; b", "--output", str(tmp_path)]
    assert analyze_radius.main([*arguments, "--opts", *keys]) == 0
    rows = list(csv.DictReader((tmp_path / "radius.csv").open()))
    assert {row["kind"] for row in rows} == {"text", *radius.WEIGHTS}
    ends = {row["checkpoint"]: row["mean"] for row in rows if row["name"] == "a"}
    assert list(ends) == ["pre-trained CLIP", "hyperclip_trained"]
    assert len(set(ends.values())) == 2
    system = build_system(load_config(CONFIG, CPU))
    merge(system)
    wanted = radius.of_names(system, system.text, Vocabulary.from_text("a; b")).layers[-1][0]
    assert float(ends["pre-trained CLIP"]) == pytest.approx(wanted.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "nowhere.pth"], "nowhere.pth"),
        (["--weights", "docs"], "no checkpoint in 'docs', expected the folder of a training"),
        (["--dataset", "nothing"], "nothing"),
        (["--dataset", "tiny_val_seen", "--vocabulary", "a"], "labels have names of their own"),
        (["--input", "nowhere"], "no image at 'nowhere'"),
        (["--limit", "-1", "--input", "docs"], "--limit: got -1, expected 0 or more"),
        (["--vocabulary", "a; a"], "'a'"),
    ],
)
def test_mistakes(arguments, message, tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(analyze_radius, "system_of", never)
    common = ["--config-file", CONFIG, "--output", str(tmp_path)]
    with pytest.raises((ValueError, OSError), match=message) as caught:
        analyze_radius.main([*common, *arguments])
    assert "\n" not in str(caught.value)
