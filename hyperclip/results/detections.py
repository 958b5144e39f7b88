"""Detections of supervision, which annotate, filter, track and count."""

from typing import TYPE_CHECKING

import numpy as np

from ..runtime.extras import how_to_install
from .answer import Answer

if TYPE_CHECKING:
    from supervision import Detections


def supervision_detections(
    answer: Answer, instances: bool = False, smallest: int = 1
) -> "Detections":
    """The regions as ``supervision.Detections``: box (N, 4) of left, top, right and bottom, mask
    bool (N, H, W), confidence, class_id, and the names as ``data["class_name"]``.

    Args:
        instances, smallest: as :meth:`Answer.regions`.

    Raises:
        ImportError: supervision is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        how = f"pip install supervision, or {how_to_install('formats')}"
        raise ImportError(f"to_supervision needs the package supervision: {how}") from error
    regions = list(answer.regions(instances, smallest))
    boxes = np.zeros((len(regions), 4), dtype=np.float64)
    masks = np.zeros((len(regions), *answer.labels.shape), dtype=bool)
    for i, region in enumerate(regions):
        left, top, width, height = region.box
        boxes[i], masks[i] = (left, top, left + width, top + height), region.mask
    names = [answer.names[region.category] for region in regions]
    return supervision.Detections(
        xyxy=boxes,
        mask=masks,
        confidence=np.array([region.score for region in regions], dtype=np.float32),
        class_id=np.array([region.category for region in regions], dtype=np.int64),
        data={"class_name": np.array(names, dtype=np.str_)},
    )
