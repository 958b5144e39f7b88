"""The trainer: Detectron2's engine with our data, optimiser, checkpoints and evaluations."""

import contextlib
import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, create_ddp_model, hooks
from detectron2.evaluation import verify_results
from detectron2.projects.deeplab import build_lr_scheduler
from detectron2.utils import comm, events
from tabulate import tabulate
from torch import nn

from ..adapters import parameter_table
from ..checkpoints.checkpointer import StrictCheckpointer
from ..data import SemSegMapper, batches, class_lists, detectron2_catalog, registered_names
from ..data.mixing import TrainPart
from ..evaluation.asking import PRESENT
from ..evaluation.result_rows import Benchmark, describe_evaluation
from ..evaluation.results_files import write_results
from ..evaluation.running import build_evaluator, evaluate_dataset
from ..load import build_system, check_system, staged
from ..runtime.precision import float32_products
from ..runtime.randomness import kept_random_state
from ..segmenter import bare
from . import checkpoint_hooks, monitors
from .checks import SCORES, best_metric, check_model, check_test_sets, check_training
from .ema import WeightAverage
from .optimizer import build_optimizer
from .run_folder import check_output_folder, clear_run
from .step import TrainLoop, training_precision
from .writers import build_writers, drop_lines_after

logger = logging.getLogger("hyperclip.training")


