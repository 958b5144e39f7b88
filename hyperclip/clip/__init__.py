"""CLIP: loading, the dense image tower, the text tower."""

from .activation import activation_of
from .loading import LoadedClip, load_clip
from .normalization import CLIP_MEAN, CLIP_STD
from .text import encode_text, tokenize
from .visual import check_layers, encode_dense

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "LoadedClip",
    "activation_of",
    "check_layers",
    "encode_dense",
    "encode_text",
    "load_clip",
    "tokenize",
]
