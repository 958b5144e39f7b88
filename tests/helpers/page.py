"""For tests of the page: the program, a browser and its controls, and requests without one."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.conftest import ROOT

CLIPER = "CLIPer (quickstart)"
CLASSES = "red plain triangle; green striped triangle; cyan dotted cross, cross"


class Running(NamedTuple):
    """The program: where it listens, and its process."""

    address: str
    pid: int


@contextmanager
def running(temporary, *arguments):
    """The program in a process of its own, as a user starts it, with a folder of its own for
    temporary files.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        str(ROOT / "demo" / "app.py"),
        "--port",
        str(port),
        *map(str, arguments),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(temporary),
    }
    environment.pop("GRADIO_TEMP_DIR", None)
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=(log := open(temporary / "stderr", "w")),
        text=True,
    )
    url = f"http://127.0.0.1:{port}/"
    for _ in range(240):
        assert process.poll() is None, (temporary / "stderr").read_text()
        try:
            urllib.request.urlopen(url, timeout=2).read()
            break
        except OSError:
            time.sleep(0.5)
    try:
        yield Running(url, process.pid)
    finally:
        process.terminate()
        process.wait(timeout=60)
        log.close()


@contextmanager
def chromium(profile):
    """Headless Chromium from Debian's packages, with a profile folder of its own."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.fail(
            "this test needs Chromium: apt-get install chromium chromium-driver (.ci/run does)"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "no-first-run",
        "window-size=1400,1200",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "disable-quic",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    session.implicitly_wait(20)
    try:
        yield session
    finally:
        session.quit()


def find(page, selector):
    """The first element of a selector, as soon as it is there."""
    return page.find_element(By.CSS_SELECTOR, selector)


def fill(page, element, text):
    """Type a text into a box in place of what it holds."""
    box = find(page, f"#{element} textarea, #{element} input")
    box.clear()
    box.send_keys(text)


def upload(page, path):
    """Choose an image file, and wait for its preview."""
    find(page, "#picture input[type=file]").send_keys(str(path))
    find(page, "#picture img")


def press(page):
    """Press Segment."""
    find(page, "#segment").click()


def wait_for(page, condition, seconds=30):
    """What a condition of the page gives as soon as it is true."""
    for _ in range(int(seconds * 10)):
        if found := condition(page):
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {find(page, 'body').text}")


def message(page, wanted="[role=alert]"):
    """What the page says under the button."""
    return find(page, f"#message {wanted}").get_attribute("textContent")


def answered(page):
    """Wait for the overlay."""
    return find(page, "#overlay img")


def download(page, element, folder):
    """Press a button for a file: the file, in the folder that the browser saves to."""
    page.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)}
    )
    before = set(folder.iterdir())
    find(page, f"#{element}").click()

    def saved(_):
        new = set(folder.iterdir()) - before
        return [path for path in new if path.suffix != ".crdownload" and path.stat().st_size]

    (file,) = wait_for(page, saved)
    return file


def labels_in(content):
    """A label map of a file's content, with -1 for no class."""
    found = np.asarray(Image.open(io.BytesIO(content))).astype(int)
    return np.where(found == 255, -1, found)


def png(array):
    """An image as the content of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, format="PNG")
    return file.getvalue()


def send(address, content, name="image.png"):
    """Upload a file; what the page would send of it."""
    head = f'--edge\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\nContent-Type: image/png\r\n\r\n'  # noqa: E501
    body = head.encode() + content + b"\r\n--edge--\r\n"
    header = {"Content-Type": "multipart/form-data; boundary=edge"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{address}gradio_api/upload", body, header)
    ) as answer:
        (path,) = json.loads(answer.read())
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def question(picture, classes, system=CLIPER, class_threshold=""):
    """What the page sends when somebody presses Segment; the state is the server's."""
    return [picture, classes, "own", 0.5, "", class_threshold, system, 0.55, None]


def post(url, body):
    """Send JSON: status and JSON of the answer."""
    content = json.dumps(body).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def get(url):
    """Fetch JSON: status and JSON of the answer."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.status, json.loads(answer.read())


def ask(address, picture, classes, **options):
    """Call the page's function past its queue: status, answer."""
    data = question(picture, classes, **options)
    return post(f"{address}gradio_api/run/segment", {"data": data})


def ask_in_queue(address, picture, classes, **options):
    """Call it as programs do, waiting for one's turn: the answer's values."""
    data = question(picture, classes, **options)
    _, joined = post(f"{address}gradio_api/call/segment", {"data": data})
    url = f"{address}gradio_api/call/segment/{joined['event_id']}"
    with urllib.request.urlopen(url, timeout=300) as stream:
        events = stream.read().decode().strip().split("\n\n")
    kind, data = events[-1].split("\n", 1)
    assert kind == "event: complete", events[-1]
    return json.loads(data.removeprefix("data: "))


def labels_of(address, values):
    """The label map of an answer's values, which name the file of it."""
    (file,) = [v for v in values if isinstance(v, dict) and "_labels." in str(v.get("path"))]
    with urllib.request.urlopen(f"{address}gradio_api/file={file['path']}") as answer:
        return labels_in(answer.read())
