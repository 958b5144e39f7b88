"""The stream of training batches: which picture comes when, and how it is augmented, depends on seed and position alone.

So a run goes on exactly where it was, whatever the number of workers, and several processes see the batches of one.
"""

from __future__ import annotations

import functools
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList
from torch.utils.data import DataLoader, Dataset

from ..randomness import seeded

logger = logging.getLogger("hyperclip.data")

ATTEMPTS = 10
"""Pictures that are tried for one position."""

GRACE = 60
"""Seconds that a worker goes on after SIGTERM."""

FEW = 100
"""The share of faulty pictures is taken of at least so many, so that one of the first does not end a run."""


class TrainSamples(Dataset):
    """Samples by their position in an endless stream. Each epoch has its own order.

    A picture that cannot be read gives way to another one, drawn by chance; "faults" of the sample says so.

    Args:
        records: Detectron2's. mapper: makes a sample of a record. seed: of the order and the augmentation.
    """

    def __init__(self, records: list[dict], mapper: Callable[[dict], dict], seed: int) -> None:
        self.records, self.mapper, self.seed = DatasetFromList(records, copy=False), mapper, seed

    def index(self, position: int) -> int:
        """Which record comes at a position."""
        epoch, offset = divmod(position, len(self.records))
        return int(order_of_epoch(self.seed, epoch, len(self.records))[offset])

    def __getitem__(self, position: int) -> dict:
        """The sample, with "position" and "faults", a message for each picture that could not be read.

        Raises:
            ValueError: none of several pictures can be read.
        """
        faults: list[str] = []
        with seeded(self.seed, position):
            index = self.index(position)
            for _ in range(ATTEMPTS):
                try:
                    sample = self.mapper(self.records[index])
                except (OSError, ValueError) as error:
                    faults.append(str(error))
                    index = int(np.random.randint(len(self.records)))
                    continue
                return sample | {"position": position, "faults": faults}
        listed = "\n  ".join(faults)
        raise ValueError(f"{ATTEMPTS} training pictures, drawn one after another, could not be read:\n  {listed}")


@functools.lru_cache(maxsize=2)
def order_of_epoch(seed: int, epoch: int, size: int) -> np.ndarray:
    """A permutation of 0..size-1."""
    return np.random.default_rng([seed, epoch]).permutation(size)


class TrainStream:
    """Endless batches of one of several processes.

    Batch k of all processes together are the positions k B to (k + 1) B - 1, in slices. When grouped, a process takes every
    P-th position instead and makes batches of pictures that are all wide or all high.

    Args:
        samples: by position. batch: B, of all processes, a multiple of their number.
        rank, processes: this process. workers: processes that read; 0 reads in this one.
        grouped: make batches of one orientation, which pays where pictures of a batch are padded to the largest.
        max_faulty: share of pictures that may be unreadable.
    """

    def __init__(
        self,
        samples: TrainSamples,
        batch: int,
        *,
        rank: int = 0,
        processes: int = 1,
        workers: int = 0,
        grouped: bool = False,
        max_faulty: float = 0.01,
    ) -> None:
        self.samples, self.batch, self.rank, self.processes = samples, batch, rank, processes
        self.workers, self.grouped, self.max_faulty = workers, grouped, max_faulty
        self.position, self.seen, self.faulty = 0, 0, 0
        self.waiting: list[int] = []

    def __iter__(self) -> Iterator[list[dict]]:
        """Go on at the present position.

        Raises:
            ValueError: too many pictures are unreadable.
        """
        loader = DataLoader(
            self.samples,
            batch_size=None,
            sampler=self._positions(),
            num_workers=self.workers,
            collate_fn=_as_it_is,
            multiprocessing_context=start_method(self.workers),
            worker_init_fn=_outlive_signals,
            generator=torch.Generator(),  # else it would take a random number from torch's own
        )
        size = self.batch // self.processes
        groups: dict[bool, list[dict]] = {}
        again = set(self.waiting)  # these are counted already
        for sample in loader:
            faults = sample.pop("faults")
            if sample["position"] not in again:
                self._count(faults)
                self.position += self.processes if self.grouped else 0
            group = groups.setdefault(self.grouped and sample["width"] > sample["height"], [])
            group.append(sample)
            if len(group) < size:
                continue
            ready = group[:]
            group.clear()
            self.position += 0 if self.grouped else self.batch
            self.waiting = [s["position"] for g in groups.values() for s in g]
            yield ready

    def _positions(self) -> Iterator[int]:
        size, start = self.batch // self.processes, self.position
        if self.grouped:
            yield from list(self.waiting)
            while True:
                yield start + self.rank
                start += self.processes
        while True:
            yield from range(start + self.rank * size, start + (self.rank + 1) * size)
            start += self.batch

    def _count(self, faults: list[str]) -> None:
        self.seen += 1
        self.faulty += len(faults)
        for fault in faults:
            logger.warning("skipped picture %d of %d: %s", self.faulty, self.seen + self.faulty, fault)
        if faults and self.faulty > self.max_faulty * max(self.seen + self.faulty, FEW):
            raise ValueError(
                f"{self.faulty} of {self.seen + self.faulty} training pictures could not be read, more than "
                f"DATALOADER.MAX_FAULTY_SHARE {self.max_faulty} of at least {FEW}. The last: {faults[-1]}. "
                "tools/check_datasets.py --samples 0 lists them all"
            )

    def state_dict(self) -> dict[str, Any]:
        """Where this process is."""
        return {
            "seed": self.samples.seed, "batch": self.batch, "position": self.position, "waiting": list(self.waiting),
            "seen": self.seen, "faulty": self.faulty,
        }  # fmt: skip

    def load_state_dicts(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on where all processes of a run were, even if their number was another one.

        Raises:
            ValueError: another batch.
        """
        same = len(states) == self.processes
        state = states[self.rank] if same else states[0]
        if state["batch"] != self.batch:
            raise ValueError(f"SOLVER.IMS_PER_BATCH: got {self.batch}, the run had {state['batch']}; expected the same")
        if not same and any(s["waiting"] for s in states):
            logger.warning("another number of processes: %d pictures that waited for a batch of their shape are left out",
                           sum(len(s["waiting"]) for s in states))  # fmt: skip
        self.samples.seed = state["seed"]
        self.position = state["position"] if same else max(s["position"] for s in states)
        self.waiting = list(state["waiting"]) if same else []
        self.seen, self.faulty = state["seen"], state["faulty"]


def start_method(workers: int) -> str | None:
    """How to start a loader's workers: forked on Linux, where processes of Detectron2's launcher would spawn them."""
    return "fork" if workers and sys.platform == "linux" else None


def _as_it_is(sample: Any) -> Any:
    return sample


def _outlive_signals(_: int) -> None:
    """A signal to the whole group is the main process's affair, which still needs its workers for the step it is in."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
