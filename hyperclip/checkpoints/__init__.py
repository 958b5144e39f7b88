"""Checkpoints: strict loading and saving, and the key names of CAT-Seg and HyperCLIP."""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

from .checkpointer import StrictCheckpointer, load_strictly, read_checkpoint, require_weights
