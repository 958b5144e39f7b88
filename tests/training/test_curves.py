"""Thirty iterations of four small trainings give the losses and norms that were recorded.

To record them anew, after a change that means to alter training: python -m
tests.training.test_curves
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import cliper  # noqa: F401  (registers CLIPer and its keys)
import pytest
import torch
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import get_event_storage
from hyperclip.config.keys import load_config
from hyperclip.data.dataset_file import register_files
from hyperclip.training import Trainer

from tests.helpers.colours import keys_of, write_colours

RECORDED = Path(__file__).with_name("curves.json")
CONFIGS = {
    "hyperbolic, AdamW, cosine": {},
    "q and v, whole vocabulary sampled": {
        "MODEL__SEM_SEG_HEAD__CLIP_FINETUNE": "attention",
        "MODEL__SEM_SEG_HEAD__SAMPLED_CLASSES": 3,
    },
    "radius and rotation, decay to identity, average": {
        "MODEL__SEM_SEG_HEAD__CLIP_FINETUNE": "hyperbolic+rotation",
        "SOLVER__DECAY_TO_IDENTITY": True,
        "SOLVER__WEIGHT_DECAY": 0.1,
        "SOLVER__EMA_DECAY": 0.9,
        "SOLVER__WARMUP_ITERS": 5,
        "SOLVER__WARMUP_FACTOR": 0.1,
    },
    "LoRA, SGD, poly, two micro-batches": {
        "MODEL__SEM_SEG_HEAD__CLIP_FINETUNE": "lora",
        "SOLVER__OPTIMIZER": "SGD",
        "SOLVER__BASE_LR": 0.05,
        "SOLVER__LR_SCHEDULER_NAME": "WarmupPolyLR",
        "SOLVER__MICRO_BATCHES": 2,
    },
}


def curve_of(folder: Path, keys: dict[str, object]) -> dict[str, list[float]]:
    """Loss and norm of the gradient of each of 30 iterations."""
    path = write_colours(folder)
    register_files([path])
    # larger ones amplify what rounding differs
    given = {"SOLVER__BASE_LR": 5e-4, "SOLVER__CLIP_MULTIPLIER": 0.1, **keys}
    overrides = keys_of(
        path, 30, DATALOADER__NUM_WORKERS=0, OUTPUT_DIR=folder / "run", DATASETS__TEST=[], **given
    )
    cfg = load_config("configs/quickstart/hyperclip.yaml", overrides)
    seed_all_rng(cfg.SEED)
    trainer, found = Trainer(cfg), {"loss": [], "norm": []}
    step = trainer.run_step

    def noted() -> None:
        step()
        latest = get_event_storage().latest()
        found["loss"].append(latest["total_loss"][0])
        found["norm"].append(latest["gradient_norm"][0])

    trainer.run_step = noted
    trainer.train()
    return found


@pytest.fixture(autouse=True)
def _fresh_dataset():
    """The dataset lies somewhere else each time."""
    yield
    forget_colours()


def forget_colours() -> None:
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from hyperclip.data import DATASETS

    for name in ("colours_train", "colours_val"):
        DATASETS.pop(name, None)
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_curve_is_the_recorded_one(tmp_path, name):
    found, recorded = curve_of(tmp_path, CONFIGS[name]), json.loads(RECORDED.read_text())[name]
    assert len(found["loss"]) == 30 and recorded["loss"][-1] < 0.9 * recorded["loss"][0]
    assert found["loss"] == pytest.approx(recorded["loss"], rel=2e-3)
    assert found["norm"][:10] == pytest.approx(recorded["norm"][:10], rel=1e-2)


if __name__ == "__main__":
    torch.set_num_threads(2)
    curves = {}
    for title, chosen in CONFIGS.items():
        with tempfile.TemporaryDirectory() as temporary:
            curves[title] = {
                kind: [float(f"{x:.6g}") for x in xs]
                for kind, xs in curve_of(Path(temporary), chosen).items()
            }
            forget_colours()
    RECORDED.write_text(json.dumps(curves, indent=1) + "\n")
