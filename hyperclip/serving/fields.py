"""The fields of a request, out of JSON or of a form, each of the type that it should have."""

import base64
import binascii
import difflib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..results.limits import NOT_PLAIN
from .limits import Limits, Refusal

OUTPUTS = ("json", "png", "label-studio")
NAMES = (
    "image", "image_hash", "vocabulary", "background", "negatives", "threshold",
    "class_threshold", "output", "instances", "smallest", "image_name",
)  # fmt: skip
"""Fields of a request."""
LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029\t"
"""Control characters that texts of a vocabulary may have."""


@dataclass(frozen=True)
class Fields:
    """What a request says.

    Attributes:
        image: the content of an image's file, or None with image_hash, its SHA-256 in hex.
        vocabulary: a text as of ``--vocabulary``, or a text for each class.
        background, negatives, threshold, class_threshold: see :meth:`Question.of`.
        output: one of ``OUTPUTS``. instances, smallest: of masks, see :meth:`Answer.regions`.
        image_name: where Label Studio finds the image; it is not opened here.
    """

    vocabulary: str | tuple[str, ...]
    image: bytes | None = None
    image_hash: str = ""
    background: str = ""
    negatives: str = ""
    threshold: float | None = None
    class_threshold: float | None = None
    output: str = "json"
    instances: bool = False
    smallest: int = 1
    image_name: str = ""


def fields_of_json(body: bytes, limits: Limits) -> Fields:
    """The fields of a JSON object, the image in base64; Refusal for anything else."""
    try:
        content = json.loads(body, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Refusal("bad_request", f"body: not JSON in UTF-8 ({error})") from error
    if not isinstance(content, dict):
        got = f"got {_kind(content)}, expected an object"
        raise Refusal("bad_request", f'body: {got} such as {{"vocabulary": "dog; road", …}}')
    return checked(content, limits)


def checked(content: Mapping[str, Any], limits: Limits, form: bool = False) -> Fields:
    """The fields, with values of JSON, or of a ``form``: texts, and bytes of its file. Refusal for
    an unknown field, a missing one, or another type.
    """
    if unknown := sorted(content.keys() - set(NAMES)):
        near = difflib.get_close_matches(unknown[0], NAMES, n=1)
        meant = f". Did you mean {near[0]!r}?" if near else f", expected of {list(NAMES)}"
        raise Refusal("bad_request", f"field {unknown[0][:80]!r}: unknown{meant}")
    if ("image" in content) == ("image_hash" in content):
        got = "both" if "image" in content else "neither"
        expected = 'expected "image", a file, or "image_hash", the hash of one that was sent before'
        raise Refusal("bad_request", f"image: got {got}, {expected}")
    if "vocabulary" not in content:
        raise Refusal("bad_request", "vocabulary: missing; name the classes: 'dog; road, street'")
    read = _Reader(content, form)
    image = _image(content["image"], form) if "image" in content else None
    if image is not None:
        limits.check_bytes(len(image))
    return Fields(
        vocabulary=_vocabulary(content["vocabulary"], limits),
        image=image,
        image_hash=read.text("image_hash").lower(),
        background=read.text("background"),
        negatives=read.text("negatives", limits.text),
        threshold=read.number("threshold"),
        class_threshold=read.number("class_threshold"),
        output=read.choice("output", OUTPUTS),
        instances=read.flag("instances"),
        smallest=read.count("smallest"),
        image_name=read.text("image_name"),
    )


class _Reader:
    """Values by name, each as the type that is asked for."""

    def __init__(self, content: Mapping[str, Any], form: bool) -> None:
        self.content, self.form = content, form

    def text(self, name: str, most: int = 1000) -> str:
        """A text of at most so many characters; "" if it is missing."""
        return _plain(name, self.content.get(name, ""), most)

    def number(self, name: str) -> float | None:
        """A number, None if it is missing."""
        value = self.content.get(name)
        try:
            if value is None or (self.form and value == ""):
                return None
            if isinstance(value, bool) or not isinstance(value, str if self.form else int | float):
                raise ValueError
            return float(value)
        except (ValueError, OverflowError):
            raise _wrong(name, value, "a number") from None

    def count(self, name: str) -> int:
        """A whole number from 1 on; 1 if it is missing."""
        value = self.number(name)
        if value is None:
            return 1
        if not (1 <= value < 2**53 and value == int(value)):
            raise _wrong(name, self.content[name], "a whole number from 1 on")
        return int(value)

    def flag(self, name: str) -> bool:
        """True or false; false if it is missing."""
        value = self.content.get(name, False)
        if self.form and value in ("true", "false"):
            return bool(value == "true")
        if not isinstance(value, bool):
            raise _wrong(name, value, "true or false")
        return value

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """One of some texts, the first if it is missing."""
        value = self.content.get(name, choices[0])
        if not isinstance(value, str) or value not in choices:
            raise _wrong(name, value, f"one of {list(choices)}")
        return value


def _vocabulary(value: Any, limits: Limits) -> str | tuple[str, ...]:
    if isinstance(value, list):
        texts = [_plain("vocabulary", text, limits.text) for text in value]
        if sum(map(len, texts)) > limits.text:
            raise _long("vocabulary", sum(map(len, texts)), limits.text)
        return tuple(texts)
    if not isinstance(value, str):
        raise _wrong("vocabulary", value, "a text such as 'dog; road, street', or a list of texts")
    return _plain("vocabulary", value, limits.text)


def _plain(name: str, value: Any, most: int) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "a text")
    if len(value) > most:
        raise _long(name, len(value), most)
    if found := NOT_PLAIN.search(value.translate(dict.fromkeys(map(ord, LINE_ENDS)))):
        got = f"got the character {found[0]!r}, expected no control characters"
        raise Refusal("bad_request", f"{name}: {got}")
    return value


def _image(value: Any, form: bool) -> bytes:
    if form and not isinstance(value, bytes):
        expected = "expected a file; with curl: -F image=@photo.jpg"
        raise Refusal("bad_request", f"image: got a text, {expected}")
    if not form:
        if not isinstance(value, str):
            raise _wrong("image", value, "a file in base64")
        try:
            value = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            expected = "expected the content of a file in base64, no path and no address"
            raise Refusal("bad_request", f"image: {expected} ({error})") from error
    if not value:
        raise Refusal("bad_request", "image: got an empty file, expected a JPEG, PNG or the like")
    return bytes(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    key, often = Counter(key for key, _ in pairs).most_common(1)[0] if pairs else ("", 0)
    if often > 1:
        raise ValueError(f"the key {key[:80]!r} is there twice")
    return dict(pairs)


def _kind(value: Any) -> str:
    named = {dict: "an object", list: "a list", str: "a text", bool: str(value).lower()}
    return named.get(type(value), "null" if value is None else "a number")


def _wrong(name: str, value: Any, expected: str) -> Refusal:
    got = repr(value[:80]) if isinstance(value, str) else _kind(value)
    got = "a file" if isinstance(value, bytes) else got
    return Refusal("bad_request", f"{name}: got {got}, expected {expected}")


def _long(name: str, count: int, most: int) -> Refusal:
    got = f"got {count} characters, expected at most {most}"
    return Refusal("too_large", f"{name}: {got}. Shorten it")
