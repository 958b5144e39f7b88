"""Every configuration key of the framework, with its default and meaning.

Keys that CAT-Seg and HyperCLIP already had keep their names; keys that were hard-coded there are
new. The defaults are those of HyperCLIP with ViT-B/16.
"""

from __future__ import annotations

from ..runtime import detectron2  # noqa: F401  (first, see there)

# isort: split
import copy
import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg

from ..runtime.files import user_path
from .files import Layer, command_line_layer, key_faults, read_layers
from .rules import (
    ANY,
    FRAMEWORK,
    LEGACY,
    LEGACY_VALUES,
    NOT_NEGATIVE,
    Bounds,
    KeyRules,
    unread_advice,
)
from .values import convert, locate, out_of_bounds, shown

__all__ = ["LEGACY", "KeyRules", "add_hyperclip_config", "extend_config", "load_config"]

REGISTERING = ("hyperclip.adapters", "hyperclip.meta_arch", "hyperclip.data.catalog")
"""Modules that register what a config can name, each on a floor above this one: they are imported
by name when a config is made, as plug-ins are."""

_EXTENSIONS: dict[Callable[[CfgNode], None], KeyRules] = {}


def extend_config(add_keys: Callable[[CfgNode], None], rules: KeyRules | None = None) -> None:
    """Have :func:`load_config` add another package's keys too.

    Args:
        add_keys: ``add_keys(cfg)`` adds them with their defaults.
        rules: which keys of Detectron2 the package reads, which of its own are paths, what numbers
            are allowed.
    """
    _EXTENSIONS.setdefault(add_keys, rules or KeyRules())


def add_hyperclip_config(cfg: CfgNode) -> None:
    """Add the framework's keys to a Detectron2 config, in place, and register what they can name:
    HyperCLIP, its heads and adapters, the datasets.
    """
    for module in REGISTERING:
        importlib.import_module(module)
    # Start a training anew in an OUTPUT_DIR that holds one, whose files are removed when the first
    # iteration begins.
    cfg.OVERWRITE = False
    # Modules of your own to import first: what they register (systems, adapters, refiners, keys)
    # can be named here.
    cfg.IMPORTS = []
    cfg.MODEL.META_ARCHITECTURE = "HyperCLIP"
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    # Where CLIP's weights come from: "" = those that CLIP_PRETRAINED names; "none" = random; a tag;
    # a local file. Not loaded when MODEL.WEIGHTS is set, since a checkpoint holds the whole model;
    # they still say the activation.
    cfg.MODEL.CLIP_WEIGHTS = ""
    # gelu or quick_gelu, for weights that do not say what they were trained with
    cfg.MODEL.CLIP_ACTIVATION = "auto"
    # Sentences around a class name: single, scene (15), imagenet_select (8) or imagenet (80).
    cfg.MODEL.PROMPT_ENSEMBLE_TYPE = "single"
    # Synonyms of a class: "first" uses its first name (as released), "mean" averages the embeddings
    # of all, "max" lets a class score what its best synonym scores (evaluation only). Of typed
    # vocabularies all are used: "first" is "mean" there.
    cfg.MODEL.SYNONYMS = "first"
    # Normalisation of CLIP's input, RGB, 0..255.
    cfg.MODEL.CLIP_PIXEL_MEAN = [122.7709383, 116.7460125, 104.09373615]
    cfg.MODEL.CLIP_PIXEL_STD = [68.5005327, 66.6321579, 70.3231630]
    # Parts whose activations are computed again in the backward pass, of "text", "image" (CLIP's
    # towers) and "head": less memory in training for more time, the same gradient.
    cfg.MODEL.CHECKPOINT_ACTIVATIONS = []
    # compile the head with this backend of torch.compile, "inductor" say; "" = no
    cfg.MODEL.COMPILE_HEAD = ""
    cfg.MODEL.MASK_FORMER = CfgNode()
    # Whole-image inference: pad to multiples of this before squashing. 0 (our default) does not
    # pad; 32 reproduces the released code, which leaves the padding in and so shifts its masks.
    cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY = 0

    _add_head_keys(cfg)
    _add_adapter_keys(cfg)
    _add_input_and_test_keys(cfg)
    _add_solver_keys(cfg)
    _add_wandb_keys(cfg)


