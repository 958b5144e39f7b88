"""hyperclip-build-bank: a folder to a bank, resumed, extended; what cannot be read."""

from __future__ import annotations

import logging

import pytest
import torch
from hyperclip.commands import build_bank
from hyperclip.config import load_config
from hyperclip.load import load_model
from hyperclip.segmenter import Question
from hyperclip.stages import read_bank
from hyperclip.tinyscenes.drawing import render_scene
from PIL import Image

DENSE = "configs/quickstart/dense_clip.yaml"
CPU = ["MODEL.DEVICE", "cpu"]


class Killed(BaseException):
    """As SIGKILL, which nothing handles."""


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(4):
        Image.fromarray(render_scene("train", index)[0]).save(folder / f"{index}.png")
    return folder


def build(photos, *more, config=DENSE):
    file = photos.parent / "bank.safetensors"
    words = ["--config-file", config, "--input", str(photos), "--output", str(file)]
    return build_bank.main([*words, "--opts", *CPU, *more]), file


def stopped_at(monkeypatch, index, error):
    """The images that are encoded; the one of this number raises an error."""
    original, encoded = build_bank.Reader.regions, []

    def regions(self, path):
        encoded.append(path.name)
        if len(encoded) == index:
            raise error
        return original(self, path)

    monkeypatch.setattr(build_bank.Reader, "regions", regions)
    return encoded


def test_a_folder_becomes_a_bank_that_a_model_takes(photos):
    status, file = build(photos)
    bank = read_bank(file, "bank")
    assert status == 0
    assert [image.name for image in bank.images] == [f"{i}.png" for i in range(4)]
    model = load_model(load_config(DENSE, CPU))
    image = torch.from_numpy(render_scene("train", 0)[0].transpose(2, 0, 1))
    features = model.features(model.encode([image])[0])
    expected = features[:, :2, :2].mean((1, 2))
    torch.testing.assert_close(bank.regions[0], expected / expected.norm(), atol=1e-5, rtol=0)
    assert len(bank.regions) == 4 * 36  # squares of 2 x 2 of 12 x 12 cells
    staged = load_model(load_config(DENSE, [*CPU, "TEST.BANK.FILE", str(file)]))
    question = Question.of("red plain circle; blue striped star", scores=True)
    own, plain = staged.encode([image])[0], model.encode([image])[0]
    scores = staged.answer(own, question, (96, 96)).scores
    assert not torch.equal(scores, model.answer(plain, question, (96, 96)).scores)


def test_a_killed_run_goes_on_and_new_images_are_added(photos, monkeypatch):
    monkeypatch.setattr("hyperclip.stages.bank_file.EVERY", 2)
    with monkeypatch.context() as patch:
        encoded = stopped_at(patch, 4, Killed())
        with pytest.raises(Killed):
            build(photos)
        assert len(encoded) == 4
    parts = photos.parent / "bank.safetensors.parts"
    assert len(list(parts.iterdir())) == 1 and not (photos.parent / "bank.safetensors").exists()
    with monkeypatch.context() as patch:
        encoded = stopped_at(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            build(photos)
    assert encoded == ["2.png", "3.png"] and len(list(parts.iterdir())) == 2
    encoded = stopped_at(monkeypatch, 0, None)
    assert build(photos)[0] == 0 and encoded == ["3.png"] and not parts.exists()
    Image.fromarray(render_scene("train", 9)[0]).save(photos / "new.png")
    Image.open(photos / "0.png").save(photos / "copy.png", compress_level=1)
    (photos / "same.png").write_bytes((photos / "1.png").read_bytes())
    status, file = build(photos)
    assert status == 0 and encoded == ["3.png", "copy.png", "new.png"]
    assert len(read_bank(file, "bank").images) == 6
    before = file.read_bytes()
    assert build(photos)[0] == 0 and file.read_bytes() == before


def test_images_that_cannot_be_read_are_named(photos, caplog):
    (photos / "1.png").write_bytes(b"no image")
    (photos / "2.png").write_bytes((photos / "0.png").read_bytes()[:400])
    with caplog.at_level(logging.INFO, "hyperclip"):
        logging.getLogger("hyperclip").propagate = True
        status, file = build(photos)
    assert status == 1 and len(read_bank(file, "bank").images) == 2
    assert "1.png" in caplog.text and "2.png" in caplog.text
    assert "2 added, 0 were there, 2 could not be read" in caplog.text


def test_nothing_to_read(photos, monkeypatch):
    empty = photos.parent / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="--input: no image at"):
        build(empty)
    for path in photos.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match="none of 4 images could be read"):
        build(photos)
    assert not (photos.parent / "bank.safetensors").exists()


def test_a_bank_that_does_not_fit(photos):
    _, file = build(photos)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="--output: .*is of another model"):
        build(photos, config="configs/quickstart/cliper_fusion.yaml")
    with pytest.raises(ValueError, match="got regions by .* expected"):
        build(photos, "TEST.BANK.CELLS", "3")
    assert file.read_bytes() == before
    file.write_bytes(before[:-9])
    with pytest.raises(ValueError, match="--output: .* cannot be read"):
        build(photos)
    with pytest.raises(SystemExit):
        build_bank.main(["--input", str(photos), "--output", "bank.pt"])