class Trainer(DefaultTrainer):
    """Detectron2's default trainer for any :class:`Segmenter`, on CPU or GPUs, in many processes;
    FileNotFoundError or ValueError if something is missing, or keys do not go together.
    """

    def __init__(self, cfg: CfgNode) -> None:
        TrainerBase.__init__(self)
        check_system(cfg)
        check_batch_size(cfg)
        precision = training_precision(cfg)
        self.start_iter, self.max_iter, self.cfg = 0, cfg.SOLVER.MAX_ITER, cfg
        self.test_names = registered_names(cfg.DATASETS.TEST)
        self.signals, self.resumed = checkpoint_hooks.StopSignals(), False
        self.on_cuda = torch.device(cfg.MODEL.DEVICE).type == "cuda"
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        check_training(cfg)
        tasks = class_lists.train_tasks(cfg)
        for task in tasks:
            model.check(task.vocabulary)
        check_model(cfg, model)
        # Of several, each image says what it is asked
        model.train_vocabulary = tasks[0].vocabulary if len(tasks) == 1 else None
        self.average = WeightAverage(model, cfg.SOLVER.EMA_DECAY) if cfg.SOLVER.EMA_DECAY else None
        self.stream = self.build_train_loader(cfg)
        ddp: dict[str, Any] = {} if self.on_cuda else {"device_ids": None}
        ddp |= {"broadcast_buffers": False, "gradient_as_bucket_view": True}
        model = create_ddp_model(model, **ddp)
        parts, folder = cfg.SOLVER.MICRO_BATCHES, Path(cfg.OUTPUT_DIR)
        self._trainer = TrainLoop(
            model, self.stream, optimizer, micro_batches=parts, precision=precision, faults=folder
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = StrictCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.register_hooks(self.build_hooks())
        samples, processes = self.stream.samples, comm.get_world_size()
        shares = samples.question_shares()
        table = monitors.describe_training(cfg, len(samples.records), tasks, processes, shares)
        logger.info("Training:\n%s", table)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> Any:
        """Build the model and log what trains."""
        model = build_system(cfg)
        table = tabulate(parameter_table(model), ["part", "trainable", "all"], intfmt=",")
        logger.info("Parameters:\n%s", table)
        return model

    def build_hooks(self) -> list[HookBase]:
        """Schedule, average, monitors, checkpoints, evaluation, writers; their order matters."""
        solver, period = self.cfg.SOLVER, self.cfg.TEST.EVAL_PERIOD
        metrics = Path(self.cfg.OUTPUT_DIR) / "metrics.json"
        checkpoints = checkpoint_hooks.Checkpoints(
            self.checkpointer, solver.CHECKPOINT_PERIOD, solver.CHECKPOINT_KEEP, self.signals
        )
        built: list[HookBase] = [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            *([self.average] if self.average else []),
            monitors.FirstGradients(),
            monitors.LossWatch(solver.WATCH_PERIOD),
            monitors.AdapterDistance(solver.LOG_PERIOD),
            monitors.EmbeddingRadius(solver.LOG_PERIOD),
            monitors.Throughput(solver.IMS_PER_BATCH, solver.LOG_PERIOD),
            monitors.StepsOfSets(self.stream, solver.LOG_PERIOD),
            checkpoints,
            checkpoint_hooks.Evaluations(period, self._evaluate, checkpoints, metrics),
        ]
        metric = best_metric(self.cfg)
        if period and metric:
            built.append(checkpoint_hooks.BestCheckpoint(self.checkpointer, metric))
        if comm.is_main_process():
            built.append(hooks.PeriodicWriter(self.build_writers(), period=solver.LOG_PERIOD))
        return built

    def build_writers(self) -> list[events.EventWriter]:
        """Log, metrics.json, TensorBoard, and Weights & Biases if asked for."""
        return build_writers(self.cfg, self.max_iter)

    def resume_or_load(self, resume: bool = True) -> None:
        """Start from MODEL.WEIGHTS, or resume from the exact state of the last checkpoint;
        ValueError if a checkpoint does not fit, or none of the folder can be read.
        """
        self.resumed = resume
        content = self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        # What the weights of another training were trained on counts, too
        system, sets = bare(self.model), registered_names(self.cfg.DATASETS.TRAIN)
        system.trained_on = tuple(dict.fromkeys([*system.trained_on, *sets]))
        goes_on = resume and self.checkpointer.has_checkpoint()
        self.start_iter = self.iter + 1 if goes_on else 0
        # Without a checkpoint the run begins anew, and so do its metrics
        if resume and comm.is_main_process():
            drop_lines_after(Path(self.cfg.OUTPUT_DIR) / "metrics.json", self.start_iter)
        if goes_on and "processes" in content:
            seed = max(self.cfg.SEED, 0)
            checkpoint_hooks.restore_process_state(content["processes"], self.stream, seed)

    def train(self) -> OrderedDict | None:
        """Train to the end and evaluate: scores by dataset, in percent (on the main process).

        Raises:
            SystemExit: ``INTERRUPTED`` if told to stop, after saving; 1 if TEST.EXPECTED_RESULTS
                were not reached. FloatingPointError: a gradient is not finite; its step was not
                made. ValueError: by :func:`check_output_folder`.
        """
        if comm.is_main_process() and not self.resumed:
            check_output_folder(self.cfg)
            clear_run(self.cfg)
        comm.synchronize()
        with self.signals:
            try:
                TrainerBase.train(self, self.start_iter, self.max_iter)
            finally:
                self._trainer.close_loader()
            if self.signals.any_told():
                raise SystemExit(checkpoint_hooks.INTERRUPTED)
        results: OrderedDict | None = getattr(self, "_last_eval_results", None)
        if comm.is_main_process():
            verify_expected(self.cfg, results or {})
        return results

    def run_step(self) -> None:
        with float32_products(self.cfg.SOLVER.TF32 and self.on_cuda):
            super().run_step()

    def evaluated_weights(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the model has the weights that are evaluated: their average if there is one."""
        return self.average.applied() if self.average else contextlib.nullcontext()

    def _evaluate(self) -> OrderedDict:
        with kept_random_state(), self.evaluated_weights():
            self._last_eval_results = self.test(
                self.cfg, self.model, stop=lambda: self.signals.any_told(checkpoint_hooks.GRACE)
            )
        return self._last_eval_results

    build_optimizer = staticmethod(build_optimizer)
    build_lr_scheduler = staticmethod(build_lr_scheduler)
    build_evaluator = staticmethod(build_evaluator)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> batches.TrainStream:
        """This process's share of the batches."""
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        weights = cfg.DATASETS.TRAIN_WEIGHTS
        return batches.TrainStream(
            batches.TrainSamples(build_train_parts(cfg), seed, weights),
            cfg.SOLVER.IMS_PER_BATCH,
            rank=comm.get_rank(),
            processes=comm.get_world_size(),
            workers=cfg.DATALOADER.NUM_WORKERS,
            grouped=cfg.DATALOADER.ASPECT_RATIO_GROUPING and cfg.INPUT.SIZE_DIVISIBILITY <= 0,
            max_faulty=cfg.DATALOADER.MAX_FAULTY_SHARE,
        )

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, stop: Callable[[], bool] | None = None
    ) -> OrderedDict:
        """Evaluate a system, with the stages of the config, on each dataset of DATASETS.TEST with
        its vocabulary, and write the results.

        Args:
            stop: says whether to end early, see :func:`evaluate_dataset`.
        Returns:
            scores by dataset, in percent (on the main process); raises as ``check_test_sets``.
        """
        check_test_sets(cfg)
        with_all = staged(bare(model), cfg)
        model = model if with_all is bare(model) else with_all
        rows: list[dict[str, Any]] = []
        results: OrderedDict[str, dict[str, float]] = OrderedDict()
        for name in registered_names(cfg.DATASETS.TEST):
            evaluator = cls.build_evaluator(cfg, name)
            records = DatasetCatalog.get(name)
            result = evaluate_dataset(
                cfg, model, name, records=records, evaluator=evaluator, stop=stop
            )
            if comm.is_main_process():
                results[name] = result.scores
                benchmark = Benchmark(detectron2_catalog.spec_of(name), records, len(records))
                rows.append(describe_evaluation(cfg, benchmark, result))
        if comm.is_main_process():
            lines = [[name, *map(scores.get, SCORES)] for name, scores in results.items()]
            table = tabulate(lines, ["dataset", *SCORES], floatfmt=".2f")
            present = ", of names present in each image" if cfg.TEST.ASK == PRESENT else ""
            logger.info("Results (percent%s):\n%s", present, table)
            write_results(rows, Path(cfg.OUTPUT_DIR))
        return results


def build_train_parts(cfg: CfgNode) -> list[TrainPart]:
    """The images of each dataset of DATASETS.TRAIN, with what is asked of them."""
    task_of = {name: task for task in class_lists.train_tasks(cfg) for name in task.datasets}
    parts = []
    for name in registered_names(cfg.DATASETS.TRAIN):
        task = task_of[name]
        mapper = SemSegMapper(cfg, is_train=True, ignore=task.ignore)
        parts.append(TrainPart(DatasetCatalog.get(name), mapper, task.asks))
    return parts


def verify_expected(cfg: CfgNode, results: Mapping[str, Mapping[str, float]]) -> None:
    """Leave with 1 unless results are as TEST.EXPECTED_RESULTS, [dataset, score, value, tolerance]
    each, says. A dataset is named by its name or alias, or as in Detectron2 by "sem_seg" if alone.
    """
    (only,) = results.values() if len(results) == 1 else ({},)
    aliases = {detectron2_catalog.spec_of(name).alias: scores for name, scores in results.items()}
    verify_results(cfg, {"sem_seg": only, **aliases, **results})


def check_batch_size(cfg: CfgNode) -> None:
    """ValueError unless the batch divides evenly among the processes and their micro-batches."""
    processes = comm.get_world_size()
    parts, batch = cfg.SOLVER.MICRO_BATCHES, cfg.SOLVER.IMS_PER_BATCH
    if batch % (processes * parts):
        got = f"{batch} for {processes} processes with MICRO_BATCHES {parts}"
        raise ValueError(f"SOLVER.IMS_PER_BATCH: got {got}, expected a multiple of their product")
