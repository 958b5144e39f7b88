"""The page's HTTP interface: as a program that means harm would use it, and for many at once."""

from __future__ import annotations

import http.server
import os
import re
import threading
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hyperclip.predictor import Predictor
from hyperclip.tinyscenes.drawing import class_names, render_scene
from PIL import Image

from tests.conftest import ROOT
from tests.helpers.page import (
    ask,
    ask_in_queue,
    get,
    labels_of,
    png,
    post,
    question,
    running,
    send,
)

CONFIG = "configs/quickstart/cliper.yaml"


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    """The program's temporary files."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def program(temporary):
    with running(temporary) as program:
        yield program


@pytest.fixture
def address(program):
    return program.address


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "scene.png"
    Image.fromarray(render_scene("val_seen", 0)[0]).save(path)
    return path


@pytest.fixture(scope="module")
def predictor():
    return Predictor.from_config(CONFIG, ["MODEL.DEVICE", "cpu"])


@pytest.fixture(scope="module")
def fetched():
    """A server on this machine and the addresses that were asked of it."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/secret.png", asked
    server.shutdown()


def attempts(path, meta):
    """Descriptions of a file that was not uploaded."""
    described = {"path": str(path), **({"meta": {"_type": "gradio.FileData"}} if meta else {})}
    return [
        described,
        {**described, "is_stream": True},
        {**described, "url": f"file://{path}"},
        [described],
        str(path),
    ]


@pytest.mark.parametrize("meta", [True, False])
def test_no_request_opens_a_file_of_the_machine(address, scene, temporary, meta):
    good = send(address, scene.read_bytes())
    folder = os.path.dirname(os.path.dirname(good["path"]))
    link = scene.parent / "link"
    if not link.exists():
        os.symlink(scene, link)
    missing = scene.parent / "missing.png"
    sidelong = os.path.join(folder, os.path.relpath(scene, folder))
    messages = set()
    others = (ROOT / "docs/quickstart.png", "docs/quickstart.png", "/dev/zero", folder, "", "a\0b")
    for path in (scene, link, missing, sidelong, *others):
        for payload in attempts(path, meta):
            status, answer = ask(address, payload, "cat")
            assert status != 200 and "data" not in answer, payload
            messages.add((isinstance(payload, str), answer["error"]))
    # the same for files that exist and others
    assert len({text for plain, text in messages if not plain}) == 1
    assert str(scene) not in str(messages)
    assert 'role="alert"' not in ask(address, good, "cat")[1]["data"][0]


@pytest.mark.parametrize("box", range(9))
def test_no_request_fetches_an_address(address, scene, fetched, box):
    url, asked = fetched
    upload = send(address, scene.read_bytes())
    for payload in [url, [url], *attempts(url, True), {"path": upload["path"], "url": url}]:
        data = question(upload, "cat")
        data[box] = payload
        try:
            post(f"{address}gradio_api/run/segment", {"data": data})
        except urllib.error.URLError:
            pass
    assert asked == []


def test_only_one_function_is_open_to_programs(address):
    _, info = get(f"{address}gradio_api/info")
    assert list(info["named_endpoints"]) == ["/segment"] and not info["unnamed_endpoints"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({1: ""}, "got no class"),
        ({2: "sky"}, "Background: got"),
        ({2: "threshold", 3: -0.5}, "Background threshold: got -0.5"),
        ({2: "threshold", 3: "0.5"}, "Background threshold: got"),
        ({5: "2.5"}, "Class threshold: got"),
        ({6: "/etc/passwd"}, "system: got"),
        ({7: 3}, "Opacity: got 3"),
        ({7: "x"}, "Opacity: got"),
        ({0: None}, "Upload an image first"),
    ],
)
def test_wrong_values_give_no_answer(address, scene, changes, expected):
    data = question(send(address, scene.read_bytes()), "cat; dog")
    for place, value in changes.items():
        data[place] = value
    status, answer = post(f"{address}gradio_api/run/segment", {"data": data})
    if status == 200:
        assert 'role="alert"' in answer["data"][0] and expected in answer["data"][0]
        assert not [v for v in answer["data"] if isinstance(v, dict) and "path" in v]
    else:
        assert "data" not in answer


def test_requests_past_the_queue_do_not_meet(address, predictor):
    words = [
        "red plain circle; blue striped star",
        "green dotted cross; yellow plain square; cyan plain star",
    ]
    images = [render_scene("val_seen", k)[0] for k in range(4)]
    uploads = [send(address, png(image)) for image in images]
    expected = {
        (k, w): predictor.segment(predictor.encode(images[k]), words[w]).labels
        for k in range(4)
        for w in range(2)
    }

    def call(number):
        k, w = number % 4, number // 4 % 2
        status, answer = ask(address, uploads[k], words[w])
        return status == 200 and np.array_equal(labels_of(address, answer["data"]), expected[k, w])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(24)))


def resident(pid):
    """Bytes of a process that are in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmRSS:\s*(\d+)", status, re.M)[1]) * 1024


def test_twenty_visitors_get_their_own_mask_and_memory_returns(program, predictor):
    address, words = program.address, "; ".join(class_names("seen")[::5])
    images = [
        np.kron(render_scene("val_seen", k)[0], np.ones((4, 6, 1), np.uint8)) for k in range(22)
    ]
    for image in images[20:]:  # so that the model is there
        ask_in_queue(address, send(address, png(image)), words)
    before = resident(program.pid)

    def visit(image):
        return labels_of(address, ask_in_queue(address, send(address, png(image)), words))

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(visit, images[:20]))
    for image, labels in zip(images, found, strict=False):
        scores = predictor.segment(predictor.encode(image), words, scores=True).scores
        chosen = np.take_along_axis(np.asarray(scores), labels[None].astype(np.int64), axis=0)[0]
        assert (chosen >= scores.max(axis=0) - 1e-5).all()  # of a tie either
    assert len({labels.tobytes() for labels in found}) == 20
    assert resident(program.pid) < 1.1 * before


def test_nothing_is_left_when_the_program_ends(tmp_path, scene):
    with running(tmp_path) as (address, _):
        picture = send(address, scene.read_bytes())
        assert os.path.isfile(picture["path"]) and picture["path"].startswith(str(tmp_path))
        assert ask(address, picture, "cat")[0] == 200
    assert [p.name for p in tmp_path.rglob("*") if p.is_file() and p.name != "stderr"] == []
    assert "Traceback" not in (tmp_path / "stderr").read_text()
