"""CLIPer as a Detectron2 model on the tiny weights: batches, sizes, determinism, refiners, options,
wrong use.
"""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from cliper import REFINER_REGISTRY
from detectron2.modeling import build_model
from hyperclip.checkpoints import require_weights
from hyperclip.config.keys import load_config
from hyperclip.predictor import Predictor
from hyperclip.training.trainer import Trainer
from hyperclip.vocabulary import Vocabulary
from safetensors.torch import save_file

from tests.helpers.asking import ask, ask_all, scores_of
from tests.helpers.defaults import make_cliper

QUICK = "configs/quickstart/cliper.yaml"
WORDS = Vocabulary.from_text(
    "red plain circle; blue striped star, star; green dotted cross", "background; wall"
)


def build(*overrides):
    return build_model(load_config(QUICK, ["MODEL.DEVICE", "cpu", *map(str, overrides)])).eval()


def pictures(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [
        {"image": torch.randint(0, 256, (3, h, w), dtype=torch.uint8, generator=generator)}
        for h, w in sizes
    ]


@pytest.fixture(scope="module")
def model():
    import os
    from pathlib import Path

    os.chdir(Path(__file__).parents[2])
    return build()


@pytest.mark.parametrize("window", [0, 48])
def test_a_batch_equals_single_images_and_two_runs_are_equal(window):
    model = build("MODEL.CLIPER.WINDOW", window, "MODEL.CLIPER.WINDOW_STRIDE", 24)
    batch = pictures((96, 96), (80, 120), (96, 96), (120, 80))
    together = ask_all(model, batch, WORDS, scores=True)
    again = ask_all(model, batch, WORDS, scores=True)
    for one, same, record in zip(together, again, batch, strict=True):
        assert all(torch.equal(one[key], same[key]) for key in one)
        alone = ask(model, record, WORDS, scores=True)
        torch.testing.assert_close(one["sem_seg"], alone["sem_seg"], atol=1e-5, rtol=0)
        assert (one["sem_seg_labels"] != alone["sem_seg_labels"]).float().mean() < 1e-3
        assert one["sem_seg_labels"].shape == record["image"].shape[1:]


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (97, 13), (2000, 1500)])
def test_any_size(model, size):
    result = ask(model, *pictures(size), WORDS, scores=True)
    assert result["sem_seg_labels"].shape == size and result["sem_seg"].shape == (3, *size)
    assert torch.isfinite(result["sem_seg"]).all() and set(
        result["sem_seg_labels"].unique().tolist()
    ) <= {0, 1, 2}


def test_a_picture_of_8000_pixels():
    result = ask(build(), {**pictures((64, 8000))[0], "height": 8000, "width": 8000}, WORDS)
    assert result["sem_seg_labels"].shape == (8000, 8000) and set(result) == {
        "sem_seg_labels",
        "sem_seg_confidence",
    }


def test_size_of_the_output(model):
    result = ask(model, {**pictures((96, 96))[0], "height": 33, "width": 70}, WORDS)
    assert result["sem_seg_labels"].shape == (33, 70)


def test_the_predictor_encodes_once_and_asks_often(model):
    image = pictures((80, 100))[0]["image"]
    predictor = Predictor(model, shortest=0)
    predictor.set_image(image.permute(1, 2, 0).numpy())
    first = predictor.predict(WORDS)
    direct = ask(model, image, WORDS)
    assert (
        np.array_equal(first.labels, direct["sem_seg_labels"].numpy())
        and first.names == WORDS.names
    )
    other = predictor.predict("yellow plain square; cyan plain circle")
    assert other.names == ["yellow plain square", "cyan plain circle"]
    assert (predictor.predict(WORDS, threshold=5.0).labels == -1).all()
    assert (predictor.predict(WORDS).labels == first.labels).all()  # what was asked does not stay


def test_refiners_change_the_scores():
    results = {
        name: scores_of(build("MODEL.CLIPER.REFINER.NAME", name), *pictures((96, 96)), WORDS)
        for name in ("none", "diffusion")
    }
    assert (results["none"] - results["diffusion"]).abs().max() > 1e-3


