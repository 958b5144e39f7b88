"""The systems on offer: their names, their configs, and models that are built anew when needed."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from hyperclip import zoo
from hyperclip.config import keys, load_config
from hyperclip.page.systems import ENCODED_IMAGES, QUICKSTART, Offer, Systems, offered
from hyperclip.predictor import Predictor
from hyperclip.tinyscenes.drawing import render_scene

CLASSES = "red plain circle; blue striped star; green dotted cross, cross"
CONFIG = "configs/quickstart/cliper.yaml"


@pytest.fixture
def encodings(monkeypatch):
    """The images that any predictor has encoded."""
    images, encode = [], Predictor.encode

    def counted(predictor, image):
        images.append(image)
        return encode(predictor, image)

    monkeypatch.setattr(Predictor, "encode", counted)
    return images


def test_a_replaced_checkpoint_gives_new_answers(tmp_path):
    """Of the same name, size and time; and the same content is not built again."""
    config, weights = "configs/quickstart/hyperclip.yaml", tmp_path / "model.pth"
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        states.append(build_model(load_config(config, ["MODEL.DEVICE", "cpu"])).state_dict())
    overrides = ("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(weights))
    systems = Systems({"mine": Offer(config, overrides)})
    image, answers, built = render_scene("val_seen", 0)[0], [], []
    for state in (states[0], states[0], states[1], states[0]):
        torch.save({"model": state}, weights)
        os.utime(weights, (1e9, 1e9))
        built.append(systems.model("mine"))
        predictor = built[-1].predictor
        answers.append(predictor.segment(built[-1].encode("a", image), CLASSES).confidence)
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[3])
    assert np.abs(answers[0] - answers[2]).max() > 1e-3
    assert built[0] is built[1] and built[0] is built[3] and built[2] is not built[0]


def test_configs_are_offered_with_their_overrides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("VERSION: 2\n")
    offers = offered([["mine.yaml"], ["mine.yaml", "MODEL.WEIGHTS", "a.pth"]])
    assert list(offers) == ["mine.yaml", "mine.yaml (2)", *QUICKSTART]
    assert offers["mine.yaml"] == Offer(str(tmp_path / "mine.yaml"))
    assert offers["mine.yaml (2)"].overrides == ("MODEL.WEIGHTS", "a.pth")
    with pytest.raises(FileNotFoundError, match="got 'none.yaml', which does not exist"):
        offered([["none.yaml"]])
    with pytest.raises(ValueError, match="unknown config key MODEL.WEIGHT "):
        offered([["mine.yaml", "MODEL.WEIGHT", "a.pth"]])


def test_the_best_model_here_comes_first_where_no_config_is_given(monkeypatch):
    assert list(offered([])) == [zoo.ZOO["photo-mini"].what, *QUICKSTART]

    def nothing():
        raise FileNotFoundError("no model is on this machine")

    monkeypatch.setattr(zoo, "best_here", nothing)
    assert list(offered([])) == list(QUICKSTART)


def test_what_is_not_installed_is_not_offered(monkeypatch, caplog):
    monkeypatch.setattr(keys, "_PACKAGES", {keys.add_hyperclip_config: keys.FRAMEWORK})
    configs = [offer.config for offer in offered([]).values()]
    assert configs == [zoo.best_here().config, "configs/quickstart/hyperclip.yaml"]
    assert "CLIPer (quickstart) is not offered: " in caplog.text


@pytest.mark.parametrize("name", QUICKSTART)
def test_the_quickstart_s_systems_answer(name):
    model = Systems(QUICKSTART).model(name)
    encoded = model.encode("a", render_scene("val_seen", 0)[0])
    assert model.predictor.segment(encoded, CLASSES).confidence.max() > 0.1


def test_another_name_is_refused():
    systems = Systems({"a": Offer(CONFIG)})
    for name in (CONFIG, "", "/etc/passwd"):
        with pytest.raises(ValueError, match="system: got .*, expected one of"):
            systems.model(name)


def test_the_range_of_confidence_is_the_system_s():
    offers = {"cliper": Offer(CONFIG), "hyperclip": Offer("configs/quickstart/hyperclip.yaml")}
    systems = Systems(offers)
    assert [systems.largest_confidence(name) for name in systems.names] == [2, 1]


def test_two_models_and_some_images_are_kept(encodings):
    fusion = "configs/quickstart/cliper_fusion.yaml"
    offers = {name: Offer(fusion, ("MODEL.CLIPER.SIZE", name)) for name in ("64", "96", "128")}
    systems = Systems(offers)
    first, image = systems.model("64"), render_scene("val_seen", 0)[0]
    systems.model("96")
    assert systems.model("64") is first
    systems.model("128")
    assert systems.model("64") is first and systems.model("96") is not systems.model("128")
    for k in range(ENCODED_IMAGES + 1):
        first.encode(str(k), image)
        first.encode(str(k), image)
    assert len(encodings) == ENCODED_IMAGES + 1
    first.encode("1", image)
    assert len(encodings) == ENCODED_IMAGES + 1
    first.encode("0", image)
    assert len(encodings) == ENCODED_IMAGES + 2
