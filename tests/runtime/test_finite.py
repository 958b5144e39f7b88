"""NaN and infinity never become labels: wherever one appears, every way of inference raises and
names the cause.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os

import numpy as np
import pytest
import torch
from cliper import REFINER_REGISTRY
from detectron2.data import MetadataCatalog
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY, build_model
from hyperclip.config.keys import load_config
from hyperclip.evaluation import SemSegEvaluator
from hyperclip.evaluation.results_files import read_results
from hyperclip.evaluation.running import evaluate_dataset
from hyperclip.head import CosineHead, ViewLogits
from hyperclip.predictor import Predictor
from hyperclip.runtime.finite import FiniteCheck, NotFiniteError, require_finite_weights
from hyperclip.segmenter import Question
from hyperclip.vocabulary import Vocabulary
from PIL import Image

from tests.helpers import fake_trees
from tests.helpers.asking import ask
from tests.helpers.programs import run_program

HYPERCLIP, DENSE, CLIPER = (
    f"configs/quickstart/{name}.yaml" for name in ("hyperclip", "dense_clip", "cliper")
)
WORDS = Vocabulary.from_text(
    "red plain circle; blue striped star; green dotted cross; cyan plain square"
)
VALUES = [math.nan, math.inf, -math.inf]


def build(config, *overrides):
    torch.manual_seed(0)
    return build_model(load_config(config, ["MODEL.DEVICE", "cpu", *map(str, overrides)])).eval()


def picture(size=(96, 100)):
    return torch.randint(
        0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@contextlib.contextmanager
def broken(model, name, value):
    """The first entry of a weight has this value for a while."""
    parameter = model.get_parameter(name)
    before = parameter.detach().clone()
    with torch.no_grad():
        parameter.view(-1)[0] = value
    yield
    with torch.no_grad():
        parameter.copy_(before)


HYPERCLIP_WEIGHTS = [
    "clip.visual.conv1.weight",
    "clip.visual.transformer.resblocks.2.attn.in_proj_bias",
    "clip.visual.proj",
    "clip.text_projection",
    "sem_seg_head.cost_embedding.weight",
    "sem_seg_head.text_projection.weight",
    "sem_seg_head.layers.1.classes.mlp.0.weight",
    "sem_seg_head.decoder.classifier.bias",
    "sem_seg_head.upsample.0.weight",
]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("way", ["labels", "scores", "windows", "pruned"])
def test_one_weight_of_hyperclip(way, value):
    model = build(
        HYPERCLIP,
        "TEST.SLIDING_WINDOW",
        way == "windows",
        "TEST.SLIDING.SIZE",
        160,
        "TEST.SLIDING.KERNEL",
        96,
        "MODEL.SEM_SEG_HEAD.MAX_CLASSES",
        2 if way == "pruned" else 256,
    )
    before = ask(model, picture(), WORDS, scores=way == "scores")
    for name in HYPERCLIP_WEIGHTS:
        if name == "sem_seg_head.text_projection.weight" and not math.isnan(value):
            # a ReLU makes 0 of -inf: that is what the weights are looked at for, see below
            continue
        with broken(model, name, value):
            with pytest.raises(
                NotFiniteError,
                match=f"HyperCLIP: NaN or infinity in .*broken weights: {name} holds",
            ):
                ask(model, picture(), WORDS, scores=way == "scores")
            with pytest.raises(NotFiniteError, match=name):
                (encoded,) = model.encode([picture()])
                model.segment(encoded, Question(WORDS), (96, 100))
    after = ask(model, picture(), WORDS, scores=way == "scores")
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_one_token_of_one_class():
    """The class alone is broken, and with pruning it might not even be looked at."""
    model = build(HYPERCLIP, "MODEL.SEM_SEG_HEAD.MAX_CLASSES", "2")
    token = model.text.tokenizer("cyan")[0, 1]
    with torch.no_grad():
        model.clip.token_embedding.weight[token] = math.nan
    with pytest.raises(
        NotFiniteError, match="the embeddings of the class names.*clip.token_embedding.weight"
    ):
        ask(model, picture(), WORDS)
    result = ask(model, picture(), Vocabulary.from_text("red plain circle; blue striped star"))
    assert result["sem_seg_labels"].shape == (96, 100)


def test_a_head_of_ones_own_and_a_dense_clip():
    class Broken(CosineHead):
        def infer(self, images, text, chunk=0):
            logits = super().infer(images, text, chunk)
            logits.logits[-1, -1, 0, 0] = math.inf
            return ViewLogits(logits.logits, logits.classes)

    SEM_SEG_HEADS_REGISTRY._obj_map["BrokenHead"] = Broken
    try:
        model = build(DENSE, "MODEL.SEM_SEG_HEAD.NAME", "BrokenHead")
        with pytest.raises(
            NotFiniteError,
            match="the head's logits.*weights that are broken or belong to another model",
        ):
            ask(model, picture(), WORDS)
    finally:
        del SEM_SEG_HEADS_REGISTRY._obj_map["BrokenHead"]
    with pytest.raises(NotFiniteError, match="an image that holds NaN"):
        ask(build(DENSE), torch.full((3, 96, 96), math.nan), WORDS)


CLIPER_WEIGHTS = {
    "none": [
        "clip.visual.conv1.weight",
        "clip.visual.transformer.resblocks.5.attn.out_proj.weight",
        "clip.text_projection",
    ],
    "diffusion": [
        "refiner.attention.unet.conv_in.weight",
        "refiner.attention.vae.encoder.conv_in.bias",
        "refiner.attention.unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k.weight",
    ],
    "features": ["refiner.extractor.model.patch_embed.proj.weight", "clip.visual.proj"],
}


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("refiner", CLIPER_WEIGHTS)
def test_one_weight_of_cliper(refiner, scores):
    features = [
        "MODEL.CLIPER.FEATURES.MODEL",
        "vit_tiny_patch16_224",
        "MODEL.CLIPER.FEATURES.WEIGHTS",
        "none",
    ]
    model = build(CLIPER, "MODEL.CLIPER.REFINER.NAME", refiner, *features)
    for name, value in itertools.product(CLIPER_WEIGHTS[refiner], VALUES):
        with (
            broken(model, name, value),
            pytest.raises(NotFiniteError, match=f"CLIPer: NaN or .*broken weights: {name}"),
        ):
            ask(model, picture(), WORDS, scores=scores)
    assert ("sem_seg" in ask(model, picture(), WORDS, scores=scores)) == scores


def test_windows_that_are_divided_by_nothing_and_refiners_of_ones_own():
    model = build(
        CLIPER,
        "MODEL.CLIPER.REFINER.NAME",
        "none",
        "MODEL.CLIPER.WINDOW",
        48,
        "MODEL.CLIPER.WINDOW_STRIDE",
        24,
    )
    ask(model, picture(), WORDS)
    (encoded,) = model.encode([picture()])
    encoded.embedded.windows.features[0, 0, 0, 0] = math.nan
    with pytest.raises(NotFiniteError, match="the scores"):
        model.segment(encoded, Question(WORDS), (96, 100))

    def spoiled(cfg):
        return lambda images: [
            lambda coarse: coarse.masked_fill(coarse == coarse.amax(), math.inf) for _ in images
        ]

    REFINER_REGISTRY._obj_map["spoiled"] = spoiled
    try:
        with pytest.raises(NotFiniteError, match="the .*scores"):
            ask(build(CLIPER, "MODEL.CLIPER.REFINER.NAME", "spoiled"), picture(), WORDS)
    finally:
        del REFINER_REGISTRY._obj_map["spoiled"]


def test_half_precision_is_named():
    model = build(HYPERCLIP)
    with torch.no_grad():
        model.clip.visual.proj.mul_(1e6)  # finite, and float32 takes it; float16 ends at 65504
    result = ask(model, picture(), WORDS)
    assert (result["sem_seg_confidence"] >= 0).all()
    with (
        torch.autocast("cpu", torch.float16),
        pytest.raises(NotFiniteError, match="half precision, .*65504"),
    ):
        ask(model, picture(), WORDS)


def test_no_broken_latents_are_kept(tmp_path):
    model = build(CLIPER, "MODEL.CLIPER.DIFFUSION.CACHE", tmp_path)
    name = "refiner.attention.vae.encoder.conv_in.bias"
    with (
        broken(model, name, math.nan),
        pytest.raises(NotFiniteError, match="the latents of the image.*vae.encoder.conv_in"),
    ):
        ask(model, picture(), WORDS)
    assert not list(tmp_path.rglob("*.pt"))


def test_the_predictor_and_an_evaluation_look_at_the_weights_first():
    """-inf before a ReLU leaves no trace in any result, but changes it."""
    model = build(HYPERCLIP)
    with torch.no_grad():
        model.sem_seg_head.appearance_projection.bias[0] = -math.inf
    ask(model, picture(), WORDS)
    for use in (Predictor, require_finite_weights):
        with pytest.raises(
            NotFiniteError, match="broken weights: sem_seg_head.appearance_projection.bias"
        ):
            use(model)
    cfg = load_config(HYPERCLIP, ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"])
    with pytest.raises(NotFiniteError, match="appearance_projection"):
        evaluate_dataset(cfg, model, "tinyscenes_val_seen")


def test_a_predictor_that_breaks_later():
    predictor = Predictor(build(CLIPER, "MODEL.CLIPER.REFINER.NAME", "none"), shortest=0)
    predictor.set_image(picture().permute(1, 2, 0).numpy())
    before = predictor.predict(WORDS)
    assert np.isfinite(before.confidence).all()
    with (
        broken(predictor.model, "clip.visual.proj", math.nan),
        pytest.raises(NotFiniteError, match="clip.visual.proj"),
    ):
        predictor.set_image(picture().permute(1, 2, 0).numpy())


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("key", ["sem_seg", "sem_seg_confidence"])
def test_the_evaluator_makes_no_labels_of_them(tmp_path, key, value):
    MetadataCatalog.get("finite_two").set(stuff_classes=["a", "b"], ignore_label=255)
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(tmp_path / "a.png")
    evaluator = SemSegEvaluator("finite_two")
    output = {"sem_seg": torch.zeros(2, 2, 3), "sem_seg_confidence": torch.zeros(2, 3)}
    output[key].view(-1)[-1] = value
    record = {"sem_seg_file_name": str(tmp_path / "a.png"), "file_name": "photo.jpg"}
    with pytest.raises(NotFiniteError, match="NaN or infinity in the answer for photo.jpg"):
        evaluator.process([record], [output])
    assert evaluator.images == 0 and not evaluator.matrix.counts.any()
    MetadataCatalog.remove("finite_two")


def run(root, *arguments):
    environment = {**os.environ, "DETECTRON2_DATASETS": str(root)}
    return run_program(*arguments, environment=environment)


def test_every_command_says_it_and_fails(tmp_path):
    model = build(HYPERCLIP)
    with torch.no_grad():
        model.sem_seg_head.decoder.classifier.weight[0] = math.nan
    weights = tmp_path / "broken.pth"
    torch.save({"model": model.state_dict()}, weights)
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "photo.png")
    options = [
        "MODEL.WEIGHTS",
        weights,
        "MODEL.DEVICE",
        "cpu",
        "DATALOADER.NUM_WORKERS",
        "0",
        "DATASETS.TEST",
        "['a150']",
    ]
    fake_trees.ade150(tmp_path)
    commands = [
        [
            "demo/demo.py",
            "--config-file",
            HYPERCLIP,
            "--input",
            tmp_path / "photo.png",
            "--output",
            tmp_path / "demo",
            "--vocabulary",
            "dog; cat",
            "--opts",
            *options,
        ],
        [
            "tools/train_net.py",
            "--config-file",
            HYPERCLIP,
            "--eval-only",
            *options,
            "OUTPUT_DIR",
            tmp_path / "eval",
        ],
        [
            "tools/evaluate.py",
            "--config-file",
            HYPERCLIP,
            *options,
            "--benchmarks",
            "a150",
            "--allow-partial",
            "--output",
            tmp_path / "suite",
        ],
    ]
    for command in commands:
        done = run(tmp_path, *command)
        said = done.stdout + done.stderr
        assert (
            done.returncode == 1
            and "broken weights" in said
            and "decoder.classifier.weight" in said
        ), said[-2000:]
        assert "Traceback" not in said
    (row,) = read_results(tmp_path / "suite")
    assert "mIoU" not in row and "broken weights" in row["error"]
    assert (
        not list((tmp_path / "suite/rows").rglob("a150*"))
        and not (tmp_path / "eval/results.json").exists()
    )


def test_what_is_finite_passes_without_being_touched():
    tensors = [
        torch.empty(0),
        torch.tensor([3, 4]),
        torch.randn(3, 4).half(),
        torch.full((2,), torch.finfo().max),
    ]
    before = [t.clone() for t in tensors]
    FiniteCheck().add("all of them", *tensors).require()
    FiniteCheck().require()
    assert all(torch.equal(one, other) for one, other in zip(tensors, before, strict=True))
