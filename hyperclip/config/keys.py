"""Every configuration key of the framework, with its default and meaning, and how they are loaded.

Keys that CAT-Seg and HyperCLIP already had keep their names; keys that were hard-coded there are
new. The defaults are those of HyperCLIP with ViT-B/16. "Off" is 0 for a number, "" for a text,
"none" for a choice and [] for a list; -1 is "as elsewhere" where 0 is a value like any other.
"""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import contextlib
import dataclasses
import functools
import importlib
import json
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg

from ..labels import IGNORE
from ..normalization import CLIP_MEAN, CLIP_STD
from ..runtime.files import user_path
from ..runtime.precision import EXACT
from .config_files import Layer, command_line_layer, flat_config, key_faults, read_layers
from .key_rules import ANY, FRAMEWORK, LEGACY_VALUES, NOT_NEGATIVE, KeyRules, unread_advice
from .value_parsing import convert, locate, shown

REGISTERING = (
    "hyperclip.adapters",
    "hyperclip.meta_arch",
    "hyperclip.stages",
    "hyperclip.stages.proposers",
    "hyperclip.ensemble",
    "hyperclip.data.detectron2_catalog",
)
"""Modules that register what a config can name, each on a floor above this one: they are imported
by name when a config is made, as plug-ins are."""


def add_hyperclip_config(cfg: CfgNode) -> None:
    """Add the framework's keys to a Detectron2 config, in place, and register what they can name:
    HyperCLIP, its heads and adapters, the datasets.
    """
    for module in REGISTERING:
        importlib.import_module(module)
    cfg.OVERWRITE = False  # start anew in an OUTPUT_DIR that holds a training, whose files then go
    cfg.IMPORTS = []  # modules of your own to import first: what they register can be named here
    _add_model_keys(cfg.MODEL)
    _add_head_keys(cfg.MODEL.SEM_SEG_HEAD)
    _add_adapter_keys(cfg.MODEL)
    _add_data_keys(cfg)
    _add_test_keys(cfg.TEST)
    _add_stage_keys(cfg.TEST)
    _add_solver_keys(cfg.SOLVER)
    cfg.WANDB = CfgNode()
    cfg.WANDB.PROJECT = ""  # also send the metrics to this project of Weights & Biases; "" = no
    cfg.WANDB.NAME = ""  # of the run; "" = the name of OUTPUT_DIR
    cfg.WANDB.MODE = "online"  # online, or offline: files that "wandb sync" sends later


def _add_model_keys(model: CfgNode) -> None:
    model.META_ARCHITECTURE = "HyperCLIP"
    model.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    # CLIP's weights: "" = those of CLIP_PRETRAINED; "none" = random; a tag; a local file. Not read
    # when MODEL.WEIGHTS is set, which holds the whole model; they still say the activation.
    model.CLIP_WEIGHTS = ""
    model.CLIP_ACTIVATION = "auto"  # or gelu, quick_gelu, for weights that do not say theirs
    # sentences around a class name: single, scene (15), imagenet_select (8), imagenet (80), or none
    # of them, name
    model.PROMPT_ENSEMBLE_TYPE = "single"
    # Of a class: "first" uses its first name (as released), "mean" the mean embedding of all, "max"
    # the best score of all (evaluation only). For typed vocabularies, "first" is "mean".
    model.SYNONYMS = "first"
    # of CLIP's input, RGB, 0..255; with these defaults a tower trained with others has its own
    model.CLIP_PIXEL_MEAN = list(CLIP_MEAN)
    model.CLIP_PIXEL_STD = list(CLIP_STD)
    # of "text", "image" (CLIP's towers), "head": compute their activations again in the backward
    # pass, which takes less memory, more time and gives the same gradient
    model.CHECKPOINT_ACTIVATIONS = []
    model.COMPILE_HEAD = ""  # backend of torch.compile for the head, "inductor" say; "" = no
    model.ENSEMBLE = CfgNode()  # of META_ARCHITECTURE Ensemble
    model.ENSEMBLE.CONFIGS = []  # config files of its members, two or more
    model.ENSEMBLE.WEIGHTS = []  # of their scores, [2.0, 1.0] say; [] = equal ones
    model.MASK_FORMER = CfgNode()
    # pad whole images to multiples of this before squashing (released: 32, which shifts masks)
    model.MASK_FORMER.SIZE_DIVISIBILITY = 0


