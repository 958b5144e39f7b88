"""A memory bank's file: safetensors with the regions, the images they are of, and the model.

Shapes: M regions, C embedding, h w grid.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .. import __version__
from ..runtime.files import write_atomically
from .model_print import ModelPrint

KIND, FORMAT = "hyperclip memory bank", "1"
"""What the file says that it is, and the version of what is described here."""
EVERY = 64
"""Images of a file in the folder of a bank that is not done."""
NOT_UNIT = 1e-3
"""How far from 1 the norm of a region's embedding may be."""


@dataclass(frozen=True)
class BankImage:
    """An image that a bank has regions of: its name, the SHA-256 of its file, how many."""

    name: str
    sha256: str
    regions: int


@dataclass(frozen=True)
class Bank:
    """Regions of images as a model sees them.

    Attributes:
        regions: unit embeddings, float32 (M, C), image after image.
        cut: how images were cut into regions, in plain values.
    """

    regions: Tensor
    images: tuple[BankImage, ...]
    model: ModelPrint
    cut: Mapping[str, Any]

    @classmethod
    def join(cls, banks: Iterable[Bank], model: ModelPrint, cut: Mapping[str, Any]) -> Bank:
        """All images of banks of the same model, each once, by its hash."""
        regions, images, known = [], [], set()
        for bank in banks:
            parts = bank.regions.split([image.regions for image in bank.images])
            for image, part in zip(bank.images, parts, strict=True):
                if image.sha256 not in known:
                    known.add(image.sha256)
                    images.append(image)
                    regions.append(part)
        empty = model.probe.new_empty(0, len(model.probe))
        return cls(torch.cat([empty, *regions]), tuple(images), model, cut)


def write_bank(path: Path, bank: Bank) -> None:
    """Write a bank, in full or not at all; OSError if it cannot be written."""
    listed = [[image.name, image.sha256, image.regions] for image in bank.images]
    tensors = {
        "regions": bank.regions.float().cpu().contiguous(),
        "probe": bank.model.probe.contiguous(),
        # no note: the header of safetensors has a limit, which a million of names would pass
        "images": torch.from_numpy(np.frombuffer(json.dumps(listed).encode(), np.uint8).copy()),
    }
    notes = {
        "kind": KIND,
        "format": FORMAT,
        "hyperclip": __version__,
        "torch": torch.__version__,
        "system": bank.model.system,
        "weights": bank.model.weights,
        "settings": json.dumps(bank.model.settings),
        "cut": json.dumps(bank.cut),
    }
    write_atomically(path, lambda part: save_file(tensors, part, metadata=notes))


def read_bank(path: Path, what: str) -> Bank:
    """Read a bank, ``what`` in messages.

    Raises:
        FileNotFoundError: no such file. ValueError: a damaged file, another kind of file, or one of
            another format.
    """
    if not path.is_file():
        advice = "Build it with hyperclip-build-bank, or give the path of one"
        raise FileNotFoundError(f"{what}: got {str(path)!r}, which does not exist. {advice}")
    try:
        with safe_open(str(path), "pt") as file:
            notes = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:  # the library's own, of several kinds
        reason = " ".join(str(error).split())[:200]
        problem = f"cannot be read ({reason}); was the copy or download cut short?"
        raise ValueError(f"{what}: {str(path)!r} {problem}") from error
    if notes.get("kind") != KIND:
        problem = "is a safetensors file, but no memory bank"
        raise ValueError(f"{what}: {str(path)!r} {problem}. Build one with hyperclip-build-bank")
    if notes.get("format") != FORMAT:
        got = f"got format {notes.get('format')!r} of hyperclip {notes.get('hyperclip')!r}"
        raise ValueError(
            f"{what}: {str(path)!r}: {got}, expected {FORMAT!r}. Build it anew with this version"
        )
    try:
        return _bank_of(tensors, notes)
    except (KeyError, ValueError, TypeError) as error:
        problem = f"is damaged ({type(error).__name__}: {error})"
        raise ValueError(f"{what}: {str(path)!r} {problem}. Build it anew") from error


def _bank_of(tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> Bank:
    listed = json.loads(tensors["images"].numpy().tobytes())
    images = tuple(BankImage(str(name), str(sha), int(count)) for name, sha, count in listed)
    regions, probe = tensors["regions"], tensors["probe"]
    if regions.dim() != 2 or probe.dim() != 3 or regions.shape[1] != len(probe):
        raise ValueError(f"shapes {tuple(regions.shape)} and {tuple(probe.shape)}")
    if sum(image.regions for image in images) != len(regions):
        raise ValueError(f"{len(regions)} regions, but other counts in its list of images")
    if not bool(((regions.norm(dim=1) - 1).abs() < NOT_UNIT).all()):  # NaN is not, either
        raise ValueError("a region's embedding that has not the length 1")
    settings, cut = json.loads(notes["settings"]), json.loads(notes["cut"])
    return Bank(
        regions, images, ModelPrint(notes["system"], notes["weights"], probe, settings), cut
    )


class GrowingBank:
    """A bank's file to which images are added: what is new is kept in a folder beside it, a file
    every ``EVERY`` images, until :meth:`finish` joins all; so a run that was killed goes on.

    Args:
        output: the file, which may be there. model, cut: see :class:`Bank`.
    Raises:
        ValueError: the file or the folder is damaged, of another model or cut in another way.
    """

    def __init__(self, output: Path, model: ModelPrint, cut: Mapping[str, Any]) -> None:
        self.output, self.model, self.cut = output, model, dict(cut)
        self.folder = output.with_name(f"{output.name}.parts")
        self._new: list[tuple[BankImage, Tensor]] = []
        self._known = {image.sha256 for bank in self._kept() for image in bank.images}

    def __len__(self) -> int:
        """How many images it has."""
        return len(self._known)

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._known

    def add(self, name: str, sha256: str, regions: Tensor) -> None:
        """Add the regions (M, C) of an image that is not in it; there may be none."""
        self._known.add(sha256)
        self._new.append((BankImage(name, sha256, len(regions)), regions.float().cpu()))
        if len(self._new) >= EVERY:
            self.flush()

    def flush(self) -> None:
        """Keep in the folder what is in memory alone."""
        if self._new:
            images, regions = zip(*self._new, strict=True)
            part = Bank(torch.cat(regions), images, self.model, self.cut)
            write_bank(self.folder / f"{images[0].sha256}.safetensors", part)
            self._new = []

    def finish(self) -> Bank:
        """Write the file with all images, if there are new ones, and remove the folder; what the
        file has.
        """
        self.flush()
        bank = Bank.join(self._kept(), self.model, self.cut)
        if self._parts() or not self.output.exists():
            write_bank(self.output, bank)
        for part in self._parts():
            part.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
        return bank

    def _parts(self) -> list[Path]:
        parts = self.folder.glob("*.safetensors") if self.folder.is_dir() else ()
        return sorted(part for part in parts if not part.name.startswith("."))

    def _kept(self) -> Iterable[Bank]:
        """What is in the file and in the folder, one after the other."""
        if self.output.exists():
            yield self._checked(self.output, "Choose another --output")
        for part in self._parts():
            yield self._checked(
                part, f"Remove the folder {self.folder}, or choose another --output"
            )

    def _checked(self, path: Path, advice: str) -> Bank:
        bank = read_bank(path, "--output")
        self.model.require_same(bank.model, f"--output: {str(path)!r}", advice)
        if dict(bank.cut) != self.cut:
            cuts = f"got regions by {dict(bank.cut)}, expected {self.cut}"
            raise ValueError(f"--output: {str(path)!r}: {cuts}. {advice}")
        return bank
