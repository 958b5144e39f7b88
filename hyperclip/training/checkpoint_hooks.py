"""Saving and resuming a run: what checkpoints hold, when they are written, which is the best."""

from __future__ import annotations

import json
import logging
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
from ..runtime.compat import stop_signals
from ..runtime.files import write_text
from ..runtime.randomness import random_state, set_random_state
from .whole_batch import largest_of_all
from .writers import is_written

logger = logging.getLogger("hyperclip.training")

INTERRUPTED = 85
"""Exit code of a training that was told to stop and has saved a checkpoint."""

GRACE = 15.0
"""Seconds that an evaluation may go on after a signal to stop, to finish if it is nearly done."""


def gather_process_states(stream: TrainStream) -> list[dict[str, Any]]:
    """Random states and data positions of all processes, on the main one; all have to call it."""
    return comm.gather({"random": random_state(), "stream": stream.state_dict()})


def restore_process_state(states: list[dict[str, Any]], stream: TrainStream, seed: int) -> None:
    """Restore a checkpoint's data position, and its random numbers or, for another number of
    processes, new ones that depend on ``seed``.

    Raises:
        ValueError: the checkpoint has another batch size.
    """
    stream.load_state_dicts([state["stream"] for state in states])
    if len(states) == comm.get_world_size():
        set_random_state(states[comm.get_rank()]["random"])
        return
    logger.warning(
        "the run had %d processes and goes on with %d: random numbers in the model start anew",
        len(states),
        comm.get_world_size(),
    )
    seed_all_rng(seed + stream.position + comm.get_rank())


class StopSignals:
    """Notes SIGTERM and SIGUSR1 inside ``with``; afterwards the former handlers are back."""

    def __init__(self) -> None:
        self.told_at: float | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        try:
            self._before = {number: signal.signal(number, self._note) for number in stop_signals()}
        except ValueError:  # only the main thread gets signals
            pass
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def any_told(self, grace: float = 0.0) -> bool:
        """Whether any process was told to stop at least ``grace`` seconds ago; all have to ask."""
        told = self.told_at is not None and time.monotonic() - self.told_at >= grace
        return bool(largest_of_all(torch.tensor(int(told))))

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.told_at is None:
            self.told_at = time.monotonic()


class Checkpoints(HookBase):
    """Writes checkpoints: every ``period`` iterations, at the end, and on SIGTERM or SIGUSR1.

    After a signal the run finishes its iteration, saves, and exits with ``INTERRUPTED``, all
    processes together. If a periodic checkpoint cannot be written, that is logged as an error and
    the run goes on.

    Args:
        period: 0 writes only the last checkpoint. keep: number of numbered files; 0 for all.
        signals: notes the signals; whoever trains enters it.
    """

    def __init__(
        self, checkpointer: StrictCheckpointer, period: int, keep: int, signals: StopSignals
    ) -> None:
        self.checkpointer, self.period = checkpointer, period
        self.keep, self.signals = keep, signals

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        told = self.signals.any_told()
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
        """Save the state after this iteration and exit, all processes together.

        Raises:
            SystemExit: with ``INTERRUPTED``. OSError: the state could not be saved.
        """
        self.save(f"model_{self.trainer.iter:07d}")
        comm.synchronize()
        logger.info(
            "Told to stop: saved after iteration %d. Go on with --resume", self.trainer.iter
        )
        raise SystemExit(INTERRUPTED)

    def save(self, name: str) -> None:
        """Write a checkpoint of all processes, which all call it; OSError if that is impossible."""
        states = gather_process_states(self.trainer.stream)
        if not comm.is_main_process():
            return
        versions = {m.__name__: str(m.__version__) for m in (torch, detectron2, open_clip)}
        about = {"config": self.trainer.cfg.dump(), "versions": versions}
        try:
            self.checkpointer.save(name, processes=states, **about)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            raise OSError(
                f"checkpoint {name} could not be written to {self.checkpointer.save_dir!r} "
                f"({error}). Is the disk full? Free some space, or set SOLVER.CHECKPOINT_KEEP to a "
                "smaller number"
            ) from error
        self.checkpointer.keep_last(self.keep)


class Evaluations(hooks.EvalHook):
    """Evaluates every ``period`` iterations and after the last one.

    A signal to stop ends an evaluation; the run is then saved and left. A resumed run first repeats
    the evaluation after its last iteration if that was due and its scores were not written.

    Args:
        period: 0 for after the last iteration alone. checkpoints: saves the run.
        evaluate: gives scores by dataset, or raises EvaluationStoppedError.
        metrics: the ``metrics.json`` that gets the scores.
    """

    def __init__(
        self, period: int, evaluate: Callable[[], Any], checkpoints: Checkpoints, metrics: Path
    ) -> None:
        super().__init__(period, evaluate)
        self.checkpoints, self.metrics = checkpoints, metrics

    def before_train(self) -> None:
        start = self.trainer.start_iter
        due = start > 0 and self._is_due(start)
        missing = due and not is_written(self.metrics, start - 1, self.trainer.test_names)
        if not comm.all_gather(missing)[0]:  # the main process's files count
            return
        logger.info(
            "The evaluation after iteration %d was interrupted: making up for it", start - 1
        )
        self.trainer.storage.iter = start - 1
        try:
            self._do_eval()
        except EvaluationStoppedError:
            logger.info("Told to stop: nothing was trained. Go on with --resume")
            raise SystemExit(INTERRUPTED) from None
        self.trainer.storage.iter = start

    def after_step(self) -> None:
        if not self._is_due(self.trainer.iter + 1):
            return
        try:
            self._do_eval()
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

    def _is_due(self, done: int) -> bool:
        """Whether an evaluation other than the final one follows this many iterations."""
        return self._period > 0 and done % self._period == 0 and done < self.trainer.max_iter


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
                logger.warning(
                    "model_best.pth is the best by %s: from now on the best by %s is looked for "
                    "anew",
                    record["metric"],
                    self.metric,
                )
        self._look(self.trainer.start_iter - 1)  # an evaluation that was made up for

    def after_step(self) -> None:
        self._look(self.trainer.iter)

    def after_train(self) -> None:
        self._look(self.trainer.iter)

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
        write_text(self.record, json.dumps(record) + "\n")
        logger.info("Best %s so far: %.3f", self.metric, value)


def metric_of(results: Mapping[str, Mapping[str, float]], metric: str) -> float:
    """One score of an evaluation: DATASET/SCORE, or SCORE for the mean over all datasets.

    The IoU of a class that no label shows is NaN.

    Raises:
        ValueError: there is no such score.
    """
    dataset, score = split_metric(metric)
    chosen = [scores for name, scores in results.items() if dataset in ("", name)]
    if chosen and score.startswith("IoU-"):
        return statistics.fmean(scores.get(score, float("nan")) for scores in chosen)
    if not chosen or any(score not in scores for scores in chosen):
        names = {name for scores in results.values() for name in scores}
        known = sorted(name for name in names if not name.startswith("IoU-"))
        raise ValueError(
            f"TEST.BEST_METRIC: got {metric!r}, expected one of {known}, or DATASET/SCORE with a "
            f"dataset of {sorted(results)}"
        )
    return statistics.fmean(scores[score] for scores in chosen)


def split_metric(metric: str) -> tuple[str, str]:
    """Dataset ("" for all) and score of TEST.BEST_METRIC. Only a class name may contain "/"."""
    dataset, slash, score = metric.partition("/")
    return (dataset, score) if slash and not metric.startswith("IoU-") else ("", metric)
