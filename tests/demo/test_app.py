"""The page in a real browser: upload, type, segment, and compare the returned mask with Python's; bad input."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from cliper.postprocess import LabelOptions
from hyperclip.data.tinyscenes import render_scene
from hyperclip.predictor import Predictor
from hyperclip.vocabulary import Vocabulary
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By

from ..conftest import ROOT

CONFIG = "configs/quickstart/cliper.yaml"
CLASSES, BACKGROUND = "red plain circle; blue striped star; green dotted cross, cross", "grey ground"


@pytest.fixture(scope="module")
def address():
    """The app in a process of its own, as a user starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "demo" / "app.py"), "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    url = f"http://127.0.0.1:{port}/"
    for _ in range(240):
        assert process.poll() is None, process.stdout.read()
        try:
            urllib.request.urlopen(url, timeout=2).read()
            break
        except OSError:
            time.sleep(0.5)
    yield url
    process.terminate()
    process.wait(timeout=20)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium from Debian's packages."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.fail("this test needs Chromium: apt-get install chromium chromium-driver (.ci/run does)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run", "window-size=1400,1200",
                 "disable-background-networking", "disable-component-update", "disable-sync", "disable-quic",
                 f"user-data-dir={profile}"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    session.implicitly_wait(20)
    yield session
    session.quit()


@pytest.fixture
def page(browser, address):
    browser.get(address)
    return browser


def fill(page, element, text):
    box = page.find_element(By.CSS_SELECTOR, f"#{element} textarea, #{element} input[type=text]")
    box.clear()
    box.send_keys(text)


def upload(page, path):
    page.find_element(By.CSS_SELECTOR, "#picture input[type=file]").send_keys(str(path))
    page.find_element(By.CSS_SELECTOR, "#picture img")  # waits for the preview


def press(page):
    page.find_element(By.CSS_SELECTOR, "#segment, #segment button").click()


def message(page):
    return page.find_element(By.CSS_SELECTOR, ".toast-body").get_attribute("textContent")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "scene.png"
    Image.fromarray(render_scene("val_seen", 0)[0]).save(path)
    return path


def test_upload_type_segment_compare(page, scene, address):
    upload(page, scene)
    fill(page, "classes", CLASSES)
    fill(page, "background", BACKGROUND)
    press(page)
    link = page.find_element(By.CSS_SELECTOR, "#labels a[href*='labels.png']").get_attribute("href")
    with urllib.request.urlopen(link) as answer:
        returned = np.asarray(Image.open(io.BytesIO(answer.read())))
    predictor = Predictor.from_config(CONFIG, ["MODEL.DEVICE", "cpu"])
    predictor.set_image(np.asarray(Image.open(scene)))
    vocabulary = Vocabulary.from_text(CLASSES, BACKGROUND)
    expected = predictor.predict(vocabulary, labels=LabelOptions("argmax")).labels
    assert returned.shape == expected.shape and (returned == expected).all()
    picture = page.find_element(By.CSS_SELECTOR, "#overlay img")
    assert picture.get_attribute("naturalWidth") > "0"
    asked = [entry["message"] for entry in page.get_log("performance") if '"Network.requestWillBeSent"' in entry["message"]]
    assert asked and not [m for m in asked if '"url":"http' in m and '"url":"http://127.0.0.1' not in m]  # nothing from outside


@pytest.mark.parametrize(
    ("classes", "background", "expected"),
    [("", "", "got no class"), ("cat; cat", "", "are both 'cat'"), ("cat; dog", "dog", "'dog' is also a class")],
)
def test_bad_words_give_a_message(page, scene, classes, background, expected):
    upload(page, scene)
    fill(page, "classes", classes)
    fill(page, "background", background)
    press(page)
    assert expected in message(page)


def test_no_picture_gives_a_message(page):
    fill(page, "classes", "cat")
    press(page)
    assert "Upload a picture first" in message(page)


def test_a_broken_picture_gives_a_message(page, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    page.find_element(By.CSS_SELECTOR, "#picture input[type=file]").send_keys(str(broken))
    page.find_element(By.CSS_SELECTOR, "#picture img")
    fill(page, "classes", "cat")
    press(page)
    assert "cannot be read" in message(page)


def test_wrong_weights_give_a_message(page, scene):
    upload(page, scene)
    fill(page, "classes", "cat")
    fill(page, "weights", "nothing.pth")
    press(page)
    assert "CLIPer is training-free" in message(page)


def test_configs_are_found_from_where_the_program_was_started(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("app", ROOT / "demo" / "app.py")
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("VERSION: 2\n")
    app.offer_first(["mine.yaml"])
    assert list(app.SYSTEMS)[0] == "mine.yaml" and app.SYSTEMS["mine.yaml"] == str(tmp_path / "mine.yaml")
    assert len(app.SYSTEMS) == 3
    with pytest.raises(FileNotFoundError, match="got 'none.yaml', which does not exist"):
        app.offer_first(["none.yaml"])
