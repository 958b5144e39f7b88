"""The program: how it begins and ends, and what it refuses before a model is built."""

from __future__ import annotations

import json
import logging
import os
import runpy
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hyperclip.commands import serve
from hyperclip.serving import client as client_module
from hyperclip.serving import load
from hyperclip.serving.client import Client
from hyperclip.serving.running import require_libraries

from tests.conftest import ROOT
from tests.helpers.programs import FORKS, run_program
from tests.serving.running import CONFIG, free_port


def serve_in_fork(port, folder, key):
    """What the process of the server does."""
    os.environ["MY_KEY"] = key
    sys.argv = [
        "tools/serve.py", "--config-file", CONFIG, "--port", str(port), "--api-key", "MY_KEY",
        "--batch", "2", "--opts", "MODEL.DEVICE", "cpu",
    ]  # fmt: skip
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(ROOT)
    runpy.run_path("tools/serve.py", run_name="__main__")


@pytest.fixture
def program(tmp_path):
    """The process of a server, its port, and clients."""
    port = free_port()
    process = FORKS.Process(target=serve_in_fork, args=(port, tmp_path, "secret"))
    process.start()
    clients = [Client(f"http://127.0.0.1:{port}", "secret", seconds=60) for _ in range(8)]
    for _ in range(600):
        assert process.is_alive(), (tmp_path / "stderr").read_text()
        if (tmp_path / "stdout").is_file() and "listening" in (tmp_path / "stdout").read_text():
            break
        time.sleep(0.1)
    yield process, port, clients
    process.kill()
    process.join()


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_the_end_answers_requests_in_progress(program, tmp_path, kind):
    process, port, clients = program
    images = load.pictures(8, 96)
    with ThreadPoolExecutor(8) as pool:
        some = [
            pool.submit(client.segment, image, "red circle; sky")
            for client, image in zip(clients, images, strict=True)
        ]
        waiting = Client(f"http://127.0.0.1:{port}", "secret")
        while waiting.metrics()["hyperclip_requests_in_progress"] + sum(f.done() for f in some) < 8:
            pass
        os.kill(process.pid, kind)
        assert [one.result()["width"] for one in some] == [96] * 8
    process.join(30)
    assert process.exitcode == 0
    with pytest.raises(ConnectionRefusedError, match="no server: start hyperclip-serve"):
        clients[0].health()
    assert "Traceback" not in (tmp_path / "stderr").read_text()


def test_a_second_server_and_the_clients_as_programs(program, tmp_path):
    _, port, clients = program
    assert clients[0].health() == {"status": "ok", "model": CONFIG}
    second = run_program(
        "tools/serve.py", "--config-file", CONFIG, "--port", port, "--opts", "MODEL.DEVICE", "cpu"
    )
    expected = f"error: --port: got {port}, where nothing can listen (Address already in use). "
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1] == expected + "Choose another one"
    photo = tmp_path / "a b.png"
    photo.write_bytes(load.pictures(1, 96)[0])
    environment = {**os.environ, client_module.VARIABLE: "secret"}
    address = f"http://127.0.0.1:{port}"
    asked = ["--vocabulary", "red circle; sky", "--output", tmp_path / "out", "--server", address]
    made = run_program("-m", "hyperclip.serving.client", photo, *asked, environment=environment)
    assert made.returncode == 0, made.stderr
    (task,) = json.loads((tmp_path / "out/tasks.json").read_text())
    assert task["data"] == {"image": "/data/local-files/?d=a%20b.png"}
    assert task["predictions"][0]["result"][0]["value"]["format"] == "rle"
    assert '<Label value="red circle"' in (tmp_path / "out/config.xml").read_text()
    few = ["--clients", 3, "--requests", 12, "--images", 2, "--side", 64, "--server", address]
    loaded = run_program(
        "-m", "hyperclip.serving.load", *few, "--config-file", CONFIG, environment=environment
    )
    assert loaded.returncode == 0, loaded.stderr
    assert "12 answers in" in loaded.stdout and "0 refused" in loaded.stdout
    assert "12 of 12 label maps equal the predictor's own" in loaded.stdout
    refused = run_program("-m", "hyperclip.serving.client", photo, *asked)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    assert "Authorization: Bearer KEY" in refused.stderr


MISTAKES = [
    (["--max-megabytes", "0"], "--max-megabytes: got 0, expected a number above 0"),
    (["--max-megapixels", "nan"], "--max-megapixels: got nan"),
    (["--max-names", "-1"], "--max-names: got -1"),
    (["--max-letters", "0"], "--max-letters: got 0"),
    (["--max-waiting", "0"], "--max-waiting: got 0"),
    (["--timeout", "inf"], "--timeout: got inf"),
    (["--batch", "0"], "--batch: got 0"),
    (["--cache-megabytes", "0"], "--cache-megabytes: got 0"),
    (["--cache-vocabularies", "0"], "--cache-vocabularies: got 0"),
    (["--api-key", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE holds no key; set it: export NO_SUCH"),
    (["--port", "0"], "--port: got 0, expected 1 to 65535"),
    (["--host", "192.0.2.1"], "with --host 192.0.2.1, where nothing can listen"),
    (["--config-file", "configs/quickstart/none.yaml"], "none.yaml"),
    (["--opts", "MODEL.NONSENSE", "1"], "NONSENSE"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda x: x[0])
def test_mistakes_on_the_command_line(arguments, message, monkeypatch):
    monkeypatch.setattr(serve.Predictor, "from_config", None)  # nothing is built
    given = ["--config-file", CONFIG, "--port", str(free_port()), *arguments]
    with pytest.raises((ValueError, OSError)) as caught:
        serve.main(given)
    assert message in str(caught.value)


def test_options_reach_the_limits():
    given = ["--max-megabytes", "0.5", "--max-megapixels", "2", "--max-names", "7"]
    given += ["--max-letters", "9", "--max-waiting", "3", "--timeout", "1.5", "--batch", "4"]
    given += ["--cache-megabytes", "2", "--cache-vocabularies", "5"]
    arguments = serve.parse_arguments(given)
    assert vars(serve.limits_of(arguments)) == {
        "bytes": 2**19,
        "pixels": 2_000_000,
        "names": 7,
        "letters": 9,
        "seconds": 1.5,
        "waiting": 3,
    }
    sizes = {"image_bytes": 2**21, "vocabularies": 5, "batch": 4}
    assert vars(serve.sizes_of(arguments)) == sizes
    assert serve.parse_arguments([]).host == "127.0.0.1"


def test_an_open_address_without_a_key_is_remarked(monkeypatch, caplog):
    monkeypatch.setattr(serve, "listen", lambda port, host: exec('raise OSError("enough")'))
    for host, remarked in (("0.0.0.0", 1), ("127.0.0.1", 0), ("::1", 0), ("localhost", 0)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "hyperclip.serve"), pytest.raises(OSError):
            monkeypatch.setattr(serve, "setup_logger", lambda name: None)
            serve.main(["--config-file", CONFIG, "--host", host])
        assert len([r for r in caplog.records if "--api-key" in r.getMessage()]) == remarked


def test_libraries_that_are_missing(monkeypatch):
    require_libraries()
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ImportError, match=r'pip install "\.\[serve\]" in the repo'):
        require_libraries()


def test_the_client_needs_no_torch():
    code = "import hyperclip.serving.client, sys; print([m for m in ('torch', 'numpy', 'requests')"
    done = subprocess.run(
        [sys.executable, "-c", f"{code} if m in sys.modules])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://host", "http://"])
def test_no_address(address):
    with pytest.raises(ValueError, match="expected http://HOST:PORT"):
        Client(address)
