"""CLIP: loading, image and text towers of open_clip's families, embeddings of names."""

from ..normalization import CLIP_MEAN, CLIP_STD
from .activation import activation_of
from .embedder import TextEmbedder, mean_class
from .image_tower import check_layers, encode_dense
from .loading import LoadedClip, load_clip
from .text_tower import encode_text, tokenize
