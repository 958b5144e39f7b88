"""Detectron2's launcher, torchrun and the Slurm template start the same processes, and pass on
signals and exit codes.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from detectron2.engine import default_argument_parser
from hyperclip.training import launch
from hyperclip.training.launch import (
    ENVIRONMENT,
    check_process_count,
    launch_processes,
    started_by_environment,
)

from tests.helpers.colours import keys_of, write_colours

ROOT = Path(__file__).parents[2]

# Adds up rank + 1 over the processes, and writes what each of them is; with STOP it waits for a
# signal instead.
RUN = """
import json, os, pathlib, signal, sys, time
from hyperclip.training.launch import launch_processes
import torch
from detectron2.engine import default_argument_parser
from detectron2.utils import comm

def main(arguments):
    total = torch.tensor([comm.get_rank() + 1.0])
    torch.distributed.all_reduce(total)
    found = [comm.get_rank(), comm.get_world_size(), comm.get_local_rank(), comm.get_local_size()]
    row = [*found, torch.distributed.get_backend(), total.item()]
    out = pathlib.Path(os.environ["OUT"])
    if "STOP" in os.environ:
        signal.signal(signal.SIGUSR1, lambda *_: sys.exit(85))
    (out / str(comm.get_rank())).write_text(json.dumps(row))
    if "STOP" in os.environ:
        time.sleep(300)

if __name__ == "__main__":
    launch_processes(main, default_argument_parser().parse_args(), device="cpu")
"""

# What tools/train_net.py does at the end, without a model: leaves with CODE, or waits for SIGUSR1
# and leaves with 85.
STAND_IN = """
import json, os, pathlib, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(85))
names = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT".split()
row = {"arguments": sys.argv[1:], **{name: os.environ[name] for name in names}}
pathlib.Path(os.environ["OUT"], os.environ["RANK"]).write_text(json.dumps(row))
if os.environ["CODE"] == "wait":
    time.sleep(60)
sys.exit(int(os.environ["CODE"]))
"""

# Runs the command after srun's options in every task, and leaves with the highest exit code. With
# CODE=wait it signals its tasks as slurmstepd does: only the processes that it started itself.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
pids=()
for ((i = 0; i < SLURM_NTASKS; i++)); do
    SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & pids+=($!)
done
if [ "${CODE:-}" = wait ]; then
    until [ -s "$OUT/0" ] && [ -s "$OUT/1" ]; do sleep 0.05; done
    kill -USR1 "${pids[@]}"
fi
highest=0
for pid in "${pids[@]}"; do
    code=0; wait "$pid" || code=$?
    ((code > highest)) && highest=$code
done
exit $highest
"""

SCONTROL = """#!/usr/bin/env bash
if [ "$1" = show ]; then printf '127.0.0.1\\nsecond\\n'; else echo "$*" >> "$OUT/scontrol"; fi
"""


@pytest.fixture
def environment(tmp_path):
    """Environment of a command: nothing of a launcher, the output folder, and PATH with the fake
    commands of Slurm first.
    """
    commands = {
        "srun": SRUN,
        "scontrol": SCONTROL,
        "squeue": '#!/usr/bin/env bash\necho "${STATE:-RUNNING}"\n',
    }
    (tmp_path / "bin").mkdir()
    for name, text in commands.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "run.py").write_text(RUN)
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    (tmp_path / "out").mkdir()
    kept = {
        k: v
        for k, v in os.environ.items()
        if k not in ENVIRONMENT and not k.startswith(("SLURM_", "TORCHELASTIC_"))
    }
    return kept | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "OUT": str(tmp_path / "out"),
    }


@pytest.fixture
def slurm(environment, tmp_path):
    """Environment of a Slurm job with two tasks on one machine."""
    counts = {"NNODES": "1", "NTASKS": "2", "NTASKS_PER_NODE": "2", "GPUS_PER_NODE": "a100:2"}
    job = {"JOB_ID": "7", "JOB_NODELIST": "n[1-2]", **counts}
    stand_in = {"PYTHON": sys.executable, "TRAIN": str(tmp_path / "stand_in.py")}
    return environment | stand_in | {f"SLURM_{name}": value for name, value in job.items()}


