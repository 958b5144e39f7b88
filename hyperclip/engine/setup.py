"""What happens before a run starts: the output folder is checked, logging is set up."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import yaml
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..data.custom import register_files
from ..files import write_atomically
from ..memory import keep_freed_memory

MAY_DIFFER = ("OUTPUT_DIR", "MODEL.DEVICE", "MODEL.WEIGHTS", "VERSION")
"""Keys that do not make a run another one."""

MAY_CHANGE = (
    "DATALOADER.NUM_WORKERS", "DATALOADER.MAX_FAULTY_SHARE", "DATASETS.TEST", "SOLVER.CHECKPOINT_", "SOLVER.LOG_PERIOD",
    "SOLVER.WATCH_PERIOD", "SOLVER.MICRO_BATCHES", "MODEL.CHECKPOINT_ACTIVATIONS", "MODEL.COMPILE_HEAD", "TEST.", "WANDB.",
)  # fmt: skip
"""How keys begin that a run may be resumed with new values of, since they do not change what is learned."""


def setup_run(cfg: CfgNode, arguments: argparse.Namespace) -> None:
    """Check the output folder, then Detectron2's own setup (seed, environment report, config.yaml) and our logger.

    Raises:
        ValueError: a training would go into the folder of another config's run, or go on with it.
    """
    keep_freed_memory()
    register_files(cfg.DATASETS.FILES)
    if not arguments.eval_only and comm.is_main_process():
        check_output_folder(cfg, arguments.resume)
    comm.synchronize()
    path = Path(cfg.OUTPUT_DIR) / "config.yaml"
    trained_with = path.read_bytes() if arguments.eval_only and path.is_file() else None
    default_setup(cfg, arguments)
    if trained_with is not None and comm.is_main_process():  # an evaluation does not replace a training's record
        write_atomically(path, lambda temporary: temporary.write_bytes(trained_with))
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="hyperclip")


def check_output_folder(cfg: CfgNode, resume: bool = False) -> None:
    """Refuse to train in a folder that holds the run of another config, or to resume it.

    Raises:
        ValueError: naming the keys that differ.
    """
    path = Path(cfg.OUTPUT_DIR) / "config.yaml"
    if not path.is_file():
        return
    before = dict(flat_config(yaml.safe_load(path.read_text(encoding="utf-8")) or {}))
    now = dict(flat_config(yaml.safe_load(cfg.dump())))
    free = (*MAY_DIFFER, *MAY_CHANGE) if resume else MAY_DIFFER
    differing = sorted(k for k in before.keys() | now.keys() if not k.startswith(free) and before.get(k) != now.get(k))
    if not differing:
        return
    changes = "; ".join(f"{k}: {before.get(k)} -> {now.get(k)}" for k in differing[:10])
    found = f"OUTPUT_DIR {cfg.OUTPUT_DIR!r} holds the run of another config ({len(differing)} keys differ: {changes}). "
    if resume:
        raise ValueError(
            found + "Resume it with its own values. To train on from its weights with new ones, choose another OUTPUT_DIR and "
            "give a checkpoint as MODEL.WEIGHTS"
        )
    raise ValueError(found + "Choose another OUTPUT_DIR, or remove that folder")


def flat_config(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Keys with dots, and values, of a config as plain dicts."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat_config(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
