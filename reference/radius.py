"""Slow twins of :mod:`hyperclip.analysis.radius`: towers that are really cut off after a block, and
the radius as the distance that it is.

Shapes: P prompts, B images, N tokens, C embedding.
"""

import copy
import math

import torch
from hyperclip.clip.image_tower import encode_dense
from hyperclip.clip.text_tower import encode_text
from torch import Tensor, nn


def text_after(clip: nn.Module, tokens: Tensor, blocks: int) -> Tensor:
    """Embeddings (P, C) of token ids (P, N) by a text tower of so many blocks."""
    short = copy.deepcopy(clip)
    short.transformer.resblocks = short.transformer.resblocks[:blocks]
    return encode_text(short, tokens)


def images_after(clip: nn.Module, images: Tensor, blocks: int) -> Tensor:
    """Embeddings (B, C) of images of CLIP's own size, by open_clip, with so many blocks."""
    short = copy.deepcopy(clip)
    short.visual.transformer.resblocks = short.visual.transformer.resblocks[:blocks]
    return short.encode_image(images)


def patches(clip: nn.Module, images: Tensor) -> Tensor:
    """Embeddings (B, N, C) of the patches, as the head gets them."""
    return encode_dense(clip.visual, images).embeddings.flatten(2).mT


def radius_through_the_ball(v: Tensor, c: float) -> Tensor:
    """``(2 / sqrt(c)) artanh(sqrt(c) |exp0(v)|)``, number by number, in float64."""
    found = []
    for one in v.double().tolist():
        norm = math.sqrt(sum(number**2 for number in one))
        point = math.tanh(math.sqrt(c) * norm) / math.sqrt(c)
        found.append(2 / math.sqrt(c) * math.atanh(math.sqrt(c) * point))
    return torch.tensor(found)
