"""HyperCLIP: open-vocabulary semantic segmentation by hyperbolic radius adjustment of CLIP."""

from .runtime.compat import define_missing_torchvision_operators

define_missing_torchvision_operators()

__version__ = "0.1.0"
