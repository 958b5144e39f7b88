"""What requests may say, and what is said of the others."""

from __future__ import annotations

import base64
import json

import pytest
from hyperclip.serving.fields import Fields, checked, fields_of_json
from hyperclip.serving.limits import Limits, Refusal

LIMITS = Limits(bytes=100, names=5, letters=20)
FILE = base64.b64encode(b"a file").decode()
WHOLE = {
    "image": FILE,
    "vocabulary": "dog; road",
    "background": "words",
    "negatives": "sky",
    "threshold": 0.5,
    "class_threshold": 1,
    "output": "png",
    "instances": True,
    "smallest": 3,
    "image_name": "/data/a.jpg",
}


def of_json(**content):
    return fields_of_json(json.dumps(content).encode(), LIMITS)


def test_all_fields():
    expected = Fields(**{**WHOLE, "image": b"a file"})
    assert of_json(**WHOLE) == expected
    texts = {**WHOLE, "threshold": "0.5", "class_threshold": "1.0", "smallest": "3"}
    form = {**texts, "image": b"a file", "instances": "true"}
    assert checked(form, LIMITS, form=True) == expected


def test_what_is_missing():
    assert of_json(image_hash="AB", vocabulary=["dog", "road, street"]) == Fields(
        ("dog", "road, street"), image_hash="ab"
    )
    form = checked({"image": b"x", "vocabulary": "dog", "threshold": ""}, LIMITS, form=True)
    assert form == Fields("dog", b"x")


WRONG = [
    ({"image": None}, "bad_request", "got null, expected a file in base64"),
    ({"image": "/etc/passwd!"}, "bad_request", "in base64, no path and no address"),
    ({"image": "http://host/a.png"}, "bad_request", "in base64, no path and no address"),
    ({"image": ""}, "bad_request", "got an empty file"),
    ({"image": "Ä"}, "bad_request", "in base64"),
    ({"image": base64.b64encode(bytes(101)).decode()}, "too_large", "got 0.0 MB, expected at most"),
    ({"image_hash": "00"}, "bad_request", "got both"),
    ({"vocabulary": 3}, "bad_request", "got a number, expected a text"),
    ({"vocabulary": {"a": 1}}, "bad_request", "got an object"),
    ({"vocabulary": ["dog", 3]}, "bad_request", "vocabulary: got a number, expected a text"),
    ({"vocabulary": "x" * 200}, "too_large", "got 200 characters, expected at most 110"),
    ({"vocabulary": ["x" * 60, "y" * 60]}, "too_large", "got 120 characters"),
    ({"vocabulary": "a\x00b"}, "bad_request", "no control characters"),
    ({"vocabulary": "a\ud800b"}, "bad_request", "no control characters"),
    ({"negatives": "x" * 200}, "too_large", "negatives: got 200 characters"),
    ({"threshold": "0.5"}, "bad_request", "threshold: got '0.5', expected a number"),
    ({"threshold": True}, "bad_request", "got true, expected a number"),
    ({"threshold": 10**400}, "bad_request", "expected a number"),
    ({"smallest": 0}, "bad_request", "expected a whole number from 1 on"),
    ({"smallest": 1.5}, "bad_request", "expected a whole number from 1 on"),
    ({"smallest": float("nan")}, "bad_request", "expected a whole number from 1 on"),
    ({"instances": "true"}, "bad_request", "expected true or false"),
    ({"output": "pdf"}, "bad_request", "expected one of ['json', 'png', 'label-studio']"),
    ({"output": ["png"]}, "bad_request", "output: got a list"),
    ({"vocabulry": "dog"}, "bad_request", "unknown. Did you mean 'vocabulary'?"),
    ({"zzz": 1}, "bad_request", "expected of ['image',"),
]


@pytest.mark.parametrize(("change", "kind", "message"), WRONG, ids=str)
def test_mistakes(change, kind, message):
    with pytest.raises(Refusal) as caught:
        of_json(**{**WHOLE, **change})
    assert caught.value.kind == kind and message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "photo.jpg"}, "with curl: -F image=@photo.jpg"),
        ({"threshold": "much"}, "threshold: got 'much', expected a number"),
        ({"instances": "yes"}, "expected true or false"),
        ({"smallest": "2.5"}, "whole number"),
    ],
)
def test_mistakes_of_forms(change, message):
    with pytest.raises(Refusal, match="^[^\n]+$") as caught:
        checked({"image": b"x", "vocabulary": "dog", **change}, LIMITS, form=True)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["image", "vocabulary"])
def test_fields_that_have_to_be_there(name):
    with pytest.raises(Refusal, match=f"^{name}: (got neither|missing)"):
        of_json(**{key: value for key, value in WHOLE.items() if key != name})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{bad", "not JSON in UTF-8"),
        (b"\xff\xfe", "not JSON in UTF-8"),
        (b"[1]", "got a list, expected an object"),
        (b"3", "got a number, expected an object"),
        (b'{"vocabulary": "a", "vocabulary": "b"}', "'vocabulary' is there twice"),
        (b"[" * 100_000, "not JSON in UTF-8"),
    ],
)
def test_bodies_that_are_no_object(body, message):
    with pytest.raises(Refusal) as caught:
        fields_of_json(body, LIMITS)
    assert message in str(caught.value) and caught.value.status == 400


def test_names():
    LIMITS.check_names(["x" * 20] * 5)
    with pytest.raises(Refusal, match="got 6 names, expected at most 5"):
        LIMITS.check_names(["x"] * 6)
    with pytest.raises(Refusal, match="got a name of 21 characters"):
        LIMITS.check_names(["x" * 21])


def test_limits_are_above_0():
    with pytest.raises(ValueError, match="seconds: got 0"):
        Limits(seconds=0)
    with pytest.raises(ValueError, match="waiting: got inf"):
        Limits(waiting=float("inf"))
