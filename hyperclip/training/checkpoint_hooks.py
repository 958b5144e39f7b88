"""Saving and resuming a run: what checkpoints hold, when they are written, which is the best."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import signal
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import detectron2
import open_clip
import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from ..checkpoints.checkpointer import StrictCheckpointer
from ..data.batches import TrainStream
from ..evaluation.running import EvaluationStoppedError
from ..runtime import compat, files, randomness
from .writers import is_written

logger = logging.getLogger("hyperclip.training")

INTERRUPTED = 85
"""Exit code of a training that was told to stop and has saved a checkpoint."""

GRACE = 15.0
"""Seconds that an evaluation may go on after a signal to stop, to finish if it is nearly done."""


def gather_process_states(stream: TrainStream) -> list[dict[str, Any]]:
    """Random states and data positions of all processes, on the main one; all have to call it."""
    return comm.gather({"random": randomness.random_state(), "stream": stream.state_dict()})


def restore_process_state(states: list[dict[str, Any]], stream: TrainStream, seed: int) -> None:
    """Restore a checkpoint's data position, and its random numbers or, for another number of
    processes, new ones that depend on ``seed``; ValueError for another batch size.
    """
    stream.load_state_dicts([state["stream"] for state in states])
    if len(states) == comm.get_world_size():
        randomness.set_random_state(states[comm.get_rank()]["random"])
        return
    counts = f"{len(states)} processes and goes on with {comm.get_world_size()}"
    logger.warning("the run had %s: random numbers in the model start anew", counts)
    seed_all_rng(seed + stream.position + comm.get_rank())


class StopSignals(contextlib.ExitStack):
    """Notes SIGTERM and SIGUSR1 inside ``with``; afterwards the former handlers are back."""

    told_at: float | None = None

    def __enter__(self) -> StopSignals:
        with contextlib.suppress(ValueError):  # only the main thread gets signals
            for number in compat.stop_signals():
                self.callback(signal.signal, number, signal.signal(number, self._note))
        return self

    def any_told(self, grace: float = 0.0) -> bool:
        """Whether any process was told to stop at least ``grace`` seconds ago; all have to ask."""
        told = self.told_at is not None and time.monotonic() - self.told_at >= grace
        return any(comm.all_gather(told))

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.told_at is None:
            self.told_at = time.monotonic()


class Checkpoints(HookBase):
    """Writes checkpoints: every ``period`` iterations (0 for never), at the end, and on SIGTERM or
    SIGUSR1; keeps ``keep`` of the numbered ones (0 for all).

    After a signal the run finishes its iteration, saves, and exits with ``INTERRUPTED``, all
    processes together. A periodic checkpoint that cannot be written is logged; the run goes on.
    """

    def __init__(
        self, checkpointer: StrictCheckpointer, period: int, keep: int, signals: StopSignals
    ) -> None:
        self.checkpointer, self.period = checkpointer, period
        self.keep, self.signals = keep, signals

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        told = self.signals.any_told()  # in the last iteration too: all processes have to ask
        if done >= self.trainer.max_iter:
            self.save("model_final")
            if self.trainer.average is not None:
                with self.trainer.evaluated_weights():
                    self.checkpointer.save("model_final_average", tag=False)
        elif told:
            self.save_and_leave()
        elif self.period and done % self.period == 0:
            try:
                self.save(f"model_{self.trainer.iter:07d}")
            except OSError as error:
                logger.error("%s. Training goes on; the checkpoint before is still there", error)

    def save_and_leave(self) -> None:
        """Save the state after this iteration, or OSError; all processes exit together."""
        done = self.trainer.iter
        self.save(f"model_{done:07d}")
        comm.synchronize()
        logger.info("Told to stop: saved after iteration %d. Go on with --resume", done)
        raise SystemExit(INTERRUPTED)

    def save(self, name: str) -> None:
        """Write a checkpoint of all processes, which all call it; OSError if that is impossible."""
        states = gather_process_states(self.trainer.stream)
        if not comm.is_main_process():
            return
        versions = {m.__name__: str(m.__version__) for m in (torch, detectron2, open_clip)}
        config = self.trainer.cfg.dump()
        try:
            self.checkpointer.save(name, processes=states, config=config, versions=versions)
        except OSError as error:
            raise OSError(
                f"checkpoint {name} could not be written to {self.checkpointer.save_dir!r} "
                f"({error}). Is the disk full? Free some space, or lower SOLVER.CHECKPOINT_KEEP"
            ) from error
        self.checkpointer.keep_last(self.keep)


class Evaluations(hooks.EvalHook):
    """Evaluates every ``period`` iterations (0 for never) and after the last one.

    A signal to stop ends an evaluation; the run is then saved and left. A resumed run first repeats
    the evaluation after its last iteration if that was due and ``metrics.json`` lacks its scores.
    ``evaluate`` gives scores by dataset, or raises EvaluationStoppedError.
    """

    def __init__(
        self, period: int, evaluate: Callable[[], Any], checkpoints: Checkpoints, metrics: Path
    ) -> None:
        super().__init__(period, evaluate)
        self.checkpoints, self.metrics = checkpoints, metrics

    def before_train(self) -> None:
        start, end = self.trainer.start_iter, self.trainer.max_iter
        due = self._period > 0 and 0 < start < end and start % self._period == 0
        missing = due and not is_written(self.metrics, start - 1, self.trainer.test_names)
        if not comm.all_gather(missing)[0]:  # the main process's files count
            return
        done = self.trainer.storage.iter = start - 1
        logger.info("The evaluation after iteration %d was interrupted: making up for it", done)
        try:
            self._do_eval()
        except EvaluationStoppedError:
            logger.info("Told to stop: nothing was trained. Go on with --resume")
            raise SystemExit(INTERRUPTED) from None
        self.trainer.storage.iter = start

    def after_step(self) -> None:
        try:
            super().after_step()
        except EvaluationStoppedError:
            self.checkpoints.save_and_leave()

    def after_train(self) -> None:
        try:
            # Smaller after an error, even one in the last iteration
            if self.trainer.iter >= self.trainer.max_iter:
                # It is one more where a resumed run had nothing left to train
                self.trainer.iter = self.trainer.storage.iter = self.trainer.max_iter
                self._do_eval()
        except EvaluationStoppedError:
            logger.info("Told to stop in the final evaluation. --resume makes up for it")
        finally:
            del self._func  # it refers to the trainer, which refers to this hook


class BestCheckpoint(HookBase):
    """Keeps the best model so far in ``model_best.pth`` and its score in ``model_best.json``.

    ``metric`` is SCORE for its mean over the test sets, or DATASET/SCORE for that of one.
    """

    def __init__(self, checkpointer: StrictCheckpointer, metric: str) -> None:
        self.checkpointer, self.metric = checkpointer, metric
        self.record = Path(checkpointer.save_dir) / "model_best.json"
        self.best = float("-inf")
        self._seen: Any = None

    def before_train(self) -> None:
        if not self.trainer.start_iter:
            return
        if self.record.is_file():
            record = json.loads(self.record.read_text(encoding="utf-8"))
            if record["metric"] == self.metric:
                self.best = record["value"]
            else:
                news = f"by {record['metric']}: from now on the best by {self.metric}"
                logger.warning("model_best.pth is the best %s is looked for anew", news)
        self._look(self.trainer.start_iter - 1)  # an evaluation that was made up for

    def after_step(self) -> None:
        self._look(self.trainer.iter)

    after_train = after_step

    def _look(self, iteration: int) -> None:
        results = getattr(self.trainer, "_last_eval_results", None)
        if not results or results is self._seen or not comm.is_main_process():
            return
        self._seen = results
        value = metric_of(results, self.metric)
        if not value > self.best:
            return
        self.best = value
        with self.trainer.evaluated_weights():
            self.checkpointer.save("model_best", tag=False, iteration=iteration)
        record = {"metric": self.metric, "value": value, "iteration": iteration}
        files.write_text(self.record, json.dumps(record) + "\n")
        logger.info("Best %s so far: %.3f", self.metric, value)


def metric_of(results: Mapping[str, Mapping[str, float]], metric: str) -> float:
    """One score of an evaluation: DATASET/SCORE, or SCORE for the mean over all datasets; NaN for a
    class that no label shows. ``best_metric`` in checks.py has checked that there is such a score.
    """
    dataset, score = split_metric(metric)
    chosen = [scores for name, scores in results.items() if dataset in ("", name)]
    return statistics.fmean(scores.get(score, math.nan) for scores in chosen)


def split_metric(metric: str) -> tuple[str, str]:
    """Dataset ("" for all) and score of TEST.BEST_METRIC. Only a class name may contain "/"."""
    dataset, slash, score = metric.partition("/")
    return (dataset, score) if slash and not metric.startswith("IoU-") else ("", metric)