def _add_head_keys(cfg: CfgNode) -> None:
    head = cfg.MODEL.SEM_SEG_HEAD
    head.NAME = "CostVolumeHead"  # or CosineHead: dense CLIP without a head
    # of the training set; checked against it, the head itself works for any number
    head.NUM_CLASSES = 171
    head.IGNORE_VALUE = 255  # label of pixels without a class
    # class names in training: a file or a built-in list; "" = those of the training set
    head.TRAIN_CLASS_JSON = ""
    head.TEST_CLASS_JSON = ""  # class names in evaluation, likewise; "" = those of each test set
    # OpenAI name, open_clip name[:tag], hf-hub:id, or a local model folder
    head.CLIP_PRETRAINED = "ViT-B/16"
    # What trains in CLIP: hyperbolic, relations (HyperCLIP++), rotation, lora, attention (q and v,
    # CAT-Seg), several of them joined by "+" (hyperbolic+rotation is HyRo), full, none, or an
    # adapter of your own.
    head.CLIP_FINETUNE = "hyperbolic"
    # blocks (0-based) whose outputs guide the decoder: at 1/3 and 2/3 of the depth
    head.CLIP_LAYERS = [3, 7]
    head.TEXT_GUIDANCE_DIM = 0  # CLIP's embedding width; 0 = taken from CLIP
    head.APPEARANCE_GUIDANCE_DIM = 0  # CLIP's embedding width; 0 = taken from CLIP
    head.TEXT_GUIDANCE_PROJ_DIM = 128  # text guidance is projected to this many channels
    head.APPEARANCE_GUIDANCE_PROJ_DIM = 128  # image guidance is projected to this many channels
    head.DECODER_DIMS = [64, 32]  # output channels of the two decoder stages
    head.DECODER_GUIDANCE_DIMS = [256, 128]  # channels of the upsampled intermediate maps
    head.DECODER_GUIDANCE_PROJ_DIMS = [32, 16]  # and what they are projected to
    head.NUM_LAYERS = 2  # aggregation layers
    head.NUM_HEADS = 4  # attention heads of the aggregation
    head.HIDDEN_DIMS = 128  # channels of the cost embedding
    head.POOLING_SIZES = [2, 2]  # average pooling before class attention, in training
    # the same in evaluation (the released scripts override it on the command line)
    head.POOLING_SIZES_TEST = [1, 1]
    head.FEATURE_RESOLUTION = [24, 24]  # patch grid; CLIP's input is this times the patch size
    head.WINDOW_SIZES = 12  # window of the spatial attention, in patches
    head.ATTENTION_TYPE = "linear"  # attention across classes: linear or full
    head.PAD_LEN = 256  # class attention is padded to this many classes; 0 = no padding
    # training: the classes in the batch plus random others up to this number; 0 = all
    head.SAMPLED_CLASSES = 0
    head.MAX_CLASSES = 256  # aggregate only this many classes of each view, the best ones; 0 = all


def _add_adapter_keys(cfg: CfgNode) -> None:
    cfg.MODEL.ADAPTER = CfgNode()
    cfg.MODEL.ADAPTER.ENCODERS = ["vision", "text"]  # which towers are adapted
    # Which projections are adapted, of "q", "k", "v" and, by relations alone, "out". [] = as
    # released: q and v by attention, all four by relations, q, k and v by the others.
    cfg.MODEL.ADAPTER.PROJECTIONS = []
    cfg.MODEL.ADAPTER.BLOCK_SIZE = 128  # side of the diagonal blocks
    cfg.MODEL.ADAPTER.BLOCK_SIZE_TEXT = 0  # the same for the text tower; 0 = BLOCK_SIZE
    # curvature magnitude of the ball, image tower (as released)
    cfg.MODEL.ADAPTER.CURVATURE_VISION = 0.01
    # the same, text tower; -1 = as released: 0.01 for relations, else 1.0
    cfg.MODEL.ADAPTER.CURVATURE_TEXT = -1.0
    cfg.MODEL.ADAPTER.RANK = 8  # of lora
    cfg.MODEL.ADAPTER.ALPHA = 8.0  # lora's updates are scaled by ALPHA / RANK
    # evaluate the hyperbolic maps instead of the equal block product: slow
    cfg.MODEL.ADAPTER.LITERAL = False


