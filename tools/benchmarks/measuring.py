"""Time and peak memory of two ways to the same result, interleaved in one process."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How a suite is measured.

    Attributes:
        device: where. repeat: runs of each way. smoke: on tiny models, to see that a suite runs; its figures mean nothing.
    """

    device: torch.device
    repeat: int
    smoke: bool = False


class PeakMemory:
    """Peak memory of a block above what was held before it, in MB: of the GPU, or of the process, sampled each millisecond."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.megabytes = device, 0.0

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return self
        self.before = self.peak = _resident()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            self.megabytes = (torch.cuda.max_memory_allocated() - self.before) / 1e6
            return
        self.done.set()
        self.thread.join()
        self.megabytes = (max(self.peak, _resident()) - self.before) / 1e6

    def _watch(self) -> None:
        while not self.done.wait(0.001):
            self.peak = max(self.peak, _resident())


def _resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(run: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, float, float]:
    """Result, time in seconds and peak memory in MB of a call."""
    with PeakMemory(device) as memory:
        start = time.perf_counter()
        result = run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    return result, seconds, memory.megabytes


def compare(
    suite: str, case: str, obvious: Callable[[], Tensor], ours: Callable[[], Tensor], settings: Settings,
    floor: Callable[[], Tensor] | None = None,
) -> Row:  # fmt: skip
    """One row: both ways in turn after a call of ours that does not count, medians, ratios, and how their results differ.

    Args:
        floor: what no implementation can do without; "floor_ratio" is our time over its.
    """
    fast = ours()
    taken: dict[str, list[tuple[float, float]]] = {"fast": [], "slow": [], "floor": []}
    for _ in range(settings.repeat):
        fast, *cost = measure(ours, settings.device)
        taken["fast"].append(tuple(cost))
        slow, *cost = measure(obvious, settings.device)
        taken["slow"].append(tuple(cost))
        if floor is not None:
            taken["floor"].append(tuple(measure(floor, settings.device)[1:]))
    seconds, megabytes = ({k: statistics.median(x[i] for x in v) for k, v in taken.items() if v} for i in (0, 1))
    row: Row = {
        "suite": suite,
        "case": case,
        "time_ratio": round(seconds["slow"] / seconds["fast"], 2),
        "memory_ratio": round(megabytes["slow"] / max(megabytes["fast"], 0.1), 2),
        "floor_ratio": round(seconds["fast"] / seconds["floor"], 2) if floor is not None else None,
        "seconds": round(seconds["fast"], 4),
        "obvious_seconds": round(seconds["slow"], 4),
        "megabytes": round(megabytes["fast"], 1),
        "obvious_megabytes": round(megabytes["slow"], 1),
    }
    if not fast.is_floating_point():
        return row | {"largest_difference": None, "labels_equal": (fast == slow).float().mean().item()}
    row["largest_difference"] = ((fast - slow).abs().max() / slow.abs().max()).item()
    return row | {"labels_equal": (fast.argmax(1) == slow.argmax(1)).float().mean().item() if fast.dim() > 1 else None}
