"""Writing a model as a folder, in full or not at all, and uploading one."""

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from safetensors import SafetensorError
from torch import Tensor

from .. import hub
from ..adapters import adapter_names, adapters, merge
from ..checkpoints.checkpointer import OVER, digest_of, frozen_state, settings_of, trained_state
from ..clip import activation_of
from ..load import load_system
from ..runtime.files import refused, user_path
from ..runtime.finite import HALF
from ..runtime.weights import HOLDS, TRAINED
from ..segmenter import Segmenter
from ..vocabulary import Vocabulary
from . import card, portable
from .layout import CARD, CONFIG, ENTRIES, FIRST_LINE, WEIGHTS, is_saved_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SaveOptions:
    """What a model's folder holds.

    Attributes:
        only: "" for all weights, "trained" for those that training changed: CLIP is loaded under
            them from where the config says.
        vocabulary: the class list, None for the one that the config names, if any.
        measured: what is known of its accuracy, with the protocol, in Markdown, for the card.
        name: what the card calls it.
    """

    only: str = ""
    vocabulary: Vocabulary | None = None
    measured: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        if self.only not in ("", TRAINED):
            raise ValueError(f"only: got {self.only!r}, expected '' (everything) or {TRAINED!r}")


def save_model(model: Segmenter, cfg: CfgNode, folder: str | Path, options: SaveOptions) -> Path:
    """Write a model of a config as a folder, in full or not at all; its path.

    A folder that holds a saved model is replaced, and what else is in it stays.

    Raises:
        ValueError: a folder that holds something else; nothing was trained, or it is merged into
            CLIP, and ``only`` what was trained is wanted.
        OSError: the folder cannot be written.
    """
    target = user_path(folder).resolve()
    _require_free(target)
    name = options.name or target.name
    with new_folder(target) as new:
        _write(new, model, cfg, options, name)
    logger.info("Saved %s", target)
    return target


def push_model(
    model: Segmenter,
    cfg: CfgNode,
    repository: str,
    options: SaveOptions,
    **upload: Any,
) -> str:
    """Upload what :func:`save_model` writes, see :func:`hyperclip.hub.upload_folder`; the address
    of the commit.
    """
    if not hub.is_repository(repository):
        raise ValueError(f"push_to_hub: got {repository!r}, expected OWNER/NAME")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        folder.mkdir()
        _write(folder, model, cfg, options, options.name or repository)
        return hub.upload_folder(folder, repository, **upload)


def _write(folder: Path, model: Segmenter, cfg: CfgNode, options: SaveOptions, name: str) -> None:
    if cfg.MODEL.ENSEMBLE.CONFIGS:
        raise ValueError(
            "save_pretrained: got an ensemble, which is its members' files; save each of them, and "
            "name their folders' config.yaml in MODEL.ENSEMBLE.CONFIGS"
        )
    settings = portable.portable_settings(cfg)
    if left := portable.named_images(cfg):
        logger.warning(
            "save_pretrained leaves out %s: nothing of images is saved. Set it again where the "
            "model is loaded",
            ", ".join(left),
        )
    if not model.takes_checkpoint:
        if options.only:
            raise ValueError(
                f"only: got {options.only!r}, but {type(model).__name__} is training-free. Leave "
                "it out"
            )
        portable.copy_files(settings, folder, with_clip=True)
    elif options.only:
        _write_trained(folder, model, cfg, settings)
    else:
        _write_whole(folder, model, cfg, settings)
    vocabulary = portable.copy_vocabulary(settings, folder, options.vocabulary)
    first = f"{FIRST_LINE} Load it with hyperclip.Predictor.from_pretrained(FOLDER).\n"
    content = first + yaml.safe_dump(_nested(settings), allow_unicode=True, default_flow_style=None)
    (folder / CONFIG).write_text(content, encoding="utf-8")
    text = card.model_card(model, cfg, name, options.only, options.measured, vocabulary)
    (folder / CARD).write_text(text, encoding="utf-8")


def _require_float32(model: Segmenter) -> None:
    """ValueError for weights that were rounded to half precision."""
    for value in model.state_dict().values():
        if value.dtype in HALF:
            raise ValueError(
                f"save_pretrained: got weights in {str(value.dtype).removeprefix('torch.')}, "
                "expected float32, as they were trained. Load the model with TEST.PRECISION float32"
            )


