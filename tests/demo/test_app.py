"""The page in a real browser: upload, type, segment, and compare the returned mask with Python's;
bad input.

And its HTTP interface, as a program that means harm would use it.
"""

from __future__ import annotations

import http.server
import importlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import hyperclip.commands.app
import numpy as np
import pytest
import torch
from cliper.postprocess import LabelOptions
from detectron2.modeling import build_model
from hyperclip.config import load_config
from hyperclip.data import read_image
from hyperclip.predictor import Predictor
from hyperclip.tinyscenes.drawing import render_scene
from hyperclip.vocabulary import Vocabulary
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.conftest import ROOT
from tests.helpers.defaults import default

CONFIG = "configs/quickstart/cliper.yaml"
CLASSES, NO_CLASS = "red plain circle; blue striped star; green dotted cross, cross", "grey ground"


@contextmanager
def running(temporary, *arguments):
    """The app in a process of its own, as a user starts it, with a folder of its own for temporary
    files: its address.
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
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)
        log.close()


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    """The app's temporary files."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def address(temporary):
    with running(temporary) as url:
        yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium from Debian's packages."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.fail(
            "this test needs Chromium: apt-get install chromium chromium-driver (.ci/run does)"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
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
    fill(page, "background", NO_CLASS)
    press(page)
    returned = labels_of(
        page.find_element(By.CSS_SELECTOR, "#labels a[download='labels.png']").get_attribute(
            "outerHTML"
        )
    )
    predictor = Predictor.from_pretrained(overrides=["MODEL.DEVICE", "cpu"])
    predictor.set_image(scene)
    vocabulary = Vocabulary.from_text(CLASSES, NO_CLASS)
    expected = predictor.predict(vocabulary).labels
    assert returned.shape == expected.shape and (returned == expected).all()
    picture = page.find_element(By.CSS_SELECTOR, "#overlay img")
    assert int(picture.get_attribute("naturalWidth")) > 300
    asked = [
        entry["message"]
        for entry in page.get_log("performance")
        if '"Network.requestWillBeSent"' in entry["message"]
    ]
    # nothing from outside
    assert asked and not [
        m for m in asked if '"url":"http' in m and '"url":"http://127.0.0.1' not in m
    ]


@pytest.mark.parametrize(
    ("classes", "background", "expected"),
    [
        ("", "", "got no class"),
        ("cat; cat", "", "are both 'cat'"),
        ("cat; dog", "dog", "'dog' is also a class"),
    ],
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
    assert "Upload an image first" in message(page)


def test_a_broken_picture_gives_a_message(page, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    page.find_element(By.CSS_SELECTOR, "#picture input[type=file]").send_keys(str(broken))
    page.find_element(By.CSS_SELECTOR, "#picture img")
    fill(page, "classes", "cat")
    press(page)
    assert "cannot be read" in message(page)


def test_thresholds_out_of_range_give_a_message(page, address, scene):
    upload(page, scene)
    fill(page, "classes", "cat")
    page.find_element(By.CSS_SELECTOR, "#class-threshold input").send_keys("3")
    press(page)
    assert "expected a number from 0 to 2" in message(page)
    for wrong in (-0.5, 2.5, float("nan"), "0.5"):
        status, answer = ask(address, send(address, scene.read_bytes()), "cat", pixel=wrong)
        assert status != 200 and "data" not in answer


def test_no_box_takes_a_path(page):
    labels = page.find_element(By.CSS_SELECTOR, "body").text
    assert "Weights" not in labels and not page.find_elements(By.CSS_SELECTOR, "#weights")


# The HTTP interface
# ------------------------------------------------------------------------------------------------


def labels_of(html):
    """The label map of the second answer."""
    link = re.search('href="(data:image/png;name=labels.png;base64,[^"]+)"', html).group(1)
    with urllib.request.urlopen(link) as answer:
        return np.asarray(Image.open(io.BytesIO(answer.read())))


def ask(address, picture, classes, system="CLIPer (quickstart)", score=None, pixel=None):
    """Call the page's function past its queue: (status, answer)."""
    body = json.dumps({"data": [picture, classes, "", score, pixel, system]}).encode()
    request = urllib.request.Request(
        f"{address}gradio_api/run/segment", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


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


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, format="PNG")
    return file.getvalue()


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
    assert ask(address, good, "cat")[0] == 200


@pytest.mark.parametrize("box", range(6))
def test_no_request_fetches_an_address(address, scene, fetched, box):
    url, asked = fetched
    for payload in [
        url,
        *attempts(url, True),
        {"path": send(address, scene.read_bytes())["path"], "url": url},
    ]:
        data = [send(address, scene.read_bytes()), "cat", "", None, None, "CLIPer (quickstart)"]
        data[box] = payload
        body = json.dumps({"data": data}).encode()
        request = urllib.request.Request(
            f"{address}gradio_api/run/segment", body, {"Content-Type": "application/json"}
        )
        try:
            urllib.request.urlopen(request, timeout=60).read()
        except urllib.error.HTTPError:
            pass
    assert asked == []


def test_requests_past_the_queue_do_not_meet_and_leave_no_file(address, temporary):
    words = [
        "red plain circle; blue striped star",
        "green dotted cross; yellow plain square; cyan plain star",
    ]
    images = [render_scene("val_seen", k)[0] for k in range(4)]
    uploads = [send(address, png(image)) for image in images]
    predictor = Predictor.from_config(CONFIG, ["MODEL.DEVICE", "cpu"])
    expected = {
        (k, w): predictor.segment(predictor.encode(images[k]), words[w]).labels
        for k in range(4)
        for w in range(2)
    }
    before = sorted(temporary.rglob("*"))

    def call(number):
        k, w = number % 4, number // 4 % 2
        status, answer = ask(address, uploads[k], words[w])
        return status == 200 and (labels_of(answer["data"][1]) == expected[k, w]).mean() > 0.999

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(24)))
    assert sorted(temporary.rglob("*")) == before


