"""bfloat16 in inference: products in half the bits, what is sensitive in float32, and the same
labels but where classes nearly tie.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cliper.fusion import softmax_map
from detectron2.modeling import build_model
from hyperclip.commands import choose_templates, visualize, vocabulary
from hyperclip.config.keys import load_config
from hyperclip.evaluation.results_files import read_results
from hyperclip.evaluation.suite import System, choose_datasets, load_benchmarks, run_suite
from hyperclip.head.aggregation import ClassAggregation, SpatialBlock
from hyperclip.head.cost_head import cost_volume
from hyperclip.load import load_model
from hyperclip.predictor import Predictor
from hyperclip.runtime.precision import Precision
from hyperclip.segmenter import Question
from PIL import Image
from torch import nn

from tests.conftest import ROOT
from tests.helpers import fake_trees

TRAINED, CLIPER = (f"configs/quickstart/{name}.yaml" for name in ("hyperclip_trained", "cliper"))
CPU = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"]
BFLOAT16 = [*CPU, "TEST.PRECISION", "bfloat16"]
WORDS = "red plain circle; blue striped star; green dotted cross; white plain square"


def picture(seed=0):
    """A red circle, a blue star's box and a green bar on noise, uint8 (120, 160, 3)."""
    generator = np.random.default_rng(seed)
    image = generator.integers(90, 110, (120, 160, 3)).astype(np.uint8)
    y, x = np.mgrid[:120, :160]
    image[(y - 40) ** 2 + (x - 40) ** 2 < 700] = (220, 30, 30)
    image[70:110, 20:60] = (30, 30, 220)
    image[30:90, 110:125] = (30, 200, 30)
    return image


@pytest.fixture(scope="module")
def exact():
    return Predictor.from_config(TRAINED, CPU)


@pytest.fixture(scope="module")
def fast():
    return Predictor.from_config(TRAINED, BFLOAT16)


def types_of(module):
    return {str(p.dtype).removeprefix("torch.") for p in module.parameters()}


def test_the_weights_of_the_large_networks_are_converted_once(exact, fast):
    assert (exact.precision, fast.precision) == ("float32", "bfloat16")
    assert types_of(exact.model) == {"float32"}
    blocks = fast.model.clip.visual.transformer.resblocks
    assert types_of(blocks[0].mlp) == types_of(blocks[0].attn) == {"bfloat16"}
    assert types_of(blocks[0].ln_1) == types_of(fast.model.sem_seg_head) == {"float32"}
    before = blocks[0].mlp.c_fc.weight
    fast.segment(fast.encode(picture()), WORDS)
    assert blocks[0].mlp.c_fc.weight is before


def test_labels_are_the_same_but_where_classes_nearly_tie(exact, fast):
    seen = exact.encode(picture()), fast.encode(picture())
    ours, want = (
        fast.segment(seen[1], WORDS, scores=True),
        exact.segment(seen[0], WORDS, scores=True),
    )
    assert 0 < np.abs(ours.scores - want.scores).max() < 0.05
    best, second = np.sort(want.scores, axis=0)[[-1, -2]]
    clear = best - second > 0.02
    assert clear.mean() > 0.2 and (ours.labels == want.labels)[clear].mean() > 0.995


def test_autocast_is_off_outside(fast):
    seen = []
    place = fast.model.clip.visual.ln_pre
    handle = place.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    fast.encode(picture())
    handle.remove()
    assert seen and all(seen) and not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    "keys",
    [
        ["TEST.REFINER.NAME", "guided"],
        ["TEST.REGIONS.NAME", "superpixels"],
        ["TEST.REGIONS.NAME", "superpixels", "TEST.REGIONS.RULE", "attention"],
        ["TEST.AUG.ENABLED", "True"],
        ["TEST.PRUNE", "0.5"],
    ],
    ids=" ".join,
)
def test_stages_work_on_its_scores(keys):
    predictor = Predictor.from_config(TRAINED, [*BFLOAT16, *keys])
    found = predictor.segment(predictor.encode(picture()), WORDS)
    assert np.isfinite(found.confidence).all() and found.labels.shape == (120, 160)


def test_examples_are_fitted_in_float32(fast, exact):
    mask = np.zeros((120, 160), np.uint8)
    mask[70:110, 20:60] = 1
    shown = [p.example(picture(), mask, "blue striped star") for p in (fast, exact)]
    for name, value in vars(shown[0]).items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            assert value.dtype == torch.float32, name
            assert (value - getattr(shown[1], name)).abs().max() < 0.05, name


def test_cliper_and_its_refiner():
    answers = []
    for keys in (CPU, BFLOAT16):
        predictor = Predictor.from_config(CLIPER, keys)
        answers.append(predictor.segment(predictor.encode(picture()), WORDS))
    assert types_of(predictor.model.refiner) == {"float32", "bfloat16"}
    ours, want = answers[1], answers[0]
    assert (ours.labels == want.labels).mean() > 0.9
    assert np.median(np.abs(ours.confidence - want.confidence)) < 0.02


def test_what_is_sensitive_is_in_float32_under_autocast():
    torch.manual_seed(0)
    image, text = torch.randn(1, 64, 5, 6), torch.randn(7, 64)
    q, k = torch.randn(2, 3, 9, 16), torch.randn(2, 3, 9, 16)
    with torch.autocast("cpu", torch.bfloat16):
        costs, weights = cost_volume(image, text), softmax_map(q, k)
    assert torch.equal(costs, cost_volume(image, text))
    assert (weights.sum(-1) - 1).abs().max() < 1e-6
    assert torch.equal(softmax_map(q, k), (q * 0.25 @ k.mT).softmax(-1))


