"""Strict loading of checkpoints, ours and the published ones, and atomic saving."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from ..adapters import adapters
from ..runtime.files import local_name, local_path, write_atomically, write_text
from ..runtime.weights import (
    HOLDS,
    TRAINED,
    find_state_dict,
    is_safetensors,
    plain_name,
    read_notes,
    read_weights,
    rename_for,
    require_fit,
)
from ..runtime.weights import UnreadableWeightsError as UnreadableCheckpointError
from ..segmenter import Segmenter
from .conversion import CLIP_PREFIX, convert_published, is_published

logger = logging.getLogger(__name__)

NUMBERED = "model_" + "[0-9]" * 7 + ".pth"
"""Pattern of the checkpoints written during a training, named after their iteration."""

OPENAI_WIDTH = 1024
"""Width of OpenAI's largest image tower, ViT-L/14."""


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict, ours or a published one, in place; ValueError, and nothing loaded, unless
    all keys and shapes match.
    """
    expected = model.state_dict()
    state = rename_for(state, expected, f"checkpoint {source}")
    if is_published(state):
        logger.info("%s has the published key names: converting", source)
        state = convert_published(state)
    advice = (
        "Check MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED (architecture) and CLIP_FINETUNE (hyperbolic for "
        "HyperCLIP's checkpoints, attention for CAT-Seg's)"
    )
    problem = f"checkpoint {source} does not fit the model of this config"
    require_fit(expected, state, problem, advice)
    model.load_state_dict(state)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """What training changes: the state dict of a system without CLIP's own, frozen entries."""
    inside = tuple(f"{name}." for name, _ in adapters(model))
    parameters = dict(model.named_parameters())
    return {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith("clip.")
        or name.startswith(inside)
        or (name in parameters and parameters[name].requires_grad)
    }


def frozen_state(model: nn.Module) -> dict[str, Tensor]:
    """The entries of a state dict that :func:`trained_state` leaves out."""
    trained = trained_state(model)
    return {name: value for name, value in model.state_dict().items() if name not in trained}


