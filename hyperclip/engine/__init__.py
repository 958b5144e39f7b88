"""Engine: run setup, trainer, optimiser, checkpoints."""

from .checkpointing import StrictCheckpointer, load_strictly, read_checkpoint
from .setup import setup_run
from .trainer import Trainer

__all__ = ["StrictCheckpointer", "Trainer", "load_strictly", "read_checkpoint", "setup_run"]
