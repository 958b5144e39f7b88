"""Every value of every released row, and the defaults that they rest on."""

from __future__ import annotations

from pathlib import Path

import cliper  # noqa: F401  (registers its keys)
import pytest
from hyperclip.adapters import AdapterOptions, RadiusAdjustment, adapters, prepare_finetuning
from hyperclip.clip import load_clip
from hyperclip.config import load_config

from tests.helpers.defaults import default

CAR, OPENAI = "scene", "imagenet"
B, L, H = "ViT-B/16", "ViT-L/14", "ViT-H-14:laion2b_s32b_b79k"
SETS = {
    "voc21": "voc_2012_test_21_sem_seg",
    "voc20": "voc_2012_test_sem_seg",
    "context": "context_60_test_sem_seg",
    "context59": "context_59_test_sem_seg",
    "coco5k": "coco_object_test_sem_seg",
    "stuff164": "coco_2017_test_stuff_all_sem_seg",
    "ade150": "ade20k_150_test_sem_seg",
    "city": "cityscapes_halves_test_sem_seg",
}
COLUMNS = (
    "template",
    "threshold",
    "size",
    "layer",
    "scale",
    "score",
    "background",
    "normalize",
    "window",
)
CLIPER_ROWS = {
    ("vit-b-16", "voc21"): (CAR, 0.1, 336, -1, 100, 0.7, 0.6, True, 336),
    ("vit-b-16", "voc20"): (CAR, 0.1, 336, -1, 100, 0.0, 0.001, False, 0),
    ("vit-b-16", "context"): (CAR, 0.2, 336, -1, 100, 0.45, 0.45, False, 224),
    ("vit-b-16", "context59"): (CAR, 0.2, 336, -1, 100, 0.3, 0.3, False, 224),
    ("vit-b-16", "coco5k"): (OPENAI, 0.2, 336, -1, 50, 0.3, 0.3, False, 224),
    ("vit-b-16", "stuff164"): (CAR, 0.2, 336, -1, 50, 0.1, 0.1, False, 0),
    ("vit-b-16", "ade150"): (CAR, 0.2, 336, -1, 100, 0.3, 0.3, False, 0),
    ("vit-b-16", "city"): (OPENAI, 0.35, 560, -1, 100, 0.0, 0.0001, False, 0),
    ("vit-l-14", "voc21"): (CAR, 0.1, 336, -2, 50, 0.5, 0.4, True, 0),
    ("vit-l-14", "voc20"): (CAR, 0.2, 336, -1, 70, 0.1, 0.0001, False, 0),
    ("vit-l-14", "context"): (OPENAI, 0.2, 336, -2, 50, 0.3, 0.3, False, 0),
    ("vit-l-14", "context59"): (CAR, 0.2, 336, -2, 100, 0.45, 0.45, False, 0),
    ("vit-l-14", "coco5k"): (OPENAI, 0.1, 336, -2, 50, 0.5, 0.5, False, 0),
    ("vit-l-14", "stuff164"): (OPENAI, 0.2, 336, -2, 50, 0.2, 0.2, False, 0),
    ("vit-l-14", "ade150"): (OPENAI, 0.2, 336, -1, 50, 0.2, 0.2, False, 0),
    ("vit-l-14", "city"): (CAR, 0.35, 448, -1, 100, 0.0, 0.0001, False, 0),
    ("vit-h-14", "voc21"): (CAR, 0.1, 336, -2, 100, 0.7, 0.6, True, 0),
}


def test_no_row_is_missing_here():
    found = {
        (p.parent.name, p.stem.removeprefix("ovs_"))
        for p in Path("configs/cliper").glob("vit-*/*.yaml")
    }
    assert found == set(CLIPER_ROWS)


@pytest.mark.parametrize(("folder", "name"), CLIPER_ROWS, ids="/".join)
def test_rows_of_cliper(folder, name):
    cfg = load_config(f"configs/cliper/{folder}/ovs_{name}.yaml")
    node = cfg.MODEL.CLIPER
    row = (
        cfg.MODEL.PROMPT_ENSEMBLE_TYPE,
        node.ATTENTION_THRESHOLD,
        node.SIZE,
        node.SELECT_LAYER,
        node.LOGIT_SCALE,
        node.SCORE_THRESHOLD,
        node.BACKGROUND_THRESHOLD,
        node.NORMALIZE,
        node.WINDOW,
    )
    assert dict(zip(COLUMNS, row, strict=True)) == dict(
        zip(COLUMNS, CLIPER_ROWS[folder, name], strict=True)
    )
    assert (
        cfg.MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED
        == {"vit-b-16": B, "vit-l-14": L, "vit-h-14": H}[folder]
    )
    assert list(cfg.DATASETS.TEST) == [SETS[name]]
    check_what_all_rows_share(cfg)


