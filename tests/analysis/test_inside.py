"""What is behind an answer: costs, class attention, maps of a point, margin and entropy, sheets."""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import pytest
import torch
from hyperclip import load_config
from hyperclip.analysis import inside, inside_figures
from hyperclip.commands import visualize
from hyperclip.head.aggregation import ClassAggregation, pooled_tokens
from hyperclip.head.cost_head import cost_volume
from hyperclip.load import load_model
from hyperclip.score_maps import GridMaps
from hyperclip.segmenter import Question
from hyperclip.stages import GridRefinement, Refine, Staged
from hyperclip.test_time import Augmented, ViewOptions
from hyperclip.tinyscenes.drawing import render_scene
from hyperclip.vocabulary import Vocabulary
from PIL import Image

from reference import inside as reference

TRAINED = "configs/quickstart/hyperclip_trained.safetensors"
WORDS = "red plain circle; blue striped star; green dotted cross, plus"
VOCABULARY = Vocabulary.from_text(WORDS)
CPU = ["MODEL.DEVICE", "cpu"]
PIXELS = render_scene("val_seen", 7)[0]
IMAGE = torch.from_numpy(PIXELS.transpose(2, 0, 1).copy())


def make(name, *keys):
    return load_model(load_config(f"configs/quickstart/{name}.yaml", [*CPU, *keys]))


@pytest.fixture(scope="module")
def hyperclip_system():
    return make("hyperclip", "MODEL.WEIGHTS", TRAINED)


@pytest.fixture(scope="module")
def fusion():
    return make("cliper_fusion")


@torch.no_grad()
@pytest.mark.parametrize("kind", ["linear", "full"])
@pytest.mark.parametrize("padding", [0, 7])
def test_attention_as_a_matrix(kind, padding):
    torch.manual_seed(0)
    attention = ClassAggregation(8, 6, 2, padding, kind)
    for parameter in attention.parameters():
        parameter.normal_()
    x, guidance = torch.randn(5, 4, 8), torch.randn(4, 6)
    found = attention.weights(x, guidance)
    assert found.shape == (5, 2, 4, 5)
    for position in range(5):
        wanted = reference.class_weights(attention, x[position], guidance)
        torch.testing.assert_close(found[position], wanted, rtol=1e-4, atol=1e-5)
    # multiplied with the values it is what attention gives
    v = attention.projections.v(torch.cat([x, padding_of(attention, x)], dim=1))
    v = v.unflatten(-1, (2, -1)).transpose(-2, -3)
    given = (found @ v).transpose(-2, -3).flatten(-2)
    torch.testing.assert_close(given, attention.attend(x, guidance), rtol=1e-4, atol=1e-5)


def padding_of(attention, x):
    return attention.norm1(attention.padding_token).expand(len(x), 1, -1)


