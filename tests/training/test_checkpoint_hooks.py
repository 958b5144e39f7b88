"""Checkpoints of a run: full disks, damaged files, other configs, the best one, the averaged
weights.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import math
import os
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from hyperclip.checkpoints.checkpointer import StrictCheckpointer, UnreadableCheckpointError
from hyperclip.config.keys import load_config
from hyperclip.training.checkpoint_hooks import (
    BestCheckpoint,
    Checkpoints,
    StopSignals,
    metric_of,
    restore_process_state,
)
from hyperclip.training.ema import WeightAverage
from hyperclip.training.run_folder import check_output_folder, setup_run
from torch import nn

CONFIG = "configs/quickstart/hyperclip.yaml"


class Counter:
    """Something with a state."""

    def __init__(self, count=0):
        self.count = count

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def model_of(value):
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.fill_(value)
    return model


def run_with(folder, iterations=(4, 9, 14)):
    """A folder with checkpoints whose weights and counters are their iterations."""
    for k in iterations:
        StrictCheckpointer(model_of(k), str(folder), trainer=Counter(k)).save(f"model_{k:07d}")


def resume(folder):
    model, counter = model_of(-1), Counter(-1)
    StrictCheckpointer(model, str(folder), trainer=counter).resume_or_load("", resume=True)
    return model.weight[0, 0].item(), counter.count


def test_a_truncated_file_gives_way_to_the_one_before(tmp_path, caplog):
    run_with(tmp_path)
    assert resume(tmp_path) == (14, 14)
    last = tmp_path / "model_0000014.pth"
    last.write_bytes(last.read_bytes()[:-200])
    assert resume(tmp_path) == (9, 9) and "model_0000014.pth' cannot be read" in caplog.text
    (tmp_path / "model_0000009.pth").write_bytes(b"")
    assert resume(tmp_path) == (4, 4)
    (tmp_path / "model_0000004.pth").write_bytes(b"")
    with pytest.raises(
        UnreadableCheckpointError, match="--resume: none of .* can be read. Start without --resume"
    ):
        resume(tmp_path)


def test_a_run_whose_last_note_is_missing_goes_on(tmp_path):
    """Killed between the file and the note of its name."""
    run_with(tmp_path)
    (tmp_path / "last_checkpoint").unlink()
    assert resume(tmp_path) == (14, 14)
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    assert resume(tmp_path) == (4, 4)


def test_a_checkpoint_that_does_not_fit_is_no_reason_to_take_an_older_one(tmp_path):
    run_with(tmp_path)
    with pytest.raises(ValueError, match="does not fit the model"):
        StrictCheckpointer(nn.Linear(3, 3), str(tmp_path), trainer=Counter()).resume_or_load(
            "", resume=True
        )


def test_only_the_last_are_kept(tmp_path):
    run_with(tmp_path, range(6))
    (tmp_path / "model_final.pth").write_text("stays")
    checkpointer = StrictCheckpointer(model_of(0), str(tmp_path))
    checkpointer.keep_last(0)
    assert len(list(tmp_path.glob("model_0*.pth"))) == 6
    checkpointer.keep_last(2)
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == [
        "model_0000004.pth",
        "model_0000005.pth",
        "model_final.pth",
    ]


def test_what_was_written_last_counts_whatever_its_name(tmp_path):
    """In a folder with another run's files of higher numbers."""
    run_with(tmp_path, (4, 9, 14))
    run_with(tmp_path, (2,))
    checkpointer = StrictCheckpointer(model_of(0), str(tmp_path))
    checkpointer.keep_last(1)
    assert [p.name for p in tmp_path.glob("*.pth")] == ["model_0000002.pth"] and resume(
        tmp_path
    ) == (2, 2)
    run_with(tmp_path, (7, 5, 3))
    for k, name in enumerate((7, 5, 3)):
        # far older than the one of iteration 2
        os.utime(tmp_path / f"model_000000{name}.pth", (1e9 + k, 1e9 + k))
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")  # is missing
    assert resume(tmp_path) == (2, 2)
    (tmp_path / "model_0000002.pth").unlink()
    assert resume(tmp_path) == (3, 3)
    (tmp_path / "last_checkpoint").write_text("model_0000007.pth")
    checkpointer.keep_last(2)
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == [
        "model_0000003.pth",
        "model_0000007.pth",
    ]


def checkpoints_of(folder, **trainer):
    """The hook of a run that has come to iteration 4 of 10."""
    checkpointer = StrictCheckpointer(model_of(1), str(folder), trainer=Counter(4))
    hook = Checkpoints(checkpointer, period=5, keep=2, signals=StopSignals())
    stream = SimpleNamespace(state_dict=lambda: {"position": 20})
    cfg = load_config(CONFIG)
    hook.trainer = SimpleNamespace(
        **{"iter": 4, "max_iter": 10, "stream": stream, "cfg": cfg, "average": None, **trainer}
    )
    return hook


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("file write failed"),
        RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0"),
    ],
)
def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch, caplog, error):
    run_with(tmp_path, [2])

    def fail(data, path):
        path.write_bytes(b"half a file")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    checkpoints_of(tmp_path).after_step()
    assert "Is the disk full?" in caplog.text and "Training goes on" in caplog.text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_0000002.pth"]
    assert resume(tmp_path) == (2, 2)
    with pytest.raises(OSError, match="checkpoint model_final could not be written"):
        checkpoints_of(tmp_path, iter=9).after_step()


