"""The command that says which datasets are ready."""

from __future__ import annotations

import numpy as np
import pytest
from hyperclip.commands.check_datasets import main
from PIL import Image

from tests.helpers.annotated import coco, describe, photos, polygon_of_box, write_json


def test_a_dataset_file_with_annotations(tmp_path, capsys):
    photos(tmp_path, ["a.jpg"])
    box = {"image_id": 1, "category_id": 3, "segmentation": [polygon_of_box(0, 0, 15, 20)]}
    write_json(tmp_path / "instances.json", coco(["a.jpg"], [box], {3: "car", 4: "sky"}))
    labels = {"format": "coco", "file": "instances.json"}
    path = describe(tmp_path, labels, {3: "car", 4: "sky"}, classes=["car", "sky"])
    assert main([str(path), "--samples", "0", "--histogram"]) == 0
    said = capsys.readouterr().out
    assert "| own_val   | ready" in said and "instances.json (own.yaml)" in said
    assert "not in the sample (1): sky" in said and "50.0 % of the pixels do not count" in said


def test_faults_and_the_status(tmp_path, capsys):
    photos(tmp_path, ["a.jpg", "b.jpg"])
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.full((20, 30), 9, np.uint8)).save(tmp_path / "masks/a.png")
    path = describe(tmp_path, "masks", None, name="faulty")
    assert main([str(path)]) == 1
    said = capsys.readouterr().out
    assert "faulty_val: 2 faults" in said and "no label for" in said and "got values [9]" in said
    with pytest.raises(SystemExit):
        main(["--samples", "-1"])


def test_all_registered_datasets_are_listed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert main([]) == 0
    assert "| voc21" in (said := capsys.readouterr().out) and str(tmp_path) in said
