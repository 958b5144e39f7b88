"""The state of a run: what its checkpoints hold, when they are written, and how a run goes on from
one.
"""

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
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from ..checkpoints.checkpointer import StrictCheckpointer
from ..data.batches import TrainStream
from ..evaluation.running import EvaluationStoppedError
from ..runtime.compat import stop_signals
from ..runtime.files import write_atomically
from ..runtime.randomness import random_state, set_random_state
from .whole_batch import group_device
from .writers import is_written

logger = logging.getLogger("hyperclip.training")

INTERRUPTED = 85
"""Exit code of a training that was told to stop and has saved a checkpoint."""

GRACE = 15.0
"""Seconds that an evaluation goes on after a signal to stop, since it may be near its end."""

STOP_SIGNALS = stop_signals()


def gather_process_states(stream: TrainStream) -> list[dict[str, Any]]:
    """Random numbers and place in the data of all processes, on the main one; all of them have to
    call it.
    """
    return comm.gather({"random": random_state(), "stream": stream.state_dict()})


def restore_process_state(states: list[dict[str, Any]], stream: TrainStream, seed: int) -> None:
    """Go on with a checkpoint's random numbers and data. With another number of processes only the
    data goes on.

    Args:
        states: of all processes. seed: for random numbers that cannot go on.
    Raises:
        ValueError: another batch.
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


def describe_state(cfg: CfgNode) -> dict[str, Any]:
    """Config and versions, for a reader of a checkpoint."""
    versions = {
        "torch": torch.__version__,
        "detectron2": detectron2.__version__,
        "open_clip": open_clip.__version__,
    }
    return {
        "config": cfg.dump(),
        "versions": {name: str(version) for name, version in versions.items()},
    }


class StopSignals:
    """Notes SIGTERM and SIGUSR1 inside ``with``; outside these signals do what they did before."""

    def __init__(self) -> None:
        self.told_at: float | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in STOP_SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not in the main thread, which alone gets signals
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def any_told(self, grace: float = 0.0) -> bool:
        """Whether one of the processes, which all have to ask, was told to stop, and that ``grace``
        seconds ago or more.
        """
        told = self.told_at is not None and time.monotonic() - self.told_at >= grace
        if comm.get_world_size() == 1:
            return told
        any_told = torch.tensor(int(told), device=group_device())
        dist.all_reduce(any_told, dist.ReduceOp.MAX)
        return bool(any_told.item())

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.told_at is None:
            self.told_at = time.monotonic()


class Checkpoints(HookBase):
    """Writes checkpoints: every ``period`` iterations, at the end, and when the run is told to stop
    by SIGTERM or SIGUSR1.

    A told run finishes its iteration, saves and leaves with the code ``INTERRUPTED``, all processes
    together. A periodic checkpoint that cannot be written is an error in the log, and the run goes
    on.

    Args:
        checkpointer: of the run. period: 0 writes only the last. keep: how many numbered files are
            kept; 0 for all.
        signals: notes the signals, while whoever trains is inside of it.
    """

    def __init__(
        self,
        checkpointer: StrictCheckpointer,
        period: int,
        keep: int,
        signals: StopSignals | None = None,
    ) -> None:
        self.checkpointer, self.period, self.keep = checkpointer, period, keep
        self.signals = signals or StopSignals()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        finished, told = done >= self.trainer.max_iter, self.signals.any_told()
        if finished:
            self.save("model_final")
            if self.trainer.average is not None:
                with self.trainer.evaluated_weights():
                    self.checkpointer.save("model_final_average", tag=False)
        elif told:
            self.save_and_leave()
        elif self.period and done % self.period == 0:
            try:
                self.save(f"model_{self.trainer.iter:07d}")
            except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
                logger.error("%s. Training goes on; the checkpoint before is still there", error)

    def save_and_leave(self) -> None:
        """Save the state after this iteration and leave, all processes together.

        Raises:
            SystemExit: with ``INTERRUPTED``. OSError: it could not be saved.
        """
        self.save(f"model_{self.trainer.iter:07d}")
        comm.synchronize()
        logger.info(
            "Told to stop: saved after iteration %d. Go on with --resume", self.trainer.iter
        )
        raise SystemExit(INTERRUPTED)

    def save(self, name: str) -> None:
        """Write a checkpoint with the states of all processes, which all have to call it.

        Raises:
            OSError: it could not be written.
        """
        states = gather_process_states(self.trainer.stream)
        if not comm.is_main_process():
            return
        try:
            self.checkpointer.save(name, processes=states, **describe_state(self.trainer.cfg))
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"checkpoint {name} could not be written to {self.checkpointer.save_dir!r} "
                f"({error}). Is the disk full? Free some space, or set SOLVER.CHECKPOINT_KEEP to a "
                "smaller number"
            ) from error
        self.checkpointer.keep_last(self.keep)


class Evaluations(hooks.EvalHook):
    """Evaluates every ``period`` iterations and after a training that came to its end.

    A signal to stop ends an evaluation, and the run is saved and left. A run that is resumed first
    makes up for the evaluation after its last iteration if that was due and its scores were not
    written.

    Args:
        period: 0 for after the last iteration alone. evaluate: gives scores by dataset, or raises
            EvaluationStoppedError.
        checkpoints: saves the run. metrics: ``metrics.json``, which gets the scores.
    """

    def __init__(
        self, period: int, evaluate: Callable[[], Any], checkpoints: Checkpoints, metrics: Path
    ) -> None:
        super().__init__(period, evaluate)
        self.checkpoints, self.metrics = checkpoints, metrics

    def before_train(self) -> None:
        start, names = self.trainer.start_iter, self.trainer.test_names
        missing = (
            start > 0 and self._is_due(start) and not is_written(self.metrics, start - 1, names)
        )
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
            # it is less after an error, in the last iteration, too
            if self.trainer.iter >= self.trainer.max_iter:
                # one more where none was run
                self.trainer.iter = self.trainer.storage.iter = self.trainer.max_iter
                self._do_eval()
        except EvaluationStoppedError:
            logger.info("Told to stop in the final evaluation. --resume makes up for it")
        finally:
            del self._func  # it holds the trainer, which holds this

    def _is_due(self, done: int) -> bool:
        """Whether an evaluation, but the final one, comes after so many iterations."""
        return self._period > 0 and done % self._period == 0 and done < self.trainer.max_iter


class BestCheckpoint(HookBase):
    """Keeps the model with the best evaluation as ``model_best.pth``, and its value in
    ``model_best.json``.

    Args:
        checkpointer: of the run. metric: mean of this score over the test sets, or DATASET/SCORE
            for that of one.
    """

    def __init__(self, checkpointer: StrictCheckpointer, metric: str) -> None:
        self.checkpointer, self.metric = checkpointer, metric
        self.best = float("-inf")
        self._seen: Any = None

    @property
    def _record(self) -> Path:
        return Path(self.checkpointer.save_dir) / "model_best.json"

    def before_train(self) -> None:
        if not self.trainer.start_iter:
            return
        if self._record.is_file():
            record = json.loads(self._record.read_text(encoding="utf-8"))
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
        write_atomically(
            self._record, lambda p: p.write_text(json.dumps(record) + "\n", encoding="utf-8")
        )
        logger.info("Best %s so far: %.3f", self.metric, value)


def metric_of(results: Mapping[str, Mapping[str, float]], metric: str) -> float:
    """A score of an evaluation's results: of one dataset (DATASET/SCORE), or the mean over all of
    them.

    The IoU of a class that is nowhere in the labels is NaN.

    Raises:
        ValueError: there is no such score.
    """
    dataset, score = split_metric(metric)
    chosen = [scores for name, scores in results.items() if dataset in ("", name)]
    if chosen and score.startswith("IoU-"):
        return statistics.fmean(scores.get(score, float("nan")) for scores in chosen)
    if not chosen or any(score not in scores for scores in chosen):
        known = sorted(
            {key for scores in results.values() for key in scores if not key.startswith("IoU-")}
        )
        raise ValueError(
            f"TEST.BEST_METRIC: got {metric!r}, expected one of {known}, or DATASET/SCORE with a "
            f"dataset of {sorted(results)}"
        )
    return statistics.fmean(scores[score] for scores in chosen)


def split_metric(metric: str) -> tuple[str, str]:
    """Dataset, "" for all of them, and score of TEST.BEST_METRIC; the name of a class may hold a
    "/", that of a dataset not.
    """
    dataset, slash, score = metric.partition("/")
    return (dataset, score) if slash and not metric.startswith("IoU-") else ("", metric)