@torch.no_grad()
@pytest.mark.parametrize("pooling", [(1, 1), (2, 3)])
def test_costs_are_those_of_the_answer(hyperclip_system, pooling):
    head = hyperclip_system.sem_seg_head
    before, head.pooling_test = head.pooling_test, pooling
    encoded = hyperclip_system.encode([IMAGE])[0]
    found = inside.costs_of(hyperclip_system, encoded, VOCABULARY)
    text = hyperclip_system.text(hyperclip_system.clip, VOCABULARY)
    logits = head.infer(encoded, text).logits[0]
    head.pooling_test = before
    torch.testing.assert_close(found.score, logits.sigmoid(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.cosine, cost_volume(encoded.embeddings, text)[0])
    assert found.prompts.tolist() == [0, 1, 2] and (found.change > 0).all()
    assert len(found.attention) == len(head.layers)
    for weights in found.attention:
        assert weights.shape == (3, 4) and (weights > 0).all()
        torch.testing.assert_close(weights.sum(1), torch.ones(3), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_attention_of_a_layer_is_the_mean_of_heads_and_cells(hyperclip_system, monkeypatch):
    head = hyperclip_system.sem_seg_head
    encoded = hyperclip_system.encode([IMAGE])[0]
    text = hyperclip_system.text(hyperclip_system.clip, VOCABULARY)
    costs, guidance, _ = head.select(encoded.embeddings, text)
    x, layer = head.embed_costs(costs), head.layers[0]
    tokens = layer.classes.norm1(pooled_tokens(layer.spatial(x, encoded.spatial[0]), (2, 2))[0])
    wanted = layer.classes.weights(tokens, guidance).mean((0, 1))
    monkeypatch.setattr(inside, "items_at_a_time", lambda entries, device: 7)
    found = inside.class_attention(layer, x, encoded.spatial[0], guidance, (2, 2))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_without_layers_aggregation_adds_nothing(hyperclip_system, monkeypatch):
    encoded = hyperclip_system.encode([IMAGE])[0]
    modules = hyperclip_system.sem_seg_head._modules
    monkeypatch.setitem(modules, "layers", torch.nn.ModuleList())
    found = inside.costs_of(hyperclip_system, replace(encoded, spatial=[]), VOCABULARY)
    assert not found.change.any() and found.attention == []


@torch.no_grad()
def test_pruned_classes_are_not_among_the_costs(hyperclip_system, monkeypatch):
    monkeypatch.setattr(hyperclip_system.sem_seg_head, "max_classes", 2)
    encoded = hyperclip_system.encode([IMAGE])[0]
    found = inside.costs_of(hyperclip_system, encoded, VOCABULARY)
    text = hyperclip_system.text(hyperclip_system.clip, VOCABULARY)
    best = cost_volume(encoded.embeddings, text)[0].flatten(1).amax(1).topk(2).indices
    assert found.prompts.tolist() == sorted(best.tolist()) and len(found.cosine) == 2
    assert found.attention[0].shape == (2, 3)


def test_the_cell_of_a_pixel():
    assert inside.cell_of((0, 0), (60, 90), (4, 6)) == (0, 0)
    assert inside.cell_of((89, 59), (60, 90), (4, 6)) == (3, 5)
    assert inside.cell_of((16, 14), (60, 90), (4, 6)) == (0, 1)


def test_fused_attention(fusion):
    encoded = fusion.encode([IMAGE])[0]
    affinity, grid = fusion.affinity(encoded)
    assert grid == (12, 12) and affinity.shape == (144, 144)
    found = inside.fused_attention(fusion, encoded, (95, 8), (96, 96))
    assert torch.equal(found.flatten(), affinity[1 * 12 + 11])
    staged = Staged(fusion, [Refine(lambda images: [lambda coarse: coarse for _ in images])])
    again = inside.fused_attention(staged, staged.encode([IMAGE])[0], (95, 8), (96, 96))
    torch.testing.assert_close(again, found)


def test_where_a_refiner_carries_a_score():
    matrix = torch.rand(6, 6)
    refinement = GridRefinement((2, 3), lambda scores: matrix @ scores)
    found = inside.spread(refinement, (50, 59), (60, 90), torch.zeros(1, 4, 4))
    torch.testing.assert_close(found.flatten(), matrix[:, 4])
    shifted = inside.spread(
        lambda coarse: coarse.roll(1, 2), (0, 0), (60, 90), torch.zeros(1, 4, 4)
    )
    assert shifted.argmax() == 1 and shifted.shape == (4, 4)


def test_the_refinements_of_a_system_and_of_stages(fusion):
    encoded = fusion.encode([IMAGE])[0]
    assert inside.refinements(fusion, encoded) == [] and not visualize.has_refiner(fusion)
    refinement = GridRefinement((2, 2), lambda scores: scores)
    own = encoded._replace(refinement="own")
    assert inside.refinements(fusion, own) == ["own"]
    staged = Staged(fusion, [Refine(lambda images: [refinement for _ in images])])
    assert inside.refinements(staged, staged.encode([IMAGE])[0]) == [refinement]
    assert visualize.has_refiner(staged)


@pytest.mark.parametrize("classes", [2, 5])
def test_margin_and_entropy(classes):
    torch.manual_seed(0)
    scores = torch.randn(classes, 4, 5)
    scores[:, 0, 0] = -1.0
    scores[:, 0, 1] = 0.5
    margin, entropy = inside.certainty(GridMaps(scores), (4, 5))
    wanted = reference.margin_and_entropy(scores)
    torch.testing.assert_close(margin, wanted[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy, wanted[1], rtol=1e-5, atol=1e-5)
    assert entropy[0, 1] == pytest.approx(1) and margin[0, 1] == 0
    with pytest.raises(ValueError, match="got 1 class, expected two or more"):
        inside.certainty(GridMaps(scores[:1]), (4, 5))


def test_a_sheet_has_all_pictures():
    pictures = {f"{i}": Image.new("RGB", (400, 100 + 10 * i), (50 * i, 0, 0)) for i in range(5)}
    sheet = inside_figures.contact_sheet(pictures)
    assert sheet.size == (4 * 408, 130 + 26 + 140 + 26)
    assert [sheet.getpixel((408 * i + 5, 5))[0] for i in range(4)] == [0, 50, 100, 150]
    assert sheet.getpixel((5, 160))[0] == 200 and sheet.getpixel((413, 160)) == (255, 255, 255)
    wide = inside_figures.contact_sheet({"a": Image.new("RGB", (3200, 100))})
    assert wide.size == (1608, 76)
    with pytest.raises(ValueError, match="contact sheet: got no picture"):
        inside_figures.contact_sheet({})


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("cliper_fusion", "cost", "--show cost: got CLIPer, which aggregates no costs"),
        ("dense_clip", "attention", "--show attention: got HyperCLIP with CosineHead"),
        ("dense_clip", "fused", "--show fused: got HyperCLIP, whose patches"),
        ("cliper_fusion", "refiner", "--show refiner: got CLIPer without a refiner"),
        ("dense_clip", "refiner", "--show refiner: got HyperCLIP without a refiner"),
    ],
)
def test_what_a_system_does_not_have(name, kind, message, tmp_path, fusion, monkeypatch):
    photo = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(photo)
    if name == "cliper_fusion":
        from hyperclip.predictor import Predictor

        monkeypatch.setattr(Predictor, "from_config", lambda cfg: Predictor(fusion))
    arguments = ["--config-file", f"configs/quickstart/{name}.yaml", "--input", str(photo)]
    arguments += ["--vocabulary", WORDS, "--output", str(tmp_path / "out"), "--show", kind]
    with pytest.raises(ValueError, match=message) as caught:
        visualize.main([*arguments, "--opts", *CPU])
    assert "\n" not in str(caught.value) and not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--show", "costs"], "--show: got 'costs', expected any of cost, attention, fused"),
        (["--at", "3"], "--at: got '3', expected COLUMN,ROW"),
        (["--at", "-3,4"], "--at: got '-3,4', expected COLUMN,ROW"),
        (["--class", "dog"], "--class: got 'dog', expected one of the classes: red plain circle"),
        (["--limit", "-1"], "--limit: got -1"),
    ],
)
def test_mistakes_of_the_command_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.setattr(visualize.Predictor, "from_config", never)
    arguments = (
        [arguments[0], f"{arguments[1]}"]
        if arguments[0] != "--at"
        else [f"{arguments[0]}={arguments[1]}"]
    )
    common = ["--config-file", "configs/quickstart/dense_clip.yaml", "--vocabulary", WORDS]
    common += ["--input", "docs/quickstart.png", "--output", str(tmp_path)]
    with pytest.raises(ValueError, match=message):
        visualize.main([*common, *arguments])


