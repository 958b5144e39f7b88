"""Which stream waits for which. What a GPU makes of it is in tests/test_cuda.py."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from cliper.streams import _side_stream, side_by_side


class Stream:
    def __init__(self, name, log):
        self.name, self.log = name, log

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def log(monkeypatch):
    """What the streams were told, without a GPU."""
    lines = []
    current = Stream("current", lines)

    @contextmanager
    def within(stream):
        lines.append(f"on {stream.name}")
        yield
        lines.append("on current")

    monkeypatch.setattr(
        torch.cuda, "Stream", lambda device: lines.append("a new stream") or Stream("side", lines)
    )
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(torch.cuda, "stream", within)
    _side_stream.cache_clear()
    yield lines
    _side_stream.cache_clear()


def test_both_begin_after_what_was_launched_and_end_before_what_follows(log):
    def run(device):
        return side_by_side(
            torch.device(device),
            lambda: log.append("first") or 1,
            lambda: log.append("second") or 2,
        )

    steps = [
        "side waits for current",
        "on side",
        "first",
        "on current",
        "second",
        "current waits for side",
    ]
    assert run("cuda:0") == (1, 2) and log == ["a new stream", *steps]
    log.clear()
    assert run("cuda:0") == (1, 2) and log == steps
    log.clear()
    assert run("cpu") == (1, 2) and log == ["first", "second"]
