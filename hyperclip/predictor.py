"""The Python interface: encode an image once, then ask for any vocabulary.

    predictor = Predictor.from_config("configs/vitb_384_hyperbolic.yaml", ["MODEL.WEIGHTS", "model_final.pth"])
    predictor.set_image(image)
    prediction = predictor.predict("dog; truck; road, street; sky")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import AugInput, ResizeShortestEdge
from detectron2.modeling import build_model

from .config import load_config
from .engine import StrictCheckpointer, require_weights
from .features import DenseFeatures
from .inference import LabelCollector, make_views
from .meta_arch import HyperCLIP
from .vocabulary import Vocabulary


@dataclass(frozen=True)
class Prediction:
    """What is where.

    Attributes:
        labels: int64 (H, W), indices into ``names``.
        confidence: float32 (H, W), the score of that class in 0..1.
        names: T class names.
    """

    labels: np.ndarray
    confidence: np.ndarray
    names: list[str]


class Predictor:
    """Segments images with a model in evaluation mode; adapters are merged.

    Args:
        model: a :class:`HyperCLIP`.
        shortest, longest: the image is resized to this shortest side unless its longest would exceed the other.
    """

    def __init__(self, model: HyperCLIP, shortest: int = 640, longest: int = 2560) -> None:
        model.eval().merge_adapters()
        self.model, self.resize = model, ResizeShortestEdge(shortest, longest)
        self._features: DenseFeatures | None = None
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
        return cls(model, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)

    @torch.no_grad()
    def set_image(self, image: np.ndarray) -> None:
        """Encode an image, uint8 RGB (H, W, 3); what is computed here does not depend on the vocabulary.

        Raises:
            ValueError: another shape or type.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image: got {image.dtype} {image.shape}, expected uint8 (H, W, 3), RGB")
        model, inputs = self.model, AugInput(image)
        self.resize(inputs)
        tensor = torch.from_numpy(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        views = make_views(model.normalise(tensor), model.resolution, model.sliding, model.divisor)
        self._features, self._size = model.encode_views(views), image.shape[:2]

    @torch.no_grad()
    def predict(self, vocabulary: str | Vocabulary) -> Prediction:
        """Segment the image set before.

        Args:
            vocabulary: classes; text is parsed with ``;`` between classes and ``,`` between synonyms.
        Raises:
            RuntimeError: no image was set. ValueError: an empty vocabulary, duplicates, a name that is too long.
        """
        if self._features is None:
            raise RuntimeError("predict: no image yet. Call set_image(image) first")
        if isinstance(vocabulary, str):
            vocabulary = Vocabulary.from_text(vocabulary)
        model = self.model
        text = model.text(model.clip, vocabulary)
        collector = LabelCollector(model.sliding, self._size)
        for classes, logits in model.sem_seg_head.stream(self._features, text, model.class_chunk):
            collector.add(classes, logits)
        result = collector.result()
        labels, confidence = (result[key].cpu().numpy() for key in ("sem_seg_labels", "sem_seg_confidence"))
        return Prediction(labels, confidence, vocabulary.names)
