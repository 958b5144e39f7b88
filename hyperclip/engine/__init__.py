"""Engine: run setup, trainer, optimiser, checkpoints, vocabularies of a run."""

from .checkpointing import StrictCheckpointer, load_strictly, read_checkpoint, require_weights
from .setup import setup_run
from .trainer import Trainer

__all__ = ["StrictCheckpointer", "Trainer", "load_strictly", "read_checkpoint", "require_weights", "setup_run"]
