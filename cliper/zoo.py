"""CLIPer's models by name; see :mod:`hyperclip.zoo`. Importing it adds them."""

import importlib.util
from functools import partial

from hyperclip.clip.loading import weights_are_here
from hyperclip.runtime.extras import how_to_install
from hyperclip.zoo import ZOO, ZooModel

from .pretrained import is_here

CONFIG = "configs/cliper/universal_vitb16.yaml"
LARGE_CONFIG = "configs/cliper/universal_vitl14.yaml"
CLIP, LARGE_CLIP, DIFFUSION = "ViT-B/16", "ViT-L/14", "sd-2.1"
FUSION_ALONE = ("MODEL.CLIPER.REFINER.NAME", "none")


def _missing_clip(name: str = CLIP) -> str:
    return "" if weights_are_here(name) else f"CLIP's weights {name}, which its first use downloads"


def _missing_part(clip: str = CLIP) -> str:
    if missing := _missing_clip(clip):
        return missing
    if missing := _missing_diffusers():
        return missing
    if is_here(DIFFUSION):
        return ""
    return f"the diffusion model {DIFFUSION}, which its first use downloads"


def _missing_diffusers() -> str:
    here = importlib.util.find_spec("diffusers") is not None
    return "" if here else how_to_install("diffusion")


ZOO["cliper-vitb16"] = ZooModel(
    CONFIG,
    "CLIPer with CLIP ViT-B/16 and Stable Diffusion 2.1: training-free, any words",
    _missing_part,
    rank=0,
)
ZOO["cliper-vitl14"] = ZooModel(
    LARGE_CONFIG,
    "CLIPer with CLIP ViT-L/14 and Stable Diffusion 2.1: training-free, any words",
    partial(_missing_part, LARGE_CLIP),
)
ZOO["cliper-vitb16-fusion"] = ZooModel(
    CONFIG,
    "CLIPer with CLIP ViT-B/16 without a refiner: training-free, any words, coarse outlines",
    _missing_clip,
    rank=1,
    overrides=FUSION_ALONE,
)
ZOO["quickstart/cliper"] = ZooModel(
    "configs/quickstart/cliper.yaml",
    "the quickstart's tiny CLIPer, which knows the drawn shapes of tinyscenes alone: nothing that "
    "it says of a photo means anything",
    _missing_diffusers,
    rank=100,
)
