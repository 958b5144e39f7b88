"""The page as a server in this process: what it leaves behind."""

from __future__ import annotations

import pytest
from gradio.route_utils import delete_files_created_by_app
from hyperclip.page.answers import Answers, Limits
from hyperclip.page.layout import AGE, build_page
from hyperclip.page.systems import Offer, Systems
from hyperclip.tinyscenes.drawing import render_scene

from tests.helpers.page import CLASSES, ask_in_queue, labels_of, png, send


@pytest.fixture
def served(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    offer = Offer("configs/quickstart/cliper_fusion.yaml", ("MODEL.DEVICE", "cpu"))
    page = build_page(Answers(Systems({"fusion": offer}), Limits(10**6, 2**20)))
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield page, address
    page.close()


def test_uploads_and_results_are_removed_by_age(served, tmp_path):
    page, address = served
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
