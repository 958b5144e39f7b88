"""The answer to a question about an image, with a method for each form that other programs read.

Shapes: T classes, H W image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import results
from .runtime.files import user_path

if TYPE_CHECKING:
    from supervision import Detections


@dataclass(frozen=True)
class Prediction:
    """The class of each pixel: labels int64 (H, W), indices into the T ``names``, -1 where CLIPer
    abstains; confidence float32 (H, W), the score: HyperCLIP 0..1, CLIPer 0 to about 2.

    For each class also the names that were ``asked``, and how several of these ``synonyms`` are
    combined: "first", "mean" or "max", see MODEL.SYNONYMS. The ``scores`` of all classes, float32
    (T, H, W), if they were asked for.
    """

    labels: np.ndarray
    confidence: np.ndarray
    names: list[str]
    asked: list[list[str]] | None = None
    synonyms: str = ""
    scores: np.ndarray | None = None

    @property
    def answer(self) -> results.Answer:
        """What every format of :mod:`hyperclip.results` is made of."""
        return results.Answer(self.labels, self.confidence, self.names)

    def mask(self, name: str) -> np.ndarray:
        """Where a name is, bool (H, W), of all classes that have it; ValueError for one that was
        not asked.
        """
        self.answer.index(name)  # raises
        return np.isin(self.labels, [i for i, known in enumerate(self.names) if known == name])

    def areas(self) -> dict[str, int]:
        """The pixels of each name, of all classes that have it."""
        return results.pixels_by_name(self.names, [row.pixels for row in self.to_table()])

    def to_table(self) -> list[results.ClassRow]:
        """See :func:`hyperclip.results.class_table`."""
        return results.class_table(self.answer)

    def to_coco(self, file_name: str = "", **options: Any) -> dict[str, Any]:
        """See :func:`hyperclip.results.coco_document`."""
        return results.coco_document(self.answer, file_name, **options)

    def to_panoptic(self, file_name: str = "panoptic.png", **options: Any) -> results.Panoptic:
        """See :func:`hyperclip.results.panoptic`."""
        return results.panoptic(self.answer, file_name, **options)

    def to_hf(self, **options: Any) -> list[dict[str, Any]]:
        """See :func:`hyperclip.results.hugging_face_segments`."""
        return results.hugging_face_segments(self.answer, **options)

    def to_labelme(self, file_name: str = "", **options: Any) -> dict[str, Any]:
        """See :func:`hyperclip.results.labelme_document`."""
        return results.labelme_document(self.answer, file_name, **options)

    def to_label_studio(self, image: str, **options: Any) -> results.LabelStudio:
        """See :func:`hyperclip.results.label_studio`."""
        return results.label_studio(self.answer, image, **options)

    def to_cvat(self, file_name: str, **options: Any) -> results.Cvat:
        """See :func:`hyperclip.results.cvat`."""
        return results.cvat(self.answer, file_name, **options)

    def to_voc(self) -> results.Voc:
        """See :func:`hyperclip.results.voc`."""
        return results.voc(self.answer)

    def to_cityscapes(self) -> results.Cityscapes:
        """See :func:`hyperclip.results.cityscapes`."""
        return results.cityscapes(self.answer)

    def to_supervision(self, **options: Any) -> Detections:
        """See :func:`hyperclip.results.supervision_detections`."""
        return results.supervision_detections(self.answer, **options)

    def to_npz(self, path: str | Path) -> None:
        """Write ``labels``, ``confidence`` and ``names`` for ``numpy.load``, in full or not at all;
        ValueError unless the file's name ends in ``.npz``.
        """
        target = user_path(str(path))
        if target.suffix != ".npz":
            raise ValueError(f"to_npz: got {str(path)!r}, expected a name that ends in .npz")
        results.write_arrays(target, self.answer)