def check_what_all_rows_share(cfg):
    """The values of the released code that no file of it changes."""
    node = cfg.MODEL.CLIPER
    assert cfg.MODEL.META_ARCHITECTURE == "CLIPer" and cfg.MODEL.SYNONYMS == "first"
    assert (node.ATTENTION, node.SINKHORN, node.CENTER, node.CENTER_SCALE, node.RESIDUAL) == (
        "fused",
        -1,
        "mean",
        1.0,
        0.0,
    )
    assert (node.AVERAGE, node.AVERAGE_WEIGHT, node.PROPAGATION, node.WINDOW_STRIDE) == (
        "all",
        1.0,
        "columns",
        112,
    )
    assert node.HALF and not node.HALF_POSITIONS
    assert (
        node.NEGATIVES == ["background"]
        and node.MEAN_NEGATIVE
        and node.PROTOCOL == "abstain"
        and node.MAX_SIZE == 2560
    )
    assert (node.REFINER.NAME, node.REFINER.FUSION, node.REFINER.THRESHOLD, node.REFINER.INDEX) == (
        "diffusion",
        "SFSA",
        -1.0,
        1,
    )
    diffusion = node.DIFFUSION
    assert (diffusion.MODEL, diffusion.TIME_STEP, diffusion.STEPS, diffusion.RESIZE) == (
        "sd-2.1",
        45,
        50,
        "nearest",
    )
    assert list(diffusion.LAYERS) == ["up_blocks.3.attentions.1", "up_blocks.3.attentions.0"]
    assert (diffusion.NOISE, diffusion.SEED) == (
        "seeded",
        0,
    )  # the released code draws unseeded noise
    assert (cfg.TEST.VOCABULARY, cfg.INPUT.MIN_SIZE_TEST) == ("cliper", 0)


@pytest.mark.parametrize(
    ("name", "clip", "layer", "scale"), [("b16", B, -1, 100.0), ("l14", L, -2, 50.0)]
)
def test_one_setting_for_every_dataset(name, clip, layer, scale):
    cfg = load_config(f"configs/cliper/universal_vit{name}.yaml")
    node = cfg.MODEL.CLIPER
    assert (node.PROTOCOL, node.SELECT_LAYER, node.LOGIT_SCALE, node.SIZE, node.WINDOW) == (
        "argmax",
        layer,
        scale,
        336,
        0,
    )
    assert (cfg.MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED, cfg.MODEL.PROMPT_ENSEMBLE_TYPE) == (
        clip,
        "scene",
    )
    assert (node.ATTENTION_THRESHOLD, node.SCORE_THRESHOLD, node.BACKGROUND_THRESHOLD) == (
        0.2,
        0.0,
        0.0,
    )


TRAINED = {
    "vitb_384_hyperbolic": (B, "hyperbolic", [3, 7], 0.075),
    "vitb_384_catseg": (B, "attention", [3, 7], 0.01),
    "vitl_336_hyperbolic": ("ViT-L/14@336px", "hyperbolic", [7, 15], 0.075),
    "vitl_336_catseg": ("ViT-L/14@336px", "attention", [7, 15], 0.01),
}
HEAD = {
    "NAME": "CostVolumeHead",
    "NUM_CLASSES": 171,
    "IGNORE_VALUE": 255,
    "TEXT_GUIDANCE_PROJ_DIM": 128,
    "APPEARANCE_GUIDANCE_PROJ_DIM": 128,
    "DECODER_DIMS": [64, 32],
    "DECODER_GUIDANCE_DIMS": [256, 128],
    "DECODER_GUIDANCE_PROJ_DIMS": [32, 16],
    "NUM_LAYERS": 2,
    "NUM_HEADS": 4,
    "HIDDEN_DIMS": 128,
    "POOLING_SIZES": [2, 2],
    "POOLING_SIZES_TEST": [1, 1],
    "FEATURE_RESOLUTION": [24, 24],
    "WINDOW_SIZES": 12,
    "ATTENTION_TYPE": "linear",
    "PAD_LEN": 256,
    "SAMPLED_CLASSES": 0,
    "MAX_CLASSES": 256,
    "TRAIN_CLASS_JSON": "",
    "TEST_CLASS_JSON": "",
    "TEXT_GUIDANCE_DIM": 0,
    "APPEARANCE_GUIDANCE_DIM": 0,
}
SOLVER = {
    "IMS_PER_BATCH": 4,
    "BASE_LR": 2e-4,
    "MAX_ITER": 80000,
    "OPTIMIZER": "ADAMW",
    "LR_SCHEDULER_NAME": "WarmupCosineLR",
    "WARMUP_FACTOR": 1.0,
    "WARMUP_ITERS": 0,
    "WEIGHT_DECAY": 1e-4,
    "WEIGHT_DECAY_NORM": 0.0,
    "WEIGHT_DECAY_EMBED": 0.0,
    "MOMENTUM": 0.9,
    "CHECKPOINT_PERIOD": 5000,
    "MICRO_BATCHES": 1,
    "EMA_DECAY": 0.0,
    "DECAY_TO_IDENTITY": False,
    "CLIP_GRADIENTS.ENABLED": True,
    "CLIP_GRADIENTS.CLIP_TYPE": "full_model",
    "CLIP_GRADIENTS.CLIP_VALUE": 0.01,
    "CLIP_GRADIENTS.NORM_TYPE": 2.0,
}
INPUT = {
    "FORMAT": "RGB",
    "MIN_SIZE_TRAIN": (384,),
    "MIN_SIZE_TRAIN_SAMPLING": "choice",
    "MAX_SIZE_TRAIN": 1333,
    "MIN_SIZE_TEST": 640,
    "MAX_SIZE_TEST": 2560,
    "CROP.ENABLED": True,
    "CROP.TYPE": "absolute",
    "CROP.SIZE": [384, 384],
    "CROP.SINGLE_CATEGORY_MAX_AREA": 1.0,
    "COLOR_AUG_SSD": True,
    "SIZE_DIVISIBILITY": 384,
    "RANDOM_FLIP": "horizontal",
}
TEST = {
    "SLIDING_WINDOW": True,
    "SLIDING.SIZE": 640,
    "SLIDING.KERNEL": 384,
    "SLIDING.OVERLAP": 0.333,
    "SLIDING.GLOBAL_VIEW": True,
    "EVAL_PERIOD": 80000,
    "VOCABULARY": "catseg",
    "BACKGROUND_THRESHOLD": 0.5,
    "BEST_METRIC": "mIoU",
    "IMS_PER_BATCH": 1,
}
ADAPTER = {
    "ENCODERS": ["vision", "text"],
    "PROJECTIONS": [],  # the adapter's: q, k and v
    "BLOCK_SIZE": 128,
    "BLOCK_SIZE_TEXT": 0,
    "CURVATURE_VISION": 0.01,
    "CURVATURE_TEXT": -1.0,  # the adapter's: 1.0
    "LITERAL": False,
    "RANK": 8,
    "ALPHA": 8.0,
}


