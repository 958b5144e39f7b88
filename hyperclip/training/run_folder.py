"""Before a run starts: check the output folder and set up logging."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..checkpoints.checkpointer import NUMBERED, resumable_files
from ..config import flat_config
from ..data.dataset_file import register_files
from ..runtime.files import write_atomically
from ..runtime.memory import keep_freed_memory

logger = logging.getLogger("hyperclip.training")

WEIGHTS = (NUMBERED, "model_final.pth", "model_final_average.pth", "model_best.pth")
RUN_FILES = (*WEIGHTS, "last_checkpoint", "metrics.json")
"""A folder that has one of these files holds a training."""

LEFT_BEHIND = (
    *RUN_FILES,
    "model_best.json",
    "results.json",
    "wandb_id.txt",
    "events.out.tfevents.*",
    "nonfinite_iteration_*.json",
    "per_image/*.jsonl",
)
"""Files of a training that OVERWRITE removes."""

LAST_KEY = "VIS_PERIOD"
"""The last of Detectron2's keys in a config file, where keys are in alphabetical order."""

MAY_DIFFER = ("OUTPUT_DIR", "OVERWRITE", "MODEL.DEVICE", "MODEL.WEIGHTS", "VERSION")
"""Keys that do not make a run another one."""

MAY_CHANGE = (
    *("DATALOADER.NUM_WORKERS", "DATALOADER.MAX_FAULTY_SHARE", "DATASETS.TEST", "TEST.", "WANDB."),
    *("SOLVER.CHECKPOINT_", "SOLVER.LOG_PERIOD", "SOLVER.WATCH_PERIOD", "SOLVER.MICRO_BATCHES"),
    *("MODEL.CHECKPOINT_ACTIVATIONS", "MODEL.COMPILE_HEAD"),
)
"""Prefixes of keys that --resume may change, since they do not change what is learned."""


def setup_run(cfg: CfgNode, arguments: argparse.Namespace) -> None:
    """Check the output folder, then set up as Detectron2 does (seed, report, config.yaml, loggers).

    Raises:
        ValueError: a training would go into a folder that holds one, or resume one of another
            config.
    """
    keep_freed_memory()
    register_files(cfg.DATASETS.FILES)
    if not arguments.eval_only and comm.is_main_process():
        check_output_folder(cfg, arguments.resume)
    comm.synchronize()
    path = Path(cfg.OUTPUT_DIR) / "config.yaml"
    trained_with = None
    if arguments.eval_only and path.is_file() and run_files(path.parent):
        trained_with = path.read_bytes()
    default_setup(cfg, arguments)
    # An evaluation does not replace a training's record
    if trained_with is not None and comm.is_main_process():
        write_atomically(path, lambda temporary: temporary.write_bytes(trained_with))
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="hyperclip")


def check_output_folder(cfg: CfgNode, resume: bool = False) -> None:
    """Refuse to start a training in a folder that holds one, or to resume one of another config.

    A folder without checkpoints and metrics holds none, whatever else a failed start left there.

    Raises:
        ValueError: saying how to go on, and which keys differ.
    """
    folder, files = Path(cfg.OUTPUT_DIR), run_files(Path(cfg.OUTPUT_DIR))
    if resume and cfg.OVERWRITE:
        raise ValueError(
            "OVERWRITE: got True with --resume, expected one of the two. To go on with the run "
            "leave OVERWRITE out, to start anew over it leave --resume out"
        )
    if resume:
        _check_resumable(cfg, folder)
    elif files and not cfg.OVERWRITE:
        differing = differing_keys(cfg, recorded_config(folder), MAY_DIFFER)
        raise ValueError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR!r} holds a training already "
            f"({', '.join(p.name for p in files[:3])} …{_of_another_config(differing)}). To go on "
            "with it pass --resume, else choose another OUTPUT_DIR; to remove what it has written "
            "and start anew set OVERWRITE True"
        )
    elif files and Path(cfg.MODEL.WEIGHTS).resolve() in {path.resolve() for path in files}:
        raise ValueError(
            f"OVERWRITE: got True with MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r}, which is one of the "
            "files that it removes. Choose another OUTPUT_DIR"
        )


def clear_run(cfg: CfgNode) -> None:
    """If OVERWRITE is set, remove what an earlier training has written to OUTPUT_DIR."""
    files = run_files(Path(cfg.OUTPUT_DIR), LEFT_BEHIND) if cfg.OVERWRITE else []
    for path in files:
        path.unlink()
    if files:
        logger.warning("OVERWRITE: removed %d files of the training before", len(files))


def run_files(folder: Path, names: tuple[str, ...] = RUN_FILES) -> list[Path]:
    """Files of a training in a folder."""
    return [path for name in names for path in sorted(folder.glob(name)) if path.is_file()]


def recorded_config(folder: Path) -> dict[str, object]:
    """The config that a folder's training was begun with, by key; {} if it cannot be read.

    It is that of the latest readable checkpoint, else config.yaml.
    """
    for path in resumable_files(folder):
        try:
            content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            text = content["config"]
        except Exception:  # loading the checkpoint later says what is wrong with it
            continue
        return dict(flat_config(yaml.safe_load(text)))
    try:
        content = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):  # no file, or one that is cut short
        return {}
    config = dict(flat_config(content)) if isinstance(content, dict) else {}
    if config and LAST_KEY not in config:  # cut short, perhaps in the middle of the last value
        config.popitem()
    return config


def differing_keys(
    cfg: CfgNode, before: dict[str, object], free: tuple[str, ...]
) -> dict[str, str]:
    """Keys whose values differ, as "before -> now", without those that begin like one of ``free``.

    Keys that only one side has are left out, too.
    """
    now = dict(flat_config(yaml.safe_load(cfg.dump())))
    both = sorted(k for k in before.keys() & now.keys() if not k.startswith(free))
    return {k: f"{before[k]} -> {now[k]}" for k in both if before[k] != now[k]}


def _check_resumable(cfg: CfgNode, folder: Path) -> None:
    if not resumable_files(folder):
        weights = run_files(folder, WEIGHTS)
        if weights:
            raise ValueError(
                f"--resume: OUTPUT_DIR {cfg.OUTPUT_DIR!r} has "
                f"{', '.join(p.name for p in weights)}, which a run would overwrite, but no "
                "checkpoint to go on from: last_checkpoint names none that is there. Write the "
                "name of a checkpoint into that file, or choose another OUTPUT_DIR"
            )
        return
    differing = differing_keys(cfg, recorded_config(folder), (*MAY_DIFFER, *MAY_CHANGE))
    if differing:
        raise ValueError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR!r} holds the run{_of_another_config(differing)}. Resume "
            "it with its own values. To train on from its weights with new ones, choose another "
            "OUTPUT_DIR and give a checkpoint as MODEL.WEIGHTS"
        )


def _of_another_config(differing: dict[str, str]) -> str:
    if not differing:
        return ""
    changes = "; ".join(f"{key}: {change}" for key, change in list(differing.items())[:10])
    return f" of another config ({len(differing)} keys differ: {changes})"
