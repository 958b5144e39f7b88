"""Programs end with one line where their user can mend what is wrong. They run in this process, as
``__main__``.
"""

from __future__ import annotations

import logging
import runpy
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hyperclip.checkpoints.checkpointer import fetched, require_file
from hyperclip.config import load_config
from hyperclip.evaluation.results_files import read_results, write_json
from hyperclip.evaluation.tables import comparison_table
from hyperclip.load import check_device, check_system
from hyperclip.predictor import EncodedImage, Predictor
from hyperclip.runtime.files import local_name, local_path, need_output_folder, write_atomically
from hyperclip.runtime.program import message_of_process, run_program
from PIL import Image

ROOT = Path(__file__).parents[2]
QUICK = "configs/quickstart/hyperclip.yaml"
DENSE = "configs/quickstart/dense_clip.yaml"


@pytest.fixture
def program(monkeypatch):
    """Runs a program: ``program("tools/x.py", …)`` gives what it said as its last word, or its
    status.
    """

    def run(name: str, *arguments: object) -> object:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(ROOT / name), run_name="__main__")
        return caught.value.code

    return run


def said(code: object) -> str:
    """The one line of a program."""
    assert isinstance(code, str) and code.startswith("error: ") and "\n" not in code, code
    return code


PROGRAMS = [
    ("tools/train_net.py", ["--config-file", DENSE, "--eval-only", "OUTPUT_DIR", "{}"]),
    (
        "tools/evaluate.py",
        ["--config-file", DENSE, "--benchmarks", "tiny_val_seen", "--output", "{}"],
    ),
    (
        "tools/visualize.py",
        ["--config-file", DENSE, "--dataset", "tiny_val_seen", "--output", "{}"],
    ),
    ("demo/demo.py", ["--config-file", DENSE, "--input", "docs/quickstart.png", "--output", "{}"]),
]


@pytest.mark.parametrize(("name", "arguments"), PROGRAMS)
def test_an_output_that_cannot_be_written_is_named_before_anything_is_computed(
    program, tmp_path, name, arguments
):
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path / "file", tmp_path / "file/below", Path("/proc/nothing/here")):
        message = said(program(name, *(a.replace("{}", str(target)) for a in arguments)))
        assert str(target) in message and "nothing can be written" in message
    assert (tmp_path / "file").read_text() == "mine"


def test_other_outputs_that_cannot_be_written(program, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "run").mkdir()
    write_results(tmp_path / "run", {"a": 1.0})
    message = said(
        program(
            "tools/compare_runs.py", f"A={tmp_path / 'run'}", "--json", tmp_path / "file/x.json"
        )
    )
    assert "a file is in the place of a folder" in message
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "file"))
    assert "file" in said(program("datasets/prepare_tinyscenes.py"))


@pytest.mark.parametrize(
    "name", ["ade20k_847", "coco_object", "coco_stuff", "pascal_context_59", "pascal_context_459"]
)
def test_preparations_without_data(program, tmp_path, name):
    assert str(tmp_path) in said(program(f"datasets/prepare_{name}.py", "--root", tmp_path))


CONFIG_USERS = [
    ("tools/train_net.py", ["--config-file", "{}"]),
    ("tools/evaluate.py", ["--config-file", "{}", "--output", "out"]),
    (
        "tools/visualize.py",
        ["--config-file", "{}", "--dataset", "tiny_val_seen", "--output", "out"],
    ),
    (
        "demo/demo.py",
        ["--config-file", "{}", "--input", "{root}/docs/quickstart.png", "--output", "out"],
    ),
]


@pytest.mark.parametrize(("name", "arguments"), CONFIG_USERS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got nothing"),
        (b"_BASE_: c.yaml\n", "leads back"),
        (b"OUTPUT_DIR: caf\xe9\n", "UTF-8"),
        (b"MODEL: {META_ARCHITECTURE: CATSeg, SWIN: {X: 1}}\n", "use HyperCLIP"),
        (b"MODEL: {META_ARCHITECTURE: HyperClip}\n", "Did you mean HyperCLIP"),
        (b"MODEL: {DEVICE: gpu}\n", "MODEL.DEVICE: got 'gpu'"),
    ],
)
def test_a_config_that_is_wrong(program, tmp_path, monkeypatch, name, arguments, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_bytes(content)
    if b"MODEL" in content and "demo" in name:
        arguments = [*arguments, "--vocabulary", "a; b"]
    arguments = [a.replace("{}", "c.yaml").replace("{root}", str(ROOT)) for a in arguments]
    if "evaluate" in name:
        arguments += ["--benchmarks", "tiny_val_seen"]
    assert message in said(program(name, *arguments))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(program, tmp_path):
    for device in ("cuda", "cuda:3"):
        message = said(
            program(
                "tools/train_net.py",
                "--config-file",
                QUICK,
                "OUTPUT_DIR",
                tmp_path,
                "MODEL.DEVICE",
                device,
            )
        )
        assert f"got '{device}', but torch sees 0 GPUs" in message and "MODEL.DEVICE cpu" in message


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "tpu", "", "meta", "xla", "vulkan"])
def test_devices_that_do_not_exist(name):
    with pytest.raises(ValueError, match=f"MODEL.DEVICE: got '{name}'"):
        check_device(name)