def test_features_from_a_local_file(tmp_path, fake_state):
    """DINO and DINOv2 in timm's true formats with formula-made weights, as refiner and as proxy
    attention.
    """
    for name in ("vit_tiny_patch16_224", "vit_small_patch14_dinov2"):
        weights = timm.create_model(name, num_classes=0).state_dict()
        file = tmp_path / f"{name}.safetensors"
        save_file(
            {k: torch.from_numpy(fake_state.fill(k, v.shape)) for k, v in weights.items()}, file
        )
        options = ["MODEL.CLIPER.FEATURES.MODEL", name, "MODEL.CLIPER.FEATURES.WEIGHTS", file]
        refined = build("MODEL.CLIPER.REFINER.NAME", "features", *options)
        patch = 14 if "14" in name else 16
        (encoded,) = refined.encode([pictures((100, 130))[0]["image"]])
        assert encoded.refinement.grid == (100 // patch, 130 // patch)
        assert torch.isfinite(scores_of(refined, *pictures((100, 130)), WORDS)).all()
        proxy = [
            "MODEL.CLIPER.ATTENTION",
            "proxy",
            "MODEL.CLIPER.WINDOW",
            48,
            "MODEL.CLIPER.WINDOW_STRIDE",
            24,
        ]
        assert torch.isfinite(
            ask(build(*proxy, *options), *pictures((100, 130)), WORDS)["sem_seg_confidence"]
        ).all()
    with pytest.raises(ValueError, match="does not fit 'vit_tiny_patch16_224'"):
        build(
            "MODEL.CLIPER.REFINER.NAME",
            "features",
            *options[2:],
            "MODEL.CLIPER.FEATURES.MODEL",
            "vit_tiny_patch16_224",
        )


@pytest.mark.parametrize(("center", "scale"), [("max", 0.2), ("max", 0.99), ("mean", 1.0)])
@pytest.mark.parametrize("window", [(8, 8), (48, 48), (48, 24), (200, 112)])
def test_windows_leave_no_hole(center, scale, window):
    options = ["MODEL.CLIPER.WINDOW", window[0], "MODEL.CLIPER.WINDOW_STRIDE", window[1]]
    options += ["MODEL.CLIPER.CENTER", center, "MODEL.CLIPER.CENTER_SCALE", scale]
    for result in ask_all(
        build(*options), pictures((96, 96), (7, 300), (1, 1)), WORDS, scores=True
    ):
        assert torch.isfinite(result["sem_seg"]).all() and set(
            result["sem_seg_labels"].unique().tolist()
        ) <= {0, 1, 2}


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (16, 16), (3, 40), (31, 17)])
@pytest.mark.parametrize("window", [0, 24])
def test_proxy_attention_on_images_below_two_patches(size, window, tmp_path):
    name, file = "vit_tiny_patch16_224", tmp_path / "weights.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model(name, num_classes=0).state_dict(), file)
    options = [
        "MODEL.CLIPER.FEATURES.MODEL",
        name,
        "MODEL.CLIPER.FEATURES.WEIGHTS",
        file,
        "MODEL.CLIPER.WINDOW",
        window,
    ]
    model = build("MODEL.CLIPER.ATTENTION", "proxy", "MODEL.CLIPER.WINDOW_STRIDE", 24, *options)
    result = ask(model, *pictures(size), WORDS, scores=True)
    assert torch.isfinite(result["sem_seg"]).all() and set(
        result["sem_seg_labels"].unique().tolist()
    ) <= {0, 1, 2}


def test_a_registered_refiner():
    def halves(cfg):
        return lambda images: [lambda coarse: coarse / 2 for _ in images]

    REFINER_REGISTRY.register(halves)
    model = build("MODEL.CLIPER.REFINER.NAME", "halves")
    plain = build("MODEL.CLIPER.REFINER.NAME", "none")
    ours, expected = (scores_of(m, *pictures((96, 96)), WORDS) for m in (model, plain))
    torch.testing.assert_close(ours, 0.75 * expected, atol=1e-4, rtol=1e-3)


