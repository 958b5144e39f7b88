"""What Prometheus reads, and what an encoded image weighs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hyperclip.runtime.weighing import kept_bytes
from hyperclip.serving.metrics import Histogram, Metrics


def test_buckets_hold_all_smaller_values():
    histogram = Histogram((1, 2, 4))
    for value in (0.5, 1, 1.5, 4, 9):
        histogram.add(value)
    assert histogram.lines("x") == [
        'x_bucket{le="1"} 2',
        'x_bucket{le="2"} 3',
        'x_bucket{le="4"} 4',
        'x_bucket{le="+Inf"} 5',
        "x_sum 16",
        "x_count 5",
    ]


def test_the_text():
    metrics = Metrics()
    metrics.gauge("waiting", lambda: 3, "how many wait")
    metrics.count("errors_total", "busy")
    metrics.count("errors_total", "busy")
    metrics.looked_up("images", True)
    metrics.looked_up("images", False)
    metrics.observe("batch_size", 2)
    lines = metrics.text().splitlines()
    assert {
        "# TYPE hyperclip_errors_total counter",
        'hyperclip_errors_total{kind="busy"} 2',
        'hyperclip_cache_hits_total{cache="images"} 1',
        'hyperclip_cache_misses_total{cache="images"} 1',
        'hyperclip_batch_size_bucket{le="1"} 0',
        'hyperclip_batch_size_bucket{le="2"} 1',
        "# HELP hyperclip_waiting how many wait",
        "hyperclip_waiting 3",
    } <= set(lines)
    assert metrics.text().endswith("\n")


def test_weights():
    @dataclass
    class Encoded:
        one: Any
        other: Any = "text"

    tensor, array = torch.zeros(10, 3), np.zeros((4, 5), np.uint8)
    assert kept_bytes(Encoded(tensor)) == 120
    assert kept_bytes([tensor, {"again": (tensor[2:4], tensor.T)}, None]) == 120  # one memory
    assert kept_bytes(Encoded([tensor, tensor.clone()], {"a": array[1:]})) == 260
    assert kept_bytes("nothing") == 0
