"""What is done of a large image, on disk: a folder with a file for each piece, so that a run goes
on after whatever ended it, and the settings that its pieces are of.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.files import read_json, write_atomically, write_text
from .lattice import Box

SETTINGS = "settings.json"


class Pieces:
    """The folder ``OUTPUT.parts`` of an output file.

    Args:
        settings: plain values that decide the labels.
        restart: forget what is there.
    Raises:
        ValueError: the folder has pieces of other settings. OSError: it cannot be written.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], restart: bool = False) -> None:
        self.folder = folder_of(output)
        self.settings: dict[str, Any] = json.loads(json.dumps(settings, default=str))
        file = self.folder / SETTINGS
        if restart and self.folder.exists():
            shutil.rmtree(self.folder)
        if file.exists():
            self._need_same(read_json(file, "earlier pieces"))
            return
        write_text(file, json.dumps(self.settings, indent=1))

    def __contains__(self, box: Box) -> bool:
        return self._file(box).is_file()

    def add(self, box: Box, labels: np.ndarray) -> None:
        """Keep the labels (H, W) of a piece; OSError, in one line, if the disk is full."""

        def write(part: Path) -> None:
            with part.open("wb") as file:
                np.savez_compressed(file, labels=labels)

        try:
            write_atomically(self._file(box), write)
        except OSError as error:
            done = f"What is done stays in {str(self.folder)!r}, and the same command goes on"
            raise type(error)(f"{error}. {done}") from error

    def read(self, box: Box) -> np.ndarray:
        """The labels of a piece; ValueError for a damaged file, which is removed then."""
        file = self._file(box)
        try:
            with np.load(file) as arrays:
                labels = arrays["labels"]
            if labels.shape != box.size:
                raise ValueError(f"got {labels.shape}, expected {box.size}")
        except OSError:
            raise
        except Exception as error:  # numpy raises errors of many kinds for damaged files
            file.unlink()
            raise ValueError(
                f"{str(file)!r} was damaged and is removed. Give the same command again, which "
                "computes it anew"
            ) from error
        return labels

    def remove(self) -> None:
        """Remove the folder: all is done."""
        shutil.rmtree(self.folder)

    def _file(self, box: Box) -> Path:
        return self.folder / f"row{box.top}_column{box.left}.npz"

    def _need_same(self, earlier: Any) -> None:
        known = earlier if isinstance(earlier, dict) else {}
        for key in {**self.settings, **known}:
            got, expected = self.settings.get(key), known.get(key)
            if got != expected:
                raise ValueError(
                    f"{str(self.folder)!r} is of an earlier run with another {key}: got "
                    f"{_short(got)}, expected {_short(expected)}. Give the same to go on, another "
                    "output, or restart"
                )


def folder_of(output: Path) -> Path:
    """Where the pieces of an output file are until it is written."""
    return output.with_name(f"{output.name}.parts")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}…"
