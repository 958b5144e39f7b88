"""What a default config fills in: options and arguments of classes that have no defaults."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

from cliper.affinity import FuseOptions
from cliper.config import add_cliper_config
from cliper.diffusion import DiffusionOptions
from cliper.fusion import FusionOptions
from cliper.meta_arch import CLIPer
from cliper.postprocess import LabelOptions
from cliper.refiner import fuse_options
from cliper.scores import ScoreOptions
from detectron2.config import get_cfg
from hyperclip.adapters import AdapterOptions
from hyperclip.config.key_rules import options_of
from hyperclip.config.keys import add_hyperclip_config
from hyperclip.data import SemSegMapper
from hyperclip.head.cost_head import HeadOptions
from hyperclip.inference import SlidingWindow
from hyperclip.training.step import TrainLoop

CONFIG = get_cfg()
"""Every key with its default."""
add_hyperclip_config(CONFIG)
add_cliper_config(CONFIG)
CLIPER = CONFIG.MODEL.CLIPER
DEFAULTS = {
    HeadOptions: options_of(HeadOptions, CONFIG.MODEL.SEM_SEG_HEAD),
    AdapterOptions: options_of(AdapterOptions, CONFIG.MODEL.ADAPTER),
    SlidingWindow: options_of(SlidingWindow, CONFIG.TEST.SLIDING),
    FusionOptions: options_of(FusionOptions, CLIPER),
    ScoreOptions: options_of(ScoreOptions, CLIPER),
    LabelOptions: options_of(LabelOptions, CLIPER),
    FuseOptions: fuse_options(CONFIG),
    DiffusionOptions: options_of(DiffusionOptions, CLIPER.DIFFUSION),
}


def default(kind, *values, **others):
    """Options of a kind: the defaults but for these ``values`` of its first fields, and others."""
    names = [field.name for field in dataclasses.fields(kind)]
    given = dict(zip(names, values, strict=False))
    return dataclasses.replace(DEFAULTS[kind], **given, **others)


def make_cliper(clip, text, **others):
    """CLIPer without a refiner and negatives of its own, but for other arguments."""
    plain = ("mean_negative", "size", "max_size", "window", "window_stride", "half")
    arguments = {
        "fusion": default(FusionOptions),
        "scores": default(ScoreOptions),
        "labels": default(LabelOptions),
        "pixel_mean": CONFIG.MODEL.CLIP_PIXEL_MEAN,
        "pixel_std": CONFIG.MODEL.CLIP_PIXEL_STD,
        **dict.fromkeys(("refiner", "proxy")),
        **{"negatives": (), "backbone": "", "tuned_for": ()},
        **{name: CLIPER[name.upper()] for name in plain},
    }
    return CLIPer(clip=clip, text=text, **{**arguments, **others})


def make_mapper(is_train, **others):
    """A mapper that changes nothing of images and labels, but for other arguments."""
    arguments = SemSegMapper.from_config(CONFIG, is_train=False) | {"augmentations": []}
    return SemSegMapper(**{**arguments, "is_train": is_train, **others})


def make_loop(model, batch, optimizer, **others):
    """A training over one batch in float32."""
    arguments = {"micro_batches": 1, "precision": "float32", "faults": Path("output"), **others}
    return TrainLoop(model, itertools.repeat(batch), optimizer, **arguments)


def precision_keys(precision, device="cpu"):
    """The config of a training in a precision on a device."""
    cfg = CONFIG.clone()
    cfg.SOLVER.PRECISION, cfg.MODEL.DEVICE = precision, device
    return cfg
