"""The model as a whole on the tiny weights: batches, merging, vocabularies, training step,
fine-tuning modes.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from hyperclip.adapters import adapters, merge, parameter_table
from hyperclip.config.keys import load_config
from hyperclip.data import vocabulary_of
from hyperclip.predictor import Predictor
from hyperclip.visualization import NO_CLASS, comparison, label_image, overlay, palette
from hyperclip.vocabulary import Vocabulary
from PIL import Image

from tests.helpers.asking import ask, ask_all, scores_of

QUICK = "configs/quickstart/hyperclip.yaml"


def build(*overrides):
    torch.manual_seed(0)
    model = build_model(load_config(QUICK, ["MODEL.DEVICE", "cpu", *overrides]))
    model.train_vocabulary = vocabulary_of("tinyscenes_train", "catseg")
    return model


def perturb(model):
    with torch.no_grad():
        for _, module in adapters(model):
            for p in module.parameters():
                p.add_(0.1 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("mode", ["hyperbolic", "attention"])
def test_merged_equals_unmerged(mode):
    model = perturb(build("MODEL.SEM_SEG_HEAD.CLIP_FINETUNE", mode)).eval()
    record = {
        "image": torch.randint(0, 256, (3, 96, 130), dtype=torch.uint8),
        "height": 48,
        "width": 65,
    }
    words = vocabulary_of("tinyscenes_val_seen", "catseg")
    before = scores_of(model, record, words)
    assert before.shape == (60, 48, 65)
    assert merge(model) == 10 and not list(adapters(model)) and merge(model) == 0
    torch.testing.assert_close(scores_of(model, record, words), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("as_on_gpus", [False, True])
@pytest.mark.parametrize("name", ["hyperclip", "dense_clip", "cliper", "cliper_fusion"])
def test_autocast_changes_scores_by_its_rounding_alone(name, as_on_gpus, monkeypatch):
    """On GPUs autocast resizes in float32, on CPUs in what it is given."""
    torch.manual_seed(0)
    windows = ["TEST.SLIDING_WINDOW", "True"] if name in ("hyperclip", "dense_clip") else []
    cfg = load_config(f"configs/quickstart/{name}.yaml", ["MODEL.DEVICE", "cpu", *windows])
    model, words = build_model(cfg).eval(), vocabulary_of("tinyscenes_val_seen", "catseg")
    image = torch.randint(0, 256, (3, 80, 101), dtype=torch.uint8)
    want, exact = scores_of(model, image, words), torch.nn.functional.interpolate
    if as_on_gpus:
        monkeypatch.setattr(
            torch.nn.functional, "interpolate", lambda x, *a, **k: exact(x.float(), *a, **k)
        )
    with torch.autocast("cpu", torch.bfloat16):
        got = scores_of(model, image, words)
        labels = ask(model, image, words)
    assert got.dtype == labels["sem_seg_confidence"].dtype == torch.float32
    assert (got - want).abs().mean() < 0.02 * want.abs().max()
    assert (labels["sem_seg_labels"] == got.argmax(0)).float().mean() > 0.999


def test_a_training_step_reaches_every_adapter_but_the_unused_ones():
    model = build().train()
    batch = [
        {"image": torch.randint(0, 256, (3, 96, 96)), "sem_seg": torch.randint(0, 60, (96, 96))}
        for _ in range(3)
    ]
    loss = model(batch)["loss_sem_seg"]
    loss.backward()
    dead = {
        n
        for n, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any())
    }
    last = "clip.visual.transformer.resblocks.5.attn.parametrizations.in_proj_weight.0."
    assert dead == {last + "q", last + "k"}  # the last block uses its values only
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad and p.grad is not None]
    assert not frozen


@pytest.mark.parametrize(
    ("mode", "clip_trainable"),
    [
        ("hyperbolic", 3 * (6 * 4 + 4 * 2) * 32**2),
        ("attention", 2 * (6 * 128**2 + 4 * 64**2)),
        ("none", 0),
    ],
)
def test_what_trains(mode, clip_trainable):
    model = build("MODEL.SEM_SEG_HEAD.CLIP_FINETUNE", mode)
    head = sum(p.numel() for p in model.sem_seg_head.parameters())
    rows = {part: (trainable, total) for part, trainable, total in parameter_table(model)}
    assert rows["total"][0] == clip_trainable + head
    assert rows["sem_seg_head"] == (head, head)


def test_only_chosen_encoders_and_projections():
    model = build("MODEL.ADAPTER.ENCODERS", "['text']", "MODEL.ADAPTER.PROJECTIONS", "['v']")
    names = [n for n, p in model.named_parameters() if p.requires_grad and n.startswith("clip.")]
    assert len(names) == 4 and all(
        n.startswith("clip.transformer") and n.endswith(".v") for n in names
    )


def test_images_of_different_sizes_train_together():
    model = build().train()
    batch = [
        {
            "image": torch.zeros(3, h, w, dtype=torch.uint8),
            "sem_seg": torch.zeros(h, w, dtype=torch.long),
        }
        for h, w in ((96, 64), (50, 96))
    ]
    assert model(batch)["loss_sem_seg"].isfinite()


@pytest.mark.parametrize("classes", [1, 2, 64, 70, 300])
def test_any_number_of_classes(classes):
    model = build("MODEL.SEM_SEG_HEAD.MAX_CLASSES", "64").eval()
    words = Vocabulary.from_names([f"thing number {i}" for i in range(classes)])
    scores = scores_of(model, torch.randint(0, 256, (3, 33, 200), dtype=torch.uint8), words)
    assert scores.shape == (classes, 33, 200) and 0 <= scores.min() <= scores.max() <= 1
    labels = ask(model, torch.randint(0, 256, (3, 33, 200), dtype=torch.uint8), words)[
        "sem_seg_labels"
    ]
    assert labels.shape == (33, 200) and 0 <= labels.min() <= labels.max() < classes


@pytest.mark.parametrize("scores", [True, False])
@pytest.mark.parametrize("sliding", ["True", "False"])
def test_a_batch_of_images_equals_each_image(scores, sliding):
    window = [
        "TEST.SLIDING_WINDOW",
        sliding,
        "TEST.SLIDING.SIZE",
        "160",
        "TEST.SLIDING.KERNEL",
        "96",
    ]
    model = build("MODEL.SEM_SEG_HEAD.MAX_CLASSES", "20", *window).eval()
    batch = [
        {"image": torch.randint(0, 256, (3, h, w), dtype=torch.uint8)}
        for h, w in ((40, 60), (90, 31))
    ]
    words = vocabulary_of("tinyscenes_val_seen", "catseg")
    for image, result in zip(batch, ask_all(model, batch, words, scores=scores), strict=True):
        assert ("sem_seg" in result) == scores
        alone = ask(model, image, words, scores=scores)
        for key, value in result.items():
            torch.testing.assert_close(value, alone[key], atol=1e-5, rtol=1e-5)


def test_unpadded_class_attention_still_reaches_the_padding_parameters():
    """Distributed training needs a gradient for every parameter in every step."""
    model = build("MODEL.SEM_SEG_HEAD.PAD_LEN", "0").train()
    model([{"image": torch.zeros(3, 96, 96), "sem_seg": torch.zeros(96, 96, dtype=torch.long)}])[
        "loss_sem_seg"
    ].backward()
    assert all(p.grad is not None for p in model.sem_seg_head.parameters())


def test_predictor_encodes_once_and_agrees_with_the_model():
    model = perturb(
        build(
            "TEST.SLIDING_WINDOW", "True", "TEST.SLIDING.SIZE", "160", "TEST.SLIDING.KERNEL", "96"
        )
    ).eval()
    image = np.random.default_rng(0).integers(0, 256, (96, 140, 3)).astype(np.uint8)
    predictor = Predictor(model, shortest=96)
    predictor.set_image(image)
    for text in ("red plain star; blue dotted cross", "green striped circle; red plain star; a, b"):
        prediction = predictor.predict(text)
        want = ask(
            model, torch.from_numpy(image.transpose(2, 0, 1).copy()), Vocabulary.from_text(text)
        )
        np.testing.assert_array_equal(prediction.labels, want["sem_seg_labels"])
        np.testing.assert_allclose(prediction.confidence, want["sem_seg_confidence"], atol=1e-6)


def test_predictions_say_what_was_asked():
    predictor = Predictor(perturb(build()).eval(), shortest=96)
    predictor.set_image(np.random.default_rng(0).integers(0, 256, (96, 140, 3)).astype(np.uint8))
    typed = predictor.predict("red star, star\ncross; circle, disc, Disc")
    assert typed.synonyms == "mean" and typed.asked == [
        ["red star", "star"],
        ["cross"],
        ["circle", "disc"],
    ]
    listed = predictor.predict(Vocabulary.from_names(["red star, star", "cross", "circle, disc"]))
    assert listed.synonyms == "first" and listed.asked == [["red star"], ["cross"], ["circle"]]
    assert typed.names == listed.names and (typed.confidence != listed.confidence).any()


def test_pictures():
    image, names = np.zeros((40, 60, 3), np.uint8), ["dog", "road", "sky"]
    labels = np.full((40, 60), NO_CLASS)
    labels[:20], labels[30:] = 1, 2
    picture = overlay(image, labels, names)
    assert picture.dtype == np.uint8 and picture.shape[0] == 200 and picture.shape[1] > 300
    assert not picture[125:145, 5:290].any()  # the background stays as it was
    row = comparison(image, labels, np.ones_like(labels), names)
    assert row.shape[1] > 900
    assert len({tuple(c) for c in palette(150)}) == 150


@pytest.mark.parametrize("classes", [1, 2, 3, 16, 17, 254, 255, 400])
def test_label_images_keep_every_value(classes):
    labels = np.array([[NO_CLASS, 0], [classes - 1, classes // 2]])
    file = io.BytesIO()
    label_image(labels, classes).save(file, format="PNG")
    read = np.asarray(Image.open(file)).astype(int)
    assert (np.where(read == (65535 if classes >= 255 else 255), NO_CLASS, read) == labels).all()