def test_nothing_is_left_when_the_program_ends(tmp_path, scene):
    with running(tmp_path) as address:
        picture = send(address, scene.read_bytes())
        assert os.path.isfile(picture["path"]) and picture["path"].startswith(str(tmp_path))
        assert ask(address, picture, "cat")[0] == 200
    assert [p.name for p in tmp_path.rglob("*") if p.is_file() and p.name != "stderr"] == []
    assert "Traceback" not in (tmp_path / "stderr").read_text()


# The functions behind it
# -------------------------------------------------------------------------------------------


@pytest.fixture
def app():
    return importlib.reload(hyperclip.commands.app)


ABSTAIN = [
    "MODEL.DEVICE",
    "cpu",
    "MODEL.CLIPER.PROTOCOL",
    "abstain",
    "MODEL.CLIPER.SCORE_THRESHOLD",
    "0.3",
    "MODEL.CLIPER.BACKGROUND_THRESHOLD",
    "0.45",
    "MODEL.CLIPER.NORMALIZE",
    "True",
]


def test_thresholds_of_the_config_hold_until_they_are_changed():
    predictor = Predictor.from_config(CONFIG, ABSTAIN)
    image, words = (
        predictor.encode(render_scene("val_seen", 0)[0]),
        Vocabulary.from_text(CLASSES, NO_CLASS),
    )
    own, cases = (
        predictor.model.labels,
        {
            (None, None): default(LabelOptions, "abstain", 0.3, 0.45, True),
            (0.9, None): default(LabelOptions, "abstain", 0.9, 0.45, True),
            (None, 0.8): default(LabelOptions, "abstain", 0.3, 0.8, True),
            (0.0, 0.0): default(LabelOptions, "abstain", 0.0, 1e-6, True),
        },
    )
    answers = {}
    for (score, pixel), options in cases.items():
        found = answers[score, pixel] = predictor.segment(
            image, words, class_threshold=score, threshold=pixel
        ).labels
        assert predictor.model.labels == own
        predictor.model.labels = options  # as if the config said so
        np.testing.assert_array_equal(found, predictor.segment(image, words).labels)
        predictor.model.labels = own
    assert len({found.tobytes() for found in answers.values()}) >= 3
    assert (answers[None, None] == -1).any() and (answers[0.0, 0.0] == -1).mean() < 0.01


def test_a_system_that_gives_every_pixel_a_class_does_so_until_a_threshold_is_typed():
    predictor = Predictor.from_config(CONFIG, ["MODEL.DEVICE", "cpu"])
    image, words = (
        predictor.encode(render_scene("val_seen", 0)[0]),
        Vocabulary.from_text(CLASSES, NO_CLASS),
    )
    own = predictor.segment(image, words)
    assert (own.labels >= 0).all()
    cut = predictor.segment(image, words, threshold=float(np.median(own.confidence)))
    assert 0.4 < (cut.labels == -1).mean() < 0.6
    kept = cut.labels != -1
    np.testing.assert_array_equal(cut.labels[kept], own.labels[kept])
    best = [own.confidence[own.labels == i].max(initial=0) for i in range(3)]
    assert (
        set(np.unique(predictor.segment(image, words, class_threshold=1.99).labels)) == {-1}
        and max(best) < 1.99
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 2.5, "1", True, [0.5]])
def test_thresholds_that_are_none(app, value):
    with pytest.raises(ValueError, match="Pixel threshold: got .*, expected a number from 0 to 2"):
        app.checked_threshold("Pixel threshold", value)
    assert app.checked_threshold("x", None) is None and app.checked_threshold("x", 0) == 0