def value_of(node, key):
    for part in key.split("."):
        node = node[part]
    return node


def test_no_trained_row_is_missing_here():
    assert {p.stem for p in Path("configs").glob("vit*.yaml")} == set(TRAINED)


@pytest.mark.parametrize("name", TRAINED)
def test_rows_that_are_trained(name):
    cfg = load_config(f"configs/{name}.yaml")
    head = cfg.MODEL.SEM_SEG_HEAD
    assert (
        head.CLIP_PRETRAINED,
        head.CLIP_FINETUNE,
        list(head.CLIP_LAYERS),
        cfg.SOLVER.CLIP_MULTIPLIER,
    ) == TRAINED[name]
    assert list(cfg.DATASETS.TRAIN) == ["coco_2017_train_stuff_all_sem_seg"]
    assert list(cfg.DATASETS.TEST) == ["coco_2017_test_stuff_all_sem_seg"]
    assert (cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.PROMPT_ENSEMBLE_TYPE, cfg.MODEL.SYNONYMS) == (
        "HyperCLIP",
        "single",
        "first",
    )
    sections = ((head, HEAD), (cfg.SOLVER, SOLVER), (cfg.INPUT, INPUT), (cfg.TEST, TEST))
    assert (
        cfg.MODEL.CLIP_WEIGHTS,
        cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY,
        cfg.DATALOADER.NUM_WORKERS,
    ) == ("", 0, 16)
    for node, expected in sections:
        assert {key: value_of(node, key) for key in expected} == expected


@pytest.mark.parametrize("name", ["vitb_384_hyperbolic", "vitl_336_hyperbolic"])
def test_adapters_of_the_released_rows(name):
    node = load_config(f"configs/{name}.yaml").MODEL.ADAPTER
    assert {key: node[key] for key in ADAPTER} == ADAPTER


@pytest.mark.parametrize("name", ["vitb_384_hyperbolic", "vitl_336_hyperbolic"])
def test_what_the_adapters_of_the_released_rows_train(name):
    """Radius adjustment of q, k and v, the curvature 0.01 in the image tower and 1.0 in the text
    tower.
    """
    node = load_config(f"configs/{name}.yaml").MODEL
    given = node.ADAPTER
    options = default(
        AdapterOptions,
        encoders=given.ENCODERS,
        projections=given.PROJECTIONS,
        block_size=32,  # the tiny towers are 64 wide
        curvature_vision=given.CURVATURE_VISION,
        curvature_text=given.CURVATURE_TEXT,
    )
    clip = load_clip("configs/quickstart/tiny_clip").model
    prepare_finetuning(clip, node.SEM_SEG_HEAD.CLIP_FINETUNE, options)
    found = {
        ("vision" if "visual" in name else "text", type(a), a.projections, a.curvature)
        for name, a in adapters(clip)
    }
    assert found == {
        ("vision", RadiusAdjustment, ("q", "k", "v"), 0.01),
        ("text", RadiusAdjustment, ("q", "k", "v"), 1.0),
    }


def test_the_input_of_clip():
    """OpenAI's mean and standard deviation times 255, in the digits of CAT-Seg."""
    cfg = load_config("configs/vitb_384_hyperbolic.yaml")
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    assert cfg.MODEL.CLIP_PIXEL_MEAN == pytest.approx([255 * x for x in mean], abs=1e-6)
    assert cfg.MODEL.CLIP_PIXEL_STD == pytest.approx([255 * x for x in std], abs=1e-6)