def digest_of(state: Mapping[str, Tensor]) -> str:
    """A digest of the names and values of a state dict."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        raw = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(name.encode() + raw.numpy().tobytes())
    return digest.hexdigest()[:16]


def settings_of(model: nn.Module) -> dict[str, Any]:
    """What a system computes with besides its parameters; {} for other modules."""
    return model.checkpoint_settings() if isinstance(model, Segmenter) else {}


def check_settings(
    model: nn.Module, state: Mapping[str, Tensor], saved: Mapping[str, Any] | None, source: str
) -> None:
    """ValueError, with the keys, if a checkpoint was trained with other settings than a model's.

    A published one has none ``saved``; most of them were trained on OpenAI's CLIP.
    """
    settings, patches = settings_of(model), f"{CLIP_PREFIX}visual.conv1.weight"
    widths = [len(value) for name, value in state.items() if plain_name(name) == patches]
    if saved is None and widths and widths[0] <= OPENAI_WIDTH:  # larger ones: open_clip's
        saved = {"MODEL.CLIP_ACTIVATION": "quick_gelu"}
    differing = [
        f"{key} is {value!r} there and {settings[key]!r} here"
        for key, value in (saved or {}).items()
        if key in settings and settings[key] != value
    ]
    if differing:
        raise ValueError(
            f"checkpoint {source} was trained with other settings than this config's: "
            f"{'; '.join(differing)}. Set them to what they were in training"
        )


OVER = "over"
"""A note of a file that holds only what was trained: :func:`digest_of` what it was trained over."""
DESCRIBED = ("settings", "trained_on", HOLDS, OVER)
"""What a checkpoint says besides tensors; as JSON in the metadata of safetensors."""


def read_checkpoint(path: str | Path) -> dict:
    """Read a file of torch (``weights_only=True``) or safetensors, ``{"model": state dict, …}``;
    FileNotFoundError, or UnreadableCheckpointError, for one without a state dict, too.
    """
    content = read_weights(path, "MODEL.WEIGHTS")
    state = find_state_dict(content, f"MODEL.WEIGHTS {str(path)!r}")
    others = content if isinstance(content.get("model"), Mapping) else {}
    if is_safetensors(Path(path)):
        notes = read_notes(path)
        others = {name: json.loads(notes[name]) for name in DESCRIBED if name in notes}
    return {**others, "model": state}


def completed(model: nn.Module, state: Mapping[str, Tensor], over: str) -> dict[str, Tensor]:
    """What was trained, with CLIP's own weights, which the model has loaded already; ValueError
    unless they are those that it was trained ``over``.
    """
    frozen = frozen_state(model)
    if (got := digest_of(frozen)) != over:
        raise ValueError(
            "MODEL.WEIGHTS has only what was trained over CLIP, whose own weights are others here "
            f"(digest {got}, expected {over}). Set MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED, "
            "MODEL.CLIP_WEIGHTS and CLIP_FINETUNE to what they were in training"
        )
    return {**frozen, **state}


def require_file(path: str) -> None:
    """FileNotFoundError if a local checkpoint does not exist; "" and addresses pass."""
    if path and "://" not in path and not local_path(path).is_file():
        read_checkpoint(path)  # raises with advice


def require_weights(cfg: CfgNode, model: Segmenter) -> None:
    """ValueError if the model needs a checkpoint and MODEL.WEIGHTS names none."""
    if model.needs_checkpoint and not cfg.MODEL.WEIGHTS:
        raise ValueError(
            "MODEL.WEIGHTS is empty, so the segmentation head would be random. Give a checkpoint: "
            "--opts MODEL.WEIGHTS FILE"
        )


def fetched(address: str) -> str:
    """The local copy of a file at an address; FileNotFoundError if it cannot be fetched."""
    try:
        return PathManager.get_local_path(address)
    except Exception as error:  # network trouble raises errors of many kinds
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise FileNotFoundError(
            f"MODEL.WEIGHTS: got {address!r}, which cannot be fetched ({reason}). Without a "
            "network, copy the file to this machine and give its path"
        ) from error


class StrictCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with strict loading, the published formats, and atomic writes."""

    def _load_file(self, filename: str) -> dict:
        return read_checkpoint(filename)

    def _load_model(self, checkpoint: dict) -> None:
        state, source = checkpoint.pop("model"), self.path or "file"
        check_settings(self.model, state, checkpoint.pop("settings", None), source)
        trained_on = checkpoint.pop("trained_on", None)
        over = checkpoint.pop(OVER, "")
        if checkpoint.pop(HOLDS, None) == TRAINED:
            state = completed(self.model, rename_for(state, self.model.state_dict(), source), over)
        load_strictly(self.model, state, source)
        if trained_on is not None and isinstance(self.model, Segmenter):
            self.model.trained_on = tuple(trained_on)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict:
        """Load a checkpoint; "" loads nothing."""
        self.path = path = fetched(path) if "://" in path else local_name(path)
        require_file(path)
        try:
            return super().load(path, *args, **kwargs)
        finally:
            self._parsed_url_during_load = None  # Detectron2 forgets to when a file cannot be read

    def has_checkpoint(self) -> bool:
        """Whether there is something to resume from."""
        return bool(self.save_dir and resumable_files(self.save_dir))

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict:
        """Resume from the last checkpoint that can be read, or if there is none, load ``path``;
        UnreadableCheckpointError if none of several can be read, ValueError if one misfits.
        """
        candidates = resumable_files(self.save_dir) if resume and self.save_dir else []
        if not candidates:
            return self.load(path, checkpointables=[])
        for candidate in candidates:
            try:
                return self.load(str(candidate))
            except UnreadableCheckpointError as error:
                logger.warning("%s\nTrying the checkpoint before it", error)
        raise UnreadableCheckpointError(
            f"--resume: none of {[p.name for p in candidates]} in {self.save_dir!r} can be read. "
            "Start without --resume in another OUTPUT_DIR"
        )

    def save(self, name: str, tag: bool = True, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` in full or not at all: the model and, with ``tag``, the
        state of all ``checkpointables``, as the one to resume from.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), "settings": settings_of(self.model)}
        if isinstance(self.model, Segmenter):
            data["trained_on"] = list(self.model.trained_on)
        parts = self.checkpointables if tag else {}
        data |= {key: obj.state_dict() for key, obj in parts.items()} | kwargs
        target = Path(self.save_dir) / f"{name}.pth"
        logger.info("Saving checkpoint to %s", target)
        write_atomically(target, lambda temporary: torch.save(data, temporary))
        if tag:
            write_text(target.with_name("last_checkpoint"), target.name)

    def keep_last(self, count: int) -> None:
        """Remove all numbered checkpoints but the ``count`` newest ones; 0 keeps them all."""
        numbered = [path for path in resumable_files(self.save_dir) if path.match(NUMBERED)]
        for path in numbered[count:] if count and self.save_to_disk else ():
            path.unlink()


def resumable_files(folder: str | Path) -> list[Path]:
    """Checkpoints of a folder to go on from: the one that ``last_checkpoint`` names, then numbered
    ones, the newest first. Their numbers do not count: an earlier run may have left some.
    """
    folder = Path(folder)
    note = folder / "last_checkpoint"
    name = note.read_text(encoding="utf-8", errors="replace").strip() if note.is_file() else ""
    numbered = sorted(folder.glob(NUMBERED), key=lambda path: (path.stat().st_mtime_ns, path.name))
    candidates = (folder / name, *reversed(numbered))
    return list(dict.fromkeys(path for path in candidates if path.is_file()))
