"""Checkpoints: strict loading of ours and the published ones, atomic saving."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..files import write_atomically
from .published import convert_published, is_published

logger = logging.getLogger(__name__)

NUMBERED = "model_" + "[0-9]" * 7 + ".pth"
"""Checkpoints that were written while training, by iteration."""


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict, ours or a published one, in place; every key of both sides has to be accounted for.

    Raises:
        ValueError: missing or unexpected keys, or other shapes; nothing is loaded then.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if is_published(state):
        logger.info("%s has the published key names: converting", source)
        state = convert_published(state)
    own = model.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{k}: file {tuple(state[k].shape)}, model {tuple(v.shape)}"
        for k, v in own.items()
        if k in state and state[k].shape != v.shape
    ]
    if missing or unexpected or shapes:
        raise ValueError(
            f"checkpoint {source} does not fit the model of this config.\n"
            f"  {len(missing)} keys missing from the file: {_first(missing)}\n"
            f"  {len(unexpected)} keys unexpected: {_first(unexpected)}\n"
            f"  {len(shapes)} of another shape: {_first(shapes)}\n"
            "Check MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED (architecture) and CLIP_FINETUNE (hyperbolic for HyperCLIP's "
            "checkpoints, attention for CAT-Seg's)"
        )
    model.load_state_dict(state)


class UnreadableCheckpointError(ValueError):
    """A checkpoint file that is cut short, or none."""


def read_checkpoint(path: str | Path) -> dict:
    """Read a checkpoint file (torch, ``weights_only=True``, or safetensors) into ``{"model": state dict, …}``.

    Raises:
        FileNotFoundError: no such file. UnreadableCheckpointError: a file that cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"MODEL.WEIGHTS: got {str(path)!r}, which does not exist. Give the path of a local file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(str(path))
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UnreadableCheckpointError(
            f"MODEL.WEIGHTS {str(path)!r} cannot be read ({type(error).__name__}: {str(error)[:200]}). Expected a "
            "checkpoint saved by torch or a safetensors file; was the copy cut short?"
        ) from error
    if "model" in content and isinstance(content["model"], Mapping):
        return dict(content)
    return {"model": dict(content.get("state_dict", content))}


def require_weights(cfg: CfgNode, model: nn.Module) -> None:
    """ValueError if the head has parameters and MODEL.WEIGHTS names no checkpoint to fill them from."""
    head: Any = getattr(model, "sem_seg_head", None)  # a system without one, such as CLIPer, needs no checkpoint
    if head is not None and not cfg.MODEL.WEIGHTS and any(True for _ in head.parameters()):
        raise ValueError(
            "MODEL.WEIGHTS is empty, so the segmentation head would be random. Give a checkpoint: --opts MODEL.WEIGHTS FILE"
        )


class StrictCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with strict loading, the published formats, and atomic writes."""

    def _load_file(self, filename: str) -> dict:
        return read_checkpoint(filename)

    def _load_model(self, checkpoint: dict) -> None:
        load_strictly(self.model, checkpoint.pop("model"), self.path or "file")

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict:
        """Load a checkpoint; "" loads nothing."""
        self.path = path
        if path and "://" not in path and not os.path.isfile(path):
            read_checkpoint(path)  # raises with advice
        try:
            return super().load(path, *args, **kwargs)
        finally:
            self._parsed_url_during_load = None  # Detectron2 leaves it behind when a file cannot be read

    def has_checkpoint(self) -> bool:
        """Whether there is something to resume from."""
        return bool(self.resumable_files())

    def resumable_files(self) -> list[Path]:
        """Checkpoints of this folder's run: first the one that was written last, then the others from the latest on."""
        folder = Path(self.save_dir)
        numbered = sorted(folder.glob(NUMBERED), reverse=True)
        last = Path(self.get_checkpoint_file()) if self.save_dir else folder
        return [*([last] if last.is_file() else []), *(path for path in numbered if path != last)]

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict:
        """Resume from the last checkpoint, or from the one before where that cannot be read; without any load ``path``.

        Raises:
            UnreadableCheckpointError: no checkpoint of the folder can be read. ValueError: one that does not fit.
        """
        candidates = self.resumable_files() if resume else []
        if not candidates:
            return self.load(path, checkpointables=[])
        for candidate in candidates:
            try:
                return self.load(str(candidate))
            except UnreadableCheckpointError as error:
                logger.warning("%s\nTrying the checkpoint before it", error)
        raise UnreadableCheckpointError(
            f"--resume: none of {[p.name for p in candidates]} in {self.save_dir!r} can be read. Start without --resume in "
            "another OUTPUT_DIR"
        )

    def save(self, name: str, tag: bool = True, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` in full or not at all.

        Args:
            tag: make it the one to resume from, which needs the state of ``checkpointables``; else only the model is written.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        if tag:
            data |= {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        data |= kwargs
        target = Path(self.save_dir) / f"{name}.pth"
        logger.info("Saving checkpoint to %s", target)
        write_atomically(target, lambda temporary: torch.save(data, temporary))
        if tag:
            self.tag_last_checkpoint(target.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note which file is to be resumed from."""
        write_atomically(Path(self.save_dir) / "last_checkpoint", lambda p: p.write_text(last_filename_basename))

    def keep_last(self, count: int) -> None:
        """Remove all numbered checkpoints but the last ``count``; 0 keeps them all."""
        if count and self.save_to_disk:
            for path in sorted(Path(self.save_dir).glob(NUMBERED))[:-count]:
                path.unlink()


def _first(items: list[str], count: int = 10) -> str:
    more = f" … and {len(items) - count} more" if len(items) > count else ""
    return (", ".join(items[:count]) + more) or "none"
