"""HyperCLIP's sliding windows without short cuts: hyperbolic maps in every pass, whole maps of
every class's scores. Shapes: T classes, S side.
"""

from __future__ import annotations

from hyperclip.head import REJECTED
from hyperclip.head.cost_head import cost_volume, top_classes
from hyperclip.inference import make_views, resize

from reference.training import embed_image, head_logits, literal_adapters


def scores(model, image, text):
    """Scores (T, H, W) of an image (3, H, W), RGB 0..255, for unit embeddings (T, C): all views and
    all classes at once.
    """
    views = make_views(model.normalise(image), model.resolution, model.sliding, model.divisor)
    with literal_adapters(model):
        embeddings, maps = embed_image(model, views)
    logits = view_logits(model.sem_seg_head, embeddings, maps, text)
    return resize(merge_views(logits, model.sliding)[None], image.shape[-2:])[0]


def merge_views(logits, sliding):
    """Logits of all views (V, T, h, w) to scores (T, S, S): windows averaged where they overlap,
    then with the whole view.
    """
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


def view_logits(head, embeddings, maps, text):
    """Logits (V, T, 4h, 4w) of views; classes that pruning leaves out have maps of ``REJECTED``."""
    kept = top_classes(cost_volume(embeddings, text), head.max_classes)
    logits = head_logits(head, embeddings, maps, text, kept)
    if kept is None:
        return logits
    full = logits.new_full((len(logits), len(text), *logits.shape[-2:]), REJECTED)
    return full.scatter(1, kept[:, :, None, None].expand_as(logits), logits)
