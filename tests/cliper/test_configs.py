"""Every shipped CLIPer config: it loads, is small, and builds for a true-sized CLIP; the released
values are there.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from hyperclip.config.keys import load_config
from hyperclip.data import DATASETS
from hyperclip.data.class_lists import test_vocabulary as evaluated_vocabulary

from tests.helpers.asking import ask

LEAVES = sorted(Path("configs/cliper").glob("vit-*/ovs_*.yaml"))
SETS = ["ade150", "city", "coco5k", "context", "context59", "stuff164", "voc20", "voc21"]
CLASSES = {
    "voc": 20,
    "context": 59,
    "coco_object": 80,
    "coco_stuff": 171,
    "ade150": 150,
    "cityscapes": 19,
}


def test_every_row_of_the_released_table_is_there():
    names = {
        path.parent.name: sorted(p.stem.removeprefix("ovs_") for p in path.parent.glob("ovs_*"))
        for path in LEAVES
    }
    assert names == {"vit-b-16": SETS, "vit-l-14": SETS, "vit-h-14": ["voc21"]}


@pytest.mark.parametrize("path", LEAVES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_leaves(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 25 and "_BASE_: ../Base-CLIPer.yaml" in text
    cfg = load_config(path)
    node = cfg.MODEL.CLIPER
    (name,) = cfg.DATASETS.TEST
    vocabulary = evaluated_vocabulary(cfg, name)
    assert (
        len(vocabulary) == CLASSES[vocabulary.name.removeprefix("cliper_")] and vocabulary.negatives
    )
    with_background = path.stem in ("ovs_voc21", "ovs_context", "ovs_coco5k")
    assert DATASETS[name].background == ("threshold" if with_background else "none")
    assert DATASETS[name].halves == (path.stem == "ovs_city")
    assert (
        node.PROTOCOL == "abstain"
        and node.BACKGROUND_THRESHOLD > 0
        and node.REFINER.NAME == "diffusion"
    )
    assert (
        node.DIFFUSION.MODEL == "sd-2.1"
        and node.DIFFUSION.TIME_STEP == 45
        and cfg.INPUT.MIN_SIZE_TEST == 0
    )
    assert node.SIZE == {"city": {"vit-b-16": 560, "vit-l-14": 448}}.get(path.stem[4:], {}).get(
        path.parent.name, 336
    )
    assert node.NORMALIZE == (path.stem == "ovs_voc21")


def test_some_released_values():
    rows = {
        "vit-b-16/ovs_voc21": (0.1, -1, 100, 0.7, 0.6, 336),
        "vit-b-16/ovs_coco5k": (0.2, -1, 50, 0.3, 0.3, 224),
        "vit-l-14/ovs_voc20": (0.2, -1, 70, 0.1, 0.0001, 0),
        "vit-l-14/ovs_city": (0.35, -1, 100, 0, 0.0001, 0),
        "vit-l-14/ovs_context59": (0.2, -2, 100, 0.45, 0.45, 0),
        "vit-h-14/ovs_voc21": (0.1, -2, 100, 0.7, 0.6, 0),
    }
    for name, values in rows.items():
        n = load_config(f"configs/cliper/{name}.yaml").MODEL.CLIPER
        read = (
            n.ATTENTION_THRESHOLD,
            n.SELECT_LAYER,
            n.LOGIT_SCALE,
            n.SCORE_THRESHOLD,
            n.BACKGROUND_THRESHOLD,
            n.WINDOW,
        )
        assert read == values, name


@pytest.mark.parametrize("name", ["universal_vitb16", "universal_vitl14"])
def test_universal(name):
    assert load_config(f"configs/cliper/{name}.yaml").MODEL.CLIPER.PROTOCOL == "argmax"


def test_a_released_row_runs_on_the_real_architecture():
    overrides = [
        "MODEL.DEVICE",
        "cpu",
        "MODEL.CLIP_WEIGHTS",
        "none",
        "MODEL.CLIPER.REFINER.NAME",
        "none",
    ]
    cfg = load_config("configs/cliper/vit-b-16/ovs_voc21.yaml", overrides)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    words = evaluated_vocabulary(cfg, cfg.DATASETS.TEST[0])
    result = ask(model, torch.randint(0, 256, (3, 120, 160), dtype=torch.uint8), words)
    assert (
        result["sem_seg_labels"].shape == (120, 160)
        and model.embed_vocabulary(words).shape[0] == 20 + 25 + 1
    )
