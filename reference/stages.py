"""What stages do, pixel by pixel. Shapes: T classes, R regions, S names, C embedding, h w grid, H W
image.
"""

import math
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor


def region_means(scores: Tensor, regions: Tensor) -> Tensor:
    """Scores (T, H, W) with those of a region's pixels, int64 (H, W), replaced by their mean;
    pixels of region -1 keep theirs.
    """
    result = scores.clone()
    for region in range(int(regions.max()) + 1):
        places = (regions == region).nonzero().tolist()
        for index in range(len(scores)):
            values = [float(scores[index, y, x]) for y, x in places]
            for y, x in places:
                result[index, y, x] = sum(values) / len(values)
    return result


def region_majority(labels: Tensor, regions: Tensor) -> Tensor:
    """Labels (H, W) with each region's replaced by its most frequent one, of equals the lowest."""
    result = labels.clone()
    for region in range(int(regions.max()) + 1):
        places = (regions == region).nonzero().tolist()
        if places:
            votes = Counter(int(labels[y, x]) for y, x in places)
            most = max(votes.values())
            winner = min(index for index, count in votes.items() if count == most)
            for y, x in places:
                result[y, x] = winner
    return result


def region_majority_scores(scores: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    """Labels of scores (T, H, W) by :func:`region_majority`, and the scores that go with them: of
    a region's class the mean where it was the best, which those of others are cut to.
    """
    plain = scores.argmax(dim=0)
    labels, result = region_majority(plain, regions), scores.clone()
    for region in range(int(regions.max()) + 1):
        inside = regions == region
        if inside.any():
            (winner,) = set(labels[inside].tolist())
            mean = scores[winner][inside & (plain == winner)].mean()
            result[:, inside] = result[:, inside].clamp(max=mean)
            result[winner, inside] = mean
    return labels, result


def smallest_masks(masks: Tensor) -> Tensor:
    """The index (H, W) of the smallest mask, bool (R, H, W), that covers a pixel, of equals the
    first, -1 for none.
    """
    result = torch.full(masks.shape[1:], -1)
    for y in range(masks.shape[1]):
        for x in range(masks.shape[2]):
            covering = [(int(mask.sum()), i) for i, mask in enumerate(masks) if mask[y, x]]
            if covering:
                result[y, x] = min(covering)[1]
    return result


def region_attention(
    scores: Tensor, features: Tensor, regions: Tensor, temperature: float
) -> Tensor:
    """Scores (T, H, W) of cells, each the mean of those of its region, int64 (H, W), weighted by
    exp(cosine / temperature) of the embeddings (C, H, W); cells of region -1 keep theirs.
    """
    result = scores.clone()
    for y, x in (regions >= 0).nonzero().tolist():
        weights = {}
        for v, u in (regions == regions[y, x]).nonzero().tolist():
            one, other = features[:, y, x].double(), features[:, v, u].double()
            cosine = float(one @ other / one.norm() / other.norm())
            weights[v, u] = math.exp(cosine / temperature)
        total = sum(weights.values())
        result[:, y, x] = sum(scores[:, v, u] * (w / total) for (v, u), w in weights.items())
    return result


def distinct_masks(masks: Tensor, quality: Tensor, most: float) -> list[int]:
    """Which of masks, bool (R, H, W), stay: from the best quality (R,) on, of equals the first,
    those that are not empty and whose IoU with each that stays is at most ``most``.
    """
    stay: list[int] = []
    for index in sorted(range(len(masks)), key=lambda i: (-float(quality[i]), i)):
        ious = [
            int((masks[index] & masks[k]).sum()) / int((masks[index] | masks[k]).sum())
            for k in stay
        ]
        if masks[index].any() and all(iou <= most for iou in ious):
            stay.append(index)
    return stay


def guided_filter(
    guide: Tensor, scores: Tensor, radius: int, eps: float, image: Tensor | None = None
) -> Tensor:
    """Scores (T, H, W) filtered by a guide (3, H, W): a linear regression in every box, and a pixel
    takes the mean of the functions of all boxes that hold it. With a larger ``image`` (3, H', W'),
    its pixels (T, H', W') take the functions of the guide's pixels, interpolated.
    """
    height, width = guide.shape[1:]
    total = scores.new_zeros(len(scores), 4, height, width)
    count = scores.new_zeros(height, width)
    for y in range(height):
        for x in range(width):
            rows = slice(max(0, y - radius), y + radius + 1)
            columns = slice(max(0, x - radius), x + radius + 1)
            colours = guide[:, rows, columns].flatten(1)
            mean = colours.mean(dim=1, keepdim=True)
            away = colours - mean
            spread = away @ away.T / colours.shape[1] + eps * torch.eye(3, dtype=guide.dtype)
            for index in range(len(scores)):
                values = scores[index, rows, columns].flatten()
                relation = away @ (values - values.mean()) / len(values)
                slope = torch.linalg.solve(spread, relation)
                function = torch.stack([*slope, values.mean() - slope @ mean[:, 0]])
                total[index, :, rows, columns] += function[:, None, None]
            count[rows, columns] += 1
    functions = total / count
    if image is not None:
        functions = F.interpolate(functions, size=image.shape[1:], mode="bilinear")
    image = guide if image is None else image
    return torch.stack([(f[:3] * image).sum(dim=0) + f[3] for f in functions])


def present_classes(
    features: Tensor, text: Tensor, class_of: list[int], share: float, scale: float
) -> list[int]:
    """The classes of which a name has, in some cell (C, h, w), this share of the probability of the
    cell's best name (S, C), by the softmax of scaled cosines.
    """
    present = set()
    for cell in features.flatten(1).T:
        probability = (scale * text @ cell).softmax(dim=0)
        for name, owner in enumerate(class_of):
            if probability[name] >= share * probability.max():
                present.add(owner)
    return sorted(present)
