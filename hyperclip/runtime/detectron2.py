"""Import this before Detectron2: then it is there, or an error says how to install it."""

from .compat import require_detectron2

require_detectron2()
