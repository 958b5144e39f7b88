"""CLIPer without a refiner in parts: its layers' embeddings, and the scores of words on them.

Shapes: P prompts (classes, then negatives), L layers, N = h w patches, C embedding, H W image.
"""

from typing import Any

import torch
import torch.nn.functional as F
from hyperclip.export_parts import EXPORTS, Part, SystemParts
from hyperclip.vocabulary import Vocabulary
from torch import Tensor, nn

from .fusion import FusionOptions, encode_layers
from .meta_arch import CLIPer
from .scores import Embedded, ScoreOptions, coarse_scores


class LayerEncoder(nn.Module):
    """A normalised image (1, 3, H, W) to unit embeddings (L, N, C) and their affinity (N, N)."""

    def __init__(self, visual: Any, options: FusionOptions, layers: list[int]) -> None:
        super().__init__()
        self.visual, self.options, self.layers = visual, options, layers

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features, affinity = encode_layers(self.visual, image, self.options, self.layers)
        return features[:, 0], affinity[0]


class PatchScores(nn.Module):
    """Coarse scores (P, N) of all prompts."""

    def __init__(self, options: ScoreOptions) -> None:
        super().__init__()
        self.options = options

    def forward(self, features: Tensor, affinity: Tensor, text: Tensor) -> Tensor:
        image = Embedded(features, affinity, (1, -1))
        return coarse_scores(image, text, text.shape[0], self.options)[:, 0]


def of_cliper(model: CLIPer) -> SystemParts:
    """CLIPer in parts; ValueError for what is not in the files."""
    _require_plain(model)
    encoder = LayerEncoder(model.clip.visual, model.fusion, model.layers).eval()
    p, device = model.patch, model.device
    image = torch.zeros(1, 3, 4 * p, 5 * p, device=device)
    with torch.no_grad():
        features, affinity = encoder(image)
        stored = [(name, _embedded(model, name)) for name in model.negatives]
    text = F.normalize(torch.randn(3, features.shape[2], device=device), dim=-1)
    inputs = {"features": features, "affinity": affinity, "text": text}
    cells = ("cells", 1)
    dynamic = {
        "features": {1: cells},
        "affinity": {0: cells, 1: cells},
        "text": {0: ("classes", 1)},
    }
    inference = {
        "kind": "patches",
        "patch": p,
        "size": model.size,
        "max_size": model.max_size,
        "negatives": [{"name": name, "embedding": row.tolist()} for name, row in stored],
        "mean_negative": model.mean_negative,
        **vars(model.labels),
    }
    return SystemParts(
        Part(
            encoder,
            {"image": image},
            ("features", "affinity"),
            {"image": {2: ("h", p), 3: ("w", p)}},
        ),
        Part(PatchScores(model.scores).eval(), inputs, ("scores",), dynamic),
        inference,
        "the whole image in patches, without windows and without a refiner; negatives, thresholds "
        "and the resize to the image are what `inference` says",
    )


def _embedded(model: CLIPer, name: str) -> Tensor:
    """The unit embedding (C,) of a negative."""
    return model.text(model.clip, Vocabulary(((name,),), "negatives"))[0]


def _require_plain(model: CLIPer) -> None:
    """ValueError for parts or rules that are not in the files."""
    given = {
        "MODEL.CLIPER.REFINER.NAME": ("none", type(model.refiner).__name__, model.refiner is None),
        "MODEL.CLIPER.WINDOW": (0, model.window, not model.window),
        "MODEL.CLIPER.ATTENTION": ("fused", model.fusion.attention, model.proxy is None),
        "MODEL.SYNONYMS": ("mean", model.text.typed, model.text.typed != "max"),
    }
    for key, (plain, value, fine) in given.items():
        if not fine:
            raise ValueError(f"{key}: got {value!r}, which cannot be exported. Set it to {plain!r}")


EXPORTS[CLIPer] = of_cliper