def run(command, environment):
    return subprocess.run(
        [*map(str, command)], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def free_port():
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]


def rows(tmp_path):
    return [json.loads((tmp_path / "out" / str(rank)).read_text()) for rank in range(2)]


SAME_GROUP = [[rank, 2, rank, 2, "gloo", 3.0] for rank in range(2)]


@pytest.mark.parametrize("launcher", ["torchrun", "slurm"])
def test_torchrun_and_slurm_make_the_group(launcher, environment, slurm, tmp_path):
    script = tmp_path / "run.py"
    if launcher == "torchrun":
        torchrun = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
        ]
        done = run([*torchrun, script], environment)
    else:
        dry = run(
            ["bash", "tools/slurm.sh"],
            slurm | {"DRY_RUN": "1", "TRAIN": str(script), "MASTER_PORT": str(free_port())},
        )
        done = run(["bash", "-c", dry.stdout], slurm)
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path) == SAME_GROUP


def test_detectron2_makes_the_same_group_forwards_signals_and_passes_on_the_exit_code(
    environment, tmp_path
):
    command = [sys.executable, tmp_path / "run.py", "--num-gpus", "2"]
    process = subprocess.Popen(
        command, env=environment | {"STOP": "1"}, cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 200  # on a busy machine
        while (
            not all((tmp_path / "out" / str(rank)).is_file() for rank in range(2))
            and time.monotonic() < deadline
        ):
            time.sleep(0.1)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(120) == 85
        assert rows(tmp_path) == SAME_GROUP
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("code", "state", "left_with", "requeued"),
    [
        ("0", "RUNNING", 0, False),
        ("85", "RUNNING", 0, True),
        ("3", "RUNNING", 3, False),
        ("wait", "RUNNING", 0, True),
        ("85", "COMPLETING", 85, False),
    ],
)
def test_slurm_requeues_an_interrupted_training_only(
    code, state, left_with, requeued, slurm, tmp_path
):
    done = run(
        ["bash", "tools/slurm.sh", "a config.yaml", "KEY", "a $value"],
        slurm | {"CODE": code, "STATE": state},
    )
    assert done.returncode == left_with, done.stderr
    calls = tmp_path / "out" / "scontrol"
    assert (calls.read_text() if calls.is_file() else None) == ("requeue 7\n" if requeued else None)
    for rank, row in enumerate(rows(tmp_path)):
        assert row == {
            "arguments": ["--config-file", "a config.yaml", "--resume", "KEY", "a $value"],
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "20007",
        }


def test_slurm_dry_run_only_prints_the_command(environment, tmp_path):
    done = run(
        ["bash", "tools/slurm.sh", "x.yaml", "KEY", "1"],
        environment | {"DRY_RUN": "1", "PYTHON": "python3"},
    )
    words = shlex.split(done.stdout)
    assert (
        done.returncode == 0
        and words[0] == "srun"
        and "--ntasks=4" in words
        and "MASTER_ADDR=localhost" in words
    )
    assert words[-7:] == [
        "python3",
        "tools/train_net.py",
        "--config-file",
        "x.yaml",
        "--resume",
        "KEY",
        "1",
    ]
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SLURM_GPUS_PER_NODE": "4"}, "--ntasks-per-node 2 with --gpus-per-node 4"),
        ({"TRAIN": "none.py"}, "got no none.py"),
    ],
)
def test_slurm_template_checks_its_job(change, message, slurm):
    done = run(["bash", "tools/slurm.sh"], slurm | change)
    assert done.returncode == 2 and message in done.stderr


@pytest.fixture
def started(monkeypatch):
    for name, value in zip(ENVIRONMENT, ("1", "2", "1", "2", "localhost", "1"), strict=True):
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize("counts", [(2, 1), (1, 2)])
def test_torchrun_with_num_gpus_is_an_error(counts, started):
    with pytest.raises(
        ValueError,
        match=f"got {counts[0]} and {counts[1]} in a process that torchrun .* expected 1 and 1",
    ):
        launch_processes(
            lambda _: None, Namespace(num_gpus=counts[0], num_machines=counts[1]), device="cuda"
        )


