"""The state of a run: what its checkpoints hold, when they are written, and how a run goes on from one."""

from __future__ import annotations

import json
import logging
import signal
import statistics
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import detectron2
import open_clip
import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from ..data.stream import TrainStream
from ..files import write_atomically
from ..randomness import random_state, set_random_state
from .checkpointing import StrictCheckpointer

logger = logging.getLogger("hyperclip.engine")

INTERRUPTED = 85
"""Exit code of a training that was told to stop and has saved a checkpoint."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def gather_process_states(stream: TrainStream) -> list[dict[str, Any]]:
    """Random numbers and place in the data of all processes, on the main one; all of them have to call it."""
    return comm.gather({"random": random_state(), "stream": stream.state_dict()})


def restore_process_state(states: list[dict[str, Any]], stream: TrainStream, seed: int) -> None:
    """Go on with a checkpoint's random numbers and data. With another number of processes only the data goes on.

    Args:
        states: of all processes. seed: for random numbers that cannot go on.
    Raises:
        ValueError: another batch.
    """
    stream.load_state_dicts([state["stream"] for state in states])
    if len(states) == comm.get_world_size():
        set_random_state(states[comm.get_rank()]["random"])
        return
    logger.warning("the run had %d processes and goes on with %d: random numbers in the model start anew", len(states),
                   comm.get_world_size())  # fmt: skip
    seed_all_rng(seed + stream.position + comm.get_rank())


def describe_state(cfg: CfgNode) -> dict[str, Any]:
    """Config and versions, for a reader of a checkpoint."""
    versions = {"torch": torch.__version__, "detectron2": detectron2.__version__, "open_clip": open_clip.__version__}
    return {"config": cfg.dump(), "versions": {name: str(version) for name, version in versions.items()}}


class Checkpoints(HookBase):
    """Writes checkpoints: every ``period`` iterations, at the end, and when the run is told to stop by SIGTERM or SIGUSR1.

    A told run finishes its iteration, saves and leaves with the code ``INTERRUPTED``, all processes together. A periodic
    checkpoint that cannot be written is an error in the log, and the run goes on.

    Args:
        checkpointer: of the run. period: 0 writes only the last. keep: how many numbered files are kept; 0 for all.
    """

    def __init__(self, checkpointer: StrictCheckpointer, period: int, keep: int) -> None:
        self.checkpointer, self.period, self.keep = checkpointer, period, keep
        self.told = False
        self._before: dict[int, Any] = {}

    def before_train(self) -> None:
        for number in STOP_SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._stop)
            except ValueError:  # not in the main thread, which alone gets signals
                return

    def after_train(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        finished, told = done >= self.trainer.max_iter, self._any_told()
        if finished:
            self.save("model_final")
            if self.trainer.average is not None:
                with self.trainer.evaluated_weights():
                    self.checkpointer.save("model_final_average", tag=False)
        elif told:
            self.save(f"model_{self.trainer.iter:07d}")
            comm.synchronize()
            logger.info("Told to stop: saved after iteration %d. Go on with --resume", self.trainer.iter)
            raise SystemExit(INTERRUPTED)
        elif self.period and done % self.period == 0:
            try:
                self.save(f"model_{self.trainer.iter:07d}")
            except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
                logger.error("%s. Training goes on; the checkpoint before is still there", error)

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
                f"checkpoint {name} could not be written to {self.checkpointer.save_dir!r} ({error}). Is the disk full? Free "
                "some space, or set SOLVER.CHECKPOINT_KEEP to a smaller number"
            ) from error
        self.checkpointer.keep_last(self.keep)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.told = True

    def _any_told(self) -> bool:
        if comm.get_world_size() == 1:
            return self.told
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        told = torch.tensor(int(self.told), device=device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return bool(told.item())


class BestCheckpoint(HookBase):
    """Keeps the model with the best evaluation as ``model_best.pth``, and its value in ``model_best.json``.

    Args:
        checkpointer: of the run. metric: mean of this score over the test sets, or DATASET/SCORE for that of one.
    """

    def __init__(self, checkpointer: StrictCheckpointer, metric: str) -> None:
        self.checkpointer, self.metric = checkpointer, metric
        self.best = float("-inf")
        self._seen: Any = None

    @property
    def _record(self) -> Path:
        return Path(self.checkpointer.save_dir) / "model_best.json"

    def before_train(self) -> None:
        if self.trainer.start_iter and self._record.is_file():
            self.best = json.loads(self._record.read_text(encoding="utf-8"))["value"]

    def after_step(self) -> None:
        self._look()

    def after_train(self) -> None:
        self._look()

    def _look(self) -> None:
        results = getattr(self.trainer, "_last_eval_results", None)
        if not results or results is self._seen or not comm.is_main_process():
            return
        self._seen = results
        value, iteration = metric_of(results, self.metric), self.trainer.iter
        if not value > self.best:
            return
        self.best = value
        with self.trainer.evaluated_weights():
            self.checkpointer.save("model_best", tag=False, iteration=iteration)
        record = {"metric": self.metric, "value": value, "iteration": iteration}
        write_atomically(self._record, lambda p: p.write_text(json.dumps(record) + "\n", encoding="utf-8"))
        logger.info("Best %s so far: %.3f", self.metric, value)


def metric_of(results: Mapping[str, Mapping[str, float]], metric: str) -> float:
    """A score of an evaluation's results: of one dataset (DATASET/SCORE), or the mean over all of them.

    Raises:
        ValueError: there is no such score.
    """
    dataset, _, score = metric.rpartition("/")
    chosen = [scores for name, scores in results.items() if dataset in ("", name)]
    if not chosen or any(score not in scores for scores in chosen):
        known = sorted({key for scores in results.values() for key in scores if not key.startswith("IoU-")})
        raise ValueError(f"TEST.BEST_METRIC: got {metric!r}, expected one of {known}, or DATASET/SCORE with a dataset of "
                         f"{sorted(results)}")  # fmt: skip
    return statistics.fmean(scores[score] for scores in chosen)
