"""A config for another machine: what it names is copied into its folder."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from safetensors.torch import save_file
from torch import Tensor

from ..clip.loading import read_state_dict
from ..clip.open_clip_folders import is_model_folder
from ..config import changed_settings, input_keys, output_keys
from ..runtime.files import local_path, portable_name
from ..runtime.weights import find_state_dict, read_weights
from ..vocabulary import Vocabulary, load_vocabulary
from .layout import FILES, VOCABULARY

LEFT_OUT = ("MODEL.DEVICE", "OVERWRITE", "WANDB", "DATALOADER", "DATASETS.FILES")
"""Keys, or beginnings of them, that are about a machine and not about the model."""
OF_IMAGES = {
    "TEST.BANK.FILE": "TEST.BANK.",
    "TEST.EXAMPLES.FOLDER": "TEST.EXAMPLES.FOLDER",
    "TEST.REGIONS.FOLDER": "TEST.REGIONS.",
}
"""Keys that name what stages were given of images, and what is left out with each, as a beginning
of keys: images are not copied without being asked, and a memory bank is of the weights before
adapters were merged."""
PLAIN = (".json", ".txt", ".model", ".yaml", ".md", ".safetensors")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
RENAMED = {
    "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
    "pytorch_model.bin": "model.safetensors",
}
"""What libraries call the same weights as safetensors, where not only the ending differs."""
CLIP, CLIP_WEIGHTS = "MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED", "MODEL.CLIP_WEIGHTS"
TRAIN_CLASSES = "MODEL.SEM_SEG_HEAD.TRAIN_CLASS_JSON"
TEST_CLASSES = "MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON"


def names_file(name: str) -> bool:
    """Whether a value of a config is the name of a file that is here."""
    return bool(name) and local_path(name).is_file()


def portable_settings(cfg: CfgNode) -> dict[str, Any]:
    """The values of a config by key that make the model: none that is a default, about this
    machine, or of :data:`OF_IMAGES`.
    """
    changed = changed_settings(cfg)
    left_out = (*LEFT_OUT, *output_keys(), *(OF_IMAGES[key] for key in named_images(cfg)))
    settings = {k: v for k, v in changed.items() if not k.startswith(left_out)}
    if cfg.DATASETS.FILES:  # which describe the datasets that these name
        settings = {k: v for k, v in settings.items() if not k.startswith("DATASETS.")}
    return settings


def named_images(cfg: CfgNode) -> list[str]:
    """The keys of :data:`OF_IMAGES` that a config sets."""
    return [key for key in OF_IMAGES if key in changed_settings(cfg)]


def copy_files(
    settings: dict[str, Any], folder: Path, with_clip: bool = True, shipped: bool = True
) -> None:
    """Copy the files and folders of this machine that settings name into a model's folder, and have
    the settings name the copies, in place. Weights become safetensors.

    Args:
        with_clip: copy CLIP's own weights too; without, the model's file holds them.
        shipped: copy what ships with the package too; without, it keeps its name.
    Raises:
        FileNotFoundError, ValueError: what is named cannot be read.
    """
    for key in input_keys():
        name = settings.get(key)
        if not isinstance(name, str) or key in (TEST_CLASSES, "MODEL.WEIGHTS"):
            continue
        source = local_path(name)
        own = portable_name(source) if source.exists() else ""
        if own and not Path(own).is_absolute() and not shipped:
            settings[key] = own
            continue
        target = Path(FILES, "_".join(key.lower().split(".")[-2:]))
        if source.is_dir() and (key != CLIP or is_model_folder(source)):
            copy_folder(source, folder / target, weights=with_clip or key != CLIP)
        elif not source.is_file():
            continue
        elif key == TRAIN_CLASSES:
            target = target.with_suffix(".json")
            (folder / FILES).mkdir(exist_ok=True)
            load_vocabulary(name).to_json(folder / target)
        else:
            target = target.with_suffix(".safetensors")
            copy_weights(source, folder / target, key)
        settings[key] = target.as_posix()


def copy_vocabulary(
    settings: dict[str, Any], folder: Path, vocabulary: Vocabulary | None
) -> Vocabulary | None:
    """Write the class list that is given, or else that of the settings, which then name the file,
    in place; returns it, None if there is none.
    """
    if vocabulary is None and settings.get(TEST_CLASSES):
        vocabulary = load_vocabulary(settings[TEST_CLASSES])
    if vocabulary is not None:
        vocabulary.to_json(folder / VOCABULARY)
        settings[TEST_CLASSES] = VOCABULARY
    return vocabulary


def copy_folder(source: Path, target: Path, weights: bool) -> None:
    """Copy the files of a model in a folder that hold no code; those of weights, which become
    safetensors, only if wanted.
    """
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        hidden = any(part.startswith(".") for part in path.relative_to(source).parts)
        kind = path.suffix.lower()
        if hidden or (kind in (*PICKLED, ".safetensors") and not weights):
            continue
        copy = target / path.relative_to(source)
        if kind in PLAIN:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        elif kind in PICKLED:
            safe = RENAMED.get(path.name, f"{path.stem}.safetensors")
            if not path.with_name(safe).is_file():
                copy_weights(path, copy.with_name(safe), str(source))


def copy_weights(source: Path, target: Path, key: str) -> None:
    """Write the state dict of a weights file, which ``key`` names in messages, as safetensors."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".safetensors":
        shutil.copyfile(source, target)
    elif key == CLIP_WEIGHTS:
        save_tensors(read_state_dict(source), target, {})
    else:
        state = find_state_dict(read_weights(source, key), f"{key} {str(source)!r}")
        save_tensors(state, target, {})


def save_tensors(state: Mapping[str, Tensor], target: Path, notes: Mapping[str, str]) -> None:
    """Write tensors, on whatever device and however they share memory, as safetensors."""
    plain = {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()
    }
    target.touch()
    mode = target.stat().st_mode
    save_file(plain, target, metadata={"format": "pt", **notes})
    target.chmod(mode)  # as any other file: safetensors lets the owner alone read it