def _add_input_and_test_keys(cfg: CfgNode) -> None:
    cfg.INPUT.FORMAT = "RGB"
    # the only one; the name is the released one
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_semantic"
    cfg.INPUT.COLOR_AUG_SSD = False  # SSD's colour jitter
    # pad or crop training images to exactly this size; -1 = leave them
    cfg.INPUT.SIZE_DIVISIBILITY = -1
    # significant bits of images of 16 bits a channel, 12 say, unless the dataset says it; 0 = all
    cfg.INPUT.IMAGE_BITS = 0
    # refuse larger images, unless the dataset says it; 0 = Pillow's limit, about 179 million
    cfg.INPUT.MAX_PIXELS = 0
    # retry a crop in which one class covers more than this; 1.0 = never
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    # unreadable training images are skipped up to this share; 0 = none is
    cfg.DATALOADER.MAX_FAULTY_SHARE = 0.01

    cfg.DATASETS.FILES = []  # YAML files that describe datasets of your own, see datasets/README.md

    # class lists in evaluation: catseg (also HyperCLIP's), cliper, clean
    cfg.TEST.VOCABULARY = "catseg"
    # HyperCLIP on sets with a background: best scores below it are background
    cfg.TEST.BACKGROUND_THRESHOLD = 0.5
    # While training, model_best.pth is the one with the best mean of this score over the test sets,
    # or of DATASET/SCORE.
    cfg.TEST.BEST_METRIC = "mIoU"
    cfg.TEST.BOUNDARY_IOU = False  # also compute the Boundary IoU (on the CPU)
    cfg.TEST.PER_IMAGE_RESULTS = False  # write the scores of each image to OUTPUT_DIR/per_image
    cfg.TEST.SLIDING_WINDOW = False  # windows plus a global view, or the whole image alone
    cfg.TEST.SLIDING = CfgNode()
    cfg.TEST.SLIDING.SIZE = 640  # side of the square that the image is squashed to
    cfg.TEST.SLIDING.KERNEL = 384  # side of a window in that square
    cfg.TEST.SLIDING.OVERLAP = 0.333  # share of a window that its neighbour covers again
    cfg.TEST.SLIDING.GLOBAL_VIEW = True  # average the windows with a view of the whole image
    # Of every evaluation and of the predictor: float32, or tf32, which is faster on GPUs that have
    # it and less exact. A system may have a key of its own for float16. Results name it.
    cfg.TEST.PRECISION = "float32"
    # class maps handled at a time; 0 = what the caches of a CPU's cores or a GPU's free memory take
    cfg.TEST.CLASS_CHUNK = 0
    cfg.TEST.IMS_PER_BATCH = 1  # images of one evaluation step and process


def _add_solver_keys(cfg: CfgNode) -> None:
    cfg.SOLVER.OPTIMIZER = "ADAMW"  # ADAMW or SGD
    cfg.SOLVER.CLIP_MULTIPLIER = 0.075  # learning rate of CLIP's parameters relative to BASE_LR
    cfg.SOLVER.LOG_PERIOD = 20  # iterations between two lines of metrics
    # Warn after every so many iterations if the median loss of the latest half of them is not below
    # that of the first half period; 0 = never.
    cfg.SOLVER.WATCH_PERIOD = 1000
    # Of the forward pass: auto (bfloat16 on GPUs that have it, else float32), float32, bfloat16,
    # float16. Weights, the optimiser and the loss stay in float32. Detectron2's AMP.ENABLED True is
    # float16.
    cfg.SOLVER.PRECISION = "auto"
    # on GPUs, training multiplies float32 numbers in TF32; evaluations follow TEST.PRECISION
    cfg.SOLVER.TF32 = True
    # run the batch of a process in so many parts: less memory, the same gradient
    cfg.SOLVER.MICRO_BATCHES = 1
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0  # weight decay of embeddings
    cfg.SOLVER.BASE_LR = 2e-4
    cfg.SOLVER.WEIGHT_DECAY = 1e-4
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    # weight decay pulls adapters to the identity that they start at, not to zero
    cfg.SOLVER.DECAY_TO_IDENTITY = False
    # evaluate an exponential moving average of the weights, 0.999 say; 0 = the weights themselves
    cfg.SOLVER.EMA_DECAY = 0.0
    # how many of the checkpoints written every CHECKPOINT_PERIOD are kept; 0 = all
    cfg.SOLVER.CHECKPOINT_KEEP = 3
    # or WarmupPolyLR, WarmupMultiStepLR, WarmupStepWithFixedGammaLR
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
    cfg.SOLVER.POLY_LR_POWER = 0.9  # of WarmupPolyLR
    # WarmupPolyLR stays at this share of the learning rate once it is reached
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0
    cfg.SOLVER.WARMUP_FACTOR = 1.0
    cfg.SOLVER.WARMUP_ITERS = 0
    # CLIP_TYPE "full_model": one norm over all trainable parameters, as released.
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.01
    cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = 2.0