def _add_head_keys(head: CfgNode) -> None:
    head.NAME = "CostVolumeHead"  # or CosineHead: dense CLIP without a head
    # binary, each class against the rest of a pixel (as released), or softmax, one of the classes
    # asked or none; it says what the scores are, too
    head.LOSS = "binary"
    # add to the logits (CosineHead: take as the logits) cosine times a trained scale plus a bias
    head.SCALED_COSINE = False
    # of the training set, of several the largest number, checked against it; the head takes any
    head.NUM_CLASSES = 171
    # label of pixels without a class, checked against the training set; of several class lists one
    # has to have it, and each keeps its own
    head.IGNORE_VALUE = IGNORE
    head.TRAIN_CLASS_JSON = ""  # class names in training: a file, a built-in list; "" = the set's
    head.TEST_CLASS_JSON = ""  # class names in evaluation, likewise; "" = those of each test set
    head.CLIP_PRETRAINED = "ViT-B/16"  # OpenAI or open_clip name[:tag], hf-hub:id, or local folder
    # what trains in CLIP: full, none, or several, joined by "+", of hyperbolic, rotation, relations
    # (HyperCLIP++), lora, attention (q and v, CAT-Seg), your own; hyperbolic+rotation is HyRo. In
    # image towers of packages also context (what surrounds a cell) and stages (the last ones)
    head.CLIP_FINETUNE = "hyperbolic"
    # blocks (or stages) whose outputs guide the decoder: 1/3 and 2/3 of the depth
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
    head.POOLING_SIZES_TEST = [1, 1]  # the same in evaluation (released: on the command line)
    head.FEATURE_RESOLUTION = [24, 24]  # grid of embeddings; CLIP's input is this times the patch
    head.WINDOW_SIZES = 12  # window of the spatial attention, in patches
    head.ATTENTION_TYPE = "linear"  # attention across classes: linear or full
    head.PAD_LEN = 256  # class attention is padded to this many classes; 0 = no padding
    head.SAMPLED_CLASSES = 0  # in training: the batch's classes and random others, so many; 0 = all
    head.MAX_CLASSES = 256  # aggregate only this many classes of each view, the best ones; 0 = all


def _add_adapter_keys(model: CfgNode) -> None:
    model.ADAPTER = adapter = CfgNode()
    adapter.ENCODERS = ["vision", "text"]  # which towers are adapted
    # of "q", "k", "v" and, by relations alone, "out"; [] = as released: q and v by attention, all
    # four by relations, q, k and v by the others
    adapter.PROJECTIONS = []
    adapter.BLOCK_SIZE = 128  # side of the diagonal blocks
    adapter.BLOCK_SIZE_TEXT = 0  # the same for the text tower; 0 = BLOCK_SIZE
    adapter.CURVATURE_VISION = 0.01  # curvature magnitude of the ball, image tower (as released)
    adapter.CURVATURE_TEXT = -1.0  # of the text tower; -1 = 0.01 for relations, else 1.0 (released)
    adapter.RANK = 8  # of lora
    adapter.ALPHA = 8.0  # lora's updates are scaled by ALPHA / RANK
    adapter.CONTEXT_DIM = 512  # hidden units of context
    adapter.MERGED = False  # MODEL.WEIGHTS has them merged into CLIP's weights: attach none
    adapter.LITERAL = False  # evaluate the hyperbolic maps, not the equal block product: slow


def _add_data_keys(cfg: CfgNode) -> None:
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_semantic"  # the only one, by its released name
    cfg.INPUT.COLOR_AUG_SSD = False  # SSD's colour jitter
    cfg.INPUT.SIZE_DIVISIBILITY = -1  # pad or crop training images to this size; -1, 0 = do not
    # of the next two, what a dataset says itself counts first
    cfg.INPUT.IMAGE_BITS = 0  # significant bits of images of 16 bits a channel, 12 say; 0 = all
    cfg.INPUT.MAX_PIXELS = 0  # refuse larger images; 0 = Pillow's limit, about 179 million
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0  # retry crops with more of one class; 1 = never
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False  # every training image is used
    cfg.DATALOADER.MAX_FAULTY_SHARE = 0.01  # skip unreadable training images up to this share
    # how often an image comes from each set of DATASETS.TRAIN, [2.0, 1.0] say; [] = all images
    # equally often
    cfg.DATASETS.TRAIN_WEIGHTS = []
    cfg.DATASETS.FILES = []  # YAML files that describe datasets of your own, see datasets/README.md