def test_negatives_of_the_vocabulary_replace_those_of_the_config(model):
    plain = Vocabulary(WORDS.classes)
    model.negatives = ("background", "star", "sky")
    assert model.embed_vocabulary(WORDS).shape[0] == 3 + 2 + 1
    # "star" is a synonym of a class here, so no negative
    assert model.embed_vocabulary(plain).shape[0] == 3 + 2 + 1
    model.mean_negative = False
    assert model.embed_vocabulary(plain).shape[0] == 3 + 2
    model.mean_negative = True
    model.negatives = ()
    assert model.embed_vocabulary(plain).shape[0] == 3 + 1


@pytest.mark.parametrize("rule", ["first", "mean", "max"])
def test_a_second_identical_name_changes_no_score(rule):
    model = build("MODEL.SYNONYMS", rule, "MODEL.CLIPER.REFINER.NAME", "none")
    found = []
    for name in ("star", "star, star", "star, Star,  star"):
        words = Vocabulary.from_text(f"red plain circle; {name}; green dotted cross", "wall")
        found.append(scores_of(model, *pictures((64, 80)), words))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_another_synonym_takes_no_share_from_its_class():
    """max: a class with a second, worse name scores what it scored before, and with a better one
    more.
    """
    model = build(
        "MODEL.SYNONYMS",
        "max",
        "MODEL.CLIPER.REFINER.NAME",
        "none",
        "MODEL.CLIPER.MEAN_NEGATIVE",
        False,
        "MODEL.CLIPER.ATTENTION_THRESHOLD",
        0.0,
    )
    found = []
    for name in ("star", "star, red star", "star, red star, blue star"):
        words = Vocabulary.from_text(f"circle; {name}; cross", "wall")
        found.append(scores_of(model, *pictures((64, 80)), words)[1])
    assert (found[1] >= found[0] - 1e-5).all() and (found[2] >= found[1] - 1e-5).all()
    assert (found[2] - found[0]).max() > 1e-3


def test_negatives_of_the_config_are_compared_as_the_tokenizer_reads_them(model):
    model.negatives = ("Star", "sky")
    assert model.embed_vocabulary(Vocabulary(WORDS.classes)).shape[0] == 3 + 1 + 1
    with pytest.raises(
        ValueError, match="MODEL.CLIPER.NEGATIVES.* are both 'sky' .'Sky' has the same tokens"
    ):
        build("MODEL.CLIPER.NEGATIVES", "['sky', 'Sky']")
    with pytest.raises(ValueError, match="MODEL.CLIPER.NEGATIVES.* has an empty name"):
        build("MODEL.CLIPER.NEGATIVES", "['sky', ' ']")


def test_results_record_what_was_run(model):
    described = model.describe()
    assert (described.system, described.method, described.variant) == ("CLIPer", "CLIPer", "")
    assert described.class_lists == "cliper" and not described.abstains
    assert (
        described.settings["fusion"]["attention"] == "fused"
        and described.settings["size"] == model.size
    )
    plain = build(
        "MODEL.CLIPER.REFINER.NAME", "none", "MODEL.CLIPER.PROTOCOL", "abstain"
    ).describe()
    assert (plain.method, plain.variant, plain.abstains) == ("CLIPer", "no refiner", True)
    note = "one setting for all sets; the paper has one for each (configs/cliper/*/ovs_*.yaml)"
    tuned = load_config(QUICK).DATASETS.TEST
    assert note in model.describe(["a150"]).notes and note not in model.describe(tuned).notes


