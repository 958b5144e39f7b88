"""What examples do to scores, pixel by pixel.

Shapes: T classes, C embedding, h w grid, H W image.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def prototype(features: Tensor, mask: Tensor) -> Tensor:
    """Unit mean (C,) of the embeddings (C, h, w) below the pixels of a mask, bool (H, W), whose
    sides are multiples of the grid's.
    """
    high, wide = mask.shape[0] // features.shape[1], mask.shape[1] // features.shape[2]
    total = torch.zeros(len(features))
    for y, x in mask.nonzero().tolist():
        total += features[:, y // high, x // wide]
    return total / total.norm()


def with_examples(
    scores: Tensor,
    features: Tensor,
    prototypes: dict[int, Tensor],
    silent: set[int],
    strength: float,
    yielding: set[int] | None = None,
) -> Tensor:
    """Scores (T, H, W) by words and examples, of scores by words (T, H, W), unit embeddings of
    cells (C, h, w), unit prototypes (C,) by class, the classes whose words do not count, and those
    that stay below the best score where it is of a class without a prototype.
    """
    size, grid = scores.shape[1:], features.shape[1:]
    heard = [k for k in range(len(scores)) if k not in silent]
    best = torch.full(size, -1)
    for y in range(size[0]):
        for x in range(size[1]):
            for k in heard:
                if best[y, x] < 0 or scores[k, y, x] > scores[best[y, x], y, x]:
                    best[y, x] = k
    known = dict(prototypes)
    for k in heard:
        if k not in known:
            total = torch.zeros(len(features))
            for y in range(grid[0]):
                for x in range(grid[1]):
                    middle = int((y + 0.5) * size[0] / grid[0]), int((x + 0.5) * size[1] / grid[1])
                    if best[middle] == k:
                        total += features[:, y, x]
            if total.any():
                known[k] = total / total.norm()
    looks = {}
    for k, own in known.items():
        cosines = sum(own[c] * features[c] for c in range(len(own)))
        looks[k] = F.interpolate(cosines[None, None], size, mode="bilinear")[0, 0]
    low = min([0.0, *(float(scores[k].min()) for k in heard)])
    top = max((float(scores[k].max()) for k in heard), default=1.0) - low
    result = scores.clone()
    for k in prototypes:
        for y in range(size[0]):
            for x in range(size[1]):
                j = int(best[y, x])
                most = float(scores[j, y, x]) - low if heard else 0.5
                words = most if k in silent else float(scores[k, y, x]) - low
                other = 0.0 if not heard else float(looks[j][y, x]) if j in looks else None
                more = 0.0 if other is None else float(looks[k][y, x]) - other
                ratio = words / max(most, 1e-30) * math.exp(strength * more)
                if k in (yielding or ()) and j >= 0 and j not in prototypes:
                    ratio = min(ratio, 1 - 2**-23)
                result[k, y, x] = low + (
                    most * ratio if ratio <= 1 else most + (top - most) * (1 - 1 / ratio)
                )
    return result
