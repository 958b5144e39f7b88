"""The page in a real browser: upload, type, segment, compare the returned mask with Python's, every
control, bad input, the queue, the keyboard, and axe-core's rules.
"""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import axe_core_python
import numpy as np
import pytest
from hyperclip.page.pictures import pictures
from hyperclip.predictor import Predictor
from hyperclip.tinyscenes.drawing import render_scene
from hyperclip.visualization import palette
from hyperclip.vocabulary import Vocabulary
from PIL import Image
from pycocotools import mask as run_lengths
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.helpers.page import (
    CLASSES,
    answered,
    ask,
    ask_in_queue,
    chromium,
    download,
    fill,
    find,
    labels_in,
    labels_of,
    message,
    png,
    press,
    running,
    send,
    upload,
    wait_for,
)

CONFIG = "configs/quickstart/cliper.yaml"
AXE = Path(axe_core_python.__file__).with_name("axe.min.js")


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    """The program's temporary files."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def program(temporary):
    """With a small system, so that most tests wait for the browser alone, and the default one."""
    offer = ("--config-file", CONFIG, "MODEL.DEVICE", "cpu")
    with running(temporary, *offer, "--max-megapixels", 1, "--max-megabytes", 1) as program:
        yield program


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as session:
        yield session


@pytest.fixture
def page(browser, program):
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get(program.address)
    for kind in ("performance", "browser"):
        browser.get_log(kind)
    return browser


@pytest.fixture(scope="module")
def predictor():
    return Predictor.from_config(CONFIG, ["MODEL.DEVICE", "cpu"])


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "scène 1.png"
    Image.fromarray(render_scene("val_seen", 7)[0]).save(path)
    return path


def tick(page, group, label):
    """Click on the radio button or the box that has this label."""
    find(page, f"#{group}").find_element(By.XPATH, f".//label[contains(., '{label}')]").click()


def typed(page, element):
    """What a box holds."""
    return find(page, f"#{element} textarea").get_attribute("value")


def source(page):
    """Where the browser has the overlay from."""
    return find(page, "#overlay img").get_attribute("src")


def pixels_shown(page):
    """The overlay as the browser draws it, uint8 RGB (H, W, 3)."""
    script = """
    const image = document.querySelector("#overlay img"), canvas = document.createElement("canvas")
    canvas.width = image.naturalWidth; canvas.height = image.naturalHeight
    const context = canvas.getContext("2d"); context.drawImage(image, 0, 0)
    return [canvas.height, canvas.width,
            Array.from(context.getImageData(0, 0, canvas.width, canvas.height).data)]
    """
    height, width, values = page.execute_script(script)
    return np.asarray(values, np.uint8).reshape(height, width, 4)[..., :3]


def test_upload_type_segment_compare_and_every_control(page, scene, predictor, tmp_path):
    """A visit from the upload to the files."""
    upload(page, scene)
    fill(page, "classes", CLASSES)
    press(page)
    answered(page)
    expected = predictor.segment(predictor.encode(scene), CLASSES)
    rows = [row for row in expected.to_table() if row.pixels]
    legend = find(page, "#legend table")
    for row in rows:
        assert f"{row.name} {row.share:.1%} {row.confidence:.2f}" in legend.text
    colors = palette(3)[sorted(range(3), key=lambda i: -expected.to_table()[i].pixels)][: len(rows)]
    swatches = legend.find_elements(By.CSS_SELECTOR, ".hc-swatch")
    found = [swatch.value_of_css_property("background-color") for swatch in swatches]
    assert found == [f"rgba({r}, {g}, {b}, 1)" for r, g, b in colors.tolist()]
    _compare_files(page, expected, tmp_path)
    _compare_pixels(page, expected, predictor, scene)
    _look_from_a_pixel(page)
    _hide_and_fade(page, expected)
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    urls = [params["request"]["url"] for params in sent]
    outside = [u for u in urls if u.startswith("http") and not u.startswith("http://127.0.0.1:")]
    assert urls and outside == []
    assert [e for e in page.get_log("browser") if e["level"] == "SEVERE"] == []


def _compare_files(page, expected, folder):
    files = [download(page, f"{name}-file", folder) for name in ("overlay", "labels", "coco")]
    assert [re.sub(".*_", "", file.name) for file in files] == [
        "overlay.png",
        "labels.png",
        "coco.json",
    ]
    np.testing.assert_array_equal(labels_in(files[1].read_bytes()), expected.labels)
    document = json.loads(files[2].read_text())
    assert document["images"][0]["width"] == 96 and len(document["annotations"]) > 1
    for entry in document["annotations"]:
        mask = run_lengths.decode(entry["segmentation"]).astype(bool)
        np.testing.assert_array_equal(mask, expected.labels == entry["category_id"] - 1)
    with Image.open(files[0]) as overlay:
        assert overlay.height == 384 and overlay.width > 384  # with its legend


def _compare_pixels(page, expected, predictor, scene):
    picture = find(page, "#overlay img")
    picture.click()  # its middle
    said = wait_for(page, lambda p: find(p, "#pixel").text)
    column, row = (int(find(page, f"#{n} input").get_attribute("value")) for n in ("column", "row"))
    assert abs(column - 48) <= 1 and abs(row - 48) <= 1
    labels, scores = predictor.top(predictor.encode(scene), CLASSES)
    for y, x in ((row, column), (3, 90)):
        if (y, x) != (row, column):  # by the keyboard
            fill(page, "column", str(x))
            fill(page, "row", str(y) + Keys.ENTER)
            said = wait_for(
                page, lambda p, y=y, x=x: f"({x}, {y})" in (t := find(p, "#pixel").text) and t
            )
        assert f"Pixel ({x}, {y}): {expected.names[expected.labels[y, x]]}" in said
        for k in range(3):
            assert f"{expected.names[labels[k, y, x]]}: {scores[k, y, x]:.3f}" in said


def _look_from_a_pixel(page):
    """The map of the pixel that is typed, until a new answer comes."""
    find(page, "#look-from").click()
    drawn = wait_for(page, lambda p: p.find_elements(By.CSS_SELECTOR, "#attention img"))[0]
    assert drawn.is_displayed()
    press(page)
    wait_for(page, lambda p: not p.find_elements(By.CSS_SELECTOR, "#attention img"))
    answered(page)


def _hide_and_fade(page, expected):
    largest = max(range(3), key=lambda i: (expected.labels == i).sum())
    before, colored = source(page), pixels_shown(page)
    tick(page, "visible", expected.names[largest])
    after = wait_for(page, lambda p: source(p) != before and source(p))
    time.sleep(0.3)
    changed = (pixels_shown(page) != colored).any(axis=2)
    mask = np.kron(expected.labels == largest, np.ones((4, 4), bool))
    assert changed[mask].mean() > 0.8 and not changed[~mask].any()
    fill(page, "opacity", "0")
    find(page, "#opacity input[type=number]").send_keys(Keys.ENTER)
    wait_for(page, lambda p: source(p) != after)
    time.sleep(0.3)
    image = np.kron(render_scene("val_seen", 7)[0], np.ones((4, 4, 1), np.uint8))
    np.testing.assert_array_equal(pixels_shown(page), image)


@pytest.mark.parametrize(
    ("classes", "words", "threshold", "expected"),
    [
        ("", "", "", "got no class"),
        ("cat; cat", "", "", "are both 'cat'"),
        ("cat; dog", "dog", "", "'dog' is also a class"),
        ("cat; dog", " ", "", "Background words: got none"),
        ("cat; dog", "", "3", "expected a number from 0 to 2"),
        ("cat; dog", "", "much", "got 'much', expected a number"),
    ],
)
def test_bad_words_give_a_message_that_stays(page, scene, classes, words, threshold, expected):
    upload(page, scene)
    fill(page, "classes", classes)
    if words:
        tick(page, "background", "Named by words")
        fill(page, "background-words", words)
    if threshold:
        find(page, ".label-wrap").click()
        fill(page, "class-threshold", threshold)
    press(page)
    assert expected in message(page)
    page.implicitly_wait(0)
    assert not page.find_elements(By.CSS_SELECTOR, ".toast-body, #overlay img")
    page.implicitly_wait(20)


def test_no_picture_gives_a_message(page):
    fill(page, "classes", "cat")
    press(page)
    assert "Upload an image first" in message(page)


def test_bad_pictures_give_a_message(page, tmp_path):
    """Broken, of 100 megapixels, of too many bytes: the last two as soon as they are uploaded."""
    (broken := tmp_path / "text.jpg").write_text("no image")
    Image.new("1", (10_000, 10_000)).save(huge := tmp_path / "huge.png")
    heavy = tmp_path / "heavy.png"
    heavy.write_bytes(png(np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)))
    fill(page, "classes", "cat")
    find(page, "#picture input[type=file]").send_keys(str(huge))
    assert "'huge.png': got 10000 x 10000 = 100.0 megapixels, expected at most 1" in message(page)
    for path, expected in ((heavy, "got 1.4 MB, expected at most 1"), (broken, "cannot be read")):
        find(page, "#picture [aria-label='Remove Image']").click()
        find(page, "#picture input[type=file]").send_keys(str(path))
        find(page, "#picture img")
        press(page)
        assert wait_for(page, lambda p, e=expected: e in message(p))
        assert path.name in message(page)


def test_examples_and_words_of_the_background(page, predictor):
    buttons = page.find_elements(By.CSS_SELECTOR, "#examples button")
    assert [button.text for button in buttons] == [picture.title for picture in pictures()]
    for button, picture in zip(buttons, pictures(), strict=True):
        button.click()
        wait_for(page, lambda p, w=picture.words: typed(p, "classes") == w)
        find(page, "#picture img")
    tick(page, "background", "Named by words")
    fill(page, "background-words", "water; floor")
    press(page)
    answered(page)
    vocabulary = Vocabulary.from_text(picture.words + "; water; floor")
    labels = predictor.segment(predictor.encode(picture.draw()), vocabulary).labels
    nothing = (labels >= len(vocabulary) - 2).mean()
    assert nothing > 0 and f"no class {nothing:.1%}" in find(page, "#legend").text
    tick(page, "background", "Pixels below a confidence")
    fill(page, "threshold", "2")
    find(page, "#threshold input[type=number]").send_keys(Keys.TAB)
    press(page)
    wait_for(page, lambda p: "no class 100.0%" in find(p, "#legend").text)


def test_a_class_list_is_uploaded(page, tmp_path):
    (good := tmp_path / "names.txt").write_text("cat, kitten\nBär\n\nroad\n", encoding="utf-8")
    (bad := tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    box = find(page, "input[type=file][accept*='.txt']")
    box.send_keys(str(good))
    wait_for(page, lambda p: typed(p, "classes") == "cat, kitten\nBär\nroad")
    box.send_keys(str(bad))
    assert "'bad.txt': not text in UTF-8" in message(page)
    assert typed(page, "classes") == "cat, kitten\nBär\nroad"


def test_whoever_waits_sees_the_place_in_the_queue(page, program, scene):
    words = "; ".join(f"thing {k}" for k in range(1000))
    picture = send(program.address, scene.read_bytes())
    upload(page, scene)
    fill(page, "classes", "cat; dog")
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(ask_in_queue, program.address, picture, words) for _ in range(4)]
        time.sleep(0.3)
        press(page)
        place = re.compile(r"queue: [1-5]/[1-5] \| [\d.]+")
        wait_for(page, lambda p: place.search(find(p, "#message").text))
        answered(page)
        assert all('role="alert"' not in other.result()[0] for other in others)


def test_a_browser_that_goes_away_takes_nobody_with_it(page, program, scene, temporary, predictor):
    upload(page, scene)
    page.execute_script(
        """const box = document.querySelector("#classes textarea")
        box.value = Array.from({length: 1000}, (_, k) => "thing " + k).join(";")
        box.dispatchEvent(new Event("input"))"""
    )
    press(page)
    page.get("about:blank")
    picture = send(program.address, scene.read_bytes())
    values = ask(program.address, picture, CLASSES, system=CONFIG)[1]["data"]
    expected = predictor.segment(predictor.encode(scene), CLASSES).labels
    np.testing.assert_array_equal(labels_of(program.address, values), expected)
    assert "Traceback" not in (temporary / "stderr").read_text()


@pytest.mark.parametrize(("theme", "width"), [("light", 1400), ("dark", 1400), ("dark", 360)])
def test_axe_core_finds_nothing_serious(page, program, scene, theme, width):
    """At first, with an error, and with all controls and an answer; and no page wider than it."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.get(f"{program.address}?__theme={theme}")
    find(page, "#segment")
    page.execute_script(AXE.read_text(encoding="utf-8"))
    faults = serious_faults(page)
    press(page)
    message(page)
    upload(page, scene)
    faults += serious_faults(page)
    fill(page, "classes", CLASSES)
    tick(page, "background", "Pixels below a confidence")
    tick(page, "background", "Named by words")
    fill(page, "background-words", "wall")
    find(page, ".label-wrap").click()
    find(page, "#class-threshold textarea, #class-threshold input")
    press(page)
    answered(page)
    fill(page, "column", "1")
    fill(page, "row", "1" + Keys.ENTER)
    find(page, "#pixel ol")
    faults += serious_faults(page)
    assert faults == []
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def serious_faults(page):
    """What axe-core calls serious or critical, with the elements it is about."""
    wait_for(page, lambda p: p.execute_script(SETTLED))
    page.set_script_timeout(60)
    found = page.execute_async_script(
        "const done = arguments[0]; axe.run({resultTypes: ['violations']}).then(done)"
    )
    return [
        (fault["id"], [node["any"][0]["message"] for node in fault["nodes"]])
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]


