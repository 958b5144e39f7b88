"""What the keys of a config may hold, and which of Detectron2's are read.

Classes take many keys as options: dataclasses whose fields are a section's keys, in lower case. They
have no defaults, which stand with the keys, and allow what the keys' rules do; so such a class is
usable without a config.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from fvcore.common.config import CfgNode

LEGACY = {
    "MODEL.SWIN": "the vision backbone is CLIP itself; remove the section",
    "MODEL.PROMPT_ENSEMBLE": "use MODEL.PROMPT_ENSEMBLE_TYPE (single, scene, imagenet_select, imagenet)",
    "MODEL.SEM_SEG_HEAD.TRAIN_CLASS_INDEXES": "train on a dataset that has the labels; remove the key",
    "MODEL.SEM_SEG_HEAD.TEST_CLASS_INDEXES": "use MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON",
    "MODEL.SEM_SEG_HEAD.PROMPT_DEPTH": "prompt tuning is not part of HyperCLIP; use CLIP_FINETUNE",
    "MODEL.SEM_SEG_HEAD.PROMPT_LENGTH": "prompt tuning is not part of HyperCLIP; use CLIP_FINETUNE",
    "SOLVER.BACKBONE_MULTIPLIER": "there is no backbone besides CLIP; use SOLVER.CLIP_MULTIPLIER",
    "SOLVER.ADAN_BETAS": "Adan is not offered; use SOLVER.OPTIMIZER ADAMW",
    "SOLVER.ADAN_EPS": "Adan is not offered; use SOLVER.OPTIMIZER ADAMW",
}
"""Keys of the released configs that mean nothing here, and what replaces them."""

LEGACY_VALUES = {
    "MODEL.META_ARCHITECTURE CATSeg": "use HyperCLIP, which builds CAT-Seg, too: see configs/vitb_384_catseg.yaml",
    "MODEL.SEM_SEG_HEAD.NAME CATSegHead": "expected CostVolumeHead, the same head under META_ARCHITECTURE HyperCLIP",
}
"""Values of the released configs that mean nothing here, and what replaces them."""

CLIP_IS_THE_BACKBONE = (
    "the backbone is CLIP; use MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED, CLIP_FINETUNE and CLIP_LAYERS"
)
UNREAD = {
    "MODEL.BACKBONE": CLIP_IS_THE_BACKBONE,
    "MODEL.RESNETS": CLIP_IS_THE_BACKBONE,
    "MODEL.FPN": CLIP_IS_THE_BACKBONE,
    "MODEL.PIXEL_MEAN": "use MODEL.CLIP_PIXEL_MEAN",
    "MODEL.PIXEL_STD": "use MODEL.CLIP_PIXEL_STD",
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": "the loss of the head is the only one; use SOLVER.BASE_LR",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": "use MODEL.SEM_SEG_HEAD.CLIP_LAYERS",
    "MODEL.SEM_SEG_HEAD": "it belongs to Detectron2's own head; use HIDDEN_DIMS, NUM_LAYERS and DECODER_DIMS",
    "INPUT.MASK_FORMAT": "labels are images; remove it",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": "every training image is used; remove the key, or those images from the dataset",
    "DATALOADER": "samples are drawn evenly; repeat images in the dataset's list instead",
    "SOLVER.WEIGHT_DECAY_BIAS": "biases have SOLVER.WEIGHT_DECAY (norms WEIGHT_DECAY_NORM, embeddings WEIGHT_DECAY_EMBED)",
    "SOLVER.BIAS_LR_FACTOR": "biases learn like weights; use SOLVER.BASE_LR and CLIP_MULTIPLIER",
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "one norm over all parameters is clipped; expected full_model",
    "SOLVER.REFERENCE_WORLD_SIZE": "nothing is scaled by the number of processes; set IMS_PER_BATCH, BASE_LR and MAX_ITER",
    "TEST.AUG": "every system resizes an image to what its CLIP takes, so another size of it shows the same; use TEST.AUG.ZOOMS",
    "TEST.PRECISE_BN": "no part of the model has batch norm; remove it",
    "VIS_PERIOD": "use tools/visualize.py",
}
"""What to use instead of Detectron2's keys that nothing reads; the longest beginning counts."""

Options = TypeVar("Options")
Bounds = tuple[float, float]
POSITIVE, NOT_NEGATIVE, SHARE, ANY = (1, math.inf), (0, math.inf), (0, 1), (-math.inf, math.inf)
ENDLESS = ("SOLVER.CLIP_GRADIENTS.NORM_TYPE",)
"""Numbers that may be infinite."""