def never(*_):
    raise AssertionError("a model was loaded")


def test_windows_alone_have_no_view_of_the_image(hyperclip_system, monkeypatch):
    sliding = argparse.Namespace(global_view=False)
    monkeypatch.setattr(hyperclip_system, "sliding", sliding)
    with pytest.raises(ValueError, match="the config has windows alone"):
        inside.require_costs(hyperclip_system, "--show cost")


def test_pictures_of_a_folder(hyperclip_system, tmp_path, monkeypatch):
    """With costs, certainty and sheets; a point outside of an image is refused."""
    predictor = visualize.Predictor(hyperclip_system)
    monkeypatch.setattr(visualize.Predictor, "from_config", lambda cfg: predictor)
    (tmp_path / "photos").mkdir()
    for i in range(2):
        Image.fromarray(PIXELS[: 96 - 20 * i]).save(tmp_path / f"photos/{i}.png")
    out = tmp_path / "out"
    common = ["--config-file", "configs/quickstart/hyperclip.yaml", "--vocabulary", WORDS]
    common += ["--input", str(tmp_path / "photos"), "--output", str(out)]
    kinds = ["cost", "attention", "margin", "entropy"]
    chosen = ["--class", "blue striped star", "--sheet"]
    assert visualize.main([*common, "--show", ",".join(kinds), *chosen]) == 0
    endings = ["", *(f"_{kind}" for kind in kinds)]
    names = sorted(f"{name}{end}.png" for name in ("0", "1", "sheet") for end in endings)
    assert sorted(path.name for path in out.iterdir()) == names
    for name in names:
        drawn = np.asarray(Image.open(out / name).convert("L"))
        assert min(drawn.shape) > 150 and drawn.std() > 5, name
    with pytest.raises(ValueError, match="--at: got 90,80, but 1 has 96 x 76 pixels"):
        visualize.main([*common, "--at", "90,80"])


