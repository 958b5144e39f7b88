"""The stream of training batches: order and augmentation depend on seed and position alone.

So a run resumes exactly, whatever the number of workers, and many processes see the batches of one.
"""

import logging
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ..runtime.randomness import seeded
from .image_files import orientation_of
from .mixing import TrainPart, images_of_epoch, order_of_epoch

logger = logging.getLogger("hyperclip.data")

ATTEMPTS = 10
"""Images that are tried for one position."""

GRACE = 60
"""Seconds that a worker goes on after SIGTERM."""

FEW = 100
"""The share of faulty images is taken of at least this many, so one early fault ends no run."""


class TrainSamples(Dataset):
    """Samples by their position in an endless stream. Each epoch has its own order.

    An unreadable image is replaced by a random other one, which "faults" of the sample says; order
    and augmentation have the seed.

    Args:
        parts: one for each dataset. weights: how often an image comes from each, relative to the
            others; () for all images equally often.
    """

    def __init__(
        self, parts: Sequence[TrainPart], seed: int, weights: Sequence[float] = ()
    ) -> None:
        self.records = DatasetFromList([x for part in parts for x in part.records], copy=False)
        self.sizes = tuple(len(part.records) for part in parts)
        self.shares = images_of_epoch(self.sizes, weights)
        self.mappers, self.seed = [part.mapper for part in parts], seed
        self.asks: list[Mapping[str, Any]] = []
        for part in parts:
            if part.asks not in self.asks:
                self.asks.append(part.asks)
        self._part_of = np.repeat(np.arange(len(parts)), self.sizes)
        self._question_of = np.array([self.asks.index(part.asks) for part in parts])
        self._wide: dict[int, bool] = {}

    def index(self, position: int) -> int:
        """Which record comes at a position."""
        epoch, offset = divmod(position, sum(self.shares))
        return int(order_of_epoch(self.seed, epoch, self.sizes, self.shares)[offset])

    def question(self, position: int) -> int:
        """Which entry of ``asks`` the sample at a position gets: a batch has one for all."""
        return int(self._question_of[self._part_of[self.index(position)]])

    def question_shares(self) -> list[float]:
        """Which part of an epoch's images gets each entry of ``asks``; together 1."""
        images = np.bincount(self._question_of, weights=self.shares)
        return (images / images.sum()).tolist()

    def is_wide(self, position: int) -> bool:
        """Whether the image at a position is wider than high; its file's head is read once."""
        index = self.index(position)
        if index not in self._wide:
            self._wide[index] = is_wide(self.records[index])
        return self._wide[index]

    def __getitem__(self, position: int) -> dict:
        """The sample, with "position" and "faults", a message for each unreadable image; ValueError
        if none of several can be read.
        """
        faults: list[str] = []
        with seeded(self.seed, position):
            index = self.index(position)
            for _ in range(ATTEMPTS):
                try:
                    sample = self.mappers[self._part_of[index]](self.records[index])
                    return sample | {"position": position, "faults": faults}
                except (OSError, ValueError) as error:
                    faults.append(str(error))
                    index = self._another(position)
        drawn = f"{ATTEMPTS} training images, drawn one after another, could not be read:"
        raise ValueError("\n  ".join([drawn, *faults]))

    def _another(self, position: int) -> int:
        """A random record whose sample gets the same question."""
        same = np.flatnonzero(self._question_of[self._part_of] == self.question(position))
        return int(same[np.random.randint(len(same))])


def is_wide(record: Mapping[str, Any]) -> bool:
    """Whether an image is wider than high, by its record or its file; False if unreadable."""
    if "width" in record and "height" in record:
        return record["width"] > record["height"]
    try:
        with Image.open(record["file_name"]) as file:
            width, height = file.size
            on_side = orientation_of(file) > 4
    except Exception:  # of any kind; whoever reads all of it says what is wrong
        return False
    turned = on_side and record.get("orientation") != "stored"
    return height > width if turned else width > height