def _add_wandb_keys(cfg: CfgNode) -> None:
    cfg.WANDB = CfgNode()
    cfg.WANDB.PROJECT = ""  # also send the metrics to this project of Weights & Biases; "" = no
    cfg.WANDB.NAME = ""  # of the run; "" = the name of OUTPUT_DIR
    cfg.WANDB.MODE = "online"  # online, or offline: files that "wandb sync" sends later


def load_config(path: str | Path, overrides: Sequence[Any] = ()) -> CfgNode:
    """Read a config file and command-line overrides (KEY VALUE …) on top of the defaults.

    Relative paths of models, weights and class lists in a file are relative to that file, to the
    working folder, or to the repository: the first that is there counts. ``~`` is the home folder.

    Raises:
        FileNotFoundError: no such file, or no such _BASE_.
        ValueError: all that is wrong at once, in one line: legacy and unknown keys (the nearest
            valid ones are named), keys that nothing reads, values of the wrong type or out of
            range; or what :func:`read_layers` raises.
    """
    layers, missing = read_layers(path)
    layers.append(command_line_layer(overrides))
    import_plugins(layers)
    cfg, known = get_cfg(), _Known()
    foreign = list(_flat_keys(cfg))
    known.add(add_hyperclip_config, FRAMEWORK, cfg)
    for add_keys, rules in _EXTENSIONS.items():
        known.add(add_keys, rules, cfg)
    defaults = dict(_flat_items(cfg))
    values, faults = _merge(layers, defaults, known)
    unread = [key for key in foreign if key not in known.reads]
    for key, (value, where) in values.items():
        if key in unread and not _same(value, defaults[key]):
            faults.append(f"config key {key} ({where}) does nothing here: {unread_advice(key)}")
        if isinstance(value, str) and (key, value) in LEGACY_VALUES:
            faults.append(f"config key {key} ({where}): got {value!r}, {LEGACY_VALUES[key, value]}")
        _set(cfg, key, value)
    faults += _together(cfg)
    if not faults and missing:
        raise FileNotFoundError(missing[0])
    faults += missing
    if faults:
        raise ValueError(
            faults[0]
            if len(faults) == 1
            else f"{len(faults)} faults in the config: " + "; ".join(faults)
        )
    return cfg


def import_plugins(layers: Sequence[Layer]) -> None:
    """Import what IMPORTS names, so that its keys are known before any key is looked at.

    Raises:
        ValueError: a module that Python does not find, or that cannot be imported.
    """
    given, where = next(
        (
            (layer.values["IMPORTS"], layer.where)
            for layer in reversed(layers)
            if "IMPORTS" in layer.values
        ),
        ([], ""),
    )
    try:
        names = convert(given, [], texts=True)
    except ValueError:  # no list of names: that is said of any key
        return
    for name in names:
        try:
            importlib.import_module(name)
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"config key IMPORTS ({where}): got {name!r}, which cannot be imported ({error}). "
                "Expected modules in a folder of PYTHONPATH, or installed ones"
            ) from error


class _Known:
    """The rules of all packages together."""

    def __init__(self) -> None:
        self.reads: set[str] = set()
        self.inputs: set[str] = set()
        self.outputs: set[str] = set()
        self.names: set[str] = set()
        self.bounds: dict[str, Bounds] = {}
        self.choices: dict[str, tuple[str, ...]] = {}
        self.lengths: dict[str, int] = {}

    def expected(self, key: str, value: Any) -> str:
        """What is expected of a value of the right type that is not allowed; "" of any other."""
        if key in self.lengths and len(value) != self.lengths[key]:
            return f"{self.lengths[key]} entries"
        if key in self.choices and value not in self.choices[key]:
            return f"one of {list(self.choices[key])}"
        return out_of_bounds(key, value, self.bounds[key]) if key in self.bounds else ""

    def add(self, add_keys: Callable[[CfgNode], None], rules: KeyRules, cfg: CfgNode) -> None:
        """Add a package's keys to a config, and its rules to these."""
        before = set(_flat_keys(cfg))
        add_keys(cfg)
        own = {*rules.reads, *(key for key in _flat_keys(cfg) if key not in before)}
        self.reads.update(rules.reads)
        self.inputs.update(rules.inputs)
        self.outputs.update(rules.outputs)
        self.names.update(rules.names)
        self.choices |= rules.choices
        self.lengths |= rules.lengths
        self.bounds |= dict.fromkeys(own, NOT_NEGATIVE if rules.not_negative else ANY) | dict(
            rules.bounds
        )


