"""The residual attention blocks of CLIP's own towers."""

from __future__ import annotations


def tower(clip, encoder):
    """Blocks of the "vision" or "text" tower of an open_clip.CLIP with a ViT."""
    return clip.visual.transformer.resblocks if encoder == "vision" else clip.transformer.resblocks
