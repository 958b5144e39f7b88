"""CLIPer's models by name; see :mod:`hyperclip.zoo`. Importing it adds them."""

import importlib.util

from hyperclip.clip.loading import weights_are_here
from hyperclip.zoo import ZOO, ZooModel

from .pretrained import is_here

CONFIG = "configs/cliper/universal_vitb16.yaml"
CLIP, DIFFUSION = "ViT-B/16", "sd-2.1"
FUSION_ALONE = ("MODEL.CLIPER.REFINER.NAME", "none")


def _missing_clip() -> str:
    return "" if weights_are_here(CLIP) else f"CLIP's weights {CLIP}, which its first use downloads"


def _missing_part() -> str:
    if missing := _missing_clip():
        return missing
    if missing := _missing_diffusers():
        return missing
    if is_here(DIFFUSION):
        return ""
    return f"the diffusion model {DIFFUSION}, which its first use downloads"


def _missing_diffusers() -> str:
    here = importlib.util.find_spec("diffusers") is not None
    return "" if here else 'pip install "hyperclip[diffusion]"'


ZOO["cliper-vitb16"] = ZooModel(
    CONFIG,
    "CLIPer with CLIP ViT-B/16 and Stable Diffusion 2.1: training-free, any words",
    _missing_part,
    rank=0,
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
