"""A system with stages between its scores and its labels, as a config names them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..config.key_rules import FRAMEWORK
from ..runtime.finite import FiniteCheck
from ..score_maps import ScoreMaps, Size
from ..segmenter import Question, Segmenter
from ..test_time import with_views
from ..wrapper import Wrapper, unwrapped
from .bank import build_memory
from .examples import Example, Examples, ExampleStore
from .pruning import Presence
from .refining import REFINER_REGISTRY, Refinement, Refiner, build_entry
from .region_attention import ATTENTION, attend
from .regions import RULES, Proposer, RecordProposer, build_proposer, numbered
from .stage import Asked, Stage


class StagedImage(NamedTuple):
    """What a system and its stages see in an image."""

    encoded: Any
    seen: list[Any]


class Staged(Wrapper):
    """A system whose scores go through stages, in their order, before they become labels.

    Args:
        system: any that is no ``Staged``. stages: those of its scores; ValueError for one that the
            system lacks something for.
        presence: which names are asked of an image; None for all of them.
    """

    def __init__(
        self, system: Segmenter, stages: Sequence[Stage], presence: Presence | None = None
    ) -> None:
        super().__init__(system)
        self.stages, self.presence = nn.ModuleList(stages), presence
        for stage in stages:
            stage.check_system(system)

    def encode(self, images: Sequence[Tensor]) -> list[StagedImage]:
        """See :class:`Segmenter`."""
        return self.encode_records([{"image": image} for image in images])

    def encode_records(self, records: Sequence[Mapping[str, Any]]) -> list[StagedImage]:
        """See :class:`Segmenter`."""
        encoded = self.system.encode_records(records)
        with torch.no_grad():
            seen = [stage.see_records(records, encoded, self.system) for stage in self.each_stage()]
        return [
            StagedImage(own, [of_stage[i] for of_stage in seen]) for i, own in enumerate(encoded)
        ]

    def check_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        """See :class:`Segmenter`."""
        self.system.check_records(records)
        for stage in self.each_stage():
            stage.check_records(records)

    @torch.no_grad()
    def score(self, encoded: StagedImage, question: Question, size: Size) -> ScoreMaps:
        """See :class:`Segmenter`: the scores after all stages."""
        shown = examples_of(self).of(question.vocabulary)
        if self.presence is None:
            maps = self.system.score(encoded.encoded, question, size)
        else:
            maps = self.presence.score(
                self.system, encoded.encoded, question, size, shown.prototypes, shown.silent
            )
        asked = Asked(self.system, encoded.encoded, question, size, frozenset(shown.silent))
        with torch.autocast(self.device.type, enabled=False):  # sums are in float32
            for stage, seen in zip(self.each_stage(), encoded.seen, strict=True):
                maps = stage.rescore(maps, seen, asked)
        return maps

    def inside(self, encoded: StagedImage) -> Any:
        """See :class:`Wrapper`."""
        return encoded.encoded

    def own_settings(self) -> dict[str, Any]:
        """See :class:`Wrapper`."""
        stages = {type(stage).__name__: stage.describe() for stage in self.each_stage()}
        settings: dict[str, Any] = {"stages": stages} if stages else {}
        if self.presence is not None:
            settings["prune"] = self.presence.share
        return settings

    def each_stage(self) -> Iterator[Stage]:
        """The stages, in their order."""
        for stage in self.stages:
            assert isinstance(stage, Stage)
            yield stage


class Refine(Stage):
    """Scores through the refinement that a refiner gives each image."""

    def __init__(self, refiner: Refiner, name: str = "") -> None:
        super().__init__()
        self.refiner, self.name = refiner, name or type(refiner).__name__

    def see(
        self, images: Sequence[Tensor], encoded: Sequence[Any], system: Segmenter
    ) -> list[Refinement]:
        """See :class:`Stage`."""
        refinements = self.refiner(images)
        check = FiniteCheck()
        for refinement in refinements:
            check.add("what the refiner sees in the image", *getattr(refinement, "inputs", ()))
        check.require(self)
        return refinements

    def rescore(self, maps: ScoreMaps, seen: Refinement, asked: Asked) -> ScoreMaps:
        """See :class:`Stage`."""
        refined = seen(maps.coarse())
        if refined.dim() != 3 or len(refined) != maps.classes:
            got = f"got {tuple(refined.shape)} from {self.name!r}"
            raise ValueError(f"refined scores: {got}, expected ({maps.classes}, h, w)")
        FiniteCheck().add("the refined scores", refined).require(asked.system)
        return maps.replaced(refined)

    def describe(self) -> dict[str, Any]:
        """See :class:`Stage`."""
        return {"name": self.name}


class Regions(Stage):
    """The scores of the regions that a proposer finds.

    Args:
        rule: "mean" or "majority", which give each region one class, or "attention", whose cells
            share the scores of their region, see :func:`attend`; ValueError for another.
        temperature: of "attention", above 0; ValueError else.
    """

    def __init__(
        self,
        proposer: Proposer | RecordProposer,
        rule: str,
        name: str = "",
        temperature: float = 0.0,
    ) -> None:
        super().__init__()
        if rule not in (*RULES, ATTENTION):
            expected = f"expected one of {sorted([*RULES, ATTENTION])}"
            raise ValueError(f"TEST.REGIONS.RULE: got {rule!r}, {expected}")
        if rule == ATTENTION:
            FRAMEWORK.require("TEST.REGIONS.", {"temperature": temperature})
        self.proposer, self.rule, self.temperature = proposer, rule, temperature
        self.name = name or type(proposer).__name__

    def check_system(self, system: Segmenter) -> None:
        """See :class:`Stage`: attention needs the embeddings of an image's cells."""
        if self.rule == ATTENTION and not system.has_features:
            unwrapped(system).features(None)  # says so

    def check_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        """See :class:`Stage`."""
        if isinstance(self.proposer, RecordProposer):
            self.proposer.check_records(records)

    def see(
        self, images: Sequence[Tensor], encoded: Sequence[Any], system: Segmenter
    ) -> list[Tensor]:
        """See :class:`Stage`."""
        return self.see_records([{"image": image} for image in images], encoded, system)

    def see_records(
        self, records: Sequence[Mapping[str, Any]], encoded: Sequence[Any], system: Segmenter
    ) -> list[Tensor]:
        """See :class:`Stage`; ValueError for regions of another size, or by :func:`numbered`."""
        sizes = [tuple(record["image"].shape[1:]) for record in records]
        if isinstance(self.proposer, RecordProposer):
            proposed = self.proposer.of_records(records)
            sizes = [
                (record.get("height", size[0]), record.get("width", size[1]))
                for record, size in zip(records, sizes, strict=True)
            ]
        else:
            proposed = self.proposer([record["image"] for record in records])
        for size, regions in zip(sizes, proposed, strict=True):
            if tuple(regions.shape) != size:
                got = f"got {tuple(regions.shape)} from {self.name!r}"
                raise ValueError(f"regions: {got}, expected the image's size {size}")
        return [numbered(regions.to(system.device, torch.int64), self.name) for regions in proposed]

    def rescore(self, maps: ScoreMaps, seen: Tensor, asked: Asked) -> ScoreMaps:
        """See :class:`Stage`."""
        if self.rule != ATTENTION:
            return RULES[self.rule](maps, seen)
        features = asked.system.features(asked.encoded)
        return maps.replaced(attend(maps.coarse(), features, seen, self.temperature))

    def describe(self) -> dict[str, Any]:
        """See :class:`Stage`."""
        own = {"temperature": self.temperature} if self.rule == ATTENTION else {}
        return {"name": self.name, "rule": self.rule, **own}