def test_a_replaced_checkpoint_gives_new_answers(app, tmp_path):
    """Of the same name, size and time; and the same content is not built again."""
    config, weights = "configs/quickstart/hyperclip.yaml", tmp_path / "model.pth"
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        states.append(build_model(load_config(config, ["MODEL.DEVICE", "cpu"])).state_dict())
    app.offer_first([[config, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(weights)]])
    image, answers, built = render_scene("val_seen", 0)[0], [], []
    for state in (states[0], states[0], states[1], states[0]):
        torch.save({"model": state}, weights)
        os.utime(weights, (1e9, 1e9))
        built.append(app.predictors.get(config))
        answers.append(built[-1].segment(built[-1].encode(image), CLASSES).confidence)
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[3])
    assert np.abs(answers[0] - answers[2]).max() > 1e-3
    assert built[0] is built[1] and built[0] is built[3] and built[2] is not built[0]


def test_configs_are_offered_with_their_overrides(app, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("VERSION: 2\n")
    app.offer_first([["mine.yaml"], ["mine.yaml", "MODEL.WEIGHTS", "a.pth"]])
    assert list(app.SYSTEMS)[:2] == ["mine.yaml", "mine.yaml (2)"] and len(app.SYSTEMS) == 4
    assert app.SYSTEMS["mine.yaml"] == app.SYSTEMS["mine.yaml (2)"] == str(tmp_path / "mine.yaml")
    assert app.OVERRIDES["mine.yaml"] == [] and app.OVERRIDES["mine.yaml (2)"] == [
        "MODEL.WEIGHTS",
        "a.pth",
    ]
    with pytest.raises(FileNotFoundError, match="got 'none.yaml', which does not exist"):
        app.offer_first([["none.yaml"]])
    with pytest.raises(ValueError, match="unknown config key MODEL.WEIGHT "):
        app.offer_first([["mine.yaml", "MODEL.WEIGHT", "a.pth"]])


def test_the_best_model_here_comes_first_where_no_config_is_given(app, scene, monkeypatch):
    app.offer_first([])
    first = next(iter(app.SYSTEMS))
    assert first == app.zoo.ZOO["photo-mini"].what and len(app.SYSTEMS) == 3
    answer = app.segment(str(scene), "circle; cross", "", None, None, first)[1]
    assert labels_of(answer).shape == (96, 96)

    def nothing():
        raise FileNotFoundError("no model is on this machine")

    monkeypatch.setattr(app.zoo, "best_here", nothing)
    app.SYSTEMS.pop(first)
    app.offer_first([])
    assert len(app.SYSTEMS) == 2


def test_images_are_read_as_the_system_s_config_says(app, tmp_path):
    """12 bits in 16, which are black without it; and the size that is allowed."""
    grey = render_scene("val_seen", 0)[0].astype(np.uint16)[..., 0] << 4
    Image.fromarray(grey).save(tmp_path / "grey.png")
    pairs = (["INPUT.IMAGE_BITS", "12"], ["INPUT.MAX_PIXELS", "99"])
    app.offer_first([[CONFIG, "MODEL.DEVICE", "cpu", *pair] for pair in pairs])
    words = "red plain circle; blue striped star"
    answer = app.segment(str(tmp_path / "grey.png"), words, "", None, None, CONFIG)[1]
    predictor = Predictor.from_config(CONFIG, ["MODEL.DEVICE", "cpu"])
    right, black = (read_image(tmp_path / "grey.png", image_bits=bits) for bits in (12, 0))
    wanted, wrong = (
        predictor.segment(predictor.encode(image), words).labels for image in (right, black)
    )
    np.testing.assert_array_equal(labels_of(answer), wanted)
    assert right.max() > 8 * black.max() and (wanted != wrong).any()
    with pytest.raises(app.gr.Error, match="'grey.png.*9216 pixels are more than 99"):
        app.segment(str(tmp_path / "grey.png"), words, "", None, None, f"{CONFIG} (2)")


def test_the_page_says_which_names_were_asked(app, scene):
    app.offer_first([[CONFIG, "MODEL.DEVICE", "cpu"]])

    def said(words):
        return re.findall("<p>(.*?)</p>", app.segment(str(scene), words, "", None, None, CONFIG)[1])

    asked = "red plain circle: asked by red plain circle, a circle (mean of these names)"
    assert said("red plain circle; cross") == []
    assert (
        said("red plain circle, a circle; cross") == said("red plain circle, a circle;") == [asked]
    )
    first, warning = said("red plain circle, a circle")
    assert first == asked and warning.startswith("Warning: ") and "for 2 classes write" in warning
    assert "&lt;b&gt;cross: asked by &lt;b&gt;cross, x" in said("<b>cross, x; star")[0]
