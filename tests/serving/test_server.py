"""Answers over HTTP are the predictor's own, whoever asks meanwhile; mistakes get one line."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import socket
import threading
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPResponse

import numpy as np
import pytest
import torch
from hyperclip.predictor import Predictor
from hyperclip.serving import load
from hyperclip.serving.client import Client, Refused
from hyperclip.serving.limits import Limits
from hyperclip.serving.service import Sizes, kept
from PIL import Image
from pycocotools import mask as run_lengths

from tests.docs.reading import blocks
from tests.serving.running import CONFIG, form_of, serving

WORDS = "red plain circle; blue striped star"


@pytest.fixture(scope="module")
def predictor():
    return Predictor.from_config(CONFIG, ["MODEL.DEVICE", "cpu"])


@pytest.fixture(scope="module")
def server(predictor):
    with serving(predictor, Limits(bytes=2**20, pixels=300_000, names=20, letters=40)) as running:
        yield running


@pytest.fixture(scope="module")
def images():
    return load.pictures(5, 96)


@pytest.fixture(scope="module")
def expected(predictor, images):
    return load.expected_labels(predictor, images)


def test_200_requests_of_20_clients_over_4_vocabularies(predictor, images, expected):
    with serving(predictor) as running:
        clients = [Client(running.address, seconds=60) for _ in range(20)]
        report = load.ask(clients, images, 200)
        counted = running.client.metrics()
    assert report.refused == [] and len(report.labels) == 200
    assert max(report.differing(expected)) == 0
    assert counted['hyperclip_requests_total{status="200"}'] == 200
    assert counted["hyperclip_request_seconds_count"] == 200
    assert counted["hyperclip_batch_size_sum"] == 200 > counted["hyperclip_batch_size_count"]
    assert counted['hyperclip_cache_misses_total{cache="vocabularies"}'] < 20
    assert counted["hyperclip_cached_images"] == 5 and counted["hyperclip_waiting_requests"] == 0
    before, after = report.resident
    assert report.wall > 0 < report.cpu <= counted["hyperclip_cpu_seconds"]
    assert 0 < before and after < before + 64 * 2**20


def test_json(server, predictor, images):
    words, name = WORDS + "; thing, nothing", hashlib.sha256(images[0]).hexdigest()
    encoded = predictor.encode(np.asarray(Image.open(io.BytesIO(images[0]))))
    middle = float(np.median(predictor.segment(encoded, words).confidence))
    answer = server.client.segment(images[0], words, threshold=middle)
    own = predictor.segment(encoded, words, threshold=middle)
    assert (answer["image_hash"], answer["width"], answer["height"]) == (name, 96, 96)
    assert [row["name"] for row in answer["classes"]] == own.names
    assert answer["classes"][2]["asked"] == ["thing", "nothing"]
    shares = [row["share"] for row in answer["classes"]]
    assert answer["no_class"] > 0 and sum(shares) + answer["no_class"] == pytest.approx(1)
    assert answer["warnings"] == []
    for mask in answer["masks"]:
        found = run_lengths.decode(mask["segmentation"]).astype(bool)
        assert np.array_equal(found, own.mask(mask["name"]))
    assert len(answer["masks"]) == len(np.unique(own.labels[own.labels >= 0])) > 0
    doubtful = server.client.segment(images[0], "circle, star")
    assert "for 2 classes write 'circle; star'" in doubtful["warnings"][0]


def test_regions_of_one_class(server, images):
    whole = server.client.segment(images[0], WORDS)["masks"]
    parts = server.client.segment(images[0], WORDS, instances=True)["masks"]
    large = server.client.segment(images[0], WORDS, instances=True, smallest=50)["masks"]
    assert len(parts) > len(whole) and all(mask["area"] >= 50 for mask in large)
    assert sum(m["area"] for m in parts) == sum(m["area"] for m in whole)


def test_labels_of_a_form(server, images, expected):
    fields = [("image", images[1]), ("vocabulary", load.VOCABULARIES[0]), ("output", "png")]
    url = f"{server.address}/segment"
    kind = {"Content-Type": "multipart/form-data; boundary=edge"}
    with urllib.request.urlopen(urllib.request.Request(url, form_of(*fields), kind)) as answer:
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.headers["X-Image-Hash"] == hashlib.sha256(images[1]).hexdigest()
        file = answer.read()
    assert Image.open(io.BytesIO(file)).mode == "P"
    assert np.array_equal(load.labels_in(file), expected[1, 0])


def test_label_studio(server, images, predictor):
    options = {"output": "label-studio", "image_name": "/data/a b.png"}
    answer = server.client.segment(images[0], WORDS, **options)
    own = predictor.segment(predictor.encode(np.asarray(Image.open(io.BytesIO(images[0])))), WORDS)
    made = own.to_label_studio("/data/a b.png")
    assert answer["config"] == made.config and answer["task"]["data"] == {"image": "/data/a b.png"}
    results = [task["predictions"][0]["result"] for task in (answer["task"], made.task)]
    assert [r["value"] for r in results[0]] == [r["value"] for r in results[1]] != []


def test_new_words_encode_nothing_again(predictor, images, monkeypatch):
    encoded = []
    original = predictor.encode_all
    monkeypatch.setattr(
        predictor, "encode_all", lambda some: encoded.append(len(some)) or original(some)
    )
    with serving(predictor) as running:
        answer = running.client.segment(images[0], WORDS)
        again = running.client.segment(answer["image_hash"].upper(), "red dotted cross; sky")
        assert again["image_hash"] == answer["image_hash"]
        assert [row["name"] for row in again["classes"]] == ["red dotted cross", "sky"]
        running.client.segment(images[0], "one more thing")
        assert encoded == [1]
        # the same new image by several clients at a time
        with ThreadPoolExecutor(6) as pool:
            clients = [Client(running.address) for _ in range(6)]
            answers = list(pool.map(lambda c: c.segment(images[1], WORDS), clients))
        assert all(one == answers[0] for one in answers)
        assert sum(encoded) == 2


def test_an_image_that_left_the_cache(predictor, images):
    with serving(predictor, sizes=Sizes(image_bytes=1)) as running:
        first = running.client.segment(images[0], WORDS)["image_hash"]
        running.client.segment(images[1], WORDS)
        with pytest.raises(Refused, match="it left the cache") as refused:
            running.client.segment(first, WORDS)
        assert (refused.value.status, refused.value.kind) == (404, "unknown_image")
        # the client sends it again by itself
        assert running.client.segment(images[0], WORDS)["image_hash"] == first


def test_embeddings_are_kept_for_as_many_vocabularies_as_told(predictor, images):
    with serving(predictor, sizes=Sizes(vocabularies=2)) as running:
        assert predictor.model.text.capacity == 2
        for words in ("a", "b", "a", "c", "a", "b"):
            running.client.segment(images[0], words)
        counted = running.client.metrics()
    assert counted['hyperclip_cache_hits_total{cache="vocabularies"}'] == 2
    assert len(predictor.model.text._embeddings) <= 2


def bomb():
    """A PNG file of a few bytes that says it has 40,000 x 40,000 pixels."""

    def chunk(kind, data):
        whole = kind + data
        return len(data).to_bytes(4, "big") + whole + zlib.crc32(whole).to_bytes(4, "big")

    side = (40_000).to_bytes(4, "big")
    head = chunk(b"IHDR", side + side + bytes([8, 2, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100)))


def png(height, width):
    file = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(file, format="PNG")
    return file.getvalue()


CUT = load.pictures(1, 96)[0][:-400]
MISTAKES = [
    ({"image": b"no image"}, 400, "image: cannot be read (no image, or of an unknown format)"),
    ({"image": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}, 400, "unknown format"),
    ({"image": CUT}, 400, "image: cannot be read"),
    ({"image": bomb()}, 413, "image: "),
    ({"image": png(600, 600)}, 413, "got 600 x 600 = 0.4 megapixels, expected at most 0.3"),
    ({"image": bytes(2**20 + 1)}, 413, "image: got 1.0 MB, expected at most 1"),
    ({"vocabulary": ""}, 400, "got no class"),
    ({"vocabulary": ";;"}, 400, "got no class"),
    ({"vocabulary": "dog; Dog"}, 400, "classes 0 and 1 are both"),
    ({"vocabulary": "dog, cat, cow"}, 400, "for 3 classes write"),
    ({"vocabulary": "; ".join(f"name {k}" for k in range(21))}, 413, "got 21 names"),
    ({"vocabulary": "x" * 41}, 413, "got a name of 41 characters"),
    ({"vocabulary": "✂✃✄✅✆✇✈✉✊✋✌✍✎✏✐✑✒✓✔✕✖✗✘✙✚✛✜✝✞✟"}, 400, "tokens"),
    ({"negatives": "dog"}, 400, "is also a class"),
    ({"background": "any"}, 400, "background: got 'any'"),
    ({"background": "none", "threshold": 0.5}, 400, "background 'none': got a threshold"),
    ({"threshold": -1}, 400, "expected a number from 0 on"),
    ({"output": "label-studio", "vocabulary": "&lt;; <"}, 400, "classes 0 and 1"),
    ({"image_hash": "abc", "image": None}, 400, "64 hexadecimal digits"),
    ({"image_hash": "0" * 64, "image": None}, 404, "Send the image itself"),
    ({"path": "/etc/passwd"}, 400, "field 'path': unknown"),
]


@pytest.mark.parametrize(("change", "status", "message"), MISTAKES, ids=lambda x: str(x)[:40])
def test_mistakes_get_one_line(server, images, change, status, message):
    fields = {"image": images[0], "vocabulary": "dog", **change}
    fields = {key: value for key, value in fields.items() if value is not None}
    if "image" in fields:
        fields["image"] = base64.b64encode(fields["image"]).decode()
    got, answer = server.json(**fields)
    assert (got, set(answer)) == (status, {"error", "message"}), answer
    assert message in answer["message"] and "\n" not in answer["message"]
    assert "/tmp" not in answer["message"] and "Traceback" not in answer["message"]


def test_bodies_that_are_no_request(server, images):
    kinds = {"json": "application/json", "form": "multipart/form-data; boundary=edge"}
    good = form_of(("image", images[0]), ("vocabulary", "dog"))
    cases = [
        (b"", kinds["json"], 400, "got nothing"),
        (b"", kinds["form"], 400, "got nothing"),
        (b"{bad", kinds["json"], 400, "not JSON"),
        (good, kinds["json"], 400, "not JSON"),
        (b"nonsense", kinds["form"], 400, "no multipart/form-data"),
        (good, "multipart/form-data", 400, "no multipart/form-data"),
        (good[:-200], kinds["form"], 400, ""),
        (good, "text/plain", 415, "content-type: got 'text/plain', expected multipart"),
        (good, "", 415, "content-type: got ''"),
        (bytes(3 * 2**20), kinds["json"], 413, "body: got more than"),
        (form_of(("vocabulary", "dog")), kinds["form"], 400, "image: got neither"),
        (form_of(("image", "@a.png"), ("vocabulary", "dog")), kinds["form"], 400, "-F image=@"),
        (form_of(("vocabulary", b"dog")), kinds["form"], 400, "got a file, expected a text"),
        (form_of(("vocabulary", "a"), ("vocabulary", "b")), kinds["form"], 400, "there twice"),
        (form_of(*[(f"x{k}", "y") for k in range(99)]), kinds["form"], 400, "no multipart"),
    ]
    for body, kind, status, message in cases:
        got, answer = server.post(body, content_type=kind)
        assert (got, set(answer)) == (status, {"error", "message"}), (kind, answer)
        assert message in answer["message"] and "\n" not in answer["message"]
    got, answer = server.post(good, content_type=kinds["form"], content_encoding="gzip")
    assert got == 415 and "content-encoding" in answer["message"]
    for path, method, status in (("/", "GET", 404), ("/segment", "GET", 405), ("/x", "POST", 404)):
        got, answer = server.post(path=path, method=method)
        assert got == status and "expected POST /segment" in answer["message"]
    counted = server.client.metrics()
    assert counted['hyperclip_errors_total{kind="bad_type"}'] >= 3
    assert counted['hyperclip_requests_total{status="413"}'] >= 1
    assert not any("500" in name for name in counted)


def test_the_page_s_python(server, images, tmp_path, monkeypatch, capsys):
    (block,) = blocks("docs/serving.md", "python")
    monkeypatch.chdir(tmp_path)
    Image.open(io.BytesIO(images[0])).save("photo.jpg")
    known: dict = {}
    exec(compile(block.replace("http://127.0.0.1:8000", server.address), "page", "exec"), known)
    assert known["again"]["image_hash"] == known["answer"]["image_hash"]
    assert load.labels_in(known["labels"]).shape == (96, 96)
    assert capsys.readouterr().out.startswith("400 bad_request image: cannot be read")


def test_health(server):
    assert server.client.health() == {"status": "ok", "model": "quickstart"}


def test_a_key(predictor, images):
    with serving(predictor, key="secret") as running:
        assert running.client.segment(images[0], WORDS)["width"] == 96
        for key in ("", "other", "secret "):
            for ask in (Client(running.address, key).metrics,):
                if key != "secret ":  # spaces around a header's value are dropped
                    with pytest.raises(Refused, match="Authorization: Bearer KEY") as refused:
                        ask()
                    assert refused.value.status == 401
        got, answer = running.json(image_hash="0" * 64, vocabulary="dog")
        assert got == 401 and answer["error"] == "unauthorized"
        assert Client(running.address).health()["status"] == "ok"


class Slow:
    """Has a predictor's answers wait until it is opened."""

    def __init__(self, predictor, monkeypatch):
        self.began, self.opened, self.asked = threading.Event(), threading.Event(), []
        original = predictor.answer

        def answer(encoded, question):
            self.asked += question.vocabulary.names
            self.began.set()
            assert self.opened.wait(20)
            return original(encoded, question)

        monkeypatch.setattr(predictor, "answer", answer)