def build_stages(cfg: CfgNode, system: Segmenter) -> list[Stage]:
    """The stages that a config names, in the order of their work, for a system whose adapters are
    not merged; ValueError for unknown names, and what their builders raise.
    """
    stages: list[Stage] = []
    memory = build_memory(cfg, system)
    if memory is not None:
        stages.append(memory)
    node = cfg.TEST.REFINER
    refiner = build_entry(REFINER_REGISTRY, "TEST.REFINER.NAME", node.NAME, cfg)
    if refiner is not None:
        stages.append(Refine(refiner, node.NAME))
    node = cfg.TEST.REGIONS
    proposer = build_proposer(cfg)
    if proposer is not None:
        stages.append(Regions(proposer, node.RULE, node.NAME, node.TEMPERATURE))
    return stages


def with_stages(system: Segmenter, cfg: CfgNode) -> Segmenter:
    """The system with the test-time views of a config, whose mean its stages work on, and with its
    presence; itself where the config names none of them, or it has them. Its adapters are merged
    later, if at all: stages look at the weights. Raises as :func:`build_stages`.
    """
    if isinstance(system, Wrapper):
        return system
    stages, share = build_stages(cfg, system), cfg.TEST.PRUNE
    system = with_views(system, cfg)
    presence = Presence(system, share) if share else None
    if not stages and presence is None:
        return system
    return Staged(system, stages, presence).train(system.training)


def with_examples(system: Segmenter, examples: Sequence[Example]) -> Segmenter:
    """The system with examples before its other stages, beside those that it has; itself for
    none.
    """
    if not examples:
        return system
    shown = Examples(examples_of(system).plus(examples))
    if not isinstance(system, Staged):
        return Staged(system, [shown]).train(system.training)
    others = [stage for stage in system.each_stage() if not isinstance(stage, Examples)]
    return Staged(system.system, [shown, *others], system.presence).train(system.training)


def examples_of(system: Segmenter) -> ExampleStore:
    """The examples that a system has."""
    if isinstance(system, Staged):
        for stage in system.each_stage():
            if isinstance(stage, Examples):
                return stage.store
    return ExampleStore()


def as_seen_by(staged: Segmenter, system: Segmenter, encoded: Any) -> Any:
    """What ``system`` gave for an image, for the same system with examples besides."""
    if staged is system or not isinstance(staged, Staged):
        return encoded
    before = encoded if isinstance(encoded, StagedImage) else StagedImage(encoded, [])
    missing = len(staged.stages) - len(before.seen)
    return StagedImage(before.encoded, [*[None] * missing, *before.seen])