def _merge(
    layers: Sequence[Layer], defaults: Mapping[str, Any], known: _Known
) -> tuple[dict[str, tuple[Any, str]], list[str]]:
    """The value of each key that is set, with where, and what is wrong with the others."""
    values: dict[str, tuple[Any, str]] = {}
    faults: list[str] = []
    for layer in layers:
        meaningless = dict(key_faults(layer, list(defaults)))
        faults += filter(None, meaningless.values())
        for key, given in layer.values.items():
            if key in meaningless:
                continue
            try:
                value = convert(given, defaults[key], key in known.names)
                expected = known.expected(key, value)
            except ValueError as error:
                expected = str(error)
            if expected:
                faults.append(
                    f"config key {key} ({layer.where}): got {shown(given)}, expected {expected}"
                )
            else:
                values[key] = _path(key, value, layer, known), layer.where
    return values, faults


def _path(key: str, value: Any, layer: Layer, known: _Known) -> Any:
    """A value, made a path if the key holds one."""
    if key in known.outputs:
        return str(user_path(value)) if value.startswith("~") else value
    if key in known.inputs:
        return (
            [locate(v, layer.folder) for v in value]
            if isinstance(value, list)
            else locate(value, layer.folder)
        )
    return value


def _same(value: Any, default: Any) -> bool:
    """Whether two values are equal where a tuple and a list, which YAML cannot tell apart, are the
    same.
    """
    return json.dumps(value, default=str) == json.dumps(default, default=str)


def _together(cfg: CfgNode) -> Iterator[str]:
    """What is wrong with values that are right by themselves."""
    sizes, sampling = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    if not sizes or (sampling == "range" and (len(sizes) != 2 or sizes[0] > sizes[1])):
        yield (
            f"config key INPUT.MIN_SIZE_TRAIN: got {list(sizes)} with MIN_SIZE_TRAIN_SAMPLING "
            f"{sampling!r}, expected one or more sizes for 'choice', and the smallest and the "
            "largest for 'range'"
        )
    if (
        cfg.INPUT.CROP.TYPE.startswith("relative")
        and cfg.INPUT.CROP.ENABLED
        and max(cfg.INPUT.CROP.SIZE) > 1
    ):
        yield (
            f"config key INPUT.CROP.SIZE: got {list(cfg.INPUT.CROP.SIZE)} with TYPE "
            f"{cfg.INPUT.CROP.TYPE!r}, expected 0 to 1"
        )
    if cfg.SOLVER.BASE_LR_END > cfg.SOLVER.BASE_LR:
        yield (
            f"config key SOLVER.BASE_LR_END: got {cfg.SOLVER.BASE_LR_END}, expected at most "
            f"BASE_LR {cfg.SOLVER.BASE_LR}"
        )


def _set(cfg: CfgNode, key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        cfg = cfg[section]
    cfg[name] = copy.deepcopy(value)


def _flat_items(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in cfg.items():
        if isinstance(value, CfgNode) and value:
            yield from _flat_items(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _flat_keys(cfg: CfgNode) -> Iterator[str]:
    return (key for key, _ in _flat_items(cfg))


def flat_config(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Keys with dots, and values, of a config as plain dicts."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat_config(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def input_keys() -> tuple[str, ...]:
    """Keys of all packages that name files or folders to read, or a model in another way."""
    return (*FRAMEWORK.inputs, *(key for rules in _EXTENSIONS.values() for key in rules.inputs))


def output_keys() -> tuple[str, ...]:
    """Keys of all packages that name files or folders to write: they change no result."""
    return (*FRAMEWORK.outputs, *(key for rules in _EXTENSIONS.values() for key in rules.outputs))
