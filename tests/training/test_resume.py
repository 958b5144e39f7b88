"""A training that was killed goes on as if nothing had happened; two processes do what one does."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
import torch
from hyperclip.evaluation import SemSegEvaluator
from hyperclip.training import checkpoint_hooks
from hyperclip.training.checkpoint_hooks import INTERRUPTED

from tests.helpers.colours import keys_of, write_colours
from tests.helpers.programs import run_program
from tests.helpers.results import rows_of
from tests.training import training_run

ITERATIONS = 12


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("colours"))


def config_of(pictures, **others):
    """Checkpoints, an average, evaluations; the papers' learning rates, since larger ones amplify
    what rounding differs.
    """
    return keys_of(
        pictures,
        ITERATIONS,
        **{
            "SOLVER__CHECKPOINT_PERIOD": 5,
            "SOLVER__BASE_LR": 2e-4,
            "SOLVER__CLIP_MULTIPLIER": 0.075,
            "SOLVER__EMA_DECAY": 0.9,
            "TEST__EVAL_PERIOD": 6,
            **others,
        },
    )


def train(folder, keys, *options, name="run"):
    return run_program(
        "-m",
        "tests.training.training_run",
        "--config-file",
        "configs/quickstart/hyperclip.yaml",
        "--record",
        str(folder / f"{name}.jsonl"),
        *options,
        *keys,
        "OUTPUT_DIR",
        folder,
        timeout=300,
    )


def records_of(folder, rank=0, name="run"):
    lines = (folder / f"{name}.{rank}.jsonl").read_text().splitlines()
    return {line["iteration"]: line for line in map(json.loads, lines)}


def assert_equal_state(a, b):
    first, second = (torch.load(folder / "model_final.pth", weights_only=True) for folder in (a, b))
    for kind in ("model", "trainer", "processes"):
        assert_same(first[kind], second[kind], kind)


def assert_same(a, b, where):
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{k}]")
    else:
        assert a == b or a != a, where


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory):
    """Folders of uninterrupted runs by the number of processes."""
    folders = {}
    for processes in (1, 2):
        folders[processes] = folder = tmp_path_factory.mktemp(f"whole{processes}")
        done = train(folder, config_of(pictures), "--num-gpus", str(processes))
        assert done.returncode == 0, done.stderr[-3000:]
    return folders


@pytest.mark.parametrize(
    ("processes", "number"), [(1, "SIGKILL"), (1, "SIGTERM"), (2, "SIGKILL"), (2, "SIGUSR1")]
)
def test_a_killed_run_goes_on_bit_by_bit(pictures, whole, tmp_path, processes, number):
    """Losses, norms, learning rates, samples, random numbers and all that the last checkpoint
    holds.
    """
    options = ("--num-gpus", str(processes))
    done = train(tmp_path, config_of(pictures), *options, "--kill-at", "7", "--signal", number)
    killed = 128 + 9 if processes > 1 else -9
    assert done.returncode == (killed if number == "SIGKILL" else INTERRUPTED), done.stderr[-3000:]
    assert (tmp_path / "last_checkpoint").read_text() == (
        "model_0000004.pth" if number == "SIGKILL" else "model_0000007.pth"
    )
    done = train(tmp_path, config_of(pictures), *options, "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(processes):
        assert records_of(tmp_path, rank) == records_of(whole[processes], rank)
        assert len(records_of(tmp_path, rank)) == ITERATIONS
    assert_equal_state(tmp_path, whole[processes])
    metrics = [
        json.loads(line)["iteration"]
        for line in (tmp_path / "metrics.json").read_text().splitlines()
    ]
    assert [i for i in metrics if i < ITERATIONS] == sorted(set(metrics) - {ITERATIONS})


def test_two_processes_do_what_one_does(pictures, whole, tmp_path):
    """Bit by bit where one process, too, handles two images at a time: norms, weights, state of the
    optimiser, average.
    """
    done = train(tmp_path, config_of(pictures, SOLVER__MICRO_BATCHES=2))
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = records_of(tmp_path), [records_of(whole[2], rank) for rank in range(2)]
    for k in range(ITERATIONS):
        assert one[k]["norm"] == two[0][k]["norm"] == two[1][k]["norm"]
        # the order of its four terms differs
        assert one[k]["loss"] == pytest.approx(two[0][k]["loss"], rel=1e-6)
    first, second = (
        torch.load(folder / "model_final.pth", weights_only=True) for folder in (tmp_path, whole[2])
    )
    assert_same(first["model"], second["model"], "model")
    assert_same(first["trainer"], second["trainer"], "trainer")


def test_two_processes_do_nearly_what_one_does_with_four_images_at_a_time(whole):
    """Products of other sizes round otherwise, which the optimiser amplifies where a gradient is
    almost 0.
    """
    one, two = records_of(whole[1]), [records_of(whole[2], rank) for rank in range(2)]
    for k in range(ITERATIONS):
        assert one[k]["batch"] == two[0][k]["batch"] + two[1][k]["batch"]
        assert two[0][k]["loss"] == pytest.approx(one[k]["loss"], rel=1e-5)
        assert two[0][k]["norm"] == two[1][k]["norm"] == pytest.approx(one[k]["norm"], rel=1e-3)
    first, second = (
        torch.load(whole[n] / "model_final.pth", weights_only=True)["model"] for n in (1, 2)
    )
    apart = sum((weight - second[name]).square().sum() for name, weight in first.items())
    assert apart.sqrt() <= 1e-5 * sum(weight.square().sum() for weight in first.values()).sqrt()


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {
            "INPUT__SIZE_DIVISIBILITY": -1,
            "INPUT__CROP__ENABLED": False,
            "INPUT__MIN_SIZE_TRAIN": [60, 96],
            "MODEL__SEM_SEG_HEAD__SAMPLED_CLASSES": 3,
            "SOLVER__MAX_ITER": 3,
        },
    ],
    ids=["one size", "sizes that differ, sampled classes"],
)
def test_two_processes_do_what_one_does_in_float64(pictures, tmp_path, keys):
    """Every loss, norm and single weight, with four images at a time against two."""
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        own = config_of(pictures, **{"TEST__EVAL_PERIOD": 0, **keys})
        done = train(tmp_path / str(processes), own, "--double", "--num-gpus", str(processes))
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = records_of(tmp_path / "1"), records_of(tmp_path / "2")
    for k in range(keys.get("SOLVER__MAX_ITER", ITERATIONS)):
        for figure in ("loss", "norm"):
            assert two[k][figure] == pytest.approx(one[k][figure], rel=1e-10)
    first, second = (
        torch.load(tmp_path / n / "model_final.pth", weights_only=True)["model"] for n in "12"
    )
    for name, weight in first.items():
        assert weight.dtype == torch.float64
        torch.testing.assert_close(
            second[name],
            weight,
            rtol=1e-8,
            atol=1e-10,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def test_another_number_of_processes_may_go_on(pictures, whole, tmp_path):
    """Begun by one and ended by two, with the same samples; another batch is refused."""
    train(tmp_path, config_of(pictures), "--kill-at", "7", "--signal", "SIGTERM")
    done = train(tmp_path, config_of(pictures, SOLVER__IMS_PER_BATCH=8), "--resume")
    assert done.returncode != 0 and "SOLVER.IMS_PER_BATCH: 4 -> 8" in done.stderr
    done = train(tmp_path, config_of(pictures), "--resume", "--num-gpus", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = records_of(whole[1]), [records_of(tmp_path, rank) for rank in range(2)]
    for k in range(8, ITERATIONS):
        assert one[k]["batch"] == two[0][k]["batch"] + two[1][k]["batch"]
        assert two[0][k]["loss"] == pytest.approx(one[k]["loss"], rel=1e-5)


SHORT = {
    "SOLVER__MAX_ITER": 3,
    "SOLVER__CHECKPOINT_PERIOD": 0,
    "TEST__EVAL_PERIOD": 2,
    "DATALOADER__NUM_WORKERS": 0,
}
"""Evaluations of twelve images after iteration 1 and at the end."""


def train_here(folder, keys, *options):
    """As ``train``, but in this process; gives the exit code, or raises."""
    fixed = [
        "--config-file",
        "configs/quickstart/hyperclip.yaml",
        "--record",
        str(folder / "run.jsonl"),
    ]
    arguments = training_run.make_parser().parse_args(
        [*fixed, *options, *keys, "OUTPUT_DIR", str(folder)]
    )
    process, threads = SemSegEvaluator.process, torch.get_num_threads()
    grace = checkpoint_hooks.GRACE
    try:
        return training_run.main(arguments) or 0
    except SystemExit as left:
        return left.code
    finally:
        SemSegEvaluator.process, checkpoint_hooks.GRACE = process, grace
        torch.set_num_threads(threads)


def scores_of(folder):
    """Evaluations by iteration."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert len({line["iteration"] for line in lines}) == len(lines)
    found = {
        line["iteration"]: {k: v for k, v in line.items() if k.startswith("colours_val/")}
        for line in lines
    }
    return {iteration: scores for iteration, scores in found.items() if scores}


