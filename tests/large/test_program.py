"""hyperclip-segment-large, and what docs/large_images.md says."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import rasterio
from hyperclip.commands import segment_large
from hyperclip.tinyscenes.drawing import render_scene

from tests.conftest import ROOT
from tests.docs.reading import blocks
from tests.helpers.large import MAP

TRAINED = ["--config-file", "configs/quickstart/hyperclip_trained.yaml"]
CPU = ["--opts", "MODEL.DEVICE", "cpu"]
PAGE = "docs/large_images.md"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with maps of a scene, of 8 bits and of 16 with five bands."""
    scene = np.concatenate([render_scene("val_seen", k)[0] for k in range(2)], axis=1)
    bands = scene.transpose(2, 0, 1)
    more = np.concatenate([bands * np.uint16(10), np.zeros((2, *bands.shape[1:]), np.uint16)])
    for name, values in (("big.tif", bands), ("sentinel.tif", more)):
        profile = {"driver": "GTiff", "count": len(values), "dtype": values.dtype, "crs": 32632}
        size = {"height": values.shape[1], "width": values.shape[2]}
        with rasterio.open(tmp_path / name, "w", **profile, **size, transform=MAP) as file:
            file.write(values)
    (tmp_path / "names.txt").write_text("red plain circle\nblue striped star\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(segment_large, "setup_logger", lambda name: None)
    monkeypatch.setattr(logging.getLogger("hyperclip"), "propagate", True)
    return tmp_path


def said(caplog):
    return [record.getMessage() for record in caplog.records]


def test_a_map_in_and_out(folder, caplog):
    caplog.set_level(logging.INFO, "hyperclip")
    words = ["--input", "big.tif", "--output", "out.tif", "--polygons", "out.geojson"]
    words += ["--window", "96", "--vocabulary", "names.txt", "--threshold", "0.3"]
    assert segment_large.main([*TRAINED, *words, *CPU]) == 0
    with rasterio.open("out.tif") as file:
        labels = file.read(1)
        assert file.transform == MAP and json.loads(file.tags()["NAMES"])[1] == "blue striped star"
    assert set(np.unique(labels)) <= {0, 1, 254} and (labels == 254).any()
    assert said(caplog)[-1].startswith("out.tif: (no class) ") and "%" in said(caplog)[-1]
    assert {
        f["properties"]["label"] for f in json.loads(open("out.geojson").read())["features"]
    } == (set(np.unique(labels)) - {254})
    with pytest.raises(FileExistsError, match="is there. Choose another name, or restart"):
        segment_large.main([*TRAINED, *words, *CPU])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "none.tif"], "does not exist"),
        (["--input", "sentinel.tif"], "--value-range"),
        (["--input", "big.tif", "--bands", "red"], "--bands: got 'red'"),
        (["--input", "big.tif", "--bands", "4"], "bands: got 4, expected"),
        (["--input", "big.tif", "--threshold", "3"], "--threshold: got 3"),
        (["--input", "big.tif", "--extent", "0", "0", "9", "99999"], "extent: got 0 0 9 99999"),
    ],
)
def test_mistakes_are_found_before_the_model_is_built(folder, words, message, monkeypatch):
    monkeypatch.setattr(segment_large, "Predictor", None)
    words = [*TRAINED, *words, "--output", "out.tif", "--vocabulary", "names.txt", *CPU]
    with pytest.raises((ValueError, OSError), match=message):
        segment_large.main(words)


def test_an_interruption_is_told(folder, caplog, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("hyperclip.large.segmenting.Task.run", stop)
    words = ["--input", "big.tif", "--output", "out.tif", "--vocabulary", "names.txt"]
    with pytest.raises(KeyboardInterrupt):
        segment_large.main([*TRAINED, *words, *CPU])
    assert "Interrupted: the same command goes on from there" in said(caplog)


def test_the_page_s_python(folder, capsys):
    (code,) = blocks(PAGE, "python")
    exec(compile(code, PAGE, "exec"), {})
    assert "'red circle'" in capsys.readouterr().out
    assert (folder / "labels.tif").is_file() and (ROOT / PAGE).is_file()
