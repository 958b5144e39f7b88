"""CLIPer (ICCV 2025), training-free segmentation. Importing it registers its keys and its model."""

from hyperclip.runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

from hyperclip.config.keys import extend_config

from . import export_parts, zoo
from .config import CLIPER_RULES, add_cliper_config
from .meta_arch import CLIPer
from .refiner import REFINER_REGISTRY

extend_config(add_cliper_config, CLIPER_RULES)
