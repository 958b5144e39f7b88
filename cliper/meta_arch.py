"""The meta-architecture CLIPer: Detectron2's view of early-layer fusion and refinement. Nothing of
it trains.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from hyperclip.clip import CLIP_MEAN, CLIP_STD, TextEmbedder, load_clip
from hyperclip.runtime.finite import FiniteCheck
from hyperclip.segmenter import Description, Question, Segmentation, Segmenter
from hyperclip.vocabulary import Vocabulary
from hyperclip.vocabulary.names import tokens_of
from open_clip import CLIP
from torch import Tensor
from torch.nn import functional as F

from .features import FeatureExtractor
from .fusion import FusionOptions, encode_layers, proxy_affinity
from .postprocess import LabelOptions, full_size_maps, fuse_scores, label_map
from .preprocess import resize_for_clip, target_size
from .refiner import DiffusionRefiner, Refinement, Refiner, build_extractor, build_refiner
from .scores import (
    Embedded,
    ScoreOptions,
    Windows,
    coarse_scores,
    merge_affinities,
    window_boxes,
    with_negatives,
)
from .streams import side_by_side

logger = logging.getLogger("hyperclip.cliper")

LEAST = 1e-6
"""A pixel threshold that leaves out nothing: 0 stands for the rule of a background score, see
:class:`LabelOptions`.
"""


@dataclass(frozen=True)
class EncodedImage:
    """What is computed of an image before a vocabulary is known.

    Attributes:
        embedded: CLIP's part. refinement: the refiner's, None without one. size: (H, W) of the
            image.
    """

    embedded: Embedded
    refinement: Refinement | None
    size: tuple[int, int]


@META_ARCH_REGISTRY.register()
class CLIPer(Segmenter):
    """Training-free open-vocabulary segmentation.

    Args:
        clip: an open_clip model.
        text: embeds vocabularies.
        fusion, scores, labels: see the options of the same name; None for their defaults.
        refiner: see :mod:`cliper.refiner`; None for none.
        negatives: names of what is no class, for vocabularies without negatives of their own.
        mean_negative: add the mean of the classes' embeddings to the negatives.
        size, max_size: shorter and longest side of what CLIP sees, in pixels.
        window, window_stride: crops in pixels of that size, 0 for none; multiples of CLIP's patch,
            the stride at most the window.
        proxy: gives the map of ``fusion.attention`` "proxy".
        backbone, tuned_for: what :meth:`describe` says of CLIP, and the datasets that the
            thresholds are tuned for.
        half: on a GPU, run CLIP under float16 autocast.
    Raises:
        ValueError: a size that is no number of patches, a layer that CLIP does not have, a proxy
            that is missing.
    """

    text: TextEmbedder

    @classmethod
    def largest_confidence(cls, cfg: CfgNode) -> float:
        """The highest confidence that its answers can have with a config."""
        return 1 if cfg.MODEL.CLIPER.NORMALIZE else 2

    @configurable
    def __init__(
        self,
        *,
        clip: CLIP,
        text: TextEmbedder,
        fusion: FusionOptions | None = None,
        scores: ScoreOptions | None = None,
        labels: LabelOptions | None = None,
        refiner: Refiner | None = None,
        negatives: Sequence[str] = (),
        mean_negative: bool = True,
        size: int = 336,
        max_size: int = 2560,
        window: int = 0,
        window_stride: int = 112,
        proxy: FeatureExtractor | None = None,
        backbone: str = "",
        tuned_for: Sequence[str] = (),
        half: bool = True,
        pixel_mean: Sequence[float] = CLIP_MEAN,
        pixel_std: Sequence[float] = CLIP_STD,
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        self.clip, self.text, self.refiner, self.proxy = (
            clip.eval().requires_grad_(False),
            text,
            refiner,
            proxy,
        )
        self.fusion, self.labels, scores = (
            fusion or FusionOptions(),
            labels or LabelOptions(),
            scores or ScoreOptions(),
        )
        self.scores = (
            scores
            if scores.logit_scale
            else replace(scores, logit_scale=clip.logit_scale.exp().item())
        )
        self.negatives, self.mean_negative, self.half_precision = (
            tuple(negatives),
            mean_negative,
            half,
        )
        self.size, self.max_size, self.window, self.window_stride = (
            size,
            max_size,
            window,
            window_stride,
        )
        self.backbone, self.tuned_for = backbone, tuple(tuned_for)
        self.patch = clip.visual.conv1.kernel_size[0]
        self.layers = scores.layers(len(clip.visual.transformer.resblocks))
        self._check()

    def _check(self) -> None:
        if self.negatives:  # raises for names that are empty or there twice
            Vocabulary(tuple((name,) for name in self.negatives), "MODEL.CLIPER.NEGATIVES")
        if not 0 < self.size <= self.max_size:
            raise ValueError(
                f"MODEL.CLIPER.SIZE: got {self.size}, expected 1 to MAX_SIZE {self.max_size}"
            )
        steps = (self.window, self.window_stride)
        if self.window and (min(steps) <= 0 or any(step % self.patch for step in steps)):
            raise ValueError(
                f"MODEL.CLIPER.WINDOW, WINDOW_STRIDE: got {steps}, expected multiples of CLIP's "
                f"patch size {self.patch}, or a WINDOW of 0"
            )
        if self.window and self.window_stride > self.window:
            raise ValueError(
                f"MODEL.CLIPER.WINDOW_STRIDE: got {self.window_stride}, expected at most the "
                f"WINDOW of {self.window}; windows farther apart than they are wide leave parts of "
                "the image out"
            )
        if self.fusion.attention == "fused" and len(self.clip.visual.transformer.resblocks) < 2:
            raise ValueError(
                "MODEL.CLIPER.ATTENTION 'fused': CLIP's image tower has one block, expected two or "
                "more"
            )
        if (self.fusion.attention == "proxy") != (self.proxy is not None):
            raise ValueError(
                f"MODEL.CLIPER.ATTENTION {self.fusion.attention!r} and a proxy: expected both or "
                "neither"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Translate a config.

        Raises:
            ValueError: MODEL.WEIGHTS is set, which a system without training has no use for.
        """
        if cfg.MODEL.WEIGHTS:
            raise ValueError(
                f"MODEL.WEIGHTS: got {cfg.MODEL.WEIGHTS!r}, but CLIPer is training-free and has no "
                "checkpoint. Leave it empty; MODEL.CLIP_WEIGHTS and MODEL.CLIPER.DIFFUSION.MODEL "
                "say where its models come from"
            )
        node = cfg.MODEL.CLIPER
        loaded = load_clip(
            cfg.MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED,
            cfg.MODEL.CLIP_WEIGHTS,
            activation=cfg.MODEL.CLIP_ACTIVATION,
        )
        proxy = build_extractor(cfg) if node.ATTENTION == "proxy" else None
        return {
            "clip": loaded.model,
            "text": TextEmbedder.from_config(cfg, loaded.tokenizer),
            "fusion": FusionOptions(
                attention=node.ATTENTION,
                sinkhorn=node.SINKHORN,
                center=node.CENTER,
                center_scale=node.CENTER_SCALE,
                residual=node.RESIDUAL,
                half_positions=node.HALF_POSITIONS,
            ),
            "scores": ScoreOptions(
                logit_scale=node.LOGIT_SCALE,
                select_layer=node.SELECT_LAYER,
                average=node.AVERAGE,
                average_weight=node.AVERAGE_WEIGHT,
                threshold=node.ATTENTION_THRESHOLD,
                propagation=node.PROPAGATION,
            ),
            "labels": LabelOptions(
                node.PROTOCOL, node.SCORE_THRESHOLD, node.BACKGROUND_THRESHOLD, node.NORMALIZE
            ),
            "refiner": build_refiner(cfg),
            "negatives": node.NEGATIVES,
            "mean_negative": node.MEAN_NEGATIVE,
            "size": node.SIZE,
            "max_size": node.MAX_SIZE,
            "window": node.WINDOW,
            "window_stride": node.WINDOW_STRIDE,
            "proxy": proxy,
            "backbone": cfg.MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED,
            "tuned_for": cfg.DATASETS.TEST,
            "half": node.HALF,
            "pixel_mean": cfg.MODEL.CLIP_PIXEL_MEAN,
            "pixel_std": cfg.MODEL.CLIP_PIXEL_STD,
        }

    @property
    def _half(self) -> bool:
        """Whether float16 is used in places."""
        return self.half_precision and self.device.type == "cuda"

    @torch.no_grad()
    def encode(self, images: Sequence[Tensor]) -> list[EncodedImage]:
        """Everything about images, uint8 (3, H, W) RGB of any sizes, that does not depend on the
        vocabulary.

        Images of the same size go through CLIP together, all of them through the refiner together;
        on a GPU both at a time.
        """

        def refine() -> Sequence[Refinement | None]:
            return self.refiner(images) if self.refiner is not None else [None] * len(images)

        refinements, embedded = side_by_side(self.device, refine, lambda: self._embed_all(images))
        self._require_finite(embedded, refinements)
        parts = zip(embedded, refinements, images, strict=True)
        return [EncodedImage(e, r, (x.shape[1], x.shape[2])) for e, r, x in parts]

    def _require_finite(
        self, embedded: Sequence[Embedded], refinements: Sequence[Refinement | None]
    ) -> None:
        check = FiniteCheck()
        for image, refinement in zip(embedded, refinements, strict=True):
            check.add("CLIP's features of the image", image.features, image.affinity)
            if image.windows is not None:
                check.add(
                    "CLIP's features of the windows", image.windows.features, image.windows.affinity
                )
            check.add("what the refiner sees in the image", *getattr(refinement, "inputs", ()))
        check.require(self, self._half)

    @torch.no_grad()
    def segment(
        self, encoded: EncodedImage, question: Question, size: tuple[int, int]
    ) -> Segmentation:
        """Scores reach from 0 to about 2; see :class:`Segmenter`.

        Where a background exists, pixels below the thresholds get no class, whatever the protocol
        says; thresholds of the question take the place of the system's own.

        Raises:
            NotFiniteError: NaN or infinity on the way; so does :meth:`encode`. See
                :mod:`hyperclip.runtime.finite`.
        """
        vocabulary = question.vocabulary
        prompts, class_of = self.embed_vocabulary(vocabulary), self._class_of(vocabulary)
        coarse = coarse_scores(encoded.embedded, prompts, len(vocabulary), self.scores, class_of)
        refined = coarse if encoded.refinement is None else encoded.refinement(coarse)
        scores = fuse_scores(refined, coarse)
        check = (
            FiniteCheck()
            .add("the embeddings of the class names", prompts)
            .add("the scores", coarse, scores)
        )
        check.add("the refined scores", refined).require(self, self._half)
        options = self._label_options(question)
        best, confidence = label_map(refined, scores, size, options)
        maps = (
            torch.cat([maps for _, maps in full_size_maps(refined, scores, size, options)])
            if question.scores
            else None
        )
        return Segmentation(best, confidence, maps)

    def _label_options(self, question: Question) -> LabelOptions:
        own = replace(self.labels, protocol="abstain") if question.background else self.labels
        classes, pixels = question.class_threshold, question.pixel_threshold
        if classes is None and pixels is None:
            return own
        if own.protocol == "argmax":  # it has no thresholds
            own = LabelOptions("abstain", 0.0, LEAST, own.normalize)
        return replace(
            own,
            score_threshold=own.score_threshold if classes is None else classes,
            background_threshold=own.background_threshold if pixels is None else max(pixels, LEAST),
        )

    def describe(self, dataset: Collection[str] = ()) -> Description:
        """See :class:`Segmenter`; a row of the paper's is the fused map, with the diffusion model
        or without a refiner.
        """
        published = self.fusion.attention == "fused" and isinstance(
            self.refiner, DiffusionRefiner | None
        )
        variants = (["windows"] if self.window else []) + (
            ["no refiner"] if self.refiner is None else []
        )
        notes = []
        if self.labels.protocol == "argmax":
            notes.append(
                "every pixel gets a class; the paper leaves pixels below tuned thresholds out"
            )
        if not set(dataset) & set(self.tuned_for):
            notes.append(
                "one setting for all sets; the paper has one for each (configs/cliper/*/ovs_*.yaml)"
            )
        settings: dict[str, Any] = {
            "fusion": asdict(self.fusion),
            "scores": asdict(self.scores),
            "labels": asdict(self.labels),
        }
        settings["refiner"] = "none" if self.refiner is None else type(self.refiner).__name__
        settings |= {
            "size": self.size,
            "window": self.window,
            "negatives": list(self.negatives),
            "synonyms": self.text.synonyms,
        }
        return Description(
            "CLIPer",
            self.backbone,
            "CLIPer" if published else "",
            ", ".join(variants),
            class_lists="cliper",
            abstains=self.labels.protocol == "abstain",
            settings=settings,
            notes=tuple(notes),
            variant_settings={
                "MODEL.CLIPER.WINDOW": 0,
                "MODEL.CLIPER.REFINER.NAME": "none" if self.refiner is None else "diffusion",
            },
        )

    def check(self, vocabulary: Vocabulary) -> None:
        """See :class:`hyperclip.segmenter.Segmenter`."""
        self.text.check(self.clip, vocabulary)

    def embed_vocabulary(self, vocabulary: Vocabulary) -> Tensor:
        """Unit embeddings of all prompts (P, C): the classes, then the negatives."""
        names = list(vocabulary.negatives)
        # the config's negatives are for any vocabulary, so one that is a class here is no negative
        if not names:
            taken = {tokens_of(name) for synonyms in vocabulary.classes for name in synonyms}
            names = [name for name in self.negatives if tokens_of(name) not in taken]
        negatives = (
            self.text(self.clip, Vocabulary(tuple((name,) for name in names), "negatives"))
            if names
            else None
        )
        classes = self.text(self.clip, vocabulary)
        return with_negatives(classes, negatives, self.mean_negative, self._class_of(vocabulary))

    def _class_of(self, vocabulary: Vocabulary) -> Tensor | None:
        """The class of each of the vocabulary's embeddings (S,); None for one embedding a class."""
        classes = self.text.class_of(vocabulary)
        return None if classes is None else torch.tensor(classes, device=self.device)

    def _embed_all(self, images: Sequence[Tensor]) -> list[Embedded]:
        targets = [
            target_size(image.shape[1], image.shape[2], self.size, self.patch, self.max_size)
            for image in images
        ]
        embedded: dict[int, Embedded] = {}
        for size in dict.fromkeys(targets):
            members = [i for i, target in enumerate(targets) if target == size]
            embedded.update(
                zip(members, self._embed([images[i] for i in members], size), strict=True)
            )
        return [embedded[i] for i in range(len(images))]

    def _embed(self, images: list[Tensor], size: tuple[int, int]) -> list[Embedded]:
        pixels = torch.stack([resize_for_clip(image, size) for image in images]).to(self.device)
        batch = (pixels.float() - self.pixel_mean) / self.pixel_std
        grid = (size[0] // self.patch, size[1] // self.patch)
        proxies = [self.proxy(image)[None] for image in images] if self.proxy is not None else None
        proxy = (
            torch.cat([proxy_affinity(p, grid) for p in proxies]) if proxies is not None else None
        )
        features, affinity = self._encode_layers(batch, proxy)
        windows: list[Windows | None] = [None] * len(images)
        if self.window:
            windows = list(self._embed_windows(batch, grid, proxies))
        return [Embedded(features[:, b], affinity[b], grid, windows[b]) for b in range(len(images))]

    def _embed_windows(
        self, batch: Tensor, grid: tuple[int, int], proxies: list[Tensor] | None
    ) -> list[Windows]:
        """All crops of all images in one batch."""
        p = self.patch
        boxes = window_boxes(*grid, self.window // p, self.window_stride // p)
        crops = torch.stack(
            [i[:, y * p : (y + h) * p, x * p : (x + w) * p] for i in batch for y, x, h, w in boxes]
        )
        proxy = None
        if proxies is not None:
            proxy = torch.cat(
                [_cut_proxy(feature, grid, box) for feature in proxies for box in boxes]
            )
        features, affinity = self._encode_layers(crops, proxy)
        per_image = zip(features.split(len(boxes), dim=1), affinity.split(len(boxes)), strict=True)
        return [
            Windows(f.transpose(0, 1), boxes, merge_affinities(a, boxes, grid))
            for f, a in per_image
        ]

    def _encode_layers(self, batch: Tensor, proxy: Tensor | None) -> tuple[Tensor, Tensor]:
        visual: Any = self.clip.visual
        with torch.autocast("cuda", torch.float16) if self._half else contextlib.nullcontext():
            return encode_layers(visual, batch, self.fusion, self.layers, proxy)


def _cut_proxy(feature: Tensor, grid: tuple[int, int], box: tuple[int, int, int, int]) -> Tensor:
    """Affinities (1, n, n) of a crop, from the whole image's features (1, C, h', w')."""
    y, x, h, w = box
    whole = F.interpolate(feature, size=grid, mode="bilinear", align_corners=False)
    return proxy_affinity(whole[:, :, y : y + h, x : x + w], (h, w))
