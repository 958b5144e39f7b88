"""Models as folders that can be moved and handed on: written, found, fetched, uploaded.

config.yaml         what differs from the defaults; every program takes it as --config-file
model.safetensors   the trained weights, if the system has any
vocabulary.json     the class list, if one is set
README.md           the model card
files/              what config.yaml names besides, under names inside the folder
"""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

from .locating import LocatedModel, locate_model
from .saving import SaveOptions, push_model, save_model
