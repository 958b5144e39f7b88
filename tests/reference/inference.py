"""HyperCLIP's sliding windows without short cuts: each view by itself, every class's scores as whole maps."""

from __future__ import annotations

import torch
from hyperclip.head import REJECTED
from hyperclip.head.cost_volume import cost_volume, top_classes
from hyperclip.inference import make_views, resize

from .training import embed_image, head_logits


def labels(model, image, text):
    """Label map (H, W) of an image (3, H, W), RGB 0..255, for unit embeddings (T, C)."""
    views = make_views(model.normalise(image), model.resolution, model.sliding, model.divisor)
    logits = torch.cat([view_logits(model, view[None], text) for view in views])
    return resize(merge_views(logits, model.sliding)[None], image.shape[-2:])[0].argmax(0)


def merge_views(logits, sliding):
    """Logits of all views (V, T, h, w) to scores (T, S, S): windows averaged where they overlap, then with the whole view."""
    if sliding is None:
        return logits[0].sigmoid()
    k, s = sliding.kernel, sliding.size
    scores = resize(logits, (k, k)).sigmoid()
    total, count = scores.new_zeros(scores.shape[1], s, s), scores.new_zeros(s, s)
    for view, (y, x) in zip(scores, sliding.origins, strict=False):
        total[:, y : y + k, x : x + k] += view
        count[y : y + k, x : x + k] += 1
    merged = total / count
    return (merged + resize(scores[-1:], (s, s))[0]) / 2 if sliding.global_view else merged


def view_logits(model, view, text):
    """Logits (1, T, 4h, 4w) of a view; classes that pruning leaves out get none."""
    embeddings, maps = embed_image(model, view)
    kept = top_classes(cost_volume(embeddings, text), model.sem_seg_head.max_classes)
    if kept is None:
        return head_logits(model.sem_seg_head, embeddings, maps, text)
    logits = head_logits(model.sem_seg_head, embeddings, maps, text[kept[0]])
    full = logits.new_full((1, len(text), *logits.shape[-2:]), REJECTED)
    full[:, kept[0]] = logits
    return full
