"""CLIPer's quickstart in small: evaluation through the users' command, on one and two processes,
and the demo.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.helpers.results import rows_of
from tests.quickstart.test_quickstart import root, run  # noqa: F401  (root is a fixture)

CONFIGS = ["clip_last_layer", "cliper_fusion", "cliper"]


def evaluate(root, output, config, *arguments, processes=1):  # noqa: F811
    common = [
        "--config-file",
        f"configs/quickstart/{config}.yaml",
        "--eval-only",
        "--num-gpus",
        processes,
    ]
    common += ["OUTPUT_DIR", output, "DATALOADER.NUM_WORKERS", 0, "MODEL.DEVICE", "cpu"]
    run(root, "tools/train_net.py", *common, *arguments)
    return rows_of(output)


@pytest.mark.parametrize("config", CONFIGS)
def test_evaluation(root, tmp_path, config):  # noqa: F811
    rows = evaluate(root, tmp_path, config)
    assert set(rows) == {"tinyscenes_val_seen", "tinyscenes_val_unseen"}
    refiner = "DiffusionRefiner" if config == "cliper" else "none"
    for row in rows.values():
        assert row["images"] == 6 and 0 < row["pACC"] <= 100
        assert row["system"] == "CLIPer" and row["settings"]["refiner"] == refiner


def test_two_processes_count_each_image_once(root, tmp_path):  # noqa: F811
    """Six images in batches of four on two processes: no padding, and exactly the scores of one
    process.
    """
    arguments = ["TEST.IMS_PER_BATCH", 4, "DATASETS.TEST", "('tinyscenes_val_unseen',)"]
    one = evaluate(root, tmp_path / "one", "cliper", *arguments)
    two = evaluate(root, tmp_path / "two", "cliper", *arguments, processes=2)
    assert one["tinyscenes_val_unseen"]["images"] == two["tinyscenes_val_unseen"]["images"] == 6
    for key in ("mIoU", "mIoU_old", "pACC", "mACC", "IoU"):
        assert two["tinyscenes_val_unseen"][key] == pytest.approx(
            one["tinyscenes_val_unseen"][key], abs=0.2
        ), key


def test_demo_with_thresholds_and_negatives(root, tmp_path):  # noqa: F811
    images = root / "tinyscenes/val_unseen/images"
    run(
        root,
        "demo/demo.py",
        "--config-file",
        "configs/quickstart/cliper.yaml",
        "--input",
        images,
        "--output",
        tmp_path,
        "--vocabulary",
        "red plain circle; blue striped star",
        "--negatives",
        "grey ground",
        "--opts",
        "MODEL.CLIPER.PROTOCOL",
        "abstain",
        "MODEL.CLIPER.BACKGROUND_THRESHOLD",
        0.7,
    )
    maps = [np.asarray(Image.open(path)) for path in sorted(tmp_path.glob("*_labels.png"))]
    assert len(maps) == 6 and set(np.unique(maps)) <= {0, 1, 255} and 255 in np.unique(maps)
