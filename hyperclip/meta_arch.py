"""The meta-architecture HyperCLIP: CLIP, its adapters and the cost-volume head."""

from .runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from .adapters import AdapterOptions, adapters, prepare_finetuning
from .clip import TextEmbedder, activation_of, check_layers, encode_dense, load_clip
from .clip.image_tower import image_tower
from .clip.packaged import ConceptClip
from .clip.text_tower import text_tower
from .config.key_rules import FRAMEWORK, options_of
from .dense_features import DenseFeatures
from .head import CosineHead, CostVolumeHead, loss
from .inference import SlidingWindow, ViewScores, make_views, merge_features, resize
from .normalization import pixel_statistics
from .runtime.files import local_path
from .runtime.finite import FiniteCheck
from .runtime.memory import items_at_a_time
from .runtime.precision import at_least_float32
from .runtime.weights import holds_trained_alone
from .segmenter import Description, Question, Segmentation, Segmenter, label
from .vocabulary import Vocabulary

HEAD_SETTINGS = ("NUM_HEADS", "ATTENTION_TYPE", "LOSS")

SEM_SEG_HEADS_REGISTRY.register(CostVolumeHead)
SEM_SEG_HEADS_REGISTRY.register(CosineHead)


@META_ARCH_REGISTRY.register()
class HyperCLIP(Segmenter):
    """Open-vocabulary segmentation: dense CLIP, text embeddings, and a head over their similarity.

    Args:
        clip: an open_clip model, fine-tuning already prepared.
        head: :class:`CostVolumeHead` or anything with its ``forward``, ``prepare``, ``infer`` and
            ``describe``.
        resolution: (height, width) that CLIP sees. layers: intermediate maps that the head gets.
        train_vocabulary, ignore: classes of the training labels, and the label of none, for images
            that do not say; the trainer sets the first from the dataset.
        loss_name: of ``head.loss.LOSSES``. sliding: windows of inference, None for the whole image.
        backbone, finetune: what :meth:`describe` says of CLIP and of what trains in it.
        settings: of the head, by config key, for :meth:`checkpoint_settings`.
        others: see the config keys of the same meaning.
    """

    clip: Any
    text: TextEmbedder
    sem_seg_head: Any

    @configurable
    def __init__(
        self,
        *,
        clip: nn.Module,
        text: TextEmbedder,
        head: nn.Module,
        resolution: tuple[int, int],
        layers: Sequence[int],
        train_vocabulary: Vocabulary | None = None,
        sliding: SlidingWindow | None,
        backbone: str,
        finetune: str,
        background_threshold: float,
        divisor: int,
        ignore: int,
        loss_name: str,
        sampled_classes: int,
        class_chunk: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        settings: Mapping[str, Any],
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        self.clip, self.text, self.sem_seg_head = clip, text, head
        self.resolution, self.layers, self.settings = resolution, list(layers), dict(settings)
        self.train_vocabulary, self.sliding, self.divisor = train_vocabulary, sliding, divisor
        self.background_threshold = background_threshold
        self.ignore, self.sampled_classes, self.class_chunk = ignore, sampled_classes, class_chunk
        self.backbone, self.finetune, self.loss_name = backbone, finetune, loss_name

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Translate a config. With MODEL.WEIGHTS set, CLIP's own weights are not loaded first, but
        under a file that holds only what was trained.
        """
        head, load = cfg.MODEL.SEM_SEG_HEAD, not cfg.MODEL.WEIGHTS
        if "://" not in cfg.MODEL.WEIGHTS:
            load = load or holds_trained_alone(local_path(cfg.MODEL.WEIGHTS))
        weights, activation = cfg.MODEL.CLIP_WEIGHTS, cfg.MODEL.CLIP_ACTIVATION
        loaded = load_clip(head.CLIP_PRETRAINED, weights, load, activation)
        clip = loaded.model
        images, text = image_tower(clip.visual), text_tower(clip)
        check_layers(head.CLIP_LAYERS, images)
        prepare_finetuning(clip, head.CLIP_FINETUNE, options_of(AdapterOptions, cfg.MODEL.ADAPTER))
        recomputed = cfg.MODEL.CHECKPOINT_ACTIVATIONS
        FRAMEWORK.require("MODEL.", {"CHECKPOINT_ACTIVATIONS": recomputed})
        text.set_recompute("text" in recomputed)
        images.set_recompute("image" in recomputed)
        shape = {
            "embed_dim": images.embed_dim,
            "width": [images.width(layer) for layer in head.CLIP_LAYERS],
            "scale": [images.scale(layer) for layer in head.CLIP_LAYERS],
        }
        resolution = zip(head.FEATURE_RESOLUTION, images.stride, strict=True)
        windows = cfg.TEST.SLIDING_WINDOW
        return {
            "clip": clip,
            "text": TextEmbedder.from_config(cfg, loaded.tokenizer),
            "head": build_head(cfg, shape),
            "resolution": tuple(cells * stride for cells, stride in resolution),
            "layers": head.CLIP_LAYERS,
            "sliding": options_of(SlidingWindow, cfg.TEST.SLIDING) if windows else None,
            "backbone": head.CLIP_PRETRAINED,
            "finetune": head.CLIP_FINETUNE,
            "background_threshold": cfg.TEST.BACKGROUND_THRESHOLD,
            "divisor": cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY,
            "ignore": head.IGNORE_VALUE,
            "loss_name": head.LOSS,
            "sampled_classes": head.SAMPLED_CLASSES,
            "class_chunk": cfg.TEST.CLASS_CHUNK,
            **pixel_statistics(
                images.statistics, cfg.MODEL.CLIP_PIXEL_MEAN, cfg.MODEL.CLIP_PIXEL_STD
            ),
            "settings": {f"MODEL.SEM_SEG_HEAD.{key}": head[key] for key in HEAD_SETTINGS},
        }

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``, but what would draw at random in CLIP's towers, or compute with a
        batch's statistics, stays in evaluation mode.
        """
        super().train(mode)
        for tower in (image_tower(self.clip.visual), text_tower(self.clip)):
            for module in tower.fixed:
                module.eval()
        return self

    @property
    def needs_checkpoint(self) -> bool:
        """Whether the head has parameters, which only a checkpoint fills."""
        return any(True for _ in self.sem_seg_head.parameters())

    def checkpoint_settings(self) -> dict[str, Any]:
        """See :class:`Segmenter`."""
        settings = {
            "MODEL.CLIP_ACTIVATION": activation_of(self.clip),
            "MODEL.SEM_SEG_HEAD.CLIP_LAYERS": list(self.layers),
            "MODEL.CLIP_PIXEL_MEAN": self.pixel_mean.flatten().tolist(),
            "MODEL.CLIP_PIXEL_STD": self.pixel_std.flatten().tolist(),
            **self.settings,
        }
        if isinstance(self.clip, ConceptClip):  # whose checkpoints lack what its packages bring
            settings["weights of the packages (digest)"] = self.clip.origin
        for name, adapter in adapters(self.clip):
            tower = "vision" if name.startswith("visual.") else "text"
            what = f"MODEL.ADAPTER ({type(adapter).__name__}, {tower})"
            for key in ("curvature", "scale"):
                if hasattr(adapter, key):
                    settings[f"{what} {key}"] = float(getattr(adapter, key))
        return settings

    @torch.no_grad()
    def encode(self, images: Sequence[Tensor]) -> list[Any]:
        """The head's part of each image's views; see :class:`Segmenter`."""
        views = [
            make_views(self.normalise(image), self.resolution, self.sliding, self.divisor)
            for image in images
        ]
        features, count = self.encode_views(torch.cat(views)), len(views[0])
        tensors = (features.embeddings, *features.intermediates)
        FiniteCheck().add("CLIP's features of the image", *tensors).require(self)
        starts = range(0, count * len(views), count)
        return [self.sem_seg_head.prepare(features[i : i + count]) for i in starts]

    @torch.no_grad()
    def segment(self, encoded: Any, question: Question, size: tuple[int, int]) -> Segmentation:
        """Scores are in 0..1; see :class:`Segmenter`. Where a background exists, pixels below its
        threshold belong to it. NotFiniteError for NaN or infinity on the way, as :meth:`encode`.
        """
        return label(self.score(encoded, question, size), size, question.scores)

    @torch.no_grad()
    def score(self, encoded: Any, question: Question, size: tuple[int, int]) -> ViewScores:
        """See :class:`Segmenter`; raises as :meth:`segment`."""
        vocabulary = question.vocabulary
        text = self.text(self.clip, vocabulary)
        logits = self.sem_seg_head.infer(encoded, text, self.class_chunk).precise()
        if self.loss_name == "softmax":
            logits = replace(logits, logits=loss.softmax_logits(logits.logits))
        check = FiniteCheck().add("the embeddings of the class names", text)
        check.add("the head's logits", logits.logits).require(self)
        pixels = question.pixel_threshold
        if pixels is None:
            pixels = self.background_threshold if question.background == "threshold" else 0.0
        classes = question.class_threshold or 0.0
        return ViewScores(logits, self.sliding, self.class_of(vocabulary), classes, pixels)

    def features(self, encoded: Any) -> Tensor:
        """See :class:`Segmenter`; of windows on the square of them all."""
        return merge_features(at_least_float32(encoded.embeddings), self.sliding)

    def describe(self, dataset: Collection[str] = ()) -> Description:
        """See :class:`Segmenter`."""
        papers = {"hyperbolic": "HyperCLIP", "attention": "CAT-Seg"}
        published = isinstance(self.sem_seg_head, CostVolumeHead)
        method = papers.get(self.finetune, "") if published else ""
        settings = {
            "head": type(self.sem_seg_head).__name__,
            "finetune": self.finetune,
            "views": "whole image" if self.sliding is None else "windows",
            "synonyms": self.text.synonyms,
            **self.sem_seg_head.describe(),
        }
        return Description("HyperCLIP", self.backbone, method, settings=settings)

    def encode_views(self, views: Tensor) -> DenseFeatures:
        """Image tower over normalised views (V, 3, r, r), without gradients some at a time."""
        visual = self.clip.visual
        if torch.is_grad_enabled():
            return encode_dense(visual, views, self.layers)
        step = items_at_a_time(image_tower(visual).entries(*views.shape[-2:]), views.device)
        parts = [encode_dense(visual, part, self.layers) for part in views.split(step)]
        return DenseFeatures.join(parts)

    def losses(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        """``{"loss_sem_seg": scalar}``; see :class:`Segmenter`. Inputs that are a part of a batch
        have what was decided for all of it: "padded_size" (height, width), "sampled_classes" (t,).
        """
        images = [self.normalise(x["image"]) for x in batched_inputs]
        question = self.training_question(batched_inputs)
        vocabulary, ignore = question.vocabulary, question.ignore
        largest = tuple(max(image.shape[i] for image in images) for i in (1, 2))
        height, width = batched_inputs[0].get("padded_size", largest)
        pads = [(0, width - x.shape[2], 0, height - x.shape[1]) for x in images]
        batch = torch.stack([F.pad(x, p) for x, p in zip(images, pads, strict=True)])
        targets = [x["sem_seg"].to(self.device) for x in batched_inputs]
        target = torch.stack(
            [F.pad(t, p, value=ignore) for t, p in zip(targets, pads, strict=True)]
        )
        only, classes = batched_inputs[0].get("sampled_classes"), len(vocabulary)
        if only is None and 0 < self.sampled_classes < classes:
            present = loss.present_classes(target, classes, ignore)
            only = loss.choose_classes(present, self.sampled_classes)
        if only is not None:
            target = loss.in_terms_of(target, only, ignore)
        text = self.text(self.clip, vocabulary, only)
        logits = self.sem_seg_head(self.encode_views(resize(batch, self.resolution)), text)
        return {"loss_sem_seg": loss.LOSSES[self.loss_name](logits, target, ignore)}


def build_head(cfg: CfgNode, shape: dict[str, Any]) -> nn.Module:
    """Build, perhaps compile, the config's head; ValueError for an unknown name or backend."""
    backend = cfg.MODEL.COMPILE_HEAD
    if backend and backend not in torch._dynamo.list_backends(exclude_tags=()):
        raise ValueError(
            f"MODEL.COMPILE_HEAD: got {backend!r}, expected '' (not compiled), one of "
            f"torch.compile's backends {torch._dynamo.list_backends()}, or one for finding faults, "
            "such as 'eager' and 'aot_eager'"
        )
    name = cfg.MODEL.SEM_SEG_HEAD.NAME
    if name not in SEM_SEG_HEADS_REGISTRY:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.NAME: got {name!r}, expected CostVolumeHead (CAT-Seg's head, once "
            "called CATSegHead), CosineHead, or a head registered in SEM_SEG_HEADS_REGISTRY"
        )
    head = SEM_SEG_HEADS_REGISTRY.get(name)(cfg, shape)
    if backend:
        head.compile(backend=backend)  # in place: the keys of its state dict stay
    return head