def test_the_keyboard_reaches_every_control(page, scene):
    upload(page, scene)
    fill(page, "classes", CLASSES)
    press(page)
    answered(page)
    wanted = (
        "picture classes class-list background segment examples opacity legend visible "
        "overlay-file labels-file coco-file column row name-pixel look-from"
    ).split()
    reached, marked = set(), []
    page.execute_script("document.activeElement.blur()")
    for _ in range(60):
        page.switch_to.active_element.send_keys(Keys.TAB)
        reached |= set(page.execute_script(WHERE))
        marked.append(page.execute_script(OUTLINE))
    assert [name for name in wanted if name not in reached] == []
    assert sum(marked) > 0.8 * len(marked)  # where one is can be seen
    find(page, "#segment").send_keys(Keys.ENTER)
    answered(page)


SETTLED = """
return !document.querySelector(".pending, .generating") && !document.getAnimations().length
"""
WHERE = """
const ids = []
for (let e = document.activeElement; e; e = e.parentElement) if (e.id) ids.push(e.id)
return ids
"""
OUTLINE = """
const style = getComputedStyle(document.activeElement)
return style.outlineStyle != "none" && parseFloat(style.outlineWidth) >= 2
"""


def test_no_box_takes_a_path(page):
    labels = find(page, "body").text
    assert "Weights" not in labels