def test_devices_and_systems_that_exist():
    check_device("cpu")
    check_system(load_config(QUICK, ["MODEL.DEVICE", "cpu"]))
    check_system(load_config("configs/quickstart/cliper.yaml", ["MODEL.DEVICE", "cpu"]))


def test_weights_by_address_without_a_network(program, tmp_path):
    with socket.socket() as taken:  # nobody answers here
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/w.pth"
        files = [
            "--input",
            "docs/quickstart.png",
            "--output",
            tmp_path,
            "--vocabulary",
            "a star; a cross",
        ]
        message = said(
            program(
                "demo/demo.py", "--config-file", QUICK, *files, "--opts", "MODEL.WEIGHTS", address
            )
        )
        assert address in message and "give its path" in message
        with pytest.raises(FileNotFoundError, match="cannot be fetched"):
            fetched(address)


def test_a_port_that_is_taken_or_none(program):
    pytest.importorskip("gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"--port: got {port}, where nothing can listen" in said(
            program("demo/app.py", "--port", port)
        )
    for port in (0, 65536, -1):
        assert "expected 1 to 65535" in said(program("demo/app.py", "--port", port))


def write_results(folder: Path, scores: dict[str, float | None]) -> None:
    shared = {"system": "A", "images": 3, "protocol": "argmax"}
    rows = [{"dataset": name, "mIoU": value, **shared} for name, value in scores.items()]
    write_json(rows, folder / "results.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("null", "is not a results file"),
        ("", "not JSON"),
        ("3", "is not a results file"),
        (
            '[{"system": "a", "benchmark": "b"}]',
            "of an earlier schema, expected schema 2. Make it anew: python tools/",
        ),
        (
            '{"model": {}, "protocol": {}, "results": {}}',
            "of an earlier schema, expected schema 2. Make it anew: python",
        ),
        ('{"schema": 3, "rows": []}', 'is not a results file: expected "schema" 2'),
        ('{"schema": 2, "rows": {}}', "is not a results file"),
        ('{"schema": 2, "rows": [null]}', "is not a results file"),
        (
            '{"schema": 2, "rows": [{"system": "a", "mIoU": 1, "images": 1, "protocol": ""}]}',
            'each with "system" and "dataset"',
        ),
        (
            '{"schema": 2, "rows": [{"system": "a", "dataset": "b", "mIoU": 1}]}',
            '"mIoU", "images", "protocol" or an "error"',
        ),
        (
            '{"schema": 2, "rows": [{"system": "a", "dataset": "b", "images": 1, "protocol": "", "mIoU": "50"}]}',  # noqa: E501
            "numbers or null",
        ),
    ],
)
def test_comparing_what_are_no_results(program, tmp_path, text, message):
    (tmp_path / "results.json").write_text(text)
    assert message in said(program("tools/compare_runs.py", f"A={tmp_path}"))


def test_a_score_that_no_image_gave_is_not_available(tmp_path):
    write_results(tmp_path, {"a": None, "b": 50.0})
    rows = read_results(tmp_path)
    assert [row["mIoU"] for row in rows] == [None, 50.0]
    assert (
        comparison_table({"A": [rows]}, "mIoU").splitlines()[-1]
        == "| A       | n/a        | 50.0       |"
    )


def test_a_name_that_is_too_long_does_not_end_a_batch(program, tmp_path, caplog):
    pixels = Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    )
    for name in ("a" * 240, "b" * 250, "é" * 120, "c"):
        pixels.save(tmp_path / f"{name}.png")
    logging.getLogger("hyperclip").propagate = True
    status = program(
        "demo/demo.py",
        "--config-file",
        DENSE,
        "--input",
        tmp_path,
        "--output",
        tmp_path / "out",
        "--vocabulary",
        "a star; a cross",
    )
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert status == 1
    assert {
        f"{n}{end}" for n in ("a" * 240, "é" * 120, "c") for end in (".png", "_labels.png")
    } <= written
    assert not any(name.startswith(".") for name in written)