def test_who_waits_too_long_is_told_so(predictor, images, monkeypatch):
    slow = Slow(predictor, monkeypatch)
    with (
        serving(predictor, Limits(seconds=0.5)) as running,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(running.client.segment, images[0], WORDS)
        slow.began.wait(10)
        with pytest.raises(Refused, match=r"no answer within 0\.5 s") as refused:
            Client(running.address).segment(images[1], "sky")
        assert (refused.value.status, refused.value.kind) == (504, "timeout")
        with pytest.raises(Refused, match="no answer within"):
            first.result()
        slow.opened.set()
        answered = False
        for _ in range(40):  # a busy machine may need more than half a second for an answer
            with suppress(Refused):
                answered = running.client.segment(images[2], WORDS)["width"] == 96
                break
    assert answered
    assert "sky" not in slow.asked  # what was given up while it waited never reached the model


def test_a_body_that_does_not_come(predictor):
    with (
        serving(predictor, Limits(seconds=0.3)) as running,
        socket.create_connection(("127.0.0.1", running.port), timeout=10) as slow,
    ):
        head = "POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        slow.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        answer = HTTPResponse(slow)  # which may come in several parts
        answer.begin()
        assert answer.status == 408 and "the body took more than 0.3 s" in answer.read().decode()


def test_more_than_it_can_hold(predictor, images, monkeypatch):
    slow = Slow(predictor, monkeypatch)
    with serving(predictor, Limits(waiting=2)) as running, ThreadPoolExecutor(2) as pool:
        some = [pool.submit(Client(running.address).segment, images[k], WORDS) for k in range(2)]
        slow.began.wait(10)
        while running.client.metrics()["hyperclip_requests_in_progress"] < 2:
            pass
        with pytest.raises(Refused, match="2 requests are in progress") as refused:
            running.client.segment(images[2], WORDS)
        assert (refused.value.status, refused.value.kind) == (503, "busy")
        slow.opened.set()
        assert all(one.result()["width"] == 96 for one in some)


def test_one_broken_image_does_not_fail_its_batch(predictor, images, monkeypatch):
    slow = Slow(predictor, monkeypatch)
    with serving(predictor) as running, ThreadPoolExecutor(4) as pool:
        first = pool.submit(running.client.segment, images[0], "sky")
        slow.began.wait(10)
        files = (images[1], CUT, images[2])
        some = [pool.submit(Client(running.address).segment, file, WORDS) for file in files]
        while running.client.metrics()["hyperclip_waiting_requests"] < 3:
            pass
        slow.opened.set()
        assert first.result()["width"] == some[0].result()["width"] == some[2].result()["width"]
        with pytest.raises(Refused, match="image: cannot be read"):
            some[1].result()
        assert running.client.metrics()['hyperclip_batch_size_bucket{le="2"}'] == 1


def test_what_a_batch_fails_of_is_tried_one_after_the_other(predictor, images, monkeypatch):
    original = predictor.encode_all

    def encode_all(some, *names):
        if len(some) > 1:
            raise MemoryError
        return original(some, *names)

    monkeypatch.setattr(predictor, "encode_all", encode_all)
    slow = Slow(predictor, monkeypatch)
    with serving(predictor) as running, ThreadPoolExecutor(3) as pool:
        first = pool.submit(running.client.segment, images[0], "sky")
        slow.began.wait(10)
        some = [pool.submit(Client(running.address).segment, f, WORDS) for f in images[1:3]]
        while running.client.metrics()["hyperclip_waiting_requests"] < 2:
            pass
        slow.opened.set()
        assert {one.result()["width"] for one in (first, *some)} == {96}


def test_what_is_the_server_s_own_fault(predictor, images, monkeypatch, caplog):
    failures = [RuntimeError("secret /path"), torch.OutOfMemoryError("CUDA"), MemoryError()]

    def fail(*_):
        raise failures.pop(0)

    monkeypatch.setattr(predictor, "answer", fail)
    with serving(predictor) as running:
        fields = {"image": base64.b64encode(images[0]).decode(), "vocabulary": WORDS}
        status, answer = running.json(**fields)
        assert (status, answer["error"]) == (500, "internal") and "secret" not in str(answer)
        assert "secret /path" in caplog.text  # in the log
        for _ in range(2):
            status, answer = running.json(**fields)
            assert (status, answer["error"]) == (503, "memory")
        monkeypatch.undo()
        assert running.json(**fields)[0] == 200


def test_kinds_of_failures():
    def fail(error):
        def function():
            raise error

        return kept(function)

    assert fail(ValueError("two\nlines")).message == "two lines"
    assert isinstance(fail(KeyError("a")), KeyError)
    assert json.dumps(kept(lambda: 3)) == "3"
