"""Parts of HyperCLIP's inference on their own, adapters merged, and 10,000 classes pruned against
all of them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from hyperclip.adapters import merge
from hyperclip.head import ViewLogits
from hyperclip.inference import best_classes, make_views, resize
from hyperclip.segmenter import Segmentation
from torch import Tensor

from reference import head as parts
from reference import inference as literal
from reference.training import embed_image, head_logits
from speed.measuring import Row, Settings, compare
from speed.models import build_hyperclip

MAPS = 14
"""Class maps that the decoder is measured with."""


@torch.no_grad()
def head(settings: Settings) -> list[Row]:
    """Rows for the image tower, the head, its decoder, the labels, and a large vocabulary."""
    _, model = build_hyperclip(settings, "TEST.SLIDING_WINDOW", "True")
    merge(model)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(settings.device)

    own: Any = model.sem_seg_head
    image = model.normalise(
        torch.randint(0, 256, (3, 640, 640), generator=generator, dtype=torch.uint8)
    )
    views = make_views(image, model.resolution, model.sliding)
    embeddings, maps = embed_image(model, views[:1])
    features = model.encode_views(views[:1])
    prepared = own.prepare(features)
    few, many = (5, 12) if settings.smoke else (150, 10_000)
    text, all_text = (F.normalize(draw(count, embeddings.shape[1]), dim=1) for count in (few, many))

    rows = compare(
        "head",
        f"image tower, {len(views)} views",
        lambda: embed_image(model, views)[0],
        lambda: model.encode_views(views).embeddings,
        settings,
        count=True,
    )
    rows += compare(
        "head",
        f"head, {few} classes, one view",
        lambda: head_logits(own, embeddings, maps, text),
        lambda: own.infer(own.prepare(features), text).logits,
        settings,
        count=True,
    )
    x = draw(1, MAPS, own.cost_embedding.out_channels, *own.grid)
    guidance = [
        F.relu(p(up(m)))
        for p, up, m in zip(own.decoder_projections, own.upsample, maps, strict=True)
    ]

    def whole_decoder() -> Tensor:
        y = x
        for stage, g in zip(own.decoder.stages, guidance, strict=True):
            y = parts.decoder_stage(stage, y, g)
        return own.decoder.classifier(y[0])[None, :, 0]

    channels_last = (
        x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (1, MAPS))
    )
    rows += compare(
        "head",
        f"decoder, {MAPS} class maps, one view",
        whole_decoder,
        lambda: own.decoder(channels_last, own.decoder.prepare(guidance)),
        settings,
        count=True,
    )
    rows += labels(model, settings, generator)

    def best_score(kept: int) -> Tensor:
        before, own.max_classes = own.max_classes, kept
        _, best = best_classes(own.infer(prepared, all_text), None, (640, 640))
        own.max_classes = before
        return best

    exact, pruned = partial(best_score, 0), partial(best_score, own.max_classes)
    return rows + compare(
        "head",
        f"{many} classes, one view, pruned against exact",
        exact,
        pruned,
        settings,
        alike=False,
    )


def labels(model: Any, settings: Settings, generator: torch.Generator) -> list[Row]:
    """One row: from logits of windows, of which each kept its own classes, to labels."""
    classes, kept, side = (
        (20, 8, 160) if settings.smoke else (847, model.sem_seg_head.max_classes, 1024)
    )
    count = len(model.sliding.origins) + model.sliding.global_view
    chosen = torch.stack(
        [torch.randperm(classes, generator=generator)[:kept].sort().values for _ in range(count)]
    )
    shape = (count, kept, *(4 * s for s in model.sem_seg_head.grid))
    views = ViewLogits(
        3 * torch.randn(shape, generator=generator).to(settings.device),
        classes,
        chosen.to(settings.device),
    )

    def ours() -> dict[str, Tensor]:
        return Segmentation(*best_classes(views, model.sliding, (side, side))).as_dict()

    return compare(
        "head",
        f"labels of {classes} classes, {side} px",
        lambda: resize(literal.merge_views(views.whole(), model.sliding)[None], (side, side))[0],
        ours,
        settings,
    )