def test_another_fault_is_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    def fail(data, path):
        raise RuntimeError("CUDA error: an illegal memory access, write of size 4")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="^CUDA error"):
        checkpoints_of(tmp_path).after_step()


def test_what_a_checkpoint_holds(tmp_path):
    checkpoints_of(tmp_path).after_step()
    content = torch.load(tmp_path / "model_0000004.pth", weights_only=True)
    assert set(content) == {"model", "settings", "trainer", "processes", "config", "versions"}
    assert content["settings"] == {}  # a bare module has none
    assert set(content["processes"][0]["random"]) >= {"python", "numpy", "torch"}
    assert content["processes"][0]["stream"] == {"position": 20}


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_run_keeps_as_many_as_it_was_told(tmp_path, keep):
    for k in range(5):
        hook = checkpoints_of(tmp_path, iter=k)
        hook.period, hook.keep = 1, keep
        hook.after_step()
        names = sorted(p.name for p in tmp_path.glob("model_0*.pth"))
        assert names == [f"model_{i:07d}.pth" for i in range(max(0, k + 1 - keep), k + 1)]


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_random_numbers_of_another_number_of_processes(monkeypatch, rank):
    """Each process has its own, which depend on the seed and on the place in the data."""
    seeds = []
    monkeypatch.setattr("hyperclip.training.checkpoint_hooks.seed_all_rng", seeds.append)
    monkeypatch.setattr("hyperclip.training.checkpoint_hooks.comm.get_world_size", lambda: 3)
    monkeypatch.setattr("hyperclip.training.checkpoint_hooks.comm.get_rank", lambda: rank)
    stream = SimpleNamespace(position=40, load_state_dicts=lambda states: None)
    restore_process_state([{"stream": {}, "random": {}}] * 2, stream, 1000)
    assert seeds == [1040 + rank]


@pytest.mark.parametrize("text", ["whole", "SEED: 3\nSOL", "", "a: [", "- 3", None])
def test_a_damaged_config_file_does_not_block_going_on(tmp_path, text):
    """The checkpoint knows the config; another one is still found out."""
    folder = ["OUTPUT_DIR", str(tmp_path)]
    checkpoints_of(tmp_path, cfg=load_config(CONFIG, folder)).after_step()
    if text is not None:
        (tmp_path / "config.yaml").write_text(
            load_config(CONFIG, folder).dump() if text == "whole" else text
        )
    check_output_folder(load_config(CONFIG, folder), resume=True)
    with pytest.raises(ValueError, match="1 keys differ: SOLVER.BASE_LR: 0.002 -> 0.1"):
        check_output_folder(load_config(CONFIG, [*folder, "SOLVER.BASE_LR", "0.1"]), resume=True)


def test_nothing_to_go_on_from(tmp_path):
    """What a start that failed has left does not matter; weights that would be overwritten do."""
    folder = ["OUTPUT_DIR", str(tmp_path)]
    (tmp_path / "config.yaml").write_text(
        load_config(CONFIG, [*folder, "SOLVER.BASE_LR", "0.1"]).dump()
    )
    (tmp_path / "metrics.json").write_text("")
    check_output_folder(load_config(CONFIG, folder), resume=True)
    (tmp_path / "model_final.pth").write_text("")
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    with pytest.raises(
        ValueError,
        match="has model_final.pth, which a run would overwrite, but no checkpoint to go on from",
    ):
        check_output_folder(load_config(CONFIG, folder), resume=True)


def test_resuming_another_config_shows_the_keys(tmp_path):
    folder = ["OUTPUT_DIR", str(tmp_path)]
    (tmp_path / "config.yaml").write_text(load_config(CONFIG, folder).dump())
    run_with(tmp_path, [4])
    check_output_folder(load_config(CONFIG, folder), resume=True)
    harmless = [
        "DATALOADER.NUM_WORKERS",
        "3",
        "TEST.EVAL_PERIOD",
        "7",
        "SOLVER.CHECKPOINT_PERIOD",
        "9",
    ]
    check_output_folder(load_config(CONFIG, [*folder, *harmless]), resume=True)
    other = load_config(CONFIG, [*folder, "SOLVER.BASE_LR", "0.1", "SEED", "7"])
    with pytest.raises(
        ValueError,
        match=r"2 keys differ: SEED: -1 -> 7; SOLVER.BASE_LR: 0.002 -> 0.1.*Resume it with its own",
    ):
        setup_run(other, argparse.Namespace(eval_only=False, resume=True))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("TEST.ASK", "present"),
        ("TEST.BACKGROUND", "words"),
        ("TEST.AUG.ENABLED", "True"),
        ("TEST.PRUNE", "0.5"),
        ("TEST.EXAMPLES.FOLDER", "examples"),
        ("TEST.REFINER.NAME", "guided"),
        ("TEST.REFINER.GUIDED.EPS", "0.1"),
        ("TEST.REGIONS.RULE", "majority"),
    ],
)
def test_what_makes_scores_of_another_kind_is_not_resumed(tmp_path, key, value):
    folder = ["OUTPUT_DIR", str(tmp_path)]
    (tmp_path / "config.yaml").write_text(load_config(CONFIG, folder).dump())
    run_with(tmp_path, [4])
    with pytest.raises(ValueError, match=f"1 keys differ: {key}: .* Resume it with its own"):
        check_output_folder(load_config(CONFIG, [*folder, key, value]), resume=True)


