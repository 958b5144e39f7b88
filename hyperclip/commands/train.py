"""Train or evaluate a model.

hyperclip-train --config-file configs/vitb_384_hyperbolic.yaml --num-gpus 4 [KEY VALUE …]
hyperclip-train --config-file … --eval-only MODEL.WEIGHTS output/model_final.pth
"""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import argparse
from collections.abc import Sequence
from pathlib import Path

from detectron2.engine import default_argument_parser
from detectron2.utils import comm

from ..adapters import merge
from ..checkpoints import StrictCheckpointer, require_weights
from ..checkpoints.checkpointer import require_file
from ..config.keys import load_config
from ..load import check_system
from ..runtime.files import local_path, need_output_folder
from ..stages import with_stages
from ..training import Trainer, setup_run
from ..training.checks import check_model, check_test_sets
from ..training.launch import launch_processes
from ..training.trainer import verify_expected
from . import register_systems


def run(args: argparse.Namespace) -> None:
    """Train, or evaluate with ``--eval-only``, in one process of a run."""
    register_systems()
    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    setup_run(cfg, args)
    if args.eval_only:
        if not cfg.DATASETS.TEST:
            raise ValueError("DATASETS.TEST is empty, nothing to evaluate: name a dataset in it")
        if not args.resume:
            require_file(cfg.MODEL.WEIGHTS)
        check_test_sets(cfg)
        model = Trainer.build_model(cfg)
        check_model(cfg, model)
        checkpointer = StrictCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        if not (args.resume and checkpointer.has_checkpoint()):
            require_weights(cfg, model)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        staged = with_stages(model, cfg)  # before adapters are merged: stages look at the weights
        merge(model)
        results = Trainer.test(cfg, staged)
        if comm.is_main_process():
            verify_expected(cfg, results)
        return
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


def main(argv: Sequence[str] | None = None) -> int | None:
    """Read the command line, check what can be checked first, and start all processes."""
    register_systems()
    arguments = default_argument_parser(__doc__).parse_args(argv)
    cfg = load_config(arguments.config_file, arguments.opts)
    check_system(cfg)
    arguments.config_file = str(local_path(arguments.config_file))  # Detectron2 reads it, too
    need_output_folder(Path(cfg.OUTPUT_DIR), "OUTPUT_DIR")
    return launch_processes(run, arguments, device=cfg.MODEL.DEVICE)
