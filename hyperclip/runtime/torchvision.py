"""Import this before open_clip or torchvision: then either can be imported next to a CPU-only
torch.
"""

from .compat import define_missing_torchvision_operators

define_missing_torchvision_operators()
