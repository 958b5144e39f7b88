"""CLIPer: training-free open-vocabulary segmentation (ICCV 2025). Importing it registers its keys and its model."""

from hyperclip.runtime.compat import require_detectron2

require_detectron2()

from hyperclip.config.keys import extend_config  # noqa: E402

from .config import CLIPER_RULES, add_cliper_config  # noqa: E402

extend_config(add_cliper_config, CLIPER_RULES)

from .meta_arch import CLIPer  # noqa: E402
from .refiner import REFINER_REGISTRY  # noqa: E402

__all__ = ["REFINER_REGISTRY", "CLIPer", "add_cliper_config"]