@pytest.fixture(scope="module")
def short(pictures, tmp_path_factory):
    """Folder of an uninterrupted run of three iterations."""
    folder = tmp_path_factory.mktemp("short")
    assert train_here(folder, config_of(pictures, **SHORT)) == 0 and list(scores_of(folder)) == [
        1,
        3,
    ]
    return folder


@pytest.mark.parametrize(
    ("image", "last"),
    [(5, "model_0000001.pth"), (17, "model_final.pth")],
    ids=["periodic", "final"],
)
def test_an_evaluation_that_a_signal_ended_is_made_up_for(pictures, short, tmp_path, image, last):
    keys = config_of(pictures, **SHORT)
    before = signal.getsignal(signal.SIGTERM)
    assert (
        train_here(tmp_path, keys, "--kill-at-image", str(image), "--signal", "SIGTERM")
        == INTERRUPTED
    )
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "last_checkpoint").read_text() == last
    assert list(scores_of(tmp_path)) == ([] if image == 5 else [1])
    assert train_here(tmp_path, keys, "--resume") == 0
    assert scores_of(tmp_path) == scores_of(short)
    assert (tmp_path / "model_best.json").read_text() == (short / "model_best.json").read_text()
    assert_equal_state(tmp_path, short)
    cost = dict.fromkeys(("seconds_per_image", "peak_memory_mb"))
    found, expected = (rows_of(folder)["colours_val"] | cost for folder in (tmp_path, short))
    assert found == expected and found["images"] == 12