@pytest.mark.parametrize("attention", ["linear", "full"])
def test_the_first_layer_of_aggregation_attends_in_float32(attention, exact):
    """Not so in training, nor in the layers behind it."""
    layers = exact.model.sem_seg_head.layers
    assert [layer.classes.exact for layer in layers] == [True, False]
    assert [b.exact for layer in layers for b in layer.spatial.blocks] == [True] * 2 + [False] * 2
    for wanted in (False, True):
        torch.manual_seed(0)
        classes = ClassAggregation(8, 4, 2, 5, attention, wanted)
        block = SpatialBlock(8, 4, 2, 2, 1, (4, 4), wanted)
        tokens, text = torch.randn(6, 3, 8), torch.randn(3, 4)
        maps, image = torch.randn(1, 3, 16, 8), torch.randn(1, 16, 4)
        for parameter in block.mlp[2].parameters():  # the MLP adds nothing
            nn.init.zeros_(parameter)
        for part, inputs in (
            (classes, (tokens, text)),
            (block, (maps, block.guide(image))),
        ):
            with torch.no_grad():
                want = part(*inputs)
                with torch.autocast("cpu", torch.bfloat16):
                    assert torch.equal(part(*inputs), want) is wanted
            with torch.autocast("cpu", torch.bfloat16):
                assert not torch.equal(part(*inputs), want)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = block.guide(image)
        assert rounded.dtype == torch.bfloat16 and block(maps, rounded).isfinite().all()


def test_only_large_networks_are_converted():
    model = nn.ModuleDict({"clip": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    model["clip"].register_parameter("scale", nn.Parameter(torch.ones(1)))
    Precision("float32", "cpu").convert(model)
    assert types_of(model) == {"float32"}
    Precision("bfloat16", "cpu", mixed=True).convert(model)
    assert types_of(model["clip"]) == {"bfloat16"} and types_of(model["head"]) == {"float32"}


def test_rounded_weights_are_not_saved(fast, tmp_path):
    with pytest.raises(
        ValueError, match=r"save_pretrained: got weights in bfloat16.*TEST.PRECISION float32"
    ):
        fast.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_published_protocols_stay_in_float32_unless_asked(tmp_path, monkeypatch):
    """And rows of results name what was computed in."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    fake_trees.ade150(tmp_path)
    benchmarks = load_benchmarks(choose_datasets(["a150"]), partial=True)
    assert load_config(TRAINED, CPU).TEST.PRECISION == "float32"
    for keys, want in ((CPU, "float32"), (BFLOAT16, "bfloat16")):
        cfg = load_config("configs/quickstart/dense_clip.yaml", [*keys, "MODEL.WEIGHTS", ""])
        (row,) = run_suite([(System("x", cfg), benchmarks)], tmp_path / want)
        assert row["precision"] == want
        assert [kept["precision"] for kept in read_results(tmp_path / want)] == [want]


def test_training_evaluates_without_converting_its_weights():
    cfg = load_config(TRAINED, [*BFLOAT16, "MODEL.WEIGHTS", ""])
    model = build_model(cfg)
    precision = Precision.of(cfg.TEST.PRECISION, model)
    with precision.computing(), torch.no_grad():
        model.eval().encode([torch.zeros(3, 96, 96, dtype=torch.uint8)])
    assert types_of(model) == {"float32"}


def test_a_model_that_was_loaded_answers_by_itself():
    """Detectron2's interface, without a predictor: in float32, as nobody else decides for it."""
    model = load_model(load_config(TRAINED, BFLOAT16))
    image = torch.from_numpy(np.ascontiguousarray(picture().transpose(2, 0, 1)))
    (answer,) = model([{"image": image, "question": Question.of(WORDS)}])
    assert types_of(model) == {"float32"} and answer["sem_seg_labels"].shape == (120, 160)


def test_members_compute_in_the_precision_of_their_ensemble(tmp_path):
    member = tmp_path / "member.yaml"
    member.write_text(f"_BASE_: {ROOT / TRAINED}\nTEST: {{PRECISION: bfloat16}}\n")
    members = f"['{member}', '{ROOT / CLIPER}']"
    keys = ["MODEL.ENSEMBLE.CONFIGS", members]
    for given, want in ((CPU, {"float32"}), (BFLOAT16, {"float32", "bfloat16"})):
        predictor = Predictor.from_config("configs/quickstart/both.yaml", [*given, *keys])
        assert types_of(predictor.model) == want
        found = predictor.segment(predictor.encode(picture()), WORDS)
        assert np.isfinite(found.confidence).all()


@pytest.mark.parametrize("kinds", ["cost,attention,margin", "fused,refiner,entropy"])
def test_instruments_look_into_a_model_in_half_precision(kinds, tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    config = CLIPER if "fused" in kinds else TRAINED
    shared = ["--input", str(tmp_path / "a.png"), "--vocabulary", WORDS]
    places = ["--config-file", config, *shared, "--output", str(tmp_path / "out")]
    assert visualize.main([*places, "--show", kinds, "--opts", *BFLOAT16]) in (0, None)
    assert len(list((tmp_path / "out").glob("a_*.png"))) == 3


def test_words_are_chosen_and_reported_in_half_precision(tmp_path, capsys):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    shared = ["--config-file", TRAINED, "--opts", *BFLOAT16]
    chosen = ["--input", str(tmp_path), "--vocabulary", WORDS, "--output", str(tmp_path / "c.json")]
    assert choose_templates.main([*chosen, *shared]) == 0
    assert vocabulary.main([WORDS, *shared]) == 0
    assert (tmp_path / "c.json").is_file() and "red plain circle" in capsys.readouterr().out
