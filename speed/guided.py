"""The guided filter with its functions fitted in a smaller image, against the whole one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from hyperclip.stages.guided import GuidedOptions, GuidedRefiner
from hyperclip.tinyscenes.drawing import render_scene
from torch import Tensor
from torch.nn import functional as F

from speed.measuring import Row, Settings, compare

SUBSAMPLE = 4


@torch.no_grad()
def guided(settings: Settings) -> list[Row]:
    """Rows for 5 and 129 names on an image of 640 x 480 pixels, whose scores are cells of 16."""
    size = (48, 64) if settings.smoke else (480, 640)
    scene = torch.from_numpy(render_scene("val_seen", 0)[0]).permute(2, 0, 1)[None].float()
    image = F.interpolate(scene, size=size, mode="bilinear")[0].to(settings.device)
    whole = GuidedOptions(radius=0.0375, eps=1e-3, max_size=640, subsample=1)
    smaller = replace(whole, subsample=SUBSAMPLE)
    rows = []
    for classes in (5, 129):
        generator = torch.Generator().manual_seed(0)
        scores = torch.rand(classes, size[0] // 16, size[1] // 16, generator=generator)
        obvious, ours = (
            partial(_refined, GuidedRefiner(options, settings.device), image, scores)
            for options in (whole, smaller)
        )
        case = f"SUBSAMPLE {SUBSAMPLE}, {classes} classes"
        rows += compare("guided", case, obvious, ours, settings, alike=False)
    return rows


def _refined(refiner: GuidedRefiner, image: Tensor, scores: Tensor) -> Tensor:
    (refinement,) = refiner([image])
    return refinement(scores.to(image.device))
