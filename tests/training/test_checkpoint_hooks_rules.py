"""Which checkpoints stay, which evaluation is the best, and which random numbers a process goes on
with.
"""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils import comm
from hyperclip.checkpoints.checkpointer import StrictCheckpointer
from hyperclip.training.checkpoint_hooks import (
    BestCheckpoint,
    gather_process_states,
    restore_process_state,
)

from tests.training.test_checkpoint_hooks import checkpoints_of, model_of


@pytest.mark.parametrize(
    ("keep", "expected"), [(1, [9]), (2, [8, 9]), (4, [6, 7, 8, 9]), (0, range(10))]
)
def test_exactly_so_many_numbered_files_are_kept(tmp_path, keep, expected):
    hook = checkpoints_of(tmp_path, max_iter=100)
    hook.keep, hook.period = keep, 1
    for iteration in range(10):
        hook.trainer.iter = iteration
        hook.after_step()
        assert (
            tmp_path / f"model_{iteration:07d}.pth"
        ).is_file()  # the one just written is never removed
    assert sorted(p.name for p in tmp_path.glob("model_*.pth")) == [
        f"model_{k:07d}.pth" for k in expected
    ]


@pytest.mark.parametrize(("period", "expected"), [(0, []), (3, [2, 5, 8]), (4, [3, 7])])
def test_when_checkpoints_are_written(tmp_path, period, expected):
    hook = checkpoints_of(tmp_path, max_iter=11)
    hook.keep, hook.period = 0, period
    for iteration in range(11):
        hook.trainer.iter = iteration
        hook.after_step()
    names = [f"model_{k:07d}.pth" for k in expected]
    assert sorted(p.name for p in tmp_path.glob("model_*.pth")) == [*names, "model_final.pth"]


def best_of(folder, values, start=0):
    """The iterations at which ``model_best.pth`` was written while evaluations gave these
    values.
    """
    hook = BestCheckpoint(StrictCheckpointer(model_of(0), str(folder)), "mIoU")
    hook.trainer = SimpleNamespace(
        start_iter=start, iter=0, evaluated_weights=contextlib.nullcontext
    )
    written, save = [], hook.checkpointer.save

    def noted(name, **arguments):
        written.append(hook.trainer.iter)
        save(name, **arguments)

    hook.checkpointer.save = noted
    hook.before_train()
    for iteration, value in enumerate(values):
        hook.trainer.iter, hook.trainer._last_eval_results = iteration, {"a": {"mIoU": value}}
        hook.after_step()
        hook.after_step()  # the same evaluation is looked at once
    return written


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([10.0, 20.0, 15.0, 20.0, 21.0], [0, 1, 4]),
        ([float("nan"), 5.0, float("nan"), 4.0, 6.0], [1, 4]),
        ([float("nan"), float("nan")], []),
        ([0.0], [0]),
    ],
)
def test_only_a_higher_number_is_better(tmp_path, values, expected):
    assert best_of(tmp_path, values) == expected
    if expected:
        record = json.loads((tmp_path / "model_best.json").read_text())
        assert (record["value"], record["iteration"]) == (values[expected[-1]], expected[-1])
    else:
        assert (
            not (tmp_path / "model_best.json").exists()
            and not (tmp_path / "model_best.pth").exists()
        )


class Stream:
    """Data that has come to a position."""

    def __init__(self, position=0):
        self.position = position

    def state_dict(self):
        return {"position": self.position}

    def load_state_dicts(self, states):
        self.position = states[0]["position"]


def numbers_after(monkeypatch, states, rank, world, seed):
    """Random numbers of a process after it went on with the states."""
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "get_world_size", lambda: world)
    before, stream = torch.get_rng_state(), Stream()
    try:
        restore_process_state(states, stream, seed)
        return stream.position, torch.rand(3).tolist()
    finally:
        torch.set_rng_state(before)


def test_the_same_number_of_processes_goes_on_with_the_same_numbers(monkeypatch):
    states, following = [], []
    for _ in range(2):
        states += gather_process_states(Stream(40))
        following.append(torch.rand(3).tolist())
    for rank in range(2):
        assert numbers_after(monkeypatch, states, rank, 2, 7) == (40, following[rank])


def test_another_number_of_processes_gives_each_numbers_of_its_own(monkeypatch, caplog):
    states = gather_process_states(Stream(40))
    drawn = [numbers_after(monkeypatch, states, rank, 3, 7) for rank in range(3)]
    assert [position for position, _ in drawn] == [40] * 3
    assert len({tuple(numbers) for _, numbers in drawn}) == 3
    assert numbers_after(monkeypatch, states, 1, 3, 7) == drawn[1]  # and the same ones again
    assert numbers_after(monkeypatch, states, 1, 3, 1007) != drawn[1]  # by the run's seed,
    later = [{**states[0], "stream": {"position": 1040}}]
    assert (
        numbers_after(monkeypatch, later, 1, 3, 7)[1] != drawn[1][1]
    )  # and by the place in the data
    assert "had 1 processes and goes on with 3" in caplog.text