@dataclass(eq=False, repr=False)
class TrainStream:
    """Endless batches of one of several processes.

    Batch k of all processes together has the positions k B to (k + 1) B - 1, of which each process
    takes a slice. Where samples get several questions, those of a batch have the same, and grouped,
    its images are all wide or all high, which need less padding: then a batch is ready when its
    group is full. Every process computes all batches.

    Args:
        samples: by position. batch: B, of all processes, a multiple of their number.
        rank, processes: this process. workers: processes that read; 0 reads in this one.
        max_faulty: share of images that may be unreadable.
    """

    samples: TrainSamples
    batch: int
    _: KW_ONLY
    rank: int = 0
    processes: int = 1
    workers: int = 0
    grouped: bool = False
    max_faulty: float

    def __post_init__(self) -> None:
        self.position, self.seen, self.faulty = 0, 0, 0
        self.waiting: list[int] = []
        self.batches = [0] * len(self.samples.asks)

    def __iter__(self) -> Iterator[list[dict]]:
        """Go on at the present position; ValueError if too many images are unreadable."""
        loader = DataLoader(
            self.samples,
            batch_size=None,
            sampler=(position for positions, *_ in self._batches() for position in positions),
            num_workers=self.workers,
            collate_fn=dict,  # of a single sample: leaves it as it is
            multiprocessing_context=start_method(self.workers),
            worker_init_fn=_outlive_signals,
            generator=torch.Generator(),  # else it would take a random number from torch's own
        )
        samples = iter(loader)
        for positions, position, waiting in self._batches():
            ready = [next(samples) for _ in positions]
            for sample in ready:
                self._count(sample.pop("faults"))
            self.position, self.waiting = position, waiting
            question = self.samples.question(positions[0])
            self.batches[question] += 1
            yield [{**sample, **self.samples.asks[question]} for sample in ready]

    def _batches(self) -> Iterator[tuple[list[int], int, list[int]]]:
        """This process's positions of each batch, the next position, and those that wait."""
        size, position = self.batch // self.processes, self.position
        groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
        for known in list(self.waiting):
            groups[self._group(known)].append(known)
        while True:
            group = groups[self._group(position)]
            group.append(position)
            position += 1
            if len(group) == self.batch:
                share = group[self.rank * size : (self.rank + 1) * size]
                group.clear()
                yield share, position, sorted(p for waiting in groups.values() for p in waiting)

    def _group(self, position: int) -> tuple[int, bool]:
        wide = self.grouped and self.samples.is_wide(position)
        return self.samples.question(position), wide

    def _count(self, faults: list[str]) -> None:
        self.seen += 1
        self.faulty += len(faults)
        tried = self.seen + self.faulty
        for fault in faults:
            logger.warning("skipped image %d of %d: %s", self.faulty, tried, fault)
        if faults and self.faulty > self.max_faulty * max(tried, FEW):
            raise ValueError(
                f"{self.faulty} of {tried} training images could not be read, more than "
                f"DATALOADER.MAX_FAULTY_SHARE {self.max_faulty} of at least {FEW}. The last: "
                f"{faults[-1]}. tools/check_datasets.py --samples 0 lists them all"
            )

    def state_dict(self) -> dict[str, Any]:
        """Where this process is."""
        counts = {"position": self.position, "seen": self.seen, "faulty": self.faulty}
        fixed = {"seed": self.samples.seed, "batch": self.batch}
        return {**fixed, **counts, "waiting": list(self.waiting), "batches": list(self.batches)}

    def load_state_dicts(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on where a run was, whatever its number of processes; ValueError if B differs."""
        state = states[self.rank] if len(states) == self.processes else states[0]
        if state["batch"] != self.batch:
            sizes = f"got {self.batch}, the run had {state['batch']}"
            raise ValueError(f"SOLVER.IMS_PER_BATCH: {sizes}; expected the same")
        self.samples.seed = state["seed"]
        self.position, self.waiting = state["position"], list(state["waiting"])
        self.seen, self.faulty = state["seen"], state["faulty"]
        # Checkpoints before datasets could be mixed have no such counts, and one question
        self.batches = list(state.get("batches", [self.position // self.batch]))


def start_method(workers: int) -> str | None:
    """How a loader starts workers: forked on Linux, or Detectron2's launcher would spawn them."""
    return "fork" if workers and sys.platform == "linux" else None


def _outlive_signals(_: int) -> None:
    """Leave signals to the main process, which needs its workers until its step ends."""
    if hasattr(signal, "alarm"):  # Windows has neither this nor SIGUSR1
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
