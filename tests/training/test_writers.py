"""Where metrics go: the file of JSON lines, TensorBoard, Weights & Biases (a stand-in), and what a
resumption takes back.
"""

from __future__ import annotations

import json
import logging
import sys
from types import SimpleNamespace

import pytest
from detectron2.engine.hooks import PeriodicWriter
from detectron2.engine.train_loop import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, TensorboardXWriter
from hyperclip.config.keys import load_config
from hyperclip.training.writers import (
    MetricsFile,
    WandbWriter,
    build_writers,
    drop_lines_after,
    is_written,
)

CONFIG = "configs/quickstart/hyperclip.yaml"


def make_cfg(folder, *overrides):
    return load_config(CONFIG, ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(folder), *overrides])


class Run(TrainerBase):
    """A trainer whose loss is its iteration, written every two of them."""

    def __init__(self, cfg, start, end):
        super().__init__()
        self.register_hooks([PeriodicWriter(build_writers(cfg, end), period=2)])
        self.train(start, end)

    def run_step(self):
        self.storage.put_scalar("total_loss", self.iter, smoothing_hint=False)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


@pytest.fixture
def wandb(monkeypatch):
    """Stands in for the package: remembers its runs."""
    runs = []

    def init(**options):
        run = SimpleNamespace(options=options, logged=[], finished=0, defined=[])
        run.log = run.logged.append
        run.define_metric = lambda name, step_metric=None: run.defined.append((name, step_metric))
        run.finish = lambda: setattr(run, "finished", run.finished + 1)
        runs.append(run)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    return runs


def test_every_write_is_on_the_disk_in_full(tmp_path):
    writer = MetricsFile(tmp_path / "metrics.json")
    assert not (tmp_path / "metrics.json").exists()
    with EventStorage(3) as storage:
        for iteration in (3, 4):
            storage.iter = iteration
            storage.put_scalar("lr", 0.5, smoothing_hint=False)
            writer.write()
            text = (tmp_path / "metrics.json").read_text()  # as if the process were killed here
            assert text.endswith("}\n") and json.loads(text.splitlines()[-1]) == {
                "iteration": iteration,
                "lr": 0.5,
            }
    writer.close()
    writer.close()


def test_an_iteration_has_one_line_over_two_processes(tmp_path):
    """Scores that a resumed run adds to the last iteration of the one before."""
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 3, "lr": 0.5}\n{"iteration": 4, "lr": 0.4}\n')
    assert not is_written(path, 4, ["set"]) and is_written(path, 4, [])
    writer = MetricsFile(path)
    with EventStorage(5) as storage:
        storage.iter = 4
        storage.put_scalar("set/mIoU", 30.0, smoothing_hint=False)
        storage.iter = 5
        writer.write()
        storage.put_scalar("lr", 0.3, smoothing_hint=False)
        writer.write()
    writer.close()
    first, *others = [json.loads(line) for line in path.read_text().splitlines()]
    assert first == {"iteration": 3, "lr": 0.5}
    assert others == [{"iteration": 4, "lr": 0.4, "set/mIoU": 30.0}, {"iteration": 5, "lr": 0.3}]
    assert (
        is_written(path, 4, ["set"])
        and not is_written(path, 4, ["set", "other"])
        and not is_written(path, 3, ["set"])
    )
    assert not is_written(tmp_path / "none.json", 4, ["set"])


def test_a_run_writes_json_and_curves(tmp_path):
    Run(make_cfg(tmp_path / "run"), 0, 5)
    assert [(x["iteration"], x["total_loss"]) for x in lines(tmp_path / "run")] == [
        (1, 1),
        (3, 3),
        (4, 4),
    ]
    assert any(tmp_path.glob("run/events.out.tfevents.*"))


def test_unused_writers_leave_no_files(tmp_path, wandb):
    for writer in build_writers(make_cfg(tmp_path, "WANDB.PROJECT", "p"), 5):
        writer.close()
    assert not list(tmp_path.iterdir()) and not wandb


