"""Import this before Detectron2, open_clip or torchvision: then each of them can be imported, or
says why not.
"""

from .compat import define_missing_torchvision_operators, require_detectron2

define_missing_torchvision_operators()
require_detectron2()
