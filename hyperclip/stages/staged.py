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
from .refining import REFINER_REGISTRY, Refinement, Refiner, build_entry
from .region_attention import ATTENTION, attend
from .regions import RULES, Proposer, RecordProposer, build_proposer
from .stage import Asked, Stage


class StagedImage(NamedTuple):
    """What a system and its stages see in an image."""

    encoded: Any
    seen: list[Any]


class Staged(Wrapper):
    """A system whose scores go through stages, in their order, before they become labels.

    Args:
        system: any that is no ``Staged``. stages: one or more; ValueError for one that the system
            lacks something for.
    """

    def __init__(self, system: Segmenter, stages: Sequence[Stage]) -> None:
        super().__init__(system)
        self.stages = nn.ModuleList(stages)
        for stage in stages:
            stage.check_system(system)

    def encode(self, images: Sequence[Tensor]) -> list[StagedImage]:
        """See :class:`Segmenter`."""
        return self.encode_records([{"image": image} for image in images])

    def encode_records(self, records: Sequence[Mapping[str, Any]]) -> list[StagedImage]:
        """See :class:`Segmenter`."""
        encoded = self.system.encode_records(records)
        with torch.no_grad():
            seen = [stage.see_records(records, encoded, self.system) for stage in self._stages()]
        return [
            StagedImage(own, [of_stage[i] for of_stage in seen]) for i, own in enumerate(encoded)
        ]

    def check_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        """See :class:`Stage`."""
        for stage in self._stages():
            stage.check_records(records)

    @torch.no_grad()
    def score(self, encoded: StagedImage, question: Question, size: Size) -> ScoreMaps:
        """See :class:`Segmenter`: the scores after all stages."""
        maps = self.system.score(encoded.encoded, question, size)
        asked = Asked(self.system, encoded.encoded, question, size)
        with torch.autocast(self.device.type, enabled=False):  # sums are in float32
            for stage, seen in zip(self._stages(), encoded.seen, strict=True):
                maps = stage.rescore(maps, seen, asked)
        return maps

    def features(self, encoded: StagedImage) -> Tensor:
        """See :class:`Segmenter`."""
        return self.system.features(encoded.encoded)

    def own_settings(self) -> dict[str, Any]:
        """See :class:`Wrapper`."""
        return {"stages": {type(stage).__name__: stage.describe() for stage in self._stages()}}

    def _stages(self) -> Iterator[Stage]:
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
        if self.rule == ATTENTION and type(system).features is Segmenter.features:
            system.features(None)

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
        """See :class:`Stage`."""
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
        return [regions.to(system.device, torch.int64) for regions in proposed]

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
    """The system with the test-time views of a config, whose mean its stages work on; itself where
    the config names neither, or it has them. Its adapters are merged later, if at all: stages look
    at the weights.
    """
    if isinstance(system, Wrapper):
        return system
    stages = build_stages(cfg, system)
    system = with_views(system, cfg)
    return Staged(system, stages).train(system.training) if stages else system


def with_examples(system: Segmenter, examples: Sequence[Example]) -> Segmenter:
    """The system with examples before its other stages, beside those that it has; itself for
    none.
    """
    if not examples:
        return system
    stages = list(system.stages) if isinstance(system, Staged) else []
    store = ExampleStore()
    if stages and isinstance(stages[0], Examples):
        store = stages.pop(0).store
    own = system.system if isinstance(system, Staged) else system
    return Staged(own, [Examples(store.plus(examples)), *stages]).train(system.training)


def examples_of(system: Segmenter) -> ExampleStore:
    """The examples that a system has."""
    if isinstance(system, Staged) and isinstance(first := system.stages[0], Examples):
        return first.store
    return ExampleStore()


def as_seen_by(staged: Segmenter, system: Segmenter, encoded: Any) -> Any:
    """What ``system`` gave for an image, for the same system with examples besides."""
    if staged is system or not isinstance(staged, Staged):
        return encoded
    before = encoded if isinstance(encoded, StagedImage) else StagedImage(encoded, [])
    missing = len(staged.stages) - len(before.seen)
    return StagedImage(before.encoded, [*[None] * missing, *before.seen])


def without_stages(system: Segmenter) -> Segmenter:
    """The system itself, which has the weights."""
    return unwrapped(system)
