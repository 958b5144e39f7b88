"""What tells models apart whose embeddings of an image differ: the hash of CLIP's weights, and the
embeddings of a test picture, which settings change, too.

Shapes: C embedding, h w grid.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..segmenter import Segmenter

ALIKE = 0.999
"""Least cosine of embeddings of the test picture by one model, on whatever device and precision."""
MOST_NAMED = 5
"""Settings that a message names at most."""


@dataclass(frozen=True)
class ModelPrint:
    """A model as a bank has it.

    Attributes:
        system: its name. weights: SHA-256 of CLIP's weights, adapters not merged.
        probe: unit embeddings (C, h, w) of the test picture. settings: plain values, which a
            message names where they differ.
    """

    system: str
    weights: str
    probe: Tensor
    settings: Mapping[str, Any]

    @classmethod
    @torch.no_grad()
    def of(cls, system: Segmenter) -> ModelPrint:
        """That of a system whose adapters are not merged; ValueError for one without embeddings."""
        was_training = system.training
        probe = system.eval().features(system.encode([probe_picture()])[0]).float().cpu()
        system.train(was_training)
        described = system.describe()
        settings = json.loads(json.dumps(dict(described.settings), default=str))
        weights = hash_of_weights(getattr(system, "clip", system))
        return cls(described.system, weights, probe, settings)

    def require_same(self, other: ModelPrint, what: str, advice: str) -> None:
        """ValueError unless ``what``, which has ``other``, is of this model."""
        if (other.system, other.weights) != (self.system, self.weights):
            made = f"{other.system} with weights {other.weights[:12]}"
            raise ValueError(
                f"{what} is of another model: got {made}, expected {self.system} with weights "
                f"{self.weights[:12]}. {advice}"
            )
        if not self.sees_as(other):
            names = sorted({*self.settings, *other.settings})
            differing = [n for n in names if self.settings.get(n) != other.settings.get(n)]
            named = ", ".join(differing[:MOST_NAMED]) or "what is done to images before CLIP"
            problem = "got other embeddings of the test picture, expected the same"
            raise ValueError(
                f"{what} is of the same weights with other settings: {problem}. What differs: "
                f"{named}. {advice}"
            )

    def sees_as(self, other: ModelPrint) -> bool:
        """Whether both have the same embeddings of the test picture."""
        if self.probe.shape != other.probe.shape:
            return False
        return bool((F.cosine_similarity(self.probe, other.probe, dim=0) >= ALIKE).all())


def hash_of_weights(module: nn.Module) -> str:
    """SHA-256 of all parameters and buffers: names, types, shapes and values."""
    digest = hashlib.sha256()
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def probe_picture() -> Tensor:
    """A picture, uint8 (3, 96, 128), of slopes and fine grain, the same everywhere."""
    y, x = torch.arange(96)[:, None], torch.arange(128)
    grain = (x * x * 7 + y * y * 13 + x * y * 3) % 61
    planes = [2 * x + 0 * y, 2 * y + 0 * x, x + y]
    return torch.stack([(plane + grain).clamp(0, 255) for plane in planes]).to(torch.uint8)
