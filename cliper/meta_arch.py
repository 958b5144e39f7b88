"""The meta-architecture CLIPer: early-layer fusion and refinement, of which nothing trains."""

import contextlib
import logging
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from hyperclip.clip import TextEmbedder, load_clip
from hyperclip.clip.image_tower import image_tower
from hyperclip.clip.vit_tower import VitTower
from hyperclip.config.key_rules import options_of
from hyperclip.normalization import pixel_statistics
from hyperclip.runtime.finite import FiniteCheck
from hyperclip.segmenter import Description, Question, Segmentation, Segmenter, label
from hyperclip.vocabulary import Vocabulary
from hyperclip.vocabulary.names import tokens_of
from torch import Tensor
from torch.nn import functional as F

from .feature_refiner import FeatureExtractor
from .fusion import FusionOptions, encode_layers, proxy_affinity
from .postprocess import ClassMaps, LabelOptions, fuse_scores
from .preprocess import resize_for_clip, target_size
from .refiner import DiffusionRefiner, Refinement, Refiner, build_extractor, build_refiner
from .scores import Embedded, ScoreOptions, coarse_scores, with_negatives
from .windows import Windows, merge_affinities, window_boxes

logger = logging.getLogger("hyperclip.cliper")

LEAST = 1e-6  # a pixel threshold that leaves out nothing, since 0 has a meaning in LabelOptions

ALL_CLASSIFIED = "every pixel gets a class; the paper leaves pixels below tuned thresholds out"
ONE_SETTING = "one setting for all sets; the paper has one for each (configs/cliper/*/ovs_*.yaml)"


class EncodedImage(NamedTuple):
    """What CLIP and the refiner, if any, compute of an image without words."""

    embedded: Embedded
    refinement: Refinement | None