def _add_test_keys(test: CfgNode) -> None:
    test.VOCABULARY = "catseg"  # class lists of test sets: catseg (also HyperCLIP's), cliper, clean
    # of each image: "all" names of its dataset, or those "present" in its labels alone, which is a
    # protocol of its own: easier, and comparable with nothing else
    test.ASK = "all"
    # of sets whose background is what no class is found in: by threshold (dataset), or none, words,
    # other; see docs/background.md
    test.BACKGROUND = "dataset"
    test.BACKGROUND_THRESHOLD = 0.5  # of HyperCLIP: scores below it are background
    test.BEST_METRIC = "mIoU"  # of model_best.pth: its mean over the test sets, or DATASET/SCORE
    test.BOUNDARY_IOU = False  # also compute the Boundary IoU (on the CPU)
    test.PER_IMAGE_RESULTS = False  # write the scores of each image to OUTPUT_DIR/per_image
    # write the labels and confidence of each image to OUTPUT_DIR/predictions, see docs/errors.md
    test.SAVE_PREDICTIONS = False
    test.SLIDING_WINDOW = False  # windows plus a global view, or the whole image alone
    test.SLIDING = CfgNode()
    test.SLIDING.SIZE = 640  # side of the square that the image is squashed to
    test.SLIDING.KERNEL = 384  # side of a window in that square
    test.SLIDING.OVERLAP = 0.333  # share of a window that its neighbour covers again
    test.SLIDING.GLOBAL_VIEW = True  # average the windows with a view of the whole image
    # Of every inference: float32; tf32 and float16 (on GPUs); bfloat16; or auto, the fastest that
    # the device has units for
    test.PRECISION = EXACT
    test.CLASS_CHUNK = 0  # class maps handled at a time; 0 = what CPU caches or GPU memory take
    test.IMS_PER_BATCH = 1  # images of one evaluation step and process


def _add_stage_keys(test: CfgNode) -> None:
    """Test-time views and stages between scores and labels of any system, see docs/stages.md."""
    test.AUG.ENABLED = False  # see several views of an image, and take the mean of their scores
    test.AUG.FLIP = True  # a mirrored one of each
    test.AUG.ZOOMS = []  # overlapping crops, enlarged by each of these, [1.5, 2.0] say; [] = none
    test.EXAMPLES = CfgNode()
    test.EXAMPLES.FOLDER = ""  # of images with masks that show what classes look like; "" = none
    # whether classes with examples may win pixels from those without; if not, these are as by words
    test.EXAMPLES.TAKE = True
    # Of each image ask only names that in some cell have this share of the probability of the
    # cell's best name, by CLIP's cosines; 0 = ask all. See docs/vocabulary.md
    test.PRUNE = 0.0
    test.REFINER = CfgNode()
    # none, guided, diffusion and features (of CLIPer's keys), or one registered in REFINER_REGISTRY
    test.REFINER.NAME = "none"
    test.REFINER.GUIDED = CfgNode()  # the guided filter: no model
    test.REFINER.GUIDED.RADIUS = 0.0375  # of its boxes, share of the longer side: 24 pixels of 640
    test.REFINER.GUIDED.EPS = 1e-3  # variance of colours, 0..1, below which a box counts as flat
    test.REFINER.GUIDED.MAX_SIZE = 640  # images with a longer side are scaled down to it
    test.REFINER.GUIDED.SUBSAMPLE = 1  # fit in an image this much smaller: 4 is many times faster
    test.BANK = CfgNode()
    test.BANK.FILE = ""  # memory bank that hyperclip-build-bank wrote with the same model; "" = off
    test.BANK.NEIGHBOURS = 16  # nearest regions of the bank whose mean is taken
    test.BANK.MIX = 0.5  # share of that mean in what a region looks like; 0 changes nothing
    test.BANK.WEIGHT = 0.1  # how far scores follow the change of probabilities; 0 changes nothing
    test.BANK.CELLS = 2  # side, in cells, of a bank's regions where TEST.REGIONS.NAME is none
    test.REGIONS = CfgNode()
    # what proposes them: none, superpixels, files, sam, sam2, eomt, or one registered in
    # REGIONS_REGISTRY
    test.REGIONS.NAME = "none"
    # what becomes of the scores: mean or majority, which give a region one class, or attention, by
    # which the cells of a region share their scores
    test.REGIONS.RULE = "mean"
    test.REGIONS.TEMPERATURE = 0.1  # of attention, for cosines
    test.REGIONS.FOLDER = ""  # of files: a label map (.png, .npy) of each image's regions
    test.REGIONS.MODEL = ""  # of sam, sam2 and eomt: folder of transformers, or hub id
    test.REGIONS.SUPERPIXELS = CfgNode()
    test.REGIONS.SUPERPIXELS.NUMBER = 200  # about so many of an image
    test.REGIONS.SUPERPIXELS.COMPACTNESS = 10.0  # the larger, the squarer; the smaller, by colour
    test.REGIONS.SUPERPIXELS.MAX_SIZE = 320  # found with the longer side as small; 0 = any size
    test.REGIONS.MASKS = CfgNode()  # which of the masks of sam, sam2 and eomt count
    test.REGIONS.MASKS.POINTS = 32  # of sam and sam2: asked on a grid of so many by so many points
    test.REGIONS.MASKS.BATCH = 64  # points that go through the model at a time
    test.REGIONS.MASKS.IOU = 0.88  # of sam and sam2: at least of this IoU, as the model sees it
    test.REGIONS.MASKS.STABILITY = 0.95  # and of this IoU of the masks at the logits 1 and -1
    test.REGIONS.MASKS.DUPLICATES = 0.7  # of masks of a higher IoU than this the best one counts
    test.REGIONS.MASKS.SCORE = 0.5  # of eomt: at least of this probability


