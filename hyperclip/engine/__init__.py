"""Engine: trainer, optimiser, checkpoints."""

from .checkpointing import StrictCheckpointer, load_strictly, read_checkpoint
from .trainer import Trainer

__all__ = ["StrictCheckpointer", "Trainer", "load_strictly", "read_checkpoint"]
