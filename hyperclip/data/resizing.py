"""Resizing images to a shortest side."""

import numpy as np
from detectron2.data import transforms as T


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's, for images of any shape: no side becomes 0 where the longest one is limited."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The resize of an image (H, W, C); the random number is drawn as in the parent."""
        resize = super().get_transform(image)
        if isinstance(resize, T.ResizeTransform) and min(resize.new_h, resize.new_w) < 1:
            size = max(resize.new_h, 1), max(resize.new_w, 1)
            return T.ResizeTransform(resize.h, resize.w, *size, resize.interp)
        return resize