def test_the_best_is_kept_over_a_resume(tmp_path):
    def hook(start, results, iteration):
        made = BestCheckpoint(StrictCheckpointer(model_of(iteration), str(tmp_path)), "mIoU")
        found = {"_last_eval_results": results, "evaluated_weights": contextlib.nullcontext}
        made.trainer = SimpleNamespace(start_iter=start, iter=iteration, **found)
        made.before_train()
        made.after_step()

    hook(0, {"a": {"mIoU": 30.0}, "b": {"mIoU": 10.0}}, 3)
    hook(4, {"a": {"mIoU": 29.0}, "b": {"mIoU": 10.0}}, 7)
    assert json.loads((tmp_path / "model_best.json").read_text()) == {
        "metric": "mIoU",
        "value": 20.0,
        "iteration": 3,
    }
    hook(8, {"a": {"mIoU": 29.0}, "b": {"mIoU": 12.0}}, 9)
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["model"]["weight"][0, 0] == 9
    record = (tmp_path / "model_best.json").read_text()
    hook(10, {"a": {"mIoU": 29.0}, "b": {"mIoU": 12.0}}, 11)  # the first of equals stays
    hook(0, {"a": {"mIoU": float("nan")}}, 2)  # a run that started anew, and found nothing to count
    hook(12, {"a": {"mIoU": float("nan")}, "b": {"mIoU": 99.0}}, 13)
    assert (tmp_path / "model_best.json").read_text() == record
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["model"]["weight"][0, 0] == 9
    assert not (tmp_path / "last_checkpoint").exists()


def test_the_best_by_another_metric_does_not_count(tmp_path):
    (tmp_path / "model_best.json").write_text(
        json.dumps({"metric": "pACC", "value": 90.0, "iteration": 3})
    )
    made = BestCheckpoint(StrictCheckpointer(model_of(7), str(tmp_path)), "mIoU")
    results = {"a": {"mIoU": 30.0, "pACC": 80.0}}
    made.trainer = SimpleNamespace(
        start_iter=4, iter=7, evaluated_weights=contextlib.nullcontext, _last_eval_results=None
    )
    made.before_train()
    made.trainer._last_eval_results = results
    made.after_step()
    assert json.loads((tmp_path / "model_best.json").read_text()) == {
        "metric": "mIoU",
        "value": 30.0,
        "iteration": 7,
    }


def test_metrics_of_choice():
    results = OrderedDict(
        a={"mIoU": 30.0, "pACC": 50.0, "IoU-x": 1.0}, b={"mIoU": 10.0, "pACC": 70.0}
    )
    assert (metric_of(results, "mIoU"), metric_of(results, "a/pACC")) == (20.0, 50.0)


def test_the_iou_of_a_class_that_is_nowhere():
    results = {"a": {"mIoU": 30.0, "IoU-x/y": 20.0}, "b": {"mIoU": 10.0}}
    assert metric_of(results, "a/IoU-x/y") == 20.0
    assert math.isnan(metric_of(results, "b/IoU-x/y")) and math.isnan(metric_of(results, "IoU-x/y"))


def test_the_average_of_weights():
    model = nn.Linear(1, 1, bias=False)
    frozen = nn.Linear(1, 1)
    frozen.requires_grad_(False)
    whole = nn.ModuleList([model, frozen])
    average = WeightAverage(whole, 0.9)
    values, expected = [1.0, 5.0, -2.0, 4.0], 0.0
    with torch.no_grad():
        model.weight.fill_(0.0)
        average.before_train()
        for n, value in enumerate(values, start=1):
            model.weight.fill_(value)
            average.after_step()
            decay = min(0.9, (1 + n) / (10 + n))
            expected = decay * expected + (1 - decay) * value
    assert set(average.averages) == {"0.weight"}
    with average.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 4.0
    other = WeightAverage(whole, 0.9)
    other.load_state_dict(average.state_dict())
    other.before_train()
    assert other.steps == 4 and other.averages["0.weight"].item() == pytest.approx(expected)
    for wrong in (1.0, -0.5):
        with pytest.raises(ValueError, match="SOLVER.EMA_DECAY: got"):
            WeightAverage(whole, wrong)
