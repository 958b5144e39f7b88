"""The Python interface: encode an image once, then ask for any vocabulary.

    predictor = Predictor.from_config("configs/vitb_384_hyperbolic.yaml", ["MODEL.WEIGHTS", "model_final.pth"])
    predictor.set_image(image)
    prediction = predictor.predict("dog; truck; road, street; sky")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import AugInput
from detectron2.modeling import build_model

from .adapters import merge
from .config import load_config
from .engine import StrictCheckpointer, require_weights
from .finite import FiniteCheck, require_finite_weights
from .precision import float32_products, inference_precision
from .resizing import ResizeShortestEdge
from .vocabulary import Vocabulary


@dataclass(frozen=True)
class Prediction:
    """What is where.

    Attributes:
        labels: int64 (H, W), indices into ``names``; -1 where the model abstains (CLIPer).
        confidence: float32 (H, W), the score of that class: HyperCLIP 0..1, CLIPer 0 to about 2.
        names: T class names.
    """

    labels: np.ndarray
    confidence: np.ndarray
    names: list[str]


class Predictor:
    """Segments images with a model in evaluation mode; adapters are merged.

    Args:
        model: a :class:`HyperCLIP`, or anything else with its ``encode`` and ``segment``, such as CLIPer.
        shortest, longest: the image is resized to this shortest side (0: not at all) unless its longest would exceed the other.
        precision: "float32", or "tf32" on a GPU; as an attribute, what is really used (CLIPer may take float16).
    """

    def __init__(self, model: Any, shortest: int = 640, longest: int = 2560, precision: str = "float32") -> None:
        merge(model.eval())
        require_finite_weights(model)
        self.precision = inference_precision(precision, model)
        self.model, self.resize = model, ResizeShortestEdge(shortest, longest)
        self._encoded: Any = None
        self._size = (0, 0)

    @classmethod
    def from_config(cls, config: str | Path | CfgNode, overrides: Sequence[str] = ()) -> Predictor:
        """Build the model of a config file (with KEY VALUE overrides) or of a config, and load its weights.

        Raises:
            FileNotFoundError, ValueError: see :func:`hyperclip.config.load_config` and the checkpoint loader.
        """
        if isinstance(config, CfgNode) and overrides:
            raise ValueError(f"overrides {list(overrides)} with a config object: merge them into it first")
        cfg = config if isinstance(config, CfgNode) else load_config(config, overrides)
        model = build_model(cfg)
        require_weights(cfg, model)
        StrictCheckpointer(model).load(cfg.MODEL.WEIGHTS)
        return cls(model, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.TEST.PRECISION)

    def set_image(self, image: np.ndarray) -> None:
        """Encode an image, uint8 RGB (H, W, 3); what is computed here does not depend on the vocabulary.

        Raises:
            ValueError: another shape or type.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image: got {image.dtype} {image.shape}, expected uint8 (H, W, 3), RGB")
        inputs = AugInput(image)
        self.resize(inputs)
        tensor = torch.from_numpy(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        with float32_products(self.precision == "tf32"):
            (self._encoded,) = self.model.encode([tensor])
        self._size = image.shape[:2]

    def predict(self, vocabulary: str | Vocabulary, **options: Any) -> Prediction:
        """Segment the image set before.

        Args:
            vocabulary: classes; text is parsed with ``;`` between classes and ``,`` between synonyms.
            options: passed on to the model's ``segment``; CLIPer takes ``labels``, its thresholds.
        Raises:
            RuntimeError: no image was set. ValueError: an empty vocabulary, duplicates, a name that is too long.
            NotFiniteError: NaN or infinity on the way.
        """
        if self._encoded is None:
            raise RuntimeError("predict: no image yet. Call set_image(image) first")
        if isinstance(vocabulary, str):
            vocabulary = Vocabulary.from_text(vocabulary)
        with float32_products(self.precision == "tf32"):
            result = self.model.segment(self._encoded, vocabulary, self._size, **options)
        FiniteCheck().add("the confidence", result["sem_seg_confidence"]).require(self.model)
        labels, confidence = (result[key].cpu().numpy() for key in ("sem_seg_labels", "sem_seg_confidence"))
        return Prediction(labels, confidence, vocabulary.names)