def _add_solver_keys(solver: CfgNode) -> None:
    solver.OPTIMIZER = "ADAMW"  # ADAMW or SGD
    solver.BASE_LR = 2e-4
    solver.CLIP_MULTIPLIER = 0.075  # learning rate of CLIP's parameters relative to BASE_LR
    solver.LOG_PERIOD = 20  # iterations between two lines of metrics
    solver.WATCH_PERIOD = 1000  # warn if the loss has not fallen in so many iterations; 0 = never
    # Of the forward pass: auto (bfloat16 on GPUs that have it, else float32), float32, bfloat16, or
    # float16, as Detectron2's AMP.ENABLED True. Weights, optimiser and loss stay in float32.
    solver.PRECISION = "auto"
    solver.TF32 = True  # training multiplies float32 in TF32 on GPUs; evaluation: TEST.PRECISION
    solver.MICRO_BATCHES = 1  # parts in which a batch is run: less memory, the same gradient
    solver.WEIGHT_DECAY_EMBED = 0.0  # weight decay of embeddings
    solver.DECAY_TO_IDENTITY = False  # adapters decay to the identity that they start at, not to 0
    solver.EMA_DECAY = 0.0  # of the averaged weights that are evaluated, 0.999 say; 0 = no average
    solver.CHECKPOINT_KEEP = 3  # of the checkpoints every CHECKPOINT_PERIOD, keep so many; 0 = all
    # or WarmupPolyLR, WarmupMultiStepLR, WarmupStepWithFixedGammaLR
    solver.LR_SCHEDULER_NAME = "WarmupCosineLR"
    solver.POLY_LR_POWER = 0.9  # of WarmupPolyLR
    solver.POLY_LR_CONSTANT_ENDING = 0.0  # share of the learning rate where WarmupPolyLR stays
    solver.WARMUP_FACTOR = 1.0
    solver.WARMUP_ITERS = 0
    solver.CLIP_GRADIENTS.ENABLED = True
    solver.CLIP_GRADIENTS.CLIP_TYPE = "full_model"  # one norm over all parameters, as released
    solver.CLIP_GRADIENTS.CLIP_VALUE = 0.01


_PACKAGES: dict[Callable[[CfgNode], None], KeyRules] = {add_hyperclip_config: FRAMEWORK}
"""What adds the keys of each package, and their rules."""


def extend_config(add_keys: Callable[[CfgNode], None], rules: KeyRules | None = None) -> None:
    """Have :func:`load_config` add another package's keys: ``add_keys(cfg)`` adds them with their
    defaults; ``rules`` says what they may hold, and which of Detectron2's the package reads.
    """
    _PACKAGES.setdefault(add_keys, rules or KeyRules())


def load_config(path: str | Path, overrides: Sequence[Any] = ()) -> CfgNode:
    """Read a config file and command-line overrides (KEY VALUE …) on top of the defaults.

    Relative paths of models, weights and class lists in a file are relative to that file, to the
    working folder, or to the repository: the first that is there counts. ``~`` is the home folder.

    Raises:
        FileNotFoundError: no such file, or no such _BASE_.
        ValueError: by :func:`read_layers`; or all faults in one line: legacy and unknown keys (with
            the nearest valid ones), keys that nothing reads, values of a wrong type or range.
    """
    layers, missing = read_layers(path)
    layers.append(command_line_layer(overrides))
    _import_plugins(layers)
    cfg = get_cfg()
    detectron2_keys = dict(flat_config(cfg))
    packages = _add_all_keys(cfg)
    defaults = dict(flat_config(cfg))
    values, faults = _merge(layers, defaults, packages)
    for key, (value, where) in values.items():
        unread = key in detectron2_keys and not any(key in rules.reads for rules in packages)
        # A tuple counts as a list: YAML cannot tell them apart
        if unread and json.dumps(value, default=str) != json.dumps(defaults[key], default=str):
            faults.append(f"config key {key} ({where}) does nothing here: {unread_advice(key)}")
        if advice := LEGACY_VALUES.get(f"{key} {value}"):
            faults.append(f"config key {key} ({where}): got {value!r}, {advice}")
        *sections, name = key.split(".")
        functools.reduce(operator.getitem, sections, cfg)[name] = value
    faults += _together(cfg)
    if not faults and missing:
        raise FileNotFoundError(missing[0])
    if faults := [*faults, *missing]:
        count = f"{len(faults)} faults in the config: " if len(faults) > 1 else ""
        raise ValueError(count + "; ".join(faults))
    return cfg


