"""Models as files for other runtimes, whose words can change: text embeddings are an input."""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

from .views import of_hyperclip
from .writing import FORMATS, ExportOptions, check_config, export_folder