def test_thresholds_of_a_question_take_the_place_of_the_system_s(model):
    """The quickstart's protocol gives every pixel a class, until a question says otherwise."""
    image = pictures((96, 96))[0]
    plain = ask(model, image, WORDS)
    labels, confidence = plain["sem_seg_labels"], plain["sem_seg_confidence"]
    assert (labels >= 0).all()
    threshold = confidence.median().item()
    result = ask(model, image, WORDS, pixel_threshold=threshold)["sem_seg_labels"]
    assert torch.equal(result, labels.masked_fill(confidence < threshold, -1))
    assert torch.equal(ask(model, image, WORDS, pixel_threshold=0.0)["sem_seg_labels"], labels)
    best = [confidence[labels == k].amax().item() for k in labels.unique()]
    kept = ask(model, image, WORDS, class_threshold=max(best) - 1e-6)["sem_seg_labels"]
    assert set(kept.unique().tolist()) - {-1} == {labels.unique()[best.index(max(best))].item()}


def test_it_has_no_checkpoint_and_nothing_to_train(model):
    require_weights(load_config(QUICK), model)
    with pytest.raises(ValueError, match="CLIPer is training-free and has no checkpoint"):
        build("MODEL.WEIGHTS", "model.pth")
    with pytest.raises(ValueError, match="has nothing to train"):
        Trainer(load_config(QUICK, ["MODEL.DEVICE", "cpu"]))
    model.train()
    with pytest.raises(ValueError, match="training-free"):
        model(pictures((96, 96)))
    model.eval()
    with pytest.raises(ValueError, match=r"inference needs class names: .*Question\(vocabulary\)"):
        make_cliper(model.clip, model.text).eval()(pictures((96, 96)))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["REFINER.NAME", "sam"],
            "REFINER.NAME: got 'sam', expected one of .*'diffusion', 'features'",
        ),
        (["REFINER.FUSION", "sum"], "got 'sum'"),
        (["ATTENTION", "proxie"], "got 'proxie'"),
        (["PROTOCOL", "guess"], "got 'guess'"),
        (["SELECT_LAYER", 6], "got 6, expected -6 to 5"),
        (["WINDOW", 50], r"got \(50, 112\), expected multiples of CLIP's patch size 8"),
        (
            ["WINDOW", 48, "MODEL.CLIPER.WINDOW_STRIDE", 0],
            "WINDOW_STRIDE .*: got 0, expected 1 or more",
        ),
        (["WINDOW", 48], "WINDOW_STRIDE: got 112, expected at most the WINDOW of 48"),
        (["WINDOW", 104], "WINDOW_STRIDE: got 112, expected at most the WINDOW of 104"),
        (["CENTER", "max"], "CENTER 'max', CENTER_SCALE: got 1.0"),
        (
            ["AVERAGE", "none", "MODEL.CLIPER.CENTER", "max", "MODEL.CLIPER.WINDOW", 24],
            "CENTER 'max'",
        ),
        (["SIZE", 400, "MODEL.CLIPER.MAX_SIZE", 300], "got 400, expected 1 to MAX_SIZE 300"),
        (["SIZE", 0], "SIZE .*: got 0, expected 1 or more"),
        (["DIFFUSION.MODEL", "nowhere"], "got 'nowhere', which is no folder here"),
        (["DIFFUSION.LAYERS", "['up_blocks.3.attentions.1']"], "fits 0 self-attention layers"),
    ],
)
def test_wrong_values(overrides, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build(f"MODEL.CLIPER.{overrides[0]}", *overrides[1:])


@pytest.mark.parametrize(
    ("name", "message"),
    [("resnet50", "expected a vision transformer"), ("vit_none", "got 'vit_none'")],
)
def test_wrong_feature_models(name, message):
    with pytest.raises(ValueError, match=message):
        build("MODEL.CLIPER.REFINER.NAME", "features", "MODEL.CLIPER.FEATURES.MODEL", name)


def test_wrong_vocabularies():
    with pytest.raises(ValueError, match="'dog' is also a class"):
        Vocabulary.from_text("cat; dog, puppy", "wall; dog")
    with pytest.raises(ValueError, match="got no class"):
        Vocabulary.from_text(" ; ", "wall")
