"""Models of true size with random weights, and images of noise."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from hyperclip.adapters import adapters
from hyperclip.config.keys import load_config
from hyperclip.meta_arch import HyperCLIP

from speed.measuring import Settings


def build_hyperclip(settings: Settings, *keys: str) -> tuple[CfgNode, HyperCLIP]:
    """HyperCLIP ViT-B/16 in evaluation mode, its adapters moved away from the identity; the
    quickstart's in a smoke run.
    """
    tiny = [
        "MODEL.SEM_SEG_HEAD.SAMPLED_CLASSES",
        "0",
        "TEST.SLIDING.SIZE",
        "160",
        "TEST.SLIDING.KERNEL",
        "96",
    ]
    config = "quickstart/hyperclip" if settings.smoke else "vitb_384_hyperbolic"
    own = tiny if settings.smoke else ["MODEL.CLIP_WEIGHTS", "none"]
    cfg = load_config(f"configs/{config}.yaml", ["MODEL.DEVICE", str(settings.device), *own, *keys])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad():
        for _, adapter in adapters(model):
            for parameter in adapter.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    return cfg, model
