"""Self-supervised features (DINO, DINOv2) as a refiner, through timm.

Shapes: N = h w patches, C channels, T classes. Source: ProxyCLIP (ECCV 2024), as the released code
of CLIPer uses it.
"""

from pathlib import Path
from typing import Any

import hyperclip  # noqa: F401  (makes torchvision importable before timm asks for it)
import torch
import torch.nn.functional as F
from hyperclip.clip.loading import read_state_dict
from hyperclip.runtime.files import local_path
from hyperclip.runtime.weights import require_fit
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

BETA, GAMMA = 1.2, 3.0
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB, 0..1


def mix_alike(scores: Tensor, unit: Tensor, most: int = 2**22) -> Tensor:
    """``softmax(gamma (S - beta mean S))`` times the scores (N, T), where S are the cosines of unit
    features (N, C); negative entries are excluded. ``most`` entries are in work at a time.
    """
    # the mean of S is the squared length of the mean feature
    shift = BETA * unit.mean(dim=0).square().sum()
    result, step = torch.empty_like(scores), max(1, most // len(unit))
    for start in range(0, len(scores), step):
        tile = unit[start : start + step] @ unit.T - shift
        tile.diagonal(start).clamp_(min=0)  # a patch is always like itself
        weights = (GAMMA * tile).masked_fill_(tile < 0, float("-inf")).softmax(dim=1)
        torch.mm(weights, scores, out=result[start : start + len(tile)])
    return result


class FeatureExtractor(nn.Module):
    """Patch features of a timm vision transformer.

    Args:
        name: timm's, e.g. "vit_base_patch8_224.dino"; see ``DINO_MODELS``.
        weights: a local file (safetensors or a state dict), "" for timm's own (from its cache or
            the network), "none" for random ones.
        longest: images with a longer side are scaled down to it, in pixels.
    Raises:
        ValueError: no plain vision transformer of timm, or a file that does not fit.
        FileNotFoundError: weights that are neither here nor to be had from the network.
    """

    model: Any

    def __init__(self, name: str, weights: str, longest: int) -> None:
        super().__init__()
        import timm

        known = timm.list_models(pretrained=True) if "." in name else timm.list_models()
        if name not in known or not name.startswith("vit_"):
            raise ValueError(
                f"MODEL.CLIPER.FEATURES.MODEL: got {name!r}, expected a vision transformer of "
                f"timm, e.g. {DINO_MODELS}"
            )
        try:
            self.model = timm.create_model(
                name, pretrained=weights == "", num_classes=0, dynamic_img_size=True
            )
        except TypeError as error:
            raise ValueError(
                f"MODEL.CLIPER.FEATURES.MODEL: {name!r} takes images of one size only ({error})"
            ) from error
        except Exception as error:
            raise FileNotFoundError(
                f"features {name!r}: not in the local cache, and the download failed "
                f"({type(error).__name__}: {str(error)[:200]}). Without a network, set "
                "MODEL.CLIPER.FEATURES.WEIGHTS to a local file"
            ) from error
        if not isinstance(self.model, timm.models.vision_transformer.VisionTransformer):
            raise ValueError(
                f"MODEL.CLIPER.FEATURES.MODEL: {name!r} is no plain vision transformer, expected "
                f"one like {DINO_MODELS}"
            )
        if weights not in ("", "none"):
            self._load(name, local_path(weights))
        self.model.eval().requires_grad_(False)
        self.longest = longest
        self.patch: int = self.model.patch_embed.patch_size[0]
        if longest < self.patch:
            raise ValueError(
                f"MODEL.CLIPER.FEATURES.MAX_SIZE: got {longest}, expected at least the patch size "
                f"{self.patch}"
            )

    def _load(self, name: str, path: Path) -> None:
        state = read_state_dict(path, "MODEL.CLIPER.FEATURES.WEIGHTS")
        state.pop("mask_token", None)  # DINOv2's files hold it for training
        what = f"MODEL.CLIPER.FEATURES.WEIGHTS {str(path)!r} does not fit {name!r}"
        fix = "Set MODEL.CLIPER.FEATURES.MODEL to the architecture of the file"
        require_fit(self.model.state_dict(), state, what, fix)
        self.model.load_state_dict(state)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Features (C, h, w) of an image (3, H, W), 0..255, scaled down to whole patches."""
        scale = min(1.0, self.longest / max(image.shape[1:]))
        h, w = (max(int(side * scale) // self.patch, 1) for side in image.shape[1:])
        size = (h * self.patch, w * self.patch)
        x = image.to(next(self.model.parameters()).device).float()[None] / 255
        if x.shape[2:] != size:
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
        tokens = self.model.forward_features(normalize(x, MEAN, STD))
        return tokens[0, self.model.num_prefix_tokens :].T.reshape(-1, h, w)


DINO_MODELS = tuple(
    [f"vit_{size}_patch{patch}_224.dino" for patch in (8, 16) for size in ("small", "base")]
    + [f"vit_{size}_patch14_dinov2.lvd142m" for size in ("small", "base", "large", "giant")]
)
"""The models of the released code's ablation, by timm's names."""
