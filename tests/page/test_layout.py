"""The page as a server in this process: what it leaves behind."""

from __future__ import annotations

import pytest
from gradio.route_utils import delete_files_created_by_app
from hyperclip.page.answers import Answers, Limits
from hyperclip.page.layout import AGE, build_page
from hyperclip.page.systems import Offer, Systems
from hyperclip.tinyscenes.drawing import render_scene

from tests.helpers.page import (
    CLASSES,
    answered,
    ask_in_queue,
    chromium,
    fill,
    find,
    labels_of,
    png,
    press,
    send,
    upload,
    wait_for,
)


@pytest.fixture
def served(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    offer = Offer("configs/quickstart/cliper_fusion.yaml", ("MODEL.DEVICE", "cpu"))
    answers = Answers(Systems({"fusion": offer}), Limits(10**6, 2**20))
    page = build_page(answers)
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield page, address, answers
    page.close()


def test_uploads_and_results_are_removed_by_age(served, tmp_path):
    page, address, _ = served
    picture = send(address, png(render_scene("val_seen", 7)[0]))
    values = ask_in_queue(address, picture, CLASSES, system="fusion")
    assert labels_of(address, values).shape == (96, 96)

    def left():
        return [path for path in tmp_path.rglob("*") if path.is_file()]

    names = sorted(path.name for path in left())
    assert len(names) == 5 and {"image_coco.json", "image_labels.png"} < set(names)
    delete_files_created_by_app(page, AGE)
    assert len(left()) == 5
    delete_files_created_by_app(page, 0)
    assert left() == []


def test_answers_are_dropped_when_visitors_leave(served, tmp_path, tmp_path_factory, monkeypatch):
    """And when they ask again."""
    _, address, answers = served
    asked, dropped = [], []
    ask, forget = answers.ask, answers.forget
    monkeypatch.setattr(answers, "ask", lambda r: asked.append(a := ask(r)) or a)
    monkeypatch.setattr(answers, "forget", lambda t: (dropped.append(t), forget(t)))
    (scene := tmp_path_factory.mktemp("scene") / "a.png").write_bytes(
        png(render_scene("val_seen", 7)[0])
    )
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        browser.get(address)
        upload(browser, scene)
        fill(browser, "classes", CLASSES)
        press(browser)
        answered(browser)
        fill(browser, "classes", "cross; star")
        press(browser)
        wait_for(browser, lambda b: "star" in find(b, "#legend").text)
        assert asked[0].token in dropped and asked[1].token not in dropped
        browser.get("about:blank")
        wait_for(browser, lambda _: asked[1].token in dropped)
    with pytest.raises(ValueError, match="no longer kept"):
        answers.find(asked[1].token)