@dataclass(frozen=True)
class KeyRules:
    """What is known of some keys."""

    reads: tuple[str, ...] = ()  # of Detectron2's; setting any other does nothing, and is refused
    inputs: tuple[str, ...] = ()  # name files or folders to read, or a model in another way
    outputs: tuple[str, ...] = ()  # name files or folders to write
    names: tuple[str, ...] = ()  # lists of texts whose default is empty
    bounds: Mapping[str, Bounds] = field(default_factory=dict)  # of a number, or entries of a list
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # if nothing else checks
    lengths: Mapping[str, int] = field(default_factory=dict)  # how many entries a list has
    not_negative: bool = False  # whether all other numbers have to be 0 or more

    def expected(self, key: str, value: Any) -> str:
        """What is expected instead of a value of the right type; "" where it is allowed."""
        values = value if isinstance(value, list | tuple) else [value]
        numbers = [number for number in values if type(number) in (int, float)]
        low, high = self.bounds.get(key, ANY)
        if len(values) != self.lengths.get(key, len(values)):
            return f"{self.lengths[key]} entries"
        if key in self.choices and not set(values) <= set(self.choices[key]):
            some = "one" if values == [value] else "a list of some"
            return f"{some} of {list(self.choices[key])}"
        if key in self.bounds and key not in ENDLESS and not all(map(math.isfinite, numbers)):
            return "a finite number"
        if all(low <= number <= high for number in numbers):
            return ""
        return f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"

    def require(self, section: str, values: Mapping[str, Any]) -> None:
        """ValueError for a value that the package's own key of its name in a section, such as
        "MODEL.CLIPER.", may not have. The names may be in small letters, as fields of options are.
        """
        usual = NOT_NEGATIVE if self.not_negative else ANY
        for name, value in values.items():
            key = section + name.upper()
            rules = replace(self, bounds={key: usual, **self.bounds})
            if expected := rules.expected(key, value):
                raise ValueError(f"{key}: got {value!r}, expected {expected}")


_HEAD = "MODEL.SEM_SEG_HEAD."

