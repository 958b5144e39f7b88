"""Small models with trained weights, and whether two predictors answer the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hyperclip import Predictor, load_config
from hyperclip.adapters import adapters
from hyperclip.load import build_system, load_model

from tests.pretrained import IMAGE, WORDS

QUICKSTART = "configs/quickstart/hyperclip.yaml"
CPU = ("MODEL.DEVICE", "cpu")


def trained_config(folder: Path, *overrides: str, config: str = QUICKSTART):
    """A config whose checkpoint has weights that no other model has."""
    torch.manual_seed(5)
    keys = [*CPU, *overrides]
    model = build_system(load_config(config, keys))
    with torch.no_grad():
        for _, adapter in adapters(model):
            for parameter in adapter.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    file = folder / "trained checkpoint.pth"
    torch.save({"model": model.state_dict(), "trained_on": ["tinyscenes_train"]}, file)
    return load_config(config, [*keys, "MODEL.WEIGHTS", str(file)])


def unmerged(cfg) -> Predictor:
    """A predictor whose adapters stay apart."""
    return Predictor(load_model(cfg, merged=False), config=cfg)


def answer(predictor: Predictor, words=WORDS) -> tuple[np.ndarray, np.ndarray]:
    """Labels and confidence of an image."""
    predictor.set_image(IMAGE)
    prediction = predictor.predict(words)
    return prediction.labels, prediction.confidence


def require_same(one: Predictor, other: Predictor, words=WORDS) -> None:
    """Both answer bit by bit the same, and not one class everywhere."""
    (labels, confidence), (labels2, confidence2) = answer(one, words), answer(other, words)
    assert len(np.unique(labels)) > 1 and confidence.std() > 0
    assert np.array_equal(labels, labels2) and np.array_equal(confidence, confidence2)