def _write_whole(folder: Path, model: Segmenter, cfg: CfgNode, settings: dict[str, Any]) -> None:
    """Write all weights as they are, adapters merged or not."""
    _require_float32(model)
    if _is_merged(model, cfg):
        settings["MODEL.ADAPTER.MERGED"] = True
    if portable.names_file(cfg.MODEL.CLIP_WEIGHTS):
        del settings[portable.CLIP_WEIGHTS]  # the model's file has its weights; this is the rest
        settings["MODEL.CLIP_ACTIVATION"] = activation_of(model.clip) or "auto"
        settings["MODEL.CLIP_PIXEL_MEAN"] = model.pixel_mean.flatten().tolist()
        settings["MODEL.CLIP_PIXEL_STD"] = model.pixel_std.flatten().tolist()
    portable.copy_files(settings, folder, with_clip=False)
    portable.save_tensors(model.state_dict(), folder / WEIGHTS, _notes(model))
    settings["MODEL.WEIGHTS"] = WEIGHTS


def _write_trained(folder: Path, model: Segmenter, cfg: CfgNode, settings: dict[str, Any]) -> None:
    """Write what training changed, adapters apart."""
    _require_float32(model)
    state, notes = _trained(model, cfg)
    if not state:
        raise ValueError("only: got 'trained', but nothing of this model trains. Leave it out")
    if portable.names_file(cfg.MODEL.CLIP_WEIGHTS):
        settings["MODEL.CLIP_ACTIVATION"] = activation_of(model.clip) or "auto"
    portable.copy_files(settings, folder, shipped=False)
    portable.save_tensors(state, folder / WEIGHTS, notes)
    settings["MODEL.WEIGHTS"] = WEIGHTS


def _trained(model: Segmenter, cfg: CfgNode) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What training changed, and the notes of its file; if the model's adapters are merged, both
    are read again from the checkpoint, which has to be the one that the model is of.
    """
    if not _is_merged(model, cfg):
        return trained_state(model), _notes_of_trained(model)
    problem = "only: got 'trained', but the adapters of this model are merged into CLIP"
    if cfg.MODEL.ADAPTER.MERGED or not cfg.MODEL.WEIGHTS:
        raise ValueError(f"{problem}. Load it from the checkpoint of its training, or leave it out")
    again = load_system(cfg, merged=False)
    state, notes = trained_state(again), _notes_of_trained(again)
    merge(again)
    own, other = model.state_dict(), again.state_dict()
    if own.keys() != other.keys() or not all(torch.equal(own[n], other[n]) for n in own):
        changed = f"{cfg.MODEL.WEIGHTS!r} does not hold the weights that this model has"
        raise ValueError(f"{problem}, and {changed}. Leave it out")
    return state, notes


def _is_merged(model: Segmenter, cfg: CfgNode) -> bool:
    """Whether a config names adapters, and the model has none."""
    named = adapter_names(cfg.MODEL.SEM_SEG_HEAD.CLIP_FINETUNE)
    return bool(named) and not any(True for _ in adapters(model))


def _notes(model: Segmenter) -> dict[str, str]:
    """What a checkpoint says besides tensors."""
    notes = {"settings": settings_of(model), "trained_on": list(model.trained_on)}
    return {name: json.dumps(value) for name, value in notes.items()}


def _notes_of_trained(model: Segmenter) -> dict[str, str]:
    """The same of a file that holds only what was trained."""
    over = digest_of(frozen_state(model))
    return {**_notes(model), HOLDS: json.dumps(TRAINED), OVER: json.dumps(over)}


def _nested(settings: dict[str, Any]) -> dict[str, Any]:
    """Sections in sections of keys with dots."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return tree


def _require_free(target: Path) -> None:
    """ValueError for a folder that holds something else than a saved model, or a file."""
    if target.is_dir() and any(target.iterdir()) and not is_saved_model(target):
        raise ValueError(
            f"save_pretrained: {str(target)!r} is not empty and holds no saved model. Choose "
            "another folder, or empty this one"
        )
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"save_pretrained: {str(target)!r} is a file. Choose another name")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write into that becomes the target, unless something is raised: then the target
    stays as it was.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=target if target.is_dir() else target.parent,
            prefix=f".{target.name[:40]}.",
            ignore_cleanup_errors=True,
        ) as place:
            new = Path(place) / "new"
            new.mkdir()
            yield new
            if target.is_dir():
                _exchange(new, target, Path(place) / "old")
            else:
                new.rename(target)
    except SafetensorError as error:
        raise OSError(f"{str(target)!r} cannot be written ({error})") from error
    except OSError as error:
        if error.errno is None:  # one of our own, which says what is wrong
            raise
        raise refused(error, f"{str(target)!r} cannot be written") from error


def _exchange(new: Path, target: Path, old: Path) -> None:
    """Put the entries of a new folder in the place of the target's, or leave these as they are."""
    old.mkdir()
    try:
        for name in ENTRIES:
            if (target / name).exists():
                (target / name).rename(old / name)
            if (new / name).exists():
                (new / name).rename(target / name)
    except OSError:
        for path in old.iterdir():
            if (target / path.name).exists():
                (target / path.name).rename(new / path.name)
            path.rename(target / path.name)
        raise