def test_incomplete_environment_is_an_error(started):
    started.delenv("LOCAL_WORLD_SIZE")
    started.delenv("MASTER_PORT")
    with pytest.raises(ValueError, match="got no LOCAL_WORLD_SIZE, MASTER_PORT, expected RANK"):
        launch_processes(lambda _: None, Namespace(num_gpus=1, num_machines=1), device="cuda")


def test_a_process_without_its_gpu_is_an_error(started):
    started.setattr(torch.cuda, "is_available", lambda: True)
    started.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="LOCAL_RANK: got 1 where 1 GPUs are visible"):
        launch_processes(lambda _: None, Namespace(num_gpus=1, num_machines=1), device="cuda")


def test_more_processes_than_gpus_are_an_error(monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for count, expected in (
        (3, "got 3 where 2 GPUs are visible, expected 1 to 2"),
        (-1, "got -1, expected 1 or more"),
    ):
        with pytest.raises(ValueError, match=f"--num-gpus: {expected}"):
            launch_processes(
                lambda _: None, Namespace(num_gpus=count, num_machines=1), device="cuda"
            )
    for count, on_cuda in ((2, True), (1, True), (0, True), (3, False)):
        check_process_count(count, on_cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    check_process_count(8)  # they share the CPU


def test_one_process_is_this_one(monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")  # some clusters set it without torchrun's other variables
    assert not started_by_environment()
    assert (
        launch_processes(
            lambda arguments: arguments.num_gpus,
            Namespace(num_gpus=1, num_machines=1),
            device="cuda",
        )
        == 1
    )


def test_all_launchers_train_alike(environment, slurm, tmp_path):
    """Two iterations by two processes: Detectron2's launcher, torchrun, the template's generated
    command.
    """
    (tmp_path / "data").mkdir()
    keys = keys_of(
        write_colours(tmp_path / "data"), 2, DATALOADER__NUM_WORKERS=0, TEST__EVAL_PERIOD=0
    )
    train = ["tools/train_net.py", "--config-file", "configs/quickstart/hyperclip.yaml"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    folders = [tmp_path / name for name in ("detectron2", "torchrun", "slurm")]
    job = slurm | {"TRAIN": train[0], "MASTER_PORT": str(free_port())}
    done = [
        run(
            [sys.executable, *train, "--num-gpus", "2", *keys, "OUTPUT_DIR", folders[0]],
            environment,
        ),
        run([sys.executable, *torchrun, *train, *keys, "OUTPUT_DIR", folders[1]], environment),
        run(["bash", "tools/slurm.sh", train[2], *keys, "OUTPUT_DIR", folders[2]], job),
    ]
    losses = []
    for result, folder in zip(done, folders, strict=True):
        assert result.returncode == 0, result.stderr[-3000:]
        lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
        losses.append([line["total_loss"] for line in lines if line["iteration"] < 2])
        assert (folder / "results.json").is_file() and (folder / "model_final.pth").is_file()
    assert len(losses[0]) == 2 and losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize(
    ("options", "expected"),
    [([], "auto"), (["--dist-url", "tcp://10.0.0.1:29500"], "tcp://10.0.0.1:29500")],
)
def test_runs_of_one_machine_do_not_share_a_port(monkeypatch, options, expected):
    started = {}
    monkeypatch.setattr(launch, "launch", lambda *_, **keys: started.update(keys))
    arguments = default_argument_parser().parse_args(["--num-gpus", "2", *options])
    launch.launch_processes(lambda _: None, arguments, device="cpu")
    assert started["dist_url"] == expected


def test_several_machines_need_an_address():
    arguments = default_argument_parser().parse_args(["--num-machines", "2"])
    with pytest.raises(ValueError, match="--dist-url: got none with --num-machines 2, expected"):
        launch.launch_processes(lambda _: None, arguments, device="cpu")
