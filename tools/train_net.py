#!/usr/bin/env python
"""Train or evaluate a model.

    python tools/train_net.py --config-file configs/vitb_384_hyperbolic.yaml --num-gpus 4 [KEY VALUE …]
    python tools/train_net.py --config-file … --eval-only MODEL.WEIGHTS output/model_final.pth
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cliper  # noqa: F401  (registers CLIPer and its keys)
import hyperclip.data  # noqa: F401  (registers the datasets)
from detectron2.engine import default_argument_parser
from hyperclip.adapters import merge
from hyperclip.checkpoints import StrictCheckpointer, require_weights
from hyperclip.config.keys import load_config
from hyperclip.load import check_system
from hyperclip.runtime.files import need_output_folder
from hyperclip.runtime.program import run_program
from hyperclip.training import Trainer, setup_run
from hyperclip.training.checks import check_model, check_test_sets, check_weights
from hyperclip.training.launch import launch_processes


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    setup_run(cfg, args)
    if args.eval_only:
        if not cfg.DATASETS.TEST:
            raise ValueError("DATASETS.TEST is empty, so that there is nothing to evaluate: name a registered dataset")
        if not args.resume:
            check_weights(cfg)
        check_test_sets(cfg)
        model = Trainer.build_model(cfg)
        check_model(cfg, model)
        checkpointer = StrictCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        if not (args.resume and checkpointer.has_checkpoint()):
            require_weights(cfg, model)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        merge(model)
        Trainer.test(cfg, model)
        return
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


def start() -> int | None:
    """Read the command line, check what can be known before a process starts, and start them all."""
    arguments = default_argument_parser().parse_args()
    cfg = load_config(arguments.config_file, arguments.opts)
    check_system(cfg)
    need_output_folder(Path(cfg.OUTPUT_DIR), "OUTPUT_DIR")
    return launch_processes(main, arguments, device=cfg.MODEL.DEVICE)


if __name__ == "__main__":
    run_program(start)