@META_ARCH_REGISTRY.register()
class CLIPer(Segmenter):
    """Training-free open-vocabulary segmentation.

    Args:
        fusion, scores, labels: see the options of the same name.
        refiner: see :mod:`cliper.refiner`; None for none.
        proxy: gives the map of ``fusion.attention`` "proxy".
        backbone, tuned_for: for :meth:`describe`: CLIP's name, and the datasets that the thresholds
            are tuned for.
        negatives, mean_negative, size, max_size, window, window_stride, half: see MODEL.CLIPER's
            keys of the same names; windows are in multiples of CLIP's patch.
    Raises:
        ValueError: a window that is not in whole patches, a layer that CLIP does not have, a proxy
            that is missing.
    """

    text: TextEmbedder
    takes_checkpoint = False

    @classmethod
    def largest_confidence(cls, cfg: CfgNode) -> float:
        """The highest confidence that its answers can have with a config."""
        return 1 if cfg.MODEL.CLIPER.NORMALIZE else 2

    @configurable
    def __init__(
        self,
        *,
        clip: Any,
        text: TextEmbedder,
        fusion: FusionOptions,
        scores: ScoreOptions,
        labels: LabelOptions,
        refiner: Refiner | None,
        negatives: Sequence[str],
        mean_negative: bool,
        size: int,
        max_size: int,
        window: int,
        window_stride: int,
        proxy: FeatureExtractor | None,
        backbone: str,
        tuned_for: Sequence[str],
        half: bool,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        visual = _require_vit(clip)
        self.clip = clip.eval().requires_grad_(False)
        self.text, self.refiner, self.proxy = text, refiner, proxy
        if not scores.logit_scale:
            scores = replace(scores, logit_scale=clip.logit_scale.exp().item())
        self.fusion, self.scores, self.labels = fusion, scores, labels
        self.negatives, self.mean_negative = tuple(negatives), mean_negative
        self.size, self.max_size = size, max_size
        self.window, self.window_stride = window, window_stride
        self.backbone, self.tuned_for, self.half_precision = backbone, tuple(tuned_for), half
        self.patch = visual.conv1.kernel_size[0]
        self.blocks = len(visual.transformer.resblocks)
        self.layers = self.scores.layers(self.blocks)
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
        if self.fusion.attention == "fused" and self.blocks < 2:
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
        """Translate a config; ValueError if MODEL.WEIGHTS is set, of which it has no use."""
        if cfg.MODEL.WEIGHTS:
            raise ValueError(
                f"MODEL.WEIGHTS: got {cfg.MODEL.WEIGHTS!r}, but CLIPer is training-free and has no "
                "checkpoint. Leave it empty; MODEL.CLIP_WEIGHTS and MODEL.CLIPER.DIFFUSION.MODEL "
                "say where its models come from"
            )
        node = cfg.MODEL.CLIPER
        backbone = cfg.MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED
        loaded = load_clip(backbone, cfg.MODEL.CLIP_WEIGHTS, activation=cfg.MODEL.CLIP_ACTIVATION)
        plain = "negatives mean_negative size max_size window window_stride half".split()
        return {
            "clip": loaded.model,
            "text": TextEmbedder.from_config(cfg, loaded.tokenizer),
            "proxy": build_extractor(cfg) if node.ATTENTION == "proxy" else None,
            "fusion": options_of(FusionOptions, node),
            "scores": options_of(ScoreOptions, node),
            "labels": options_of(LabelOptions, node),
            "refiner": build_refiner(cfg),
            "backbone": backbone,
            "tuned_for": cfg.DATASETS.TEST,
            **pixel_statistics(
                image_tower(loaded.model.visual).statistics,
                *(cfg.MODEL.CLIP_PIXEL_MEAN, cfg.MODEL.CLIP_PIXEL_STD),
            ),
            **{name: getattr(node, name.upper()) for name in plain},
        }

    @property
    def _half(self) -> bool:
        """Whether float16 is used in places, where autocast does not say another precision."""
        on_gpu = self.device.type == "cuda"
        return self.half_precision and on_gpu and not torch.is_autocast_enabled("cuda")

    @torch.no_grad()
    def encode(self, images: Sequence[Tensor]) -> list[EncodedImage]:
        """See :class:`Segmenter`; the images are uint8.

        Images of the same size go through CLIP together, all of them through the refiner together.
        """
        refinements: Sequence[Refinement | None] = [None] * len(images)
        if self.refiner is not None:
            refinements = self.refiner(images)
        encoded = list(map(EncodedImage, self._embed_all(images), refinements))
        check = FiniteCheck()
        for own, refinement in encoded:
            check.add("CLIP's features of the image", own.features, own.affinity)
            if (windows := own.windows) is not None:
                check.add("CLIP's features of the windows", windows.features, windows.affinity)
            check.add("what the refiner sees in the image", *getattr(refinement, "inputs", ()))
        check.require(self, self._half)
        return encoded

    @torch.no_grad()
    def segment(
        self, encoded: EncodedImage, question: Question, size: tuple[int, int]
    ) -> Segmentation:
        """See :class:`Segmenter`; scores reach from 0 to about 2.

        Where a background exists, pixels below the thresholds get no class, whatever the protocol
        says; thresholds of the question take the place of the system's own. NotFiniteError for NaN
        or infinity on the way, as :meth:`encode`.
        """
        return label(self.score(encoded, question, size), size, question.scores)

    @torch.no_grad()
    def score(self, encoded: EncodedImage, question: Question, size: tuple[int, int]) -> ClassMaps:
        """See :class:`Segmenter`: refined by its own refiner, if any; raises as :meth:`segment`."""
        vocabulary = question.vocabulary
        prompts, class_of = self.embed_vocabulary(vocabulary), self.class_of(vocabulary)
        embedded, refine = encoded
        prompts = prompts.to(embedded.features.dtype)
        with torch.autocast(self.device.type, enabled=False):  # sums are in float32
            coarse = coarse_scores(embedded, prompts, len(vocabulary), self.scores, class_of)
            refined = coarse if refine is None else refine(coarse)
            scores = fuse_scores(refined, coarse)
        check = FiniteCheck().add("the embeddings of the class names", prompts)
        check.add("the scores", coarse, scores).add("the refined scores", refined)
        check.require(self, self._half)
        return ClassMaps(refined, scores, self._label_options(question), coarse)

    def features(self, encoded: EncodedImage) -> Tensor:
        """See :class:`Segmenter`; of the selected layer."""
        embedded = encoded.embedded
        layer = self.scores.select_layer if self.scores.average != "none" else 0
        unit = F.normalize(embedded.features[layer].float(), dim=-1)
        return unit.T.unflatten(1, embedded.grid)

    def affinity(self, encoded: EncodedImage) -> tuple[Tensor, tuple[int, int]]:
        """How much each patch takes of every patch (N, N), the map that the last layer is read and
        scores are propagated with, and the grid (h, w) of the patches.
        """
        return encoded.embedded.affinity, encoded.embedded.grid

    def _label_options(self, question: Question) -> LabelOptions:
        protocols = {"own": self.labels.protocol, "none": "argmax", "threshold": "abstain"}
        own = replace(self.labels, protocol=protocols[question.background])
        classes, pixels = question.class_threshold, question.pixel_threshold
        if (classes, pixels) != (None, None) and own.protocol == "argmax":  # it has no thresholds
            own = LabelOptions("abstain", 0.0, LEAST, own.normalize)
        if classes is not None:
            own = replace(own, score_threshold=classes)
        if pixels is not None:
            own = replace(own, background_threshold=max(pixels, LEAST))
        return own

    def describe(self, dataset: Collection[str] = ()) -> Description:
        """See :class:`Segmenter`."""
        # the paper has rows of the fused map with the diffusion model, and without a refiner
        refines = isinstance(self.refiner, DiffusionRefiner | None)
        argmax = self.labels.protocol == "argmax"
        variants = {"windows": self.window, "no refiner": self.refiner is None}
        notes = {ALL_CLASSIFIED: argmax, ONE_SETTING: not set(dataset) & set(self.tuned_for)}
        settings = {
            "fusion": asdict(self.fusion),
            "scores": asdict(self.scores),
            "labels": asdict(self.labels),
            "refiner": "none" if self.refiner is None else type(self.refiner).__name__,
            "size": self.size,
            "window": self.window,
            "negatives": list(self.negatives),
            "synonyms": self.text.synonyms,
        }
        return Description(
            "CLIPer",
            self.backbone,
            "CLIPer" if self.fusion.attention == "fused" and refines else "",
            ", ".join(name for name, given in variants.items() if given),
            class_lists="cliper",
            abstains=not argmax,
            settings=settings,
            notes=tuple(note for note, applies in notes.items() if applies),
            variant_settings={
                "MODEL.CLIPER.WINDOW": 0,
                "MODEL.CLIPER.REFINER.NAME": "none" if self.refiner is None else "diffusion",
            },
        )

    def embed_vocabulary(self, vocabulary: Vocabulary) -> Tensor:
        """Unit embeddings of all prompts (P, C): the classes, then the negatives."""
        names = list(vocabulary.negatives)
        # the config's negatives are for any vocabulary, so one that is a class here is no negative
        if not names:
            taken = {tokens_of(name) for synonyms in vocabulary.classes for name in synonyms}
            names = [name for name in self.negatives if tokens_of(name) not in taken]
        listed = Vocabulary(tuple((name,) for name in names), "negatives") if names else None
        negatives = None if listed is None else self.text(self.clip, listed)
        classes = self.text(self.clip, vocabulary)
        mean = self.mean_negative and not vocabulary.other  # which is the same mean
        return with_negatives(classes, negatives, mean, self.class_of(vocabulary))

    def _embed_all(self, images: Sequence[Tensor]) -> list[Embedded]:
        limits = (self.size, self.patch, self.max_size)
        sizes = [target_size(image.shape[1], image.shape[2], *limits) for image in images]
        embedded: dict[int, Embedded] = {}
        for size in dict.fromkeys(sizes):
            members = [i for i, own in enumerate(sizes) if own == size]
            some = self._embed([images[i] for i in members], size)
            embedded.update(zip(members, some, strict=True))
        return [embedded[i] for i in range(len(images))]

    def _embed(self, images: list[Tensor], size: tuple[int, int]) -> list[Embedded]:
        batch = self.normalise(torch.stack([resize_for_clip(image, size) for image in images]))
        grid = (size[0] // self.patch, size[1] // self.patch)
        proxies = [self.proxy(image)[None] for image in images] if self.proxy is not None else []
        features, affinity = self._encode_layers(batch, [proxy_affinity(p, grid) for p in proxies])
        windows: Sequence[Windows | None] = [None] * len(images)
        if self.window:
            windows = self._embed_windows(batch, grid, proxies)
        return [Embedded(features[:, b], affinity[b], grid, windows[b]) for b in range(len(images))]

    def _embed_windows(
        self, batch: Tensor, grid: tuple[int, int], proxies: list[Tensor]
    ) -> list[Windows]:
        """All crops of all images in one batch."""
        p = self.patch
        boxes = window_boxes(*grid, self.window // p, self.window_stride // p)
        crops = torch.stack(
            [i[:, y * p : (y + h) * p, x * p : (x + w) * p] for i in batch for y, x, h, w in boxes]
        )
        cut = []
        for feature in proxies:
            whole = F.interpolate(feature, size=grid, mode="bilinear", align_corners=False)
            cut += [
                proxy_affinity(whole[:, :, y : y + h, x : x + w], (h, w)) for y, x, h, w in boxes
            ]
        features, affinity = self._encode_layers(crops, cut)
        per_image = zip(features.split(len(boxes), dim=1), affinity.split(len(boxes)), strict=True)
        return [
            Windows(f.transpose(0, 1), boxes, merge_affinities(a, boxes, grid))
            for f, a in per_image
        ]

    def _encode_layers(self, batch: Tensor, proxies: list[Tensor]) -> tuple[Tensor, Tensor]:
        visual: Any = self.clip.visual
        proxy = torch.cat(proxies) if proxies else None
        with torch.autocast("cuda", torch.float16) if self._half else contextlib.nullcontext():
            return encode_layers(visual, batch, self.fusion, self.layers, proxy)


def _require_vit(clip: Any) -> Any:
    """The image encoder of an open_clip model; ValueError unless it is CLIP's own ViT, whose
    attention maps are read.
    """
    if not isinstance(image_tower(clip.visual), VitTower):
        kind = type(getattr(clip.visual, "trunk", clip.visual)).__name__
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED: got a CLIP model with {kind}, but CLIPer reads "
            "the attention maps of CLIP's own vision transformer. Expected a ViT such as ViT-B/16"
        )
    return clip.visual
