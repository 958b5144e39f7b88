"""Time and peak memory of two ways to the same result, interleaved in one process."""

from __future__ import annotations

import ctypes
import gc
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hyperclip.runtime.files import write_atomically
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

Row = dict[str, Any]
ROUNDING = 1e-5
"""Scores that differ by this share at most are the same, and a pixel may have the label of either.
"""


@dataclass(frozen=True)
class Settings:
    """How a suite is measured.

    Attributes:
        device: where. repeat: runs of each way. smoke: on tiny models, to see that a suite runs;
            its figures mean nothing.
        only: measure cases that contain this text. precision: float32, or what autocast takes.
        profiles: folder for a table of the operations of each case, None for none.
    """

    device: torch.device
    repeat: int
    smoke: bool = False
    only: str = ""
    precision: torch.dtype = torch.float32
    profiles: Path | None = None

    @property
    def half(self) -> bool:
        """Whether numbers of 16 bits are used."""
        return self.precision != torch.float32

    def mixed(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """A call in this precision."""

        def in_precision() -> Any:
            with torch.autocast(self.device.type, self.precision, enabled=self.half):
                return run()

        return in_precision


class PeakMemory:
    """Peak memory of a block above what was held before it, in MB: of the GPU, or of the process,
    sampled each millisecond.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.megabytes = device, 0.0

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return self
        _return_unused_memory()
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


def _return_unused_memory() -> None:
    """Give back what the C library kept of freed memory, so that the next block's memory is seen in
    full.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim:
        trim(0)


def _resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def seconds_of(run: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """Result and time of a call."""
    start = time.perf_counter()
    result = run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


def megabytes_of(run: Callable[[], Any], device: torch.device) -> float:
    """Peak memory of a call."""
    with PeakMemory(device) as memory:
        run()
    return memory.megabytes


def operations(run: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products, convolutions and attentions of a call."""
    cpu_attention: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def attention(q: tuple, k: tuple, v: tuple, *_: object, **__: object) -> int:
        return sdpa_flop_count(q, k, v)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the counter sees its own thread alone
    with FlopCounterMode(display=False, custom_mapping={cpu_attention: attention}) as counter:
        run()
    torch.set_num_threads(threads)
    return counter.get_total_flops()


def product_rate(settings: Settings) -> float:
    """Operations per second of a product of two large square matrices, the best of six."""
    side = 8192 if settings.device.type == "cuda" else 3072
    if settings.smoke:  # half precision is slow on a CPU that does not have it
        side = 64
    a, b = (torch.randn(side, side, device=settings.device) for _ in range(2))
    a, b = a.to(settings.precision), b.to(settings.precision)
    seconds = min(seconds_of(lambda: a @ b, settings.device)[1] for _ in range(6))
    return 2 * side**3 / seconds


class Stopwatch:
    """Adds up the seconds spent in functions."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            result, seconds = seconds_of(lambda: function(*args, **kwargs), self.device)
            self.seconds += seconds
            return result

        return timed


def compare(
    suite: str,
    case: str,
    obvious: Callable[[], Any],
    ours: Callable[[], Any],
    settings: Settings,
    floor: Callable[[], object] | None = None,
    passes: Stopwatch | None = None,
    count: bool = False,
    alike: bool = True,
) -> list[Row]:
    """A row, unless the case is not wanted: peak memory of a first call of each, then both in turn,
    medians, ratios.

    Args:
        obvious: gives a tensor. ours: gives the same one, or the labels and confidence of what
            "obvious" gives scores of.
        floor: what no implementation can do without; "floor_ratio" is our time over its.
        passes: time that belongs to the floor, too, taken inside ours.
        count: the floor is the time of our operations at the rate of a matrix product, measured in
            turn with the rest.
        alike: both give the same up to rounding, so the row says how their results differ.
    """
    if settings.only not in case:
        return []
    obvious, ours = settings.mixed(obvious), settings.mixed(ours)
    floor = settings.mixed(floor) if floor else None
    needed = operations(ours) if count else 0
    megabytes = {
        "fast": megabytes_of(ours, settings.device),
        "slow": megabytes_of(obvious, settings.device),
    }
    taken: dict[str, list[float]] = {"fast": [], "slow": [], "floor": []}
    for _ in range(settings.repeat):
        before = passes.seconds if passes else 0.0
        fast, seconds = seconds_of(ours, settings.device)
        taken["fast"].append(seconds)
        least = passes.seconds - before if passes else 0.0
        slow, seconds = seconds_of(obvious, settings.device)
        taken["slow"].append(seconds)
        least += seconds_of(floor, settings.device)[1] if floor else 0.0
        least += needed / product_rate(settings) if count else 0.0
        if least:
            taken["floor"].append(least)
    medians = {way: statistics.median(times) for way, times in taken.items() if times}
    floors = [fast / least for fast, least in zip(taken["fast"], taken["floor"], strict=False)]
    row: Row = {
        "suite": suite,
        "case": case,
        "time_ratio": round(medians["slow"] / medians["fast"], 2),
        "memory_ratio": round(megabytes["slow"] / max(megabytes["fast"], 0.1), 2),
        "floor_ratio": round(statistics.median(floors), 3) if floors else None,
        "seconds": round(medians["fast"], 4),
        "obvious_seconds": round(medians["slow"], 4),
        "megabytes": round(megabytes["fast"], 1),
        "obvious_megabytes": round(megabytes["slow"], 1),
    }
    if settings.profiles is not None:
        write_profile(ours, settings.profiles / f"{suite}, {case}.txt")
    if not alike:
        return [row | {"largest_difference": None, "labels_equal": None}]
    return [row | found_difference(fast, slow)]


def write_profile(run: Callable[[], Any], path: Path) -> None:
    """Write which operations a call spends its time on, on the CPU and on a GPU if it has one."""
    with torch.profiler.profile() as profile:
        run()
    on_gpu = torch.cuda.is_available()
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = profile.key_averages().table(sort_by=order, row_limit=40)
    write_atomically(path, lambda file: file.write_text(table, encoding="utf-8"))


def found_difference(ours: Any, obvious: Any) -> Row:
    """How results differ: two tensors, two answers, or an answer and scores of all classes."""
    if isinstance(ours, Tensor):
        return difference(ours, obvious)
    if isinstance(obvious, Tensor):
        return difference_of_labels(ours, obvious)
    equal = (ours["sem_seg_labels"] == obvious["sem_seg_labels"]).float().mean().item()
    confidences = (answer["sem_seg_confidence"] for answer in (ours, obvious))
    return difference(*confidences) | {"labels_equal": equal}


def difference(ours: Tensor, obvious: Tensor) -> Row:
    """The largest difference of two tensors, relative to the largest entry."""
    return {
        "largest_difference": ((ours - obvious).abs().max() / obvious.abs().max()).item(),
        "labels_equal": None,
    }


def difference_of_labels(ours: dict[str, Tensor], scores: Tensor) -> Row:
    """The same of a confidence (H, W) and the best of all scores (T, H, W), and the share of pixels
    with the same label.

    Where the scores of two labels are the same up to ``ROUNDING``, either will do.
    """
    best = scores.amax(0)
    chosen = scores.gather(0, ours["sem_seg_labels"][None])[0]
    equal = (chosen >= best * (1 - ROUNDING)).float().mean().item()
    return difference(ours["sem_seg_confidence"], best) | {"labels_equal": equal}
