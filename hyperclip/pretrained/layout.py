"""What is in the folder of a saved model."""

from pathlib import Path

CONFIG = "config.yaml"
WEIGHTS = "model.safetensors"
VOCABULARY = "vocabulary.json"
CARD = "README.md"
FILES = "files"
ENTRIES = (CONFIG, WEIGHTS, VOCABULARY, CARD, FILES)
FIRST_LINE = "# A model that hyperclip saved."
"""The beginning of config.yaml, by which such a folder is known."""


def is_saved_model(folder: Path) -> bool:
    """Whether a folder was written by :func:`hyperclip.pretrained.save_model`."""
    config = folder / CONFIG
    if not config.is_file():
        return False
    with config.open(encoding="utf-8", errors="replace") as file:
        return file.readline().startswith(FIRST_LINE)
