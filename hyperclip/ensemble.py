"""Several systems as one: the mean of their scores, by weights.

Shapes: T classes, H W image.
"""

from .runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from .blending import BlendedMaps, Layer, Part, ScaledMaps
from .config import changed_settings, load_config
from .load import check_system, load_model
from .runtime.files import local_path
from .score_maps import Size
from .segmenter import Description, Question, Segmentation, Segmenter, label
from .vocabulary import Vocabulary

KEY = "MODEL.ENSEMBLE."
OF_MEMBERS = (
    "MODEL.SEM_SEG_HEAD.",
    "MODEL.ADAPTER.",
    "MODEL.CLIP_",
    "MODEL.WEIGHTS",
    "MODEL.PROMPT_ENSEMBLE_TYPE",
    "MODEL.SYNONYMS",
    "MODEL.COMPILE_HEAD",
)
"""How keys begin that an ensemble's config does not have: its members' configs do."""
OWN = ("MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON",)
"""What it has none the less."""


@dataclass(frozen=True)
class SeenImage:
    """What each member sees in an image of the size (H, W)."""

    encoded: list[Any]
    size: Size


@META_ARCH_REGISTRY.register()
class Ensemble(Segmenter):
    """Members whose scores are averaged.

    Scores are divided by the highest that a member can give (HyperCLIP 1, CLIPer 2), and so are
    0..1. A score then says as much of a class as the member does, also that none of the classes is
    there, and thresholds keep their meaning. Shares of the scores of all classes would not: they
    add up to 1 however low all scores are.

    Members give every pixel a class, whatever their own rules are: pixels are left out by the
    thresholds of a question alone, or where a background exists by ``background_threshold``.

    Args:
        members: two or more systems, none an ensemble, on one device.
        largest: highest score of each. weights: of each, not negative, () for equal ones.
        names: what :meth:`describe` calls them.
        background_threshold: scores below it are background where there is one.
    Raises:
        ValueError: numbers or members that do not fit.
    """

    takes_checkpoint = False

    @configurable
    def __init__(
        self,
        *,
        members: Sequence[Segmenter],
        largest: Sequence[float],
        names: Sequence[str],
        weights: Sequence[float],
        background_threshold: float,
    ) -> None:
        super().__init__()
        _check_members(members, names, weights)
        self.members = nn.ModuleList(member.requires_grad_(False).eval() for member in members)
        self.to(members[0].device)
        self.largest, self.names = tuple(largest), tuple(names)
        self.weights = tuple(weights) or (1.0,) * len(members)
        self.background_threshold = background_threshold
        texts = [member.text for member in members]
        self.text = texts[0] if all(text is not None for text in texts) else None
        self.half_precision = any(member.half_precision for member in members)
        trained_on = (name for member in members for name in member.trained_on)
        self.trained_on = tuple(dict.fromkeys(trained_on))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Load the members of a config, each with its weights and stages; raises as
        :func:`member_configs` and :func:`hyperclip.load.load_model`.
        """
        configs = member_configs(cfg)
        _check_weights(cfg.MODEL.ENSEMBLE.WEIGHTS, len(configs))
        return {
            "members": [load_model(member) for member in configs.values()],
            "largest": [_largest_confidence(member) for member in configs.values()],
            "names": list(configs),
            "weights": cfg.MODEL.ENSEMBLE.WEIGHTS,
            "background_threshold": cfg.TEST.BACKGROUND_THRESHOLD,
        }

    @property
    def clip(self) -> Any:  # type: ignore[override]
        """That of the first member."""
        return self._all()[0].clip

    @torch.no_grad()
    def encode(self, images: Sequence[Tensor]) -> list[SeenImage]:
        """See :class:`Segmenter`."""
        return self.encode_records([{"image": image} for image in images])

    @torch.no_grad()
    def encode_records(self, records: Sequence[Mapping[str, Any]]) -> list[SeenImage]:
        """See :class:`Segmenter`."""
        seen = [member.encode_records(records) for member in self._all()]
        sizes = [(record["image"].shape[1], record["image"].shape[2]) for record in records]
        return [
            SeenImage([of_member[i] for of_member in seen], size) for i, size in enumerate(sizes)
        ]

    def check_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        """See :class:`Segmenter`."""
        for member in self._all():
            member.check_records(records)

    @property
    def has_features(self) -> bool:
        """See :class:`Segmenter`: of the first member."""
        return self._all()[0].has_features

    @torch.no_grad()
    def segment(self, encoded: SeenImage, question: Question, size: Size) -> Segmentation:
        """See :class:`Segmenter`; scores are in 0..1."""
        return label(self.score(encoded, question, size), size, question.scores)

    @torch.no_grad()
    def score(self, encoded: SeenImage, question: Question, size: Size) -> BlendedMaps:
        """See :class:`Segmenter`."""
        pixels = question.pixel_threshold
        if pixels is None:
            pixels = self.background_threshold if question.background == "threshold" else 0.0
        thresholds = (question.class_threshold or 0.0, pixels)
        # without the members' own rules, which would cut scores before the mean
        asked = replace(question, background="none", class_threshold=None, pixel_threshold=None)
        layers = []
        members = zip(self._all(), encoded.encoded, self.largest, self.weights, strict=True)
        for member, own, largest, weight in members:
            maps = ScaledMaps(member.score(own, asked, size), 1 / largest, *thresholds)
            layers.append(Layer((Part(maps),), weight))
        return BlendedMaps(tuple(layers), encoded.size)

    def features(self, encoded: SeenImage) -> Tensor:
        """See :class:`Segmenter`: those of the first member."""
        return self._all()[0].features(encoded.encoded[0])

    def check(self, vocabulary: Vocabulary) -> None:
        """See :class:`Segmenter`."""
        for member in self._all():
            member.check(vocabulary)

    def describe(self, dataset: Collection[str] = ()) -> Description:
        """See :class:`Segmenter`: the members by name, with their weights and settings."""
        described = [member.describe(dataset) for member in self._all()]
        weight = dict(zip(self.names, self.weights, strict=True))
        members = {
            name: {"system": own.system, "weight": weight[name], **own.settings}
            for name, own in zip(self.names, described, strict=True)
        }
        backbones = dict.fromkeys(own.backbone for own in described)
        return Description(
            "Ensemble",
            " + ".join(filter(None, backbones)),
            class_lists=described[0].class_lists,
            settings={"members": members},
            notes=("prompts and synonyms are those of the members' configs",),
        )

    def _all(self) -> list[Segmenter]:
        return [member for member in self.members if isinstance(member, Segmenter)]


def member_configs(cfg: CfgNode) -> dict[str, CfgNode]:
    """The configs of an ensemble's members by file name, on its device and in its precision.

    Raises:
        FileNotFoundError: a file that is not there.
        ValueError: fewer than two, one twice, an ensemble among them, a key of MODEL that only
            members have, a system that is not registered.
    """
    named = list(cfg.MODEL.ENSEMBLE.CONFIGS)
    if len(set(named)) < 2 or len(set(named)) < len(named):
        raise ValueError(
            f"{KEY}CONFIGS: got {named}, expected two or more config files, each another one"
        )
    changed = changed_settings(cfg)
    idle = [key for key in changed if key.startswith(OF_MEMBERS) and key not in OWN]
    if idle:
        raise ValueError(
            f"{idle[0]}: got a value beside META_ARCHITECTURE Ensemble, whose members have configs "
            f"of their own. Set it in {named}"
        )
    shared = ("MODEL.DEVICE", cfg.MODEL.DEVICE, "TEST.PRECISION", cfg.TEST.PRECISION)
    configs: dict[str, CfgNode] = {}
    for name in named:
        path = local_path(name)
        if not path.is_file():
            raise FileNotFoundError(f"{KEY}CONFIGS: got {name!r}, which is no config file here")
        member = load_config(path, [*shared])
        if member.MODEL.META_ARCHITECTURE == cfg.MODEL.META_ARCHITECTURE:
            raise ValueError(
                f"{KEY}CONFIGS: got {name!r}, which is an ensemble itself. Name its members instead"
            )
        check_system(member)
        configs[_free_name(Path(name), configs)] = member
    return configs


def _free_name(path: Path, taken: Collection[str]) -> str:
    return path.stem if path.stem not in taken else str(path)


def _largest_confidence(cfg: CfgNode) -> float:
    return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE).largest_confidence(cfg)


def _check_weights(weights: Sequence[Any], members: int) -> None:
    """ValueError unless there is none, or a number from 0 on for each member, not all of them 0."""
    numbers = [w for w in weights if isinstance(w, int | float) and 0 <= w < float("inf")]
    if len(numbers) < len(weights) or (weights and (len(weights) != members or not any(numbers))):
        raise ValueError(
            f"{KEY}WEIGHTS: got {list(weights)}, expected {members} numbers from 0 on, one for "
            "each member and not all 0, or [] for equal ones"
        )


def _check_members(
    members: Sequence[Segmenter], names: Sequence[str], weights: Sequence[float]
) -> None:
    """ValueError for what cannot be an ensemble."""
    if len(members) < 2:
        raise ValueError(f"members of an ensemble: got {len(members)}, expected two or more")
    if any(isinstance(member, Ensemble) for member in members):
        raise ValueError("members of an ensemble: got an ensemble. Give its members instead")
    _check_weights(weights, len(members))
    devices = {str(member.device) for member in members}
    if len(devices) > 1:
        got = ", ".join(f"{n} on {m.device}" for n, m in zip(names, members, strict=True))
        raise ValueError(f"members of an ensemble: got {got}, expected one device for all")