def default_config() -> CfgNode:
    """Every key of all packages with its default."""
    cfg = get_cfg()
    _add_all_keys(cfg)
    return cfg


def _import_plugins(layers: Sequence[Layer]) -> None:
    """Import what IMPORTS names, so that its keys are known before any key is looked at."""
    given = [(x.values["IMPORTS"], x.where) for x in layers if "IMPORTS" in x.values]
    value, where = given[-1] if given else ([], "")
    names = []
    with contextlib.suppress(ValueError):  # no list of names: _merge says so, as of any key
        names = convert(value, [], texts=True)
    for name in names:
        try:
            importlib.import_module(name)
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"config key IMPORTS ({where}): got {name!r}, which cannot be imported ({error}). "
                "Expected modules in a folder of PYTHONPATH, or installed ones"
            ) from error


def _add_all_keys(cfg: CfgNode) -> list[KeyRules]:
    """Add the keys of all packages; returns their rules, with bounds for each of their keys."""
    packages = []
    for add_keys, rules in _PACKAGES.items():
        before = dict(flat_config(cfg))
        add_keys(cfg)
        added = dict(flat_config(cfg)).keys() - before.keys()
        usual = NOT_NEGATIVE if rules.not_negative else ANY
        bounds = dict.fromkeys([*rules.reads, *added], usual) | dict(rules.bounds)
        packages.append(dataclasses.replace(rules, bounds=bounds))
    return packages


def _merge(
    layers: Sequence[Layer], defaults: Mapping[str, Any], packages: Sequence[KeyRules]
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
                value = convert(given, defaults[key], any(key in r.names for r in packages))
                expected = next(filter(None, (r.expected(key, value) for r in packages)), "")
            except ValueError as error:
                expected = str(error)
            if expected:
                got = f"config key {key} ({layer.where}): got {shown(given)}"
                faults.append(f"{got}, expected {expected}")
                continue
            if key in output_keys() and value.startswith("~"):
                value = str(user_path(value))
            elif key in input_keys():
                value = locate(value, layer.folder)
            values[key] = value, layer.where
    return values, faults


def _together(cfg: CfgNode) -> Iterator[str]:
    """What is wrong with values that are right by themselves."""
    sizes, sampling = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    if not sizes or (sampling == "range" and (len(sizes) != 2 or sizes[0] > sizes[1])):
        yield (
            f"config key INPUT.MIN_SIZE_TRAIN: got {list(sizes)} with MIN_SIZE_TRAIN_SAMPLING "
            f"{sampling!r}, expected one or more sizes for 'choice', and the smallest and the "
            "largest for 'range'"
        )
    crop = cfg.INPUT.CROP
    if crop.ENABLED and crop.TYPE.startswith("relative") and max(crop.SIZE) > 1:
        got = f"got {list(crop.SIZE)} with TYPE {crop.TYPE!r}"
        yield f"config key INPUT.CROP.SIZE: {got}, expected 0 to 1"
    solver = cfg.SOLVER
    if solver.BASE_LR_END > solver.BASE_LR:
        got = f"got {solver.BASE_LR_END}, expected at most BASE_LR {solver.BASE_LR}"
        yield f"config key SOLVER.BASE_LR_END: {got}"
    if solver.NESTEROV and (solver.OPTIMIZER != "SGD" or not solver.MOMENTUM):
        got = f"got True with OPTIMIZER {solver.OPTIMIZER} and MOMENTUM {solver.MOMENTUM}"
        yield f"config key SOLVER.NESTEROV: {got}, expected SGD and a MOMENTUM above 0 with it"


def input_keys() -> tuple[str, ...]:
    """Keys of all packages that name files or folders to read, or a model in another way."""
    return tuple(key for rules in _PACKAGES.values() for key in rules.inputs)


def output_keys() -> tuple[str, ...]:
    """Keys of all packages that name files or folders to write: they change no result."""
    return tuple(key for rules in _PACKAGES.values() for key in rules.outputs)
