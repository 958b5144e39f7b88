"""A memory bank of regions of unlabelled images: what a region looks like is mixed with the mean of
the nearest ones in the bank, and its scores change as the probabilities of its classes do.

Shapes: C embedding, h w grid, M regions of the bank, T classes, S names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from ..runtime.files import local_path
from ..runtime.finite import FiniteCheck
from ..score_maps import ScoreMaps, resize
from ..segmenter import Segmenter
from .bank_file import read_bank
from .cutting import EACH_CELL, Cutter
from .model_print import ModelPrint
from .neighbours import Neighbours
from .regions import NO_REGION
from .stage import Asked, Stage


@dataclass(frozen=True)
class MemoryOptions:
    """See the keys of TEST.BANK of the same names."""

    neighbours: int
    mix: float
    weight: float


class Seen(NamedTuple):
    """Unit embeddings (C, h, w) of an image's cells: its own, and mixed with the bank's."""

    own: Tensor
    mixed: Tensor


class Memory(Stage):
    """Scores by what looks alike in a bank.

    Args:
        regions: unit embeddings (M, C) of the bank's regions; of none, it leaves scores alone.
        cutter: of the image's own regions, by itself each cell.
    """

    def __init__(self, regions: Tensor, options: MemoryOptions, cutter: Cutter = EACH_CELL) -> None:
        super().__init__()
        self.bank, self.options, self.cutter = Neighbours(regions), options, cutter

    def see(
        self, images: Sequence[Tensor], encoded: Sequence[Any], system: Segmenter
    ) -> list[Seen | None]:
        """See :class:`Stage`; None for each image if nothing of the bank is asked."""
        if not len(self.bank) or 0 in (self.options.mix, self.options.weight):
            return [None] * len(images)
        return [
            self._remember(image, system.features(own).float())
            for image, own in zip(images, encoded, strict=True)
        ]

    def rescore(self, maps: ScoreMaps, seen: Seen | None, asked: Asked) -> ScoreMaps:
        """See :class:`Stage`."""
        if seen is None or len(asked.silent) == maps.classes:
            return maps
        own, mixed = (probabilities(embeddings, asked) for embeddings in seen)
        coarse = maps.coarse()
        if len(own) != len(coarse):
            got = f"{len(own)} classes with embeddings and {len(coarse)} with scores"
            raise ValueError(f"TEST.BANK.FILE: got {got}, expected as many")
        changed = reweighted(coarse, own, mixed, self.options.weight)
        FiniteCheck().add("the scores by the memory bank", changed).require(asked.system)
        return maps.replaced(changed)

    def describe(self) -> dict[str, Any]:
        """See :class:`Stage`."""
        return {"regions": len(self.bank), **self.cutter.describe(), **asdict(self.options)}

    def _remember(self, image: Tensor, own: Tensor) -> Seen:
        queries, places = self.cutter.regions(image, own)
        if not len(queries):
            return Seen(own, own)
        means = self.bank.means(queries, self.options.neighbours).T
        remembered = torch.where(places == NO_REGION, own, means[:, places.clamp_min(0)])
        mix = self.options.mix
        mixed = F.normalize((1 - mix) * own + mix * remembered, dim=0)
        return Seen(own, torch.where(places == NO_REGION, own, mixed))


def probabilities(embeddings: Tensor, asked: Asked) -> Tensor:
    """Probabilities (T, h, w) of the classes that are asked, by CLIP's own scale, of embeddings
    (C, h, w); of several names the best counts, and of classes whose words say nothing none does.
    ValueError for a system without a text tower.
    """
    system, vocabulary = asked.system, asked.question.vocabulary
    if system.text is None:
        name = type(system).__name__
        raise ValueError(f"TEST.BANK.FILE: {name} has no embeddings of names, which a bank needs")
    text = system.text(system.clip, vocabulary).float()
    cosines = torch.einsum("sc,chw->shw", text, embeddings)
    class_of = system.class_of(vocabulary)
    if class_of is not None:
        best = cosines.new_full((int(class_of[-1]) + 1, *cosines.shape[1:]), -torch.inf)
        places = class_of[:, None, None].expand_as(cosines)
        cosines = best.scatter_reduce(0, places, cosines, "amax")
    cosines[list(asked.silent)] = -torch.inf
    return (system.clip.logit_scale.exp() * cosines).softmax(dim=0)


def reweighted(coarse: Tensor, own: Tensor, mixed: Tensor, weight: float) -> Tensor:
    """Scores (T, H, W) by how probabilities (T, h, w) change: a difference d takes a score the
    share ``weight`` d, at most all, of its way to the image's highest score, or down to 0, or to
    the lowest score if that is negative.
    """
    size = (coarse.shape[1], coarse.shape[2])
    share = (weight * resize((mixed - own)[None], size)[0]).clamp(-1, 1)
    goal = torch.where(share > 0, coarse.amax(), coarse.amin().clamp_max(0))
    return coarse + share.abs() * (goal - coarse)


def build_memory(cfg: CfgNode, system: Segmenter) -> Memory | None:
    """The stage of TEST.BANK's keys for a system whose adapters are not merged; None for no file.

    Raises:
        FileNotFoundError: no such file. ValueError: it is damaged, or a bank of another model.
    """
    node = cfg.TEST.BANK
    if not node.FILE:
        return None
    bank = read_bank(local_path(node.FILE), "TEST.BANK.FILE")
    advice = "Build one of this model with hyperclip-build-bank"
    ModelPrint.of(system).require_same(bank.model, f"TEST.BANK.FILE: {node.FILE!r}", advice)
    options = MemoryOptions(node.NEIGHBOURS, node.MIX, node.WEIGHT)
    cutter = Cutter.from_config(cfg)
    if cutter.proposer is None:  # the image's own cells, whatever squares the bank has
        cutter = EACH_CELL
    return Memory(bank.regions, options, cutter).to(system.device)
