"""Before a run starts: check the output folder and set up logging."""

import argparse
import contextlib
import logging
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..checkpoints.checkpointer import NUMBERED, resumable_files
from ..config import flat_config, plain_settings
from ..data.dataset_file import register_files
from ..runtime.files import write_text
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
    "predictions/*/*.png",
    "predictions/*/predictions.json",
)
"""Files of a training that OVERWRITE removes."""

MAY_DIFFER = ("OUTPUT_DIR", "OVERWRITE", "MODEL.DEVICE", "MODEL.WEIGHTS", "VERSION")
"""Keys that do not make a run another one."""

MAY_CHANGE = (
    *("DATALOADER.NUM_WORKERS", "DATALOADER.MAX_FAULTY_SHARE", "DATASETS.TEST", "TEST.", "WANDB."),
    *("SOLVER.CHECKPOINT_", "SOLVER.LOG_PERIOD", "SOLVER.WATCH_PERIOD", "SOLVER.MICRO_BATCHES"),
    *("MODEL.CHECKPOINT_ACTIVATIONS", "MODEL.COMPILE_HEAD"),
)
"""Prefixes of keys that --resume may change, since they do not change what is learned."""

MAY_NOT_CHANGE = (
    *("TEST.ASK", "TEST.BACKGROUND", "TEST.AUG.", "TEST.PRUNE", "TEST.EXAMPLES.", "TEST.BANK."),
    *("TEST.REFINER.", "TEST.REGIONS."),
)
"""Prefixes of these that it may not, since scores before and after would not be comparable."""


def setup_run(cfg: CfgNode, arguments: argparse.Namespace) -> None:
    """Check the output folder as :func:`check_output_folder` does, then set up as Detectron2 does
    (seed, report, config.yaml, loggers).
    """
    keep_freed_memory()
    register_files(cfg.DATASETS.FILES)
    if not arguments.eval_only and comm.is_main_process():
        check_output_folder(cfg, arguments.resume)
    comm.synchronize()
    path = Path(cfg.OUTPUT_DIR) / "config.yaml"
    # An evaluation does not replace a training's record
    keep = arguments.eval_only and path.is_file() and run_files(path.parent)
    trained_with = path.read_text(encoding="utf-8") if keep else ""
    default_setup(cfg, arguments)
    if trained_with and comm.is_main_process():
        write_text(path, trained_with)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="hyperclip")


def check_output_folder(cfg: CfgNode, resume: bool = False) -> None:
    """ValueError if a training would start in a folder that holds one, or resume one of another
    config; it says how to go on, and which keys differ.

    A folder without checkpoints and metrics holds none, whatever else a failed start left there.
    """
    files = run_files(Path(cfg.OUTPUT_DIR))
    if resume and cfg.OVERWRITE:
        raise ValueError(
            "OVERWRITE: got True with --resume, expected one of the two. To go on with the run "
            "leave OVERWRITE out, to start anew over it leave --resume out"
        )
    if resume and resumable_files(Path(cfg.OUTPUT_DIR)):
        if differing := _of_another_config(cfg, (*MAY_DIFFER, *MAY_CHANGE)):
            raise ValueError(
                f"OUTPUT_DIR {cfg.OUTPUT_DIR!r} holds the run{differing}. Resume it with its own "
                "values. To train on from its weights with new ones, choose another OUTPUT_DIR and "
                "give a checkpoint as MODEL.WEIGHTS"
            )
    elif resume:
        if weights := run_files(Path(cfg.OUTPUT_DIR), WEIGHTS):
            raise ValueError(
                f"--resume: OUTPUT_DIR {cfg.OUTPUT_DIR!r} has "
                f"{', '.join(p.name for p in weights)}, which a run would overwrite, but no "
                "checkpoint to go on from: last_checkpoint names none that is there. Write the "
                "name of a checkpoint into that file, or choose another OUTPUT_DIR"
            )
    elif files and not cfg.OVERWRITE:
        raise ValueError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR!r} holds a training already "
            f"({', '.join(p.name for p in files[:3])} …{_of_another_config(cfg, MAY_DIFFER)}). To "
            "go on with it pass --resume, else choose another OUTPUT_DIR; to remove what it has "
            "written and start anew set OVERWRITE True"
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
    """The config that a folder's training was begun with, by key: of the latest checkpoint that can
    be read, else of config.yaml; {} if there is none.
    """
    for path in resumable_files(folder):
        with contextlib.suppress(Exception):  # loading it later says what is wrong with it
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            return dict(flat_config(yaml.safe_load(content["config"])))
    # no file, one that is cut short, or one that holds no keys
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError, AttributeError):
        return dict(flat_config(yaml.safe_load((folder / "config.yaml").read_text("utf-8"))))
    return {}


def _of_another_config(cfg: CfgNode, free: tuple[str, ...]) -> str:
    """Says which values OUTPUT_DIR's training has others of, but for keys that begin like one of
    ``free`` or that only one side has; "" if there are none.
    """
    before, now = recorded_config(Path(cfg.OUTPUT_DIR)), plain_settings(cfg)
    both = sorted(
        key
        for key in before.keys() & now.keys()
        if key.startswith(MAY_NOT_CHANGE) or not key.startswith(free)
    )
    changes = [f"{k}: {before[k]} -> {now[k]}" for k in both if before[k] != now[k]]
    more = f" of another config ({len(changes)} keys differ: {'; '.join(changes[:10])})"
    return more if changes else ""
