"""Requests that wait, and a thread that answers those of the same kind together."""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .limits import Refusal

logger = logging.getLogger("hyperclip.serve")
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Job(Generic[T, R]):
    """What is asked, what it has to have in common with others of a batch, and its answer."""

    kind: Hashable
    task: T
    future: "Future[R]" = field(default_factory=Future)


class Batches(Generic[T, R]):
    """Has one thread answer jobs: the one that has waited longest, and with it others of its kind.

    A batch takes what is there and waits for no more: while the thread is busy, others gather.

    Args:
        answer: gives the answer, or the exception, of each of some tasks of one kind.
        most: jobs of a batch.
    """

    def __init__(self, answer: Callable[[list[T]], Sequence[R | Exception]], most: int) -> None:
        self._answer, self._most, self._closed = answer, most, False
        self._waiting: deque[Job[T, R]] = deque()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="hyperclip-batches", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether it still answers."""
        return self._thread.is_alive() and not self._closed

    def submit(self, kind: Hashable, task: T) -> "Future[R]":
        """The future answer to a task; whoever cancels it in time saves the work. Refusal after
        :meth:`close`.
        """
        job: Job[T, R] = Job(kind, task)
        with self._changed:
            if self._closed:
                raise stopping()
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Refuse the jobs that wait, and return when the thread has ended its batch."""
        with self._changed:
            self._closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
            self._changed.notify()
        for job in waiting:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(stopping())
        self._thread.join()

    def _take(self) -> list[Job[T, R]]:
        """The next batch; empty when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            taken: list[Job[T, R]] = []
            left: deque[Job[T, R]] = deque()
            for job in self._waiting:
                same = not taken or job.kind == taken[0].kind
                (taken if same and len(taken) < self._most else left).append(job)
            self._waiting = left
            return taken

    def _run(self) -> None:
        while taken := self._take():
            jobs = [job for job in taken if job.future.set_running_or_notify_cancel()]
            if not jobs:
                continue
            try:
                answers = self._answer([job.task for job in jobs])
                for job, answer in zip(jobs, answers, strict=True):
                    if isinstance(answer, Exception):
                        job.future.set_exception(answer)
                    else:
                        job.future.set_result(answer)
            except Exception as error:  # the thread has to go on with the next ones
                logger.exception("a batch of %d requests failed", len(jobs))
                for job in jobs:
                    with contextlib.suppress(InvalidStateError):  # those that have an answer
                        job.future.set_exception(error)


def stopping() -> Refusal:
    """How requests are refused by a server that ends."""
    return Refusal("stopping", "the server is stopping; send it again to another, or later")
