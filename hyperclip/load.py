"""From a config to its model, on its device, after a check that both exist."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from detectron2 import modeling
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY


def build_model(cfg: CfgNode) -> Any:
    """Detectron2's ``build_model``.

    Raises:
        ValueError: a system or a device that is not there; what the system's own ``from_config`` raises.
    """
    check_system(cfg)
    return modeling.build_model(cfg)


def check_system(cfg: CfgNode) -> None:
    """ValueError unless a model of MODEL.META_ARCHITECTURE is registered and this machine has MODEL.DEVICE."""
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in META_ARCH_REGISTRY:
        systems = sorted(key for key, _ in META_ARCH_REGISTRY)
        near = difflib.get_close_matches(name, systems, n=1) or ["HyperCLIP", "CLIPer"]
        raise ValueError(
            f"MODEL.META_ARCHITECTURE: got {name!r}, expected HyperCLIP, CLIPer, or a model registered in META_ARCH_REGISTRY. "
            f"Did you mean {' or '.join(near)}?"
        )
    check_device(cfg.MODEL.DEVICE)


def check_device(name: str) -> None:
    """ValueError unless this machine has a device of this name."""
    wanted = "expected cpu, cuda, cuda:N, or another device of torch. Set MODEL.DEVICE cpu to go on without a GPU"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"MODEL.DEVICE: got {name!r}, {wanted}") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ValueError(f"MODEL.DEVICE: got {name!r}, but torch sees {count} GPUs here, {wanted}")
        return
    try:
        torch.zeros(1, device=device).item()
    except Exception as error:  # torch without that device raises errors of many kinds
        raise ValueError(f"MODEL.DEVICE: got {name!r}, which this machine or this torch does not have, {wanted}") from error
