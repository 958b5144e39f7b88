"""What transformers' pipeline for image segmentation returns."""

from typing import Any

import numpy as np
from PIL import Image

from .answer import Answer


def hugging_face_segments(
    answer: Answer, instances: bool = False, smallest: int = 1
) -> list[dict[str, Any]]:
    """``[{"score": 0..1, "label": name, "mask": image of 0 and 255}, …]``, a segment for each
    region; arguments as :meth:`Answer.regions`.
    """
    return [
        {
            "score": region.score,
            "label": answer.names[region.category],
            "mask": Image.fromarray(region.mask.astype(np.uint8) * 255),
        }
        for region in answer.regions(instances, smallest)
    ]
