"""Pixel statistics of CLIP's training images, on the 0..255 scale, RGB order."""

CLIP_MEAN: tuple[float, float, float] = (122.7709383, 116.7460125, 104.09373615)
CLIP_STD: tuple[float, float, float] = (68.5005327, 66.6321579, 70.3231630)
