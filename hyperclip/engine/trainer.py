"""The trainer: Detectron2's engine with our mapper, optimiser, strict checkpoints and per-dataset vocabularies."""

from __future__ import annotations

import json
import logging
import math
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_train_loader
from detectron2.engine import DefaultTrainer, HookBase, create_ddp_model, hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.modeling import build_model
from detectron2.utils import comm
from tabulate import tabulate
from torch import nn

from .. import meta_arch  # noqa: F401  (registers the meta-architecture and the heads)
from ..adapters import parameter_table
from ..data import DATASETS, SemSegMapper, find_dataset
from ..evaluation import SemSegEvaluator
from ..files import write_atomically
from .checkpointing import StrictCheckpointer
from .evaluation import Evaluation, build_evaluator, build_test_loader, evaluate_dataset
from .loop import TrainLoop, choose_precision
from .optimizer import build_optimizer
from .vocabularies import train_vocabulary
from .watch import AdapterDistance, FirstGradients, LossWatch

logger = logging.getLogger("hyperclip.engine")


class Trainer(DefaultTrainer):
    """Detectron2's default trainer for open-vocabulary segmentation, on CPU and CUDA, one or many processes."""

    def __init__(self, cfg: CfgNode) -> None:
        TrainerBase.__init__(self)
        check_batch_size(cfg)
        precision = choose_precision("float16" if cfg.SOLVER.AMP.ENABLED else cfg.SOLVER.PRECISION, cfg.MODEL.DEVICE)
        model = self.build_model(cfg)
        if not any(p.requires_grad for p in model.parameters()):
            raise ValueError(
                f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} with these keys has nothing to train. Evaluate it "
                "with --eval-only"
            )
        model.train_vocabulary = train_vocabulary(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        on_cuda = torch.device(cfg.MODEL.DEVICE).type == "cuda"
        ddp = {} if on_cuda else {"device_ids": None}
        model = create_ddp_model(model, broadcast_buffers=False, **ddp)
        self._trainer = TrainLoop(
            model,
            loader,
            optimizer,
            micro_batches=cfg.SOLVER.MICRO_BATCHES,
            precision=precision,
            faults=Path(cfg.OUTPUT_DIR),
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = StrictCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter, self.max_iter, self.cfg = 0, cfg.SOLVER.MAX_ITER, cfg
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> Any:
        """Build the model and log what trains."""
        model = build_model(cfg)
        rows = [(part, f"{train:,}", f"{total:,}") for part, train, total in parameter_table(model)]
        logger.info("Parameters:\n%s", tabulate(rows, ["part", "trainable", "all"], colalign=("left", "right", "right")))
        return model

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's hooks, with metrics written every SOLVER.LOG_PERIOD iterations."""
        built = super().build_hooks()
        for i, hook in enumerate(built):
            if isinstance(hook, hooks.PeriodicWriter):
                built[i] = hooks.PeriodicWriter(self.build_writers(), period=self.cfg.SOLVER.LOG_PERIOD)
        solver = self.cfg.SOLVER
        watches: list[HookBase] = [FirstGradients(), LossWatch(solver.WATCH_PERIOD), AdapterDistance(solver.LOG_PERIOD)]
        return [built[0], *watches, *built[1:]]

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict]]:
        return build_detection_train_loader(cfg, mapper=SemSegMapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
        return build_test_loader(cfg, DatasetCatalog.get(dataset_name))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> SemSegEvaluator:
        return build_evaluator(cfg, dataset_name)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Sequence[SemSegEvaluator] | None = None) -> OrderedDict:
        """Evaluate on every dataset of DATASETS.TEST, each with its own vocabulary; write ``results.json``.

        Returns:
            scores by dataset, in percent (on the main process).
        """
        found: dict[str, Evaluation] = {}
        for i, asked in enumerate(cfg.DATASETS.TEST):
            name = asked if asked in DatasetCatalog.list() else find_dataset(asked).name
            evaluator = evaluators[i] if evaluators else cls.build_evaluator(cfg, name)
            found[name] = evaluate_dataset(cfg, model, name, evaluator=evaluator)
        if not comm.is_main_process():
            return OrderedDict()
        results = OrderedDict((name, evaluation.scores) for name, evaluation in found.items())
        logger.info("Results (percent):\n%s", results_table(results))
        save_results(cfg, found)
        return results


def check_batch_size(cfg: CfgNode) -> None:
    """ValueError unless the batch divides evenly among the processes and their micro-batches."""
    processes, parts, batch = comm.get_world_size(), cfg.SOLVER.MICRO_BATCHES, cfg.SOLVER.IMS_PER_BATCH
    if parts < 1 or batch % (processes * parts):
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH: got {batch} for {processes} processes with MICRO_BATCHES {parts}, expected a multiple of "
            "their product"
        )


def results_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Text table of the summary scores, a row for each dataset."""
    columns = ["mIoU", "mIoU_old", "pACC", "mACC", "images"]
    rows = [[name, *(scores[c] for c in columns)] for name, scores in results.items()]
    return tabulate(rows, ["dataset", *columns], floatfmt=".2f")


def save_results(cfg: CfgNode, found: Mapping[str, Evaluation]) -> Path:
    """Write ``OUTPUT_DIR/results.json``: scores by dataset, and what produced them."""
    content = {
        **describe_run(cfg),
        "vocabularies": {n: f"{e.vocabulary.name} {e.vocabulary.version}".strip() for n, e in found.items()},
        "protocol": {n: e.protocol for n, e in found.items()},
        "official_images": {n: list(DATASETS[n].images) if n in DATASETS else [] for n in found},
        "results": {n: {k: None if math.isnan(v) else v for k, v in e.scores.items()} for n, e in found.items()},
    }
    path = Path(cfg.OUTPUT_DIR) / "results.json"
    write_atomically(path, lambda p: p.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8"))
    return path


def describe_run(cfg: CfgNode) -> dict[str, Any]:
    """What produced a result: the model, its weights, how it was run, and how labels were made and counted."""
    head = cfg.MODEL.SEM_SEG_HEAD
    model = {"architecture": cfg.MODEL.META_ARCHITECTURE, "clip": head.CLIP_PRETRAINED, "seed": cfg.SEED}
    inference: dict[str, Any] = {"prompts": cfg.MODEL.PROMPT_ENSEMBLE_TYPE, "synonyms": cfg.MODEL.SYNONYMS}
    if cfg.MODEL.META_ARCHITECTURE == "HyperCLIP":
        model |= {"head": head.NAME, "finetune": head.CLIP_FINETUNE}
        inference["views"] = "windows" if cfg.TEST.SLIDING_WINDOW else "whole image"
        inference |= {"pooling": list(head.POOLING_SIZES_TEST), "max_classes": head.MAX_CLASSES}
    elif "CLIPER" in cfg.MODEL:
        inference["cliper"] = yaml.safe_load(cfg.MODEL.CLIPER.dump())
    return {
        "model": model,
        "config": {"MODEL.WEIGHTS": cfg.MODEL.WEIGHTS, "OUTPUT_DIR": cfg.OUTPUT_DIR},
        "metric": "mIoU over the classes present in the ground truth, mIoU_old also over those predicted",
        "inference": inference,
    }
