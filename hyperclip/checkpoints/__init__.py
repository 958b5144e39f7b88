"""Checkpoints: strict loading and saving, and the key names of CAT-Seg and HyperCLIP."""

from .checkpointer import StrictCheckpointer, load_strictly, read_checkpoint, require_weights

__all__ = ["StrictCheckpointer", "load_strictly", "read_checkpoint", "require_weights"]