FRAMEWORK = KeyRules(
    reads=(
        "VERSION", "OUTPUT_DIR", "SEED", "CUDNN_BENCHMARK",
        "MODEL.DEVICE", "MODEL.META_ARCHITECTURE", "MODEL.WEIGHTS",
        "MODEL.SEM_SEG_HEAD.NAME", "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
        "INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "INPUT.MAX_SIZE_TRAIN", "INPUT.MIN_SIZE_TEST",
        "INPUT.MAX_SIZE_TEST", "INPUT.RANDOM_FLIP", "INPUT.CROP.ENABLED", "INPUT.CROP.TYPE", "INPUT.CROP.SIZE", "INPUT.FORMAT",
        "DATASETS.TRAIN", "DATASETS.TEST",
        "DATALOADER.NUM_WORKERS", "DATALOADER.ASPECT_RATIO_GROUPING",
        "SOLVER.LR_SCHEDULER_NAME", "SOLVER.MAX_ITER", "SOLVER.BASE_LR", "SOLVER.BASE_LR_END", "SOLVER.MOMENTUM",
        "SOLVER.NESTEROV", "SOLVER.WEIGHT_DECAY", "SOLVER.WEIGHT_DECAY_NORM", "SOLVER.GAMMA", "SOLVER.STEPS",
        "SOLVER.NUM_DECAYS", "SOLVER.WARMUP_FACTOR", "SOLVER.WARMUP_ITERS", "SOLVER.WARMUP_METHOD", "SOLVER.RESCALE_INTERVAL",
        "SOLVER.CHECKPOINT_PERIOD", "SOLVER.IMS_PER_BATCH", "SOLVER.AMP.ENABLED",
        "SOLVER.CLIP_GRADIENTS.ENABLED", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "SOLVER.CLIP_GRADIENTS.NORM_TYPE",
        "TEST.EXPECTED_RESULTS", "TEST.EVAL_PERIOD", "TEST.AUG.ENABLED", "TEST.AUG.FLIP",
    ),
    inputs=(
        "MODEL.WEIGHTS", "MODEL.CLIP_WEIGHTS", _HEAD + "CLIP_PRETRAINED", _HEAD + "TRAIN_CLASS_JSON", _HEAD + "TEST_CLASS_JSON",
        "DATASETS.FILES", "MODEL.ENSEMBLE.CONFIGS", "TEST.BANK.FILE", "TEST.EXAMPLES.FOLDER", "TEST.REGIONS.FOLDER", "TEST.REGIONS.MODEL",
    ),
    outputs=("OUTPUT_DIR",),
    names=(
        "IMPORTS", "DATASETS.TRAIN", "DATASETS.TEST", "DATASETS.FILES",
        "MODEL.CHECKPOINT_ACTIVATIONS", "MODEL.ADAPTER.PROJECTIONS", "MODEL.ENSEMBLE.CONFIGS",
    ),
    bounds={
        **dict.fromkeys([_HEAD + key for key in (
            "NUM_CLASSES", "TEXT_GUIDANCE_PROJ_DIM", "APPEARANCE_GUIDANCE_PROJ_DIM", "DECODER_DIMS", "DECODER_GUIDANCE_DIMS",
            "DECODER_GUIDANCE_PROJ_DIMS", "NUM_LAYERS", "NUM_HEADS", "HIDDEN_DIMS", "POOLING_SIZES", "POOLING_SIZES_TEST",
            "FEATURE_RESOLUTION", "WINDOW_SIZES",
        )], POSITIVE),
        **dict.fromkeys((
            "MODEL.ADAPTER.BLOCK_SIZE", "MODEL.ADAPTER.CONTEXT_DIM", "INPUT.MIN_SIZE_TRAIN", "INPUT.MAX_SIZE_TRAIN", "INPUT.MAX_SIZE_TEST",
            "SOLVER.MAX_ITER", "SOLVER.IMS_PER_BATCH", "SOLVER.MICRO_BATCHES", "SOLVER.LOG_PERIOD",
            "TEST.IMS_PER_BATCH", "TEST.SLIDING.SIZE", "TEST.SLIDING.KERNEL",
            "TEST.REFINER.GUIDED.MAX_SIZE", "TEST.REFINER.GUIDED.SUBSAMPLE",
            "TEST.BANK.NEIGHBOURS", "TEST.BANK.CELLS", "TEST.REGIONS.SUPERPIXELS.NUMBER", "TEST.REGIONS.MASKS.POINTS", "TEST.REGIONS.MASKS.BATCH",
        ), POSITIVE),
        **dict.fromkeys((
            "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", "DATALOADER.MAX_FAULTY_SHARE", "SOLVER.MOMENTUM", "SOLVER.EMA_DECAY",
            "TEST.BACKGROUND_THRESHOLD", "TEST.PRUNE", "TEST.BANK.MIX", "TEST.REFINER.GUIDED.RADIUS", "TEST.REGIONS.MASKS.IOU", "TEST.REGIONS.MASKS.STABILITY",
            "TEST.REGIONS.MASKS.DUPLICATES", "TEST.REGIONS.MASKS.SCORE",
        ), SHARE),
        **dict.fromkeys(("SEED", "MODEL.CLIP_PIXEL_MEAN"), ANY),
        **dict.fromkeys(("TEST.REGIONS.TEMPERATURE", "TEST.REGIONS.SUPERPIXELS.COMPACTNESS"), (1e-6, math.inf)),
        **dict.fromkeys(("MODEL.CLIP_PIXEL_STD", "INPUT.CROP.SIZE"), (1e-6, math.inf)),
        **dict.fromkeys(("MODEL.ADAPTER.CURVATURE_TEXT", "INPUT.SIZE_DIVISIBILITY"), (-1, math.inf)),
    },
    choices={
        _HEAD + "ATTENTION_TYPE": ("linear", "full"),
        _HEAD + "LOSS": ("binary", "softmax"),
        "MODEL.CHECKPOINT_ACTIVATIONS": ("text", "image", "head"),
        "INPUT.FORMAT": ("RGB",),  # which CLIP was trained on
        "INPUT.DATASET_MAPPER_NAME": ("mask_former_semantic",),
        "INPUT.CROP.TYPE": ("absolute", "absolute_range", "relative", "relative_range"),
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
        "INPUT.RANDOM_FLIP": ("none", "horizontal", "vertical"),
        "SOLVER.OPTIMIZER": ("ADAMW", "SGD"),
        "SOLVER.LR_SCHEDULER_NAME": ("WarmupCosineLR", "WarmupPolyLR", "WarmupMultiStepLR", "WarmupStepWithFixedGammaLR"),
        "SOLVER.WARMUP_METHOD": ("linear", "constant"),
        "TEST.ASK": ("all", "present"),
        "TEST.REGIONS.RULE": ("mean", "majority", "attention"),
        "TEST.BACKGROUND": ("dataset", "none", "threshold", "words", "other"),
        "WANDB.MODE": ("online", "offline"),
    },
    lengths={
        "MODEL.CLIP_PIXEL_MEAN": 3, "MODEL.CLIP_PIXEL_STD": 3, "INPUT.CROP.SIZE": 2, _HEAD + "FEATURE_RESOLUTION": 2,
        _HEAD + "POOLING_SIZES": 2, _HEAD + "POOLING_SIZES_TEST": 2, _HEAD + "DECODER_DIMS": 2,
        _HEAD + "DECODER_GUIDANCE_DIMS": 2, _HEAD + "DECODER_GUIDANCE_PROJ_DIMS": 2,
    },
    not_negative=True,
)  # fmt: skip
"""Rules of the framework's own keys, and of Detectron2's that it reads."""


def unread_advice(key: str) -> str:
    """What to use instead of one of Detectron2's keys that nothing reads."""
    fitting = [prefix for prefix in UNREAD if f"{key}.".startswith(f"{prefix}.")]
    usual = "it belongs to Detectron2's detectors; remove it"
    return UNREAD[max(fitting, key=len)] if fitting else usual


def options_of(kind: type[Options], node: CfgNode, **given: Any) -> Options:
    """Options whose fields are a node's keys in lower case, but for those that are given."""
    names = [field.name for field in fields(kind) if field.name not in given]  # type: ignore[arg-type]
    values = {name: getattr(node, name.upper()) for name in names}
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}, **given)