def test_an_image_that_gives_nan_does_not_end_a_batch(program, tmp_path, monkeypatch, caplog):
    """As half precision may, whose range one image exceeds."""
    rng, encode, broken = np.random.default_rng(0), Predictor.encode, []
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(tmp_path / f"{name}.png")

    def encode_all_but_the_second(
        self: Predictor, image: np.ndarray, file_name: str = ""
    ) -> EncodedImage:
        weight = self.model.clip.visual.conv1.weight.data
        kept = weight.clone()
        if len(broken) == 1:
            weight.fill_(float("nan"))
        broken.append(image)
        try:
            return encode(self, image)
        finally:
            weight.copy_(kept)

    logging.getLogger("hyperclip").propagate = True
    monkeypatch.setattr(Predictor, "encode", encode_all_but_the_second)
    status = program(
        "demo/demo.py",
        "--config-file",
        DENSE,
        "--input",
        tmp_path,
        "--output",
        tmp_path / "out",
        "--vocabulary",
        "a star; a cross",
    )
    (line,) = {text for text in caplog.messages if "NaN or infinity" in text}
    assert (
        status == 1
        and "b.png: skipped: HyperCLIP: NaN or infinity in" in line
        and "Likely cause: " in line
    )
    assert "\n" not in line
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {
        "classes.json",
        "run.json",
        *(f"{n}{end}" for n in "ac" for end in (".png", "_labels.png")),
    }


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("tools/evaluate.py", ["--benchmarks", "tiny_val_seen", "--output", "{}"]),
        ("tools/train_net.py", ["OUTPUT_DIR", "{}"]),
    ],
)
def test_more_processes_than_gpus(program, tmp_path, monkeypatch, name, arguments):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    start = ["--config-file", DENSE, "--num-gpus", "3"]
    more = [argument.replace("{}", str(tmp_path / "out")) for argument in arguments]
    assert "--num-gpus: got 3 where 2 GPUs are visible" in said(program(name, *start, *more))


def test_writing_in_full_or_not_at_all(tmp_path):
    target = tmp_path / "x.txt"
    target.write_text("before")

    def full(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError(
            "[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file "
            "data/0"
        )

    with pytest.raises(OSError, match="x.txt' cannot be written: .*failed writing file"):
        write_atomically(target, full)
    with pytest.raises(RuntimeError, match="another fault"):
        write_atomically(target, lambda path: (_ for _ in ()).throw(RuntimeError("another fault")))
    assert target.read_text() == "before" and [p.name for p in tmp_path.iterdir()] == ["x.txt"]
    write_atomically(tmp_path / ("n" * 255), lambda path: path.write_text("long"))
    with pytest.raises(OSError, match="name too long"):
        write_atomically(tmp_path / ("n" * 256), lambda path: path.write_text("longer"))
    need_output_folder(tmp_path / "new/folder", "--output")
    assert list((tmp_path / "new/folder").iterdir()) == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("two\n  lines"), "error: two lines"),
        (
            OSError(28, "No space left on device", "x"),
            "error: [Errno 28] No space left on device: 'x'",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
            "error: CUDA out of memory. Tried to allocate",
        ),
        (
            torch.distributed.DistNetworkError("address already in use"),
            "error: address already in use",
        ),
        (MemoryError(), "error: MemoryError"),
    ],
)
def test_what_a_user_can_mend_is_one_line(error, expected):
    def main() -> int:
        raise error

    with pytest.raises(SystemExit) as caught:
        run_program(main)
    assert caught.value.code == expected


def test_faults_of_a_program_keep_their_traceback():
    def main() -> int:
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_program(main)


def test_status_and_interruption(capsys):
    for status in (None, 0, 1, 85):
        with pytest.raises(SystemExit) as caught:
            run_program(lambda s=status: s)
        assert caught.value.code == status

    def interrupted() -> int:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        run_program(interrupted)
    assert caught.value.code == 130 and capsys.readouterr().err == "interrupted\n"


TRACE = """

-- Process 1 terminated with the following error:
Traceback (most recent call last):
  File "a.py", line 1, in f
    g()
    ^^^
OSError: first

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "b.py", line 2, in main
    raise ValueError(
"""


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("ValueError: MODEL.X: got 1, expected 2", "MODEL.X: got 1, expected 2"),
        ("ValueError: two lines:\n  here\nand there", "two lines: here and there"),
        ("hyperclip.checkpoints.checkpointer.UnreadableCheckpointError: cut short", "cut short"),
        ("torch.distributed.DistNetworkError: port in use", "port in use"),
        ("MemoryError", "MemoryError"),
        ("KeyError: 'x'", ""),
        ("AssertionError", ""),
        ("nowhere.Error: x", ""),
    ],
)
def test_the_message_of_another_process(last, expected):
    assert message_of_process(f"{TRACE}{last}\n") == expected


def test_shipped_names_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert local_path(QUICK) == ROOT / QUICK and local_path("mine.yaml") == Path("mine.yaml")
    assert local_path("~/mine.yaml") == tmp_path / "mine.yaml" and local_path("nowhere/x") == Path(
        "nowhere/x"
    )
    for name in ("", "none", "ViT-B/16", "hf-hub:a/b", "http://a.org//b", "x" * 5000):
        assert local_name(name) == name
    assert Predictor.from_config(DENSE, ["MODEL.DEVICE", "cpu"]).model.text is not None
    require_file("configs/quickstart/hyperclip_trained.safetensors")
    assert local_name("configs/quickstart/tiny_clip") == str(ROOT / "configs/quickstart/tiny_clip")
