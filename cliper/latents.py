"""Latents kept between runs, under the content of everything that they were computed from.

Processes may share a folder: a file is written in full or not at all, a damaged one anew.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from hyperclip.runtime.files import write_atomically
from torch import Tensor

logger = logging.getLogger("hyperclip.cliper")


class LatentsCache:
    """A folder of latents, made when first needed; NotADirectoryError if its path holds a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise NotADirectoryError(
                f"MODEL.CLIPER.DIFFUSION.CACHE: got {str(folder)!r}, but {existing} is a file. "
                "Give a folder"
            )

    def get(
        self, key: str, shape: tuple[int, ...], like: Tensor, compute: Callable[[], Tensor]
    ) -> Tensor:
        """The latents of a hex key, shaped so and typed as ``like``: read, or computed and kept."""
        file = self.folder / f"{key}.pt"
        latents = self._read(file, shape, like)
        if latents is None:
            latents = compute()
            kept = latents.detach().cpu().clone()
            content = {"latents": kept, "digest": digest({"latents": kept})}
            try:
                write_atomically(file, lambda path: torch.save(content, path))
            except OSError as error:
                logger.warning("latents not kept in %s (%s): going on without", self.folder, error)
        return latents

    def _read(self, file: Path, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
        if not file.is_file():
            return None
        try:
            content = dict(torch.load(file, map_location="cpu", weights_only=True))
            latents = content["latents"]
            whole = content["digest"] == digest({"latents": latents})
            if whole and latents.shape == shape and latents.dtype == like.dtype:
                return latents.to(like.device)
            reason = "its content is not what was written"
        except Exception as error:  # whatever a damaged file leads to
            reason = type(error).__name__
        logger.warning("cached latents %s are damaged (%s): computing them anew", file, reason)
        return None


def digest(tensors: Mapping[str, Tensor], *others: object) -> str:
    """SHA-256 of tensors with their names, shapes and types, and of the ``repr`` of the others."""
    total = hashlib.sha256(repr(others).encode())
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().cpu().contiguous()
        total.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        total.update(value.flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return total.hexdigest()