def test_a_signal_to_one_of_two_processes_in_the_final_evaluation(pictures, tmp_path):
    keys = config_of(pictures, **{**SHORT, "SOLVER__MAX_ITER": 1})
    done = train(tmp_path, keys, "--num-gpus", "2", "--kill-at-image", "2", "--signal", "SIGTERM")
    assert done.returncode == INTERRUPTED, done.stderr[-3000:]


def test_an_evaluation_that_is_nearly_done_ends_after_a_signal(pictures, tmp_path):
    keys = config_of(pictures, **{**SHORT, "SOLVER__MAX_ITER": 1})
    options = ("--kill-at-image", "2", "--signal", "SIGUSR1", "--grace", "300")
    assert train_here(tmp_path, keys, *options) == INTERRUPTED
    assert list(scores_of(tmp_path)) == [1] and (tmp_path / "results.json").is_file()


def test_an_error_in_the_last_iteration_is_no_end(pictures, tmp_path):
    """No evaluation, no results: the training did not come to its end."""
    with pytest.raises(FloatingPointError, match="iteration 1: the gradients of"):
        train_here(
            tmp_path, config_of(pictures, **{**SHORT, "SOLVER__MAX_ITER": 2}), "--break-at", "1"
        )
    assert not (tmp_path / "results.json").exists() and not (tmp_path / "model_final.pth").exists()
    assert scores_of(tmp_path) == {}


def test_a_run_in_the_folder_of_a_finished_one(pictures, short, tmp_path):
    """Refused; anew with OVERWRITE, of which nothing is left of the one before; then it goes on as
    the new one.
    """
    shutil.copytree(short, tmp_path, dirs_exist_ok=True)
    keys = config_of(
        pictures, **{**SHORT, "SOLVER__CHECKPOINT_PERIOD": 1, "SOLVER__CHECKPOINT_KEEP": 1}
    )
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ValueError, match="holds a training already .* set OVERWRITE True"):
        train_here(tmp_path, keys)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    (tmp_path / "run.0.jsonl").unlink()
    assert (
        train_here(tmp_path, [*keys, "OVERWRITE", "True"], "--kill-at", "1", "--signal", "SIGTERM")
        == INTERRUPTED
    )
    assert {path.name for path in tmp_path.glob("*.pth")} == {"model_0000001.pth"}
    assert [
        json.loads(line)["iteration"]
        for line in (tmp_path / "metrics.json").read_text().splitlines()
    ] == [0, 1]
    assert train_here(tmp_path, keys, "--resume") == 0
    assert records_of(tmp_path) == records_of(short) and scores_of(tmp_path) == scores_of(short)


def test_what_lies_in_the_folder(whole):
    names = {path.name for path in whole[1].glob("*.pth")}
    numbered = {f"model_{k:07d}.pth" for k in (4, 9)}
    assert names == numbered | {"model_final.pth", "model_final_average.pth", "model_best.pth"}
    last = torch.load(whole[1] / "model_final.pth", weights_only=True)
    assert "SAMPLED_CLASSES: 0" in last["config"] and set(last["versions"]) == {
        "torch",
        "detectron2",
        "open_clip",
    }
    best = json.loads((whole[1] / "model_best.json").read_text())
    assert best["metric"] == "mIoU" and best["iteration"] % 6 in (5, 0)


@pytest.mark.parametrize(
    "keys",
    [
        {
            "SOLVER__OPTIMIZER": "SGD",
            "SOLVER__LR_SCHEDULER_NAME": "WarmupPolyLR",
            "SOLVER__WARMUP_ITERS": 4,
        },
        {
            "INPUT__SIZE_DIVISIBILITY": -1,
            "INPUT__CROP__ENABLED": False,
            "MODEL__SEM_SEG_HEAD__SAMPLED_CLASSES": 3,
            "DATALOADER__NUM_WORKERS": 2,
        },
    ],
    ids=["SGD and poly", "grouped, sampled classes, two workers"],
)
def test_other_settings_go_on_too(pictures, tmp_path, keys):
    keys = config_of(pictures, **{"SOLVER__MAX_ITER": 9, "TEST__EVAL_PERIOD": 0, **keys})
    for name, options in (
        ("whole", ()),
        ("cut", ("--kill-at", "4", "--signal", "SIGTERM")),
        ("cut", ("--resume",)),
    ):
        (tmp_path / name).mkdir(exist_ok=True)
        done = train(tmp_path / name, keys, *options)
        assert done.returncode in (0, INTERRUPTED), done.stderr[-3000:]
    assert records_of(tmp_path / "cut") == records_of(tmp_path / "whole")
    assert_equal_state(tmp_path / "cut", tmp_path / "whole")
