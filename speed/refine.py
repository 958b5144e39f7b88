"""CLIPer's refinement by attention maps against the released code's chain of products."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch
from cliper.affinity import FuseOptions, StreamedMaps
from torch import Tensor

from reference import cliper as literal
from speed.measuring import Row, Settings, compare

TOKENS, MAPS, HEAD_DIM, THRESHOLD = 4096, 10, 64, 0.2


@torch.no_grad()
def refine(settings: Settings) -> list[Row]:
    """Rows for 21 and 150 classes, from given maps and from queries and keys."""
    tokens = 64 if settings.smoke else TOKENS
    dtype = torch.float16 if settings.half else torch.float32
    settings = replace(settings, precision=torch.float32)  # but for what the diffusion model gives
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(settings.device)

    queries, keys = (
        [1.5 * draw(tokens, HEAD_DIM).to(dtype) for _ in range(MAPS)] for _ in range(2)
    )
    scales, grid, options = (
        [HEAD_DIM**-0.5] * MAPS,
        (math.isqrt(tokens),) * 2,
        FuseOptions("SFSA", 1, THRESHOLD),
    )
    streamed = StreamedMaps(queries, keys, scales, grid)
    wide = [[x.float() for x in given] for given in (queries, keys)]

    def literal_from_projections(scores: Tensor) -> Tensor:
        return literal.refine(literal.attention_maps(*wide, scales), scores, THRESHOLD)

    rows = []
    for classes in (21, 150):
        scores = draw(tokens, classes).softmax(dim=1)
        ours, obvious = (
            partial(streamed.apply, scores, options),
            partial(literal_from_projections, scores),
        )
        rows += compare("refine", f"from q and k, {classes} classes", obvious, ours, settings)
        maps = literal.attention_maps(*wide, scales)
        ours, obvious = (
            partial(literal.GivenMaps(maps, grid).apply, scores, options),
            partial(literal.refine, maps, scores, THRESHOLD),
        )
        rows += compare("refine", f"from given maps, {classes} classes", obvious, ours, settings)
        del maps, ours, obvious
    return rows
