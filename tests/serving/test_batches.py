"""Who is answered together, and when."""

from __future__ import annotations

import threading

import pytest
from hyperclip.serving.batches import Batches
from hyperclip.serving.limits import Refusal


class Gate:
    """Answers tasks by themselves in capital letters, and a task "wait" only when it is opened."""

    def __init__(self):
        self.batches, self.began, self.opened = [], threading.Event(), threading.Event()

    def __call__(self, tasks):
        self.batches.append(list(tasks))
        if tasks[0] == "wait":
            self.began.set()
            assert self.opened.wait(10)
        if tasks[0] == "bug":
            raise RuntimeError("a bug")
        return [ValueError(task) if task == "wrong" else task.upper() for task in tasks]


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def batches(gate):
    made = Batches(gate, most=3)
    yield made
    gate.opened.set()
    made.close()


def test_those_of_the_longest_waiting_kind_are_answered_together(gate, batches):
    first = batches.submit("own", "wait")
    gate.began.wait(10)
    kinds = {"a": "x", "b": "y", "c": "x", "d": "x", "e": "x", "f": "y"}
    futures = [batches.submit(kind, task) for task, kind in kinds.items()]
    assert len(batches) == 6 and not first.done()
    gate.opened.set()
    assert [future.result(10) for future in futures] == list("ABCDEF")
    assert gate.batches == [["wait"], ["a", "c", "d"], ["b", "f"], ["e"]]


def test_one_mistake_is_one_task_s(gate, batches):
    gate.opened.set()
    batches.submit("own", "wait").result(10)
    gate.began.clear()
    gate.opened.clear()
    batches.submit("own", "wait")
    gate.began.wait(10)
    futures = [batches.submit("x", task) for task in ("a", "wrong", "b")]
    gate.opened.set()
    assert futures[0].result(10) == "A" and futures[2].result(10) == "B"
    with pytest.raises(ValueError, match="wrong"):
        futures[1].result(10)


def test_the_thread_outlives_a_bug(gate, batches):
    with pytest.raises(RuntimeError, match="a bug"):
        batches.submit("x", "bug").result(10)
    assert batches.alive and batches.submit("x", "a").result(10) == "A"


def test_who_left_is_not_answered(gate, batches):
    batches.submit("own", "wait")
    gate.began.wait(10)
    gone, here = batches.submit("x", "gone"), batches.submit("x", "here")
    alone = batches.submit("y", "alone")
    assert gone.cancel() and alone.cancel()
    gate.opened.set()
    assert here.result(10) == "HERE"
    assert batches.submit("z", "last").result(10) == "LAST"
    assert gate.batches == [["wait"], ["here"], ["last"]]


def test_the_end_answers_what_has_begun_and_refuses_the_rest(gate, batches):
    begun = batches.submit("own", "wait")
    gate.began.wait(10)
    left = batches.submit("x", "a")
    ending = threading.Thread(target=batches.close)
    ending.start()
    with pytest.raises(Refusal, match="stopping") as refused:
        left.result(10)
    assert refused.value.status == 503 and not begun.done() and not batches.alive
    gate.opened.set()
    assert begun.result(10) == "WAIT"
    ending.join(10)
    assert not ending.is_alive()
    with pytest.raises(Refusal, match="stopping"):
        batches.submit("x", "late")