def test_costs_of_classes_of_one_name(hyperclip_system, monkeypatch):
    """Each class has its own row, as in released lists that have names twice."""
    predictor = visualize.Predictor(hyperclip_system)
    vocabulary = Vocabulary((("star",), ("cross",), ("star", "ring")))
    encoded, rows = predictor.encode(PIXELS), []
    monkeypatch.setattr(hyperclip_system.text, "synonyms", "max")
    monkeypatch.setattr(visualize.inside_figures, "cost_slices", lambda *given: rows.append(given))
    inspected = argparse.Namespace(vocabulary=vocabulary)
    labels = np.array([[2, 2, 2], [2, 1, 1]])
    for classes in (None, [2], [0, 1]):
        look = visualize.Look(predictor, inspected, encoded, PIXELS, labels, [], classes)
        visualize.draw_costs(look)
    assert [given[3] for given in rows] == [[2, 1], [2], [0, 1]]
    assert rows[0][2] == ["star", "cross", "star", "star"]  # of each prompt


def test_pictures_of_a_point(fusion, tmp_path, monkeypatch):
    refinement = GridRefinement((8, 8), lambda scores: scores.roll(1, 0))
    staged = Staged(fusion, [Refine(lambda images: [refinement for _ in images])])
    predictor = visualize.Predictor(staged)
    monkeypatch.setattr(visualize.Predictor, "from_config", lambda cfg: predictor)
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    common = ["--config-file", "configs/quickstart/cliper_fusion.yaml", "--vocabulary", WORDS]
    common += ["--input", str(tmp_path / "a.png"), "--output", str(tmp_path / "out")]
    points = ["--at", "10,20", "--at", "70,80"]
    assert visualize.main([*common, "--show", "fused,refiner", *points]) == 0
    names = ["a.png", "a_fused.png", "a_refiner.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


def test_system_without_stages_scores_as_before(hyperclip_system):
    """The question of the certainty is the plain one."""
    encoded = hyperclip_system.encode([IMAGE])[0]
    maps = hyperclip_system.score(encoded, Question(VOCABULARY), (96, 96))
    margin, entropy = inside.certainty(maps, (96, 96))
    best = maps.whole((96, 96)).topk(2, dim=0).values
    torch.testing.assert_close(margin, best[0] - best[1], rtol=1e-5, atol=1e-6)
    assert entropy.min() >= 0 and entropy.max() <= 1


def test_instruments_see_through_views_and_stages(hyperclip_system, fusion):
    """The image as it is, whatever stands around the system."""
    for system in (hyperclip_system, fusion):
        views = Augmented(system, ViewOptions(True, (1.5,)))
        around = Staged(views, [Refine(lambda images: [lambda scores: scores for _ in images])])
        seen, plain = around.encode([IMAGE])[0], system.encode([IMAGE])[0]
        torch.testing.assert_close(around.features(seen), system.features(plain))
        if system is fusion:
            found = inside.fused_attention(around, seen, (95, 8), (96, 96))
            expected = inside.fused_attention(system, plain, (95, 8), (96, 96))
        else:
            found = inside.costs_of(around, seen, VOCABULARY).score
            expected = inside.costs_of(system, plain, VOCABULARY).score
        torch.testing.assert_close(found, expected)