def test_without_tensorboard_there_is_a_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with caplog.at_level(logging.WARNING):
        writers = build_writers(make_cfg(tmp_path), 5)
    assert "pip install tensorboard" in caplog.text and not any(
        isinstance(w, TensorboardXWriter) for w in writers
    )


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert build_writers(make_cfg(tmp_path), 5) == []


def test_a_resumed_run_continues_in_wandb(tmp_path, wandb):
    cfg = make_cfg(tmp_path / "vitb", "WANDB.PROJECT", "radius", "WANDB.MODE", "offline")
    Run(cfg, 0, 4)
    assert drop_lines_after(tmp_path / "vitb" / "metrics.json", 2) == 1
    Run(cfg, 2, 6)
    first, second = wandb
    number = (tmp_path / "vitb" / "wandb_id.txt").read_text().strip()
    assert number and first.options["id"] == second.options["id"] == number
    expected = {
        "project": "radius",
        "name": "vitb",
        "mode": "offline",
        "resume": "allow",
        "dir": str(tmp_path / "vitb"),
    }
    assert expected.items() <= first.options.items()
    assert first.options["config"]["MODEL.SEM_SEG_HEAD.NUM_CLASSES"] == 60
    assert [(x["iteration"], x["total_loss"]) for x in first.logged] == [(1, 1), (3, 3)]
    assert [(x["iteration"], x["total_loss"]) for x in second.logged] == [(3, 3), (5, 5)]
    assert (
        first.defined == [("iteration", None), ("*", "iteration")]
        and first.finished == second.finished == 1
    )
    assert [x["iteration"] for x in lines(tmp_path / "vitb")] == [1, 3, 5]


def test_metrics_of_other_iterations_keep_theirs(tmp_path, wandb):
    writer = WandbWriter(tmp_path, "p", name="n")
    with EventStorage(7) as storage:
        storage.put_scalar("mIoU", 30.0, smoothing_hint=False, cur_iter=9)
        storage.put_scalar("lr", 0.1, smoothing_hint=False)
        writer.write()
        writer.write()
    assert wandb[0].logged == [{"lr": 0.1, "iteration": 7}, {"mIoU": 30.0, "iteration": 9}]


def test_wandb_is_imported_only_if_wanted(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert len(build_writers(make_cfg(tmp_path), 5)) == 3
    with pytest.raises(
        ValueError, match=r"WANDB.PROJECT: got 'p', but wandb cannot .* pip install \".\[wandb\]\""
    ):
        build_writers(make_cfg(tmp_path, "WANDB.PROJECT", "p"), 5)


def test_an_unknown_mode(tmp_path, wandb):
    with pytest.raises(ValueError, match="WANDB.MODE .*: got 'disabled', expected one of"):
        build_writers(make_cfg(tmp_path, "WANDB.PROJECT", "p", "WANDB.MODE", "disabled"), 5)


WHOLE = b'{"iteration": 1, "a": NaN}\n{"b": 2}\n{"iteration": 3}\n{"iteration": 5}\n'


@pytest.mark.parametrize(
    ("content", "iteration", "expected", "dropped"),
    [
        (WHOLE, 6, WHOLE, 0),
        (WHOLE, 3, b'{"iteration": 1, "a": NaN}\n{"b": 2}\n', 2),
        (WHOLE + b'{"iteration": 2, "a', 6, WHOLE, 1),
        (WHOLE[:-1], 6, WHOLE, 0),
        (b'{"iter{"iteration": 1}\n\x00\xff\n12\n', 6, b"", 3),
        (b"", 0, b"", 0),
    ],
)
def test_lines_that_a_resumed_run_writes_again_are_dropped(
    tmp_path, content, iteration, expected, dropped
):
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    assert drop_lines_after(path, iteration) == dropped
    assert path.read_bytes() == expected and list(tmp_path.iterdir()) == [path]


def test_no_file_and_no_needless_replacement(tmp_path):
    path = tmp_path / "metrics.json"
    assert drop_lines_after(path, 0) == 0 and not path.exists()
    path.write_bytes(WHOLE)
    before = path.stat().st_ino
    drop_lines_after(path, 6)
    assert path.stat().st_ino == before
