#!/usr/bin/env python
"""Train or evaluate a model.

    python tools/train_net.py --config-file configs/vitb_384_hyperbolic.yaml --num-gpus 4 [KEY VALUE …]
    python tools/train_net.py --config-file … --eval-only MODEL.WEIGHTS output/model_final.pth
"""

from __future__ import annotations

import argparse
import sys

import cliper  # noqa: F401  (registers CLIPer and its keys)
import hyperclip.data  # noqa: F401  (registers the datasets)
from detectron2.engine import default_argument_parser
from hyperclip.adapters import merge
from hyperclip.config import load_config
from hyperclip.engine import StrictCheckpointer, Trainer, require_weights, setup_run
from hyperclip.engine.checks import check_model, check_test_sets, check_weights
from hyperclip.engine.launching import launch_processes
from torch.multiprocessing import ProcessRaisedException


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


if __name__ == "__main__":
    arguments = default_argument_parser().parse_args()
    try:
        device = load_config(arguments.config_file, arguments.opts).MODEL.DEVICE
        launch_processes(main, arguments, device=device)
    except (OSError, ValueError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    except ProcessRaisedException as error:  # one of several processes failed; its last line says why
        sys.exit(f"{error}\nerror: {str(error).strip().splitlines()[-1]}")
