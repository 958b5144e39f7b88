"""Training: the trainer, its step, optimiser, hooks, writers, launcher and run folder."""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

from .run_folder import setup_run
from .trainer import Trainer
