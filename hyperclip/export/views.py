"""HyperCLIP in parts: the image tower, and the head over text embeddings.

Shapes: T classes, C embedding, D width, h w grid, r resolution.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..clip import encode_dense
from ..dense_features import DenseFeatures
from ..export_parts import EXPORTS, Part, SystemParts
from ..head import CosineHead, CostVolumeHead
from ..head.cost_head import cost_volume
from ..meta_arch import HyperCLIP


class ImageEncoder(nn.Module):
    """A normalised view (1, 3, r, r) to embeddings (1, C, h, w) and intermediate maps."""

    def __init__(self, visual: nn.Module, layers: Sequence[int]) -> None:
        super().__init__()
        self.visual, self.layers = visual, list(layers)

    def forward(self, view: Tensor) -> tuple[Tensor, ...]:
        features = encode_dense(self.visual, view, self.layers)
        return (features.embeddings, *features.intermediates)


class CostVolumeLogits(nn.Module):
    """The cost-volume head over all classes that it is given: what its ``infer`` computes."""

    def __init__(self, head: CostVolumeHead, loss_name: str) -> None:
        super().__init__()
        self.head, self.softmax = head, loss_name == "softmax"

    def forward(self, embeddings: Tensor, first: Tensor, second: Tensor, text: Tensor) -> Tensor:
        head = self.head
        images = head.prepare(DenseFeatures(embeddings, [first, second], embeddings))
        costs, guidance = cost_volume(embeddings, text), F.relu(head.text_projection(text))
        x = head.embed_costs(costs)
        for layer, guided in zip(head.layers, images.spatial, strict=True):
            x = layer(x, guided, guidance, head.pooling_test)
        logits = head.decoder(x.permute(0, 1, 4, 2, 3), images.decoder)
        if head.scaled_cosine is not None:
            logits = logits + head.scaled_cosine(costs, finer=4)
        return softmax_logits(logits) if self.softmax else logits


class CosineLogits(nn.Module):
    """The cosine head, which needs no intermediate maps."""

    def __init__(self, head: CosineHead, loss_name: str) -> None:
        super().__init__()
        self.head, self.softmax = head, loss_name == "softmax"

    def forward(self, embeddings: Tensor, text: Tensor) -> Tensor:
        logits = self.head(DenseFeatures(embeddings, [], embeddings), text)
        return softmax_logits(logits) if self.softmax else logits


HEADS: dict[type[nn.Module], Callable[[Any, str], nn.Module]] = {
    CostVolumeHead: CostVolumeLogits,
    CosineHead: CosineLogits,
}
"""What computes the logits (1, T, h, w) of each type of head with a loss, of tensors alone; their
sigmoid is the score.
"""


def softmax_logits(logits: Tensor) -> Tensor:
    """:func:`hyperclip.head.loss.softmax_logits`, with ``expm1(x)`` as ``tanh(x / 2) (exp(x) +
    1)``: ONNX has no ``expm1``, and ``exp(x) - 1`` is 0 near 0.
    """
    total = torch.logsumexp(F.pad(logits, (0, 0, 0, 0, 1, 0)), dim=1, keepdim=True)
    log_p = (logits - total).clamp_max(-1e-7)
    return log_p - torch.log(-torch.tanh(log_p / 2) * (log_p.exp() + 1))


def of_hyperclip(model: HyperCLIP) -> SystemParts:
    """HyperCLIP in parts; ValueError for a head that is not in ``HEADS``, or compiled."""
    head = model.sem_seg_head
    if type(head) not in HEADS:
        known = [kind.__name__ for kind in HEADS]
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.NAME: got {type(head).__name__}, which cannot be exported; "
            f"expected one of {known}"
        )
    layers = model.layers if isinstance(head, CostVolumeHead) else []
    view = torch.zeros(1, 3, *model.resolution, device=model.device)
    encoder = ImageEncoder(model.clip.visual, layers).eval()
    with torch.no_grad():
        features = encoder(view)
    names = ("embeddings", "first_map", "second_map")[: len(features)]
    text = F.normalize(torch.randn(3, features[0].shape[1], device=model.device), dim=-1)
    inputs = dict(zip(names, features, strict=True)) | {"text": text}
    logits = HEADS[type(head)](head, model.loss_name).eval()
    windows = model.sliding
    sliding = windows and {
        "size": windows.size,
        "kernel": windows.kernel,
        "origins": windows.origins,
        "global_view": windows.global_view,
    }
    inference = {
        "kind": "views",
        "resolution": list(model.resolution),
        "sliding": sliding,
        "divisor": model.divisor,
        "most_classes": getattr(head, "max_classes", 0),
    }
    return SystemParts(
        Part(encoder, {"view": view}, names),
        Part(logits, inputs, ("logits",), {"text": {0: ("classes", 1)}}),
        inference,
        "one view of the image at a time: the files hold the two networks; views, the choice of "
        "the best classes, their merge and the resize to the image are what `inference` says",
    )


EXPORTS[HyperCLIP] = of_hyperclip
